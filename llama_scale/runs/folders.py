"""A run on disk: its spec, its log, its result, its checkpoints, and who may write them."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from llama_scale.canonical import canonical_hash, canonical_json, differences, shown
from llama_scale.config import structure
from llama_scale.errors import InputError, StoreError
from llama_scale.files import parse_json, read_whole, reason_of, store_error, write_atomically
from llama_scale.frozen import frozen
from llama_scale.runs.configs import RunConfig, run_id
from llama_scale.runs.leases import HELD, Lease, hold

CHECKPOINT_MANIFEST = "manifest.json"
STEP = re.compile("step-([0-9]{9,})")  # a checkpoint's name
WEIGHTS, INITIAL_WEIGHTS = "weights.safetensors", "initial.safetensors"
LEASES = "leases"
PASSED_OVER = "checkpoint_passed_over"  # an event
MOST_STEPS = 2**53  # beyond which a float counts no single steps
WRITERS = 32  # specs on their way to the disk at once
# How a worker leaves: the run is done, it failed, or it should be tried again later (EX_TEMPFAIL).
EXIT_DONE, EXIT_FAILED, EXIT_RETRY = 0, 1, 75


@frozen
class LossCurve:
    """Mean training loss of each logging interval: the step it ends at, tokens seen, nats per token."""

    steps: tuple[int, ...]
    tokens: tuple[int, ...]
    loss_nats: tuple[float, ...]


@dataclass(frozen=True)
class RunFolder:
    """One run on disk: spec.json (never changed), events.jsonl (appended), checkpoints/, result.json."""

    path: Path

    @property
    def run(self) -> str:
        return self.path.name

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def checkpoint_path(self, step: int) -> Path:
        """Where the checkpoint of `step` lies."""
        return self.checkpoints / f"step-{step:09d}"

    def checkpoint_steps(self) -> list[int]:
        """Steps that have a checkpoint, in order, harmed ones too: who reads one finds out."""
        names = (path.name for path in self.checkpoints.glob("step-*") if path.is_dir())
        return sorted(int(found[1]) for name in names if (found := STEP.fullmatch(name)))

    @property
    def log(self) -> Path:
        """Where a worker that fails leaves its traceback."""
        return self.path / "worker.log"

    @cached_property
    def config(self) -> RunConfig:
        """What this run is; raises StoreError where spec.json is missing, torn or not of this id."""
        content, config = self._read_spec()
        if canonical_hash(content) != self.run:  # as `run_id` of the config, which would take it apart again
            raise self._is_another(content, run_id(config))
        return config

    def _is_another(self, content: dict[str, Any], described: str) -> StoreError:
        """Why a spec with this config, that of the run `described`, lies in this folder."""
        if self._read_json("spec.json").get("run") == described:
            return StoreError(
                f"the folder {self.path} holds run {described}, so it was copied or renamed",
                hint=f"name it {described}, or move it out of the store",
            )
        # What the run was last started with, as its log tells, if it does.
        begun = next((e["config"] for e in reversed(self.events()) if "config" in e), content)
        changes = "; ".join(_change(*difference) for difference in differences(begun, content))
        return StoreError(
            f"spec.json of run {self.run} was changed{f' ({changes})' if changes else ''}: "
            f"it now describes run {described}",
            hint="put the file back, or move this run's folder away and run the sweep again",
        )

    def _read_spec(self) -> tuple[dict[str, Any], RunConfig]:
        try:
            content = _checked_spec(self._read_json("spec.json"))
            return content, structure(content, RunConfig, source=f"{self.path}/spec.json")
        except (OSError, ValueError, InputError) as error:
            torn = not isinstance(error, OSError)
            way_out = "which writes it anew" if torn else "with this run's folder moved away"
            raise StoreError(
                f"spec.json of run {self.run} cannot be read: {reason_of(error)}",
                hint=f"run its sweep again, {way_out}",
            ) from None

    def _read_json(self, name: str) -> Any:
        # By text: of the time to list a large store a fifth was spent on pathlib.
        return parse_json(read_whole(f"{self.path}/{name}"))

    def names(self, run: str) -> bool:
        """Whether this run's spec has the id of another in it, as that of a branch has its trunk's."""
        try:
            return run.encode() in read_whole(f"{self.path}/spec.json")
        except OSError:
            return False

    @property
    def is_finished(self) -> bool:
        """Whether the run has ended, well or not; says nothing of whether its result can be read."""
        return os.path.exists(f"{self.path}/result.json")

    def result(self) -> dict[str, Any] | None:
        """What the run ended with, or None while it has not."""
        try:
            return self._read_result("result.json")
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError) as error:
            torn = not isinstance(error, OSError)
            way_out = "which sets that file aside" if torn else "with that file moved away"
            raise StoreError(
                f"result.json of run {self.run} cannot be read: {reason_of(error)}",
                hint=f"run its sweep or `train` again, {way_out}: it trains this run anew",
            ) from None

    def _read_result(self, name: str) -> dict[str, Any]:
        found = self._read_json(name)
        if isinstance(found, dict) and "crc32" in found:  # which those of earlier versions lack
            checksum = found.pop("crc32")
            if checksum != _crc32_of_values(found):
                raise ValueError("it was changed since it was written")
        return _checked_result(found, self.run)

    def is_torn(self, name: str) -> bool:
        """Whether that spec or result is there and is not what was written, as after a power cut."""
        try:
            if not name.startswith("spec."):
                self._read_result(name)
                return False
            content = _checked_spec(self._read_json(name))
            if canonical_hash(content) != self.run:  # another run's spec is whole, if not ours
                structure(content, RunConfig, source=name)
        except OSError:  # of files that are not there, or not ours to read
            return False
        except (ValueError, InputError):
            return True
        return False

    def set_aside(self, name: str) -> Path:
        """Rename a damaged file, so that it can be looked at and stands in nobody's way; raises OSError."""
        path = self.path / name
        return path.rename(self._damaged(path.stem))

    def _damaged(self, stem: str) -> Path:
        """A new name for what was damaged."""
        return self.path / f"{stem}.damaged-{len(list(self.path.glob(f'{stem}.damaged-*')))}"

    def diverged_by(self, step: int) -> bool:
        """Whether the run ended as diverged at `step` or before; a result that cannot be read says no."""
        with suppress(StoreError):
            found = self.result() or {}
            return found.get("status") == "diverged" and found.get("steps", 0) <= step
        return False

    def write_result(self, result: dict[str, Any], *, check: Callable[[], None] | None = None) -> None:
        """Say how the run ended; `check` is asked last whether this process may still write."""
        content = {"schema": 1, "run": self.run, **result}
        text = json.dumps({**content, "crc32": _crc32_of_values(content)}, indent=1) + "\n"
        write_atomically(self.path / "result.json", text, check=check)

    def events(self) -> list[dict[str, Any]]:
        """The whole, checked, consecutive records of events.jsonl; what follows a torn one is not trusted."""
        return [event for event, _ in self._read_events()]

    def _read_events(self) -> Iterator[tuple[dict[str, Any], int]]:
        """Records in order, with the byte at which each ends."""
        try:
            data = (self.path / "events.jsonl").read_bytes()
        except FileNotFoundError:
            return
        end = 0
        expected = 0
        for line in data.splitlines(keepends=True):
            event = _checked_event(line)
            if event is None or event["seq"] > expected:
                return
            end += len(line)
            if event["seq"] == expected:  # a lower one is a second copy, or the late word of a fenced holder
                expected += 1
                yield event, end

    def setbacks(self) -> list[str]:
        """Why checkpoints were passed over from which the run was to go on, or to branch off."""
        try:
            if PASSED_OVER.encode() not in (self.path / "events.jsonl").read_bytes():
                return []  # as nearly always: a log is searched far faster than it is checked
        except OSError:
            return []
        return [str(event.get("reason")) for event in self.events() if event["event"] == PASSED_OVER]

    def unread_log_bytes(self) -> int:
        """Bytes at the end of events.jsonl that are no whole, checked records."""
        try:
            size = (self.path / "events.jsonl").stat().st_size
        except FileNotFoundError:
            return 0
        return size - max((end for _, end in self._read_events()), default=0)

    def last_event(self, tail_bytes: int = 16_384) -> dict[str, Any] | None:
        """The newest training report, read from the end of the log: for a live view, not for a record."""
        try:
            with (self.path / "events.jsonl").open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - tail_bytes))
                lines = file.read().splitlines(keepends=True)
        except OSError:
            return None
        checked = (_checked_event(line) for line in reversed(lines))
        return next((event for event in checked if event and event["event"] == "train"), None)

    def reports(self) -> list[dict[str, Any]]:
        """What was logged of training, in order of steps; those that a resumed run repeated count once."""
        by_step = {event["step"]: event for event in self.events() if event["event"] == "train"}
        return [by_step[step] for step in sorted(by_step)]

    def curve(self) -> LossCurve:
        """The training loss logged so far."""
        reports, tokens_per_step = self.reports(), self.config.tokens_per_step
        return LossCurve(
            steps=tuple(report["step"] for report in reports),
            tokens=tuple(report["step"] * tokens_per_step for report in reports),
            loss_nats=tuple(report["loss_nats"] for report in reports),
        )

    def claim(self) -> AbstractContextManager[Lease]:
        """Hold the run for this process; raises BusyError if another one does."""
        return hold(self.path / LEASES)

    def is_held(self) -> bool:
        """Whether a process holds the run, or did when it was killed."""
        return any((self.path / LEASES).glob(f"*{HELD}"))


class EventLog:
    """Appends to a run's events.jsonl: one whole record a write, numbered, with a checksum.

    Every record is written under `lease`: a process that was fenced off appends nothing.
    """

    def __init__(self, folder: RunFolder, lease: Lease) -> None:
        self.lease = lease
        self._folder = folder
        self._path = folder.path / "events.jsonl"
        ends = [end for _, end in folder._read_events()]
        self._next, end = len(ends), max(ends, default=0)
        if self._path.exists() and self._path.stat().st_size > end:
            self._quarantine(end)
        self._file = self._path.open("ab", buffering=0)

    def _quarantine(self, end: int) -> None:
        """Keep a copy of a damaged log, then cut it back to the records that are whole."""
        write_atomically(self._folder._damaged("events"), self._path.read_bytes())
        os.truncate(self._path, end)

    def append(self, event: str, **fields: Any) -> None:
        """Raises StoreError where the disk refuses; a record torn by that is cut off at the next start.

        Raises BusyError where another process has taken the run over.
        """
        self.lease.check()
        body = canonical_json({"seq": self._next, "event": event, **fields})
        line = f'{body[:-1]},"crc32":"{_crc32(body)}"}}\n'.encode()
        try:
            written = self._file.write(line)
        except OSError as error:
            raise store_error(error, f"cannot write {self._path}") from error
        if written != len(line):
            raise StoreError(
                f"cannot write {self._path}: the disk took only part of a record",
                hint="free some space and run the same command again",
            )
        self._next += 1

    def check(self) -> None:
        """Raises BusyError where another process has taken the run over."""
        self.lease.check()

    def sync(self) -> None:
        """Wait until everything appended is on the disk."""
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise store_error(error, f"cannot write {self._path}") from error

    def conclude(self, result: dict[str, Any]) -> None:
        """Write the run's result, unless another process has taken the run over: that raises BusyError."""
        self._folder.write_result(result, check=self.lease.check)

    def close(self) -> None:
        self._file.close()


def _crc32(text: str) -> str:
    return f"{zlib.crc32(text.encode()):08x}"


def _crc32_of_values(content: dict[str, Any]) -> str:
    """The same however a tool lays them out that reads and writes JSON; some of these make 1 of 1.0."""
    return _crc32(json.dumps(json.loads(json.dumps(content), parse_int=float), sort_keys=True))


def _checked_event(line: bytes) -> dict[str, Any] | None:
    """The record on `line` if it is whole and unharmed."""
    try:
        event = parse_json(line)
        checksum = event.pop("crc32")
        whole = line.endswith(b"\n") and isinstance(event["seq"], int) and "event" in event
        same = checksum == _crc32(canonical_json(event))
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return event if whole and same else None


def stop_signals() -> tuple[signal.Signals, ...]:
    """What asks a process to save and leave.

    Ctrl-C, TERM, which SLURM, systemd and the like send before they kill, and HUP of a terminal that closes,
    unless nohup has that ignored.
    """
    asked = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    return asked[:2] if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else asked


def create_run(store: Path, config: RunConfig, run: str | None = None) -> RunFolder:
    """The folder of `config` in `store`, made if it is new; `run` is its id where that is known."""
    folder = RunFolder(store / (run or run_id(config)))
    if not (folder.path / "spec.json").exists():
        write_spec(folder, config)
    return folder


def write_spec(folder: RunFolder, config: RunConfig) -> None:
    """Say what the run is; raises StoreError where the disk refuses."""
    # The text that the id is a hash of, on a line of its own: anyone can check it.
    spec = f'{{"schema":1,"run":"{folder.run}","config":\n{canonical_json(config)}\n}}\n'
    write_atomically(folder.path / "spec.json", spec)


def _change(path: str, before: Any, after: Any) -> str:
    """One of the `differences` in words; what a spec leaves out has its default, so it was not null."""
    if before is None:
        return f"{path} was added: {shown(after)}"
    if after is None:
        return f"{path} is gone: {shown(before)}"
    return f"{path} was {shown(before)}, is {shown(after)}"


def _checked_spec(found: Any) -> dict[str, Any]:
    """The config that a spec holds; ValueError for JSON that is no spec."""
    if not isinstance(found, dict) or not isinstance(found.get("config"), dict):
        raise ValueError("it tells no config")
    return found["config"]


def _checked_result(found: Any, run: str) -> dict[str, Any]:
    """What the result of `run` holds; ValueError for JSON that no run ends with, or another run did."""
    if not isinstance(found, dict) or found.get("status") not in ("done", "diverged", "failed"):
        raise ValueError("it tells no status")
    if found.get("run", run) != run:
        raise ValueError(f"it is that of run {found['run']}")
    if type(found.get("steps")) is not int or not 0 <= found["steps"] <= MOST_STEPS:
        raise ValueError("it tells no steps")
    for name in ("loss_nats", "bits_per_byte"):
        if found.get(name) is not None and not _is_measured(found[name]):
            raise ValueError(f"{name} is no number that a run ends with")
    if found["status"] == "done" and found.get("loss_nats") is None:
        raise ValueError("it is done without a loss")
    if not isinstance(found.get("tokenizer", ""), str):
        raise ValueError("its tokenizer is no hash")
    texts = found.get("data", [])
    if not isinstance(texts, list) or not all(map(_is_text_seen, texts)):
        raise ValueError("its data are not counted in tokens, unique_tokens, share and epochs")
    return found


def _is_text_seen(text: Any) -> bool:
    counts = ("tokens", "unique_tokens", "share", "epochs")
    return (
        isinstance(text, dict)
        and isinstance(text.get("name"), str)
        and all(_is_measured(text.get(name)) for name in counts)
    )


def _is_measured(value: Any) -> bool:
    """Whether it is a number from 0 on: nan, infinities and integers that no float can hold are not."""
    return type(value) in (int, float) and 0 <= value <= sys.float_info.max


def create_runs(store: Path, by_id: Mapping[str, RunConfig]) -> None:
    """Make the folders of many runs, waiting for the disk side by side: most of the time is that."""
    with ThreadPoolExecutor(WRITERS) as writers:
        for _ in writers.map(lambda run: create_run(store, by_id[run], run), by_id):
            pass


def find_run(store: Path, run: str) -> RunFolder:
    """The run of that id, or the only one whose id begins so; raises InputError where there is none."""
    if not run:  # with which every id begins
        raise InputError("the name of the run is empty", hint="run `llama-scale runs ls` for their names")
    if run.isalnum() and os.path.exists(f"{store}/{run}/spec.json"):
        return RunFolder(store / run)
    found = [folder for folder in run_folders(store) if folder.run.startswith(run)]
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(folder.run for folder in found[:4]) + (", ..." if len(found) > 4 else "")
        raise InputError(f"{len(found)} runs in {store} begin with {run}", hint=f"give more of it: {names}")
    raise InputError(f"there is no run {run} in {store}", hint="run `llama-scale runs ls` for their names")


def run_folders(store: Path) -> list[RunFolder]:
    """Every run of a store, in order of id."""
    return [RunFolder(spec.parent) for spec in sorted(store.glob("*/spec.json"))]


def branches_of(folder: RunFolder, folders: Iterable[RunFolder]) -> list[RunFolder]:
    """The runs that grow from `folder`, the earliest branch point first."""
    # Most specs of a large store do not name it, and to see that they need not be taken apart.
    return branches_by_trunk(other for other in folders if other.names(folder.run)).get(folder.run, [])


def branches_by_trunk(folders: Iterable[RunFolder]) -> dict[str, list[RunFolder]]:
    """The runs that grow from others, by those, the earliest branch point first."""
    grown: dict[str, list[RunFolder]] = {}
    for folder in folders:
        with suppress(StoreError):  # a run whose spec cannot be read fails by itself, not with its trunk
            if branch := folder.config.branch:
                grown.setdefault(branch.parent, []).append(folder)
    return {run: sorted(found, key=lambda f: f.config.first_step) for run, found in grown.items()}
