"""Weights that a run starts from in place of drawn ones: their identity, their place in its folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from llama_scale.errors import StoreError
from llama_scale.files import write_atomically
from llama_scale.runs import INITIAL_WEIGHTS, RunFolder
from llama_scale.training.model import Llama
from llama_scale.training.world import fill


def identity(model: Llama) -> str:
    """A sha256 of names, shapes and 32-bit values: the same however a file lays them out."""
    digest = hashlib.sha256()
    for name, weight in sorted(model.named_parameters()):
        _add(digest, name, weight.detach())
    return digest.hexdigest()


def keep_start(folder: RunFolder, model: Llama) -> None:
    """Put the weights into the run's folder, once: a run that goes on needs no other file than its own."""
    path = folder.path / INITIAL_WEIGHTS
    if not path.exists():
        write_atomically(path, save({name: p.detach().contiguous() for name, p in model.named_parameters()}))


def fill_start(folder: RunFolder, weights: Mapping[str, Tensor]) -> None:
    """Fill a model's 32-bit weights, or this process's part of them, with those that its run starts from.

    One at a time, so that no process holds the whole. Raises StoreError where they are not what the run was
    planned on.
    """
    path, digest = folder.path / INITIAL_WEIGHTS, hashlib.sha256()
    try:
        with safe_open(path, framework="pt") as file, torch.no_grad():
            for name, weight in sorted(weights.items()):
                whole = file.get_tensor(name)
                if whole.shape != weight.shape:
                    raise ValueError(f"{name} has shape {tuple(whole.shape)}, not {tuple(weight.shape)}")
                _add(digest, name, whole)
                fill(weight, whole)
        if digest.hexdigest() != folder.config.initial_weights:
            raise ValueError("it has changed since the run was planned")
    except (OSError, ValueError, SafetensorError) as error:
        raise StoreError(
            f"{path} cannot be used: {error}",
            hint="delete it and give the command that began the run again: it is written anew",
        ) from error


def _add(digest: hashlib._Hash, name: str, weight: Tensor) -> None:
    digest.update(json.dumps([name, list(weight.shape)]).encode())
    digest.update(weight.float().contiguous().numpy().data)
