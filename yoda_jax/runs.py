"""Where the files of a run lie, on a disk or in a bucket, and how a file is written whole."""

import os

from etils import epath

from yoda_jax.errors import UserError


def located(path: str | os.PathLike) -> epath.Path:
    """A path as the user spelled it: `~` expanded, local ones absolute, `gs://...` untouched.

    Links stay links: a folder keeps the name that the user knows it by. Raises UserError where
    there is no home folder.
    """
    text = os.fspath(path)
    if in_bucket(text):
        return epath.Path(text)
    expanded = os.path.expanduser(text)
    if text.startswith("~") and expanded == text:
        raise UserError(f"{text} names a home folder, found none for it; write the path in full.")
    return epath.Path(os.path.abspath(expanded))


def in_bucket(path: str | os.PathLike) -> bool:
    """Whether a path is one of an object store and not of a disk."""
    return "://" in os.fspath(path)


def check_bucket(path: str | os.PathLike) -> None:
    """Raises UserError where a path is one of a bucket that is not there; asks the store."""
    if not in_bucket(path):
        return
    kind, _, rest = os.fspath(path).partition("://")
    bucket = f"{kind}://{rest.partition('/')[0]}"
    if kind != "gs" or not epath.Path(bucket).exists():
        raise UserError(
            f"{os.fspath(path)} must lie on a disk or in a bucket gs://NAME that is there, found "
            f"no {bucket}; make it, or correct its name."
        )


def on_a_disk(name: str, path: str) -> str:
    """The path of what is read from a disk alone; raises UserError, by name, for a bucket."""
    if in_bucket(path):
        raise UserError(
            f"{name} must lie on a disk of this machine, found {path}; copy it there first."
        )
    return path


def write_whole(path: epath.Path, data: bytes) -> None:
    """Writes a file so that it is there whole or not at all, with the folders above it.

    A local file gets a temporary name first; an object in a bucket appears only when it is whole.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if in_bucket(path):
        path.write_bytes(data)
        return
    temporary = path.with_name(f"{path.name}.part-{os.getpid()}")
    try:
        temporary.write_bytes(data)
        put_in_place(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def put_in_place(temporary: epath.Path, path: epath.Path) -> None:
    """Gives a file that is written its name, once it lies on the disk itself.

    Else a machine that fails soon after would leave an empty file of that name.
    """
    if not in_bucket(temporary):
        on_the_disk(temporary)
    temporary.replace(path)


def on_the_disk(path: os.PathLike) -> None:
    """Returns once what was written to a local file is on the disk itself."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())


class Run:
    """The folder of a run: what lies where in it."""

    def __init__(self, workdir: str | os.PathLike) -> None:
        self.folder = located(workdir)
        self.checkpoints = self.folder / "checkpoints"
        # A copy for people of the configuration that it runs with; checkpoints have their own.
        self.configuration = self.folder / "config.json"

    def __str__(self) -> str:
        return os.fspath(self.folder)

    def records(self, split: str, elsewhere: str = "") -> epath.Path:
        """The folder of the records of a split ("train" or "eval"), its own or those elsewhere."""
        return (located(elsewhere) if elsewhere else self.folder / "records") / split

    def evaluation(self, name: str) -> epath.Path:
        """The folder of an evaluation's figures and pictures."""
        return self.folder / name

    def within(self, *names: str) -> "Run":
        """The run in a folder below: one of several trainings that belong together."""
        return Run(self.folder.joinpath(*names))
