"""Who may write a run: leases with heartbeats and fencing tokens, by files alone, so that NFS will do.

`leases/N.held` is linked into place, N one more than any before it; who made the highest N holds the run,
until the file is renamed to `N.released`. The holder rewrites a counter in it every few seconds. An
observer who sees the counter stand still for LEASE_SECONDS by its own monotonic clock may take N + 1;
clocks of two machines are never compared. The old holder finds the higher token before its next write
and gives up. On one machine a holder whose process is gone is replaced at once.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from llama_scale.errors import StoreError
from llama_scale.files import is_running, machine, make_folder, parse_json, store_error

HEARTBEAT_SECONDS = 5.0
LEASE_SECONDS = 60.0
HELD, RELEASED = ".held", ".released"
COUNTER_DIGITS = 12
NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EACCES)

_seen: dict[Path, tuple[bytes, float]] = {}  # other holders' files as last read, and since when


class BusyError(StoreError):
    """Another process is working on this run."""


class Lease:
    """The right to write one run; `check` before every write."""

    def __init__(self, folder: Path, token: int) -> None:
        self._folder, self.token = folder, token
        self._path = folder / f"{token}{HELD}"
        self._ended = threading.Event()
        self._heart = threading.Thread(target=self._beat, daemon=True)
        self._heart.start()

    def check(self) -> None:
        """Raises BusyError where another process has taken the run over, StoreError where it is gone."""
        highest, _ = _highest(self._folder)
        if highest < self.token:
            raise StoreError(
                f"the leases of run {self._folder.parent.name} have vanished from {self._folder.parent}",
                hint="put the store back, or run the sweep again: it trains anew what is not there",
            )
        if highest > self.token:
            raise BusyError(
                f"run {self._folder.parent.name} was taken over by another process",
                hint="nothing is lost: that process goes on from the last checkpoint",
            )

    def release(self) -> None:
        """Let the run go; the token stays behind, so that no later one is lower."""
        self._ended.set()
        self._heart.join()
        with suppress(OSError):
            self._path.rename(self._path.with_suffix(RELEASED))

    def _beat(self) -> None:
        count = 0
        while not self._ended.wait(HEARTBEAT_SECONDS):
            count += 1
            # A disk that is full or away for a moment must not end a run: a missed beat is no more than that.
            with suppress(OSError), self._path.open("r+b", buffering=0) as file:
                file.write(_counter(count))


@contextmanager
def hold(folder: Path) -> Iterator[Lease]:
    """Hold the lease kept in `folder`; raises BusyError while another process does."""
    make_folder(folder)
    token, path = _highest(folder)
    if path is not None and path.suffix == HELD and not (_is_gone(path) or _stands_still(path)):
        raise _busy(folder)
    try:
        _create(folder / f"{token + 1}{HELD}")
    except (FileExistsError, FileNotFoundError):
        raise _busy(folder) from None
    except OSError as error:
        raise store_error(error, f"cannot write {folder}") from error
    lease = Lease(folder, token + 1)
    try:
        lease.check()
        _forget_older(folder, lease.token)
        yield lease
    finally:
        lease.release()


def _create(path: Path) -> None:
    """Make a lease with all that it says, or none; FileExistsError where another process was first."""
    temporary = path.with_name(f".{path.stem}-{os.getpid()}-{os.urandom(4).hex()}.tmp")
    temporary.write_bytes(_counter(0) + json.dumps(_identity(os.getpid())).encode())
    try:
        path.hardlink_to(temporary)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        # Where there are no hard links: exclusive too, though a death in between leaves a lease to wait for.
        with path.open("xb") as file:
            file.write(temporary.read_bytes())
    finally:
        temporary.unlink(missing_ok=True)


def _counter(count: int) -> bytes:
    return f"{count:0{COUNTER_DIGITS}d}\n".encode()


def _highest(folder: Path) -> tuple[int, Path | None]:
    """The highest token and its file; 0 where there is none."""
    try:
        files = [Path(entry) for entry in os.listdir(folder)]
    except FileNotFoundError:
        return 0, None
    except OSError as error:
        raise store_error(error, f"cannot read {folder}") from error
    tokens = {int(file.stem): folder / file for file in files if _is_token(file.stem)}
    return max(tokens.items(), default=(0, None))


def _is_token(stem: str) -> bool:
    return stem.isascii() and stem.isdigit()


def _forget_older(folder: Path, token: int) -> None:
    """Delete older leases, and what processes that died while making one left."""
    for file in folder.iterdir():
        is_older = _is_token(file.stem) and int(file.stem) < token
        if is_older or file.suffix == ".tmp":
            with suppress(OSError):  # what cannot be deleted is older all the same
                file.unlink()


def _is_gone(path: Path) -> bool:
    """Whether the holder was a process of this machine, as we see its processes, that is no more."""
    try:
        holder = parse_json(path.read_bytes()[COUNTER_DIGITS + 1 :])
        pid, machine = int(holder["pid"]), holder["machine"]
    except FileNotFoundError:
        return True  # released meanwhile: the race for the next token decides
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return False
    ours = _identity(pid)
    if not machine or machine != ours["machine"]:
        return False
    return not is_running(pid) or holder.get("started") != ours["started"]


def _stands_still(path: Path) -> bool:
    """Whether the holder's file has not changed for LEASE_SECONDS while this process looked.

    What cannot be read counts as empty: a holder that lives all the same is fenced off by the higher token.
    """
    content = b""
    with suppress(OSError):
        content = path.read_bytes()
    now = time.monotonic()
    before, since = _seen.get(path, (b"", now))
    if content != before:
        since = now
    _seen[path] = content, since
    return now - since >= LEASE_SECONDS


def _identity(pid: int) -> dict[str, str | int | None]:
    """A process by machine, boot, process namespace, number and start; parts are None where unknown."""
    return {
        "pid": pid,
        "machine": machine(),
        "started": _start_of(pid),
        "host": socket.gethostname(),
    }


def _start_of(pid: int) -> str | None:
    """When a process began, in ticks since boot: numbers are used again, starts are not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None


def _busy(folder: Path) -> BusyError:
    return BusyError(
        f"run {folder.parent.name} is being trained by another process",
        hint="wait for it, or stop it, then run the same command again",
    )
