"""Files and folders that are either whole or not there: written under a temporary name, then renamed."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4


@contextmanager
def write_atomically(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; when the block ends, what was written there becomes ``path``.

    A reader sees the old file or the new one, and never half of one, also after a crash. A block that raises
    leaves the old file as it was and no temporary one.

    Args:
        path: The file to write; its folder must be there. A link is written through.

    Yields:
        A path with the same suffix in the same folder, at which the block writes the file.

    Raises:
        OSError: The folder is missing or cannot be written to.
        FileNotFoundError: The block wrote no file.
    """
    path = Path(os.path.realpath(path))
    temporary = _beside(path)
    try:
        yield temporary
        if not temporary.is_file():
            raise FileNotFoundError(
                f"{path}: nothing was written; write the file at the path that was yielded"
            )
        _sync(temporary)
        os.replace(temporary, path)
        _sync(path.parent)
    except OSError as error:
        # A full disk names no file, and the temporary name says nothing to a user.
        if error.errno is not None:
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def write_folder_atomically(path: Path) -> Iterator[Path]:
    """Yield a new empty folder beside ``path``; when the block ends, it becomes ``path``.

    A folder that stood there is replaced as a whole: no file of it is left. It is renamed away just before
    the new one takes its name, and put back if that fails.

    Args:
        path: The folder to write; the folder it lies in must be there. A link is written through.

    Yields:
        The temporary folder, which the block fills.

    Raises:
        NotADirectoryError: ``path`` is a file.
        OSError: The folder around it is missing or cannot be written to.
    """
    path = Path(os.path.realpath(path))
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(f"{path}: is a file; a folder is to be written there, so move the file away")
    temporary, former = _beside(path), _beside(path)
    temporary.mkdir()
    try:
        yield temporary
        for item in temporary.rglob("*"):
            _sync(item)
        _sync(temporary)
        if path.exists():
            os.replace(path, former)
        try:
            os.replace(temporary, path)
        except OSError:
            if former.exists():
                os.replace(former, path)
            raise
        _sync(path.parent)
    finally:
        for folder in (temporary, former):
            if folder.exists():
                shutil.rmtree(folder)


def _beside(path: Path) -> Path:
    """A hidden name that nothing else uses, in the same folder and with the same suffix."""
    return path.with_name(f".{uuid4().hex[:12]}.{path.name}")


def _sync(path: Path) -> None:
    """Have the file system write a file, or a folder's list of names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
