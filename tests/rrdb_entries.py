"""An RRDB network's entries under the names of three public codes; the numbers are drawn."""

import re

import numpy as np


def rrdb(features=4, growth=None, blocks=1, doublings=2, channels=3, seed=0):
    """Those of xinntao/ESRGAN and LeiaLi/SRDiff."""
    random, growth = np.random.default_rng(seed), growth or features // 2
    entries = {}

    def conv(name, out, into):
        entries[f"{name}.weight"] = random.normal(0, 0.1, (out, into, 3, 3)).astype("f")
        entries[f"{name}.bias"] = random.normal(0, 0.1, out).astype("f")

    conv("conv_first", features, channels)
    for block in range(blocks):
        for dense in (1, 2, 3):
            for k in range(1, 6):
                out = growth if k < 5 else features
                name = f"RRDB_trunk.{block}.RDB{dense}.conv{k}"
                conv(name, out, features + (k - 1) * growth)
    for name in ("trunk_conv", *(f"upconv{i + 1}" for i in range(doublings)), "HRconv"):
        conv(name, features, features)
    conv("conv_last", 3, features)
    return entries


def basicsr(entries):
    """As XPixelGroup/BasicSR and Real-ESRGAN name them."""
    renames = {
        r"RRDB_trunk\.(\d+)\.RDB": r"body.\1.rdb",
        "trunk_conv": "conv_body",
        "upconv": "conv_up",
        "HRconv": "conv_hr",
    }
    return _renamed(entries, renames)


def numbered(entries):
    """As ESRGAN's first release does: layers of a Sequential, some of which have no weights."""
    doublings = sum(bool(re.fullmatch(r"upconv\d\.bias", name)) for name in entries)
    blocks = len({name.split(".")[1] for name in entries if name.startswith("RRDB_trunk.")})
    renames = {
        "conv_first": "model.0",
        r"RRDB_trunk\.(\d+\.RDB\d\.conv\d)": r"model.1.sub.\1.0",
        "trunk_conv": f"model.1.sub.{blocks}",
        **{f"upconv{i + 1}": f"model.{3 * (i + 1)}" for i in range(doublings)},
        "HRconv": f"model.{3 * doublings + 2}",
        "conv_last": f"model.{3 * doublings + 4}",
    }
    return _renamed(entries, renames)


def _renamed(entries, renames):
    renamed = {}
    for name, value in entries.items():
        for ours, theirs in renames.items():
            name = re.sub(f"^{ours}", theirs, name)
        renamed[name] = value
    return renamed
