"""A model that no process holds whole: FSDP2 (torch.distributed.fsdp), AdamW or Muon over its parts."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from llama_scale.runs import RunConfig
from llama_scale.training.model import Llama, rotary_table
from llama_scale.training.muon import SIZE_OF_ADAMW, orthogonal
from llama_scale.training.optimizer import DTYPES, MOMENTS, MOMENTUM, Tensors, set_steps, started_adamw
from llama_scale.training.scaling import Treatment, initialise, treatments
from llama_scale.training.world import World, check_shares, own_part, own_rows


def sharded(config: RunConfig, device: torch.device, world: World) -> tuple[Llama, ShardedOptimizer]:
    """The model at its start, spread over the world's processes, and its optimiser.

    Its start is that of a model in one process, made a matrix at a time: no process ever holds more than one
    block and one matrix. Raises InputError where the processes cannot share a step evenly.
    """
    check_shares(config.sequences_per_step, world)
    with torch.device("meta"):
        model = Llama(config.model, recompute=config.recompute, compiled=config.compile)
    mesh = init_device_mesh(device.type, (world.size,))
    policy = MixedPrecisionPolicy(
        param_dtype=DTYPES[config.precision], reduce_dtype=torch.float32, cast_forward_inputs=False
    )
    for module in (*model.blocks, model):
        fully_shard(module, mesh=mesh, mp_policy=policy)
    model.to_empty(device=device)
    with torch.no_grad():
        model.get_buffer("rotation").copy_(rotary_table(config.model))
    initialise(model, config.seed, config.initial_gain, mup_base_width=config.mup_base_width)
    return model, ShardedOptimizer(model, config, world)


class ShardedOptimizer:
    """AdamW, or Muon and AdamW, over the parts that this process holds, clipped by the whole gradient's norm.

    Weights are 32-bit; in bf16 FSDP2 hands the model a copy of them and adds gradients up in 32 bits.
    """

    name = "torch"

    def __init__(self, module: nn.Module, config: RunConfig, world: World) -> None:
        self.config, self.world, self._dtype = config.optimizer, world, DTYPES[config.precision]
        self._named = dict(module.named_parameters())
        groups = list(treatments(module, config))
        self._by_adamw = [(how, weights) for how, weights in groups if how.rule == "adamw"]
        self._by_muon = [(how, weights) for how, weights in groups if how.rule == "muon"]
        self._momentum = {
            name: torch.zeros_like(weight, requires_grad=False)
            for _, weights in self._by_muon
            for name, weight in weights.items()
        }
        self._adamw = started_adamw([(w.values(), how) for how, w in self._by_adamw], self.config)

    def gather(self) -> None:
        """Nothing: FSDP2 adds up what each backward pass leaves."""

    def discard(self) -> None:
        """Forget all gradients since the last step."""
        for weight in self._named.values():
            weight.grad = None

    def step(self, learning_rate: float) -> Tensor:
        """Clip, update, clear; returns the whole gradient's norm before clipping, the same everywhere."""
        gradients = [own_part(p.grad) for p in self._named.values() if p.grad is not None]
        squares = torch.stack([g.float().square().sum() for g in gradients]).sum()
        # FSDP2 averages over processes what is a sum: each process's loss has its share of the step's weight.
        norm = self.world.sum(squares).sqrt() * self.world.size
        scale = (self.config.clip_norm / (norm + 1e-6)).clamp(max=1.0) * self.world.size
        for gradient in gradients:
            gradient.mul_(scale)
        for settings, (how, _) in zip(self._adamw.param_groups, self._by_adamw, strict=True):
            settings["lr"] = learning_rate * how.rate_factor
        self._adamw.step()
        for how, weights in self._by_muon:
            for name, weight in weights.items():
                self._step_by_muon(name, weight, how, learning_rate)
        self.discard()
        return norm

    @torch.no_grad()
    def _step_by_muon(self, name: str, weight: nn.Parameter, how: Treatment, rate: float) -> None:
        """As `Muon` does it; every process makes the whole update orthogonal and keeps its own rows."""
        gradient, momentum = weight.grad, self._momentum[name]
        if gradient is None:
            return
        momentum.mul_(self.config.momentum).add_(gradient)
        whole = _whole(gradient.add_(momentum, alpha=self.config.momentum))
        own = own_part(weight)
        own.mul_(1 - rate * how.weight_decay)
        if own.numel():
            scale = SIZE_OF_ADAMW * math.sqrt(max(weight.shape))
            own.sub_(own_rows(weight, orthogonal(whole[None], self._dtype)[0]), alpha=rate * scale)

    def tensors(self) -> Tensors:
        """Weights and moments by weight, each a DTensor of which this process holds a part."""
        adamw = {name: p for _, weights in self._by_adamw for name, p in weights.items()}
        found: dict[str, dict[str, Tensor]] = {"weights": {n: p.detach() for n, p in self._named.items()}}
        for moment in MOMENTS:
            found[moment] = {name: self._adamw.state[p][moment] for name, p in adamw.items()}
        return found | ({MOMENTUM: self._momentum} if self._momentum else {})

    def resume(self, steps: int) -> None:
        """Count on from `steps` steps taken."""
        set_steps(self._adamw, steps)


def whole_weights(model: nn.Module, *, keep: bool) -> dict[str, Tensor]:
    """Every weight put together, one after the other, in the memory of the CPU where `keep` is true.

    All processes that share the model call this.
    """
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()  # what the last forward pass put together for the next
    weights = {}
    for name, parameter in model.named_parameters():
        whole = _whole(parameter.detach())
        if keep:
            weights[name] = whole.cpu()
    return weights


def _whole(part: Tensor) -> Tensor:
    """The whole of a DTensor, in every process."""
    return part.full_tensor()  # pyright: ignore[reportAttributeAccessIssue]
