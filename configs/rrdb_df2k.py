r"""SRDiff's encoder for photographs: an RRDB network, trained first and without diffusion.

    python -m yoda_jax.main --config=configs/rrdb_df2k.py \
        --config.data.train=folder:DIV2K/DIV2K_train_HR,Flickr2K/Flickr2K_HR \
        --config.data.eval=folder:DIV2K/DIV2K_valid_HR

4x, L1 on the picture, 17 blocks of 64 (12,381,443 parameters); Adam 2e-4, batch 64, 100,000 steps,
as the public SRDiff. Meant for one accelerator. What it reaches was not measured.
"""

from ml_collections import ConfigDict

from configs import data_sets, default


def get_config() -> ConfigDict:
    """The encoder that srdiff_df2k.py conditions on."""
    c = default.get_config()
    data_sets.df2k(c)
    c.data.flip = False  # as there
    # Random squares of 160 in tiles of 320, as the public SRDiff takes them.
    c.data.hr_size = c.data.stride = 320
    c.data.patch = 160
    c.workdir = "runs/rrdb_df2k"
    c.mask.enabled = False
    c.model.name = "rrdb"
    c.model.features = 64
    c.model.blocks = 17
    c.train.steps = 100_000
    c.train.batch_size = 64
    c.train.learning_rate = 2e-4
    c.train.warmup_steps = 0
    return c
