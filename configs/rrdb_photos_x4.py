r"""An RRDB network of 8 blocks, 4x, for real photographs: the encoder of photos_x4.py.

    python -m yoda_jax.main --config=configs/rrdb_photos_x4.py --config.data.train=folder:PATH

It begins with the bicubic picture (model.skip). launch/photos_x4.sh fetches the photographs that it
was trained on: 40 of 50 of 1500x1000, reduced by two so that no JPEG blocks are left. 12,000 steps
took 165 s on one NVIDIA H200 and reached 1.49 dB of PSNR-Y above bicubic on 64 squares of 128x128
of the 10 others, and .162 of LPIPS where bicubic has .250; after 6,000 it was 1.53 dB. A quarter of
the batch (--config.train.batch_size=8) takes 55 minutes on two cores of an AMD EPYC: 1.44 dB, .170.
"""

from ml_collections import ConfigDict

from configs import default


def squares_of_photographs(c: ConfigDict) -> None:
    """Random squares of 64x64 of photographs, and how long and fast networks learn from them."""
    c.data.holdout = 10
    c.data.crop = "tiles"
    c.data.resampling = "matlab"
    c.data.scale = 4
    c.data.hr_size = 128
    c.data.stride = 96
    c.data.patch = 64
    c.attention.source = "edges"
    c.train.steps = 12_000
    c.train.batch_size = 32
    c.train.learning_rate = 4e-4
    c.train.warmup_steps = 200
    c.train.decay = "cosine"
    c.train.ema_decay = 0.999
    c.train.log_every = 100
    c.train.checkpoint_every = 1000
    c.train.eval_every = 4000
    c.eval.pictures = c.eval.batch_size = 64


def get_config() -> ConfigDict:
    """RRDB around the bicubic picture, with a learning rate that falls to 0."""
    c = default.get_config()
    squares_of_photographs(c)
    c.workdir = "runs/rrdb_photos_x4"
    c.mask.enabled = False
    c.model.name = "rrdb"
    c.model.features = 32
    c.model.blocks = 8
    c.model.skip = True
    return c
