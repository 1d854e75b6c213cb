"""Records of many runs, read by several processes: taking specs apart keeps a core busy, not the disk."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from llama_scale.errors import StoreError
from llama_scale.runs.folders import RunFolder
from llama_scale.runs.records import RunRecord, read_record
from llama_scale.runs.remembered import record_of, values_of

WORTH_FORKING = 1000  # runs: fewer are read in the time that processes take to start
MOST_PROCESSES = 4
CHUNK = 200  # runs at a time


def read_all(store: Path, runs: Sequence[str]) -> Iterator[RunRecord | StoreError]:
    """What is known of each run, in order, or why it cannot be read."""
    answered = 0
    for answer in _answers(store, runs):
        yield answer
        answered += 1
    for run in runs[answered:]:
        yield _read(store, run)


def _answers(store: Path, runs: Sequence[str]) -> Iterator[RunRecord | StoreError]:
    """What other processes say of the first runs: all of them, unless there are none or one is killed."""
    processes = min(MOST_PROCESSES, _usable_cores())
    if len(runs) < WORTH_FORKING or processes < 2 or not _is_single_threaded():
        return

    from concurrent.futures import ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool
    from multiprocessing import get_context

    # A fork has all modules at once, and one thread can hold no lock that it would wait for.
    with (
        suppress(BrokenProcessPool),
        ProcessPoolExecutor(processes, get_context("fork"), _leave_signals) as pool,
    ):
        for answer in pool.map(_read_plainly, [store] * len(runs), runs, chunksize=CHUNK):
            yield StoreError(answer[0], hint=answer[1]) if isinstance(answer, tuple) else record_of(answer)


def _read(store: Path, run: str) -> RunRecord | StoreError:
    try:
        return read_record(RunFolder(store / run))
    except StoreError as error:
        return error


def _read_plainly(store: Path, run: str) -> list[object] | tuple[str, str]:
    """A record as plain values, or message and hint of an error: what goes fast from process to process."""
    found = _read(store, run)
    return (found.message, found.hint or "") if isinstance(found, StoreError) else values_of(found)


def _leave_signals() -> None:
    """Ctrl-C is the reader's to answer, and what else it answers to is not for its helpers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


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
