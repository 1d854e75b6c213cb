"""`llama-scale data` on real files: prepare, show, verify, what is broken; a mixture that runs train on."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from recipes import TINY, write_text

from llama_scale.cli import main
from llama_scale.config import load_toml
from llama_scale.runs import RunConfig, RunFolder, create_run, run_id
from llama_scale.sweeps import SweepSpec, expand
from llama_scale.training.data import TokenFiles, open_tokens
from llama_scale.training.loop import train_run
from llama_scale.training.preparing import find_text, prepare


def run(*words: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, words)
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def mixture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe over a folder of Python and a file of lines, three to one; its folder is where one stands."""
    monkeypatch.chdir(tmp_path)
    modules = sorted(write_text(tmp_path / "code").iterdir())
    lines = modules[0].read_text().splitlines(keepends=True)
    modules[0].unlink()
    documents = ["".join(lines[i : i + 20]) for i in range(0, len(lines), 20)]
    (tmp_path / "notes.jsonl").write_text("".join(json.dumps({"body": d}) + "\n" for d in documents))
    sources = '[{source = "code", weight = 3}, {source = "notes.jsonl", name = "notes", weight = 1}]'
    recipe = tmp_path / "mixed.toml"
    recipe.write_text(TINY.format(source="-").replace("source = '-'", f"sources = {sources}"))
    return recipe


def prepared(recipe: Path) -> dict[str, Any]:
    code, out, err = run("data", "prepare", str(recipe), "--json")
    assert code == 0, err
    (data,) = json.loads(out)["data"]
    return data


def test_a_mixture_is_prepared_shown_and_verified(mixture: Path) -> None:
    data = prepared(mixture)
    assert [(s["name"], s["count"]) for s in data["sources"]] == [("code", 750), ("notes", 250)]
    code, out, _ = run("data", "show")
    assert code == 0
    assert "training tokens of code, notes, bpe vocabulary of 300" in out
    assert "75.0%" in out and "25.0%" in out and "one epoch after" in out
    code, out, _ = run("data", "show", "--tokens", "3M", "--json")
    epochs = json.loads(out)["data"][0]["epochs"]
    tokens = {s["name"]: s["train"]["tokens"] for s in data["sources"]}
    assert epochs == {"code": 3e6 * 0.75 / tokens["code"], "notes": 3e6 * 0.25 / tokens["notes"]}
    code, out, _ = run("data", "verify", "--json")
    assert code == 0
    assert json.loads(out)["verified"] == [{"folder": data["folder"], "files": 5, "source": "unchanged"}]


def test_verify_finds_a_changed_shard_and_a_changed_source(mixture: Path) -> None:
    shard = Path(prepared(mixture)["folder"]) / "validation-01-00000.bin"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    code, _, err = run("data", "verify")
    assert code == 1 and "validation-01-00000.bin" in err and "hint:" in err
    shard.write_bytes(whole)
    with open("notes.jsonl", "a") as file:
        file.write('{"body": "one more"}\n')
    code, _, err = run("data", "verify")
    assert code == 1 and "notes.jsonl is no longer the text" in err
    code, out, _ = run("data", "verify", "--tokens-only")
    assert code == 0 and "not read" in out
    os.remove("notes.jsonl")
    code, out, _ = run("data", "verify")
    assert code == 0 and "gone" in out


def test_a_text_is_read_again_only_where_it_looks_changed(mixture: Path) -> None:
    first = prepared(mixture)
    assert prepared(mixture) == first
    with open("notes.jsonl", "a") as file:
        file.write('{"body": "one more"}\n')
    assert prepared(mixture)["corpus"] != first["corpus"]


def test_broken_lines_and_missing_texts_are_named(mixture: Path) -> None:
    with open("notes.jsonl", "a") as file:
        file.write('{"body": "no end\n')
    count = len(Path("notes.jsonl").read_text().splitlines())
    code, out, err = run("data", "prepare", str(mixture), "--json")
    assert code == 2 and f"notes.jsonl:{count}: not JSON" in err
    assert json.loads(out)["exit_code"] == 2
    os.remove("notes.jsonl")
    code, _, err = run("data", "prepare", str(mixture))
    assert code == 2 and "there is no notes.jsonl" in err
    assert not Path("runs").exists()


def test_llamas_own_mixture_is_planned_without_its_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = run("sweep", "llama-mixture", "--dry-run", "--json")
    assert code == 0, err
    plan = json.loads(out)
    data = plan["runs"][0]["config"]["data"]
    weights = {source["name"]: source["weight"] for source in data["sources"]}
    assert list(weights.values()) == [67, 15, 4.5, 4.5, 4.5, 2.5, 2] and sum(weights.values()) == 100
    assert plan["missing_sources"] == [f"llama-text/{name}" for name in weights]
    assert not list(tmp_path.iterdir())
    code, out, _ = run("sweep", "llama-mixture", "--dry-run")
    assert code == 0 and all(name in out for name in weights)
    code, _, err = run("sweep", "llama-mixture")
    assert code == 2 and all(f"no llama-text/{name}" in err for name in weights)


def trained(store: Path, files: TokenFiles, configs: list[RunConfig], pauses: int) -> dict[str, Any]:
    """The result of the last of `configs`, after the first of them, each stopped so many times on the way."""
    for config in configs:
        create_run(store, config)
    for config in configs:
        for stops in range(pauses, -1, -1):
            train_run(
                store,
                RunFolder(store / run_id(config)),
                files,
                device=torch.device("cpu"),
                should_stop=lambda stops=stops: stops > 0,
            )
    result = RunFolder(store / run_id(configs[-1])).result()
    assert result
    return result


def test_a_run_on_a_mixture_resumes_exactly_and_records_its_epochs(mixture: Path, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    spec = load_toml(mixture, SweepSpec, overrides=['design.budgets_flops=["4e8"]'])
    store = tmp_path / "runs"
    files = prepare(find_text(spec.data, store), spec.data, store)
    trunk, branch = expand("mixed", spec, files.corpus).runs[:2]
    result = trained(store, files, [trunk, branch], pauses=0)
    resumed = trained(tmp_path / "other", files, [trunk, branch], pauses=2)
    assert resumed["loss_nats"] == result["loss_nats"]
    told = {text["name"]: text for text in result["data"]}
    assert sum(text["tokens"] for text in told.values()) == result["tokens"]
    assert told["notes"]["share"] == 0.25
    assert told["notes"]["tokens"] == pytest.approx(result["tokens"] / 4, rel=0.1)
    assert told["notes"]["epochs"] == told["notes"]["tokens"] / told["notes"]["unique_tokens"]
    code, out, _ = run("runs", "show", run_id(branch))
    assert code == 0 and "tokens seen" in out and f"{told['notes']['epochs']:.2f}" in out
    assert open_tokens(files.folder).counts == (750, 250)
