"""Looking after a store: is every run whole, what takes room that it need not, how do two runs differ?"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from llama_scale.errors import StoreError
from llama_scale.files import is_left_behind, reason_of
from llama_scale.frozen import frozen
from llama_scale.runs.configs import RunConfig
from llama_scale.runs.folders import INITIAL_WEIGHTS, WEIGHTS, RunFolder, write_spec
from llama_scale.runs.leases import BusyError
from llama_scale.runs.manifests import check_files, read_manifest, sha256_of

MEASURED = ("loss_nats", "bits_per_byte", "evaluation_tokens")  # of a run's end, in its log and its result
LEFT = (".*.tmp", "[!.]*/.*.tmp", "data/fetched/.*.tmp")  # texts, fits, figures, exports, jobs, ...
KILLED = "left by a process that was killed"
NEWEST = 2  # checkpoints that a run which has not ended keeps, as while it trains


@frozen
class Harm:
    """Something in a run's folder that is not what was written: what, and what follows from it."""

    run: str
    what: str
    consequence: str


def harms(folder: RunFolder) -> Iterator[Harm]:
    """What is amiss in one run's folder; reads every byte of it, as far as the disk gives it."""
    try:
        for what, consequence in _harms(folder):
            yield Harm(run=folder.run, what=what, consequence=consequence)
    except StoreError as error:
        yield Harm(run=folder.run, what=error.message, consequence=error.hint)
    except OSError as error:
        what = f"{error.filename or folder.path} cannot be read: {reason_of(error)}"
        yield Harm(run=folder.run, what=what, consequence="the rest of this run was not checked")


def _harms(folder: RunFolder) -> Iterator[tuple[str, str]]:
    config, result = folder.config, folder.result()
    if lost := folder.unread_log_bytes():
        yield (
            f"the last {lost:,} bytes of events.jsonl are torn or changed",
            "a run that goes on cuts them off; a finished run keeps its result",
        )
    for step in folder.checkpoint_steps():
        if reason := _checkpoint_harm(folder, step):
            yield f"checkpoint {step} cannot be used: {reason}", "the run goes on from the one before"
    if result is None:
        return
    if reason := _unlike_log(folder, result):
        yield (
            f"result.json differs from the run's log: {reason}",
            "fits take it as it is; delete it, and the sweep trains the run anew",
        )
    end = config.schedule.total_steps
    if result.get("status") == "done" and end is not None and result.get("steps") != end:
        yield (
            f"result.json is of step {result.get('steps')}, its schedule ends at {end}",
            "it is left out of fits; delete it, and the sweep trains the run anew",
        )
    weights, stated = folder.path / WEIGHTS, result.get("weights_sha256")
    if stated and weights.exists() and sha256_of(weights) != stated:
        yield f"{WEIGHTS} is not what the run ended with", "its result stands, but it cannot be exported"


def _unlike_log(folder: RunFolder, result: Mapping[str, Any]) -> str:
    """Where a result is not what was logged, each record with its checksum, when the run ended."""
    ends = {"evaluation": "done", "diverged": "diverged"}
    logged = next((event for event in reversed(folder.events()) if event["event"] in ends), None)
    if logged is None:
        return ""  # as where the log was harmed, which is told by itself
    measured = {name: value for name, value in logged.items() if name in MEASURED}
    expected = {"status": ends[logged["event"]], "steps": logged["step"], **measured}
    unlike = {name: value for name, value in expected.items() if result.get(name) != value}
    return "; ".join(f"{name} is {result.get(name)}, not {value}" for name, value in unlike.items())


def harms_without_spec(store: Path) -> Iterator[Harm]:
    """Folders of runs whose spec is gone: no other command sees them."""
    for path in sorted(store.iterdir()):
        left = [name for name in ("events.jsonl", "result.json", "checkpoints") if (path / name).exists()]
        if left and not (path / "spec.json").exists():
            yield Harm(
                run=path.name,
                what=f"spec.json is missing beside {', '.join(left)}",
                consequence="no command sees this run; run its sweep again, which writes the spec anew",
            )


def torn(store: Path, runs: Iterable[str]) -> dict[tuple[str, str], str]:
    """What `mend` would find of these runs, in words, by run and file."""
    return {
        (run, file): f"{file} of run {run} {harm}"
        for run in runs
        for file, harm in (
            ("spec.json", "is torn: it will be written again"),
            ("result.json", "is torn or was changed: the run will be trained anew"),
        )
        if RunFolder(store / run).is_torn(file)
    }


def mend(store: Path, by_id: Mapping[str, RunConfig]) -> tuple[str, ...]:
    """Make whole what a power cut or a failing disk left torn of these runs; returns what that was, in words.

    A spec is written again, as its hash is the run's id. A result is set aside as result.damaged-N: the run
    has to be trained anew.
    """
    return tuple(told for run, config in by_id.items() for told in _mend(RunFolder(store / run), config))


def _mend(folder: RunFolder, config: RunConfig) -> Iterator[str]:
    if folder.is_torn("spec.json"):
        write_spec(folder, config)
        yield f"spec.json of run {folder.run} was torn: it is written again"
    # Without a lease, for after a power cut the run's own looks as if somebody held it for a while. Results
    # appear whole: one that is torn is nobody's who writes it now.
    with suppress(FileNotFoundError):  # others mend too
        if folder.is_torn("result.json"):
            kept = folder.set_aside("result.json")
            if not folder.is_torn(kept.name):  # a holder ended in between
                with suppress(FileExistsError):
                    (folder.path / "result.json").hardlink_to(kept)
                return
            told = f"it is kept as {kept.name}, the run is trained anew"
            yield f"result.json of run {folder.run} was torn or changed: {told}"


def _checkpoint_harm(folder: RunFolder, step: int) -> str | None:
    path = folder.checkpoint_path(step)
    try:
        check_files(path, read_manifest(path, folder.run, step))
    except (OSError, ValueError) as error:
        return str(error)
    return None


@frozen
class Spare:
    """A file or folder that its run, or the store, no longer needs, and the bytes that it takes."""

    run: str | None
    path: Path
    what: str
    bytes: int


def spares(
    folder: RunFolder, branches: Sequence[RunFolder] = (), *, weights: bool = False
) -> Iterator[Spare]:
    """What one run no longer needs: checkpoints of ended runs, old ones, leftovers; `weights` if asked.

    `branches` are the runs that grow from it.
    """
    leftovers = [*folder.path.glob(".*.tmp"), *folder.checkpoints.glob(".*.tmp")]
    yield from (_spare(folder.run, path, KILLED) for path in leftovers)
    steps = folder.checkpoint_steps()
    waiting = [branch for branch in branches if not branch.is_finished]
    needed = {branch.config.first_step for branch in waiting}
    is_trunk = folder.config.schedule.total_steps is None
    # A trunk keeps its newest: from there it goes on when a longer duration is added.
    kept = NEWEST if waiting else 1 if is_trunk else 0 if folder.is_finished else NEWEST
    old = [step for step in steps[: len(steps) - kept] if step not in needed]
    passed = (folder.checkpoint_path(step) for step in old)
    yield from (_spare(folder.run, path, "checkpoint not needed again") for path in passed)
    if folder.is_finished and (folder.path / INITIAL_WEIGHTS).exists():
        yield _spare(folder.run, folder.path / INITIAL_WEIGHTS, "weights at the start of the run")
    if weights and (folder.path / WEIGHTS).exists():
        yield _spare(folder.run, folder.path / WEIGHTS, "weights at the end of the run")


def _spare(run: str | None, path: Path, what: str) -> Spare:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return Spare(run=run, path=path, what=what, bytes=sum(file.stat().st_size for file in files))


def spares_of_store(store: Path) -> Iterator[Spare]:
    """What processes that were killed left beside the runs, as of a text that they were preparing."""
    # Runs are told by their specs: what lies in their folders is for who holds them.
    for path in sorted(found for pattern in LEFT for found in store.glob(pattern)):
        with suppress(OSError):  # gone or published meanwhile
            if is_left_behind(path) and not (path.parent / "spec.json").exists():
                yield _spare(None, path, KILLED)


def prune_store(store: Path) -> tuple[Spare, ...]:
    """Delete what `spares_of_store` finds."""
    found = tuple(spares_of_store(store))
    for spare in found:
        with suppress(FileNotFoundError):  # by another that prunes
            _delete(spare.path)
    return found


def prune(
    folder: RunFolder, branches: Sequence[RunFolder] = (), *, weights: bool = False
) -> tuple[Spare, ...]:
    """Delete what `spares` finds, while nobody trains the run; a run in training is left alone."""
    try:
        with folder.claim():
            found = tuple(spares(folder, branches, weights=weights))
            for spare in found:
                _delete(spare.path)
            return found
    except BusyError:
        return ()


def _delete(path: Path) -> None:
    if path.is_file():
        path.unlink(missing_ok=True)
        return
    gone = path.with_name(f".{path.name.lstrip('.')}.pruned.tmp")
    path.rename(gone)  # a checkpoint goes at once or not at all
    shutil.rmtree(gone, ignore_errors=True)
