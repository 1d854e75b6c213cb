"""How long one engine takes to read a prompt and to write a token: a roofline with a few fitted constants.

Symbols in formulas: g accelerators that share every layer (tensor parallel), N weights that a token is
multiplied by, L layers, q = heads x head size, kv cache bytes of a token, B sequences in the batch,
c = n_in + n_out / 2 tokens that a sequence holds on average while it is written.

    one step of B sequences   t_step = (bytes of N + B c kv) / (g bandwidth e)
                                     + B (2 N + 4 L q c) / (g peak m_d) + u_L L + u_B B
    one prompt of n_in tokens t_pre  = (2 N n_in + 2 L q n_in^2) / (g peak m_p)

Prompts interrupt the batch (continuous batching, one engine for both phases), so that a sequence's next
token comes t_step + (B - 1) t_pre / n_out after its last, and the engine writes
B n_out / (B t_pre + n_out t_step) tokens a second.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from llama_scale.architecture import ModelConfig

Numbers = float | NDArray[np.float64]

USABLE_MEMORY = 0.92  # share of an accelerator's memory that engines plan with
RESERVED_BYTES = 3e9  # of it, for activations, graphs and buffers


class ServedShape(NamedTuple):
    """What serving asks of a model, or of arrays of them (they broadcast); numbers need not be whole.

    `weights` are held in memory, `active_weights` multiply every token (a dense model: all but the input
    embedding), `query_width` is heads x head size and `kv_width` KV heads x head size.
    """

    weights: Numbers
    active_weights: Numbers
    layers: Numbers
    query_width: Numbers
    kv_width: Numbers


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """The constants that measurements fix, how far off they leave the model, and what they were fitted on.

    `bandwidth_share` (e), `prefill_mfu` (m_p) and `decode_mfu` (m_d) are shares of what the data sheet
    says; `layer_seconds` (u_L) is paid for each layer of a step, `sequence_seconds` (u_B) for each
    sequence of one.
    """

    prefill_mfu: float
    bandwidth_share: float
    decode_mfu: float
    layer_seconds: float
    sequence_seconds: float
    source: str = ""
    date: str = ""


PROVISIONAL = Calibration(
    prefill_mfu=0.55, bandwidth_share=0.83, decode_mfu=0.59, layer_seconds=79e-6, sequence_seconds=12.8e-6
)


class Engine(NamedTuple):
    """What an engine runs on and how it holds a model, as numbers or as arrays that broadcast.

    `tensor` accelerators share every layer; rates are of one accelerator at the precision that computes.
    """

    tensor: Numbers
    peak_flops_per_second: Numbers
    bandwidth_bytes_per_second: Numbers
    memory_bytes: Numbers
    weight_bytes: Numbers
    kv_bytes: Numbers


class Request(NamedTuple):
    """Tokens that a request reads and writes."""

    input_tokens: Numbers
    output_tokens: Numbers

    @property
    def held_tokens(self) -> Numbers:
        """Tokens that it holds on average while it is written: all of the input, half of the output."""
        return self.input_tokens + self.output_tokens / 2


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


def phases(calibration: Calibration, engine: Engine, shape: ServedShape, request: Request) -> Phases:
    """What a prompt and a step take, in seconds."""
    bandwidth = engine.tensor * engine.bandwidth_bytes_per_second * calibration.bandwidth_share
    peak = engine.tensor * engine.peak_flops_per_second
    read, held = request.input_tokens, request.held_tokens
    attention = shape.layers * shape.query_width
    prompt_flops = 2 * shape.active_weights * read + 2 * attention * read * read
    token_flops = 2 * shape.active_weights + 4 * attention * held
    return Phases(
        prompt=prompt_flops / (peak * calibration.prefill_mfu),
        step_fixed=shape.active_weights * engine.weight_bytes / bandwidth
        + calibration.layer_seconds * shape.layers,
        step_per_sequence=held * cache_bytes(shape, engine.kv_bytes) / bandwidth
        + token_flops / (peak * calibration.decode_mfu)
        + calibration.sequence_seconds,
    )
