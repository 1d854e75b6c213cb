"""Activation checkpointing: the same gradients, fewer bytes kept, no product computed twice but in full."""

from __future__ import annotations

import weakref
from dataclasses import replace
from typing import Any

import pytest
import torch
from small_runs import small_run
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from llama_scale.architecture import LLAMA_7B, RECOMPUTE_MODES, ModelConfig, Recompute
from llama_scale.runs import Precision
from llama_scale.training.micro_batch import sequence_bytes
from llama_scale.training.model import Llama
from llama_scale.training.optimizer import DTYPES
from llama_scale.training.scaling import initialise

SHAPE = ModelConfig(
    layers=4, width=64, heads=4, kv_heads=2, head_size=16, hidden=192, vocabulary=96, context=128
)


def backward(config: ModelConfig, recompute: Recompute) -> Llama:
    model = Llama(config, recompute=recompute)
    initialise(model, 0, 1.0)
    tokens = torch.randint(config.vocabulary, (4, config.context + 1), generator=torch.manual_seed(0))
    model.loss(tokens[:, :-1], tokens[:, 1:]).backward()
    return model


@pytest.mark.parametrize("mode", ["selective", "full"])
@pytest.mark.parametrize("qk_norm", [True, False])
def test_what_is_computed_again_is_the_same_to_the_bit(mode: Recompute, qk_norm: bool) -> None:
    config = replace(SHAPE, qk_norm=qk_norm)
    kept, again = (backward(config, which) for which in ("none", mode))
    for one, other in zip(kept.parameters(), again.parameters(), strict=True):
        assert one.grad is not None and other.grad is not None
        assert torch.equal(one.grad, other.grad)


class LiveBytes(TorchDispatchMode):
    """The most bytes of tensors made in its time that were alive at once."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        return made

    def _count(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._seen:
            return
        self._seen.add(key)
        self.live += storage.nbytes()
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._forget, key, storage.nbytes())

    def _forget(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.live -= size


def test_the_less_is_kept_the_less_memory_a_step_takes() -> None:
    with torch.device("meta"):
        models = {mode: Llama(SHAPE, recompute=mode) for mode in RECOMPUTE_MODES}
        tokens = torch.zeros(8, SHAPE.context + 1, dtype=torch.long)
    peaks = {}
    for mode, model in models.items():
        with LiveBytes() as bytes_:
            model.loss(tokens[:, :-1], tokens[:, 1:])
        peaks[mode] = bytes_.peak
    assert peaks["full"] < 0.5 * peaks["none"]
    assert peaks["full"] < peaks["selective"] < 0.9 * peaks["none"]


@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_a_micro_batch_takes_what_it_was_chosen_by(precision: Precision) -> None:
    """Where logits take most of it, as in the small models of a sweep, their gradients are its peak."""
    model = replace(SHAPE, vocabulary=2048)
    with torch.device("meta"):
        made = Llama(model, recompute="full").to(DTYPES[precision])
        tokens = torch.zeros(8, model.context + 1, dtype=torch.long)
    with LiveBytes() as bytes_:
        made.loss(tokens[:, :-1], tokens[:, 1:]).backward()
    estimate = sequence_bytes(small_run(model, precision=precision, recompute="full"))
    assert bytes_.peak / 8 == pytest.approx(estimate, rel=0.1)


@pytest.mark.parametrize(("mode", "passes"), [("none", 3), ("selective", 3), ("full", 4)])
def test_only_full_computes_products_twice(mode: Recompute, passes: int) -> None:
    """On the meta device, LLaMA 7B: neither the head nor a block's last product, which nobody needs."""
    with torch.device("meta"):
        model = Llama(LLAMA_7B, recompute=mode)
        tokens = torch.zeros(1, LLAMA_7B.context + 1, dtype=torch.long)
    with FlopCounterMode(display=False) as counter:
        model.loss(tokens[:, :-1], tokens[:, 1:]).backward()
    forward = LLAMA_7B.forward_flops_per_token()
    head = 2 * LLAMA_7B.width * LLAMA_7B.vocabulary
    last = 2 * LLAMA_7B.layers * LLAMA_7B.width * LLAMA_7B.hidden
    expected = 3 * forward + (passes - 3) * (forward - head - last)
    assert counter.get_total_flops() == expected * LLAMA_7B.context
