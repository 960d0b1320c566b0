"""SR3 with the area mask on faces: trained on CelebA-HQ, evaluated on held-out pictures of it.

    python -m yoda_jax.main --config=configs/sr3_celeba_hq.py

The pictures are TFDS's celeb_a_hq/256 (data_sets.py), or those of a folder with
--config.data.train=folder:PATH. Variants after a colon are those of sr3_ffhq.py: 16_64, 16_128
(default) and so on; 64_512 takes its pictures from celeb_a_hq/512. The baseline is the same with
--config.mask.enabled=False and a --workdir of its own. Meant for accelerators, as sr3_ffhq.py. What
it reaches was not measured; the figures published for these networks are of training on FFHQ.
"""

from ml_collections import ConfigDict

from configs import data_sets, default, sr3_ffhq


def get_config(variant: str = "16_128") -> ConfigDict:
    """The configuration of a variant, named LR size _ HR size."""
    c = default.get_config()
    data_sets.celeba_hq(c)
    sr3_ffhq.faces(c, variant)
    if c.data.hr_size > 256:
        c.data.train = f"tfds:celeb_a_hq/{c.data.hr_size}"
    c.workdir = f"runs/sr3_celeba_hq_{variant}"
    return c
