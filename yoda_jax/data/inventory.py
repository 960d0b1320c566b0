"""What records there are in a folder: of which pictures and settings, and which are missing."""

import time
from collections.abc import Iterable, Mapping

from etils import epath

from yoda_jax.data.contents import difference, fingerprint, is_made_of
from yoda_jax.data.records import read_index, read_manifest, shard_path, write_manifest
from yoda_jax.errors import UserError

_SEEN_SECONDS = 60  # for which a shared disk may keep from one process what another wrote


def pictures(folder: epath.Path) -> dict[str, str]:
    """The prints of complete records; none where there are no records, or older ones."""
    manifest = read_manifest(folder)
    found = [read_index(folder / name) for name in manifest["files"]] if manifest else []
    return made_of(index for index in found if index)


def made_of(indices: Iterable[dict]) -> dict[str, str]:
    """The prints of the pictures of some shards, but for older ones, which hold none."""
    parts = [index.get("made_of") for index in indices]
    return {k: v for part in parts if isinstance(part, dict) for k, v in part.items()}


def check_settings(folder: epath.Path, expected: Mapping) -> None:
    """Raises UserError where complete records were made with other settings."""
    _refuse_other(folder, read_manifest(folder)["settings"], expected)


def missing(
    folder: epath.Path, prints: Mapping[str, str], per_shard: int, expected: Mapping
) -> tuple[int, list[int]]:
    """(the number of shards that these pictures make, those of them that are not there).

    Raises UserError where what is there was made with other settings.
    """
    complete = read_manifest(folder) is not None
    if complete:
        check_settings(folder, {**expected, "pictures": fingerprint(prints)})
    pictures = list(prints.items())
    shards, lacking = -(-len(pictures) // per_shard), []
    for shard in range(shards):
        part = dict(pictures[shard * per_shard : (shard + 1) * per_shard])
        path = shard_path(folder, shard, shards)
        index = read_index(path)
        same = index is not None and is_made_of(index["made_of"], part)
        if index is not None and not complete:
            # The same pictures may have another path by now.
            of = {"pictures": fingerprint(part)}
            _refuse_other(path, {**index["settings"], **(of if same else {})}, {**expected, **of})
        if not same:
            lacking.append(shard)
    return shards, lacking


def deleted(folder: epath.Path, shards: int, lacking: Iterable[int]) -> list[int]:
    """Those of the lacking shards that are not there; the others are of other pictures.

    None where the records that are there have another number of shards.
    """
    manifest = read_manifest(folder)
    if manifest is not None and len(manifest["files"]) != shards:
        return []
    return [i for i in lacking if not shard_path(folder, i, shards).exists()]


def _refuse_other(where: object, found: Mapping, expected: Mapping) -> None:
    """Raises UserError for a setting that differs, but for the pictures' contents."""
    name = difference(found, expected)
    if name not in (None, "pictures"):
        raise UserError(
            f"{where} was made with {name}={found.get(name)!r}, this configuration says "
            f"{expected.get(name)!r}; set --config.data.records to another folder, or delete that "
            "one."
        )


def complete(folder: epath.Path, shards: int, settings: Mapping) -> None:
    """Writes the manifest of a folder whose shards all processes have written."""
    paths = [shard_path(folder, i, shards) for i in range(shards)]
    for path in paths:
        wait_for(path.with_name(f"{path.name}.json"))
    indices = [read_index(path) for path in paths]
    skipped = [s for index in indices for s in index["skipped"]]
    examples = sum(len(index["offsets"]) for index in indices)
    if not examples:
        raise UserError(
            f"{settings.get('data.train') or settings['data.eval']} gave no example at "
            f"data.hr_size={settings['data.hr_size']}: {len(skipped)} pictures were skipped; give "
            f"larger or other pictures and delete {folder}."
        )
    prints = made_of(indices)
    if len(prints) == sum(index["pictures"] for index in indices):  # no shard is an older one
        settings = {**settings, "pictures": fingerprint(prints)}
    manifest = {
        "settings": dict(settings),
        "pictures": sum(index["pictures"] for index in indices),
        "skipped": skipped,
        "examples": examples,
    }
    write_manifest(folder, shards, manifest)


def wait_for(path: epath.Path) -> None:
    """Returns once a file of another process is there; raises UserError where it does not come."""
    deadline = time.monotonic() + _SEEN_SECONDS
    while not path.exists():
        if time.monotonic() > deadline:
            raise UserError(
                f"{path}, written by another process, cannot be seen here; set "
                "--config.data.records to a folder on a disk that all processes share."
            )
        time.sleep(0.2)
