"""AdamW or Muon over flat buffers, for the model of one process."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from llama_scale.runs import INTEGERS, OptimizerConfig, Precision, RunConfig
from llama_scale.training.kernels import Library, used_on
from llama_scale.training.kernels.adamw import FlatAdamW
from llama_scale.training.muon import Muon
from llama_scale.training.scaling import Treatment, treatments

Tensors = Mapping[str, Mapping[str, Tensor]]  # by what they are ("weights", "exp_avg", ...), then by weight
MOMENTS = ("exp_avg", "exp_avg_sq")
MOMENTUM = "momentum"
DTYPES: dict[Precision, torch.dtype] = {
    "f32": torch.float32,
    "bf16": torch.bfloat16,
    **dict.fromkeys(INTEGERS, torch.float32),
}


class FlatOptimizer:
    """AdamW, or Muon and AdamW, over a module whose weights and gradients become views of flat buffers.

    On a CPU a small model spends as long in per-tensor optimiser calls as in its matrix products;
    flat, the whole update is one call, fused by torch or by our kernels. In bf16 the module holds a copy of
    32-bit master weights, made anew after every step, and its gradients are added up in 32 bits.
    """

    def __init__(self, module: nn.Module, config: RunConfig) -> None:
        self.config = config.optimizer
        dtype = DTYPES[config.precision]
        self._groups = [_Group(how, weights, dtype) for how, weights in treatments(module, config)]
        self._by_adamw = [group for group in self._groups if group.how.rule == "adamw"]
        self._by_muon = [
            (group, Muon(group.master, group.shapes, momentum=self.config.momentum, dtype=dtype))
            for group in self._groups
            if group.how.rule == "muon"
        ]
        self._adamw = started_adamw([([g.master], g.how) for g in self._by_adamw], self.config)
        found = used_on(next(module.parameters()).device)
        self._kernels = FlatAdamW(found, torch.get_num_threads()) if isinstance(found, Library) else None

    @property
    def name(self) -> str:
        """What computes its step, for a run's record."""
        return self._kernels.name if self._kernels else "torch"

    def gather(self) -> None:
        """Add what the backward pass of a micro-batch left to the 32-bit gradients."""
        for group in self._groups:
            group.gather()

    def discard(self) -> None:
        """Forget all gradients since the last step, those of a backward pass that broke off too."""
        for group in self._groups:
            group.discard()

    def step(self, learning_rate: float) -> Tensor:
        """Clip, update, clear; returns the gradient's norm before clipping."""
        gradients = [group.gradient for group in self._groups]
        norm = self._kernels.norm(gradients) if self._kernels else _norm(gradients)
        scale = (self.config.clip_norm / (norm + 1e-6)).clamp(max=1.0)
        for group, muon in self._by_muon:
            decay = group.how.weight_decay
            gradient = group.gradient.mul_(scale)
            muon.step(group.master.data, gradient, rate=learning_rate, weight_decay=decay)
            gradient.zero_()
        if self._kernels:
            self._step_by_kernels(self._kernels, learning_rate, scale.item())
        else:
            self._step_by_torch(learning_rate, scale)
        for group in self._groups:
            group.publish()
        return norm

    def _step_by_torch(self, learning_rate: float, scale: Tensor) -> None:
        for settings, group in zip(self._adamw.param_groups, self._by_adamw, strict=True):
            settings["lr"] = learning_rate * group.how.rate_factor
            group.gradient.mul_(scale)
        self._adamw.step()
        for group in self._by_adamw:
            group.gradient.zero_()

    def _step_by_kernels(self, kernels: FlatAdamW, learning_rate: float, scale: float) -> None:
        for group in self._by_adamw:
            state = self._adamw.state[group.master]
            state["step"] += 1
            kernels.step(
                (group.master.detach(), group.gradient, *(state[moment] for moment in MOMENTS)),
                scale=scale,
                rate=learning_rate * group.how.rate_factor,
                decay=group.how.weight_decay,
                betas=(self.config.beta1, self.config.beta2),
                epsilon=self.config.epsilon,
                steps=int(state["step"]),
            )

    def tensors(self) -> Tensors:
        """Weights and all that the next step needs besides, by weight: live views of the flat buffers."""
        found = {"weights": {n: v for group in self._groups for n, v in group.views(group.master)}}
        for moment in MOMENTS:
            buffers = [(group, self._adamw.state[group.master][moment]) for group in self._by_adamw]
            found[moment] = {n: v for group, buffer in buffers for n, v in group.views(buffer)}
        if self._by_muon:
            found[MOMENTUM] = {n: v for group, muon in self._by_muon for n, v in group.views(muon.buffer)}
        return found

    def resume(self, steps: int) -> None:
        """Count on from `steps` steps taken, after `tensors` were filled from a checkpoint."""
        set_steps(self._adamw, steps)
        for group in self._groups:
            group.publish()


class _Group:
    """Weights treated alike: the flat buffer that the module's weights are views of, its 32-bit master."""

    def __init__(self, how: Treatment, weights: Mapping[str, nn.Parameter], dtype: torch.dtype) -> None:
        self.how = how
        self._shapes = {name: weight.shape for name, weight in weights.items()}
        self.master = nn.Parameter(torch.cat([w.detach().flatten().float() for w in weights.values()]))
        self.master.grad = self.gradient = torch.zeros_like(self.master)
        self._own = dtype == self.master.dtype
        self._work = self.master.data if self._own else self.master.data.to(dtype)
        self._work_gradient = self.gradient if self._own else torch.zeros_like(self._work)
        views, gradients = dict(self.views(self._work)), dict(self.views(self._work_gradient))
        for name, weight in weights.items():
            weight.grad = None  # of another type than what comes, perhaps
            weight.data, weight.grad = views[name], gradients[name]

    @property
    def shapes(self) -> list[torch.Size]:
        return list(self._shapes.values())

    def views(self, flat: Tensor) -> list[tuple[str, Tensor]]:
        """The part of a flat buffer that belongs to each weight, in its shape."""
        parts = flat.detach().split([shape.numel() for shape in self.shapes])
        return [(n, p.view(shape)) for (n, shape), p in zip(self._shapes.items(), parts, strict=True)]

    def gather(self) -> None:
        if not self._own:
            self.gradient.add_(self._work_gradient)
            self._work_gradient.zero_()

    def discard(self) -> None:
        self.gradient.zero_()
        self._work_gradient.zero_()

    def publish(self) -> None:
        """Give the module the master's weights."""
        if not self._own:
            self._work.copy_(self.master.data)


def _norm(gradients: Sequence[Tensor]) -> Tensor:
    return torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for g in gradients]))


def started_adamw(
    groups: Iterable[tuple[Iterable[nn.Parameter], Treatment]], config: OptimizerConfig
) -> torch.optim.AdamW:
    """AdamW with its moments, of zeros, before its first step, so that a checkpoint can be read into them."""
    adamw = torch.optim.AdamW(
        [{"params": list(weights), "weight_decay": how.weight_decay} for weights, how in groups],
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        eps=config.epsilon,
        fused=True,
    )
    for group in adamw.param_groups:
        for parameter in group["params"]:
            adamw.state[parameter] = {"step": torch.zeros((), device=parameter.device)}
            adamw.state[parameter] |= {moment: torch.zeros_like(parameter) for moment in MOMENTS}
    return adamw


def set_steps(adamw: torch.optim.AdamW, steps: int) -> None:
    """Set AdamW's own counts, which correct its moments' bias, to `steps`."""
    for state in adamw.state.values():
        state["step"].fill_(steps)
