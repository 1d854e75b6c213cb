"""A whole small sweep with real worker processes, and what happens when they are killed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from recipes import write_recipe
from small_disk import small_disk

from llama_scale.cli.progress import headline
from llama_scale.cli.sweep import _reason
from llama_scale.cli.sweep_plan import cautions
from llama_scale.errors import InputError, LlamaScaleError, StoreError
from llama_scale.launch import (
    EarlierText,
    Launcher,
    LaunchReport,
    Progress,
    Task,
    local,
    prepare_sweep,
    run_sweep,
)
from llama_scale.launch.estimates import LOG_BYTES, LOG_BYTES_PER_STEP
from llama_scale.launch.slurm import launch_on_slurm
from llama_scale.launch.tasks import ATTEMPTS
from llama_scale.runs import (
    CHECKPOINT_MANIFEST,
    EXIT_DONE,
    RunConfig,
    RunFolder,
    RunRecord,
    create_run,
    read_records,
    run_folders,
)
from llama_scale.training.preparing import prepare


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recipe(tmp_path_factory.mktemp("recipe"))


@pytest.fixture(scope="module")
def unfaulted(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunRecord, ...]:
    """The records of the sweep when nothing goes wrong."""
    store = tmp_path_factory.mktemp("unfaulted") / "runs"
    report, seen = train(recipe, store)
    assert report.failed == ()
    assert seen[-1].total == 7 and seen[0].done == 0
    return read_records(store)


def train(recipe: Path, store: Path) -> tuple[LaunchReport, list[Progress]]:
    seen: list[Progress] = []
    prepared = prepare_sweep(recipe, store=store, workers=2, device="cpu")
    report = run_sweep(prepared, store=store, device="cpu", watch=seen.append)
    return report, seen


def test_lengths_too_short_are_told_with_a_text_that_is_not_there(recipe: Path, tmp_path: Path) -> None:
    overrides = ["data.source=nowhere", "training.warmup_steps=100000"]
    with pytest.raises(InputError, match=r"^\d+ problems") as refusal:
        prepare_sweep(recipe, store=tmp_path, overrides=overrides, device="cpu")
    assert "too few for 100000 steps of warm-up" in refusal.value.message
    assert "there is no nowhere" in refusal.value.message


@pytest.mark.parametrize("launcher", ["slurm", "ray"])
def test_a_launcher_that_is_not_here_is_told_before_anything_is_written(
    launcher: Launcher, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "ray", None)
    store = tmp_path / "runs"
    prepared = prepare_sweep(recipe, store=store, device="cpu", launcher=launcher)
    with pytest.raises(InputError, match=r"there is no sbatch|Ray is not installed"):
        run_sweep(prepared, store=store, device="cpu", launcher=launcher)
    assert not store.exists()


def command(recipe: Path, store: Path) -> list[str]:
    return [
        sys.executable,
        "-m",
        "llama_scale",
        "sweep",
        str(recipe),
        "--store",
        str(store),
        "--workers",
        "2",
    ]


def workers_of(store: Path) -> list[int]:
    """Processes whose command line is a worker on this store.

    Each leads a session: what a worker starts has its command line too until it is another program.
    """
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                words = (folder / "cmdline").read_bytes().split(b"\0")
                leads = os.getsid(int(folder.name)) == int(folder.name)
            except OSError:
                continue
            if leads and b"worker" in words and str(store).encode() in words:
                found.append(int(folder.name))
    return found


def wait_for(condition: threading.Event | object, what: str, seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # pyright: ignore[reportCallIssue]
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.02)


def some_steps_logged(store: Path) -> bool:
    return any(folder.last_event() for folder in run_folders(store)) if store.is_dir() else False


def test_every_run_of_a_sweep_is_trained_and_recorded(unfaulted: tuple[RunRecord, ...]) -> None:
    assert {r.status for r in unfaulted} == {"done"}
    by_role = {role: [r for r in unfaulted if r.role == role] for role in ("trunk", "train", "holdout")}
    assert [len(runs) for runs in by_role.values()] == [2, 4, 1]
    losses = {
        r.budget_flops: r.loss_nats for r in unfaulted if r.parameters == by_role["holdout"][0].parameters
    }
    ordered = [loss for budget, loss in sorted(losses.items(), key=lambda item: item[0] or 0) if budget]
    assert ordered == sorted(ordered, key=lambda loss: -(loss or 0)), "more compute must give less loss"


def test_logs_and_tokens_take_no_more_than_was_planned(recipe: Path, tmp_path: Path) -> None:
    store = tmp_path / "runs"
    planned = prepare_sweep(recipe, store=store, workers=2, device="cpu")
    train(recipe, store)
    for task in planned.tasks:
        log = (task.folder.path / "events.jsonl").stat().st_size
        assert LOG_BYTES / 2 < log < LOG_BYTES + LOG_BYTES_PER_STEP * task.steps
    prepared = prepare_sweep(recipe, store=store, workers=2, device="cpu")
    tokens = sum(file.stat().st_size for file in store.glob("data/*/*.bin"))
    assert tokens == pytest.approx(prepared.token_bytes, rel=0.02)
    assert tokens == pytest.approx(planned.token_bytes, rel=0.3)


def test_runs_on_a_text_that_changed_are_named(tmp_path: Path) -> None:
    recipe, store = write_recipe(tmp_path), tmp_path / "runs"
    prepared = prepare_sweep(recipe, store=store, workers=2, device="cpu")
    assert prepared.text and prepared.earlier is None
    prepare(prepared.text, prepared.sweep.spec.data, store)
    for task in prepared.tasks[:3]:
        publish_step(task.folder, 1)
    text = tmp_path / "text" / "ast.py"
    text.touch()
    assert prepare_sweep(recipe, store=store, workers=2, device="cpu").earlier is None
    text.write_text(text.read_text() + "\nmore = True\n")
    changed = prepare_sweep(recipe, store=store, workers=2, device="cpu")
    assert changed.earlier == EarlierText(sources=("text",), runs=3)
    assert next(cautions(changed)).startswith("The text of text has changed since 3 runs of this sweep")
    publish_step(changed.tasks[0].folder, 1)  # what was begun on the new text was meant
    assert prepare_sweep(recipe, store=store, workers=2, device="cpu").earlier is None


def test_a_finished_sweep_trains_nothing_again(recipe: Path, tmp_path: Path) -> None:
    store = tmp_path / "runs"
    train(recipe, store)
    before = {p: p.stat().st_mtime_ns for p in store.glob("*/events.jsonl")}
    report, _ = train(recipe, store)
    assert report.failed == ()
    run = read_records(store)[0].run
    words = [sys.executable, "-m", "llama_scale", "worker", "--store", str(store)]
    said = subprocess.run([*words, run[:10], "--json"], capture_output=True, text=True, check=True)
    assert json.loads(said.stdout) == {"schema": 1, "run": run, "outcome": "done", "exit_code": 0}
    said = subprocess.run(
        [*words, "--listen"], input=f"\n{run}\n", capture_output=True, text=True, check=True
    )
    assert json.loads(said.stdout) == {"run": run, "exit_code": 0}
    assert not (store / "worker.log").exists()
    failed = subprocess.run([*words, run[:10], "--device", "tpu"], capture_output=True, text=True)
    assert failed.returncode == 1
    assert failed.stderr == f"warning: run {run} failed: see {store / run}/worker.log\n"
    assert before == {p: p.stat().st_mtime_ns for p in store.glob("*/events.jsonl")}


def test_no_more_workers_start_than_runs_are_left(recipe: Path, tmp_path: Path) -> None:
    store, seen = tmp_path / "runs", set[int]()
    prepared = prepare_sweep(recipe, store=store, workers=12, device="cpu")
    report = run_sweep(prepared, store=store, device="cpu", watch=lambda _: seen.update(workers_of(store)))
    assert report.failed == () and 0 < len(seen) <= len(prepared.tasks) == 7


def test_killed_workers_are_replaced_and_the_records_are_the_same(
    recipe: Path, tmp_path: Path, unfaulted: tuple[RunRecord, ...]
) -> None:
    store = tmp_path / "runs"
    killed = 0

    def kill_three() -> None:
        nonlocal killed
        while killed < 3:
            time.sleep(1.0)
            for pid in workers_of(store)[:1]:
                os.kill(pid, signal.SIGKILL)
                killed += 1

    killer = threading.Thread(target=kill_three, daemon=True)
    killer.start()
    report, _ = train(recipe, store)
    assert killed > 0
    assert report.failed == ()
    assert read_records(store) == unfaulted


@pytest.mark.parametrize(
    ("how", "more"), [(signal.SIGINT, "--quiet"), (signal.SIGTERM, "--json"), (signal.SIGHUP, "--json")]
)
def test_a_sweep_that_was_stopped_goes_on_with_the_same_command(
    recipe: Path, tmp_path: Path, unfaulted: tuple[RunRecord, ...], how: signal.Signals, more: str
) -> None:
    store = tmp_path / "runs"
    inherited = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # tests may run under nohup, the sweep does not
    process = subprocess.Popen([*command(recipe, store), more], stderr=subprocess.PIPE, text=True)
    signal.signal(signal.SIGHUP, inherited)
    wait_for(lambda: some_steps_logged(store) or process.poll() is not None, "the first steps")
    process.send_signal(how)
    _, talk = process.communicate(timeout=300)
    assert process.returncode == 130, talk
    assert re.search(r"To go on: llama-scale sweep .*--workers 2", talk)
    assert not workers_of(store)
    report, _ = train(recipe, store)
    assert report.failed == ()
    assert read_records(store) == unfaulted


def test_a_sweep_killed_in_every_way_goes_on_with_the_same_command(
    recipe: Path, tmp_path: Path, unfaulted: tuple[RunRecord, ...]
) -> None:
    """Ctrl-C twice; then the scheduler dies, and another starts while its workers live; then all die."""
    store = tmp_path / "runs"

    def start() -> subprocess.Popen[bytes]:
        process = subprocess.Popen(command(recipe, store), stderr=subprocess.DEVNULL, start_new_session=True)
        wait_for(lambda: workers_train(store) or process.poll() is not None, "workers that train")
        return process

    process = start()
    process.send_signal(signal.SIGINT)
    time.sleep(2 * local.TICK_SECONDS)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=300) == 130 and not workers_of(store)

    process = start()
    process.kill()
    process.wait()
    # The workers of a launcher that is gone save and leave by themselves; until then nobody takes their runs.
    process = start()
    for pid in [process.pid, *workers_of(store)]:
        os.killpg(pid, signal.SIGKILL)
    process.wait()

    report, _ = train(recipe, store)
    assert report.failed == ()
    assert read_records(store) == unfaulted


def workers_train(store: Path) -> bool:
    return bool(workers_of(store)) and any(folder.is_held() for folder in run_folders(store))


def test_two_sweeps_on_one_store_train_each_run_once(
    recipe: Path, tmp_path: Path, unfaulted: tuple[RunRecord, ...]
) -> None:
    store = tmp_path / "runs"
    both = [subprocess.Popen(command(recipe, store), stderr=subprocess.DEVNULL) for _ in range(2)]
    for process in both:
        process.wait(timeout=600)
    assert read_records(store) == unfaulted
    for folder in run_folders(store):
        steps = [e["step"] for e in folder.events() if e["event"] == "train"]
        assert steps == sorted(set(steps)), f"{folder.run} trained a step twice"


TOGETHER = """
import os, sys
from pathlib import Path
cores = sorted(os.sched_getaffinity(0))
os.sched_setaffinity(0, {cores[int(sys.argv[3]) % len(cores)]})
from llama_scale.launch import prepare_sweep, run_sweep
store = Path(sys.argv[2])
prepared = prepare_sweep(sys.argv[1], store=store, workers=1, device="cpu")
print("ready", flush=True)
sys.stdin.readline()
print(list(run_sweep(prepared, store=store, device="cpu").failed))
"""


@pytest.mark.soak
@pytest.mark.parametrize("number", range(20))
def test_schedulers_that_start_together_claim_each_run_once(
    number: int, recipe: Path, tmp_path: Path, unfaulted: tuple[RunRecord, ...]
) -> None:
    store = tmp_path / "runs"
    words = [sys.executable, "-c", TOGETHER, str(recipe), str(store)]
    both = [
        subprocess.Popen([*words, core], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for core in "01"
    ]
    assert [process.stdout.readline() for process in both if process.stdout] == ["ready\n"] * 2
    for process in both:
        if process.stdin:
            process.stdin.write("\n")
            process.stdin.flush()
    assert [process.communicate(timeout=600)[0] for process in both] == ["[]\n"] * 2
    assert read_records(store) == unfaulted
    for folder in run_folders(store):
        starts = [event["step"] for event in folder.events() if event["event"] == "start"]
        assert len(starts) == 1, f"{folder.run} was trained {len(starts)} times"


ABORTING = """
import os, sys
sys.addaudithook(lambda event, words: event == "open" and str(words[0]).endswith({log!r}) and os.abort())
"""


def test_runs_that_always_crash_do_not_end_the_sweep(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One raises, the other takes its process with it, every time."""
    store, site = tmp_path / "runs", tmp_path / "site"
    prepared = prepare_sweep(recipe, store=store, workers=2, device="cpu")
    raising, aborting = (task.run for task in prepared.tasks[-2:])
    (store / raising / "events.jsonl").mkdir(parents=True)  # a folder where its log should be
    site.mkdir()
    (site / "sitecustomize.py").write_text(ABORTING.format(log=f"{aborting}/events.jsonl"))
    monkeypatch.setenv("PYTHONPATH", str(site))
    report = run_sweep(prepared, store=store, device="cpu")
    assert report.failed == tuple(sorted((raising, aborting)))
    assert "Is a directory" in (store / raising / "worker.log").read_text()
    assert "ended by SIGABRT" in (store / aborting / "worker.log").read_text()
    finished = [t.run for t in prepared.tasks if t.is_finished()]
    assert len(finished) == len(prepared.tasks) - 2


def test_a_run_that_moves_forward_may_be_killed_often(recipe: Path, tmp_path: Path) -> None:
    store = tmp_path / "runs"
    task = prepare_sweep(recipe, store=store, workers=2, device="cpu").tasks[0]
    pool = local._Pool(tasks={task.run: task}, command=[], threads=1)
    # A process is there to be recorded; it does nothing.
    worker = local._Worker(subprocess.Popen([sys.executable, "-c", ""]))
    for step in range(1, 6):
        publish_step(task.folder, step)
        pool._settle(worker, task, -9)
    assert pool.attempts.counts[task.run] == 1
    for _ in range(ATTEMPTS - 1):
        pool._settle(worker, task, -9)
    pool.look()
    assert task.run in pool.failed
    worker.end()


def test_runs_that_do_not_fit_beside_each_other_wait_for_room(recipe: Path, tmp_path: Path) -> None:
    first = prepare_sweep(recipe, store=tmp_path, workers=2, device="cpu").sweep.runs[0]
    tasks = {name: task_called(name, first, tmp_path) for name in ("large", "larger", "small")}
    needs = {"large": 3e9, "larger": 5e9, "small": 1e9}
    pool = local._Pool(tasks=tasks, command=[], threads=1, rooms={"": 4e9}, needs=needs)
    processes = [subprocess.Popen([sys.executable, "-c", ""], stdin=subprocess.PIPE) for _ in range(3)]
    pool.workers = [local._Worker(process) for process in processes]
    pool.assign()
    # Nothing runs, so the largest is tried although there is not room enough; the others wait for it.
    assert [worker.task and worker.task.run for worker in pool.workers] == ["larger", None, None]
    pool._settle(pool.workers[0], tasks["larger"], EXIT_DONE)
    pool.assign()
    assert [worker.task and worker.task.run for worker in pool.workers] == ["large", "small", None]
    # One that was killed may have wanted more than was thought.
    pool._settle(pool.workers[1], tasks["small"], -signal.SIGKILL)
    pool.assign()
    assert [worker.task and worker.task.run for worker in pool.workers] == ["large", None, None]
    for worker in pool.workers:
        worker.end()


def test_a_trunk_that_no_branch_leaves_has_nothing_left_to_do(recipe: Path, tmp_path: Path) -> None:
    trunk, branch, *_ = prepare_sweep(recipe, store=tmp_path, workers=2, device="cpu").sweep.runs
    assert trunk.role == "trunk" and task_called("small", trunk, tmp_path).is_finished()
    assert branch.role == "train" and not task_called("small", branch, tmp_path).is_finished()


SLURM_PROGRAM = """#!/bin/sh
echo {name} >> {folder}/asked
count=$(grep -c {name} {folder}/asked)
for script; do :; done
{text}
"""
TAKE = 'echo "7_0 $script" > {folder}/queue; echo 7'
TAKE_BY_LINK = (
    "ln -sfn {folder}/../runs {folder}/link;"
    'echo "7_0 {folder}/link/slurm/$(basename "$script")" > {folder}/queue; echo 7'
)
LIST = "cat {folder}/queue"
UNHEARD = "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation"


@pytest.fixture
def slurm(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[list[str], list[str]]]:
    """Launches one run on programs of SLURM's names until it is queued: what was asked of them, and told."""
    task, *_ = prepare_sweep(recipe, store=tmp_path / "runs", device="cpu").tasks
    create_run(tmp_path / "runs", task.config)
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "queue").touch()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setattr("llama_scale.launch.slurm.POLL_SECONDS", 0.0)

    def launch(sbatch: str = TAKE, squeue: str = LIST) -> tuple[list[str], list[str]]:
        texts = {"sbatch": sbatch, "squeue": squeue, "scontrol": "exit 1"}
        for name, text in texts.items():
            program = folder / name
            program.write_text(
                SLURM_PROGRAM.format(name=name, folder=folder, text=text.format(folder=folder))
            )
            program.chmod(0o755)

        def watch(progress: Progress) -> None:
            if (folder / "queue").read_text():
                task.folder.write_result({"status": "failed", "steps": 0})

        told: list[str] = []
        launch_on_slurm(tmp_path / "runs", [task], device="cpu", watch=watch, tell=told.append)
        asked = (folder / "asked").read_text().split()
        return [name for name in asked if name != "scontrol"], told

    return launch


def test_a_controller_that_falls_silent_before_it_is_given_a_job_is_waited_for(
    slurm: Callable[..., tuple[list[str], list[str]]],
) -> None:
    silent = "slurm_load_jobs error: Unexpected message received"
    asked, told = slurm(
        sbatch=f"if [ $count = 1 ]; then echo no such thing >&2; exit 1; fi; {TAKE}",
        squeue=f"case $count in 2|3|4) echo {silent} >&2; exit 1 ;; esac; {LIST}",
    )
    assert asked == ["squeue", "sbatch", *["squeue"] * 4, "sbatch", "squeue", "squeue"]
    assert told == [f"squeue refused: {silent}: the store is watched until SLURM answers again"]


@pytest.mark.parametrize(
    ("silence", "taken"),
    [
        ("exec sleep 60", ""),
        (f"echo '{UNHEARD}' >&2; exit 1", ""),
        (f"echo '{UNHEARD}' >&2; exit 1", f"{TAKE}; "),
        (f"echo '{UNHEARD}' >&2; exit 1", f"{TAKE_BY_LINK}; "),
    ],
)
def test_a_job_that_sbatch_hears_nothing_of_is_looked_for_and_else_given_again(
    silence: str,
    taken: str,
    slurm: Callable[..., tuple[list[str], list[str]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The controller may have taken it all the same, from a folder that it knows by the name of a link."""
    monkeypatch.setattr("llama_scale.launch.slurm.COMMAND_SECONDS", 5.0)
    asked, told = slurm(sbatch=f"if [ $count = 1 ]; then {taken}{silence}; fi; {TAKE}")
    again = [] if taken else ["squeue", "sbatch"]
    assert asked == ["squeue", "sbatch", *again, "squeue", "squeue"]
    assert len(told) == 1 and told[0].endswith(": the store is watched until SLURM answers again")


def test_a_disk_that_refuses_a_script_is_no_silence_of_slurm(
    slurm: Callable[..., tuple[list[str], list[str]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llama_scale.launch.slurm.PATIENCE_SECONDS", 0.0)
    (tmp_path / "runs" / "slurm").write_text("a file where the folder should be")
    with pytest.raises(StoreError, match="cannot write"):
        slurm()
    assert (tmp_path / "bin" / "asked").read_text().split().count("squeue") == 1  # and not asked again


@pytest.mark.parametrize(
    ("patience", "programs", "said"),
    [
        (3600.0, {"sbatch": "echo invalid partition >&2; exit 1"}, "sbatch refused: invalid partition"),
        (0.0, {"sbatch": f"echo '{UNHEARD}' >&2; exit 1"}, f"sbatch refused: {UNHEARD}"),
        (3600.0, {"squeue": "exit 1"}, "squeue refused: exit code 1"),
    ],
)
def test_what_slurm_refuses_while_it_answers_ends_a_launch_as_its_silence_does_in_the_end(
    patience: float,
    programs: dict[str, str],
    said: str,
    slurm: Callable[..., tuple[list[str], list[str]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("llama_scale.launch.slurm.PATIENCE_SECONDS", patience)
    with pytest.raises(LlamaScaleError) as raised:
        slurm(**programs)
    assert raised.value.message == said


def task_called(name: str, config: RunConfig, store: Path) -> Task:
    """A task of a trunk's settings, the longer the larger."""
    seconds = {"larger": 3.0, "large": 2.0}.get(name, 1.0)
    return Task(
        folder=RunFolder(store / name),
        config=config,
        steps=10,
        flops=1.0,
        seconds=seconds,
        path_seconds=seconds,
        parent=None,
        branches=(),
    )


def publish_step(folder: RunFolder, step: int) -> None:
    folder.checkpoint_path(step).mkdir(parents=True)
    (folder.checkpoint_path(step) / CHECKPOINT_MANIFEST).write_text("{}")


def test_tokens_that_changed_are_not_trained_on(recipe: Path, tmp_path: Path) -> None:
    store = tmp_path / "runs"
    prepared = prepare_sweep(recipe, store=store, workers=2, device="cpu")
    assert prepared.text is not None
    folder = prepare(prepared.text, prepared.sweep.spec.data, store).folder
    data = (folder / "train-00-00000.bin").read_bytes()
    (folder / "train-00-00000.bin").write_bytes(bytes([data[0] ^ 1]) + data[1:])
    with pytest.raises(StoreError, match="has changed since it was prepared"):
        run_sweep(prepared, store=store, device="cpu")


def test_a_failed_run_says_why(recipe: Path, tmp_path: Path) -> None:
    tasks = prepare_sweep(recipe, store=tmp_path, workers=2, device="cpu").tasks
    trunk, branch = tasks[0], tasks[1]
    assert "never reached the step" in _reason(branch)
    assert "could leave no log" in _reason(trunk) and "is not there" in _reason(trunk)
    trunk.folder.path.mkdir()
    assert "was killed, perhaps for want of memory" in _reason(trunk)
    trunk.folder.log.write_text("error: cannot write x: no space left on device\nhint: free some space\n")
    assert _reason(trunk).startswith("cannot write x: no space left on device (see ")
    trunk.folder.log.write_text("Traceback\n  line 1\nRuntimeError: bad\n")
    assert _reason(trunk).startswith("RuntimeError: bad (see ")


def test_a_run_that_another_process_holds_is_said_to_be(recipe: Path, tmp_path: Path) -> None:
    """And not to train: nothing of it gets on, until the other lets go."""
    store, seen = tmp_path / "runs", []
    prepared = prepare_sweep(recipe, store=store, workers=1, device="cpu")
    trunk = next(task for task in prepared.tasks if task.config.role == "trunk")
    create_run(store, trunk.config)
    with ExitStack() as other:
        other.enter_context(trunk.folder.claim())

        def watch(progress: Progress) -> None:
            if progress.held and progress.done:
                seen.append(progress)
                other.close()

        assert run_sweep(prepared, store=store, device="cpu", watch=watch).failed == ()
    assert seen[0].held == (trunk.run,)
    assert trunk.run not in {member.run for member in seen[0].running}
    assert "1 held by another process" in headline(seen[0])


def test_a_run_that_left_no_log_on_a_full_disk_says_so(recipe: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "1m") as disk:
        task = prepare_sweep(recipe, store=disk, workers=2, device="cpu").tasks[0]
        task.folder.path.mkdir()
        assert "was killed" in _reason(task)
        with suppress(OSError), (disk / "filler").open("wb", buffering=0) as filler:
            while True:
                filler.write(bytes(4096))
        assert f"the disk of {task.folder.path} is full" in _reason(task)


def test_a_run_whose_spec_is_torn_is_reported_and_the_others_trained(recipe: Path, tmp_path: Path) -> None:
    store = tmp_path / "runs"
    prepared = prepare_sweep(recipe, store=store, workers=2, device="cpu")
    torn = prepared.tasks[-1].run
    (store / torn).mkdir(parents=True)
    (store / torn / "spec.json").write_text('{"run": "' + torn)
    assert run_sweep(prepared, store=store, device="cpu").failed == (torn,)
    with pytest.raises(StoreError, match=f"spec.json of run {torn} cannot be read"):
        read_records(store)
