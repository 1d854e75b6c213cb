"""Whole steps on a device whose tensors have no numbers, as on a GPU: nothing on two devices, no waiting."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from small_runs import small_model, small_run
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from llama_scale.runs import RunConfig
from llama_scale.training.speed import random_tokens
from llama_scale.training.trainer import Trainer

META = torch.device("meta")
COPIES = (torch.ops.aten._to_copy, torch.ops.aten.copy_)
PRODUCTS = (torch.ops.aten.mm, torch.ops.aten.baddbmm)  # attention is by other kernels on a GPU
GROUPED = small_model(kv_heads=1, qk_norm=True)
BF16 = small_run(GROUPED, precision="bf16", z_loss=1e-4, micro_batch=3)
MUON = replace(BF16, optimizer=replace(BF16.optimizer, kind="muon"))


class OneDevice(TorchDispatchMode):
    """Refuses what a GPU would, operands on two devices, and notes the number formats of products.

    Copies, and single numbers of the CPU that are only read, may be of another device.
    """

    def __init__(self) -> None:
        super().__init__()
        self.multiplied: set[torch.dtype] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        read = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        written = [x for x in tree_leaves(made) if isinstance(x, Tensor)]
        places = {x.device for x in (*written, *(x for x in read if x.dim()))}
        assert len(places) <= 1 or func.overloadpacket in COPIES, f"{func} has operands on {places}"
        if func.overloadpacket in PRODUCTS:
            self.multiplied |= {x.dtype for x in read}
        return made


@pytest.mark.parametrize(
    "config",
    [
        small_run(),
        small_run(GROUPED, recompute="full"),
        replace(small_run(), optimizer=MUON.optimizer),
        BF16,
        replace(BF16, recompute="selective"),
        MUON,
    ],
)
def test_a_step_stays_on_its_device_and_never_waits_for_it(config: RunConfig) -> None:
    """Whatever asks a tensor of this device for its number fails, as nothing is there to tell."""
    trainer = Trainer(config, random_tokens(config), META)
    with OneDevice() as seen:
        trainer.advance()
        trainer.advance()
        tokens = torch.zeros(2, config.model.context, dtype=torch.long, device=META)
        losses = (trainer.gradients.loss(tokens, tokens), *trainer._uncollected[0])
    assert {x.device for x in losses} == {META}
    assert seen.multiplied == {torch.bfloat16 if config.precision == "bf16" else torch.float32}
