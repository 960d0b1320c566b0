r"""The model of photographs that comes with the package: SRDiff with the mask, 4x.

    python -m yoda_jax.main --config=configs/rrdb_photos_x4.py --config.data.train=folder:PATH
    python -m yoda_jax.main --config=configs/photos_x4.py --config.data.train=folder:PATH \
        --config.model.encoder=runs/rrdb_photos_x4
"""

from ml_collections import ConfigDict

from configs import default, rrdb_photos_x4


def get_config() -> ConfigDict:
    """SRDiff at half its width on the residual to its encoder's picture."""
    c = default.get_config()
    rrdb_photos_x4.squares_of_photographs(c)
    c.workdir = "runs/photos_x4"
    c.model.name = "srdiff"
    c.model.features = 32
    c.model.multipliers = (1, 2, 2, 4)
    c.diffusion.formulation = "srdiff"
    c.diffusion.base = "encoder"
    c.diffusion.schedule = "cosine"
    c.diffusion.steps = 100
    c.diffusion.sampling_steps = 20
    c.attention.fraction = 0.25
    c.mask.lower_bound = 0.2
    c.train.steps = 12_000
    return c
