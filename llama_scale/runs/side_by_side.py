"""Records of many runs, read by several processes: taking specs apart keeps a core busy, not the disk."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

from llama_scale.errors import StoreError
from llama_scale.runs.folders import RunFolder
from llama_scale.runs.records import RunRecord, read_record
from llama_scale.runs.remembered import record_of, values_of

WORTH_FORKING = 1000  # runs: fewer are read in the time that processes take to start
MOST_PROCESSES = 4


def read_all(store: Path, runs: Sequence[str]) -> Iterator[RunRecord | StoreError]:
    """What is known of each run, in order, or why it cannot be read."""
    processes = min(MOST_PROCESSES, _usable_cores()) if len(runs) >= WORTH_FORKING else 1
    if processes < 2 or not _is_single_threaded():
        for run in runs:
            yield _read(store, run)
        return

    from multiprocessing import get_context

    # A fork has all modules at once, and one thread can hold no lock that it would wait for.
    with get_context("fork").Pool(processes, _leave_interrupts) as pool:
        for answer in pool.imap(_read_plainly, ((store, run) for run in runs), chunksize=200):
            yield StoreError(answer[0], hint=answer[1]) if isinstance(answer, tuple) else record_of(answer)


def _read(store: Path, run: str) -> RunRecord | StoreError:
    try:
        return read_record(RunFolder(store / run))
    except StoreError as error:
        return error


def _read_plainly(asked: tuple[Path, str]) -> list[object] | tuple[str, str]:
    """A record as plain values, or message and hint of an error: what goes fast from process to process."""
    found = _read(*asked)
    return (found.message, found.hint or "") if isinstance(found, StoreError) else values_of(found)


def _leave_interrupts() -> None:
    """Ctrl-C is the reader's to answer: it ends the others."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _usable_cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # only Linux tells
        return 1


def _is_single_threaded() -> bool:
    try:
        return len(os.listdir("/proc/self/task")) == 1
    except OSError:
        return False
