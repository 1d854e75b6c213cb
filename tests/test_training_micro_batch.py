"""Memory that runs out in a step: real allocations that fail, half of the micro-batch, the same loss."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from control_group import limited
from small_runs import small_run
from torch import Tensor

from llama_scale.errors import InputError
from llama_scale.frozen import frozen
from llama_scale.runs import RunConfig
from llama_scale.training import micro_batch
from llama_scale.training.kernels import Gradients
from llama_scale.training.micro_batch import (
    first_micro_batch,
    free_bytes,
    halved,
    is_out_of_memory,
    sequence_bytes,
)
from llama_scale.training.speed import random_tokens
from llama_scale.training.trainer import Trainer

CPU = torch.device("cpu")
CONFIG = small_run()
HERE = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}


@frozen(kw_only=False)
class Cramped:
    """Gradients where more sequences at once do not fit: the allocator itself refuses."""

    whole: Gradients
    sequences: int
    name: str = "cramped"

    def __call__(self, tokens_BT: Tensor, targets_BT: Tensor, z_loss: float, share: float) -> Tensor:
        loss = self.whole(tokens_BT, targets_BT, z_loss, share)
        self._refuse(tokens_BT)  # the gradients that are there already must be forgotten
        return loss

    def loss(self, tokens_BT: Tensor, targets_BT: Tensor) -> Tensor:
        self._refuse(tokens_BT)
        return self.whole.loss(tokens_BT, targets_BT)

    def _refuse(self, tokens_BT: Tensor) -> None:
        if len(tokens_BT) > self.sequences:
            torch.empty(2**50)


def with_room_for(sequences: int, config: RunConfig = CONFIG) -> Trainer:
    trainer = Trainer(config, random_tokens(config), CPU)
    trainer.gradients = Cramped(trainer.gradients, sequences)
    return trainer


def test_a_step_that_does_not_fit_is_taken_in_halves_with_the_same_loss() -> None:
    trainers = [with_room_for(room) for room in (8, 3)]
    for trainer in trainers:
        trainer.advance()
        trainer.advance()
    assert [trainer.micro_batch for trainer in trainers] == [8, 2]
    whole, halves = (trainer.collect() for trainer in trainers)
    for one, other in zip(whole, halves, strict=True):
        assert other.loss_nats == pytest.approx(one.loss_nats, rel=1e-5)
        assert other.gradient_norm == pytest.approx(one.gradient_norm, rel=1e-4)


def test_an_evaluation_that_does_not_fit_is_made_in_halves_with_the_same_loss() -> None:
    """As where a run that stood at its last step goes on beside others."""
    whole, halves = with_room_for(8), with_room_for(3)
    assert halves.evaluate() == pytest.approx(whole.evaluate(), rel=1e-6)
    assert halves.micro_batch == 2


@pytest.mark.parametrize(
    ("words", "is_memory"),
    [
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", True),
        ("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`", True),
        ("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasGemmEx( handle, opa)`", False),
        ("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED", True),
        ("Triton Error [CUDA]: out of memory", True),
        ("CUDA error: out of memory", True),
        ("CUDA error: an illegal memory access was encountered", False),
    ],
)
def test_libraries_of_a_gpu_say_that_memory_is_out_in_their_own_words(words: str, is_memory: bool) -> None:
    assert is_out_of_memory(RuntimeError(words)) == is_memory


def test_a_single_sequence_that_does_not_fit_is_refused_with_what_to_set() -> None:
    with pytest.raises(InputError, match="1 sequence of 32 tokens at once does not fit") as refusal:
        with_room_for(0).advance()
    assert refusal.value.hint == (
        'set training.recompute = "full", training.precision = "bf16", or a shorter context'
    )
    least = replace(CONFIG, recompute="full", precision="bf16")
    with pytest.raises(InputError) as refusal:
        with_room_for(0, least).advance()
    assert refusal.value.hint == "set a shorter context"


def test_an_evaluation_that_does_not_fit_is_not_said_to_need_recomputing() -> None:
    with pytest.raises(InputError, match="1 sequence of 32 tokens at once does not fit") as refusal:
        with_room_for(0).evaluate()
    assert "recompute" not in refusal.value.hint and "others" in refusal.value.hint


def test_a_model_that_memory_does_not_hold_is_refused_before_it_is_made() -> None:
    """Else the system ends the process, without a word, when it writes to what it was promised."""
    config = small_run(replace(CONFIG.model, layers=10**9))
    with pytest.raises(
        InputError, match=r"does not fit in the memory of cpu: .* take \d.* are free"
    ) as refusal:
        Trainer(config, random_tokens(CONFIG), CPU)
    assert "torchrun" in refusal.value.hint


LIMITED = """
import resource, torch
from small_runs import small_model, small_run
from llama_scale.errors import InputError
from llama_scale.training.speed import random_tokens
from llama_scale.training.trainer import Trainer
config = small_run(small_model(layers=40, width=512, hidden=1024))
files = random_tokens(config)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 400_000_000, resource.RLIM_INFINITY))
try:
    Trainer(config, files, torch.device("cpu"))
except InputError as error:
    print(error.message)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the limit counts address space as Linux does")
def test_a_model_that_the_process_is_not_given_memory_for_is_refused() -> None:
    said = subprocess.run(
        [sys.executable, "-c", LIMITED], capture_output=True, text=True, check=True, env=HERE
    ).stdout
    assert "which this process was not given" in said


CONTAINED = """
import torch
from small_runs import small_run
from llama_scale.training.micro_batch import first_micro_batch
print(first_micro_batch(small_run(sequences_per_step=2**20), torch.device("cpu")))
"""


def test_what_fits_is_what_the_control_group_leaves(tmp_path: Path) -> None:
    """Beyond a container's limit no allocation fails: the process is killed, and nothing would be halved."""
    with limited(tmp_path, 700_000_000, sys.executable) as python:
        said = subprocess.run(
            [python, "-c", CONTAINED], capture_output=True, text=True, check=True, env=HERE
        ).stdout
    assert 1 < int(said) * sequence_bytes(CONFIG) < 700_000_000


def test_what_seems_not_to_fit_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(micro_batch, "free_bytes", lambda device: 10 * sequence_bytes(CONFIG))
    assert first_micro_batch(CONFIG, CPU) == 4  # of ten sequences' room two fifths
    assert first_micro_batch(replace(CONFIG, micro_batch=7), CPU) == 7
    assert first_micro_batch(replace(CONFIG, recompute="full"), CPU) >= 4
    monkeypatch.setattr(micro_batch, "free_bytes", lambda device: 0.0)
    assert first_micro_batch(CONFIG, CPU) == 1


def test_what_torch_keeps_of_earlier_models_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that trains one run after another had given the second a quarter of the micro-batch."""
    kept = [6]  # of a card that is not here
    monkeypatch.setattr(torch.cuda, "empty_cache", kept.clear)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10 - sum(kept), 10))
    assert free_bytes(torch.device("cuda")) == 10


def test_halves_and_errors() -> None:
    assert [halved(n) for n in (1, 2, 3, 64)] == [1, 1, 2, 32]
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert is_out_of_memory(MemoryError())
    with pytest.raises(RuntimeError) as refused:
        torch.empty(2**50)
    assert is_out_of_memory(refused.value)
    assert not is_out_of_memory(RuntimeError("shapes cannot be multiplied"))
