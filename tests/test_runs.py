"""Run folders: logs that survive tearing, specs that cannot be changed, records that travel."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from small_runs import small_model, small_run

from llama_scale.canonical import canonical_json
from llama_scale.errors import InputError, StoreError
from llama_scale.runs import (
    Branch,
    EventLog,
    RunFolder,
    ScheduleConfig,
    branches_by_trunk,
    branches_of,
    create_run,
    create_runs,
    load_records,
    read_record,
    read_records,
    run_folders,
    run_id,
    write_records,
)
from llama_scale.runs.upkeep import mend, torn

CONFIG = small_run(
    small_model(vocabulary=300),
    schedule=ScheduleConfig(kind="wsd", total_steps=100, warmup_steps=10, decay_steps=20),
    sequences_per_step=2,
)


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    folder = create_run(tmp_path / "runs", CONFIG)
    with folder.claim() as lease, closing(EventLog(folder, lease)) as log:
        for step in (50, 100):
            log.append("train", step=step, loss_nats=4.0 - step / 100)
    return folder


def test_a_spec_is_read_as_it_was_written(folder: RunFolder) -> None:
    assert RunFolder(folder.path).config == CONFIG
    assert folder.run == run_id(CONFIG)


def test_a_run_keeps_its_name_when_a_run_can_be_told_more(tmp_path: Path) -> None:
    """The id of a run planned before precision, Muon, muP and micro-batches could be chosen."""
    wider = {"layers": 2, "width": 32, "head_size": 16, "hidden": 96}
    run = small_run(
        small_model(**wider, vocabulary=1024, context=64, qk_norm=True),
        learning_rate=4e-3,
        role="trunk",
        schedule=ScheduleConfig(kind="wsd", total_steps=None),
    )
    assert run_id(run) == "356b24d26d108a1a"
    muon = replace(run, optimizer=replace(run.optimizer, kind="muon"), precision="bf16", micro_batch=2)
    assert run_id(muon) != run_id(run)
    for config in (run, muon):
        assert RunFolder(create_run(tmp_path, config).path).config == config


def test_only_a_trunk_is_done_without_a_result(tmp_path: Path) -> None:
    """It has no end of its own: what it has trained is there for its branches."""
    trunk = replace(CONFIG, role="trunk", schedule=ScheduleConfig(kind="wsd", total_steps=None))
    for config, status in ((CONFIG, "running"), (trunk, "done")):
        run = create_run(tmp_path, config)
        assert read_record(run).status == "planned"
        (run.checkpoints / "step-000000050").mkdir(parents=True)
        assert read_record(run).status == status
        assert read_record(run).tokens == 50 * 64  # two sequences of 32 a step


@pytest.mark.parametrize(
    ("kind", "status", "steps", "complete"),
    [
        ("wsd", "done", 100, True),
        ("wsd", "done", 60, False),
        ("wsd", "diverged", 100, False),
        ("constant", "done", 100, False),
    ],
)
def test_a_record_says_what_a_run_saw_first_and_whether_its_rate_came_down(
    tmp_path: Path, kind: Any, status: str, steps: int, complete: bool
) -> None:
    schedule = ScheduleConfig(kind=kind, total_steps=100, warmup_steps=10)
    run = create_run(tmp_path, replace(CONFIG, schedule=schedule))
    data = [
        {
            "name": f"{unique}",
            "tokens": tokens,
            "unique_tokens": unique,
            "share": 0.5,
            "epochs": tokens / unique,
        }
        for tokens, unique in ((100, 60), (10, 40))
    ]
    run.write_result({"status": status, "steps": steps, "loss_nats": 3.0, "data": data})
    record = read_record(run)
    assert (record.schedule_complete, record.unique_tokens, record.tokens) == (complete, 70, steps * 64)


def test_of_two_records_of_a_run_the_one_that_ended_says_more_then_the_one_that_got_further(
    folder: RunFolder,
) -> None:
    begun = replace(read_record(folder), status="running", tokens=500)
    further, ended = replace(begun, tokens=600), replace(begun, status="done", tokens=400)
    rising = [begun, further, ended]
    for i, one in enumerate(rising):
        assert [one.is_beyond(other) for other in rising] == [j < i for j in range(3)]


def test_a_curve_is_what_was_logged(folder: RunFolder) -> None:
    curve = folder.curve()
    assert curve.steps == (50, 100)
    assert curve.tokens == (50 * 64, 100 * 64)
    assert curve.loss_nats == (3.5, 3.0)


def test_a_step_logged_twice_counts_once(folder: RunFolder) -> None:
    with folder.claim() as lease, closing(EventLog(folder, lease)) as log:
        log.append("train", step=100, loss_nats=3.0)
    assert folder.curve().steps == (50, 100)


@pytest.mark.parametrize(
    ("harm", "left"),
    [
        (lambda data: data[:-7], 1),  # torn by a crash or a full disk
        (lambda data: data + b"\0" * 300, 2),  # blocks that a power cut left unwritten
        (lambda data: data[:20] + b"#" + data[21:], 0),  # a flipped byte in the first record
        (lambda data: data + data.splitlines(keepends=True)[0], 2),  # a record written twice
        (lambda data: data.replace(b"\n", b"\n\n", 1), 1),  # an empty line between two
        (lambda data: data[:90] + b"\0" * 40 + data[130:], 1),  # a block of nothing across two records
        (lambda data: b"", 0),
    ],
)
def test_a_harmed_log_keeps_its_good_part_and_a_copy_of_the_rest(
    folder: RunFolder, harm: Callable[[bytes], bytes], left: int
) -> None:
    path = folder.path / "events.jsonl"
    harmed = harm(path.read_bytes())
    path.write_bytes(harmed)
    assert len(folder.events()) == left
    with folder.claim() as lease, closing(EventLog(folder, lease)) as log:
        log.append("train", step=150, loss_nats=2.5)
    assert [e["seq"] for e in folder.events()] == list(range(left + 1))
    copies = [p.read_bytes() for p in folder.path.glob("events.damaged-*")]
    whole = len(harmed) == 0
    assert copies == ([] if whole else [harmed])


@pytest.mark.parametrize(
    "line",
    [
        "null",
        "123",
        "[1]",
        '"x"',
        '{"event":"train","step":null}',
        '{"event":"train","step":"abc"}',
        '{"event":"train","step":1e400}',
        '{"seq":2,"event":"train","step":1e400,"crc32":"00000000"}',
        '{"seq":2,"crc32":"',
    ],
)
def test_a_live_view_shows_the_last_whole_report(folder: RunFolder, line: str) -> None:
    with (folder.path / "events.jsonl").open("a") as log:
        log.write(line + "\n")
    assert (folder.last_event() or {})["step"] == 100
    assert len(folder.events()) == 2


def test_a_folder_that_is_called_much_like_a_checkpoint_is_none(folder: RunFolder) -> None:
    for name in ("step-\u00b2", "step-7", "step-00000001\u0662", "step-000000050"):
        (folder.checkpoints / name).mkdir(parents=True)
        (folder.checkpoints / name / "manifest.json").write_text("{}")
    assert folder.checkpoint_steps() == [50]


TORN = ["", "\0" * 300, '{"schema":1', "[]", "{}"]


@pytest.mark.parametrize("content", [*TORN, "a bit turned"])
def test_a_torn_spec_is_written_again(folder: RunFolder, content: str) -> None:
    whole = (folder.path / "spec.json").read_bytes()
    turned = whole.replace(b"warmup_steps", b"warmup_qteps").decode()
    (folder.path / "spec.json").write_text(turned if content == "a bit turned" else content)
    (said,) = mend(folder.path.parent, {folder.run: CONFIG})
    assert said == f"spec.json of run {folder.run} was torn: it is written again"
    assert (folder.path / "spec.json").read_bytes() == whole
    assert mend(folder.path.parent, {folder.run: CONFIG}) == ()


@pytest.mark.parametrize("content", TORN)
def test_a_torn_result_is_set_aside(folder: RunFolder, content: str) -> None:
    for number in (0, 1):
        (folder.path / "result.json").write_text(content)
        (said,) = mend(folder.path.parent, {folder.run: CONFIG})
        assert f"result.json of run {folder.run} was torn or changed: it is kept as" in said
        assert f"result.damaged-{number}" in said
        assert not folder.is_finished
        assert (folder.path / f"result.damaged-{number}").read_text() == content


def test_a_bit_turned_anywhere_in_a_result_is_seen_or_changes_nothing(folder: RunFolder) -> None:
    folder.write_result({"status": "done", "steps": 100, "loss_nats": 3.125, "bits_per_byte": 2.5})
    path, before = folder.path / "result.json", read_record(folder)
    written = path.read_bytes()
    unseen = 0
    for place in range(len(written)):
        turned = bytearray(written)
        turned[place] ^= 1 << (place % 7)
        path.write_bytes(turned)
        try:
            assert read_record(folder) == before
            unseen += 1
        except StoreError:
            assert folder.is_torn("result.json")
    assert unseen < 20  # the name of the checksum and the end of the file
    path.write_bytes(written)
    assert mend(folder.path.parent, {folder.run: CONFIG}) == ()


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("indent", [None, 1, 2])
def test_a_result_may_be_laid_out_in_another_way(
    folder: RunFolder, indent: int | None, end: str, mark: str
) -> None:
    """As by jq, which sorts keys and makes 1 of 1.0, by editors and by git on its way to another system."""
    folder.write_result({"status": "done", "steps": 100, "loss_nats": 3.0, "train_flops": 1e15, "text": "é"})
    path, before = folder.path / "result.json", folder.result()
    whole = json.loads(path.read_text(), parse_float=lambda number: int(float(number)))
    laid_out = json.dumps(whole, indent=indent, sort_keys=True, ensure_ascii=False).replace("\n", end)
    path.write_bytes((mark + laid_out).encode())
    assert folder.result() == before
    path.write_bytes((mark + laid_out.replace(": 3", ": 4")).encode())
    with pytest.raises(StoreError, match="was changed since it was written"):
        folder.result()


def test_a_result_from_before_checksums_is_read(folder: RunFolder) -> None:
    result = {"run": folder.run, "status": "done", "steps": 100, "loss_nats": 3.0}
    (folder.path / "result.json").write_text(json.dumps(result, indent=1))
    assert folder.result() == result


def test_what_is_whole_or_another_spec_is_left_as_it_is(folder: RunFolder) -> None:
    folder.write_result({"status": "done", "steps": 100, "loss_nats": 3.0})
    spec = folder.path / "spec.json"
    spec.write_text(spec.read_text().replace('"seed":0', '"seed":1'))
    before = {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()}
    assert mend(folder.path.parent, {folder.run: CONFIG}) == ()
    assert {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()} == before


def test_what_the_system_does_not_let_us_read_is_not_said_to_be_mended(folder: RunFolder) -> None:
    """A folder in the result's place is nothing that a torn write leaves: it stays where it is."""
    (folder.path / "result.json").mkdir()
    assert mend(folder.path.parent, {folder.run: CONFIG}) == ()
    with pytest.raises(StoreError) as refused:
        folder.result()
    assert "with that file moved away" in refused.value.hint


def test_where_a_file_stands_for_the_store_no_run_has_ended(tmp_path: Path) -> None:
    """What is written there is refused in better words than what is looked for."""
    (tmp_path / "file").touch()
    assert RunFolder(tmp_path / "file" / "0123").result() is None


def test_a_torn_result_is_set_aside_though_the_run_looks_held(folder: RunFolder) -> None:
    """As after a power cut: the run's last lease is that of a process of before."""
    (folder.path / "result.json").write_text("")
    with folder.claim():
        (said,) = torn(folder.path.parent, [folder.run]).values()
        assert said.startswith(f"result.json of run {folder.run} is torn")
        assert folder.is_finished
        (said,) = mend(folder.path.parent, {folder.run: CONFIG})
        assert "kept as result.damaged-0" in said
    assert not folder.is_finished
    assert not torn(folder.path.parent, [folder.run])


def test_all_runs_that_cannot_be_read_are_named_at_once(tmp_path: Path) -> None:
    folders = [create_run(tmp_path, replace(CONFIG, seed=seed)) for seed in range(4)]
    (folders[0].path / "spec.json").write_text("")
    (folders[1].path / "result.json").write_text("{}")
    for named in (None, [folder.run for folder in folders]):
        with pytest.raises(StoreError, match=r"^2 runs in .* cannot be read\n") as refused:
            read_records(tmp_path, named)
        for folder, file in zip(folders, ("spec", "result"), strict=False):
            assert f"{file}.json of run {folder.run} cannot be read" in refused.value.message


def test_a_spec_that_was_changed_is_refused(folder: RunFolder) -> None:
    spec = json.loads((folder.path / "spec.json").read_text())
    spec["config"]["optimizer"]["learning_rate"] = 1.0
    (folder.path / "spec.json").write_text(json.dumps(spec))
    with pytest.raises(StoreError, match="was changed"):
        _ = RunFolder(folder.path).config


def test_what_was_changed_in_a_spec_is_told(folder: RunFolder) -> None:
    """A setting that was left out is not said to have been null: it had its default."""
    spec = json.loads((folder.path / "spec.json").read_text())
    with folder.claim() as lease, closing(EventLog(folder, lease)) as log:
        log.append("start", config=spec["config"])
    changed = {key: value for key, value in spec["config"].items() if key != "initial_gain"}
    changed |= {"seed": 7, "z_loss": 1e-4}
    (folder.path / "spec.json").write_text(json.dumps({**spec, "config": changed}))
    with pytest.raises(StoreError) as refused:
        _ = RunFolder(folder.path).config
    told = "initial_gain is gone: 0.25; seed was 0, is 7; z_loss was added: 0.0001"
    assert f"was changed ({told})" in refused.value.message


def test_a_copy_of_a_run_under_another_name_is_called_that(folder: RunFolder) -> None:
    copy = folder.path.with_name(f"{folder.run}.before")
    shutil.copytree(folder.path, copy)
    with pytest.raises(StoreError) as refused:
        _ = RunFolder(copy).config
    assert refused.value.message == f"the folder {copy} holds run {folder.run}, so it was copied or renamed"
    assert refused.value.hint == f"name it {folder.run}, or move it out of the store"


def test_a_spec_may_be_laid_out_in_another_way(folder: RunFolder) -> None:
    path = folder.path / "spec.json"
    written, config = path.read_bytes(), folder.config
    for indent in (None, 1):
        path.write_text(json.dumps(json.loads(written), indent=indent))
        assert path.read_bytes() != written
        assert RunFolder(folder.path).config == config


def test_a_spec_that_is_written_is_its_canonical_text(folder: RunFolder) -> None:
    lines = (folder.path / "spec.json").read_bytes().splitlines()
    assert hashlib.sha256(lines[1]).hexdigest()[:16] == folder.run
    assert lines[1].decode() == canonical_json(folder.config)


@pytest.mark.parametrize(
    ("part", "other", "refusal"),
    [
        (b'"seed":', b'"seed":1', "was changed"),  # another run in the layout that is written
        (b"\n}\n", b"\n", "cannot be read"),  # torn behind a config that is whole
        (b'"config":', b'"Config":', "cannot be read"),
    ],
)
def test_a_spec_that_is_harmed_is_refused(folder: RunFolder, part: bytes, other: bytes, refusal: str) -> None:
    path = folder.path / "spec.json"
    path.write_bytes(path.read_bytes().replace(part, other))
    with pytest.raises(StoreError, match=refusal):
        _ = RunFolder(folder.path).config


@pytest.mark.parametrize("content", ["", "{", "[]", '{"config": 3}', '{"config": {"role": "train"}}'])
def test_a_spec_that_is_torn_is_refused(folder: RunFolder, content: str) -> None:
    (folder.path / "spec.json").write_text(content)
    with pytest.raises(StoreError, match="cannot be read"):
        _ = RunFolder(folder.path).config


def test_records_travel_as_one_file(folder: RunFolder, tmp_path: Path) -> None:
    folder.write_result(
        {"status": "done", "steps": 100, "loss_nats": 3.0, "bits_per_byte": 1.5, "tokenizer": "t"}
    )
    create_run(folder.path.parent, replace(CONFIG, seed=1))
    records = read_records(folder.path.parent)
    assert sorted(r.status for r in records) == ["done", "planned"]
    write_records(tmp_path / "records.json", records)
    assert load_records(tmp_path / "records.json") == records


def test_a_file_of_something_else_holds_no_records(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("[1]")
    with pytest.raises(InputError, match="holds no run records"):
        load_records(tmp_path / "x.json")


def test_a_store_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no run store"):
        read_records(tmp_path / "nowhere")


def test_many_runs_are_made_as_one_is(tmp_path: Path) -> None:
    configs = {run_id(config): config for config in (replace(CONFIG, seed=seed) for seed in range(100))}
    create_runs(tmp_path / "many", configs)
    for config in configs.values():
        one = create_run(tmp_path / "one", config)
        made = tmp_path / "many" / one.run / "spec.json"
        assert made.read_bytes() == (one.path / "spec.json").read_bytes()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("many/*/spec.json")}
    create_runs(tmp_path / "many", configs)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("many/*/spec.json")} == before


def test_runs_that_cannot_be_made_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(StoreError, match="cannot write"):
        create_runs(tmp_path / "runs", {run_id(CONFIG): CONFIG})


def test_branches_are_found_by_their_trunk_whatever_else_is_torn(tmp_path: Path) -> None:
    trunks = [
        replace(CONFIG, seed=seed, schedule=replace(CONFIG.schedule, total_steps=None)) for seed in (0, 1)
    ]
    for trunk in trunks:
        create_run(tmp_path, trunk)
        for step in (80, 40):
            schedule = replace(CONFIG.schedule, total_steps=step + 20)
            branch = Branch(parent=run_id(trunk), step=step)
            create_run(tmp_path, replace(trunk, schedule=schedule, branch=branch))
    torn = create_run(tmp_path, replace(CONFIG, seed=9, branch=Branch(parent=run_id(trunks[0]), step=5)))
    (torn.path / "spec.json").write_text(f'{{"parent": "{run_id(trunks[0])}"')
    folders = run_folders(tmp_path)
    for trunk in trunks:
        found = branches_of(RunFolder(tmp_path / run_id(trunk)), folders)
        assert [branch.config.first_step for branch in found] == [40, 80]
        assert {branch.config.branch.parent for branch in found if branch.config.branch} == {run_id(trunk)}
        assert branches_by_trunk(folders)[run_id(trunk)] == found
