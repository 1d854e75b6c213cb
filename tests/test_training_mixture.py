"""Which sequence is seen when: a function of (seed, position), shares kept, epochs whole."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from recipes import write_text

from llama_scale.errors import InputError
from llama_scale.runs import MIXTURE_BLOCK, DataConfig, SourceConfig, apportion
from llama_scale.training.corpus import read_corpus
from llama_scale.training.data import (
    TokenFiles,
    check_length,
    evaluation_batches,
    evaluation_cautions,
    files_in_memory,
    seen,
    training_sequences,
)
from llama_scale.training.mixture import chunks_drawn, draw
from llama_scale.training.preparing import prepare
from llama_scale.training.shards import TokenShards
from llama_scale.training.tokenizer import byte_tokenizer


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> tuple[DataConfig, TokenFiles]:
    """Three sources of unlike sizes at 70, 20 and 10 %."""
    folder = tmp_path_factory.mktemp("mixed")
    modules = sorted(write_text(folder / "all").iterdir(), key=lambda path: path.stat().st_size)
    sources = []
    for weight, module in zip((7, 2, 1), modules[-3:], strict=True):
        lines = module.read_text().splitlines(keepends=True)
        pieces = ["".join(lines[i : i + 20]) for i in range(0, len(lines), 20)]
        file = folder / f"{module.stem}.jsonl"
        file.write_text("".join(json.dumps({"text": piece}) + "\n" for piece in pieces))
        sources.append(SourceConfig(source=str(file), weight=weight))
    config = DataConfig(sources=tuple(sources), vocabulary=300, evaluation_tokens=2048)
    return config, prepare(read_corpus(config, folder), config, folder)


def lone(tokens: int) -> TokenFiles:
    return files_in_memory(np.arange(tokens, dtype=np.uint16), byte_tokenizer())


def test_every_chunk_is_seen_once_an_epoch_in_an_order_of_its_own() -> None:
    files = lone(10 * 4 + 1)
    steps = [training_sequences(files, np.arange(s, s + 2), seed=3, context=4) for s in range(0, 20, 2)]
    starts = [int(row[0]) for batch in steps for row in batch]
    assert sorted(starts[:10]) == sorted(starts[10:]) == list(range(0, 40, 4))
    assert starts[:10] != starts[10:]
    for row in np.concatenate(steps):
        assert (row == np.arange(row[0], row[0] + 5)).all()


def test_a_lone_source_is_read_in_the_order_of_old() -> None:
    """What a seed meant before there were mixtures: numpy's permutation of the chunks, by (seed, epoch)."""
    orders = [np.random.default_rng([7, epoch]).permutation(50) * 4 for epoch in range(2)]
    found = training_sequences(lone(50 * 4 + 1), np.arange(100), seed=7, context=4)
    assert found[:, 0].tolist() == np.concatenate(orders).tolist()


@given(
    weights=st.lists(st.floats(0.01, 100), min_size=1, max_size=9),
    sequences=st.integers(0, 5 * MIXTURE_BLOCK),
)
def test_what_was_drawn_is_known_without_drawing(weights: list[float], sequences: int) -> None:
    counts = apportion(weights, MIXTURE_BLOCK)
    sources, earlier = draw(counts, 5, np.arange(sequences))
    assert np.bincount(sources, minlength=len(counts)).tolist() == chunks_drawn(counts, 5, sequences)
    for source in range(len(counts)):
        here = earlier[sources == source]
        assert here.tolist() == list(range(len(here)))


def test_sources_are_mixed_within_a_block_and_otherwise_in_the_next() -> None:
    counts = (670, 150, 45, 45, 45, 25, 20)
    first, second = (draw(counts, 0, np.arange(b * 1000, b * 1000 + 1000))[0] for b in range(2))
    assert first.tolist() != second.tolist()
    for half in (first[:500], first[500:]):
        assert 290 < (half == 0).sum() < 380  # 335 expected, hypergeometric sd 7.4


def test_every_source_has_its_share_and_is_gone_through_before_it_repeats(
    mixed: tuple[DataConfig, TokenFiles],
) -> None:
    config, files = mixed
    assert config.block_counts == files.counts == (700, 200, 100)
    context = 64
    rows = training_sequences(files, np.arange(20_000), seed=2, context=context)
    told = {item["name"]: item for item in seen(files, seed=2, sequences=20_000, context=context)}
    for source in files.sources:
        chunks = (len(source.train) - 1) // context
        owned = {row.tobytes() for row in source.train.gather(np.arange(chunks) * context, context + 1)}
        drawn = [row.tobytes() for row in rows if row.tobytes() in owned]
        assert len(drawn) * context == told[source.name]["tokens"] == source.count * 20 * context
        assert told[source.name]["epochs"] == len(drawn) / chunks
        assert told[source.name]["unique_tokens"] == chunks * context
        assert len(drawn) > chunks  # so that an epoch has ended
        for first in range(0, len(drawn) - chunks, chunks):
            assert set(drawn[first : first + chunks]) == owned
    assert sum(item["tokens"] for item in told.values()) == 20_000 * context


def test_a_mixture_is_a_function_of_seed_and_position_however_it_is_cut(
    mixed: tuple[DataConfig, TokenFiles],
) -> None:
    _, files = mixed
    whole = training_sequences(files, np.arange(2100), seed=1, context=32)
    for sequences in (7, 300):
        steps = [
            training_sequences(files, np.arange(first, first + sequences), seed=1, context=32)
            for first in reversed(range(0, 2100, sequences))
        ]
        assert (np.concatenate(steps[::-1]) == whole).all()
    scattered = np.random.default_rng(0).permutation(2100)
    assert (training_sequences(files, scattered, seed=1, context=32) == whole[scattered]).all()
    assert not (training_sequences(files, np.arange(2100), seed=2, context=32) == whole).all()


def test_evaluation_is_the_same_text_whatever_the_batch() -> None:
    def targets(sequences: int) -> list[int]:
        batches = evaluation_batches(lone(5000), tokens=1000, sequences=sequences, context=16)
        return [int(i) for batch in batches for i in batch[:, 1:].ravel()]

    assert targets(1) == targets(7) == list(range(1, 1000 // 16 * 16 + 1))


def test_evaluation_holds_every_source_in_its_share(mixed: tuple[DataConfig, TokenFiles]) -> None:
    _, files = mixed
    # As few as are held out of any Python's modules, other documents of each.
    rows = np.concatenate(list(evaluation_batches(files, tokens=800, sequences=3, context=16)))
    assert len(rows) == 50
    for source, first, count in zip(files.sources, (0, 35, 45), (35, 10, 5), strict=True):
        assert (rows[first : first + count] == source.validation.gather(np.arange(count) * 16, 17)).all()


def test_an_evaluation_longer_than_the_text_keeps_its_shares(mixed: tuple[DataConfig, TokenFiles]) -> None:
    _, files = mixed
    rows = np.concatenate(list(evaluation_batches(files, tokens=10**9, sequences=64, context=16)))
    available = [(len(source.validation) - 1) // 16 for source in files.sources]
    limit = min(have / count for have, count in zip(available, files.counts, strict=True)) * MIXTURE_BLOCK
    assert limit - 2 <= len(rows) <= limit + 1
    (caution,) = evaluation_cautions(files, 10**9, 16)
    assert f"measured on {len(rows) * 16:,} held-out tokens, not on the 1,000,000,000" in caution
    assert not list(evaluation_cautions(files, 800, 16))


def test_an_evaluation_too_small_for_its_mixture_is_refused(mixed: tuple[DataConfig, TokenFiles]) -> None:
    config, files = mixed
    check_length(files, config, 16, 8)
    with pytest.raises(InputError, match="without a single sequence"):
        check_length(files, replace(config, evaluation_tokens=32), 16, 8)


@pytest.mark.parametrize("cuts", [[], [40], [1, 2, 3, 50, 51], list(range(5, 100, 5))])
def test_shards_read_as_one_text(cuts: list[int]) -> None:
    whole = np.arange(101, dtype=np.uint16)
    shards = TokenShards(arrays=tuple(np.split(whole, cuts)))
    assert len(shards) == 101
    starts = np.random.default_rng(0).permutation(101 - 16)
    assert (shards.gather(starts, 17) == whole[starts[:, None] + np.arange(17)]).all()


def test_shares_are_whole_and_sources_have_names() -> None:
    assert apportion([67, 15, 4.5, 4.5, 4.5, 2.5, 2], 1000) == (670, 150, 45, 45, 45, 25, 20)
    assert apportion([1, 1, 1], 1000) == (334, 333, 333)
    assert apportion([1e308, 1e308], 1000) == apportion([5e-324, 5e-324], 1000) == (500, 500)
    assert SourceConfig(source="hub:allenai/c4").label == "c4"
    assert SourceConfig(source="texts/books/").label == "books"
    assert SourceConfig(source="texts", name="web").label == "web"
