"""Checkpoints: whole folders with their hashes, the newest good one found again after anything."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import shutil
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import torch

from llama_scale.errors import StoreError
from llama_scale.files import parse_json, publish_folder, store_error
from llama_scale.frozen import frozen
from llama_scale.runs import CHECKPOINT_MANIFEST, RunFolder
from llama_scale.runs.upkeep import sha256_of
from llama_scale.training.optimizer import Tensors
from llama_scale.training.world import ALONE, World, fill

STATE = "state.pt"


@frozen
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
    manifest = {"run": folder.run, "step": step, "notes": dict(notes or {})}
    path = folder.checkpoint_path(step)
    if world.shards:
        _publish_parts(path, state, manifest, check, world)
        return
    buffer = io.BytesIO()  # first, because torch.save reports a full disk as a RuntimeError
    torch.save({what: dict(tensors) for what, tensors in state.items()}, buffer)
    data = buffer.getbuffer()
    with publish_folder(path, check=check) as new:
        (new / STATE).write_bytes(data)
        _write_manifest(
            new, manifest, {STATE: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}}
        )


def _publish_parts(
    path: Path, state: Tensors, manifest: dict[str, Any], check: Callable[[], None] | None, world: World
) -> None:
    """Every process writes its part into the leader's folder, which appears when all of them have."""
    from llama_scale.training.checkpoint_parts import write_parts

    with ExitStack() as stack:
        new = world.agree(stack.enter_context(publish_folder(path, check=check)) if world.leads else path)
        try:
            own = write_parts(new, state, world)
            files = {p.name: {"sha256": sha256_of(p), "bytes": p.stat().st_size} for p in own}
            failure = None
        except OSError as error:
            files, failure = {}, error
        gathered = world.gather((files, failure))
        for _, failure in gathered:
            if failure is not None:
                raise store_error(failure, f"cannot write {path}")
        if world.leads:
            _write_manifest(new, manifest, {name: f for files, _ in gathered for name, f in files.items()})
    world.agree(None)  # nobody goes on before it is there


def _write_manifest(folder: Path, manifest: dict[str, Any], files: dict[str, Any]) -> None:
    (folder / CHECKPOINT_MANIFEST).write_text(json.dumps({**manifest, "files": files}))


def restore_checkpoint(folder: RunFolder, step: int, state: Tensors, world: World = ALONE) -> Restored:
    """Fill the tensors of `state` with what was saved at `step`, by however many processes.

    Raises StoreError, in every process, where it is missing, torn or not what was saved.
    """
    path = folder.checkpoint_path(step)
    try:
        manifest = parse_json((path / CHECKPOINT_MANIFEST).read_text())
        _raise_first(world, _harm(path, manifest, world))
        if STATE in manifest["files"]:
            _fill_from_file(path / STATE, manifest["files"][STATE]["sha256"], state)
        else:
            from llama_scale.training.checkpoint_parts import read_parts

            read_parts(path, state, world)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, pickle.UnpicklingError) as error:
        raise StoreError(
            f"checkpoint {step} of run {folder.run} cannot be used: {error}",
            hint="an older one is used in its place where there is one",
        ) from None
    return Restored(step=step, notes=manifest["notes"])


def _harm(path: Path, manifest: Mapping[str, Any], world: World) -> str | None:
    """What is wrong with this process's share of the files, if anything is; each is read by one process."""
    try:
        dict(manifest["notes"])
        for name in sorted(manifest["files"])[world.rank :: world.size]:
            if sha256_of(path / name) != manifest["files"][name]["sha256"]:
                return f"{name} has changed since it was saved"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return str(error) or repr(error)
    return None


def _raise_first(world: World, harm: str | None) -> None:
    """Raises ValueError in every process where one of them found harm."""
    if reason := next((reason for reason in world.gather(harm) if reason), None):
        raise ValueError(reason)


def _fill_from_file(path: Path, sha256: str, state: Tensors) -> None:
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != sha256:
        raise ValueError(f"{path.name} has changed while it was read")
    saved = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    pairs = [(tensor, saved[what][name]) for what in state for name, tensor in state[what].items()]
    if any(tensor.shape != value.shape for tensor, value in pairs):
        raise ValueError("its tensors are not those of the run's model")
    with torch.no_grad():
        for tensor, value in pairs:
            fill(tensor, value)


def restore_newest(
    folder: RunFolder, state: Tensors, *, up_to: int, world: World = ALONE
) -> tuple[Restored | None, list[tuple[int, StoreError]]]:
    """Fill `state` from the newest usable checkpoint at or before step `up_to`; None: start afresh.

    Also says which were passed over, and why.
    """
    passed_over: list[tuple[int, StoreError]] = []
    for step in reversed(world.agree(folder.checkpoint_steps())):
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
