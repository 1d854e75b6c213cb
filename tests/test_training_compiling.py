"""torch.compile: the same gradients to rounding, one block compiled for all of them, a clear refusal."""

from __future__ import annotations

import os
import subprocess
import sys
import weakref
from functools import partial
from pathlib import Path

import pytest
import torch
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.utils import counters
from torch._functorch.compilers import nop
from torch._inductor.exc import InductorError, TritonMissing

from llama_scale.architecture import ModelConfig, Recompute
from llama_scale.errors import InputError
from llama_scale.single import SingleSpec, SingleTraining
from llama_scale.training.kernels import TorchGradients, gradients_of, library
from llama_scale.training.kernels.library import Absent
from llama_scale.training.model import Llama
from llama_scale.training.scaling import initialise

SHAPE = ModelConfig(
    layers=3, width=32, heads=4, kv_heads=2, head_size=8, hidden=96, vocabulary=64, context=32, qk_norm=True
)
WITHOUT_COMPILER = isinstance(library(), Absent)
pytestmark = pytest.mark.filterwarnings("ignore")  # of torch about itself, which its compiler runs into
needs_compiler = pytest.mark.skipif(WITHOUT_COMPILER, reason="no C compiler is on the path")


def made(recompute: Recompute = "none", *, compiled: bool = False) -> Llama:
    model = Llama(SHAPE, recompute=recompute, compiled=compiled)
    initialise(model, 0, 1.0)
    return model


def stepped(model: Llama, sequences: int = 4) -> tuple[float, list[torch.Tensor]]:
    """The loss and the gradients of one batch."""
    shape = (sequences, SHAPE.context + 1)
    tokens = torch.randint(SHAPE.vocabulary, shape, generator=torch.manual_seed(0))
    loss = TorchGradients(model)(tokens[:, :-1], tokens[:, 1:], 1e-3, 0.5)
    return loss.item(), [weight.grad for weight in model.parameters() if weight.grad is not None]


@needs_compiler
@pytest.mark.parametrize("recompute", ["none", "selective"])
def test_a_compiled_model_has_the_gradients_of_an_eager_one(recompute: Recompute) -> None:
    loss, gradients = stepped(made())
    compiled = made(recompute, compiled=True)
    counters.clear()
    found, others = stepped(compiled)
    assert found == pytest.approx(loss, rel=1e-6)
    assert len(others) == len(gradients)
    for ours, theirs in zip(others, gradients, strict=True):
        assert (ours - theirs).norm() <= 1e-5 * theirs.norm()
    assert counters["graph_break"] == {}
    assert counters["stats"]["unique_graphs"] == 2  # a block and the loss


def test_every_shape_is_compiled_and_no_weight_outlives_its_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))  # soon done
    compiled = made(compiled=True)
    counters.clear()
    for sequences in range(2, 11):  # torch by itself stops at 8
        stepped(compiled, sequences)
    assert counters["stats"]["unique_graphs"] == 2 * 9
    weight = weakref.ref(compiled.head.weight), weakref.ref(next(compiled.blocks.parameters()))
    del compiled
    assert [one() for one in weight] == [None, None]  # with no garbage collected


@pytest.mark.parametrize(
    ("failure", "told", "said"),
    [
        (TritonMissing(None), InputError, "nothing here: Cannot find a working triton"),
        (InductorError(OSError("no ninja"), None), InputError, "nothing here: no ninja"),
        (InductorError(torch.OutOfMemoryError("CUDA full"), None), torch.OutOfMemoryError, "CUDA full"),
    ],
)
@pytest.mark.parametrize("part", ["fw_compiler", "bw_compiler", "inference_compiler"])
def test_whatever_keeps_torch_from_compiling_is_told_in_steps_and_evaluation(
    failure: Exception, told: type[Exception], said: str, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise failure

    compilers = {"fw_compiler": nop, "bw_compiler": nop, "inference_compiler": nop, part: refuse}
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=aot_autograd(**compilers)))
    gradients, tokens = TorchGradients(made(compiled=True)), torch.zeros(2, SHAPE.context, dtype=torch.long)
    with pytest.raises(told, match=said):
        gradients.loss(tokens, tokens) if part == "inference_compiler" else gradients(
            tokens, tokens, 0.0, 1.0
        )


def test_a_machine_that_cannot_compile_says_so_in_a_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "llama_scale", "train", "--model", "1x16", "--steps", "2"]
    command += ["--device", "cpu", "--store", str(tmp_path / "runs"), "--set", "training.compile=true"]
    nowhere = {"CXX": str(tmp_path / "none"), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    ran = subprocess.run(command, env=os.environ | nowhere, capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    assert "Traceback" not in ran.stderr
    (error, hint) = ran.stderr.strip().splitlines()[-2:]
    assert error.startswith("error: training.compile is true, but torch can compile nothing here: ")
    assert "training.compile = false" in hint


def test_kernels_leave_a_compiled_model_to_torch() -> None:
    assert gradients_of(made(compiled=True)).name == "torch, compiled"
    with pytest.raises(InputError, match=r"C kernels compute, but training\.compile leaves all to torch"):
        SingleSpec(training=SingleTraining(precision="i16", compile=True))
