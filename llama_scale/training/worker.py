"""The one way a run is ever trained: bring it as far as it can go now, or find it finished."""

from __future__ import annotations

import gc
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import torch

from llama_scale.errors import LlamaScaleError
from llama_scale.files import store_error, write_atomically
from llama_scale.runs import EXIT_DONE, EXIT_FAILED, EXIT_RETRY, BusyError, RunFolder, find_run, stop_signals
from llama_scale.training.data import TokenFiles, data_folder, open_tokens, verify_tokens
from llama_scale.training.environment import choose_device
from llama_scale.training.kernels import check_precision
from llama_scale.training.loop import check_corpus, train_run

LOOK_SECONDS = 0.5  # between two tries to take a run that another process holds
CHECKED_BYTES = 2**30


def work(
    store: Path,
    run: str,
    *,
    device: str = "auto",
    should_stop: Callable[[], bool],
    wait_seconds: float = 0.0,
) -> int:
    """Train `run` of `store` and return the worker's exit code: done, retry later, or failed.

    A run that another process holds is waited for `wait_seconds`: should its heartbeat stand still for
    so long, the run is taken over. A failure leaves its reason in the run's worker.log.
    """
    folder = RunFolder(store / run)
    try:
        folder = find_run(store, run)
        config = folder.config
        files = _open_tokens(data_folder(store, config.data, config.corpus))
        check_corpus(folder, files)
        chosen, deadline = choose_device(device), time.monotonic() + wait_seconds
        if not folder.is_finished:  # a cluster's cards are not those of the machine that started the sweep
            check_precision(config.precision, chosen)
        while True:
            with suppress(BusyError):
                outcome = train_run(store, folder, files, device=chosen, should_stop=should_stop)
                break
            if should_stop() or time.monotonic() >= deadline:
                return EXIT_RETRY
            time.sleep(LOOK_SECONDS)
    except LlamaScaleError as error:
        _leave_log(folder, f"error: {error.message}\nhint: {error.hint}\n")
        return EXIT_FAILED
    except OSError as error:
        known = store_error(error, f"cannot read or write {error.filename or folder.path}")
        _leave_log(folder, f"error: {known.message}\nhint: {known.hint}\n\n{traceback.format_exc()}")
        return EXIT_FAILED
    except Exception:
        _leave_log(folder, traceback.format_exc())
        return EXIT_FAILED
    finally:
        _give_back_memory()
    return EXIT_DONE if outcome in ("done", "diverged") else EXIT_RETRY


def _give_back_memory() -> None:
    """Give back what torch kept of a card for a run that has ended: other runs on it count on that."""
    if torch.cuda.is_initialized():
        gc.collect()  # what torch imports late holds the frames of a first run, and so its model, in a cycle
        with suppress(RuntimeError):  # a card that has failed fails at every call; why is in the run's log
            torch.cuda.empty_cache()


@lru_cache(maxsize=1)
def _open_tokens(folder: Path) -> TokenFiles:
    """Prepared data, checked against its hashes once a process where that takes no more than a second or so.

    Larger ones are checked by the sweep alone: every job of a cluster would read them whole.
    """
    files = open_tokens(folder)
    if sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) <= CHECKED_BYTES:
        verify_tokens(files)
    return files


def _leave_log(folder: RunFolder, text: str) -> None:
    """Write worker.log; where it cannot be written, say it: stdout belongs to the launcher."""
    if not folder.path.is_dir():
        print(text, file=sys.stderr, flush=True)
        return
    try:
        write_atomically(folder.log, text)
    except LlamaScaleError as error:
        print(f"{text}(and no log could be left: {error.message})", file=sys.stderr, flush=True)


def stop_on_signals(parent: int) -> Callable[[], bool]:
    """A question that turns true on `stop_signals`, or when `parent`, which started this, is gone.

    A second SIGINT ends the process at once.
    """
    asked = False

    def ask(number: int, frame: object) -> None:
        nonlocal asked
        asked = True
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.SIG_DFL)

    for number in stop_signals():
        signal.signal(number, ask)
    return lambda: asked or os.getppid() != parent


def use_allotted_threads() -> None:
    """Run on as many threads as OMP_NUM_THREADS allots: two workers that share a core both lose time."""
    allotted = os.environ.get("OMP_NUM_THREADS", "")
    if allotted.isdigit():
        torch.set_num_threads(int(allotted))
