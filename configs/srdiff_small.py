r"""SRDiff with and without the area mask on a folder of photographs, 16 -> 64.

    python -m yoda_jax.main --config=configs/rrdb_small.py --config.data.train=folder:PATH
    python -m yoda_jax.main --config=configs/srdiff_small.py --config.data.train=folder:PATH \
        --config.model.encoder=runs/rrdb_small

SRDiff's structure at half its width, cosine schedule, T=100, on the features of the encoder that
rrdb_small.py trains. One to two hours on two CPU cores for both: what the method does at such a
budget, not what it reaches. Expect the mask to add half a decibel to SRDiff's own weights and to
cost .03 of LPIPS, with a seventh of the pixel-steps; the table is in configs/README.md.
"""

from ml_collections import ConfigDict

from configs import default, rrdb_small


def get_config() -> ConfigDict:
    """Both halves of the comparison, with squares and budget of rrdb_small.py."""
    c = default.get_config()
    rrdb_small.small_squares(c)
    c.mode = "compare"
    c.workdir = "runs/srdiff_small"
    c.model.name = "srdiff"
    c.model.features = 32
    c.model.multipliers = (1, 2, 2, 4)
    c.diffusion.formulation = "srdiff"
    c.diffusion.schedule = "cosine"
    c.diffusion.steps = c.diffusion.sampling_steps = 100
    c.train.steps = 4000
    return c
