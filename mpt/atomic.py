"""Files and folders that are either whole or not there: written under a temporary name, then renamed."""

import ctypes
import glob
import hashlib
import os
import re
import shutil
import socket
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from mpt.errors import UserError
from mpt.lock import check_still_there


def make_folder(path: Path) -> None:
    """Make a folder and those that it lies in, but no folder of a run again that was moved or removed under it.

    Raises:
        UserError: One was.
        OSError: The folder cannot be made.
    """
    check_still_there(path)
    path.mkdir(parents=True, exist_ok=True)


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
        UserError: It lies in the folder of a run that was moved or removed under it.
        OSError: The folder is missing or cannot be written to.
        FileNotFoundError: The block wrote no file.
    """
    check_still_there(path)
    path = Path(os.path.realpath(path))
    temporary = _beside(path)
    try:
        yield temporary
        check_still_there(path)
        if not temporary.is_file():
            raise FileNotFoundError(f"{path}: nothing was written; write the file at the path that was yielded")
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
def write_folder_atomically(path: Path, is_ours: Callable[[Path], bool] | None = None) -> Iterator[Path]:
    """Yield a new empty folder beside ``path``; when the block ends, it becomes ``path``.

    An empty folder, and one that was written so before, gives way as a whole: the two change places in one step of the
    file system, so that a reader, and whoever looks after a crash, finds the old one or the new one. Anything else
    that stands there is somebody's own, and refused.

    Args:
        path: The folder to write; the folder it lies in must be there. A link is written through.
        is_ours: Tell whether a folder that is not empty may give way; asked before the block, so that nothing long is
            done in vain. None: one may that has no other names in it than the new one.

    Yields:
        The temporary folder, which the block fills.

    Raises:
        UserError: ``path`` holds something that was not written so, or is the working folder.
        NotADirectoryError: ``path`` is a file.
        OSError: The folder around it is missing or cannot be written to.
    """
    check_still_there(path)
    shown, path = path, Path(os.path.realpath(path))
    check_replaceable(shown, is_ours)
    temporary = _beside(path)
    temporary.mkdir()
    try:
        yield temporary
        for item in temporary.rglob("*"):
            _sync(item)
        _sync(temporary)
        check_replaceable(shown, is_ours, {item.name for item in temporary.iterdir()})
        if path.exists():
            _exchange(temporary, path)
        else:
            os.replace(temporary, path)
        _sync(path.parent)
    finally:
        if temporary.exists():  # after an exchange, the old folder
            shutil.rmtree(temporary)


def check_replaceable(
    path: Path, is_ours: Callable[[Path], bool] | None, written: Collection[str] | None = None
) -> None:
    """Refuse to write a folder where something stands that was not written by us.

    Args:
        path: The folder.
        is_ours: As :func:`write_folder_atomically`.
        written: Names in the new folder; None: not known yet.

    Raises:
        UserError: It holds something else, or is the working folder.
        NotADirectoryError: It is a file.
    """
    if not path.exists():
        return
    if not path.is_dir():
        raise NotADirectoryError(f"{path}: is a file; a folder is to be written there, so move the file away")
    if path.resolve() == Path.cwd():
        raise UserError(f"{path}: is the working folder; give a folder in it, such as {path / 'prompt'}")
    names = sorted(item.name for item in path.iterdir())
    if is_ours is not None:
        others = [] if not names or is_ours(path) else names
    else:
        others = [name for name in names if written is not None and name not in written]
    if others:
        raise UserError(
            f"{path}: holds {', '.join(others[:3])}{' and more' if len(others) > 3 else ''}, which would be lost; give "
            "a folder that is new, empty, or was written so before and has nothing else in it"
        )


def check_file_replaceable(path: Path, mark: bytes, what: str) -> None:
    """Refuse to write a file where another one stands that does not bear our mark.

    Args:
        path: The file.
        mark: Bytes that each of our files of this kind has among its first 64 KiB.
        what: Such as ``a card``, for the message.

    Raises:
        UserError: As said.
        IsADirectoryError: It is a folder.
    """
    if path.is_dir():
        raise IsADirectoryError(f"{path}: is a folder; give the name of a file")
    if path.is_file() and path.stat().st_size:
        with path.open("rb") as file:
            if mark not in file.read(2**16):
                raise UserError(f"{path}: is there already, and is not {what} of ours; give another name")


def _exchange(one: Path, other: Path) -> None:
    """Let two folders of one file system change places, in one step where the system knows how."""
    libc = ctypes.CDLL(None, use_errno=True)
    names = os.fsencode(one), os.fsencode(other)
    done = -1
    with suppress(AttributeError):  # another system, or an old one
        if sys.platform == "darwin":
            done = libc.renamex_np(*names, 2)  # RENAME_SWAP
        else:
            done = libc.renameat2(-100, names[0], -100, names[1], 2)  # AT_FDCWD, RENAME_EXCHANGE
    if done == 0:
        return
    # Between these two renames nothing stands under the name; the old folder lies beside it in plain sight.
    former = other.with_name(f"{other.name}.old-{uuid4().hex[:6]}")
    os.replace(other, former)
    try:
        os.replace(one, other)
    except OSError:
        os.replace(former, other)
        raise
    os.replace(former, one)


def _beside(path: Path) -> Path:
    """A hidden name that nothing else uses, in the same folder and with the same suffix.

    Twelve hexadecimal digits: this machine, this process, chance. What a killed process left of the same name is
    removed.
    """
    machine = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:4]
    if path.parent.is_dir():
        for left in path.parent.glob(f".{machine}*.{glob.escape(path.name)}"):
            digits = re.fullmatch(r"\.[0-9a-f]{4}([0-9a-f]{6})[0-9a-f]{2}", left.name.removesuffix(f".{path.name}"))
            if digits is not None and not _is_alive(int(digits[1], 16)):
                shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink(missing_ok=True)
    while True:
        found = path.with_name(f".{machine}{os.getpid() & 0xFFFFFF:06x}{uuid4().hex[:2]}.{path.name}")
        if not found.exists():
            return found


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # of another user
        return True
    return True


def _sync(path: Path) -> None:
    """Have the file system write a file, or a folder's list of names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
