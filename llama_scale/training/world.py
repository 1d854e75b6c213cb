"""The processes that train one run together: one alone, or as many as torchrun started."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
from torch import Tensor, distributed

from llama_scale.errors import InputError, LlamaScaleError
from llama_scale.frozen import frozen
from llama_scale.training.environment import choose_device

T = TypeVar("T")
PATIENCE = timedelta(hours=4)  # the first process may tokenise a large text while the others wait


@frozen
class World:
    """Who this process is among those that share one run; `shards` says whether they share its model."""

    rank: int = 0
    size: int = 1
    shards: bool = False

    @property
    def leads(self) -> bool:
        """Whether this process is the one that writes the run's folder and speaks to the user."""
        return self.rank == 0

    def rows(self, count: int) -> slice:
        """The rows of a batch of `count` that are this process's: an even share, in order of rank."""
        return slice(self.rank * count // self.size, (self.rank + 1) * count // self.size)

    def agree(self, value: T) -> T:
        """The leader's `value`, for every process; all must call it."""
        if not self.shards:
            return value
        values = [value]
        distributed.broadcast_object_list(values, src=0)
        return values[0]

    def gather(self, value: T) -> list[T]:
        """Every process's `value`, in order of rank; all must call it."""
        if not self.shards:
            return [value]
        values = [value] * self.size
        distributed.all_gather_object(values, value)
        return values

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum of `tensor` over all processes, in place; all must call it."""
        if self.shards:
            distributed.all_reduce(tensor)
        return tensor


ALONE = World()


def is_launched() -> bool:
    """Whether torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def leads_here() -> bool:
    """Whether this process will lead, before it has joined the others."""
    return not is_launched() or os.environ.get("RANK", "0") == "0"


def check_shares(sequences_per_step: int, world: World) -> None:
    """Raises InputError where the processes of `world` cannot share a step's sequences evenly."""
    if sequences_per_step % world.size:
        raise InputError(
            f"{world.size} processes cannot share {sequences_per_step} sequences a step evenly",
            hint=f"start as many as divide {sequences_per_step}, or set training.sequences_per_step",
        )


@contextmanager
def joined_world(device: str = "auto") -> Iterator[tuple[World, torch.device]]:
    """The world that torchrun made and this process's device in it; outside torchrun, one process alone.

    Raises InputError for a device that is not there, as where more processes were started than GPUs. Where
    processes lose each other the leader alone says so, by LlamaScaleError: one that failed has said why, if
    it could.
    """
    chosen = choose_device(device)
    if not is_launched():
        yield ALONE, chosen
        return
    if chosen.type == "cuda":
        chosen = _own_gpu(int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(chosen)
    backend = "cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo"
    distributed.init_process_group(backend, timeout=PATIENCE)
    try:
        yield World(rank=distributed.get_rank(), size=distributed.get_world_size(), shards=True), chosen
    except RuntimeError as error:
        if (said := _loss_in_words(error)) is None:
            raise
        if not leads_here():
            raise SystemExit(1) from error
        raise LlamaScaleError(
            f"{said}, so all of them stop",
            hint="see what others said; once that is put right the same command goes on from the last "
            "checkpoint",
        ) from error
    finally:
        distributed.destroy_process_group()


def _loss_in_words(error: RuntimeError) -> str | None:
    """What to say where another process could not be reached; None for any other error."""
    if isinstance(error, distributed.DistError):  # maybe none failed; NCCL says why in its last line
        *_, reason = str(error).strip().splitlines() or [type(error).__name__]
        return f"the processes of this run cannot reach each other ({reason.strip()})"
    if "gloo/transport" in str(error):  # which says so in words of its own alone, and no more than that
        return "another process of this run failed or was killed"
    return None


def _own_gpu(place: int) -> torch.device:
    count = torch.cuda.device_count()
    if place >= count:
        raise InputError(
            f"process {place} of this machine has no GPU of its own: there are {count}",
            hint=f"start at most {count} processes a machine, with torchrun --nproc-per-node {count}",
        )
    return torch.device("cuda", place)


def own_part(tensor: Tensor) -> Tensor:
    """The part of `tensor` that this process holds: all of it, unless its rows are shared out."""
    return getattr(tensor, "to_local", lambda: tensor)()


def own_rows(tensor: Tensor, whole: Tensor) -> Tensor:
    """The rows of `whole` that this process holds of `tensor`, which is shared out by rows; maybe none."""
    parts, rank = whole.chunk(tensor.device_mesh.size()), tensor.device_mesh.get_local_rank()  # pyright: ignore[reportAttributeAccessIssue]
    return parts[rank] if rank < len(parts) else whole[:0]


def fill(tensor: Tensor, whole: Tensor) -> None:
    """Copy `whole` into `tensor`, or this process's rows of it where `tensor` is shared out by rows."""
    if hasattr(tensor, "device_mesh"):
        own_part(tensor).copy_(own_rows(tensor, whole))
    else:
        tensor.copy_(whole)
