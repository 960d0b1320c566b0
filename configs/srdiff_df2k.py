r"""SRDiff with the area mask on photographs, 40 -> 160: the residual is diffused.

    python -m yoda_jax.main --config=configs/srdiff_df2k.py \
        --config.model.encoder=runs/rrdb_df2k \
        --config.data.train=folder:DIV2K/DIV2K_train_HR,Flickr2K/Flickr2K_HR \
        --config.data.eval=folder:DIV2K/DIV2K_valid_HR

A UNet of 12,934,915 parameters on the features of the encoder that rrdb_df2k.py trains; cosine
schedule, T=100, Adam 2e-4, batch 64, 400,000 steps, as the public SRDiff. The baseline is the
same with --config.mask.enabled=False and a --workdir of its own. Meant for one accelerator. What
the mask reaches at this size was not measured. The base method's public implementation reports, by
its own protocol: PSNR 27.160, SSIM .786, LPIPS .129, LR-PSNR 53.675. It neither flips pictures
nor keeps an average of its weights; this does both.
"""

from ml_collections import ConfigDict

from configs import data_sets, default


def get_config() -> ConfigDict:
    """SRDiff 40 -> 160."""
    c = default.get_config()
    data_sets.df2k(c)
    c.data.flip = False  # as there
    # Random squares of 160 in tiles of 320, as the public SRDiff takes them.
    c.data.hr_size = c.data.stride = 320
    c.data.patch = 160
    c.workdir = "runs/srdiff_df2k"
    c.model.name = "srdiff"
    c.model.features = 64
    c.model.multipliers = (1, 2, 3, 4)
    c.diffusion.formulation = "srdiff"
    c.diffusion.schedule = "cosine"
    c.diffusion.steps = c.diffusion.sampling_steps = 100
    c.train.steps = 400_000
    c.train.batch_size = 64
    c.train.learning_rate = 2e-4
    c.train.halve_every = 200_000
    c.train.warmup_steps = 0
    return c
