"""One process at a time: a lock that a dead process does not hold, and that says who holds it."""

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from mpt.errors import UserError

NAME = ".lock"
"""Name of the lock of a folder, in it; of a file it is ``.<name>.lock`` beside it."""
_HELD: dict[Path, tuple[int, int]] = {}
"""The folders that this process holds, each with its device and inode."""


@contextmanager
def hold_folder(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder, which is made where it is not there.

    Raises:
        UserError: Another process holds it.
        OSError: The folder cannot be made or written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _hold(folder / NAME, folder):
        place = folder.resolve()
        _HELD[place] = _identity(place)
        try:
            yield
        finally:
            _HELD.pop(place, None)


def check_still_there(path: Path) -> None:
    """Refuse to write to a path whose folder, which this process holds, was moved or removed by somebody.

    Raises:
        UserError: It was.
    """
    path = Path(os.path.realpath(path))
    for place, identity in list(_HELD.items()):
        if (path == place or place in path.parents) and (not place.is_dir() or _identity(place) != identity):
            raise UserError(
                f"{place}: was moved or removed while it was written to; move it back, then the same command goes on, "
                "or start it again"
            )


def _identity(place: Path) -> tuple[int, int]:
    found = place.stat()
    return found.st_dev, found.st_ino


@contextmanager
def hold_file(path: Path) -> Iterator[None]:
    """Hold the lock of a file, whose folder is made where it is not there.

    Raises:
        UserError: Another process holds it.
        OSError: The folder cannot be made or written to.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _hold(path.with_name(f".{path.name}{NAME}"), path):
        yield


@contextmanager
def _hold(place: Path, what: Path) -> Iterator[None]:
    """Hold a lock file, and remove it at the end.

    The operating system holds the lock, on this machine and on network file systems that know locks, and lets go of it
    when the process ends, however it does: what a dead process leaves is a file that nobody holds.
    """
    lock = FileLock(place, thread_local=False)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise UserError(f"{what}: {_describe_holder(place)} is at work on it; wait until it ends, or stop it") from None
    try:
        holder = {
            "process": os.getpid(),
            "host": socket.gethostname(),
            "since": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        }
        place.write_text(json.dumps(holder) + "\n", encoding="utf-8")
        yield
    finally:
        # While it is still held: who waits for it finds that the file is gone, and makes another.
        place.unlink(missing_ok=True)
        lock.release()


def _describe_holder(place: Path) -> str:
    try:
        holder = json.loads(place.read_text(encoding="utf-8"))
        return f"process {holder['process']} on {holder['host']}, since {holder['since']},"
    except (OSError, ValueError, KeyError, TypeError):  # it has not written who it is yet
        return "another process"
