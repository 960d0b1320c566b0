r"""SRDiff with the area mask on faces, 20 -> 160: the residual is diffused.

    python -m yoda_jax.main --config=configs/srdiff_celeba.py \
        --config.model.encoder=runs/rrdb_celeba

A UNet of 10,545,795 parameters on the features of the encoder that rrdb_celeba.py trains; cosine
schedule, T=100, Adam 2e-4, batch 32, 300,000 steps, as the public SRDiff. The baseline is the
same with --config.mask.enabled=False and a --workdir of its own. Meant for one accelerator. What
the mask reaches at this size was not measured. The base method's public implementation reports, by
its own protocol: PSNR 25.454, SSIM .746, LPIPS .106, LR-PSNR 53.094. It neither flips pictures
nor keeps an average of its weights; this does both.
"""

from ml_collections import ConfigDict

from configs import data_sets, default


def get_config() -> ConfigDict:
    """SRDiff 20 -> 160."""
    c = default.get_config()
    data_sets.celeba(c)
    c.data.flip = False  # as there
    c.workdir = "runs/srdiff_celeba"
    c.model.name = "srdiff"
    c.model.features = 64
    c.model.multipliers = (1, 2, 2, 4)
    c.diffusion.formulation = "srdiff"
    c.diffusion.schedule = "cosine"
    c.diffusion.steps = c.diffusion.sampling_steps = 100
    c.train.steps = 300_000
    c.train.batch_size = 32
    c.train.learning_rate = 2e-4
    c.train.halve_every = 100_000
    c.train.warmup_steps = 0
    return c
