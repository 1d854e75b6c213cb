"""The optimiser over flat buffers against torch's own, in 32 bits and in bf16, and its state."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from small_runs import small_model, small_run
from torch import Tensor

from llama_scale.runs import RunConfig
from llama_scale.training.kernels import Library, library
from llama_scale.training.kernels.adamw import PIECE, FlatAdamW
from llama_scale.training.model import Llama
from llama_scale.training.muon import Muon, orthogonal
from llama_scale.training.optimizer import FlatOptimizer
from llama_scale.training.scaling import initialise

CONFIG = small_run(
    small_model(layers=2, width=32, kv_heads=1, head_size=16, hidden=96, qk_norm=True), learning_rate=4e-3
)
MUON = replace(CONFIG, optimizer=replace(CONFIG.optimizer, kind="muon"))


def tokens_of(step: int) -> Tensor:
    """A text that can be learnt: each token follows from the one before."""
    ids = torch.randint(64, (8, 33), generator=torch.Generator().manual_seed(step % 4))
    for place in range(1, 33):
        ids[:, place] = (3 * ids[:, place - 1] + 1) % 64
    return ids


def started(config: RunConfig) -> tuple[Llama, FlatOptimizer]:
    model = Llama(config.model)
    initialise(model, 0, 0.25)
    return model, FlatOptimizer(model, config)


def train(model: Llama, optimizer: FlatOptimizer, steps: range) -> list[float]:
    losses = []
    for step in steps:
        ids = tokens_of(step)
        loss = model.loss(ids[:, :-1], ids[:, 1:])
        loss.backward()
        optimizer.gather()
        optimizer.step(4e-3)
        losses.append(loss.item())
    return losses


def test_flat_is_torchs_adamw() -> None:
    model, optimizer = started(CONFIG)
    theirs = Llama(CONFIG.model)
    initialise(theirs, 0, 0.25)
    decayed = [p for p in theirs.parameters() if p.ndim > 1]
    others = [p for p in theirs.parameters() if p.ndim < 2]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    adamw = torch.optim.AdamW(groups, lr=4e-3, betas=(0.9, 0.99))
    for step in range(5):
        ids = tokens_of(step)
        adamw.zero_grad()
        theirs.loss(ids[:, :-1], ids[:, 1:]).backward()
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
        adamw.step()
        train(model, optimizer, range(step, step + 1))
    for one, other in zip(model.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_without_kernels_the_update_is_the_same(
    kernels: Library, monkeypatch: pytest.MonkeyPatch, forgotten: None
) -> None:
    ours = started(CONFIG)
    losses = train(*ours, range(10))
    monkeypatch.setenv("LLAMA_SCALE_KERNELS", "off")
    library.cache_clear()
    theirs = started(CONFIG)
    assert train(*theirs, range(10)) == pytest.approx(losses, rel=1e-5)
    assert ours[1].step(1e-3).item() == theirs[1].step(1e-3).item() == 0  # cleared
    assert (ours[1].name, theirs[1].name) == (kernels.name, "torch")


@pytest.mark.parametrize("size", [1, 5, 16, 33, 1_000, 3 * PIECE + 7, 5 * PIECE + 1])
@pytest.mark.parametrize("threads", [1, 3])
def test_a_flat_update_is_that_of_64_bits(size: int, threads: int, kernels: Library) -> None:
    random = torch.Generator().manual_seed(size)
    weight, mean = (torch.randn(size, generator=random) for _ in range(2))
    square, update = torch.rand(size, generator=random), FlatAdamW(kernels, threads)
    exact = torch.nn.Parameter(weight.double())
    adamw = torch.optim.AdamW([exact], lr=3e-3, betas=(0.9, 0.95), weight_decay=0.1, eps=1e-8)
    moments = {"exp_avg": mean.double(), "exp_avg_sq": square.double()}
    adamw.state[exact] = {"step": torch.tensor(4.0), **moments}
    for step in (5, 6):
        gradient = 1e-3 * torch.randn(size, generator=random)
        exact.grad = 0.25 * gradient.double()
        adamw.step()
        norm = update.norm([gradient[: size // 2], gradient[size // 2 :]])
        assert norm.item() == pytest.approx(gradient.double().norm().item(), rel=2e-7)
        update.step(
            (weight, gradient, mean, square),
            scale=0.25,
            rate=3e-3,
            decay=0.1,
            betas=(0.9, 0.95),
            epsilon=1e-8,
            steps=step,
        )
        assert not gradient.any()
    for ours, theirs in (
        (weight, exact.detach()),
        (mean, moments["exp_avg"]),
        (square, moments["exp_avg_sq"]),
    ):
        torch.testing.assert_close(ours.double(), theirs, rtol=2e-6, atol=1e-6)


def test_an_update_is_the_same_on_any_number_of_threads(kernels: Library) -> None:
    found = []
    for threads in (1, 2, 5):
        buffers = [torch.rand(9 * PIECE + 3, generator=torch.Generator().manual_seed(n)) for n in range(4)]
        update, how = FlatAdamW(kernels, threads), {"scale": 0.5, "rate": 1e-3, "decay": 0.1, "epsilon": 1e-8}
        norm = update.norm([buffers[1]])
        update.step(buffers, betas=(0.9, 0.95), steps=3, **how)
        found.append([norm, *buffers])
    for other in found[1:]:
        assert all(map(torch.equal, found[0], other))


def test_bf16_holds_a_rounded_copy_of_masters_that_small_steps_move() -> None:
    model, optimizer = started(replace(CONFIG, precision="bf16"))
    before = copy.deepcopy(optimizer.tensors()["weights"])
    ids = tokens_of(0)
    for _ in range(20):
        model.loss(ids[:, :-1], ids[:, 1:]).backward()
        optimizer.gather()
        optimizer.step(1e-6)  # far below what eight bits of mantissa resolve
    for name, parameter in model.named_parameters():
        master = optimizer.tensors()["weights"][name]
        assert parameter.dtype == torch.bfloat16 and master.dtype == torch.float32
        assert torch.equal(parameter, master.bfloat16())
        assert not torch.equal(master, before[name])


@pytest.mark.parametrize("config", [CONFIG, MUON], ids=["adamw", "muon"])
def test_bf16_learns_as_32_bits_do(config: RunConfig) -> None:
    exact = train(*started(config), range(60))
    rounded = train(*started(replace(config, precision="bf16")), range(60))
    assert exact[-1] < 0.7 * exact[0]
    assert rounded[-1] == pytest.approx(exact[-1], rel=0.02)


@pytest.mark.parametrize("config", [CONFIG, MUON, replace(MUON, precision="bf16")])
def test_a_state_that_is_read_back_goes_on_to_the_bit(config: RunConfig) -> None:
    model, optimizer = started(config)
    train(model, optimizer, range(3))
    saved = copy.deepcopy(optimizer.tensors())
    expected = train(model, optimizer, range(3, 6))
    again, other = started(config)
    for what, tensors in other.tensors().items():
        for name, tensor in tensors.items():
            tensor.copy_(saved[what][name])
    other.resume(3)
    assert train(again, other, range(3, 6)) == expected


def test_micro_batches_add_up_to_the_batch() -> None:
    whole, parts = started(CONFIG), started(CONFIG)
    ids = tokens_of(0)
    whole[0].loss(ids[:, :-1], ids[:, 1:]).backward()
    for part in ids.split(3):
        (parts[0].loss(part[:, :-1], part[:, 1:]) * (len(part) / len(ids))).backward()
        parts[1].gather()
    for one, other in zip(whole[0].parameters(), parts[0].parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(3, 16, 48), (2, 48, 16), (1, 32, 32)])
def test_orthogonal_makes_all_singular_values_about_one(
    shape: tuple[int, int, int], dtype: torch.dtype
) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    found = orthogonal(matrices, dtype)
    assert found.dtype == dtype
    values = torch.linalg.svdvals(found.float())
    assert values.min() > 0.6 and values.max() < 1.3
    left, _, right = torch.linalg.svd(matrices, full_matrices=False)
    nearest = left @ right
    likeness = torch.nn.functional.cosine_similarity(found.float().flatten(1), nearest.flatten(1), dim=1)
    assert likeness.min() > 0.97


def test_muon_is_torchs_own() -> None:
    if not hasattr(torch.optim, "Muon"):
        pytest.skip("this torch has no Muon to compare with")
    theirs = torch.nn.Parameter(torch.randn(24, 40, generator=torch.Generator().manual_seed(0)))
    ours = theirs.detach().clone().flatten()
    reference = torch.optim.Muon(
        [theirs], lr=0.01, weight_decay=0.1, momentum=0.9, nesterov=True, adjust_lr_fn="match_rms_adamw"
    )
    muon = Muon(ours, [theirs.shape], momentum=0.9, dtype=torch.bfloat16)
    start = ours.clone()
    for step in range(5):
        gradient = torch.randn(24, 40, generator=torch.Generator().manual_seed(step + 1))
        theirs.grad = gradient.clone()
        reference.step()
        muon.step(ours, gradient.flatten(), rate=0.01, weight_decay=0.1)
    moved, expected = ours - start, theirs.detach().flatten() - start
    likeness = torch.nn.functional.cosine_similarity(moved, expected, dim=0)
    assert likeness > 0.999
    assert moved.norm() == pytest.approx(expected.norm().item(), rel=0.01)


def test_z_loss_draws_the_denominator_to_one() -> None:
    ends = {}
    for z_loss in (0.0, 0.1):
        model, optimizer = started(CONFIG)
        for step in range(40):
            ids = tokens_of(step)
            objective, loss = model.objective(ids[:, :-1], ids[:, 1:], z_loss)
            assert (objective > loss) == (z_loss > 0)
            objective.backward()
            optimizer.gather()
            optimizer.step(4e-3)
        ends[z_loss] = model(tokens_of(0)[:, :-1]).logsumexp(-1).square().mean().item()
    assert ends[0.1] < 0.5 * ends[0.0]
