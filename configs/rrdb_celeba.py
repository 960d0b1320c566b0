"""SRDiff's encoder for faces: an RRDB network, trained first and without diffusion.

    python -m yoda_jax.main --config=configs/rrdb_celeba.py

8x, L1 on the picture, 8 blocks of 32 (1,488,003 parameters); Adam 2e-4, batch 64, 100,000 steps,
as the public SRDiff. TFDS prepares the pictures before (data_sets.py). Meant for one accelerator.
What it reaches was not measured.
"""

from ml_collections import ConfigDict

from configs import data_sets, default


def get_config() -> ConfigDict:
    """The encoder that srdiff_celeba.py conditions on."""
    c = default.get_config()
    data_sets.celeba(c)
    c.data.flip = False  # as there
    c.workdir = "runs/rrdb_celeba"
    c.mask.enabled = False
    c.model.name = "rrdb"
    c.model.features = 32
    c.model.blocks = 8
    c.train.steps = 100_000
    c.train.batch_size = 64
    c.train.learning_rate = 2e-4
    c.train.warmup_steps = 0
    return c
