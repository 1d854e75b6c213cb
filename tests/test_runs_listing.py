"""Listing a store: the cache answers as the runs do, and never for longer than they are what they were."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from test_runs import CONFIG

from llama_scale.errors import StoreError
from llama_scale.runs import RunFolder, RunRecord, create_run, read_records
from llama_scale.runs.records import read_record
from llama_scale.runs.remembered import FILE, RESTING_SECONDS, WORTH_WRITING, remembered

RESULT = {"status": "done", "steps": 100, "loss_nats": 3.0, "bits_per_byte": 1.5, "tokenizer": "t"}


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store of runs that ended a while ago, with a cache of them."""
    store = tmp_path / "runs"
    for seed in range(WORTH_WRITING):
        create_run(store, replace(CONFIG, seed=seed)).write_result(RESULT)
    for path in store.rglob("*.json"):
        rest(path)
    read_records(store)
    assert len(remembered(store)) == WORTH_WRITING
    return store


def rest(path: Path) -> None:
    then = path.stat().st_mtime_ns - int(2 * RESTING_SECONDS * 1e9)
    os.utime(path, ns=(then, then))


def from_the_runs(store: Path) -> list[RunRecord]:
    return [read_record(RunFolder(spec.parent)) for spec in sorted(store.glob("*/spec.json"))]


def test_a_cached_listing_equals_one_from_the_runs(store: Path) -> None:
    assert list(read_records(store)) == from_the_runs(store)


def test_what_changed_since_is_read_anew(store: Path) -> None:
    first, second, third = (folder for folder in sorted(store.iterdir())[1:4])
    RunFolder(first).write_result({**RESULT, "loss_nats": 2.0})
    (second / "result.json").unlink()
    (third / "result.json").unlink()
    RunFolder(third).checkpoint_path(40).mkdir(parents=True)
    (RunFolder(third).checkpoint_path(40) / "manifest.json").write_text("{}")
    create_run(store, replace(CONFIG, seed=WORTH_WRITING + 1))
    records = {record.run: record for record in read_records(store)}
    assert list(records.values()) == from_the_runs(store)
    assert records[first.name].loss_nats == 2.0
    assert records[second.name].status == "planned"
    assert (records[third.name].status, records[third.name].tokens) == ("running", 40 * 64)
    assert len(records) == WORTH_WRITING + 1


def test_a_run_that_is_gone_is_not_listed(store: Path) -> None:
    gone = sorted(store.iterdir())[1]
    gone.rename(store.parent / "elsewhere")
    assert gone.name not in {record.run for record in read_records(store)}


@pytest.mark.parametrize(
    "harm",
    [
        lambda data: data[:-1],
        lambda data: b"",
        lambda data: data.replace(b"3.0", b"2.0", 1),
        lambda data: b"\0" * len(data),
        lambda data: data.replace(b'"schema": 1', b'"schema": 0'),
        lambda data: b"[1]\n" + data.partition(b"\n")[2],
    ],
)
def test_a_harmed_cache_is_made_anew(store: Path, harm: Callable[[bytes], bytes]) -> None:
    cache = store / FILE
    cache.write_bytes(harm(cache.read_bytes()))
    assert remembered(store) == {}
    assert list(read_records(store)) == from_the_runs(store)
    assert len(remembered(store)) == WORTH_WRITING


def test_files_that_just_changed_are_not_remembered(tmp_path: Path) -> None:
    for seed in range(WORTH_WRITING):
        create_run(tmp_path, replace(CONFIG, seed=seed)).write_result(RESULT)
    for path in tmp_path.rglob("*.json"):
        os.utime(path)  # on a busy machine the first were written long ago
    read_records(tmp_path)
    assert remembered(tmp_path) == {}


def test_a_spec_that_was_changed_is_refused_cache_or_not(store: Path) -> None:
    spec = sorted(store.iterdir())[1] / "spec.json"
    spec.write_text(spec.read_text().replace('"seed":', '"seed":1'))
    with pytest.raises(StoreError, match="was changed"):
        read_records(store)


IN_SEVERAL_PROCESSES = """
import concurrent.futures, os, signal, sys
from pathlib import Path
from llama_scale.runs import read_records, side_by_side

store, victim = Path(sys.argv[1]), sys.argv[2]
side_by_side.WORTH_FORKING, side_by_side.CHUNK, pools, harmed = 10, 7, [], []
make, read = concurrent.futures.ProcessPoolExecutor, side_by_side._read_plainly
concurrent.futures.ProcessPoolExecutor = lambda *a: pools.append(a) or make(*a)

def read_or_die(store, run):
    if run == victim:
        os.kill(os.getpid(), signal.SIGKILL)
    return read(store, run)

side_by_side._read_plainly = read_or_die
signal.signal(signal.SIGTERM, lambda *_: None)
records = read_records(store, unreadable=harmed.append)
print(len(pools), [(one.message, one.hint) for one in harmed])
print(*(record.run for record in records))
"""


@pytest.mark.parametrize("is_killed", [False, True], ids=["calm", "one is killed"])
def test_several_processes_read_what_one_does(store: Path, is_killed: bool) -> None:
    (store / FILE).unlink()
    expected = from_the_runs(store)
    spoiled = expected.pop(30).run
    (store / spoiled / "spec.json").write_text("{")
    with pytest.raises(StoreError) as told:
        read_record(RunFolder(store / spoiled))
    found = subprocess.run(
        [sys.executable, "-c", IN_SEVERAL_PROCESSES, str(store), expected[50].run if is_killed else "none"],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    head, names = found.stdout.splitlines()
    forks = hasattr(os, "sched_getaffinity") and len(os.sched_getaffinity(0)) > 1
    assert head == f"{int(forks)} {[(told.value.message, told.value.hint)]}"
    assert names.split() == [record.run for record in expected]
    assert found.stderr == ""
