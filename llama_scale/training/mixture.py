"""Which source and which chunk of it every training sequence takes: a function of (seed, position) alone.

Sequences come in blocks of MIXTURE_BLOCK, each with every source in its exact share and in an order of
its own. So the n-th sequence of a source is known without counting through those before it, and a run
may start, stop or be split over processes anywhere.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llama_scale.runs import MIXTURE_BLOCK

Integers = NDArray[np.int64]
ORDERS_KEPT = 16  # of epochs: seven sources, each on the way from one to the next


def draw(counts: tuple[int, ...], seed: int, positions: Integers) -> tuple[Integers, Integers]:
    """For each position the source that it takes and how many of that source came before, [positions].

    `counts` are the sequences of each source in a block.
    """
    if len(counts) == 1:  # the same, in a third of the time
        return np.zeros_like(positions), positions
    sources, earlier = np.empty_like(positions), np.empty_like(positions)
    blocks, places = np.divmod(positions, MIXTURE_BLOCK)
    for block in set(blocks.tolist()):
        here = blocks == block
        order, ranks = _block_order(counts, seed, block)
        sources[here] = order[places[here]]
        earlier[here] = ranks[places[here]] + block * np.array(counts)[sources[here]]
    return sources, earlier


def chunks_drawn(counts: tuple[int, ...], seed: int, sequences: int) -> list[int]:
    """How many of the first `sequences` each source gave."""
    blocks, rest = divmod(sequences, MIXTURE_BLOCK)
    order, _ = _block_order(counts, seed, blocks)
    last = np.bincount(order[:rest], minlength=len(counts))
    return [blocks * count + int(part) for count, part in zip(counts, last, strict=True)]


def chunk_starts(seed: int, source: int, earlier: Integers, chunks: int) -> Integers:
    """Which of a source's `chunks` the sequences take that have so many of it before them, [earlier].

    Each epoch visits them all, in an order of its own.
    """
    epochs, places = np.divmod(earlier, chunks)
    found = np.empty_like(earlier)
    for epoch in set(epochs.tolist()):
        here = epochs == epoch
        found[here] = _epoch_order(seed, epoch, source, chunks)[places[here]]
    return found


@lru_cache(maxsize=4)
def _block_order(counts: tuple[int, ...], seed: int, block: int) -> tuple[Integers, Integers]:
    """The source of each place of a block, and how many of that source are before it in the block."""
    order = np.repeat(np.arange(len(counts)), counts)
    if len(counts) > 1:
        np.random.default_rng([seed, block, len(counts), MIXTURE_BLOCK]).shuffle(order)
    ranks = np.empty_like(order)
    for source in range(len(counts)):
        here = order == source
        ranks[here] = np.arange(int(here.sum()))
    return order, ranks


@lru_cache(maxsize=ORDERS_KEPT)
def _epoch_order(seed: int, epoch: int, source: int, chunks: int) -> NDArray[np.integer[Any]]:
    order = np.arange(chunks, dtype=np.uint32 if chunks <= 2**32 else np.int64)
    np.random.default_rng([seed, epoch, source]).shuffle(order)
    return order
