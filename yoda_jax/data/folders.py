"""The pictures below folders: also behind links, each once, and none of a system's own."""

import functools
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from absl import logging
from PIL import Image

from yoda_jax.data.decode import FORMATS
from yoda_jax.errors import UserError

# Pictures that only other programs read.
_UNREADABLE = re.compile(
    r"\.(hei[cf]|hif|jxl|ps[db]|xcf|kra|svg|exr|hdr|tga|pcx|ico|icns|eps|wmf|emf|qoi|dds|raw|dng"
    r"|cr[23w]|nef|nrw|arw|srf|sr2|orf|rw[2l]|raf|pef|srw|x3f|3fr|fff|iiq|mos|mrw|dcr|kdc|erf|mef)"
)
# What cards of cameras, disks, photo programs and network storages keep beside one's pictures;
# hidden folders (.thumbnails, .Trash-1000, .@__thumb) and files (._*) are left out besides.
_SYSTEM = re.compile(
    r"@(eadir|tmp|recycle|recently-snapshot|sharebin|sharesnap|__thumb)|#(recycle|snapshot)"
    r"|\$recycle\.bin|recycle[rd]|lost(\+found|\.dir)|__macosx|_?thumbs|thumbnails"
    r"|system volume information|network trash folder|temporary items",
    re.IGNORECASE,
)
# Words of the names of folders and files of the same pictures in high and in low resolution.
_HIGH, _LOW = {"hr", "gt", "gtmod"}, {"lr", "sr", "lq", "lrbicx", "lrbic"}
_HALF = re.compile(r"(lr_\d+|sr_\d+_\d+)", re.IGNORECASE)  # of a folder for the public SR3 code
_PAIRED = re.compile(r"(.*)[_-](hr|gt|lr|lq|sr)(?:_?x?\d+)?", re.IGNORECASE)

Pictures = list[tuple[str, str]]


@functools.cache
def extensions() -> tuple[str, ...]:
    """The endings, in small letters, of the files that are taken for pictures."""
    registered = Image.registered_extensions()
    return tuple(sorted(e for e, kind in registered.items() if kind in (*FORMATS, "MPO")))


def pictures(spec: str, roots: list[Path], pairs: bool = False) -> list[Pictures]:
    """(relative POSIX path, path) of the pictures below each folder.

    A file that several names or links lead to is taken once, by a name without links if it has
    one. Raises `UserError` where a folder holds no picture or cannot be read, or without `pairs`
    where HR pictures lie beside their LR ones.
    """
    taken: set[object] = set()
    found = []
    for root in roots:
        unreadable: Counter[str] = Counter()
        candidates = []
        for linked, name, path in _files(spec, root):
            ending = os.path.splitext(name)[1].lower()
            if ending in extensions():
                candidates.append((linked, name, path))
            elif _UNREADABLE.fullmatch(ending):
                unreadable[ending] += 1
        if unreadable:
            kinds = ", ".join(f"{count} {ending}" for ending, count in sorted(unreadable.items()))
            _warn_once(
                f"{sum(unreadable.values())} pictures below {root} are of kinds that cannot be "
                f"read and are not used ({kinds}); convert them to PNG or JPEG"
            )
        if not candidates:
            raise UserError(
                f"folder {root} must hold pictures ({' '.join(extensions())}) at any depth, found "
                f"{'only others: ' + kinds if unreadable else 'none'}."
            )
        found.append(
            [
                (name, path)
                for _, name, path in sorted(candidates)
                if not ((file := _identity(path)) in taken or taken.add(file))
            ]
        )
    if not pairs:
        _refuse_pairs(spec, roots, found)
    return found


@functools.cache
def _warn_once(message: str) -> None:
    """Of several jobs in one, which open the same source, the first says it."""
    logging.warning(message)


def _identity(path: str) -> object:
    try:
        status = os.stat(path)
    except OSError:  # a link to nothing, which is a bad picture
        return path
    return (status.st_dev, status.st_ino) if status.st_ino else path


def _files(spec: str, root: Path) -> Iterator[tuple[bool, str, str]]:
    """(is behind a link, relative POSIX path, path) of all files, folders behind links last."""
    if not root.is_dir():
        found = "a file" if root.exists() else "nothing"
        raise UserError(f"{spec!r} must name a folder of pictures, found {found} at {root}.")
    real, links = [(str(root), "", False)], []
    seen: set[object] = set()
    left_out: Counter[str] = Counter()
    while real or links:
        folder, name, linked = real.pop() if real else links.pop(0)
        if (identity := _identity(folder)) in seen:
            continue
        seen.add(identity)
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            raise UserError(
                f"{folder} cannot be read ({error.strerror}); change its rights, or move it out of "
                f"{root}."
            ) from error
        for entry in entries:
            behind = linked or entry.is_symlink()
            if entry.name.startswith("."):
                continue
            if not entry.is_dir():
                yield behind, name + entry.name, entry.path
            elif _SYSTEM.fullmatch(entry.name):
                left_out[entry.name] += 1
            else:
                (links if entry.is_symlink() else real).append(
                    (entry.path, f"{name}{entry.name}/", behind)
                )
    if left_out:
        logging.info("left out below %s, as a system's own: %s", root, dict(left_out))


def _refuse_pairs(spec: str, roots: list[Path], found: list[Pictures]) -> None:
    """Raises `UserError` where HR pictures lie beside what was made of them."""
    folders = set()
    for root, pictures in zip(roots, found, strict=True):
        above = Path(os.path.abspath(root))
        folders.add(above)
        for name in {os.path.dirname(name) for name, _ in pictures}:
            folders |= {above / name, *(above / name).parents} - set(above.parents)
        if _HALF.fullmatch(above.name):
            folders |= {path for path in above.parent.glob("hr_*") if path.is_dir()}
    beside: dict[Path, list[Path]] = {}
    for folder in sorted(folders):
        beside.setdefault(folder.parent, []).append(folder)
    for together in beside.values():
        words = {folder: set(re.findall("[a-z]+", folder.name.lower())) for folder in together}
        low = [folder for folder in together if words[folder] & _LOW]
        high = [folder for folder in together if words[folder] & _HIGH and folder not in low]
        if low and high:
            _refuse(spec, low[0], f"beside {high[0]}; give folder:{','.join(map(str, high))}")
    paths = [path for pictures in found for _, path in pictures]
    pairs = [(match, p) for p in paths if (match := _PAIRED.fullmatch(os.path.splitext(p)[0]))]
    highs = {match[1]: path for match, path in pairs if match[2].lower() in _HIGH}
    for match, path in pairs:
        if match[2].lower() in _LOW and match[1] in highs:
            _refuse(spec, path, f"beside {highs[match[1]]}; move those to a folder of their own")


def _refuse(spec: str, low: object, what: str) -> NoReturn:
    raise UserError(f"{spec!r} must name HR pictures alone, found {low} {what}.")
