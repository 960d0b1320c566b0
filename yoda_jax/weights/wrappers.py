"""Where in a file a network's entries lie, whatever its trainer wrapped it in.

Trainers nest a network in dictionaries ("state_dict", "params_ema") and put prefixes before its
names ("module.", "netG."), in any combination. No list of them is kept: a network lies where its
mark lies, an entry that it alone has, and all that is named alike up to there is its own.
"""

import re
from collections.abc import Mapping

import numpy as np

from yoda_jax.errors import UserError

# Before names and within them: DataParallel's, torch.compile's, FSDP's, checkpointing's.
_WITHIN = r"(?:(?:module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.)*"
_AVERAGED = re.compile(r"(?<![a-z])(ema|swa|averaged?|teacher)(?![a-z])", re.IGNORECASE)

Entries = Mapping[str, np.ndarray]


def prefix_of(entries: Entries, mark: str) -> str | None:
    """What stands before the mark's name, and before all of its network's; None without the mark.

    Of several networks the averaged one is taken ("ema", "teacher"). Raises UserError where that
    leaves several that differ.
    """
    name = rf"\.{_WITHIN}".join(map(re.escape, mark.split(".")))
    pattern = re.compile(rf"((?:.*\.)?){name}")
    prefixes = [match[1] for name in entries if (match := pattern.fullmatch(name))]
    averages = [len(_AVERAGED.findall(prefix)) for prefix in prefixes]
    best = [p for p, count in zip(prefixes, averages, strict=True) if count == max(averages)]
    if any(not _equal(below(entries, best[0]), below(entries, other)) for other in best[1:]):
        raise UserError(
            f"The file must hold one network with {mark}, found several that differ, under "
            f"{', '.join(best[:5])}; save one of them alone."
        )
    return best[0] if best else None


def around(prefix: str, part: str) -> str:
    """The prefix of the module that has a network of this prefix as its `part`, else the prefix."""
    return re.sub(rf"(^|\.){part}\.{_WITHIN}$", r"\1", prefix)


def below(entries: Entries, prefix: str) -> dict[str, np.ndarray]:
    """The entries whose names begin with the prefix, named without it and without wrappers."""
    return {
        re.sub(rf"(^|(?<=\.)){_WITHIN}", "", name.removeprefix(prefix)): value
        for name, value in entries.items()
        if name.startswith(prefix)
    }


def _equal(one: Entries, other: Entries) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[k], other[k]) for k in one)
