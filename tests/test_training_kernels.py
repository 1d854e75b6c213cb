"""The kernels against torch and transformers, and what happens where they cannot be compiled."""

from __future__ import annotations

import gc
import itertools
import signal
import subprocess
import sys
import weakref
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from llama_scale.architecture import ModelConfig
from llama_scale.cli.settings import files
from llama_scale.errors import StoreError
from llama_scale.files import cache_folder
from llama_scale.training.kernels import (
    Absent,
    KernelGradients,
    Library,
    TorchGradients,
    gradients_of,
    library,
)
from llama_scale.training.kernels.library import FLAGS, SOURCES, load
from llama_scale.training.kernels.products import NUMBERS
from llama_scale.training.kernels.step import Step
from llama_scale.training.model import Llama
from llama_scale.training.peak import peak_of
from llama_scale.training.scaling import initialise

SHAPE = ModelConfig(
    layers=2, width=64, heads=4, kv_heads=4, head_size=16, hidden=192, vocabulary=256, context=96
)
SHAPES = {
    "as LLaMA": SHAPE,
    "grouped, QK-norm": replace(SHAPE, kv_heads=2, qk_norm=True, vocabulary=1024),
    "multi-query, tied, wide heads": replace(SHAPE, heads=2, kv_heads=1, head_size=64, tied_head=True),
    "nothing a multiple of a vector": ModelConfig(
        layers=3,
        width=52,
        heads=6,
        kv_heads=3,
        head_size=10,
        hidden=101,
        vocabulary=131,
        context=96,
        qk_norm=True,
    ),
    "smaller than a vector": ModelConfig(
        layers=1, width=3, heads=1, kv_heads=1, head_size=2, hidden=5, vocabulary=2, context=96
    ),
}
LENGTHS = (1, 16, 37, 96)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def made(config: ModelConfig, seed: int = 0) -> Llama:
    model = Llama(config)
    initialise(model, seed, 0.7)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 1:  # norms away from one, or a swapped pair would go unseen
                weight.add_(0.2 * torch.randn(weight.shape, generator=generator))
    return model


def batch(config: ModelConfig, sequences: int, length: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(length)
    ids = torch.randint(config.vocabulary, (sequences, length + 1), generator=generator)
    return ids[:, :-1], ids[:, 1:]


def gradients(model: Llama) -> list[Tensor]:
    return [weight.grad.clone() for weight in model.parameters() if weight.grad is not None]


def in_64_bits(model: Llama, tokens: Tensor, targets: Tensor, z_loss: float) -> tuple[float, list[Tensor]]:
    """Loss and gradients in double precision, where rounding is out of sight."""
    exact = Llama(model.config).double()
    exact.load_state_dict(model.state_dict())
    logits = exact(tokens).flatten(0, 1)
    losses = torch.nn.functional.cross_entropy(logits, targets.flatten())
    (losses + z_loss * logits.logsumexp(-1).square().mean()).backward()
    return losses.item(), gradients(exact)


@pytest.mark.parametrize(("name", "length"), list(itertools.product(SHAPES, LENGTHS)))
def test_loss_and_gradients_are_the_exact_ones(name: str, length: int, kernels: Library) -> None:
    model = made(SHAPES[name])
    tokens, targets = batch(model.config, 3, length)
    loss, exact = in_64_bits(model, tokens, targets, z_loss=0.01)
    found = KernelGradients(model, kernels)(tokens, targets, 0.01)
    assert found.item() == pytest.approx(loss, rel=2e-6)
    whole = torch.stack([gradient.norm() for gradient in exact]).norm()
    for ours, theirs in zip(gradients(model), exact, strict=True):
        assert (ours - theirs).norm() <= 3e-6 * theirs.norm() + 1e-7 * whole


@pytest.mark.parametrize("name", SHAPES)
def test_the_sum_of_losses_is_the_exact_one_and_leaves_gradients_alone(name: str, kernels: Library) -> None:
    model = made(SHAPES[name])
    tokens, targets = batch(model.config, 3, 37)
    loss, _ = in_64_bits(model, tokens, targets, z_loss=0.0)
    compute = KernelGradients(model, kernels)
    compute(tokens, targets)
    before = gradients(model)
    assert compute.loss(tokens, targets).item() / tokens.numel() == pytest.approx(loss, rel=2e-6)
    assert all(map(torch.equal, gradients(model), before))
    by_torch = TorchGradients(model).loss(tokens, targets).item()
    assert by_torch / tokens.numel() == pytest.approx(loss, rel=2e-6)


@pytest.mark.parametrize("length", [20, 64])
def test_the_loss_of_a_sequence_is_the_same_in_any_batch(length: int, kernels: Library) -> None:
    """Evaluation goes by batches of training's size, which memory decides."""
    tokens, targets = batch(SHAPE, 5, length)
    for numbers in NUMBERS:
        compute = KernelGradients(made(SHAPE), kernels, numbers)
        alone = [compute.loss(tokens[i : i + 1], targets[i : i + 1]) for i in range(5)]
        assert compute.loss(tokens, targets).item() == pytest.approx(
            torch.stack(alone).sum().item(), rel=1e-14
        )


def test_gradients_of_parts_add_up_to_that_of_the_whole(kernels: Library) -> None:
    model = made(SHAPE)
    tokens, targets = batch(SHAPE, 5, 64)
    compute = KernelGradients(model, kernels)
    compute(tokens, targets)
    whole = gradients(model)
    model.zero_grad()
    for part in (slice(0, 2), slice(2, 4), slice(4, 5)):
        compute(tokens[part], targets[part], 0.0, len(tokens[part]) / 5)
    for one, other in zip(gradients(model), whole, strict=True):
        assert (one - other).norm() <= 2e-6 * other.norm()


def test_the_same_bits_every_time(kernels: Library) -> None:
    tokens, targets = batch(SHAPE, 4, 96)
    runs = []
    for _ in range(3):
        model = made(SHAPE)
        loss = KernelGradients(model, kernels)(tokens, targets)
        runs.append([loss, *gradients(model)])
    for other in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(runs[0], other, strict=True))


def test_weights_that_move_in_memory_are_found_again(kernels: Library) -> None:
    model = made(SHAPE)
    compute, (tokens, targets) = KernelGradients(model, kernels), batch(SHAPE, 2, 32)
    compute(tokens, targets)
    model.head.weight.data = model.head.weight.data * 2
    assert compute(tokens, targets).item() == pytest.approx(model.loss(tokens, targets).item(), rel=1e-6)


def test_a_weight_that_is_not_a_number_is_seen_in_the_loss(kernels: Library) -> None:
    for name in ("head.weight", "blocks.0.attention.key.weight", "blocks.1.feed_forward.up.weight"):
        model = made(SHAPE)
        with torch.no_grad():
            model.get_parameter(name).view(-1)[7] = torch.nan
        assert KernelGradients(model, kernels)(*batch(SHAPE, 2, 32)).isnan()


def test_large_logits_do_not_overflow(kernels: Library) -> None:
    model = made(SHAPE)
    with torch.no_grad():
        model.head.weight.mul_(1e4)
        model.blocks[0].get_parameter("attention.query.weight").mul_(1e3)
    tokens, targets = batch(SHAPE, 2, 64)
    loss = KernelGradients(model, kernels)(tokens, targets)
    assert loss.item() == pytest.approx(model.loss(tokens, targets).item(), rel=1e-4)
    assert all(gradient.isfinite().all() for gradient in gradients(model))


def test_an_id_outside_the_vocabulary_is_refused(kernels: Library) -> None:
    compute, (tokens, targets) = KernelGradients(made(SHAPE), kernels), batch(SHAPE, 2, 8)
    for bad in (-1, SHAPE.vocabulary):
        with pytest.raises(IndexError, match="outside a vocabulary of 256"):
            compute(torch.full_like(tokens, bad), targets)
        with pytest.raises(IndexError, match="target"):
            compute(tokens, torch.full_like(targets, bad))


def test_transformers_finds_the_same_loss_and_gradients(kernels: Library, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="the test extra is not installed")
    from llama_scale.training.exchange import write_hf

    config = replace(SHAPE, kv_heads=2)
    ours, (tokens, targets) = made(config), batch(config, 3, 80)
    write_hf(tmp_path / "hf", ours, None)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf", dtype=torch.float32)
    logits = theirs(tokens).logits.flatten(0, 1)
    expected = torch.nn.functional.cross_entropy(logits, targets.flatten())
    expected.backward()
    loss = KernelGradients(ours, kernels)(tokens, targets)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for our_name, their_name in (
        ("embedding.weight", "model.embed_tokens.weight"),
        ("blocks.0.attention.key.weight", "model.layers.0.self_attn.k_proj.weight"),
        ("blocks.1.feed_forward.down.weight", "model.layers.1.mlp.down_proj.weight"),
        ("norm.weight", "model.norm.weight"),
        ("head.weight", "lm_head.weight"),
    ):
        mine, other = ours.get_parameter(our_name).grad, theirs.get_parameter(their_name).grad
        assert mine is not None
        assert (mine - other).norm() <= 1e-5 * other.norm(), our_name


def is_torch(model: Llama) -> bool:
    """Whether torch computes the gradients, and does."""
    found = gradients_of(model)
    tokens, targets = batch(model.config, 1, 8)
    loss = found(tokens, targets, 0.0, 1.0)
    assert loss.item() == pytest.approx(model.loss(tokens, targets).item(), rel=1e-6)
    assert all(gradient.any() for gradient in gradients(model))
    return not isinstance(found, KernelGradients)


def test_kernels_are_for_what_they_compute(kernels: Library) -> None:
    assert not is_torch(made(SHAPE))
    assert is_torch(Llama(SHAPE, recompute="full"))
    assert is_torch(made(SHAPE).bfloat16())
    assert gradients_of(made(SHAPE)).name == kernels.name
    torch.set_num_threads(2)
    assert not is_torch(made(SHAPE))
    assert gradients_of(made(SHAPE), sequences=2).name == kernels.name
    assert gradients_of(made(SHAPE), sequences=1).name == "torch"  # one thread would be idle
    assert gradients_of(made(SHAPE), "i16", sequences=1).name == kernels.name


@pytest.mark.parametrize("name", ["as LLaMA", "grouped, QK-norm", "multi-query, tied, wide heads"])
@pytest.mark.parametrize(("sequences", "threads"), [(4, 2), (5, 3), (2, 8)])
def test_threads_share_the_sequences(name: str, sequences: int, threads: int, kernels: Library) -> None:
    model = made(SHAPES[name])
    tokens, targets = batch(model.config, sequences, 96)
    loss, exact = in_64_bits(model, tokens, targets, z_loss=0.01)
    compute = KernelGradients(model, kernels, threads=threads)
    whole = torch.stack([gradient.norm() for gradient in exact]).norm()
    found = []
    for _ in range(20):  # whoever is first, sums are in the order of shares
        model.zero_grad(set_to_none=False)
        assert compute(tokens, targets, 0.01).item() == pytest.approx(loss, rel=2e-6)
        found.append(gradients(model))
    for ours, theirs in zip(found[0], exact, strict=True):
        assert (ours - theirs).norm() <= 3e-6 * theirs.norm() + 1e-7 * whole
    for other in found[1:]:
        assert all(map(torch.equal, other, found[0]))
    alone = KernelGradients(model, kernels)
    assert compute.loss(tokens, targets).item() == pytest.approx(
        alone.loss(tokens, targets).item(), rel=1e-12
    )


def test_a_share_that_fails_ends_the_step_and_the_next_one_is_right(
    kernels: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = made(SHAPE)
    compute, (tokens, targets) = KernelGradients(model, kernels, threads=3), batch(SHAPE, 3, 32)
    compute(tokens, targets)
    right = gradients(model)
    cross_entropy = Step._cross_entropy

    def fails(step: Step, *how: float) -> Tensor:
        if step is failing:
            raise MemoryError("no room for this share")
        return cross_entropy(step, *how)

    for share in range(3):
        failing = compute._shares[next(iter(compute._shares))][share]
        with monkeypatch.context() as patch:
            patch.setattr(Step, "_cross_entropy", fails)
            with pytest.raises(MemoryError, match="no room"):
                compute(tokens, targets)
        model.zero_grad(set_to_none=False)
        compute(tokens, targets)
        assert all(map(torch.equal, gradients(model), right))


def test_evaluation_keeps_no_buffers_of_another_shape(kernels: Library) -> None:
    compute, (tokens, targets) = KernelGradients(made(SHAPE), kernels), batch(SHAPE, 4, 64)
    compute(tokens, targets)
    training = weakref.ref(next(iter(compute._shares.values()))[0])
    compute.loss(tokens, targets)
    assert training() is not None
    compute.loss(tokens[:3], targets[:3])
    gc.collect()
    assert training() is None


@pytest.mark.parametrize("how", ["-mavx2 -mfma", "-mavx", "", "-mavx512f"])
def test_other_processors_compute_the_exact_gradients(how: str, kernels: Library, tmp_path: Path) -> None:
    needs = how.split()[0].removeprefix("-m") if how else "sse2"
    if needs not in Path("/proc/cpuinfo").read_text().split():
        pytest.skip(f"this CPU has no {needs}")
    built = tmp_path / "kernels.so"
    subprocess.run(["cc", *FLAGS, "-march=x86-64", *how.split(), "-o", built, *SOURCES, "-lm"], check=True)
    other = Library(load(built), how)
    for name, length in itertools.product(SHAPES, (1, 37, 96)):
        model = made(SHAPES[name])
        tokens, targets = batch(model.config, 3, length)
        loss, exact = in_64_bits(model, tokens, targets, z_loss=0.01)
        assert KernelGradients(model, other)(tokens, targets, 0.01).item() == pytest.approx(loss, rel=2e-6)
        whole = torch.stack([gradient.norm() for gradient in exact]).norm()
        for ours, theirs in zip(gradients(model), exact, strict=True):
            assert (ours - theirs).norm() <= 3e-6 * theirs.norm() + 1e-7 * whole


def test_threads_end_with_a_process_that_is_interrupted(kernels: Library) -> None:
    script = """
import signal, torch
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job is told to ignore it
from llama_scale.architecture import ModelConfig
from llama_scale.training.kernels import KernelGradients, library
from llama_scale.training.model import Llama
shape = dict(layers=4, width=128, heads=4, kv_heads=4, head_size=32, hidden=384, vocabulary=256, context=128)
model = Llama(ModelConfig(**shape))
compute, ids = KernelGradients(model, library(), threads=3), torch.randint(256, (6, 129))
compute(ids[:, :-1], ids[:, 1:])
print("ready", flush=True)
while True:
    compute(ids[:, :-1], ids[:, 1:])
"""
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "ready\n"
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=60)
        finally:
            process.kill()
        assert said.strip().endswith("KeyboardInterrupt")


@pytest.mark.parametrize("said", ["off", "0"])
def test_kernels_can_be_switched_off(said: str, monkeypatch: pytest.MonkeyPatch, forgotten: None) -> None:
    monkeypatch.setenv("LLAMA_SCALE_KERNELS", said)
    assert is_torch(made(SHAPE))


def test_without_a_compiler_torch_does_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forgotten: None
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    found = library()
    assert isinstance(found, Absent)
    assert "no C compiler" in found.reason
    assert "install gcc or clang" in found.fix
    assert is_torch(made(SHAPE))


def test_a_compiler_that_fails_is_told_with_its_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forgotten: None
) -> None:
    broken = tmp_path / "broken-cc"
    broken.write_text("#!/bin/sh\necho 'no such target' >&2\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CC", str(broken))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    found = library()
    assert isinstance(found, Absent)
    assert "broken-cc failed: no such target" in found.reason
    assert not list((tmp_path / "cache").rglob("*.so"))


def test_a_cache_that_cannot_be_written_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forgotten: None
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    found = library()
    assert isinstance(found, Absent)
    assert "XDG_CACHE_HOME" in found.fix


def test_where_no_home_is_known_nothing_is_kept_in_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forgotten: None
) -> None:
    """As of a container's user without an entry in passwd: no folder named ~ is made either."""
    monkeypatch.chdir(tmp_path)
    for name in ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.getuid", lambda: 4_000_000_000)
    settings = tmp_path / "~" / ".config" / "llama-scale" / "config.toml"
    settings.parent.mkdir(parents=True)
    settings.touch()
    found = library()
    assert isinstance(found, Absent) and "no home folder is known" in found.reason
    assert peak_of(torch.device("cpu")) is not None
    assert files() == [] and [path.name for path in (tmp_path / "~").iterdir()] == [".config"]
    for name in ("cache", "~/cache"):  # relative, which XDG lets count for nothing
        monkeypatch.setenv("XDG_CACHE_HOME", name)
        with pytest.raises(StoreError, match="no home folder is known"):
            cache_folder()


def test_a_torn_library_is_compiled_again(
    kernels: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forgotten: None
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    whole = Path(kernels.functions._name)
    torn = cache_folder() / "kernels" / whole.name
    torn.parent.mkdir(parents=True)
    torn.write_bytes(whole.read_bytes()[:50_000])  # beyond what its header tells of lies what it maps
    found = library()
    assert isinstance(found, Library)
    assert found.name == kernels.name
    model = made(SHAPE)
    tokens, targets = batch(SHAPE, 1, 8)
    loss = KernelGradients(model, found)(tokens, targets)
    assert loss.item() == pytest.approx(model.loss(tokens, targets).item(), rel=1e-6)
