"""Checkpoints: whole folders with their hashes, the newest good one found again after anything."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from llama_scale.errors import StoreError
from llama_scale.files import publish_folder
from llama_scale.runs import CHECKPOINT_MANIFEST, RunFolder
from llama_scale.training.optimizer import Tensors
from llama_scale.training.world import ALONE, World

STATE = "state.pt"


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """The step whose state was read, and the notes that were saved with it."""

    step: int
    notes: Mapping[str, Any]


def save_checkpoint(
    folder: RunFolder,
    step: int,
    state: Tensors,
    *,
    notes: Mapping[str, Any] | None = None,
    check: Callable[[], None] | None = None,
    world: World = ALONE,
) -> None:
    """Publish checkpoints/step-N, its manifest with every file's sha256 last.

    `notes` is small and goes into the manifest as JSON; `check` is asked last whether this process may
    still write. Raises StoreError where the disk refuses. All processes of a world call this.
    """
    files = _serialised(state)
    manifest = {
        "run": folder.run,
        "step": step,
        "files": {name: {"sha256": _sha256(data), "bytes": len(data)} for name, data in files.items()},
        "notes": dict(notes or {}),
    }
    with publish_folder(folder.checkpoint_path(step), check=check) as new:
        for name, data in files.items():
            (new / name).write_bytes(data)
        (new / CHECKPOINT_MANIFEST).write_text(json.dumps(manifest))


def _serialised(state: Tensors) -> dict[str, memoryview]:
    """The one file of a model that one process holds.

    Serialised in memory first, because torch.save reports a full disk as a RuntimeError.
    """
    buffer = io.BytesIO()
    torch.save({what: dict(tensors) for what, tensors in state.items()}, buffer)
    return {STATE: buffer.getbuffer()}


def restore_checkpoint(folder: RunFolder, step: int, state: Tensors, world: World = ALONE) -> Restored:
    """Fill the tensors of `state` with what was saved at `step`, and return the notes.

    Raises StoreError where it is missing, torn or not what was saved; `state` is untouched then.
    """
    path = folder.checkpoint_path(step)
    try:
        manifest = json.loads((path / CHECKPOINT_MANIFEST).read_text())
        files = {name: _verified(path / name, stated["sha256"]) for name, stated in manifest["files"].items()}
        saved = torch.load(io.BytesIO(files[STATE]), map_location="cpu", weights_only=True)
        notes = dict(manifest["notes"])
        pairs = [(tensor, saved[what][name]) for what in state for name, tensor in state[what].items()]
        if any(tensor.shape != value.shape for tensor, value in pairs):
            raise ValueError("its tensors are not those of the run's model")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(
            f"checkpoint {step} of run {folder.run} cannot be used: {error}",
            hint="an older one is used in its place where there is one",
        ) from None
    with torch.no_grad():
        for tensor, value in pairs:
            tensor.copy_(value)
    return Restored(step=step, notes=notes)


def _verified(path: Path, sha256: str) -> bytes:
    data = path.read_bytes()
    if _sha256(data) != sha256:
        raise ValueError(f"{path.name} has changed since it was saved")
    return data


def _sha256(data: bytes | memoryview) -> str:
    return hashlib.sha256(data).hexdigest()


def restore_newest(
    folder: RunFolder, state: Tensors, *, up_to: int, world: World = ALONE
) -> tuple[Restored | None, list[tuple[int, StoreError]]]:
    """Fill `state` from the newest usable checkpoint at or before step `up_to`; None: start afresh.

    Also says which were passed over, and why.
    """
    passed_over: list[tuple[int, StoreError]] = []
    for step in reversed(folder.checkpoint_steps()):
        if step > up_to:
            continue
        try:
            return restore_checkpoint(folder, step, state, world), passed_over
        except StoreError as error:
            passed_over.append((step, error))
    return None, passed_over


def clear_leftovers(folder: RunFolder) -> None:
    """Delete what processes that were killed while saving left behind. Only for who holds the run's claim."""
    for unpublished in folder.checkpoints.glob(".step-*.tmp"):
        shutil.rmtree(unpublished, ignore_errors=True)


def prune_checkpoints(
    folder: RunFolder, *, keep: frozenset[int], newest: int = 2, up_to: int | None = None
) -> None:
    """Delete all but the branch points in `keep` and the `newest` checkpoints, of those up to step `up_to`.

    A run that had to go back finds later checkpoints: they must not push out the one it just saved.
    """
    steps = [step for step in folder.checkpoint_steps() if up_to is None or step <= up_to]
    for step in steps[: -newest or None]:
        if step not in keep:
            delete_checkpoint(folder, step)


def delete_checkpoint(folder: RunFolder, step: int) -> None:
    """Make the checkpoint of `step` disappear at once, then clear what it held."""
    path = folder.checkpoint_path(step)
    gone = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with suppress(OSError):
        path.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)
