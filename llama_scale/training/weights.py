"""The weights that a run ended with: one safetensors file in its folder, kept when its checkpoints go."""

from __future__ import annotations

import hashlib

from safetensors import SafetensorError
from safetensors.torch import load, save

from llama_scale.errors import StoreError
from llama_scale.files import write_atomically
from llama_scale.runs import WEIGHTS, RunFolder
from llama_scale.training.checkpoint import restore_newest
from llama_scale.training.model import Llama
from llama_scale.training.world import ALONE, World


def save_weights(folder: RunFolder, model: Llama, world: World = ALONE) -> str:
    """Put the model's weights into the run's folder and return their sha256 (empty where another leads).

    A tied head is the embedding and is stored once. All processes of a world call this.
    """
    if world.shards:
        from llama_scale.training.sharding import whole_weights

        weights = whole_weights(model, keep=world.leads)
    else:
        weights = {name: p.detach().cpu() for name, p in model.named_parameters()}
    if not world.leads:
        return ""
    data = save({name: weight.contiguous() for name, weight in weights.items()})
    write_atomically(folder.path / WEIGHTS, data)
    return hashlib.sha256(data).hexdigest()


def load_weights(folder: RunFolder) -> tuple[Llama, int | None]:
    """The model of a run, and the step that it stands at: None for the end of its schedule.

    A run that has not ended gives its newest usable checkpoint. Raises StoreError where there is none.
    """
    model = Llama(folder.config.model)
    if not folder.is_finished:
        return model, _from_checkpoint(folder, model)
    try:
        data = (folder.path / WEIGHTS).read_bytes()
        if hashlib.sha256(data).hexdigest() != (folder.result() or {}).get("weights_sha256"):
            raise _unusable(folder, "it has changed since the run ended")
        weights = load(data)
    except FileNotFoundError:
        return model, _from_checkpoint(folder, model)
    except (OSError, SafetensorError) as error:
        raise _unusable(folder, str(error)) from error
    names = {name for name, _ in model.named_parameters()}
    if weights.keys() != names:
        raise _unusable(folder, "its tensors are not those of the run's model")
    try:
        model.load_state_dict(weights, strict=False)  # a tied head has no tensor of its own
    except RuntimeError as error:
        raise _unusable(folder, str(error)) from error
    return model, None


def _from_checkpoint(folder: RunFolder, model: Llama) -> int:
    steps = folder.checkpoint_steps()
    weights = {name: parameter.detach() for name, parameter in model.named_parameters()}
    restored, _ = restore_newest(folder, {"weights": weights}, up_to=max(steps, default=0))
    if restored is None:
        raise _without_weights(folder)
    return restored.step


def _without_weights(folder: RunFolder) -> StoreError:
    result, again = folder.result(), "give the command that trained it again"
    if result is None:
        return StoreError(f"run {folder.run} has no checkpoint yet", hint=f"{again}, or choose another run")
    if result["status"] == "diverged":
        return StoreError(
            f"run {folder.run} diverged at step {result['steps']:,}, so it has no weights",
            hint="choose another run, or train one at a lower learning rate",
        )
    return StoreError(
        f"run {folder.run} has ended, but {folder.path / WEIGHTS} is not there",
        hint=f"copy it from a backup, or delete the run's folder and {again}",
    )


def _unusable(folder: RunFolder, reason: str) -> StoreError:
    return StoreError(
        f"{folder.path / WEIGHTS} cannot be used: {reason}",
        hint="copy it from a backup, or delete the run's folder and give the command that trained it again",
    )
