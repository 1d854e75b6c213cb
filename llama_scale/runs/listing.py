"""A whole store as records: its runs, what was imported, and a cache so that many are listed at once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from llama_scale.canonical import canonical_hash
from llama_scale.errors import InputError, StoreError
from llama_scale.runs.records import RunRecord, load_records, write_records
from llama_scale.runs.remembered import WORTH_WRITING, Marks, marks_of, remember, remembered
from llama_scale.runs.side_by_side import read_all

IMPORTED = "imported"


def read_records(
    store: Path,
    runs: Iterable[str] | None = None,
    *,
    unreadable: Callable[[StoreError], None] | None = None,
) -> tuple[RunRecord, ...]:
    """A record of every run of a store, or of those named, with the status that its folder shows.

    Records that were imported come after the runs that have folders here; of two of one run the one that got
    further counts. Runs that cannot be read are told to `unreadable`, if the caller goes on without them;
    else StoreError names them all.
    """
    torn: list[StoreError] = []
    found = _records(store, runs, unreadable or torn.append)
    if len(torn) == 1:
        raise torn[0]
    if torn:
        lines = "".join(f"\n  {error.message} ({error.hint})" for error in torn)
        raise StoreError(
            f"{len(torn)} runs in {store} cannot be read{lines}",
            hint="put them right, then run the same command again",
        )
    return found


def _records(
    store: Path, runs: Iterable[str] | None, unreadable: Callable[[StoreError], None]
) -> tuple[RunRecord, ...]:
    if not store.is_dir():
        raise InputError(
            f"there is no run store at {str(store)!r}", hint="run `llama-scale sweep` first, or give --store"
        )
    if runs is not None:
        named = []
        for record in read_all(store, list(runs)):
            if isinstance(record, StoreError):
                unreadable(record)
            else:
                named.append(record)
        return tuple(named)
    found = {run: record for run, _, record in _runs_of(store, unreadable)}
    for record in imported_records(store, unreadable):
        if record.run not in found or record.is_beyond(found[record.run]):
            found[record.run] = record
    return tuple(found.values())


def imported_records(
    store: Path, unreadable: Callable[[StoreError], None] = lambda _: None
) -> Iterator[RunRecord]:
    """The records that were imported, set by set; files that hold none are told to `unreadable`."""
    for file in sorted((store / IMPORTED).glob("*.json")):
        try:
            yield from load_records(file)
        except InputError as error:
            unreadable(StoreError(error.message, hint=f"delete {file}, and import its runs again"))


def import_records(store: Path, records: Sequence[RunRecord]) -> tuple[RunRecord, ...]:
    """Add records of other stores to this one; returns those that were new to it, or further than its own.

    They lie in one file a set, named by its content, so that importing twice changes nothing.
    """
    known = {record.run: record for record in read_records(store)} if store.is_dir() else {}
    new = tuple(r for r in records if r.run not in known or r.is_beyond(known[r.run]))
    if new:
        write_records(store / IMPORTED / f"{canonical_hash(new)}.json", new)
    return new


def _runs_of(store: Path, unreadable: Callable[[StoreError], None]) -> list[tuple[str, Marks, RunRecord]]:
    """Run, marks and record of every folder with a spec; only what changed since the last time is read."""
    known, marked = remembered(store), list(_marked(store))
    changed = [run for run, marks in marked if run not in known or known[run][0] != marks]
    read = dict(zip(changed, read_all(store, changed), strict=True))
    found = []
    for run, marks in marked:
        record = read[run] if run in read else known[run][1]
        if isinstance(record, StoreError):
            unreadable(record)
        else:
            found.append((run, marks, record))
    if sum(isinstance(record, RunRecord) for record in read.values()) >= WORTH_WRITING:
        remember(store, found)
    return found


def _marked(store: Path) -> Iterator[tuple[str, Marks]]:
    """Every run of a store, in order of id, with the marks of its files."""
    with os.scandir(store) as entries:
        names = sorted(entry.name for entry in entries if entry.is_dir())
    for name in names:
        if (marks := marks_of(f"{store}/{name}")) is not None:
            yield name, marks
