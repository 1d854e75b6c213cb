"""Checkpoints: whole folders with their hashes, the newest good one found again after anything."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import torch

from llama_scale.errors import StoreError
from llama_scale.files import publish_folder, store_error
from llama_scale.frozen import frozen
from llama_scale.runs import RunFolder
from llama_scale.runs.manifests import (
    Manifest,
    Notes,
    check_files,
    read_manifest,
    sha256_of,
    write_manifest,
)
from llama_scale.training.optimizer import Tensors
from llama_scale.training.world import ALONE, World, fill

STATE = "state.pt"


@frozen
class Restored:
    """The step whose state was read, and the notes that were saved with it."""

    step: int
    notes: Notes


def save_checkpoint(
    folder: RunFolder,
    step: int,
    state: Tensors,
    *,
    notes: Notes | None = None,
    check: Callable[[], None] | None = None,
    world: World = ALONE,
) -> None:
    """Publish checkpoints/step-N, its manifest with every file's sha256 last.

    `check` is asked last whether this process may still write. Raises StoreError where the disk refuses.
    All processes of a world call this.
    """
    notes, path = notes or Notes(), folder.checkpoint_path(step)
    if world.shards:
        with _gathering_parts(path, state, check, world) as (new, files):
            if world.leads:
                write_manifest(new, Manifest(run=folder.run, step=step, notes=notes, files=files))
        world.agree(None)  # nobody goes on before it is there
        return
    buffer = io.BytesIO()  # first, because torch.save reports a full disk as a RuntimeError
    torch.save({what: dict(tensors) for what, tensors in state.items()}, buffer)
    data = buffer.getvalue()  # no copy, and no view that a failure's traceback would keep
    with publish_folder(path, check=check) as new:
        (new / STATE).write_bytes(data)
        files = {STATE: hashlib.sha256(data).hexdigest()}
        write_manifest(new, Manifest(run=folder.run, step=step, notes=notes, files=files))


@contextmanager
def _gathering_parts(
    path: Path, state: Tensors, check: Callable[[], None] | None, world: World
) -> Iterator[tuple[Path, dict[str, str]]]:
    """Every process writes its part into the leader's folder, which appears at `path` when the block ends.

    Gives that folder and the hashes of all that was written.
    """
    from llama_scale.training.checkpoint_parts import write_parts

    with ExitStack() as stack:
        new = world.agree(stack.enter_context(publish_folder(path, check=check)) if world.leads else path)
        try:
            files, failure = {p.name: sha256_of(p) for p in write_parts(new, state, world)}, None
        except OSError as error:
            files, failure = {}, error
        gathered = world.gather((files, failure))
        for _, failure in gathered:
            if failure is not None:
                raise store_error(failure, f"cannot write {path}")
        yield new, {name: sha256 for files, _ in gathered for name, sha256 in files.items()}


def restore_checkpoint(folder: RunFolder, step: int, state: Tensors, world: World = ALONE) -> Restored:
    """Fill the tensors of `state` with what was saved at `step`, by however many processes.

    Raises StoreError, in every process, where it is missing, torn or not what was saved.
    """
    path = folder.checkpoint_path(step)
    try:
        manifest = _agreed(world, folder, step)
        if STATE in manifest.files:
            _fill_from_file(path / STATE, manifest.files[STATE], state)
        else:
            from llama_scale.training.checkpoint_parts import read_parts

            read_parts(path, state, world)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, pickle.UnpicklingError) as error:
        raise StoreError(
            f"checkpoint {step} of run {folder.run} cannot be used: {error}",
            hint="an older one is used in its place where there is one",
        ) from None
    return Restored(step=step, notes=manifest.notes)


def _agreed(world: World, folder: RunFolder, step: int) -> Manifest:
    """The manifest of `step`, its files checked, each by one process.

    Raises ValueError in every process where one of them found harm.
    """
    path, manifest, harm = folder.checkpoint_path(step), None, None
    try:
        manifest = read_manifest(path, folder.run, step)
        check_files(path, manifest, sorted(manifest.files)[world.rank :: world.size])
    except (OSError, ValueError) as error:
        harm = str(error)
    reason = next((reason for reason in world.gather(harm) if reason), None)
    if reason or manifest is None:
        raise ValueError(reason)
    return manifest


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
