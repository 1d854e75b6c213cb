"""Files: written so that a crash, a full disk or a read-only folder never leaves half of one."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from llama_scale.errors import InputError, StoreError

SHIPPED = Path(__file__).parent / "data"
ANOTHER_STORE = "another folder with --store"
_HINTS = {
    errno.ENOSPC: "free some space, or choose {other}",
    errno.EDQUOT: "free some of your quota, or choose {other}",
    errno.EACCES: "give yourself permission to write there, or choose {other}",
    errno.EPERM: "give yourself permission to write there, or choose {other}",
    errno.EROFS: "that file system is read-only: choose {other}",
    errno.ENOTDIR: "a file stands where a folder is needed: move it, or choose {other}",
    errno.EEXIST: "a file stands where a folder is needed: move it, or choose {other}",
    errno.EISDIR: "a folder stands where a file is needed: move it, or choose another name",
    errno.ENOENT: "check the path for typing errors",
    errno.EFBIG: "raise the limit on the size of files (`ulimit -f`), or choose {other}",
}

ABANDONED_SECONDS = 24 * 3600.0
# Those of earlier versions name no machine; who deletes them renames them first.
_TEMPORARY = re.compile(r"\..*\.(?:([0-9a-f]{8})-)?([0-9]+)-[0-9a-f]{8}\.tmp(\.pruned\.tmp)*")
_DISK_FAILS = (errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def shipped_tables(name: str) -> dict[str, Any]:
    """The tables of a TOML file that ships with the package."""
    import tomllib  # here: most who write files read none

    return tomllib.loads((SHIPPED / name).read_text(encoding="utf-8"))


def at_home(path: str | Path) -> Path:
    """`path` with its ~ spelt out; that of a user whom this machine does not know stays as it is.

    Path.expanduser raises RuntimeError there, in place of a file that is simply not found.
    """
    return Path(os.path.expanduser(path))


def user_folder(variable: str, usual: str) -> Path:
    """The user's own folder of ours, in that of a variable or else in the `usual` one, by the XDG rule.

    A relative one counts for nothing, as `~` where no home is known: it would lie wherever one stands. Raises
    StoreError where neither is left.
    """
    for folder in (os.environ.get(variable, ""), os.path.expanduser(usual)):
        if os.path.isabs(folder):
            return Path(folder) / "llama-scale"
    raise StoreError("no home folder is known here", hint=f"set HOME, or {variable} to an absolute path")


def cache_folder() -> Path:
    """Where what was measured or compiled on this machine is kept; anything in it can be made again."""
    return user_folder("XDG_CACHE_HOME", "~/.cache")


def check_new(path: Path, *, overwrite: bool, other: str, sources: Iterable[object] = ()) -> None:
    """Raises InputError where a file stands that may not be replaced; `other` is what to give instead.

    `sources` are the words that may name what the file is made from, or hold several such names: no file
    among them is replaced, whatever `overwrite` says.
    """
    if not path.exists():
        return
    if any(_is_same(name, path) for name in _names(sources)):
        raise InputError(f"{path} is read for this, so it cannot be replaced", hint=f"give another {other}")
    if not overwrite:
        raise InputError(f"{path} exists already", hint=f"pass --force to replace it, or another {other}")


def _names(words: Iterable[object]) -> Iterator[str]:
    for word in words:
        if isinstance(word, str | Path):
            yield os.path.expanduser(word)
        elif isinstance(word, tuple):
            yield from _names(word)


def _is_same(name: str, file: Path) -> bool:
    try:
        return os.path.samefile(name, file)
    except (OSError, ValueError):  # no file's name
        return False


def write_atomically(
    path: Path,
    data: bytes | str,
    *,
    check: Callable[[], None] | None = None,
    other: str = ANOTHER_STORE,
) -> None:
    """Puts `data` at `path`, whole or not at all: what was there stays until the new file is on the disk.

    Missing folders are made. `check` has the last word before that, and may raise. Raises StoreError where
    the file cannot be written, with the advice to choose the `other` place; nothing is left behind. What
    processes that were killed left of the same is cleared away.
    """
    content = data.encode() if isinstance(data, str) else data
    temporary = _temporary(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _clear_left_behind(path)
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if check is not None:
            check()
        temporary.replace(path)
        sync_folder(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise store_error(error, f"cannot write {path}", other) from error
        raise


def read_whole(path: str) -> bytes:
    """All bytes of a file; raises OSError. Half the time of `open`, which tells in a store of 10,000 runs."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        parts = []
        while part := os.read(descriptor, 1 << 20):
            parts.append(part)
        return b"".join(parts)
    finally:
        os.close(descriptor)


def parse_json(text: str | bytes) -> Any:
    """The value that JSON text holds; ValueError for any that cannot be read, nested too deep included."""
    try:
        return json.loads(text.decode("utf-8-sig") if isinstance(text, bytes) else text)
    except RecursionError as error:
        raise json.JSONDecodeError("it is nested too deep", "", 0) from error


def sync_folder(folder: Path) -> None:
    """Makes the names in `folder` (a rename, a new file) survive a power cut.

    Some network file systems cannot sync a folder; the file itself is safe by then. Raises OSError where
    the disk fails at it.
    """
    try:
        _sync(folder)
    except OSError as error:
        if error.errno in _DISK_FAILS:
            raise


def make_folder(folder: Path) -> Path:
    """Makes `folder` and its parents where missing; raises StoreError where that cannot be done."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise store_error(error, f"cannot make the folder {folder}") from error
    return folder


def store_error(error: OSError, what: str, other: str = ANOTHER_STORE) -> StoreError:
    """`error` of the operating system in the words of our own, with the way out that its code suggests."""
    hint = _HINTS.get(error.errno or 0, "check that the disk is well, or choose {other}")
    return StoreError(f"{what}: {reason_of(error)}", hint=hint.format(other=other))


def reason_of(error: Exception) -> str:
    """Why something failed: in the words of the operating system, without its number, where it says so."""
    told = error.strerror if isinstance(error, OSError) else None
    return told.lower() if told else str(error)


@contextlib.contextmanager
def publish_folder(path: Path, *, check: Callable[[], None] | None = None) -> Iterator[Path]:
    """Gives an empty folder to fill; when the block ends well it appears at `path`, synced, all at once.

    `check` has the last word before that, and may raise. If `path` came into being meanwhile (another
    process published the same), that one stays. Raises StoreError where the disk refuses; then nothing is
    left behind. What processes that were killed left of the same is cleared away.
    """
    temporary = _temporary(path)
    try:
        temporary.mkdir(parents=True)
        _clear_left_behind(path)
        yield temporary
        for file in temporary.iterdir():
            _sync(file)
        _sync(temporary)
        if check is not None:
            check()
        if not path.exists():
            temporary.rename(path)
        sync_folder(path.parent)
    except OSError as error:
        if not (error.errno in (errno.ENOTEMPTY, errno.EEXIST) and path.is_dir()):
            raise store_error(error, f"cannot write {path}") from error
    finally:
        _delete_folder(temporary)


def machine() -> str | None:
    """Boot and process namespace: within one, process numbers mean the same; None where that is unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return None


def is_running(pid: int) -> bool:
    """Whether this machine has such a process; one that has ended counts no more, be it reaped or not.

    A container's first process may reap nothing: there the killed stay listed for good.
    """
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (ProcessLookupError, OverflowError):  # the latter for numbers that no process can have
        return False
    except (OSError, IndexError):  # another user's, or a system without /proc
        return True


def _temporary(path: Path) -> Path:
    """A new name beside `path`, hidden, that says which process of which machine took it."""
    return path.with_name(f".{path.name}.{_machine_mark()}-{os.getpid()}-{os.urandom(4).hex()}.tmp")


def _clear_left_behind(path: Path) -> None:
    """Delete what nobody will put at `path` any more, before a new try needs the room."""
    beginning = f".{path.name}."
    with contextlib.suppress(OSError):
        for name in os.listdir(path.parent):  # by text: `glob` takes ten times as long
            if name.startswith(beginning) and is_left_behind(earlier := path.with_name(name)):
                _delete_folder(earlier) if earlier.is_dir() else earlier.unlink()


def _delete_folder(folder: Path) -> None:
    from shutil import rmtree  # here: it imports every compression, which a plan does without

    rmtree(folder, ignore_errors=True)


def _machine_mark() -> str:
    return f"{zlib.crc32((machine() or '').encode()):08x}"


def is_left_behind(temporary: Path) -> bool:
    """Whether nobody will publish any more what was begun under this name; names that are not ours say no.

    So it is where the process was one of this machine and is gone. Of others, as those from before a
    restart, it is believed once nothing was written for ABANDONED_SECONDS. Raises OSError.
    """
    found = _TEMPORARY.fullmatch(temporary.name)
    if not found:
        return False
    if machine() and found[1] == _machine_mark() and not is_running(int(found[2])):
        return True
    newest = max(path.lstat().st_mtime for path in (temporary, *temporary.rglob("*")))
    return time.time() - newest > ABANDONED_SECONDS


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
