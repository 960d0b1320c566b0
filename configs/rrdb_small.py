"""The encoder of srdiff_small.py: an RRDB network, trained first and without diffusion.

    python -m yoda_jax.main --config=configs/rrdb_small.py --config.data.train=folder:PATH

4x, L1 on the picture, 8 blocks of 32, squares of 64. Seven minutes on two CPU cores. On ten
held-out photographs it reached 32.6 dB, SSIM .845 and LPIPS .213 (bicubic: 34.5, .846 and .237).
"""

from ml_collections import ConfigDict

from configs import default


def get_config() -> ConfigDict:
    """RRDB 16 -> 64 on a folder of photographs, ten of them held out."""
    c = default.get_config()
    small_squares(c)
    c.workdir = "runs/rrdb_small"
    c.mask.enabled = False
    c.model.name = "rrdb"
    c.model.features = 32
    c.model.blocks = 8
    c.train.steps = 1500
    return c


def small_squares(c: ConfigDict) -> None:
    """Squares of 64 of few photographs, and a budget that two CPU cores have."""
    c.data.holdout = 10
    c.data.crop = "tiles"
    c.data.resampling = "matlab"
    c.data.scale = 4
    c.data.hr_size = c.data.stride = 64
    c.train.batch_size = 8
    c.train.learning_rate = 5e-4
    c.train.warmup_steps = 50
    c.train.ema_decay = 0.999
    c.train.log_every = 50
    c.train.checkpoint_every = 500
    c.train.eval_every = 0
    c.eval.pictures = c.eval.batch_size = 64
