"""Colour shift at small batch: which half of YODA does it, the masked loss or the masked sampler?

    python -m yoda_jax.main --config=configs/batch_study.py --config.data.train=folder:PATH

The same 8,000 draws of squares in batches of 2, 4 or 16, trained plainly or with the mask (its loss
divided by all pixels, or by the mask's area; t drawn uniformly, or in proportion to the mask's
area), sampled plainly or with the mask, evaluated on the way. The networks are tiny: about two
hours and a half on two CPU cores in all. Expect the sampler to take the colour shift from about .5
to .01 at every batch size, and the loss not to; table and figure are in configs/README.md.
"""

from ml_collections import ConfigDict

from configs import attention_study

STEPS = {2: (500, 2000, 4000), 4: (500, 1000, 2000), 16: (125, 250, 500)}  # of a batch size
PLAIN = {"mask.enabled": False}
# Curve -> the fields of its training and those of its sampling.
CURVES = {
    "plain loss": (PLAIN, {}),
    "plain loss + masked sampler": (PLAIN, {"mask.enabled": True}),
    "masked loss": ({}, PLAIN),
    "masked loss + masked sampler": ({}, {}),
    "masked loss by area + masked sampler": ({"mask.loss_norm": "area"}, {}),
    "masked loss with t by area + masked sampler": ({"mask.times": "area"}, {}),
}


def get_config() -> ConfigDict:
    """The demonstration's network, with the default mask; three trainings of everything."""
    c = attention_study.get_config("trained")
    c.workdir = "runs/batch_study"
    c.train.batch_size = min(STEPS)  # over as many cores as all batches can be shared out to
    c.train.checkpoint_every = 1000
    c.eval.pictures = 20
    c.eval.batch_size = 20
    c.study.arms = tuple(
        (
            f"{curve}, batch {size}, {steps} steps",
            {**train, "train.batch_size": size, "train.steps": steps},
            sample,
        )
        for size in STEPS
        for curve, (train, sample) in CURVES.items()
        for steps in STEPS[size]
    )
    c.study.curves = True
    c.study.diffused = 0.0
    c.study.reference = ""
    return c
