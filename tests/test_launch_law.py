"""The law of a sweep that suffered faults, against that of one that nothing happened to."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path

import pytest
from recipes import write_recipe
from test_launch import command, wait_for, workers_of, workers_train

from llama_scale.runs import RunFolder, run_folders

DESIGN = """[design]
widths = [8, 16, 32]
budgets_flops = ["2.5e9", "5e9", "1e10", "2e10"]
holdouts = [{ width = 16, budget_flops = "4e10" }]
"""


def write_lawful(folder: Path) -> Path:
    """A recipe whose runs, though small, identify a law."""
    recipe = write_recipe(folder, "lawful")
    text = recipe.read_text().replace("sequences_per_step = 2", "sequences_per_step = 8")
    recipe.write_text(re.sub(r"\[design\].*", DESIGN, text, flags=re.DOTALL))
    return recipe


def start(recipe: Path, store: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command(recipe, store), stdout=subprocess.DEVNULL, start_new_session=True)


def begun(store: Path) -> RunFolder | None:
    """A run that has saved a checkpoint and not ended."""
    folders = run_folders(store) if store.is_dir() else []
    return next((f for f in folders if f.checkpoint_steps() and not f.is_finished), None)


@pytest.mark.slow
def test_the_law_of_a_sweep_with_faults_is_that_of_one_without(tmp_path: Path) -> None:
    """All its processes die; a checkpoint and a log are harmed; a worker dies: the fit is the same file."""
    recipe, calm, faulted = write_lawful(tmp_path), tmp_path / "calm", tmp_path / "faulted"
    assert start(recipe, calm).wait(timeout=900) == 0

    process = start(recipe, faulted)
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

    process = start(recipe, faulted)
    wait_for(lambda: workers_train(faulted) or process.poll() is not None, "workers that train")
    os.kill(workers_of(faulted)[0], signal.SIGKILL)
    assert process.wait(timeout=900) == 0
    fits = [store / "fits" / "lawful.json" for store in (calm, faulted)]
    assert fits[0].read_bytes() == fits[1].read_bytes()
