"""Which attention map? The same budget of diffusion spent where different maps say.

    python -m yoda_jax.main --config=configs/attention_study.py:STAGE \
        --config.data.train=folder:PATH

Expect no map to differ from DINOv2's in LPIPS by more than its interval; the tables are in
configs/README.md.

The stage `sampler` samples the weights of one plain training with the mask of every map: with the
lower bounds tuned to one diffused fraction, and with .05 for all. The stage `trained` trains with
the masks of some maps, tuned likewise. In both, constant maps are the control: the whole picture
starts late, either for as many steps as the photograph's DINOv2 map has on average, or for the same
number in all photographs. The networks are tiny: two to three hours on two CPU cores in all.
"""

from ml_collections import ConfigDict

from configs import default

# Trained with their masks: the default, the best of LPIPS in the stage `sampler`, and a control.
TRAINED = ("DINOv2 max", "DINOv2 head 3", "DINOv2 head 4", "SIFT", "entropy", "random")
# Every pixel equally long: for the mean over the photograph of "DINOv2 max", or alike in all.
CONSTANT = {
    "constant by photograph": {"attention.aggregate": "flat"},
    "constant": {"attention.source": "constant"},
}
# Label -> the fields of a source of attention.
MAPS = {
    "DINOv2 max": {},
    "DINOv2 max of normalised": {"attention.normalise_heads": True},
    "DINOv2 mean": {"attention.aggregate": "mean"},
    "DINOv2 mean of normalised": {"attention.aggregate": "mean", "attention.normalise_heads": True},
    **{f"DINOv2 head {i}": {"attention.aggregate": str(i)} for i in range(6)},
    "edges": {"attention.source": "edges"},
    "SIFT": {"attention.source": "sift"},
    "entropy": {"attention.source": "entropy"},
    "random": {"attention.source": "random"},
    **CONSTANT,
}
BASE = {"mask.enabled": False}
DIFFUSED = 1 / 3  # to which lower bounds are tuned


def get_config(stage: str = "sampler") -> ConfigDict:
    """One stage of the study: sampler or trained."""
    if stage not in ("sampler", "trained"):
        raise ValueError(f"attention_study.py has the stages sampler, trained, found {stage!r}.")
    c = default.get_config()
    c.mode = "study"
    c.workdir = f"runs/attention_study/{stage}"
    c.data.holdout = 20
    c.data.crop = "tiles"
    c.data.hr_size = 32
    c.data.stride = 32
    c.data.scale = 4
    c.mask.times = "uniform"  # as the tables of configs/README.md were made
    c.diffusion.sampling_steps = 100
    c.model.features = 32
    c.model.multipliers = (1, 2, 2)
    c.model.blocks = 1
    c.model.attention_resolutions = ()
    c.model.groups = 16
    c.train.batch_size = 8
    c.train.learning_rate = 5e-4
    c.train.warmup_steps = 50
    c.train.checkpoint_every = 500
    c.train.eval_every = 0
    c.eval.pictures = 80
    c.eval.batch_size = 80
    c.study.reference = "DINOv2 max"
    c.study.diffused = DIFFUSED
    if stage == "sampler":
        c.train.steps = 4000
        c.train.ema_decay = 0.999
        c.study.arms = sampled_arms()
        c.study.sample_seeds = 3
    else:
        c.train.steps = 1000
        c.train.ema_decay = 0.995
        c.study.arms = trained_arms()
        c.study.train_seeds = 3
    return c


def sampled_arms() -> tuple[tuple[str, dict, dict], ...]:
    """Plainly trained weights, sampled plainly and with every map at either lower bound."""
    arms = [("uniform (no mask)", BASE, {})]
    for label, fields in MAPS.items():
        arms.append((label, BASE, {"mask.enabled": True, **fields}))
    for label, fields in MAPS.items():
        as_is = {"mask.enabled": True, "study.diffused": 0.0, **fields}
        arms.append((f"{label}, l = .05", BASE, as_is))
    return tuple(arms)


def trained_arms() -> tuple[tuple[str, dict, dict], ...]:
    """Trained and sampled with a map or without; and trained with DINOv2, sampled by constants."""
    arms = [("uniform (no mask)", BASE, {})]
    arms += [(label, MAPS[label], {}) for label in (*TRAINED, *CONSTANT)]
    arms += [(f"DINOv2 max, sampled {label}", {}, fields) for label, fields in CONSTANT.items()]
    return tuple(arms)
