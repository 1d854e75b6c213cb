"""Loss and gradients of a LLaMA as a fixed list of calls over memory that is allocated once.

Matrix products are of 32-bit floats or of integers (`products.py`); all else is in `kernels.c`. Shapes as in
`training/model.py`; M = B T rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from llama_scale.frozen import frozen
from llama_scale.training.kernels.library import Library
from llama_scale.training.kernels.products import Numbers, Sizes, product, product_scratch
from llama_scale.training.kernels.turns import Turn, together, turns
from llama_scale.training.model import Block, Llama

Call = Callable[[], Any]
LEAST_SIDE = 64  # of a weight matrix in integers: with less copying takes what multiplying saves


class Products(NamedTuple):
    """What is multiplied: y = x w^T in training and in evaluation, dx = dy w, dw = dy^T x."""

    forward: Numbers
    evaluated: Numbers
    inputs: Numbers
    weights: Numbers


def _alike(numbers: Numbers) -> Products:
    return Products(numbers, numbers, numbers, numbers)


# In 8 bits a weight's gradient, a sum over all tokens, keeps 16 (Wortsman et al. 2023, arXiv 2304.13013), and
# so does the head: gradients of most logits are less than half a unit of 8 bits, 1/254 of the target's.
BLOCKS: dict[Numbers, Products] = {
    "f32": _alike("f32"),
    "i16": _alike("i16"),
    "i8": Products("i8", "i16", "i8", "i16"),
}
HEAD: dict[Numbers, Products] = {**BLOCKS, "i8": _alike("i16")}


class KernelGradients:
    """Loss and gradients of one model, over memory that is kept from call to call.

    Products of weight matrices with both sides of LEAST_SIDE or more are of what BLOCKS and HEAD have for
    `numbers`. Each of up to `threads` threads takes a share of the sequences; last bits depend on how many.
    """

    def __init__(self, model: Llama, library: Library, numbers: Numbers = "f32", *, threads: int = 1) -> None:
        self.model, self.library, self.threads = model, library, threads
        self.numbers: Numbers = numbers
        self._weights = tuple(model.parameters())
        self._shares: dict[tuple[int, ...], tuple[Step, ...]] = {}
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None

    @property
    def name(self) -> str:
        """What computes, for a run's record."""
        return self.library.name

    def __call__(
        self, tokens_BT: Tensor, targets_BT: Tensor, z_loss: float = 0.0, share: float = 1.0
    ) -> Tensor:
        """Add `share` times the gradient of `Llama.objective` to the weights' `grad`; gives the mean loss."""
        steps, scale = self._read(tokens_BT, targets_BT), share / tokens_BT.numel()
        total = self._sum(steps, lambda step: step.run(z_loss, scale))
        for step in steps:  # when all are done: a tied head adds to the same gradient
            step.embed_backward()
        return (total / tokens_BT.numel()).float()

    def loss(self, tokens_BT: Tensor, targets_BT: Tensor) -> Tensor:
        """The sum of losses in nats, in 8 bits by products in 16; keeps buffers of no other shape."""
        if not any(shape[:2] == tokens_BT.shape for shape in self._shares):
            self._shares.clear()
        return self._sum(self._read(tokens_BT, targets_BT), Step.evaluate)

    def _read(self, tokens_BT: Tensor, targets_BT: Tensor) -> tuple[Step, ...]:
        """A step for each share of a batch, which they have read."""
        steps = self._steps(tokens_BT.shape)
        parts = (ids.tensor_split(len(steps)) for ids in (tokens_BT, targets_BT))
        for step, tokens, targets in zip(steps, *parts, strict=True):
            step.read(tokens, targets)
        return steps

    def _sum(self, steps: Sequence[Step], do: Callable[[Step], Tensor]) -> Tensor:
        """What `do` gives for each share, added up."""
        if self._pool is None or len(steps) == 1:
            return do(steps[0])
        calls = [partial(step.turn.kept, partial(do, step)) for step in steps]
        try:
            return torch.stack(together(self._pool, calls)).sum()
        except BaseException:
            self._shares.clear()  # with turns that somebody did not take
            raise

    def _steps(self, shape: torch.Size) -> tuple[Step, ...]:
        """A step for each share of this shape, made anew where weights or gradients have moved in memory."""
        for weight in self._weights:
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)
        where = hash(tuple((weight.data_ptr(), _gradient(weight).data_ptr()) for weight in self._weights))
        key = (*shape, where)
        if key not in self._shares:
            if len(self._shares) > 1:
                self._shares.clear()
            batch, length = shape
            sizes = [len(part) for part in torch.empty(batch).tensor_split(min(self.threads, batch))]
            self._shares[key] = tuple(
                Step(self.model, self.library, size, length, numbers=self.numbers, turn=turn)
                for size, turn in zip(sizes, turns(len(sizes)), strict=True)
            )
        return self._shares[key]


@frozen(kw_only=False)
class _Norm:
    """A place in the residual stream: x [M, D], its norm, 1 / rms [M]."""

    module: nn.RMSNorm
    x: Tensor
    y: Tensor
    inverse: Tensor


class Step:
    """Every buffer and call of one training step on [batch, length] tokens."""

    def __init__(
        self,
        model: Llama,
        library: Library,
        batch: int,
        length: int,
        *,
        numbers: Numbers,
        turn: Turn,
    ) -> None:
        self.config, self.library = model.config, library
        self.numbers: Numbers = numbers
        self.turn = turn
        self.batch, self.length, self.rows = batch, length, batch * length
        width, vocabulary = self.config.width, self.config.vocabulary
        self._tokens, self._targets = (torch.zeros(self.rows, dtype=torch.int64) for _ in range(2))
        self._loss = torch.zeros((), dtype=torch.float64)
        self._logits = torch.empty(self.rows, vocabulary)
        self._change, self._dx, self._dy = (torch.empty(self.rows, width) for _ in range(3))
        self._query_key = self.config.heads + self.config.kv_heads
        self._qkv_columns = (self._query_key + self.config.kv_heads) * self.config.head_size
        mixed = self.config.heads * self.config.head_size
        self._dqkv = torch.empty(self.rows, self._qkv_columns)
        self._dmixed = torch.empty(self.rows, mixed)
        self._dhidden = torch.empty(self.rows, self.config.hidden)
        self._attention_scratch = torch.empty(
            library.functions.attention_scratch(length, self.config.head_size)
        )
        used: set[Numbers] = {"f32", *BLOCKS[numbers], *HEAD[numbers]}
        self._product_scratch = product_scratch(library, self._products(), *used)
        self._rotation = model.get_buffer("rotation")
        self._forward: list[tuple[Call, Call]] = []  # in training, and in evaluation
        self._backward: list[list[Call]] = []  # in the order of the forward pass: each part is run backwards
        self._record(model)

    def read(self, tokens_BT: Tensor, targets_BT: Tensor) -> None:
        """Take a batch. Raises IndexError for an id outside the vocabulary."""
        for name, kept, ids in (("token", self._tokens, tokens_BT), ("target", self._targets, targets_BT)):
            kept.view(self.batch, self.length).copy_(ids)
            least, most = map(int, kept.aminmax())
            if least < 0 or most >= self.config.vocabulary:
                raise IndexError(f"{name} {most} is outside a vocabulary of {self.config.vocabulary}")

    @torch.no_grad()
    def evaluate(self) -> Tensor:
        """The sum of losses in nats."""
        for _, call in self._forward:
            call()
        return self._cross_entropy(0.0, 0.0)

    @torch.no_grad()
    def run(self, z_loss: float, scale: float) -> Tensor:
        """The sum of losses in nats; `scale` times the gradient of that of objectives joins the weights', but
        for what comes through the embedding.
        """
        for call, _ in self._forward:
            call()
        loss = self._cross_entropy(z_loss, scale)
        for part in reversed(self._backward):
            for call in part:
                call()
        return loss

    def _cross_entropy(self, z_loss: float, scale: float) -> Tensor:
        """The sum of losses; logits become `scale` times the gradient of the sum of objectives."""
        logits = (self._logits, self._targets, *self._logits.shape)
        self.library.call("cross_entropy", self._loss, *logits, float(z_loss), float(scale))()
        return self._loss.clone()

    def _go_on(self, call: Call, evaluating: Call | None = None) -> None:
        self._forward.append((call, evaluating or call))

    def _record(self, model: Llama) -> None:
        """The model once through, in order."""
        self._last_norm = model.norm
        first = self._norm(model.norm if not model.blocks else _blocks(model)[0].attention_norm)
        embedding = _gradient(model.embedding.weight)
        size = (self.rows, self.config.width)
        self._go_on(self.library.call("embed", first.x, model.embedding.weight, self._tokens, *size))
        self.embed_backward = self.library.call("embed_backward", embedding, self._dx, self._tokens, *size)
        self._start(first, first.x, None)
        place = first
        following = [block.attention_norm for block in _blocks(model)[1:]] + [model.norm]
        for block, after in zip(_blocks(model), following, strict=True):
            self._attention(block, place)
            place = self._next(place, block.feed_forward_norm)
            self._feed_forward(block, place)
            place = self._next(place, after)
        self._linear([model.head.weight], place.y, self._logits, self._dy, self._logits, HEAD)

    def _norm(self, module: nn.RMSNorm) -> _Norm:
        x, y = (torch.empty(self.rows, self.config.width) for _ in range(2))
        return _Norm(module, x, y, torch.empty(self.rows))

    def _next(self, before: _Norm, module: nn.RMSNorm) -> _Norm:
        """Add the change to the stream and norm it."""
        after = self._norm(module)
        self._start(after, before.x, self._change)
        return after

    def _start(self, place: _Norm, before: Tensor, change: Tensor | None) -> None:
        weight, size = place.module.weight, (self.rows, self.config.width)
        forward = (place.x, place.y, place.inverse, before, change, weight, *size, self.config.norm_epsilon)
        self._go_on(self.library.call("add_norm", *forward))
        add = int(place.module is not self._last_norm)  # with which the backward pass begins
        backward = (self._dx, self._dy, place.x, place.inverse, weight, _gradient(weight), *size, add)
        self._backward.append(self.turn.taken(self.library.call("norm_backward", *backward)))

    def _attention(self, block: Block, place: _Norm) -> None:
        attention, config, call = block.attention, self.config, self.library.call
        qkv = torch.empty(self.rows, self._qkv_columns)
        rotated = torch.empty(self.rows, self._query_key * config.head_size)
        inverse = torch.empty(self.rows, self._query_key if config.qk_norm else 0)
        mixed, log_sum = torch.empty_like(self._dmixed), torch.empty(self.rows, config.heads)
        projections = [attention.query.weight, attention.key.weight, attention.value.weight]
        self._linear(projections, place.y, qkv, self._dy, self._dqkv)
        norms = [n.weight for n in (attention.query_norm, attention.key_norm) if isinstance(n, nn.RMSNorm)]
        weights, gradients = (norms, [*map(_gradient, norms)]) if norms else ([None] * 2, [None] * 2)
        sizes = (self.length, config.heads, config.kv_heads, config.head_size)
        turned = (inverse, qkv, *self._rotation, *weights)
        attended = (mixed, log_sum, rotated, qkv, self._attention_scratch, self.batch, *sizes)
        self._go_on(call("rotary", rotated, *turned, self.rows, *sizes, config.norm_epsilon))
        self._go_on(call("attention", *attended))
        unrotated = call("rotary_backward", self._dqkv, *turned, *gradients, self.rows, *sizes)
        self._backward.append(
            [
                call("attention_backward", self._dqkv, self._dmixed, *attended),
                *(self.turn.taken(unrotated) if norms else [unrotated]),
            ]
        )
        self._linear([attention.output.weight], mixed, self._change, self._dmixed, self._dx)

    def _feed_forward(self, block: Block, place: _Norm) -> None:
        swiglu, sizes = block.feed_forward, (self.rows, self.config.hidden)
        gate_up, hidden = torch.empty(self.rows, 2 * sizes[1]), torch.empty(sizes)
        self._linear([swiglu.gate.weight, swiglu.up.weight], place.y, gate_up, self._dy, gate_up)
        self._go_on(self.library.call("gated", hidden, gate_up, *sizes))
        self._backward.append([self.library.call("gated_backward", gate_up, self._dhidden, *sizes)])
        self._linear([swiglu.down.weight], hidden, self._change, self._dhidden, self._dx)

    def _linear(
        self,
        weights: Sequence[Tensor],
        x: Tensor,
        y: Tensor,
        dx: Tensor,
        dy: Tensor,
        table: Mapping[Numbers, Products] = BLOCKS,
    ) -> None:
        """y = x weights^T, outputs side by side; weights that lie together in memory in one product."""
        start, backward = 0, list[Call]()
        multiply = partial(product, self.library, scratch=self._product_scratch)
        for weight, gradient in _joined(weights):
            columns = slice(start, start + weight.shape[0])
            out, back = y[:, columns], dy[:, columns]
            of = table[self.numbers if min(weight.shape) >= LEAST_SIDE else "f32"]
            forward, evaluated = (multiply(out, x, weight.t(), numbers=n) for n in (of.forward, of.evaluated))
            self._go_on(forward, evaluated)
            backward += self.turn.taken(multiply(gradient, back.t(), x, numbers=of.weights, add=True))
            backward.append(multiply(dx, back, weight, numbers=of.inputs, add=start > 0))
            start = columns.stop
        self._backward.append(backward)

    def _products(self) -> Iterator[Sizes]:
        """Sizes of the largest products of a step, forward and backward."""
        width, hidden, mixed = self.config.width, self.config.hidden, self._dmixed.shape[1]
        from_stream = (self._qkv_columns, 2 * hidden, self.config.vocabulary)
        for out, into in [(out, width) for out in from_stream] + [(width, mixed), (width, hidden)]:
            yield from ((self.rows, out, into), (self.rows, into, out), (out, into, self.rows))


def _blocks(model: Llama) -> list[Block]:
    return [block for block in model.blocks if isinstance(block, Block)]


def _gradient(weight: Tensor) -> Tensor:
    assert weight.grad is not None  # KernelGradients saw to it
    return weight.grad


def _joined(weights: Iterable[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Weights and gradients, neighbours in memory as one matrix: flat buffers make most of them that."""
    joined: list[tuple[Tensor, Tensor]] = []
    for weight in weights:
        pair = weight.detach(), _gradient(weight)
        if joined and all(map(_follows, joined[-1], pair)):
            before = joined.pop()
            pair = _extended(before[0], pair[0]), _extended(before[1], pair[1])
        joined.append(pair)
    return joined


def _follows(before: Tensor, after: Tensor) -> bool:
    same = before.untyped_storage().data_ptr() == after.untyped_storage().data_ptr()
    return same and after.data_ptr() == before.data_ptr() + before.nbytes and before.is_contiguous()


def _extended(before: Tensor, more: Tensor) -> Tensor:
    rows = before.shape[0] + more.shape[0]
    return before.as_strided((rows, before.shape[1]), before.stride(), before.storage_offset())
