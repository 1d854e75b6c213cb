"""Which text a run learns from: one source or a weighted mixture of them, and how it becomes tokens."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import PurePath
from typing import Literal

from llama_scale.canonical import added
from llama_scale.checked import Checked
from llama_scale.errors import InputError
from llama_scale.frozen import frozen

TokenizerName = Literal["bpe", "bytes", "start"]  # start: that of the model which a run starts from
BUILTIN = "builtin"
HUB = "hub:"
# Every block of so many training sequences holds each source exactly in its share, rounded to this grid.
MIXTURE_BLOCK = 1000
BYTES_VOCABULARY = 257  # one token a byte, and the end of a document
SMALLEST_BPE = 260
LARGEST_VOCABULARY = 2**32  # token ids are kept as uint16 or uint32


@frozen
class SourceConfig(Checked):
    """One text: "builtin", the path of a file or folder, or "hub:" and the name of a Hugging Face dataset.

    `weight` is its part of the training tokens, relative to the other sources. `field` names where JSONL
    and Parquet keep the text. `limit_bytes` stops reading after so much text. `subset`, `split` and
    `revision` are those of a dataset on the hub.
    """

    source: str
    name: str = ""
    weight: float = 1.0
    field: str = ""
    limit_bytes: int | None = None
    subset: str = ""
    split: str = "train"
    revision: str = ""

    def problems(self) -> Iterator[InputError]:
        if not (self.weight > 0 and math.isfinite(self.weight)):
            yield InputError(
                f"the weight of {self.label} is {self.weight:g}, but a source is read or left out",
                hint="give it a weight above 0, or take it out of data.sources",
            )
        if self.limit_bytes is not None and self.limit_bytes < 1:
            yield InputError(
                f"limit_bytes of {self.label} is {self.limit_bytes}, which leaves no text",
                hint='leave it out, or give a size such as "2GB"',
            )

    @property
    def label(self) -> str:
        """What the source is called where it is shown."""
        return self.name or PurePath(self.source.removeprefix(HUB)).name or self.source


@frozen
class DataConfig(Checked):
    """Which text a run learns from and how it is cut into tokens.

    `source` is a text as in SourceConfig; `sources`, where there are any, take its place as a mixture.
    `evaluation_tokens` of the validation part, the same for every run, measure the loss; `shuffle_seed`
    orders the documents.
    """

    source: str = BUILTIN
    sources: tuple[SourceConfig, ...] = added(())
    tokenizer: TokenizerName = "bpe"
    vocabulary: int = 1024
    evaluation_tokens: int = 131_072
    shuffle_seed: int = 0

    def problems(self) -> Iterator[InputError]:
        if self.sources and self.source != BUILTIN:
            yield InputError(
                "data.source and data.sources are both given",
                hint="make the one text an item of data.sources",
            )
        if self.vocabulary > LARGEST_VOCABULARY:
            yield InputError(
                f"data.vocabulary is {self.vocabulary}, but ids of 32 bits name {LARGEST_VOCABULARY}",
                hint="use a smaller vocabulary: 32,000 was LLaMA's",
            )
        repeated = [name for name, count in Counter(s.label for s in self.mixture).items() if count > 1]
        if repeated:
            yield InputError(
                f"two of data.sources are called {repeated[0]!r}", hint="give each a name of its own"
            )
        for source, count in zip(self.mixture, self.block_counts, strict=True):
            if not count:
                yield InputError(
                    f"{source.label} has less than one part in {MIXTURE_BLOCK} of the mixture",
                    hint="give it more weight, or take it out of data.sources",
                )

    @property
    def mixture(self) -> tuple[SourceConfig, ...]:
        """The sources, be they one or many."""
        return self.sources or (SourceConfig(source=self.source),)

    @property
    def block_counts(self) -> tuple[int, ...]:
        """Sequences of each source in every MIXTURE_BLOCK of them."""
        return apportion([source.weight for source in self.mixture], MIXTURE_BLOCK)


def text_problems(config: DataConfig, context: int, *, starts: bool = False) -> Iterator[InputError]:
    """What is amiss with a text before it is read, for models of this context that start afresh or not."""
    if not all(source.source.removeprefix(HUB).strip() for source in config.mixture):
        yield InputError(
            "a source of the text has no name",
            hint='name a file or a folder: data.source = "." is the folder that you are in',
        )
    for source in config.mixture:
        of_the_hub = source.subset or source.revision or source.split != "train"
        if of_the_hub and not source.source.startswith(HUB):
            yield InputError(
                f"{source.label} has a subset, split or revision, which only datasets of the hub have",
                hint=f'begin its source with "{HUB}", or leave them out',
            )
    if config.tokenizer == "start" and not starts:
        yield InputError(
            'data.tokenizer is "start", but no start_from names a model to take it from',
            hint='use "bpe" or "bytes", or `llama-scale train --start-from FOLDER`',
        )
    yield from vocabulary_problems(config.tokenizer, config.vocabulary)
    yield from evaluation_problems(config, context)


def vocabulary_problems(kind: TokenizerName, vocabulary: int) -> Iterator[InputError]:
    """A problem where the tokenizer cannot have so many tokens."""
    if kind == "bytes" and vocabulary != BYTES_VOCABULARY:
        yield InputError(
            f"data.vocabulary is {vocabulary}, but the byte tokenizer has {BYTES_VOCABULARY}",
            hint=f"set data.vocabulary = {BYTES_VOCABULARY}",
        )
    if kind == "bpe" and vocabulary < SMALLEST_BPE:
        yield InputError(
            f"data.vocabulary is {vocabulary}, but a BPE vocabulary starts from 256 bytes",
            hint=f'use {SMALLEST_BPE} or more, or data.tokenizer = "bytes" with its {BYTES_VOCABULARY}',
        )


def evaluation_problems(config: DataConfig, context: int) -> Iterator[InputError]:
    """A problem where an evaluation is shorter than one sequence."""
    if config.evaluation_tokens < context:
        yield InputError(
            f"data.evaluation_tokens is {config.evaluation_tokens}, fewer than one context of {context}",
            hint=f"set data.evaluation_tokens to {context} or more",
        )


def apportion(weights: Sequence[float], seats: int) -> tuple[int, ...]:
    """`seats` divided in proportion to `weights`, by largest remainder; the earlier wins a tie.

    >>> apportion([67, 15, 4.5, 4.5, 4.5, 2.5, 2], 1000)
    (670, 150, 45, 45, 45, 25, 20)
    """
    _, exponent = math.frexp(max(weights))
    scaled = [math.ldexp(weight, -exponent) for weight in weights]  # to the bit; their sum is a float, too
    total = math.fsum(scaled)
    exact = [weight / total * seats for weight in scaled]
    whole = [math.floor(share) for share in exact]
    by_remainder = sorted(range(len(exact)), key=lambda i: whole[i] - exact[i])
    for i in by_remainder[: seats - sum(whole)]:
        whole[i] += 1
    return tuple(whole)
