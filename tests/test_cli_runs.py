"""`llama-scale runs` on a store that was really trained, then harmed."""

from __future__ import annotations

import csv
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from recipes import prepared_sweep

from llama_scale.cli import main
from llama_scale.runs import RunFolder, create_run, load_records, read_records, run_id, write_records
from llama_scale.runs.tables import read_table
from llama_scale.training.loop import train_run

RECORDS = Path(__file__).parents[1] / "sweeps" / "results" / "default-seed0.json"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a trunk, two branches that ended and one that has not begun."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("runs")
    store = folder / "runs"
    files, configs = prepared_sweep(folder)
    for config in configs[:4]:
        create_run(store, config)
    for config in configs[:3]:
        device = torch.device("cpu")
        train_run(store, RunFolder(store / run_id(config)), files, device=device, should_stop=lambda: False)
    return store


@pytest.fixture
def store(trained: Path, tmp_path: Path) -> Path:
    shutil.copytree(trained, tmp_path / "runs")
    return tmp_path / "runs"


def runs(store: Path, *words: str) -> tuple[int, Any]:
    result = CliRunner().invoke(main, ["runs", *words, "--store", str(store), "--json"])
    return result.exit_code, json.loads(result.stdout)


def ended(store: Path) -> list[RunFolder]:
    return [RunFolder(store / r.run) for r in read_records(store) if r.schedule_complete]


@pytest.mark.parametrize("ending", [".json", ".csv", ".parquet"])
def test_records_go_out_and_come_back(store: Path, tmp_path: Path, ending: str) -> None:
    if ending == ".parquet":
        pytest.importorskip("pyarrow", reason="the parquet extra is not installed")
    file = tmp_path / f"out{ending}"
    assert runs(store, "export", str(file))[1]["runs"] == 4
    assert read_table(file) == read_records(store)
    known = {r.unique_tokens for r in read_table(file) if r.schedule_complete}
    assert known and all(isinstance(tokens, int) for tokens in known)
    assert runs(store, "export", str(file))[0] == 2  # nothing is overwritten
    other = tmp_path / "other"
    assert len(runs(other, "import", str(file))[1]["imported"]) == 4
    assert runs(other, "import", str(file))[1] == {"schema": 1, "path": str(file), "imported": [], "known": 4}
    assert sorted(read_records(other), key=lambda r: r.run) == sorted(
        read_records(store), key=lambda r: r.run
    )


@pytest.mark.parametrize(("file", "content"), [
    ("spec.json", '{"run": "0'),
    ("spec.json", "[]"),
    ("result.json", ""),
    ("result.json", "[]"),
    ("result.json", '{"status": "done"}'),
    ("result.json", '{"status": [], "steps": 1}'),
    ("result.json", '{"status": "done", "steps": "x"}'),
    ("result.json", '{"status": "done", "steps": 1, "loss_nats": "x"}'),
    ("result.json", '{"status": "done", "steps": 1, "loss_nats": 3, "data": [{}]}'),
    ("result.json", '{"status": "done", "steps": 1, "loss_nats": null}'),
    ("result.json", '{"status": "done", "steps": 1, "loss_nats": NaN}'),
    ("result.json", '{"status": "done", "steps": 1, "loss_nats": -3}'),
    ("result.json", f'{{"status": "done", "steps": 1, "loss_nats": 1{"0" * 400}}}'),
    ("result.json", '{"status": "done", "steps": -1, "loss_nats": 3}'),
    ("result.json", f'{{"status": "done", "steps": 1{"0" * 400}, "loss_nats": 3}}'),
    ("result.json", '{"status": "done", "steps": 1, "loss_nats": 3, "run": "0123456789abcdef"}'),
    ("result.json", '{"status": "done", "steps": 1, "loss_nats": 3, "tokenizer": 5}'),
    ("result.json", '{"status": "done", "steps": 1, "loss_nats": 3, "data": [{"name": "x", "share": 1, '
     '"tokens": "1", "unique_tokens": 1, "epochs": 1}]}'),
])  # fmt: skip
def test_a_run_that_cannot_be_read_hides_no_other(store: Path, file: str, content: str) -> None:
    listed = runs(store, "ls")[1]
    assert listed["unreadable"] == []
    run = next(r["run"] for r in listed["runs"] if r["status"] == "done" and r["role"] == "train")
    (store / run / file).write_text(content)
    code, again = runs(store, "ls")
    assert code == 0
    assert [r["run"] for r in again["runs"]] == [r["run"] for r in listed["runs"] if r["run"] != run]
    (told,) = again["unreadable"]
    assert told.startswith(f"{file} of run {run} cannot be read")
    code, shown = runs(store, "show", run)
    assert code == 1 and shown["error"] == told


def test_imported_records_that_are_torn_hide_no_run(store: Path) -> None:
    runs(store, "import", str(RECORDS))
    (imported,) = (store / "imported").glob("*.json")
    imported.write_text("{")
    listed = runs(store, "ls")[1]
    assert len(listed["runs"]) == 4
    assert len(listed["unreadable"]) == 1
    assert str(imported) in listed["unreadable"][0]


def test_imported_records_are_fitted_like_our_own(tmp_path: Path) -> None:
    store, file = tmp_path / "imports", tmp_path / "table.csv"
    assert runs(store, "import", str(RECORDS))[1]["known"] == 0
    assert runs(store, "export", str(file))[0] == 0
    assert read_table(file) == load_records(RECORDS)
    laws = []
    for source in (store, RECORDS):
        output = str(tmp_path / f"{source.name}-law.json")
        words = ["fit", str(source), "--form", "chinchilla", "--draws", "0", "--json", "--output", output]
        laws.append(json.loads(CliRunner().invoke(main, words).stdout)["parameters"])
    assert laws[0] == pytest.approx(laws[1], rel=1e-9)


def test_a_table_from_before_unique_tokens_is_read(store: Path, tmp_path: Path) -> None:
    file = tmp_path / "out.csv"
    runs(store, "export", str(file))
    lines = [line.rpartition(",")[0] for line in file.read_text().splitlines()]
    assert lines[0].endswith("schedule_complete")  # the column that is gone was the last
    file.write_text("\n".join(lines) + "\n")
    assert read_table(file) == tuple(replace(r, unique_tokens=None) for r in read_records(store))


def test_a_table_begins_with_what_every_table_of_runs_has(store: Path, tmp_path: Path) -> None:
    file = tmp_path / "out.csv"
    runs(store, "export", str(file))
    text = file.read_text()
    assert text.startswith("run,parameters,tokens,loss,train_flops,")
    file.write_text(text.replace(",loss,", ",loss_nats,", 1))  # its name in earlier versions
    assert read_table(file) == read_records(store)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace(",loss,", ",lost,", 1), "lacks loss"),
        (lambda text: text.replace("true", "maybe"), "schedule_complete"),
        (lambda text: "", "lacks run"),
        (lambda text: text.rstrip().rsplit(",", 2)[0], "run 4 lacks "),
    ],
)
def test_a_table_that_is_not_whole_is_refused(store: Path, tmp_path: Path, change: Any, message: str) -> None:
    file = tmp_path / "out.csv"
    runs(store, "export", str(file))
    text = change(file.read_text())
    file.write_text(text or "a,b\n1,2\n")
    code, said = runs(tmp_path / "other", "import", str(file))
    assert code == 2 and message in said["error"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: [], "holds no runs"),
        (lambda rows: [*rows, rows[0]], "2 times"),
        (lambda rows: [{**rows[0], "run": ""}], "names a run ''"),
        (lambda rows: [{**rows[0], "run": "../../x"}], "names a run '../../x'"),
        (lambda rows: [{**rows[0], "run": ".."}], "names a run '..'"),
        (lambda rows: [{**rows[0], "run": " "}], "names a run ' '"),
        (lambda rows: [{**rows[0], "run": "a\x1b[2Jb"}], "names a run 'a\\x1b[2Jb'"),
        (lambda rows: [{**rows[0], "parameters": "0", "parameters_matmul": "0"}], "has no parameters"),
        (lambda rows: [{**rows[0], "parameters": "7"}], "parameters is 7, parameters_matmul"),
        (
            lambda rows: [{**rows[0], "role": "train", "status": "done", "loss": ""}],
            "done without a loss",
        ),
        (lambda rows: [{**rows[0], "status": "planned", "loss": "2.5"}], "has a loss, but is planned"),
    ],
)
def test_a_table_that_no_export_wrote_is_refused(
    store: Path, tmp_path: Path, change: Any, message: str
) -> None:
    file = tmp_path / "out.csv"
    runs(store, "export", str(file))
    with file.open() as text:
        rows = list(csv.DictReader(text))
    with file.open("w") as text:
        writer = csv.DictWriter(text, rows[0])
        writer.writeheader()
        writer.writerows(change(rows))
    code, said = runs(tmp_path / "other", "import", str(file))
    assert code == 2 and message in said["error"]
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("content", ["", "\0" * 100])
def test_an_empty_table_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "out.csv").write_text(content)
    code, said = runs(tmp_path / "other", "import", str(tmp_path / "out.csv"))
    assert code == 2 and "holds no runs" in said["error"]


def test_a_record_that_ended_takes_the_place_of_one_that_had_not(store: Path, tmp_path: Path) -> None:
    """Of an export in the middle of a sweep and one of its end, in either order, and of our own plan."""
    whole = read_records(store)
    early, late = tmp_path / "early.json", tmp_path / "late.json"
    nothing = {"loss_nats": None, "bits_per_byte": None, "unique_tokens": None}
    begun = [replace(r, status="planned", tokens=0, schedule_complete=False, **nothing) for r in whole]
    write_records(early, [begun[0], *whole[1:2], *begun[2:]])
    write_records(late, whole)
    known = {record.run: record for record in whole}
    for order in ((early, late), (late, early)):
        other = tmp_path / order[0].stem
        first, second = (runs(other, "import", str(file))[1] for file in order)
        assert len(first["imported"]) == 4
        assert (
            bool(second["imported"]) == (order[0] == early)
            and known[whole[1].run].run not in second["imported"]
        )
        assert {record.run: record for record in read_records(other)} == known
    planned = tmp_path / "planned"
    run = ended(store)[0]
    create_run(planned, run.config)
    assert run.run in runs(planned, "import", str(late))[1]["imported"]
    assert {record.run: record for record in read_records(planned)} == known


def test_an_unknown_ending_is_refused(store: Path, tmp_path: Path) -> None:
    code, said = runs(store, "export", str(tmp_path / "out.xlsx"))
    assert code == 2 and ".parquet" in said["hint"]


def test_a_whole_store_is_whole_and_each_harm_is_found(store: Path) -> None:
    assert runs(store, "verify") == (0, {"schema": 1, "checked": 4, "harms": []})
    first, second = ended(store)
    trunk = RunFolder(store / str(first.config.branch.parent)) if first.config.branch else first
    weights = first.path / "weights.safetensors"
    flipped = bytearray(weights.read_bytes())
    flipped[-1] ^= 1
    weights.write_bytes(flipped)
    with (second.path / "events.jsonl").open("ab") as log:
        log.write(b'{"torn')
    state = trunk.checkpoint_path(trunk.checkpoint_steps()[-1]) / "state.pt"
    state.write_bytes(state.read_bytes()[:-1])
    code, said = runs(store, "verify")
    assert code == 1
    assert {harm["run"] for harm in said["harms"]} == {first.run, second.run, trunk.run}
    assert len(said["harms"]) == 3
    spec = first.path / "spec.json"
    spec.write_text(spec.read_text().replace('"seed":0', '"seed":1'))
    code, said = runs(store, "verify", first.run)
    assert code == 1 and "was changed" in said["harms"][0]["what"]


def test_what_the_disk_does_not_give_hides_no_other_harm(store: Path) -> None:
    first, second = ended(store)
    (first.path / "events.jsonl").unlink()
    (first.path / "events.jsonl").mkdir()
    (second.path / "spec.json").unlink()
    (second.path / "spec.json").mkdir()
    code, said = runs(store, "verify")
    assert code == 1
    told = {harm["run"]: harm["what"] for harm in said["harms"]}
    assert told == {
        first.run: f"{first.path}/events.jsonl cannot be read: is a directory",
        second.run: f"spec.json of run {second.run} cannot be read: is a directory",
    }


def test_a_result_that_is_not_what_was_logged_is_found(store: Path) -> None:
    first, second = ended(store)
    for folder, change in ((first, {"loss_nats": 0.568}), (second, {"status": "diverged"})):
        folder.write_result({**(folder.result() or {}), **change})
    code, said = runs(store, "verify")
    assert code == 1
    told = {harm["run"]: harm["what"] for harm in said["harms"]}
    assert told.keys() == {first.run, second.run}
    assert "loss_nats is 0.568, not " in told[first.run]
    assert "status is diverged, not done" in told[second.run]


def test_a_run_without_a_spec_is_found(store: Path) -> None:
    first, _ = ended(store)
    (first.path / "spec.json").unlink()
    code, said = runs(store, "verify")
    assert code == 1
    (harm,) = said["harms"]
    assert harm["run"] == first.run and harm["what"].startswith("spec.json is missing")


def test_prune_goes_on_beside_a_torn_spec(store: Path) -> None:
    first, second = ended(store)
    (first.path / "spec.json").write_text("")
    assert second.config.branch
    trunk = RunFolder(store / second.config.branch.parent)
    kept = trunk.checkpoint_steps()
    result = CliRunner().invoke(main, ["runs", "prune", "--weights", "--store", str(store), "--json"])
    assert result.exit_code == 0
    assert {spare["run"] for spare in json.loads(result.stdout)["spares"]} == {second.run}
    assert f"spec.json of run {first.run} cannot be read" in result.stderr
    assert trunk.checkpoint_steps() == kept  # the torn spec may be of a branch of it


def test_prune_deletes_what_no_run_needs_and_nothing_else(store: Path) -> None:
    before = read_records(store)
    first, _ = ended(store)
    assert first.config.branch
    trunk = RunFolder(store / first.config.branch.parent)
    kept = trunk.checkpoint_steps()
    copy = trunk.checkpoint_path(1)
    shutil.copytree(trunk.checkpoint_path(kept[-1]), copy)
    leftover = trunk.checkpoints / ".step-000000007.1-ab.tmp"
    leftover.mkdir()
    _, would = runs(store, "prune", "--dry-run")
    assert copy.exists() and leftover.exists()
    _, did = runs(store, "prune")
    assert did["spares"] == would["spares"]
    older = {str(trunk.checkpoint_path(step)) for step in kept[:-1]}
    assert {spare["path"] for spare in did["spares"]} == {str(copy), str(leftover), *older}
    assert not copy.exists() and not leftover.exists()
    preparing = store / "data" / ".text-bpe300.00000000-1-00000000.tmp"  # from before a restart
    (preparing / "sub").mkdir(parents=True)
    assert runs(store, "prune")[1]["spares"] == []
    for path in (preparing / "sub", preparing):
        os.utime(path, (1, 1))
    assert runs(store, "prune", first.run)[1]["spares"] == []  # of that run alone
    assert [spare["run"] for spare in runs(store, "prune")[1]["spares"]] == [None]
    assert not preparing.exists()
    figure = store / "figures" / ".default.png.1-00000000.tmp"  # of a version that named no machine
    theirs = store / "figures" / ".notes.tmp"
    for path in (figure, theirs):
        path.parent.mkdir(exist_ok=True)
        path.write_text("half")
        os.utime(path, (1, 1))
    assert [spare["path"] for spare in runs(store, "prune")[1]["spares"]] == [str(figure)]
    assert theirs.exists() and not figure.exists()
    assert trunk.checkpoint_steps() == kept[-1:]  # from here a longer duration goes on
    _, did = runs(store, "prune", "--weights")
    assert len(did["spares"]) == 2
    assert read_records(store) == before


def test_a_run_in_training_is_not_pruned(store: Path) -> None:
    first, _ = ended(store)
    with first.claim():
        assert runs(store, "prune", first.run, "--weights")[1]["spares"] == []


def test_diff_names_what_differs(store: Path) -> None:
    first, second = ended(store)
    _, said = runs(store, "diff", first.run, second.run)
    fields = {difference["field"] for difference in said["differences"]}
    assert {"config.budget_flops", "config.schedule.total_steps", "result.loss_nats"} <= fields
    assert "result.data.0.tokens" in fields and "result.data.0.name" not in fields
    assert not any(field.startswith("config.model") for field in fields)
    assert runs(store, "diff", first.run, first.run)[1]["differences"] == []


def test_a_run_is_named_by_its_id_or_by_how_that_begins(store: Path) -> None:
    first, second = ended(store)
    start = first.run[:8]
    assert runs(store, "show", start)[1]["record"]["run"] == first.run
    assert runs(store, "diff", start, second.run)[1]["runs"] == [first.run, second.run]
    shutil.copytree(first.path, store / f"{start}00000000")
    code, said = runs(store, "show", start)
    assert code == 2 and "2 runs" in said["error"] and first.run in said["hint"]
    for word in ("", "..", "nosuch", f"../{store.name}/{first.run}"):
        code, said = runs(store, "prune", word)
        assert code == 2 and ("there is no run" if word else "name of the run is empty") in said["error"]
    assert not (store.parent / "leases").exists()
    (inner := first.path / "runs").mkdir()
    for word, within in ((".", first.path), ("..", inner)):
        code, said = runs(within, "prune", word)
        assert code == 2 and "there is no run" in said["error"]


def test_a_store_that_is_not_there_is_refused(tmp_path: Path) -> None:
    for words in (("verify",), ("prune",), ("ls",)):
        code, said = runs(tmp_path / "nowhere", *words)
        assert code == 2 and "no run store" in said["error"]


def test_a_run_that_was_imported_is_said_to_be(store: Path, tmp_path: Path) -> None:
    run, other = read_records(store)[0].run, tmp_path / "other"
    assert runs(store, "export", str(tmp_path / "out.json"))[0] == 0
    assert runs(other, "import", str(tmp_path / "out.json"))[0] == 0
    for words in (("show", run[:8]), ("diff", run, run), ("verify", run), ("prune", run)):
        code, told = runs(other, *words)
        assert code == 2 and told["error"].startswith(f"run {run} was imported into {other}")
    shutil.copytree(store / run, other / f"{run[:8]}00000000")
    shutil.copytree(store / run, other / f"{run[:8]}11111111")
    assert "2 runs" in runs(other, "show", run[:8])[1]["error"]  # neither of which was imported
    assert runs(other, "show", "nosuchrun")[1]["error"] == f"there is no run nosuchrun in {other}"
