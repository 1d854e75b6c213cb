"""The model against its own arithmetic and against torch's counters."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from llama_scale.architecture import LLAMA_7B, LLAMA_13B, LLAMA_33B, LLAMA_65B, ModelConfig
from llama_scale.training.model import Llama, rotary_table, rotate
from llama_scale.training.scaling import initialise

SMALL = ModelConfig(
    layers=2, width=32, heads=4, kv_heads=2, head_size=8, hidden=80, vocabulary=96, context=24
)


@pytest.mark.parametrize("config", [LLAMA_7B, LLAMA_13B, LLAMA_33B, LLAMA_65B, SMALL])
@pytest.mark.parametrize("changes", [{}, {"tied_head": True}, {"qk_norm": True}])
def test_the_module_has_as_many_parameters_as_its_shape_says(
    config: ModelConfig, changes: dict[str, bool]
) -> None:
    config = replace(config, **changes)
    with torch.device("meta"):
        model = Llama(config)
    assert sum(p.numel() for p in model.parameters()) == config.parameters.total


def counted_flops(config: ModelConfig, *, backward: bool) -> tuple[int, int]:
    """FLOPs of two sequences as torch counts them, and their tokens; nothing is computed."""
    with torch.device("meta"):
        model = Llama(config)
        tokens = torch.zeros((2, config.context), dtype=torch.int64)
    with (
        FlopCounterMode(display=False) as counter,
        torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH),
    ):
        logits = model(tokens)
        if backward:
            logits.sum().backward()
    return counter.get_total_flops(), tokens.numel()


@pytest.mark.parametrize("config", [LLAMA_7B, LLAMA_13B, LLAMA_33B, LLAMA_65B, SMALL])
def test_flops_per_token_are_those_that_torch_counts(config: ModelConfig) -> None:
    flops, tokens = counted_flops(config, backward=False)
    assert flops == config.forward_flops_per_token() * tokens


@pytest.mark.parametrize("changes", [{}, {"tied_head": True, "kv_heads": 1}, {"qk_norm": True}])
def test_flops_of_training_are_those_that_torch_counts(changes: dict[str, Any]) -> None:
    config = replace(SMALL, **changes)
    flops, tokens = counted_flops(config, backward=True)
    assert flops == config.train_flops_per_token() * tokens


def test_a_token_does_not_see_the_ones_after_it() -> None:
    model = Llama(SMALL)
    initialise(model, 0, 1.0)
    tokens = torch.randint(SMALL.vocabulary, (1, SMALL.context))
    changed = tokens.clone()
    changed[0, 15:] = (changed[0, 15:] + 1) % SMALL.vocabulary
    before, after = model(tokens), model(changed)
    assert torch.equal(before[0, :15], after[0, :15])
    assert not torch.equal(before[0, 15:], after[0, 15:])


def test_rotary_scores_depend_on_distance_alone() -> None:
    rotation = rotary_table(SMALL).unbind()
    query, key = torch.randn(8), torch.randn(8)
    q = rotate(query.expand(1, SMALL.context, 1, 8), rotation)[0, :, 0]
    k = rotate(key.expand(1, SMALL.context, 1, 8), rotation)[0, :, 0]
    scores = q @ k.T
    for distance in (0, 1, 7):
        diagonal = scores.diagonal(-distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), rtol=1e-4, atol=1e-5)


def test_grouped_queries_equal_heads_with_shared_keys_and_values() -> None:
    grouped = Llama(SMALL)
    initialise(grouped, 1, 1.0)
    plain = Llama(replace(SMALL, kv_heads=SMALL.heads))
    state = grouped.state_dict()
    for name in list(state):
        if name.endswith(("key.weight", "value.weight")):
            shared = state[name].view(SMALL.kv_heads, SMALL.head_size, SMALL.width)
            state[name] = shared.repeat_interleave(2, 0).reshape(-1, SMALL.width)
    plain.load_state_dict(state)
    tokens = torch.randint(SMALL.vocabulary, (2, SMALL.context))
    torch.testing.assert_close(grouped(tokens), plain(tokens), rtol=1e-5, atol=1e-5)


def test_seeds_of_any_size_give_starts_of_their_own() -> None:
    starts = [Llama(SMALL), Llama(SMALL)]
    for model, seed in zip(starts, (10**30, 10**30 + 1), strict=True):
        initialise(model, seed, 1.0)
    assert not torch.equal(starts[0].head.weight, starts[1].head.weight)


def test_initialisation_is_a_function_of_the_seed() -> None:
    models = [Llama(SMALL) for _ in range(3)]
    for model, seed in zip(models, (5, 5, 6), strict=True):
        initialise(model, seed, 0.5)
    first, same, other = (torch.cat([p.flatten() for p in m.parameters()]) for m in models)
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
