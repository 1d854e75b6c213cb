"""The law of a sweep that suffered faults, against that of one that nothing happened to."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest
from recipes import write_recipe
from test_launch import command, train, wait_for, workers_of, workers_train

from llama_scale.fitting import fit
from llama_scale.laws import fit_to_json
from llama_scale.runs import RunFolder, read_records, run_folders

DESIGN = """[design]
widths = [8, 16, 32]
budgets_flops = ["2.5e9", "5e9", "1e10"]
holdouts = [{ width = 16, budget_flops = "2e10" }]
"""


def write_lawful(folder: Path) -> Path:
    """A recipe whose runs, though small, identify a law."""
    recipe = write_recipe(folder, "lawful")
    text = recipe.read_text().replace("sequences_per_step = 2", "sequences_per_step = 8")
    recipe.write_text(re.sub(r"\[design\].*", DESIGN, text, flags=re.DOTALL))
    return recipe


def law(store: Path) -> dict[str, Any]:
    """The fit of a store with its draws, its test on the hold-out and the hash of its runs."""
    return fit_to_json(fit(read_records(store), form="tied", draws=20, backtest=False))


def begun(store: Path) -> RunFolder | None:
    """A run that has saved a checkpoint and not ended."""
    folders = run_folders(store) if store.is_dir() else []
    return next((f for f in folders if f.checkpoint_steps() and not f.is_finished), None)


def kill_a_worker(store: Path) -> None:
    wait_for(lambda: workers_train(store), "workers that train")
    os.kill(workers_of(store)[0], signal.SIGKILL)


@pytest.mark.slow
def test_the_law_of_a_sweep_with_faults_is_that_of_one_without(tmp_path: Path) -> None:
    """All its processes die, a checkpoint and a log are harmed, then a worker dies."""
    recipe, calm, faulted = write_lawful(tmp_path), tmp_path / "calm", tmp_path / "faulted"
    assert train(recipe, calm)[0].failed == ()

    process = subprocess.Popen(command(recipe, faulted), stderr=subprocess.DEVNULL, start_new_session=True)
    wait_for(lambda: begun(faulted) or process.poll() is not None, "a checkpoint")
    for pid in [process.pid, *workers_of(faulted)]:
        os.killpg(pid, signal.SIGKILL)
    process.wait()
    harmed = begun(faulted)
    assert harmed
    state = harmed.checkpoint_path(harmed.checkpoint_steps()[-1]) / "state.pt"
    data = state.read_bytes()
    state.write_bytes(data[:-100] + bytes([data[-100] ^ 1]) + data[-99:])
    with (harmed.path / "events.jsonl").open("ab") as log:
        log.write(b'{"event":"train","st')

    killer = threading.Thread(target=kill_a_worker, args=(faulted,))
    killer.start()
    assert train(recipe, faulted)[0].failed == ()
    killer.join()
    expected = law(calm)
    assert expected["n_observations"] == 9 and len(expected["held_out"]) == 1
    assert law(faulted) == expected
