"""`train` through the real command: what it says, writes, and goes on from."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from single_recipe import ALONE, finish, only_run, start, surroundings, train, wait_for_start, write_single

from llama_scale.cli.train_words import opening
from llama_scale.launch.single import KnownRun, Seat
from llama_scale.runs import RunFolder
from llama_scale.single import SingleSpec, single_run
from llama_scale.training.world import World

STEPS = 120


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_single(tmp_path_factory.mktemp("home"), STEPS)


def test_a_dry_run_tells_the_run_and_writes_nothing(home: Path) -> None:
    told = train(home, "--dry-run", "--store", "dry", "--set", "steps=64")
    assert told["steps"] == 64 and told["tokens"] == 64 * 4 * 32
    assert told["parameters"]["total"] > told["parameters"]["non_embedding"] > 0
    assert told["expected_seconds"] > 0 and told["disk_bytes"] > 12 * told["parameters"]["total"]
    assert not (home / "dry").exists()


def test_an_interrupted_run_goes_on_by_the_same_command_to_the_bit(home: Path) -> None:
    whole = train(home, "--store", "whole")
    process = start(home, "--store", "broken")
    folder = wait_for_start(home / "broken", process, 1)
    process.send_signal(signal.SIGINT)
    out, said = finish(process, code=130)
    assert out == "" and folder.checkpoint_steps()
    (again,) = re.findall(r"To go on: llama-scale (.*)", said)
    assert again == "train one.toml --device cpu --store broken"
    done = subprocess.run(
        [*ALONE, *again.split()], cwd=home, env=surroundings(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    one, other = only_run(home / "whole"), folder
    assert one.result() == other.result() and whole["loss_nats"] == (other.result() or {})["loss_nats"]
    each = [
        [(e["each_loss_nats"], e["each_gradient_norm"]) for e in f.events() if e["event"] == "train"]
        for f in (one, other)
    ]
    assert each[0] == each[1] and sum(len(losses) for losses, _ in each[0]) == STEPS
    # Nothing is a terminal here: plain lines, no escape sequences.
    assert re.search(r"step 120 of 120 · loss \d\.\d+ nats · LR .* tokens/s · MFU \d+\.\d%", done.stderr)
    assert "\x1b" not in said + done.stderr + done.stdout
    assert "bits a byte" in done.stdout
    repeated = train(home, "--store", "broken")
    assert repeated["loss_nats"] == whole["loss_nats"]


def test_a_harmed_checkpoint_is_passed_over_and_it_says_so(home: Path) -> None:
    process = start(home, "--store", "harmed")
    folder = wait_for_start(home / "harmed", process, 1)
    process.send_signal(signal.SIGINT)
    finish(process, code=130)
    (step,) = folder.checkpoint_steps()
    state = folder.checkpoint_path(step) / "state.pt"
    content = bytearray(state.read_bytes())
    content[len(content) // 2] ^= 1
    state.write_bytes(content)
    _, said = finish(start(home, "--store", "harmed"), code=0)
    (warning,) = re.findall(r"^warning: (.*checkpoint.*)$", said, re.MULTILINE)
    assert f"checkpoint {step} of run" in warning and warning.endswith("the run goes on from step 0")
    assert (folder.result() or {})["status"] == "done"


def test_a_dry_run_names_the_text(home: Path) -> None:
    out, _ = finish(start(home, "--store", "dry", "--dry-run"), code=0)
    assert re.search(r"^ *text +\S+", out, re.MULTILINE)


def test_what_is_typed_is_taken_to_the_letter(home: Path) -> None:
    _, said = finish(start(home, "--data", "no\N{GRINNING FACE}where", "--store", "dry", "--dry-run"), code=2)
    assert "there is no no\N{GRINNING FACE}where\n" in said


def test_problems_of_the_options_are_told_with_those_of_the_recipe(home: Path) -> None:
    words = ("--model", "nope", "--learning-rate", "-1")
    _, said = finish(start(home, *words, "--dry-run"), code=2)
    assert said.startswith("error: one.toml with the options has 2 problems\n")
    assert "no model is called 'nope'" in said and "learning_rate is -1" in said


def test_a_run_too_short_is_told_with_a_text_that_is_not_there(home: Path) -> None:
    words = ("--data", "nowhere", "--set", "training.warmup_steps=500", "--dry-run")
    _, said = finish(start(home, *words), code=2)
    assert said.startswith("error: 2 problems\n")
    assert "too short for 500 steps of warm-up" in said and "there is no nowhere" in said


def test_mirrors_hold_what_the_log_holds(home: Path) -> None:
    train(home, "--store", "mirrored", "--mirror", "tensorboard", "--mirror", "wandb")
    folder = only_run(home / "mirrored")
    logged = [loss for e in folder.events() if e["event"] == "train" for loss in e["each_loss_nats"]]
    script = (
        "import json, sys; from tensorboard.backend.event_processing import event_accumulator as events;"
        "read = events.EventAccumulator(sys.argv[1], size_guidance={'scalars': 0}); read.Reload();"
        "print(json.dumps([[s.step, s.value] for s in read.Scalars('train/loss_nats')]))"
    )
    read = subprocess.run(
        [sys.executable, "-c", script, str(folder.path / "tensorboard")], capture_output=True, text=True
    )
    mirrored = json.loads(read.stdout)
    assert [step for step, _ in mirrored] == list(range(1, STEPS + 1))
    assert [value for _, value in mirrored] == pytest.approx(logged, rel=1e-6)
    (offline,) = (folder.path / "wandb").glob(f"offline-run-*-{folder.run}")
    (data,) = offline.glob("run-*.wandb")
    assert b"train/loss_nats" in data.read_bytes()


def test_a_mode_that_weights_and_biases_lacks_is_refused_at_once(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "sideways")
    _, said = finish(start(home, "--store", "bad", "--mirror", "wandb"), code=2)
    assert said.startswith("error: WANDB_MODE is 'sideways'\nhint: use offline, online")


@pytest.mark.parametrize("size", [1, 2])
def test_a_run_says_on_how_many_processes_it_trains(home: Path, size: int) -> None:
    config = single_run(SingleSpec(model="2x64", steps=100), "corpus")
    run = KnownRun(config=config, folder=RunFolder(home / "nowhere" / "0123456789abcdef"))
    world, cuda = World(size=size, shards=True), torch.device("cuda")
    seat = Seat(device=cuda, world=world, peak=None, has_bf16=True)
    said = opening(run, seat)
    assert f"; on {size} {'process' if size == 1 else 'processes'} on cuda, kept" in said
    assert said.endswith("in bf16: --set training.precision=bf16.")
    assert "bf16" not in opening(run, replace(seat, has_bf16=False))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "llama-9000b"], "no model is called"),
        (["--set", "training.sequencez=3"], "sequencez"),
        (["--steps", "1"], "too short"),
        (["--data", "nowhere"], "nowhere"),
        (["--peak", "H9000"], "unknown accelerator"),
        (["--peak", "0"], "a peak of 0 is no rate"),
        (["--model", "0"], "cannot have 0 parameters"),
        (["--set", "tokens=5000"], "both say how long"),
    ],
)
def test_bad_input_is_one_line_and_a_hint(home: Path, words: list[str], message: str) -> None:
    _, said = finish(start(home, "--store", "bad", *words), code=2)
    assert message in said and "hint: " in said and "Traceback" not in said
    assert not (home / "bad").exists()


def test_a_run_that_diverges_says_so_and_is_not_tried_again(home: Path) -> None:
    words = ("--store", "diverged", "--learning-rate", "1e12", "--set", "training.clip_norm=1e30")
    told = train(home, *words, code=1)
    assert told["status"] == "diverged" and 0 < told["steps"] < STEPS
    assert train(home, *words, code=1)["steps"] == told["steps"]


def on_a_terminal(home: Path, *words: str, **variables: str) -> tuple[int, str, bytes]:
    """How `train one.toml` leaves, what it says on stdout, and what a terminal on its stderr shows."""
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [*ALONE, "train", "one.toml", "--device", "cpu", *words],
        cwd=home,
        env=surroundings() | {"TERM": "xterm", "COLUMNS": "100"} | variables,
        stdout=subprocess.PIPE,
        stderr=slave,
        text=True,
    )
    os.close(slave)
    seen = b""
    while True:
        try:
            chunk = os.read(master, 65536)
        except OSError:  # Linux' way of saying that nobody writes any more
            break
        if not chunk:
            break
        seen += chunk
    os.close(master)
    out, _ = process.communicate(timeout=60)
    return process.returncode, out, seen


@pytest.mark.parametrize("colour", [True, False])
def test_a_terminal_shows_a_live_view_unless_colours_are_off(home: Path, colour: bool) -> None:
    variables = {} if colour else {"NO_COLOR": "1"}
    code, _, seen = on_a_terminal(home, "--store", f"terminal-{colour}", **variables)
    assert code == 0
    assert (b"\x1b[" in seen) == colour
    assert (b"step 120 of 120" in seen) != colour
    assert (b"120/120" in seen) == colour


def test_a_live_view_outlives_a_loss_that_is_no_number(home: Path) -> None:
    words = ("--learning-rate", "1e30", "--set", "training.clip_norm=1e30")
    code, out, seen = on_a_terminal(home, "--store", "terminal-diverged", *words)
    assert code == 1 and "diverged at step" in out and b"Traceback" not in seen
