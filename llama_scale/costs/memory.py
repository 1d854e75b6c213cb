"""Memory that training takes on one accelerator: states, activations, logits, and what must stay free.

Activations follow Korthikanti et al. 2022 (arXiv 2205.05198, sections 4 and 5), whose 34 s b h bytes of a GPT
layer become, without dropout and with SwiGLU, s b (8 d + 4 q + 4 k + 8 f): inputs and outputs of two norms,
queries, keys, values and the attended sum, and four tensors of the gated feed-forward layer, 2 bytes each.
Symbols: d width, q = heads x head size, k = KV heads x head size, f hidden, s context, b sequences.
"""

from __future__ import annotations

from llama_scale.architecture import ModelConfig, Recompute
from llama_scale.costs.roofline import usable_bytes
from llama_scale.frozen import frozen
from llama_scale.hardware import Accelerator

# Bytes that one parameter holds in mixed precision, 18 in all: AdamW keeps two moments and a master copy.
WEIGHT_BYTES, GRADIENT_BYTES, OPTIMIZER_BYTES = 2, 4, 12
ACTIVATION_BYTES = 2  # bf16
LOGIT_BYTES = 10  # bf16 logits, their fp32 log-probabilities and the fp32 gradient, all at once at the peak
GATHERED_LAYERS = 2  # the layer at work and the next one, fetched ahead


@frozen
class Sharding:
    """How a model is spread: `data` replicas of `fsdp` shards, each shard over `tensor` x `pipeline`."""

    data: int = 1
    fsdp: int = 1
    tensor: int = 1
    pipeline: int = 1

    @property
    def accelerators(self) -> int:
        """All accelerators together."""
        return self.data * self.fsdp * self.tensor * self.pipeline

    @property
    def replicas(self) -> int:
        """Accelerators (or groups of them) that work on different sequences."""
        return self.data * self.fsdp


@frozen
class Memory:
    """Bytes on the fullest accelerator, by what holds them; `usable` is what training may take in all."""

    weights_bytes: float
    gradients_bytes: float
    optimizer_bytes: float
    gathered_bytes: float
    activations_bytes: float
    logits_bytes: float
    usable_bytes: float

    @property
    def total_bytes(self) -> float:
        """What training takes, without what must stay free."""
        states = self.weights_bytes + self.gradients_bytes + self.optimizer_bytes
        return states + self.gathered_bytes + self.activations_bytes + self.logits_bytes

    @property
    def fits(self) -> bool:
        """Whether it does."""
        return self.total_bytes <= self.usable_bytes


def layer_weights(shape: ModelConfig) -> int:
    """Parameters of one layer, norms included."""
    return (shape.parameters.non_embedding - shape.width) // shape.layers


def layer_activation_bytes(shape: ModelConfig, recompute: Recompute) -> float:
    """Bytes that one token leaves in one layer for the backward pass.

    `none` also keeps the attention scores after softmax (2 bytes x heads x context): `selective` recomputes
    them, as every fused attention kernel does; `full` keeps a layer's input alone.
    """
    d, q = shape.width, shape.heads * shape.head_size
    k = shape.kv_heads * shape.head_size
    if recompute == "full":
        return ACTIVATION_BYTES * d
    kept = ACTIVATION_BYTES * (4 * d + 2 * q + 2 * k + 4 * shape.hidden)
    scores = ACTIVATION_BYTES * shape.heads * shape.context if recompute == "none" else 0
    return kept + scores


def recompute_overhead(shape: ModelConfig, recompute: Recompute) -> float:
    """FLOPs that recomputing adds, as a share of the useful ones (hardware FLOPs / model FLOPs - 1).

    `selective` repeats the products of attention (4 L q s a token), `full` the forward pass of every layer.
    """
    attention = 4 * shape.layers * shape.heads * shape.head_size * shape.context
    body = 2 * (shape.matrix_weights - shape.vocabulary * shape.width)
    extra = {"none": 0, "selective": attention, "full": body + attention}[recompute]
    return extra / shape.train_flops_per_token()


def memory_per_accelerator(
    shape: ModelConfig,
    sharding: Sharding,
    accelerator: Accelerator,
    *,
    micro_batch: int = 1,
    micro_steps: int = 1,
    recompute: Recompute = "selective",
) -> Memory:
    """Bytes on the fullest accelerator, for `micro_batch` sequences at a time.

    Tensor parallelism shards activations too (with sequence parallelism, Korthikanti et al., section 4.2);
    of a pipeline the first stage holds the activations of as many micro-batches as there are stages, the
    last one the logits (1F1B, section 4.2.3).
    """
    held, a_layer = _stage_weights(shape, sharding), layer_weights(shape) / sharding.tensor
    share = held / sharding.fsdp
    sharded = sharding.fsdp > 1
    gathered = (GATHERED_LAYERS * WEIGHT_BYTES + GRADIENT_BYTES) * a_layer + WEIGHT_BYTES * (
        held - a_layer * shape.layers / sharding.pipeline
    )
    tokens = micro_batch * shape.context
    first, last = _activations(shape, sharding, tokens, recompute, micro_steps)
    logits = LOGIT_BYTES * tokens * shape.vocabulary / sharding.tensor
    if sharding.pipeline > 1:  # the fuller of the two ends
        last_is_fuller = last + logits > first
        first, logits = (last, logits) if last_is_fuller else (first, 0.0)
    return Memory(
        weights_bytes=WEIGHT_BYTES * share,
        gradients_bytes=GRADIENT_BYTES * share,
        optimizer_bytes=OPTIMIZER_BYTES * share,
        gathered_bytes=gathered if sharded else 0.0,
        activations_bytes=first,
        logits_bytes=logits,
        usable_bytes=float(usable_bytes(accelerator.memory_bytes)),
    )


def _stage_weights(shape: ModelConfig, sharding: Sharding) -> float:
    """Parameters of the largest pipeline stage, divided among its tensor-parallel accelerators."""
    table = shape.vocabulary * shape.width
    tables = table if shape.tied_head or sharding.pipeline > 1 else 2 * table
    body = shape.parameters.non_embedding / sharding.pipeline
    return (body + tables) / sharding.tensor


def _activations(
    shape: ModelConfig, sharding: Sharding, tokens: int, recompute: Recompute, micro_steps: int
) -> tuple[float, float]:
    """Bytes on the first and on the last pipeline stage."""
    layers = shape.layers / sharding.pipeline
    a_layer = tokens * layer_activation_bytes(shape, recompute) / sharding.tensor
    working = tokens * layer_activation_bytes(shape, "selective") / sharding.tensor
    once = working if recompute == "full" else 0.0  # the layer that is being computed again
    ends = 2 * ACTIVATION_BYTES * tokens * shape.width / sharding.tensor  # the last norm
    in_flight = min(sharding.pipeline, micro_steps)
    return in_flight * layers * a_layer + once + ends, layers * a_layer + once + ends
