"""Matrix products of floats and of integers: how exact, at any size, scale and instruction set."""

from __future__ import annotations

import ctypes
import itertools
import math
import mmap
import subprocess
from collections import Counter
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from recipes import write_recipe
from small_runs import small_run
from torch import Tensor

from llama_scale.architecture import ModelConfig
from llama_scale.cli import main
from llama_scale.errors import InputError
from llama_scale.launch import sweep
from llama_scale.runs import load_records
from llama_scale.training.kernels import (
    KernelGradients,
    Library,
    gradients_of,
    step,
)
from llama_scale.training.kernels.library import FLAGS, SOURCES, load
from llama_scale.training.kernels.products import NUMBERS, Numbers, product, product_scratch
from llama_scale.training.model import Llama
from llama_scale.training.optimizer import FlatOptimizer
from llama_scale.training.peak import peak_of
from llama_scale.training.scaling import initialise

INTEGERS = NUMBERS[1:]
BETWEEN = 1e30
SHAPE = ModelConfig(
    layers=2, width=128, heads=4, kv_heads=2, head_size=32, hidden=352, vocabulary=300, context=64
)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def at_the_end_of_memory(x: Tensor) -> Tensor:
    """A copy after whose last number no page can be read: to read on is to be killed."""
    page, size = mmap.PAGESIZE, x.numel() * x.element_size()
    pages = -(-size // page)
    held = mmap.mmap(-1, (pages + 1) * page)
    whole = torch.frombuffer(held, dtype=torch.uint8)
    protect = ctypes.CDLL(None, use_errno=True).mprotect
    protect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    assert protect(whole.data_ptr() + pages * page, page, 0) == 0
    view = whole[pages * page - size : pages * page].view(x.dtype).view(x.shape)
    view.copy_(x)
    return view


def multiplied(
    kernels: Library, numbers: Numbers, a: Tensor, b: Tensor, into: Tensor | None = None
) -> Tensor:
    """a b, or `into` with it added; scratch memory ends where no page can be written."""
    sizes = (a.shape[0], b.shape[1], a.shape[1])
    c = torch.full(sizes[:2], torch.nan) if into is None else into
    scratch = at_the_end_of_memory(product_scratch(kernels, [sizes], numbers))
    product(kernels, c, a, b, numbers=numbers, scratch=scratch, add=into is not None)()
    return c


@pytest.fixture(params=NUMBERS)
def numbers(request: pytest.FixtureRequest) -> Numbers:
    return request.param


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def allowed(numbers: Numbers, a: Tensor, b: Tensor) -> Tensor:
    """How far each sum may be off: by roundings of its row and its column of half a unit each, or of none."""
    norms = a.norm(dim=1)[:, None] * b.norm(dim=0)
    if numbers == "f32":
        return 1e-5 * norms
    if numbers == "i16":  # 32,766 units are the norm, of up to 512 integers
        return (2 * 3.5e-4 + 3.5e-4**2 + 1e-5) * norms
    half_a, half_b = a.abs().amax(dim=1)[:, None] / 253.9, b.abs().amax(dim=0) / 253.9
    sums = half_a * b.abs().sum(dim=0) + a.abs().sum(dim=1)[:, None] * half_b
    return sums + a.shape[1] * half_a * half_b + 1e-5 * norms


def assert_close(found: Tensor, numbers: Numbers, a: Tensor, b: Tensor, before: Tensor | float = 0.0) -> None:
    """No sum errs by more than rounding of its row and its column allows."""
    a, b = a.double(), b.double()
    kept = torch.as_tensor(before).double()
    assert ((found.double() - kept - a @ b).abs() <= allowed(numbers, a, b) + 1e-6 * kept.abs()).all()


def laid(x: Tensor, how: str, room: int) -> Tensor:
    """The same matrix with its rows or its columns contiguous, and something between them."""
    rows = x if how == "rows" else x.t()
    held = torch.full((rows.shape[0], rows.shape[1] + room), BETWEEN)
    held[:, : rows.shape[1]] = rows
    view = held[:, : rows.shape[1]]
    return view if how == "rows" else view.t()


side = st.integers(1, 150) | st.sampled_from([12, 16, 32, 48, 64, 256, 384])


@settings(max_examples=200, deadline=None)
@given(
    sizes=st.tuples(side, side, side | st.integers(500, 1100)),
    lays=st.tuples(*[st.sampled_from(["rows", "columns"])] * 2),
    room=st.integers(0, 5),
    powers=st.tuples(st.integers(-15, 12), st.integers(-15, 12)),
    add=st.booleans(),
    numbers=st.sampled_from(NUMBERS),
)
def test_any_product_is_as_exact_as_rounding_allows(
    kernels: Library,
    sizes: tuple[int, int, int],
    lays: tuple[str, str],
    room: int,
    powers: tuple[int, int],
    add: bool,
    numbers: Numbers,
) -> None:
    m, n, k = sizes
    # Rows and columns of most different scales, with what stands out here and there.
    a, b = normal(k, m, k) * 10 ** normal(1, m, 1), normal(n, k, n) * 10 ** normal(2, 1, n)
    a[m // 2, k // 2] *= 1e4
    b[k // 3, n // 3] *= 1e4
    a, b = a * 10.0 ** powers[0], b * 10.0 ** powers[1]
    before = (a @ b).abs().amax() * normal(3, m, n) if add else torch.zeros(m, n)
    c = laid(before, "rows", room)
    scratch = product_scratch(kernels, [sizes], numbers)
    left, right = laid(a, lays[0], room), laid(b, lays[1], room)
    product(kernels, c, left, right, numbers=numbers, scratch=scratch, add=add)()
    assert_close(c, numbers, a, b, before)
    assert room == 0 or (c.as_strided((m, room), c.stride(), n) == BETWEEN).all()


@pytest.mark.parametrize(("numbers", "most", "of_bf16"), [("i16", 3e-4, 1 / 9), ("i8", 1.1e-2, 4)])
def test_errors_beside_those_of_bf16(numbers: Numbers, most: float, of_bf16: float, kernels: Library) -> None:
    a, b = normal(0, 256, 2048), normal(1, 2048, 256)
    exact = a.double() @ b.double()
    ours = (multiplied(kernels, numbers, a, b) - exact).norm() / exact.norm()
    theirs = ((a.bfloat16() @ b.bfloat16()) - exact).norm() / exact.norm()
    assert ours < most
    assert ours < of_bf16 * theirs


def test_bytes_are_what_rounding_to_127_of_the_largest_number_makes(kernels: Library) -> None:
    """Whatever lies how: the same products of whole numbers, to the last bits of the units."""
    a, b = normal(0, 70, 300), normal(1, 300, 90)
    units = a.abs().amax(dim=1, keepdim=True) / 127, b.abs().amax(dim=0, keepdim=True) / 127
    exact = ((a / units[0]).round().double() @ (b / units[1]).round().double()) * units[0] * units[1]
    for left, right in itertools.product(("rows", "columns"), repeat=2):
        found = multiplied(kernels, "i8", laid(a, left, 3), laid(b, right, 1))
        torch.testing.assert_close(found.double(), exact, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("k", [1, 2, 3, 31, 32, 64, 511, 512, 513, 1024, 4096])
@pytest.mark.parametrize("numbers", INTEGERS)
def test_no_sum_overflows_where_all_products_have_one_sign(
    k: int, numbers: Numbers, kernels: Library
) -> None:
    """The sums of Cauchy and Schwarz's equality, which come closest to 2^31, of either sign."""
    for few in {1, 2, 3, min(k, 100), k}:
        row = torch.zeros(k)
        row[torch.randperm(k, generator=torch.Generator().manual_seed(few))[:few]] = 1.0
        a, b = torch.stack([row, -row, row * 1e-3]), torch.stack([row, row * 7, -row], dim=1)
        torch.testing.assert_close(multiplied(kernels, numbers, a, b), a @ b, rtol=1e-3, atol=0)


def test_what_is_not_finite_is_seen_in_its_row_and_column_and_nowhere_else(
    kernels: Library, numbers: Numbers
) -> None:
    for bad in (torch.nan, torch.inf, -torch.inf):
        a, b = normal(0, 70, 600), normal(1, 600, 90)
        a[33, 599], b[0, 7] = bad, bad
        for left, right in ((a, b), (a.t().contiguous().t(), b.t().contiguous().t())):
            finite = multiplied(kernels, numbers, left, right).isfinite()
            expected = torch.ones(70, 90, dtype=torch.bool)
            expected[33], expected[:, 7] = False, False
            assert torch.equal(finite, expected)


def test_zeros_and_the_smallest_numbers(kernels: Library, numbers: Numbers) -> None:
    a, b = normal(0, 40, 64), normal(1, 64, 40)
    a[3], b[:, 5] = 0.0, 0.0
    found = multiplied(kernels, numbers, a, b)
    assert (found[3] == 0).all() and (found[:, 5] == 0).all()
    a[4] = 1e-40  # below the least normal number
    a[5] = 1e-25
    found = multiplied(kernels, numbers, a, b * 1e20)
    assert found.isfinite().all()
    assert_close(found[5:6], numbers, a[5:6], b * 1e20)


def test_the_same_bits_every_time(kernels: Library, numbers: Numbers) -> None:
    a, b = normal(0, 200, 700), normal(1, 700, 130)
    first = multiplied(kernels, numbers, a, b)
    assert all(torch.equal(first, multiplied(kernels, numbers, a, b)) for _ in range(3))


@pytest.mark.parametrize("sizes", [(5, 7, 3), (64, 64, 64), (67, 75, 130), (100, 600, 515)])
def test_nothing_is_read_beyond_the_operands(
    sizes: tuple[int, int, int], kernels: Library, numbers: Numbers
) -> None:
    m, n, k = sizes
    a, b = normal(0, m, k), normal(1, k, n)
    lefts = (at_the_end_of_memory(a), at_the_end_of_memory(a.t()).t())
    rights = (at_the_end_of_memory(b), at_the_end_of_memory(b.t()).t())
    for left, right in itertools.product(lefts, rights):
        into = at_the_end_of_memory(torch.zeros(m, n))
        assert_close(multiplied(kernels, numbers, left, right, into), numbers, a, b)


@cache
def flags_of_this_cpu() -> set[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    return set(next((line for line in lines if line.startswith("flags")), "").split())


@pytest.mark.parametrize(
    ("needs", "how"),
    [
        ("avx512_vnni", "-march=x86-64 -mavx512f -mavx512bw -mavx512vnni"),
        ("avx512bw", "-march=x86-64 -mavx512f -mavx512bw"),
        ("avx512f", "-march=x86-64 -mavx512f"),  # no integers of 16 bits: plain C
        ("avx2", "-march=x86-64 -mavx2 -mfma"),
        ("avx", "-march=x86-64 -mavx"),  # plain C
        ("sse2", "-march=x86-64"),
    ],
)
def test_other_processors_are_as_exact(
    needs: str, how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if needs not in flags_of_this_cpu():
        pytest.skip(f"this CPU has no {needs}")
    monkeypatch.setattr(Library, "multiplies", True)  # or torch would multiply where vectors are short
    built = tmp_path / "products.so"
    subprocess.run(["cc", *FLAGS, *how.split(), "-o", built, *SOURCES, "-lm"], check=True)
    other = Library(load(built), how)
    for m, n, k in ((100, 70, 130), (64, 64, 64), (31, 600, 1024), (50, 37, 1539)):
        a, b, before = normal(0, m, k), normal(1, k, n), normal(2, m, n)
        for *lays, numbers in itertools.product(("rows", "columns"), ("rows", "columns"), NUMBERS):
            into = before.clone()
            multiplied(other, numbers, laid(a, lays[0], 3), laid(b, lays[1], 1), into)
            assert_close(into, numbers, a, b, before)


def test_where_vectors_are_short_torch_multiplies(kernels: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = normal(0, 40, 300), normal(1, 300, 70)
    monkeypatch.setattr(Library, "multiplies", False)
    assert torch.equal(multiplied(kernels, "f32", a, b), a @ b)
    assert torch.equal(
        multiplied(kernels, "f32", a, b, torch.ones(40, 70)), torch.addmm(torch.ones(40, 70), a, b)
    )


def made(config: ModelConfig) -> Llama:
    model = Llama(config)
    initialise(model, 0, 0.7)
    return model


def gradients(compute: KernelGradients) -> tuple[float, list[Tensor]]:
    model = compute.model
    ids = torch.randint(model.config.vocabulary, (3, 65), generator=torch.Generator().manual_seed(0))
    model.zero_grad(set_to_none=False)
    loss = compute(ids[:, :-1], ids[:, 1:])
    return loss.item(), [weight.grad.clone() for weight in model.parameters() if weight.grad is not None]


@pytest.mark.parametrize("integers", INTEGERS)
@pytest.mark.parametrize("flat", [False, True], ids=["apart", "joined"])
@pytest.mark.parametrize(
    "config",
    [
        SHAPE,
        replace(SHAPE, width=130, hidden=350, vocabulary=301, qk_norm=True, tied_head=True),
        replace(SHAPE, vocabulary=1500),
        replace(SHAPE, heads=16, kv_heads=16, hidden=64),
    ],
    ids=["hidden", "nothing a multiple", "vocabulary", "queries"],
)
def test_gradients_are_close_to_those_of_32_bits(
    config: ModelConfig, flat: bool, integers: Numbers, kernels: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever matrix is the largest: scratch memory is made for that, and none lies beyond it."""
    monkeypatch.setattr(step, "product_scratch", lambda *asked: at_the_end_of_memory(product_scratch(*asked)))
    model = made(config)
    if flat:
        FlatOptimizer(model, small_run(config, learning_rate=1e-3))
    loss, exact = gradients(KernelGradients(model, kernels))
    found, rounded = gradients(KernelGradients(model, kernels, integers))
    assert not any(torch.equal(one, other) for one, other in zip(rounded, exact, strict=True))
    assert found == pytest.approx(loss, rel=1e-5 if integers == "i16" else 1e-3)
    for one, other in zip(rounded, exact, strict=True):
        assert (one - other).norm() < (2e-3 if integers == "i16" else 8e-2) * other.norm()


def test_in_8_bits_gradients_of_weights_the_head_and_evaluation_keep_16(
    kernels: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = Counter[tuple[str, Numbers]]()

    def counted(library: Library, c: Tensor, a: Tensor, b: Tensor, *, numbers: Numbers, **how: Any) -> Any:
        where = "head" if SHAPE.vocabulary in (*c.shape, *a.shape) else "blocks"
        asked[where, numbers] += 1
        return product(library, c, a, b, numbers=numbers, **how)

    monkeypatch.setattr(step, "product", counted)
    model, ids = made(SHAPE), torch.zeros(1, 64, dtype=torch.int64)
    by_bytes = gradients_of(model, "i8", sequences=1)
    by_bytes(ids, ids, 0.0, 1.0)
    each = 7 * SHAPE.layers  # matrices, of which y and dx, then what is evaluated and dw
    assert asked == {("blocks", "i8"): 2 * each, ("blocks", "i16"): 2 * each, ("head", "i16"): 4}
    assert torch.equal(by_bytes.loss(ids, ids), gradients_of(model, "i16", sequences=1).loss(ids, ids))


@pytest.mark.parametrize(("width", "same"), [(48, True), (64, False)])
def test_small_products_stay_in_32_bits(width: int, same: bool, kernels: Library) -> None:
    narrow = replace(SHAPE, width=width, heads=1, kv_heads=1, head_size=width, hidden=128)
    loss, exact = gradients(KernelGradients(made(narrow), kernels))
    found, rounded = gradients(KernelGradients(made(narrow), kernels, "i8"))
    assert (found == loss) is same
    assert all(map(torch.equal, rounded, exact)) is same


def test_operands_that_lie_otherwise_are_refused(kernels: Library, numbers: Numbers) -> None:
    a, b = normal(0, 64, 64), normal(1, 64, 64)
    with pytest.raises(AssertionError):
        multiplied(kernels, numbers, normal(0, 64, 128)[:, ::2], b)
    with pytest.raises(AssertionError):
        multiplied(kernels, numbers, a, b, torch.zeros(64, 64).t())


def test_a_weight_that_is_not_a_number_is_seen_in_the_loss(kernels: Library) -> None:
    for name in ("head.weight", "blocks.0.attention.key.weight", "blocks.1.feed_forward.up.weight"):
        model = made(SHAPE)
        with torch.no_grad():
            model.get_parameter(name).view(-1)[7] = torch.nan
        assert all(math.isnan(gradients(KernelGradients(model, kernels, n))[0]) for n in INTEGERS)


def test_what_kernels_do_not_train_is_refused_with_the_way_out(kernels: Library) -> None:
    model, run = made(SHAPE), small_run(SHAPE, learning_rate=1e-3)
    assert isinstance(gradients_of(model, "i16"), KernelGradients)
    with pytest.raises(InputError, match="recompute = full would compute again") as refused:
        replace(run, precision="i16", recompute="full")
    assert 'training.precision = "f32"' in str(refused.value.hint)
    with pytest.raises(InputError, match=r"precision is i8, which.*meta has kernels of its own"):
        gradients_of(model.to("meta"), "i8")


def test_without_kernels_a_run_of_integers_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forgotten: None, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LLAMA_SCALE_KERNELS", "off")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "text.txt").write_text("\n\n".join(f"Line {i} of {i * i}." for i in range(20_000)))
    recipe = ["train", "--model", "1x64", "--data", str(tmp_path / "text.txt"), "--steps", "5"]
    command = [*recipe, "--store", str(tmp_path / "runs"), "--set", 'training.precision="i16"']
    with pytest.raises(SystemExit) as ended:
        main(command)
    said = capsys.readouterr().err
    assert ended.value.code == 2, said
    assert "training.precision is i16" in said and "unset LLAMA_SCALE_KERNELS" in said
    assert peak_of(torch.device("cpu"), precision="i16") is None
    assert [*tmp_path.iterdir()] == [tmp_path / "text.txt"]  # nothing was tokenised, written down or measured
    with pytest.raises(InputError, match="switches them off"):
        sweep(write_recipe(tmp_path), store=tmp_path / "runs", overrides=['training.precision="i16"'])
    assert not [*(tmp_path / "runs").glob("*/spec.json")]


@pytest.mark.parametrize(
    ("numbers", "rms", "mean", "most"),
    [("i16", 3.64e-4, 1.15e-4, 1.94e-3), ("i8", 5.59e-4, -8.4e-5, 1.78e-3)],
)
def test_a_sweep_by_integers_ends_where_one_in_32_bits_did(
    numbers: Numbers, rms: float, mean: float, most: float
) -> None:
    """The committed records of the default sweep; docs/training.md tells these figures."""
    results = Path(__file__).parents[1] / "sweeps" / "results"
    theirs, ours = (
        {
            (record.parameters.total, record.seed, record.role, record.tokens): record.loss_nats
            for record in load_records(results / name)
            if record.loss_nats is not None
        }
        for name in ("default-seed0.json", f"default-{numbers}-seed0.json")
    )
    assert ours.keys() == theirs.keys()
    errors = np.array([ours[run] / theirs[run] - 1 for run in ours])
    assert len(errors) == 38
    found = np.sqrt(np.mean(errors**2)), np.mean(errors), np.abs(errors).max()
    assert found == pytest.approx((rms, mean, most), rel=0.01)


def test_the_peak_is_that_of_the_kernels_product(
    kernels: Library, numbers: Numbers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(torch, "mm", None)
    torch.set_num_threads(2)
    found = peak_of(torch.device("cpu"), precision=numbers)
    assert found is not None
    assert f", 2 threads, {numbers}, kernels {kernels.name}, measured " in found.source
    assert found.flops_per_second > 1e8
