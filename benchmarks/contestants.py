"""Training steps of llama-scale and of its peers, each in a process that takes steps when told."""

from __future__ import annotations

import multiprocessing
import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from importlib import import_module
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from llama_scale.architecture import ModelConfig
from llama_scale.frozen import frozen

if TYPE_CHECKING:
    from llama_scale.training.trainer import Trainer

Take = Callable[[int], None]  # so many training steps
LEARNING_RATE, BETAS, WEIGHT_DECAY, CLIP = 1e-3, (0.9, 0.99), 0.1, 1.0


@frozen
class Contestant:
    """Who trains, how: `who` is "llama-scale", "llama-scale, torch alone", "transformers" or "litgpt"."""

    who: str
    compiled: bool = False
    precision: str = "f32"
    threads: int = 1
    device: str = "cpu"

    @property
    def is_ours(self) -> bool:
        return self.who.startswith("llama-scale")

    def __str__(self) -> str:
        threads = f", {self.threads} threads" if self.threads > 1 else ""
        return f"{self.who}{', compiled' if self.compiled else ''}, {self.precision}{threads}"


@frozen(kw_only=False)
class Taken:
    """Seconds that some steps took: of the whole process's CPU time, and by the clock."""

    cpu: float
    wall: float


class Running:
    """A contestant in a process of its own, which sleeps between calls: one at a time uses the machine."""

    def __init__(self, contestant: Contestant, model: ModelConfig, sequences: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.contestant = contestant
        self._ours, theirs = context.Pipe()
        arguments = (theirs, contestant, model, sequences)
        self._process = context.Process(target=_serve, args=arguments, daemon=True)
        self._process.start()
        theirs.close()

    def begin(self, steps: int) -> None:
        """Start to take `steps`; `end` waits for them, so that several can be at it together."""
        self._ours.send(steps)

    def end(self) -> Taken:
        try:
            answer = self._ours.recv()
        except EOFError:
            answer = "its process died"
        if isinstance(answer, str):
            raise RuntimeError(f"{self.contestant}: {answer}")
        return answer

    def turn_to(self, model: ModelConfig, sequences: int) -> None:
        """Train this one from now on, from its start."""
        self._ours.send((model, sequences))

    def take(self, steps: int) -> Taken:
        self.begin(steps)
        return self.end()

    def close(self) -> None:
        self._ours.close()
        self._process.join(10)
        if self._process.is_alive():
            self._process.kill()


def _serve(connection: Connection, contestant: Contestant, model: ModelConfig, sequences: int) -> None:
    import os

    os.environ["OMP_NUM_THREADS"] = str(contestant.threads)
    if contestant.who == "llama-scale, torch alone":
        os.environ["LLAMA_SCALE_KERNELS"] = "off"
    warnings.simplefilter("ignore")
    import torch

    torch.set_num_threads(contestant.threads)
    torch.manual_seed(0)
    take: Take | None = None
    while True:
        try:
            asked = connection.recv()
        except EOFError:
            return
        if isinstance(asked, tuple):
            (model, sequences), take = asked, None
            continue
        try:
            take = take or _ready(contestant, model, sequences)
            cpu, wall = time.process_time(), time.perf_counter()
            take(asked)
            if contestant.device == "cuda":
                torch.cuda.synchronize()
            connection.send(Taken(time.process_time() - cpu, time.perf_counter() - wall))
        except Exception as error:  # whatever keeps one from the race is told, and the others go on
            connection.send(f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")


def _ready(contestant: Contestant, model: ModelConfig, sequences: int) -> Take:
    if contestant.is_ours:
        return _ours(contestant, model, sequences)
    return _peer(contestant, model, sequences)


def _ours(contestant: Contestant, model: ModelConfig, sequences: int) -> Take:
    trainer = trainer_of(contestant, model, sequences)

    def take(steps: int) -> None:
        for _ in range(steps):
            trainer.advance()
        trainer.collect()

    return take


def trainer_of(contestant: Contestant, model: ModelConfig, sequences: int) -> Trainer:
    """The trainer as a sweep's worker runs it, batches from token files included."""
    from llama_scale.runs import DataConfig, OptimizerConfig, RunConfig, ScheduleConfig
    from llama_scale.training.environment import choose_device
    from llama_scale.training.speed import random_tokens
    from llama_scale.training.trainer import Trainer

    config = RunConfig(
        role="train",
        model=model,
        data=DataConfig(vocabulary=model.vocabulary),
        corpus="random",
        optimizer=OptimizerConfig(learning_rate=LEARNING_RATE),
        schedule=ScheduleConfig(kind="constant", total_steps=None),
        sequences_per_step=sequences,
        seed=0,
    )
    if contestant.precision != "f32":
        config = replace(config, precision=contestant.precision)
    if contestant.compiled:
        config = replace(config, compile=True)
    return Trainer(config, random_tokens(config), choose_device(contestant.device))


def _peer(contestant: Contestant, model: ModelConfig, sequences: int) -> Take:
    """The step that a user would write: autocast for bf16, fused AdamW, gradients set to None."""
    import torch
    from torch.nn import functional as F

    module, logits_of = PEERS[contestant.who](model)
    module.to(contestant.device).train()
    optimizer = torch.optim.AdamW(
        module.parameters(), lr=LEARNING_RATE, betas=BETAS, weight_decay=WEIGHT_DECAY, fused=True
    )
    # As many batches as the others see, so that no allocation or cache profits from always the same one.
    batches = torch.randint(model.vocabulary, (16, sequences, model.context + 1), device=contestant.device)

    def loss_of(batch: torch.Tensor) -> torch.Tensor:
        logits = logits_of(batch[:, :-1])
        return F.cross_entropy(logits.flatten(0, 1).float(), batch[:, 1:].flatten())

    if contestant.compiled:
        loss_of = torch.compile(loss_of)

    def take(steps: int) -> None:
        for step in range(steps):
            autocast = torch.autocast(contestant.device, torch.bfloat16)
            with autocast if contestant.precision == "bf16" else nullcontext():
                loss = loss_of(batches[step % len(batches)])
            loss.backward()
            torch.nn.utils.clip_grad_norm_(module.parameters(), CLIP)
            optimizer.step()
            optimizer.zero_grad()

    return take


def _transformers(model: ModelConfig) -> tuple[Any, Callable[[Any], Any]]:
    from transformers import LlamaConfig, LlamaForCausalLM

    module = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=model.vocabulary,
            hidden_size=model.width,
            intermediate_size=model.hidden,
            num_hidden_layers=model.layers,
            num_attention_heads=model.heads,
            num_key_value_heads=model.kv_heads,
            head_dim=model.head_size,
            max_position_embeddings=model.context,
            rms_norm_eps=model.norm_epsilon,
            tie_word_embeddings=model.tied_head,
            use_cache=False,
        )
    )
    module.set_attn_implementation("sdpa")
    return module, lambda tokens: module(input_ids=tokens).logits


def _litgpt(model: ModelConfig) -> tuple[Any, Callable[[Any], Any]]:
    litgpt = import_module("litgpt")  # of the bench extra alone

    module = litgpt.GPT(
        litgpt.Config(
            block_size=model.context,
            vocab_size=model.vocabulary,
            padded_vocab_size=model.vocabulary,
            n_layer=model.layers,
            n_embd=model.width,
            n_head=model.heads,
            n_query_groups=model.kv_heads,
            head_size=model.head_size,
            intermediate_size=model.hidden,
            rotary_percentage=1.0,
            parallel_residual=False,
            bias=False,
            norm_class_name="RMSNorm",
            norm_eps=model.norm_epsilon,
            mlp_class_name="LLaMAMLP",
        )
    )
    return module, module


PEERS: dict[str, Callable[[ModelConfig], tuple[Any, Callable[[Any], Any]]]] = {
    "transformers": _transformers,
    "litgpt": _litgpt,
}
