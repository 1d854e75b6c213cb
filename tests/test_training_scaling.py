"""muP's own test: after a few steps nothing grows or shrinks with the width; what falls under which rule."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_runs import small_run

from llama_scale.architecture import llama
from llama_scale.errors import InputError
from llama_scale.runs import RunConfig
from llama_scale.training.model import Llama
from llama_scale.training.optimizer import FlatOptimizer
from llama_scale.training.scaling import initialise, treatments

BASE = 32
WIDTHS = (32, 64, 128, 256)


def config_of(width: int, base: int | None) -> RunConfig:
    model = llama(2, width, heads=width // 16, hidden=3 * width, vocabulary=64, context=16)
    return small_run(model, learning_rate=1e-2, initial_gain=1.0, mup_base_width=base)


def movement(width: int, base: int | None, seed: int) -> dict[str, float]:
    """Root mean square of what four steps change in the residual stream and in the logits."""
    config = config_of(width, base)
    model = Llama(config.model)
    initialise(model, seed, config.initial_gain, mup_base_width=base)
    tokens = torch.randint(64, (8, 17), generator=torch.Generator().manual_seed(seed))

    def outputs() -> dict[str, torch.Tensor]:
        seen: dict[str, torch.Tensor] = {}
        hook = model.blocks[-1].register_forward_hook(lambda *call: seen.update(stream=call[2].detach()))
        seen["logits"] = model(tokens[:, :-1]).detach()
        hook.remove()
        return seen

    before, optimizer = outputs(), FlatOptimizer(model, config)
    for _ in range(4):
        model.loss(tokens[:, :-1], tokens[:, 1:]).backward()
        optimizer.gather()
        optimizer.step(config.optimizer.learning_rate)
    after = outputs()
    return {name: (after[name] - before[name]).square().mean().sqrt().item() for name in before}


def slopes(base: int | None) -> dict[str, float]:
    """By how much each movement grows with the width, as the exponent of a power."""
    found = [[movement(width, base, seed) for seed in (0, 1)] for width in WIDTHS]
    logs = {name: [np.log([m[name] for m in seeds]).mean() for seeds in found] for name in found[0][0]}
    return {name: float(np.polyfit(np.log(WIDTHS), values, 1)[0]) for name, values in logs.items()}


def test_the_coordinate_check_of_mup() -> None:
    """Yang et al. 2022 (arXiv 2203.03466, appendix D.1): nothing grows with the width under muP, all without.

    The part of the logits that the starting head adds fades as the width grows, so they fall at first.
    """
    mup, standard = slopes(BASE), slopes(None)
    assert abs(mup["stream"]) < 0.15 and -0.4 < mup["logits"] < 0.1, mup
    assert standard["stream"] > 0.5 and standard["logits"] > 0.15, standard


def test_at_its_base_width_mup_is_what_it_extends() -> None:
    both = [movement(BASE, base, 0) for base in (BASE, None)]
    assert both[0] == both[1]


def test_decay_times_rate_is_the_same_at_every_width() -> None:
    products = set()
    for width in WIDTHS:
        config = config_of(width, BASE)
        for how, weights in treatments(Llama(config.model), config):
            if all(weight.ndim > 1 for weight in weights.values()):
                products.add(round(how.rate_factor * how.weight_decay, 12))
                factor = 1.0 if "embedding.weight" in weights else BASE / width
                assert how.rate_factor == factor or width == BASE
    assert products == {0.1}


def test_muon_moves_the_matrices_of_blocks_alone() -> None:
    config = config_of(32, None)
    config = replace(config, optimizer=replace(config.optimizer, kind="muon"))
    rules = {name: how.rule for how, group in treatments(Llama(config.model), config) for name in group}
    assert rules["embedding.weight"] == rules["head.weight"] == rules["norm.weight"] == "adamw"
    assert rules["blocks.0.attention.query.weight"] == rules["blocks.1.feed_forward.down.weight"] == "muon"


def test_mup_refuses_a_tied_head() -> None:
    config = config_of(32, BASE)
    with pytest.raises(InputError, match="tied_head"):
        replace(config, model=replace(config.model, tied_head=True))
