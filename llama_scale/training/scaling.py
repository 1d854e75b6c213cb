"""Where weights start and how fast each kind moves, by width: as LLaMA's family does, or by muP.

muP (Yang et al. 2022, arXiv 2203.03466, table 3, Adam): as the width grows over a base width, rates of
matrices that grow on both sides fall as 1/width, and so do the rate and the start of the output head, while
the embedding keeps both. A rate tuned at the base width then suits every width. The forward pass is LLaMA's
own, so heads must keep their size: 1/sqrt(head size) is constant only then.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

import torch
from torch import nn

from llama_scale.frozen import frozen
from llama_scale.runs import OptimizerKind, RunConfig
from llama_scale.training.model import Llama
from llama_scale.training.world import fill

GENERATOR_SEEDS = 2**64  # what torch's generators tell apart

Kind = Literal["matrix", "embedding", "head", "vector"]


def kind_of(name: str, weight: nn.Parameter) -> Kind:
    """What a weight is: a block's matrix, one of the two tables, or the gains of a norm."""
    if weight.ndim < 2:
        return "vector"
    return {"embedding.weight": "embedding", "head.weight": "head"}.get(name, "matrix")  # pyright: ignore


def initialise(model: Llama, seed: int, gain: float, *, mup_base_width: int | None = None) -> None:
    """Normal weights of deviation gain/sqrt(fan-in), over sqrt(2L) for projections into the residual stream.

    The gains of norms are one. Every matrix draws from its own generator, keyed by (seed, its place among the
    weights): its start does not depend on the sizes of those before it.
    """
    with torch.no_grad():
        for position, (name, weight) in enumerate(model.named_parameters()):
            if weight.ndim < 2:
                weight.fill_(1)  # also where the model was made on no device
                continue
            generator = torch.Generator().manual_seed((seed * 1_000_003 + position) % GENERATOR_SEEDS)
            deviation = gain * _unit_deviation(model, name, weight, mup_base_width)
            fill(weight, torch.randn(weight.shape, generator=generator) * deviation)


def _unit_deviation(model: Llama, name: str, weight: nn.Parameter, base: int | None) -> float:
    fan_in, kind = weight.shape[1], kind_of(name, weight)
    if base is not None and kind in ("embedding", "head"):
        return math.sqrt(1 / base) * (base / fan_in if kind == "head" else 1.0)
    into_the_stream = name.endswith(("output.weight", "down.weight"))
    return 1 / math.sqrt(fan_in) / (math.sqrt(2 * model.config.layers) if into_the_stream else 1.0)


@frozen
class Treatment:
    """How the optimiser treats a weight: by which rule, at what share of the rate, with what decay."""

    rule: OptimizerKind
    rate_factor: float
    weight_decay: float


def treatments(model: nn.Module, config: RunConfig) -> Iterator[tuple[Treatment, dict[str, nn.Parameter]]]:
    """The weights of `model` by how they are treated, vectors last, in the model's own order within each."""
    groups: dict[tuple[bool, Treatment], dict[str, nn.Parameter]] = {}
    for name, weight in model.named_parameters():
        kind = kind_of(name, weight)
        groups.setdefault((kind == "vector", _treatment(kind, config)), {})[name] = weight
    for (_, how), weights in sorted(groups.items(), key=lambda group: group[0][0]):
        yield how, weights


def _treatment(kind: Kind, config: RunConfig) -> Treatment:
    """A decay times its rate is what shrinks a weight: muP keeps that product at every width.

    (Wang & Aitchison 2024, arXiv 2405.13698, section 4.)
    """
    base, width = config.mup_base_width, config.model.width
    slowed = base is not None and kind in ("matrix", "head")
    factor = base / width if slowed and base else 1.0
    rule: OptimizerKind = "muon" if config.optimizer.kind == "muon" and kind == "matrix" else "adamw"
    decay = 0.0 if kind == "vector" else config.optimizer.weight_decay / factor
    return Treatment(rule=rule, rate_factor=factor, weight_decay=decay)
