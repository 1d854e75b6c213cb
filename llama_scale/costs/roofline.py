"""How long one engine takes to read a prompt and to write a token: a roofline with six fitted constants.

Symbols in formulas: g accelerators that share every layer (tensor parallel), N weights that a token is
multiplied by, L layers, q = heads x head size, kv cache bytes of a token, B sequences in the batch,
c = n_in + n_out / 2 tokens that a sequence holds on average while it is written.

    exchange of one token     x      = 8 L q (g - 1) / g / (link s)
    one step of B sequences   t_step = (bytes of N + B c kv) / (g bandwidth e) + u_L L
                                     + B (2 N / (g peak m_d) + 4 L q c / (g peak16 m_d) + x + u_B L)
    one prompt of n_in tokens t_pre  = 2 N n_in / (g peak m_p) + 2 L q n_in^2 / (g peak16 m_p) + x n_in

Products with weights run at the peak of the precision served in, attention at 16 bits. The exchange is two
all-reduces a layer of q values of 16 bits, each sending 2 (g - 1) / g of them. Prompts interrupt the batch
(continuous batching, one engine for both phases), so that a sequence's next token comes
t_step + (B - 1) t_pre / (k n_out) after its last, where k answers share a prompt, and the engine writes
B n_out / (B t_pre / k + n_out t_step) tokens a second.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from llama_scale.architecture import ModelConfig
from llama_scale.costs.constants import Calibration

Array = NDArray[np.float64]
Numbers = float | Array

USABLE_MEMORY = 0.92  # share of an accelerator's memory that allocators leave
RESERVED_BYTES = 3e9  # of it, for the driver, activations that come and go, graphs and buffers
STAGE_PENALTY = 1.1  # our assumption, unmeasured: stages are never quite even, and wait for each other


class ServedShape(NamedTuple):
    """What serving asks of a model, or of arrays of them (they broadcast); numbers need not be whole.

    `weights` are held in memory, `active_weights` multiply every token (a dense model: all but the input
    embedding and norms), `query_width` is heads x head size, in a LLaMA the model's width too, and
    `kv_width` KV heads x head size.
    """

    weights: Numbers
    active_weights: Numbers
    layers: Numbers
    query_width: Numbers
    kv_width: Numbers


class Engine(NamedTuple):
    """What an engine runs on and how it holds a model, as numbers or as arrays that broadcast.

    `tensor` accelerators share every layer of each of `stages`; figures are of one accelerator.
    `peak_flops_per_second` is at the precision that multiplies weights, `attention_flops_per_second` at 16
    bits; the link is infinite where one accelerator works alone.
    """

    tensor: Numbers
    peak_flops_per_second: Numbers
    attention_flops_per_second: Numbers
    bandwidth_bytes_per_second: Numbers
    link_bytes_per_second: Numbers
    memory_bytes: Numbers
    weight_bytes: Numbers
    kv_bytes: Numbers
    stages: Numbers = 1.0

    @property
    def stage_penalty(self) -> Numbers:
        """What every time is multiplied by."""
        return np.where(np.asarray(self.stages) > 1, STAGE_PENALTY, 1.0)


class Traffic(NamedTuple):
    """Tokens that a request reads and that each of its answers writes.

    `samples` answers share one prompt: it is read once and kept once, but each answer attends to all of it.
    """

    input_tokens: Numbers
    output_tokens: Numbers
    samples: Numbers = 1.0

    @property
    def read_tokens(self) -> Numbers:
        """An answer's part of the prompt."""
        return self.input_tokens / self.samples

    @property
    def held_tokens(self) -> Numbers:
        """Tokens that an answer attends to on average: all of the input, half of the output."""
        return self.input_tokens + self.output_tokens / 2

    @property
    def attended_tokens(self) -> Numbers:
        """Tokens that a token attends to, on average over a prompt's (half of it) and an answer's."""
        read, written = self.read_tokens, self.output_tokens
        return (read * self.input_tokens / 2 + written * self.held_tokens) / (read + written)

    @property
    def stored_tokens(self) -> Numbers:
        """Tokens of cache that an answer takes on average."""
        return self.read_tokens + self.output_tokens / 2


class Phases(NamedTuple):
    """Seconds of the two phases: a prompt, and a step as `step_fixed` + batch x `step_per_sequence`."""

    prompt: Numbers
    step_fixed: Numbers
    step_per_sequence: Numbers


def served_shape(model: ModelConfig) -> ServedShape:
    """A real model as serving sees it."""
    return ServedShape(
        weights=float(model.parameters.total),
        active_weights=float(model.matrix_weights),
        layers=float(model.layers),
        query_width=float(model.heads * model.head_size),
        kv_width=float(model.kv_heads * model.head_size),
    )


def cache_bytes(shape: ServedShape, bytes_per_value: Numbers) -> Numbers:
    """Bytes that one token holds in the key-value cache: 2 L k bytes."""
    return 2 * shape.layers * shape.kv_width * bytes_per_value


def exchange_seconds(calibration: Calibration, engine: Engine, shape: ServedShape) -> Numbers:
    """Seconds that all-reduces of one token take: 0 on one accelerator."""
    sent = 8 * shape.layers * shape.query_width * (engine.tensor - 1) / engine.tensor
    return sent / (engine.link_bytes_per_second * calibration.link_share)


def phases(calibration: Calibration, engine: Engine, shape: ServedShape, traffic: Traffic) -> Phases:
    """What a prompt and a step of one stage's share of the batch take through all stages, in seconds."""
    penalty = engine.stage_penalty
    bandwidth = engine.tensor * engine.bandwidth_bytes_per_second * calibration.bandwidth_share
    read, held = traffic.input_tokens, traffic.held_tokens
    products = 2 * shape.active_weights / (engine.tensor * engine.peak_flops_per_second)
    per_held_token = (
        4 * shape.layers * shape.query_width / (engine.tensor * engine.attention_flops_per_second)
    )
    exchange = exchange_seconds(calibration, engine, shape)
    return Phases(
        prompt=penalty * read * ((products + per_held_token * read / 2) / calibration.prefill_mfu + exchange),
        step_fixed=penalty
        * (shape.active_weights * engine.weight_bytes / bandwidth + calibration.layer_seconds * shape.layers),
        step_per_sequence=penalty
        * (
            held * cache_bytes(shape, engine.kv_bytes) / bandwidth
            + (products + per_held_token * held) / calibration.decode_mfu
            + exchange
            + calibration.sequence_seconds * shape.layers
        ),
    )


def usable_bytes(memory_bytes: Numbers) -> Numbers:
    """What training or serving may plan with of an accelerator's memory."""
    return USABLE_MEMORY * memory_bytes - RESERVED_BYTES


def batch_in_memory(engine: Engine, shape: ServedShape, traffic: Traffic) -> Array:
    """Sequences whose cache fits beside the weights on stages x tensor accelerators; nan if not one whole.

    They store n_in / k + n_out / 2 tokens on average, since they are at different places.
    """
    room = engine.stages * engine.tensor * usable_bytes(engine.memory_bytes)
    left = room - shape.weights * engine.weight_bytes
    each = cache_bytes(shape, engine.kv_bytes)
    whole = each * (traffic.input_tokens + traffic.output_tokens)
    return np.where(left >= whole, left / (each * traffic.stored_tokens), np.nan)


def seconds_per_answer(times: Phases, traffic: Traffic, batch: Numbers) -> Numbers:
    """What one answer takes of an engine that always writes `batch` of them: t_pre / k + n_out t_step / B."""
    written = traffic.output_tokens * (times.step_fixed / batch + times.step_per_sequence)
    return times.prompt / traffic.samples + written
