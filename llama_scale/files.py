"""Files that are either whole or absent: written under another name, synced, then renamed."""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from llama_scale.errors import StoreError

TEMPORARY_PREFIX = ".tmp-"

_HINTS = {
    errno.ENOSPC: "free some disk space and run the same command again; nothing that was finished is lost",
    errno.EDQUOT: "free some of your disk quota and run the same command again; nothing finished is lost",
    errno.EFBIG: "raise the file size limit (`ulimit -f`) and run the same command again",
    errno.EACCES: "choose a folder that you may write to, for example with --store or --output",
    errno.EPERM: "choose a folder that you may write to, for example with --store or --output",
    errno.EROFS: "the file system is read-only: choose another folder with --store or --output",
    errno.ENOTDIR: "a part of that path is a file: choose another folder",
}


def write_atomically(path: Path, data: str | bytes) -> None:
    """Write `data` so that a reader finds the old file or the new one, never a part of it.

    Raises StoreError (no space, no permission, read-only); the old file is then untouched.
    """
    temporary = _temporary(path)
    with explain_os_errors(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                file.write(data.encode() if isinstance(data, str) else data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            sync_folder(path.parent)
        except BaseException:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise


@contextmanager
def publish_folder(path: Path) -> Iterator[Path]:
    """Give an empty folder to fill; when the block ends well it appears at `path`, synced, all at once.

    If `path` came into being meanwhile (another process published the same), ours is dropped.
    """
    temporary = _temporary(path)
    with explain_os_errors(path):
        try:
            temporary.mkdir(parents=True)
            yield temporary
            for file in temporary.rglob("*"):
                sync_file(file)
            sync_folder(temporary)
            with suppress(FileExistsError):
                _rename_new(temporary, path)
            sync_folder(path.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def explain_os_errors(path: Path) -> Iterator[None]:
    """Turn an OSError into a StoreError that names `path` and how to go on."""
    try:
        yield
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        hint = _HINTS.get(error.errno or 0, "check the path and the disk, then run the same command again")
        raise StoreError(f"cannot write {str(path)!r}: {reason}", hint=hint) from error


def sync_file(path: Path) -> None:
    """Ask the disk to keep what was written to `path`."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


sync_folder = sync_file


def _temporary(path: Path) -> Path:
    return path.with_name(f"{TEMPORARY_PREFIX}{path.name}-{os.getpid()}-{uuid.uuid4().hex[:8]}")


def _rename_new(source: Path, target: Path) -> None:
    """Rename a folder onto a name that must be free."""
    try:
        source.rename(target)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            raise FileExistsError from None
        raise
