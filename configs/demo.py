"""The demonstration: both methods on seven photographs, in minutes, on two CPU cores.

    bash launch/demo.sh

Trains the base method and YODA for the same steps on tiles of five photographs, 4x, and compares
them on tiles of two others: 723 CPU seconds and 2.3 GiB after the installation. The networks are
tiny and the budget is short: it shows that everything works and what the mask does, not what
the method reaches. Expect plain SR3's colours to run away (10.6 dB) and the mask to bring them back
(24.4 dB, trained with it 25.7; bicubic 26.6); the table is in README.md.
"""

from ml_collections import ConfigDict

from configs import default


def get_config() -> ConfigDict:
    """A network of under a million parameters and a chain of 100 steps."""
    c = default.get_config()
    c.mode = "compare"
    c.workdir = "runs/demo"
    c.data.train = "samples:photos/train"
    c.data.eval = "samples:photos/test"
    c.data.crop = "tiles"
    c.data.hr_size = 64
    c.data.stride = 32
    c.data.patch = 32
    c.data.scale = 4
    c.data.threads = 1
    c.attention.input_size = 224
    c.diffusion.sampling_steps = 100
    c.model.features = 32
    c.model.multipliers = (1, 2, 2)
    c.model.blocks = 1
    c.model.attention_resolutions = ()
    c.model.groups = 16
    c.train.steps = 800
    c.train.batch_size = 8
    c.train.learning_rate = 5e-4
    c.train.warmup_steps = 50
    c.train.ema_decay = 0.995
    c.train.log_every = 50
    c.train.checkpoint_every = 400
    c.train.eval_every = 0
    c.eval.beside = "photos_x4"
    c.eval.pictures = 16
    c.eval.batch_size = 16
    return c
