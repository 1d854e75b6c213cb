"""How much memory a worker takes."""

from __future__ import annotations

from llama_scale.runs import RunConfig

# Fitted from above to the peak resident memory of five shapes on CPU (torch 2.13, widths 64 to 1024,
# vocabularies of 1,024 to 32,000): a process with torch, the states, what the backward pass keeps. The bound
# holds for bf16, which has no kernels of ours, and integers as well: .60 to .76 of it were taken. Pages of
# torch's libraries are .08 GB of it; those of its build for CUDA, .34 GB, are not counted: workers share
# them, and a kernel that wants memory takes them back.
PROCESS_BYTES = 350e6
STATE_BYTES = 1.1 * 16  # a parameter: weight, gradient and two moments in fp32
ACTIVATION_FACTOR = 1.6
LOGIT_BYTES = 1.4 * 12  # a logit: itself, its log-probability and its gradient in fp32


def memory_bytes(config: RunConfig) -> float:
    """About what training `config` takes, the process included; rather too much than too little."""
    model, sequences = config.model, config.sequences_per_step
    tokens = model.context * min(sequences, config.micro_batch or sequences)
    attention = 2 * model.head_size * (model.heads + model.kv_heads)
    kept = 4 * (4 * model.width + attention + 4 * model.hidden)  # of a layer and token, in fp32
    return (
        PROCESS_BYTES
        + STATE_BYTES * model.parameters.total
        + ACTIVATION_FACTOR * kept * model.layers * tokens
        + LOGIT_BYTES * model.vocabulary * tokens
    )
