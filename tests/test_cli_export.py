"""`llama-scale export` on a run that was really trained: transformers measures the loss that we recorded."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from recipes import prepared_sweep

from llama_scale.cli import main
from llama_scale.runs import RunFolder, ScheduleConfig, create_run, run_id
from llama_scale.training.data import data_folder, evaluation_batches, open_tokens
from llama_scale.training.loop import train_run
from llama_scale.training.weights import load_weights

transformers = pytest.importorskip("transformers", reason="the test extra is not installed")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunFolder, RunFolder]:
    """A store with a trunk that stands at its branch point and a branch that has ended."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("export")
    place = folder / "runs"
    files, (trunk, branch, *_) = prepared_sweep(folder)
    for config in (trunk, branch):
        create_run(place, config)
    for config in (trunk, branch):
        train_run(
            place,
            RunFolder(place / run_id(config)),
            files,
            device=torch.device("cpu"),
            should_stop=lambda: False,
        )
    return place, RunFolder(place / run_id(trunk)), RunFolder(place / run_id(branch))


def export(store: Path, run: str, *others: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, ["export", run, "--store", str(store), *others])
    return result.exit_code, result.stdout, result.stderr


def test_transformers_finds_the_loss_of_the_record(store: tuple[Path, RunFolder, RunFolder]) -> None:
    place, _, branch = store
    code, out, _ = export(place, branch.run, "--json")
    assert code == 0
    said = json.loads(out)
    assert said["step"] is None
    model = transformers.AutoModelForCausalLM.from_pretrained(said["folder"], dtype=torch.float32)
    [prepared] = (place / "data").iterdir()
    files = open_tokens(prepared)
    config = branch.config
    nats, count = 0.0, 0
    for ids in evaluation_batches(
        files, tokens=config.data.evaluation_tokens, sequences=8, context=config.model.context
    ):
        batch = torch.from_numpy(ids).long()
        with torch.no_grad():
            logits = model(batch[:, :-1]).logits
        nats += torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), batch[:, 1:].flatten(), reduction="sum"
        ).item()
        count += batch[:, 1:].numel()
    result = branch.result()
    assert result and nats / count == pytest.approx(result["loss_nats"], rel=1e-5)
    tokenizer = transformers.AutoTokenizer.from_pretrained(said["folder"])
    text = "import numpy as np\n"
    assert tokenizer(text)["input_ids"] == next(iter(files.tokenizer.encode([text])))[:-1].tolist()


def test_an_unfinished_run_gives_its_checkpoint(
    store: tuple[Path, RunFolder, RunFolder], tmp_path: Path
) -> None:
    place, trunk, _ = store
    code, out, _ = export(place, trunk.run, "--output", str(tmp_path / "trunk"))
    assert code == 0
    assert "of an unfinished schedule" in out
    assert (tmp_path / "trunk" / "model.safetensors").exists()


def test_a_run_may_be_named_by_how_it_begins(store: tuple[Path, RunFolder, RunFolder]) -> None:
    place, trunk, _ = store
    code, out, _ = export(place, trunk.run[:12], "--json")
    assert code == 0
    told = json.loads(out)
    assert told["run"] == trunk.run and told["folder"] == str(place / "exports" / trunk.run)


def test_a_run_that_diverged_has_no_weights_and_says_so(
    store: tuple[Path, RunFolder, RunFolder], tmp_path: Path
) -> None:
    _, trunk, _ = store
    wild = replace(trunk.config.optimizer, learning_rate=1e30, clip_norm=1e30)
    schedule = ScheduleConfig(kind="constant", total_steps=20, warmup_steps=0)
    config = replace(trunk.config, role="train", optimizer=wild, schedule=schedule)
    place = tmp_path / "runs"
    shutil.copytree(trunk.path.parent / "data", place / "data")
    folder = create_run(place, config)
    files = open_tokens(data_folder(place, config.data, config.corpus))
    cpu = torch.device("cpu")
    assert train_run(place, folder, files, device=cpu, should_stop=lambda: False) == "diverged"
    code, _, err = export(place, folder.run)
    assert code == 1 and re.search(r"diverged at step \d+, so it has no weights", err)


def test_what_cannot_be_exported_says_why(store: tuple[Path, RunFolder, RunFolder], tmp_path: Path) -> None:
    place, _, branch = store
    code, _, err = export(place, "0123456789abcdef")
    assert (code, "there is no run" in err, "runs ls" in err) == (2, True, True)
    code, _, err = export(place, "")
    assert (code, "the name of the run is empty" in err, "runs ls" in err) == (2, True, True)
    (tmp_path / "there").mkdir()
    code, _, err = export(place, branch.run, "--output", str(tmp_path / "there"))
    assert code == 2 and "is there already" in err
    weights = branch.path / "weights.safetensors"
    whole = weights.read_bytes()
    try:
        weights.write_bytes(whole[: len(whole) // 2])
        code, _, err = export(place, branch.run, "--output", str(tmp_path / "torn"))
        assert code == 1 and "cannot be used" in err
        weights.unlink()
        code, _, err = export(place, branch.run, "--output", str(tmp_path / "gone"))
        assert code == 1 and "weights.safetensors is not there" in err
    finally:
        weights.write_bytes(whole)
    assert not (tmp_path / "torn").exists()


def test_weights_are_those_of_the_last_step(store: tuple[Path, RunFolder, RunFolder]) -> None:
    model, step = load_weights(store[2])
    assert step is None
    assert np.isfinite(sum(float(p.detach().abs().sum()) for p in model.parameters()))
