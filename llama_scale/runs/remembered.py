"""Records as they were last read, so that a large store is listed at once: a cache that may be deleted.

An entry counts only while the spec and the result, or without one the folder of checkpoints, have the sizes
and times that they had; what is new, changed, torn or of another version is read from the runs themselves.
"""

from __future__ import annotations

import json
import os
import time
import zlib
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

from llama_scale.architecture import ParameterCounts
from llama_scale.errors import StoreError
from llama_scale.files import parse_json, write_atomically
from llama_scale.runs.records import RunRecord

FILE = ".records-cache.json"
WORTH_WRITING = 100  # records that were read anew
RESTING_SECONDS = 5.0  # since a file changed: within a coarse clock's tick it may change again unseen
_SHAPE = [[f.name for f in fields(type_)] for type_ in (RunRecord, ParameterCounts)]

Marks = tuple[int, ...]  # sizes and times of what a record was read from
NOTHING: Marks = (0, 0)


def marks_of(run: str) -> Marks | None:
    """Sizes and times of the files behind the record of the run at this path; None without a spec.

    Zeros stand for what is not there.
    """
    try:
        spec = os.stat(f"{run}/spec.json")
    except OSError:
        return None
    result = _marks_of_file(f"{run}/result.json")
    # With a result a record says nothing of checkpoints, and most runs of a large store have one.
    checkpoints = NOTHING if result != NOTHING else _marks_of_file(f"{run}/checkpoints")
    return (spec.st_size, spec.st_mtime_ns, *result, *checkpoints)


def _marks_of_file(path: str) -> Marks:
    try:
        found = os.stat(path)
    except OSError:
        return NOTHING
    return found.st_size, found.st_mtime_ns


def remembered(store: Path) -> dict[str, tuple[Marks, RunRecord]]:
    """What the store's cache holds by run, nothing where there is none that is whole and of this version."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        head, _, body = (store / FILE).read_bytes().partition(b"\n")
        if parse_json(head) == _head(body):
            return {row[0]: (tuple(row[1]), record_of(row[2])) for row in parse_json(body)}
    return {}


def remember(store: Path, found: Iterable[tuple[str, Marks, RunRecord]]) -> None:
    """Write the cache anew, less what has just changed; where that cannot be done nothing is lost."""
    rested = (time.time() - RESTING_SECONDS) * 1e9
    rows = [
        [run, marks, values_of(record)]
        for run, marks, record in found
        if max(marks[1], marks[3], marks[5]) < rested
    ]
    body = json.dumps(rows, separators=(",", ":")).encode()
    with suppress(StoreError):
        write_atomically(store / FILE, json.dumps(_head(body)).encode() + b"\n" + body)


def values_of(record: RunRecord) -> list[Any]:
    """A record as a list of plain values."""
    counts = [getattr(record.parameters, name) for name in _SHAPE[1]]
    return [counts if name == "parameters" else getattr(record, name) for name in _SHAPE[0]]


def _head(body: bytes) -> dict[str, Any]:
    return {"schema": 1, "fields": _SHAPE, "crc32": zlib.crc32(body)}


def record_of(values: list[Any]) -> RunRecord:
    """The record that `values_of` took apart; ValueError or TypeError for anything else."""
    named = dict(zip(_SHAPE[0], values, strict=True))
    named["parameters"] = ParameterCounts(**dict(zip(_SHAPE[1], named["parameters"], strict=True)))
    return RunRecord(**named)
