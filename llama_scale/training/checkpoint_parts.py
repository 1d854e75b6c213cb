"""A state on disk in parts, one file a process (torch.distributed.checkpoint), read by any number of them."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from typing import Any

from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from llama_scale.training.optimizer import Tensors
from llama_scale.training.world import World

METADATA = ".metadata"
# What torch's own metadata names: plain descriptions of tensors and files. A pickle could name anything.
MODULES = {"torch.distributed.checkpoint.metadata", "torch.distributed.checkpoint.filesystem"}
NAMES = {
    "torch": {"Size", "device", "float32", "float64", "bfloat16", "float16", "int64", "int32", "strided"},
    "torch.serialization": {"_get_layout"},
    "pathlib": {"PosixPath"},
    "pathlib._local": {"PosixPath"},  # Python 3.13
}


def write_parts(folder: Path, state: Tensors, world: World) -> list[Path]:
    """Write this process's part of `state`, and return the files that it wrote; all processes call this.

    Raises OSError where a disk refuses.
    """
    try:
        save(_flat(state), storage_writer=FileSystemWriter(folder))
    except CheckpointException as error:
        raise _first_failure(error) from error
    own = sorted(folder.glob(f"__{world.rank}_*.distcp"))
    return [*own, folder / METADATA] if world.leads else own


def read_parts(folder: Path, state: Tensors, world: World) -> None:
    """Fill the tensors of `state` from the parts in `folder`, however many processes wrote them.

    Raises ValueError where they do not hold such tensors, OSError where they cannot be read.
    """
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is", category=UserWarning)
            load(_flat(state), storage_reader=_Reader(folder), no_dist=not world.shards)
    except CheckpointException as error:
        raise _first_failure(error) from error


class _Reader(FileSystemReader):
    """Torch's reader, without its trust: the metadata may name nothing but descriptions of tensors."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        with (Path(self.path) / METADATA).open("rb") as file:
            metadata = _Unpickler(file).load()
        if not isinstance(metadata, Metadata):
            raise ValueError(f"{METADATA} holds no description of a checkpoint")
        return metadata


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module in MODULES or name in NAMES.get(module, ()):
            return super().find_class(module, name)
        raise ValueError(f"{METADATA} names {module}.{name}, which no checkpoint needs")


def _flat(state: Tensors) -> dict[str, Any]:
    return {f"{what}/{name}": tensor for what, tensors in state.items() for name, tensor in tensors.items()}


def _first_failure(error: CheckpointException) -> Exception:
    """The failure of one process, out of torch's account of all of them."""
    for failure, _ in error.failures.values():
        if isinstance(failure, OSError):
            return failure
    return ValueError(str(next(iter(error.failures.values()))[0]) if error.failures else str(error))
