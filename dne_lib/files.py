"""Reading and writing files so that mistakes are explained and nothing written is lost."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import orjson
from filelock import FileLock, Timeout


class InputError(ValueError):
    """Something the user gave cannot be used: the message says what, where, and what to do."""


def message_of(error: InputError) -> str:
    """An error's message, on one line.

    From a process that loads data an error comes with its traceback before it.
    """
    return " ".join(str(error).rpartition("InputError: ")[2].split())


def read_bytes(path: Path, missing: str, unreadable: str) -> bytes:
    """A file's bytes.

    Args:
        missing: what to do where there is no such file.
        unreadable: likewise, where it cannot be read.

    Raises:
        InputError: that is so.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path} does not exist: {missing}") from None
    except OSError as error:
        raise InputError(f"cannot read {path} ({error.strerror}): {unreadable}") from None


def read_json(path: Path) -> Any:
    """Parse a JSON file.

    Raises:
        InputError: the file is missing, cannot be read, or is not complete JSON.
    """
    data = read_bytes(
        path, "check the folder it should be in", "it must be a file that you may read"
    )
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise InputError(
            f"{path} is not valid JSON ({error}): it may be half-written; "
            "download or write it again"
        ) from None


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file whole or not at all, replacing what was there only once the new one is safe.

    Raises:
        InputError: the file cannot be written (disk full, no permission).
    """
    temporary = path.parent / f".{path.name}.{secrets.token_hex(8)}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as file:
            file.write(data)
        temporary.replace(path)
    except OSError as error:
        raise InputError(
            f"cannot write {path} ({error.strerror}): free space or choose another folder; "
            "files already written are unchanged"
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write JSON (NumPy values allowed), whole or not at all; keys become strings.

    Raises:
        InputError: the file cannot be written.
    """
    options = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS
    write_bytes(path, orjson.dumps(value, option=options))


def claim_folder(path: Path, kind: str, of: str = "") -> None:
    """Create an output folder, or take back one that an earlier call of the same kind made.

    A marker file `.dne-<kind>` tells our folders from a user's own.

    Args:
        of: what the output is of, where that of something else must not be replaced.

    Raises:
        InputError: the folder holds something else, or cannot be read or made.
    """
    marker = path / f".dne-{kind}"
    if path.exists() and not path.is_dir():
        raise InputError(f"{path} is a file: give a folder for the {kind}")
    try:
        # Another process may be at the same; what it is writing has such a name until it is whole.
        others = () if marker.exists() or not path.is_dir() else path.iterdir()
        foreign = any(not other.name.startswith(f".{marker.name}.") for other in others)
        # A path, perhaps, which need not be text.
        before = os.fsdecode(marker.read_bytes()) if marker.exists() else ""
    except OSError as error:
        raise InputError(f"cannot read {path} ({error.strerror}): choose another folder") from None
    if foreign:
        raise InputError(
            f"{path} holds files that are no {kind} of ours: choose another folder, or empty it"
        )
    if of and before and before != of:
        raise InputError(f"{path} holds the {kind} of {before}: give another folder")
    write_bytes(marker, os.fsencode(of or before))


@contextmanager
def locked(path: Path, wait: bool = True) -> Iterator[None]:
    """A context that one process at a time is in; whoever dies in it leaves it.

    Args:
        path: of a file made for it.
        wait: for the other process to leave; otherwise entering raises `filelock.Timeout`.

    Raises:
        InputError: its folder cannot be made or written.
    """
    lock = FileLock(path, timeout=-1 if wait else 0)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:  # which is an OSError too
        raise
    except OSError as error:
        raise InputError(
            f"cannot write {path} ({error.strerror}): choose another folder"
        ) from error
    try:
        yield
    finally:
        lock.release()
