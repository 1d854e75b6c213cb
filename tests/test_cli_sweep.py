"""`sweep`, `runs` and `data` through the real command, on a real store."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from recipes import write_recipe

from llama_scale.cli.sweep import _conclude
from llama_scale.errors import UnidentifiedError
from llama_scale.launch import LaunchReport, prepare_sweep
from llama_scale.laws import ScalingLaw
from llama_scale.runs import RunFolder, create_run, read_records, run_folders
from llama_scale.sweeps import load_recipe, recipe_names


def run(*words: str, cwd: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "llama_scale", *words],
        cwd=cwd,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small recipe."""
    home = tmp_path_factory.mktemp("home")
    write_recipe(home)
    return home


@pytest.fixture(scope="module")
def trained(home: Path) -> subprocess.CompletedProcess[str]:
    """The small recipe's sweep, trained: too few sizes and budgets for a law."""
    return run("sweep", "tiny.toml", cwd=home, code=1)


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a wider recipe whose runs are all finished, at the losses of a known law."""
    home = tmp_path_factory.mktemp("known")
    recipe = write_recipe(home, "wide")
    text = recipe.read_text().replace("widths = [8, 16]", "widths = [8, 16, 24, 32, 48, 64]")
    text = text.replace('["1.2e9", "1.8e9"]', '["3e9", "6e9", "1.2e10", "2.4e10"]').replace("3.6e9", "9.6e10")
    recipe.write_text(text)
    store, noise = home / "runs", np.random.default_rng(0)
    law = ScalingLaw(E=1.2, A=0.9 * 2e4**0.5, B=0.6 * 2e5**0.45, alpha=0.5, beta=0.45)
    for config in prepare_sweep(recipe, store=store, workers=2, device="cpu").sweep.runs:
        folder, steps = create_run(store, config), config.schedule.total_steps
        if steps:
            exact = float(law.loss(config.model.parameters.matmul, steps * config.tokens_per_step))
            loss = exact * float(np.exp(0.001 * noise.standard_normal()))
            found = {"loss_nats": loss, "bits_per_byte": loss / 2, "tokenizer": "t", "corpus": config.corpus}
            folder.write_result({"status": "done", "steps": steps, **found})
    return home


def test_a_dry_run_shows_every_run_and_writes_nothing(home: Path, tmp_path: Path) -> None:
    store = tmp_path / "runs"
    plan = json.loads(
        run("sweep", "tiny.toml", "--dry-run", "--store", str(store), "--json", cwd=home).stdout
    )
    assert plan["schema"] == 1
    assert len(plan["runs"]) == 2 + 4 + 1
    assert plan["train_flops"] == sum(r["train_flops"] for r in plan["runs"]) < plan["unshared_train_flops"]
    assert all(r["expected_seconds"] > 0 and not r["finished"] for r in plan["runs"])
    assert not store.exists()


def test_a_dry_run_says_what_will_not_come_of_the_sweep(home: Path, tmp_path: Path) -> None:
    words = ["sweep", "tiny.toml", "--dry-run", "--store", str(tmp_path / "runs")]
    ratios = ["--set", "design.tokens_per_parameter=[10, 1000]"]
    plan = json.loads(run(*words, *ratios, "--json", cwd=home).stdout)
    assert [model["width"] for model in plan["models_without_budget"]] == [16]
    assert "1x16 meets no budget" in plan["warnings"][0] and "cannot identify a law" in plan["warnings"][1]
    shown = " ".join(run(*words, *ratios, cwd=home).stdout.split())
    assert all(f"Warning: {warning}" in shown for warning in plan["warnings"])
    default = ["sweep", "default", "--dry-run", "--store", str(tmp_path / "runs"), "--json"]
    assert json.loads(run(*default, cwd=home).stdout)["warnings"] == []


def test_a_dry_run_fits_80_columns(home: Path, tmp_path: Path) -> None:
    shown = run("sweep", "default", "--dry-run", "--store", str(tmp_path / "runs"), cwd=home).stdout
    table = [line for line in shown.splitlines() if " to do " in line]
    assert len(table) > 30
    assert max(map(len, table)) <= 80
    flat = " ".join(shown.split())
    assert "less than without shared trunks" in flat and "Runs have 3 seeds" in flat


@pytest.mark.parametrize("name", [name for name in recipe_names() if load_recipe(name).machine])
def test_recipes_for_other_machines_are_planned_without_their_text(tmp_path: Path, name: str) -> None:
    shown = run("sweep", name, "--dry-run", "--store", "runs", cwd=tmp_path).stdout
    assert max(map(len, shown.splitlines())) <= 80
    flat = " ".join(shown.split())
    assert "an estimate, as H100-SXM is not here" in flat and "Needed first" in flat
    assert "The recipe states" in flat
    assert not (tmp_path / "runs").exists()


def test_a_sweep_ends_with_a_law_its_test_a_figure_and_the_next_command(known: Path) -> None:
    answer = json.loads(run("sweep", "wide.toml", "--json", cwd=known).stdout)
    assert answer["failed"] == []
    assert set(answer["fit"]["parameters"]) >= {"E", "A", "B", "alpha", "beta"}
    assert answer["fit"]["parameter_convention"] == "matmul"
    (held_out,) = answer["fit"]["held_out"]
    assert held_out["low"] < held_out["predicted"] < held_out["high"]
    assert abs(held_out["relative_error"]) < 0.02
    for figure in answer["figures"]:
        assert (known / figure).stat().st_size > 5_000
    again = run("sweep", "wide.toml", cwd=known)
    assert again.stdout.rstrip().endswith(f"llama-scale plan --law {answer['file']} --serve-tokens 1e12")
    assert "31 runs, 31 of them done before" in again.stderr
    planned = run("plan", "--law", answer["file"], "--budget", "1e15", "--serve-tokens", "1e6", cwd=known)
    assert planned.stdout.startswith("Train ")


def test_the_fit_of_another_sweep_is_never_replaced(known: Path, tmp_path: Path) -> None:
    """Nor one of an earlier version, which does not name its sweep, nor what is no fit; a sweep's own is."""
    shutil.copytree(known, tmp_path / "home")
    fits = tmp_path / "home" / "runs" / "fits"

    def swept() -> str:
        return json.loads(run("sweep", "wide.toml", "--json", cwd=tmp_path / "home").stdout)["file"]

    assert [swept(), swept()] == ["runs/fits/wide.json"] * 2
    first = (fits / "wide.json").read_text()
    recipe = tmp_path / "home" / "wide.toml"
    recipe.write_text(recipe.read_text().replace(', "2.4e10"', ""))
    other = swept()
    assert other != "runs/fits/wide.json" and swept() == other and len(list(fits.iterdir())) == 2
    assert (fits / "wide.json").read_text() == first
    content = json.loads(first)
    del content["sweep"]
    (fits / "wide.json").write_text(json.dumps(content))
    assert swept() == other and json.loads((fits / "wide.json").read_text()) == content
    (fits / "wide.json").write_text("garbage")
    said = run("sweep", "wide.toml", cwd=tmp_path / "home").stderr
    assert f"wide.json is no fit of this sweep, and stays: this one is {Path(other).name}" in said
    assert (fits / "wide.json").read_text() == "garbage"


def test_a_harmed_branch_point_is_trained_again_and_it_says_so(
    home: Path, trained: subprocess.CompletedProcess[str], tmp_path: Path
) -> None:
    store = tmp_path / "runs"
    shutil.copytree(home / "runs", store)
    folders = {folder.run: folder for folder in run_folders(store)}
    branch, trunk = next(
        (folder, trunk)
        for folder in folders.values()
        if folder.config.branch and (trunk := folders[folder.config.branch.parent]).checkpoint_steps()
        if folder.config.first_step in trunk.checkpoint_steps()
    )
    first = (branch.result() or {})["loss_nats"]
    for name in ("result.json", "events.jsonl"):
        (branch.path / name).unlink()
    state = trunk.checkpoint_path(branch.config.first_step) / "state.pt"
    state.write_bytes(state.read_bytes()[:-1] + b"?")
    said = run("sweep", "tiny.toml", "--store", str(store), cwd=home, code=1).stderr
    assert f"checkpoint {branch.config.first_step} of run {trunk.run} cannot be used" in said
    assert (branch.result() or {})["loss_nats"] == first
    assert "harmed checkpoints" not in trained.stderr
    again = run("sweep", "tiny.toml", "--store", str(store), cwd=home, code=1)
    assert "harmed checkpoints" not in again.stderr


def test_torn_results_and_specs_are_made_anew_and_it_says_so(
    home: Path, trained: subprocess.CompletedProcess[str], tmp_path: Path
) -> None:
    store = tmp_path / "runs"
    shutil.copytree(home / "runs", store)
    before = read_records(store)
    first, second = [folder for folder in run_folders(store) if folder.is_finished][:2]
    (first.path / "result.json").write_text("")
    (second.path / "spec.json").write_bytes(b"\0" * 100)
    planned = run("sweep", "tiny.toml", "--store", str(store), "--dry-run", "--json", cwd=home)
    plan = json.loads(planned.stdout)
    states = {one["run"]: one["state"] for one in plan["runs"]}
    assert states[first.run] == "to do" and states[second.run] == "done" and plan["expected_seconds"] > 0
    assert sum(first.run in told or second.run in told for told in plan["warnings"]) == 2
    fit = run("fit", str(store), cwd=home, code=1).stderr
    assert first.run in fit and second.run in fit
    said = run("sweep", "tiny.toml", "--store", str(store), cwd=home, code=1).stderr
    assert f"result.json of run {first.run} was torn or changed: it is kept as result.damaged-0" in said
    assert f"spec.json of run {second.run} was torn: it is written again" in said
    assert "7 runs, 7 of them done before" not in said  # nor may its trunk be, where the point is gone
    assert read_records(store) == before
    assert "was torn" not in run("sweep", "tiny.toml", "--store", str(store), cwd=home, code=1).stderr


def test_a_device_that_is_not_here_is_refused_before_anything_trains(home: Path, tmp_path: Path) -> None:
    store = tmp_path / "runs"
    for recipe, *words in (
        ("tiny.toml",),
        ("tiny.toml", "--launcher", "slurm"),
        ("one-gpu-night", "--dry-run"),
    ):
        words += ["--device", "tpu", "--store", str(store)]
        said = run("sweep", recipe, *words, cwd=home, code=2).stderr
        assert said.splitlines()[-2] == "error: there is no device called 'tpu'"
        assert not store.exists()


def test_what_trains_elsewhere_is_not_timed_here(home: Path, tmp_path: Path) -> None:
    words = ["--launcher", "slurm", "--device", "cuda:63", "--store", str(tmp_path / "runs")]
    plan = json.loads(run("sweep", "tiny.toml", *words, "--dry-run", "--json", cwd=home).stdout)
    assert not plan["is_measured"] and len(plan["runs"]) == 7
    shown = run("sweep", "tiny.toml", *words, "--workers", "3", "--dry-run", cwd=home).stdout
    assert "if slurm runs 3 at once" in " ".join(shown.split())


def test_a_sweep_of_which_nothing_ended_says_that(home: Path, tmp_path: Path) -> None:
    prepared = prepare_sweep(home / "tiny.toml", store=tmp_path, workers=1, device="cpu")
    failed = LaunchReport(failed=tuple(prepared.sweep.by_id), seconds=1.0, busy_share=None)
    with pytest.raises(UnidentifiedError, match="no run of this sweep has come to an end"):
        _conclude(prepared, failed, tmp_path)


def test_a_run_that_diverged_is_left_out_of_the_law_and_named(known: Path, tmp_path: Path) -> None:
    """The same law with it as without it, in numbers and in words."""
    store = tmp_path / "runs"
    run("data", "prepare", "wide.toml", cwd=known)
    shutil.copytree(known / "runs", store)
    words = (
        "fit",
        str(store),
        "--form",
        "chinchilla",
        "--draws",
        "0",
        "--output",
        str(tmp_path / "law.json"),
    )
    before = json.loads(run(*words, "--json", cwd=tmp_path).stdout)
    done = next(r for r in read_records(store) if r.role == "train")
    config = RunFolder(store / done.run).config
    optimizer = replace(config.optimizer, learning_rate=1e12, clip_norm=1e30)
    bad = create_run(store, replace(config, branch=None, optimizer=optimizer))
    for _ in range(2):  # the second does nothing
        run("worker", bad.run, "--store", str(store), "--device", "cpu", cwd=tmp_path)
    assert sum(event["event"] == "start" for event in bad.events()) == 1
    after = json.loads(run(*words, "--json", "--force", cwd=tmp_path).stdout)
    assert after["parameters"] == before["parameters"] and after["n_observations"] == before["n_observations"]
    reason = "it diverged: its loss or its gradient was no longer a number"
    assert {"run": bad.run, "reason": reason} in after["exclusions"]
    said = " ".join(run(*words, "--force", cwd=tmp_path).stdout.split())
    assert f"left out {bad.run}: {reason}" in said


def test_a_sweep_that_identifies_no_law_says_so_and_keeps_its_runs(
    home: Path, trained: subprocess.CompletedProcess[str]
) -> None:
    assert "error: " in trained.stderr
    assert "hint: " in trained.stderr
    assert trained.stdout == ""
    assert "7 runs: 7 done." in run("runs", "ls", cwd=home).stdout


def test_the_store_can_be_listed_shown_and_exported(
    home: Path, tmp_path: Path, trained: subprocess.CompletedProcess[str]
) -> None:
    listed = json.loads(run("runs", "ls", "--json", cwd=home).stdout)["runs"]
    assert len(listed) == 7
    name = next(r["run"] for r in listed if r["role"] == "holdout")
    shown = json.loads(run("runs", "show", name, "--json", cwd=home).stdout)
    assert shown["record"]["run"] == name
    assert shown["curve"]["steps"]
    out = tmp_path / "records.json"
    run("runs", "export", str(out), cwd=home)
    refused = run("runs", "export", str(out), cwd=home, code=2)
    assert "--force" in refused.stderr
    assert "there is no run nosuch" in run("runs", "show", "nosuch", cwd=home, code=2).stderr


def test_the_text_can_be_shown_and_verified(home: Path, trained: subprocess.CompletedProcess[str]) -> None:
    (shown,) = json.loads(run("data", "show", "--json", cwd=home).stdout)["data"]
    assert shown["sources"][0]["train"]["tokens"] > 100_000
    run("data", "verify", cwd=home)
    tokens = home / shown["folder"] / "train-00-00000.bin"
    data = tokens.read_bytes()
    tokens.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    assert "has changed" in run("data", "verify", cwd=home, code=1).stderr
    assert "has changed" in run("sweep", "tiny.toml", cwd=home, code=1).stderr
    tokens.write_bytes(data)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sweep", "nosuch"], "there is no recipe called 'nosuch'"),
        (["sweep", "nosuch.toml"], "there is no file nosuch.toml"),
        (["sweep", "tiny.toml", "--set", "design.widthz=[8]"], "widthz"),
        (["sweep", "tiny.toml", "--set", "design.budgets_flops=[1e5]"], "too few"),
        (["sweep", "tiny.toml", "--set", "data.source=nowhere"], "there is no nowhere"),
        (
            ["sweep", "tiny.toml", "--launcher", "slurm", "--launcher-options", "--partition='gpu"],
            "no closing quot",
        ),
        (["sweep", "tiny.toml", "--launcher", "ray", "--launcher-options", "'"], "no closing quotation"),
        (["sweep", "tiny.toml", "--dry-run", "--launcher-options", "--time=1"], "the launcher is local"),
        (["sweep", "tiny.toml", "--set", "data.vocabulary=100"], "starts from 256 bytes"),
    ],
)
def test_bad_input_is_one_line_and_a_hint(home: Path, tmp_path: Path, words: list[str], message: str) -> None:
    refused = run(*words, "--store", str(tmp_path / "runs"), cwd=home, code=2)
    assert message in refused.stderr
    assert "hint: " in refused.stderr
    assert refused.stdout == ""


def test_a_store_that_cannot_be_written_is_said_so(home: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    refused = run("sweep", "tiny.toml", "--store", str(tmp_path / "file" / "runs"), cwd=home, code=1)
    assert "cannot" in refused.stderr
    assert "hint: " in refused.stderr
