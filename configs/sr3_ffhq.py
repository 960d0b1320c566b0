"""SR3 with the area mask on faces: trained on FFHQ, evaluated on held-out pictures of the folder.

    python -m yoda_jax.main --config=configs/sr3_ffhq.py --config.data.train=folder:PATH

Variants after a colon: 16_128 (default) and 64_512 are the published networks (97,807,491 and
155,334,339 parameters), 16_64 and 64_256 the same widths at half the size, 16_128_large the size of
the paper's (514,987,139 parameters). The baseline is the same with --config.mask.enabled=False and
a --workdir of its own. Meant for accelerators: 16_128 at batch 256 is 63 TFLOP a step; --mode=show
tells what a device needs. What the mask reaches at this size was not measured. The base method's
public implementation reports for 16_128, trained on FFHQ and tested on CelebA-HQ: PSNR 23.26, SSIM
.675.
"""

from ml_collections import ConfigDict

from configs import data_sets, default

VARIANTS = {
    "16_64": dict(multipliers=(1, 2, 4, 8), blocks=2, attention_resolutions=(16,), groups=32),
    "16_128": dict(multipliers=(1, 2, 4, 8, 8), blocks=2, attention_resolutions=(16,), groups=32),
    # Width, depth and blocks of SR3's paper, which counts 550M parameters in blocks of BigGAN.
    "16_128_large": dict(
        features=128, multipliers=(1, 2, 4, 8, 8), blocks=3, attention_resolutions=(16,), groups=32
    ),
    "64_256": dict(multipliers=(1, 2, 4, 8), blocks=1, attention_resolutions=(), groups=16),
    "64_512": dict(multipliers=(1, 2, 4, 8, 16), blocks=1, attention_resolutions=(), groups=16),
}


def get_config(variant: str = "16_128") -> ConfigDict:
    """The configuration of a variant, named LR size _ HR size (_ network)."""
    c = default.get_config()
    data_sets.ffhq(c)
    faces(c, variant)
    c.workdir = f"runs/sr3_ffhq_{variant}"
    return c


def faces(c: ConfigDict, variant: str) -> None:
    """Sizes, network and training of a variant, on whichever faces the configuration has."""
    if variant not in VARIANTS:
        raise ValueError(f"SR3 of faces has the variants {', '.join(VARIANTS)}, found {variant!r}.")
    lr_size, hr_size = (int(size) for size in variant.split("_")[:2])
    c.data.hr_size = c.data.stride = hr_size
    c.data.scale = hr_size // lr_size
    c.model.update(VARIANTS[variant])
    if lr_size == 16:
        c.model.dropout = 0.2
    else:
        c.train.batch_size = 64
        c.eval.batch_size = 8
        c.train.learning_rate = 3e-6
