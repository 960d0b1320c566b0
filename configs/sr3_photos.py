r"""SR3 with the area mask on photographs: 40 -> 160, trained and evaluated on tiles.

    python -m yoda_jax.main --config=configs/sr3_photos.py:df2k \
        --config.data.train=folder:DIV2K/DIV2K_train_HR,Flickr2K/Flickr2K_HR \
        --config.data.eval=folder:DIV2K/DIV2K_valid_HR

Variants after a colon are df2k (default) and div2k, whose pictures TFDS keeps (data_sets.py says
how each lies on disk). The network is that of sr3_ffhq.py:64_256 (38,904,515 parameters). The
baseline is the same with --config.mask.enabled=False and a --workdir of its own. Meant for
accelerators: a step at batch 64 is 16 TFLOP. What it reaches was not measured.
"""

from ml_collections import ConfigDict

from configs import data_sets, default, sr3_ffhq

VARIANTS = ("df2k", "div2k")


def get_config(variant: str = "df2k") -> ConfigDict:
    """The configuration of a variant, named by its data set."""
    if variant not in VARIANTS:
        raise ValueError(
            f"sr3_photos.py has the variants {', '.join(VARIANTS)}, found {variant!r}."
        )
    c = default.get_config()
    data_sets.DATA_SETS[variant](c)
    c.workdir = f"runs/sr3_photos_{variant}"
    c.model.update(sr3_ffhq.VARIANTS["64_256"])
    c.train.batch_size = 64
    c.eval.batch_size = 8
    return c
