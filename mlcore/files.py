"""Where files live, and how they are written so that a crash loses nothing."""

import glob
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

_FORGOTTEN = 3600  # seconds after which a half-written file is one that a killed process left behind
_REPOSITORY = Path(__file__).resolve().parents[1]


def repository_data() -> Path | None:
    """The ``data/`` folder of the clone this package runs from; None when it was installed without a clone."""
    folder = _REPOSITORY / "data"
    return folder if (folder / "published.yaml").is_file() else None


def data_root() -> Path:
    """Where real data sets are looked for: ``$MLCORE_DATA``, else the clone's ``data/``, else ``./data``."""
    if "MLCORE_DATA" in os.environ:
        return Path(os.environ["MLCORE_DATA"]).expanduser()
    return repository_data() or Path("data")


def folder_with(folder: Path, *files: str) -> Path | None:
    """That folder, if it holds all of these files; else None."""
    return folder if all((folder / file).is_file() for file in files) else None


def needed_folder(name: str, *files: str, root: Path | str | None, what: str, instead: str = "") -> Path:
    """The folder of a data set in the data root.

    Args:
        name: of the folder, and the files it has to hold.
        root: the data root; :func:`data_root` by default.
        what: is in it, for the message.
        instead: what else may be done.

    Raises:
        FileNotFoundError: no such folder, or a file is missing.
    """
    folder = Path(root or data_root()) / name
    if folder_with(folder, *files) is None:
        also = f"; {instead}" if instead else ""
        raise FileNotFoundError(f"no {what} in {folder}: set $MLCORE_DATA to the folder that holds {name}/{also}.")
    return folder


def runs_root() -> Path:
    """Where checkpoints are kept: ``$MLCORE_RUNS``, else the user's cache folder."""
    if "MLCORE_RUNS" in os.environ:
        return Path(os.environ["MLCORE_RUNS"]).expanduser()
    return cache_root() / "runs"


def cache_root() -> Path:
    """Where decoded data sets are kept; deleting it costs only the time to build them again."""
    import platformdirs  # of the extra "data": training alone needs no folder of its own

    return Path(platformdirs.user_cache_dir("mlcore", appauthor=False))


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Call ``write`` on a temporary name in the same folder, then move it to ``path`` in one step.

    Whoever reads ``path``, at any moment and after any crash, sees the old file or the new one, never half of one.
    What a killed process left behind is cleared away an hour later.

    Raises:
        OSError: the file cannot be written; an old one stays as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".{glob.escape(path.stem)}.*.partial{path.suffix}"):
        with suppress(OSError):  # another process may be as quick
            if time.time() - left.stat().st_mtime > _FORGOTTEN:
                left.unlink()
    # The process number keeps two writers of one file apart; the suffix stays, since numpy looks at it.
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        write(temporary)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except RuntimeError as error:  # which is what torch makes of a full disk
        raise OSError(f"{path} cannot be written, perhaps for want of room ({str(error).splitlines()[0]}).") from error
    finally:
        temporary.unlink(missing_ok=True)
