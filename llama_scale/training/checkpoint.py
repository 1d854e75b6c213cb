"""Checkpoints: whole folders with a hash, the newest good one found again after anything."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch

from llama_scale.errors import StoreError
from llama_scale.files import publish_folder
from llama_scale.runs import CHECKPOINT_MANIFEST, CHECKPOINT_STATE, RunFolder


def save_checkpoint(
    folder: RunFolder, step: int, state: dict[str, Any], *, check: Callable[[], None] | None = None
) -> None:
    """Publish checkpoints/step-N with its sha256; raises StoreError where the disk refuses.

    `check` is asked last whether this process may still write. The state is serialised in memory first,
    because torch.save reports a full disk as a RuntimeError.
    """
    buffer = io.BytesIO()
    torch.save({"step": step, **state}, buffer)
    data = buffer.getbuffer()
    manifest = {
        "run": folder.run,
        "step": step,
        "sha256": hashlib.sha256(data).hexdigest(),
        "bytes": len(data),
    }
    with publish_folder(folder.checkpoint_path(step), check=check) as new:
        (new / CHECKPOINT_STATE).write_bytes(data)
        (new / CHECKPOINT_MANIFEST).write_text(json.dumps(manifest))


def load_checkpoint(folder: RunFolder, step: int, device: torch.device) -> dict[str, Any]:
    """The state saved at `step`; raises StoreError where it is missing, torn or not what was saved."""
    path = folder.checkpoint_path(step)
    try:
        manifest = json.loads((path / CHECKPOINT_MANIFEST).read_text())
        data = (path / CHECKPOINT_STATE).read_bytes()
        if hashlib.sha256(data).hexdigest() != manifest["sha256"]:
            raise ValueError(f"{CHECKPOINT_STATE} has changed since it was saved")
        return torch.load(io.BytesIO(data), map_location=device, weights_only=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(
            f"checkpoint {step} of run {folder.run} cannot be used: {error}",
            hint="an older one is used in its place where there is one",
        ) from None


def newest_checkpoint(
    folder: RunFolder, device: torch.device, *, up_to: int
) -> tuple[dict[str, Any] | None, list[tuple[int, StoreError]]]:
    """The newest usable state at or before step `up_to` (None: start afresh), and what was passed over."""
    passed_over: list[tuple[int, StoreError]] = []
    for step in reversed(folder.checkpoint_steps()):
        if step > up_to:
            continue
        try:
            return load_checkpoint(folder, step, device), passed_over
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
