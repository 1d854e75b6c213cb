"""Tokens: round trips, the same ids from both encoders, data order as a function of (seed, step)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recipes import write_text

from llama_scale.errors import InputError, StoreError
from llama_scale.runs import DataConfig
from llama_scale.training.corpus import Corpus, read_corpus
from llama_scale.training.data import (
    TokenFiles,
    check_length,
    evaluation_batches,
    open_tokens,
    prepare,
    training_batch,
    verify_tokens,
)
from llama_scale.training.tokenizer import Tokenizer, byte_tokenizer, train_bpe, train_merges

CONFIG = DataConfig(vocabulary=300)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return read_corpus(str(write_text(tmp_path_factory.mktemp("text"))))


@pytest.fixture(scope="module")
def files(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> TokenFiles:
    return prepare(corpus, CONFIG, tmp_path_factory.mktemp("store"))


@given(text=st.text())
@settings(max_examples=200)
def test_any_text_survives_both_tokenizers(files: TokenFiles, text: str) -> None:
    for tokenizer in (files.tokenizer, byte_tokenizer()):
        (ids,) = tokenizer.encode([text])
        assert ids[-1] == tokenizer.end_of_document
        assert tokenizer.decode(int(i) for i in ids) == text
        assert tokenizer.token_bytes[ids].sum() == len(text.encode())


def test_the_fast_encoder_gives_the_ids_of_the_one_that_trained(files: TokenFiles, corpus: Corpus) -> None:
    reference = train_merges((document.text for document in corpus.train), CONFIG.vocabulary)
    text = corpus.validation[0].text
    (ids,) = files.tokenizer.encode([text])
    assert ids[:-1].tolist() == reference.encode(text).ids


def test_a_tokenizer_survives_its_file(files: TokenFiles) -> None:
    assert Tokenizer.from_json(files.tokenizer.to_json()) == files.tokenizer


@pytest.mark.parametrize(
    ("vocabulary", "message"), [(100, "starts from 256 bytes"), (2_000_000, "gives only")]
)
def test_a_vocabulary_that_cannot_be_is_refused(corpus: Corpus, vocabulary: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        train_bpe([corpus.train[0].text], vocabulary)


def test_preparing_twice_writes_once(corpus: Corpus, tmp_path: Path) -> None:
    first = prepare(corpus, CONFIG, tmp_path)
    written = (first.folder / "train.bin").stat().st_mtime_ns
    second = prepare(corpus, CONFIG, tmp_path)
    assert (second.folder / "train.bin").stat().st_mtime_ns == written
    assert first.manifest == second.manifest
    assert not [p for p in (tmp_path / "data").iterdir() if p.name.endswith(".tmp")]


def test_threads_do_not_change_the_tokens(corpus: Corpus, tmp_path: Path) -> None:
    one = prepare(corpus, CONFIG, tmp_path / "one", threads=1)
    two = prepare(corpus, CONFIG, tmp_path / "two", threads=2)
    assert one.manifest == two.manifest


def test_a_torn_file_is_refused_and_a_changed_one_found(corpus: Corpus, tmp_path: Path) -> None:
    folder = prepare(corpus, CONFIG, tmp_path).folder
    data = (folder / "train.bin").read_bytes()
    (folder / "train.bin").write_bytes(data[:-2])
    with pytest.raises(StoreError, match="holds"):
        open_tokens(folder)
    (folder / "train.bin").write_bytes(bytes([data[0] ^ 1]) + data[1:])
    with pytest.raises(StoreError, match=r"train\.bin .* has changed"):
        verify_tokens(open_tokens(folder))
    (folder / "train.bin").write_bytes(data)
    verify_tokens(open_tokens(folder))
    (folder / "tokenizer.json").write_text((folder / "tokenizer.json").read_text() + " ")
    with pytest.raises(StoreError, match=r"tokenizer\.json .* has changed"):
        verify_tokens(open_tokens(folder))


def test_text_too_short_for_a_context_is_refused_before_training(files: TokenFiles) -> None:
    check_length(files, CONFIG, 16)
    with pytest.raises(InputError, match="evaluation_tokens is 8, fewer"):
        check_length(files, replace(CONFIG, evaluation_tokens=8), 16)
    with pytest.raises(InputError, match="the training part holds 16 tokens"):
        check_length(replace(files, train=files.train[:16]), CONFIG, 16)
    with pytest.raises(InputError, match="the validation part holds 16 tokens"):
        check_length(replace(files, validation=files.validation[:16]), CONFIG, 16)


def test_every_chunk_is_seen_once_an_epoch_in_an_order_of_its_own() -> None:
    tokens = np.arange(10 * 4 + 1, dtype=np.uint16)
    steps = [training_batch(tokens, seed=3, step=s, sequences=2, context=4) for s in range(10)]
    starts = [int(row[0]) for batch in steps for row in batch]
    assert sorted(starts[:10]) == sorted(starts[10:]) == list(range(0, 40, 4))
    assert starts[:10] != starts[10:]
    for row in np.concatenate(steps):
        assert (row == np.arange(row[0], row[0] + 5)).all()


def test_a_batch_is_a_function_of_seed_and_step(files: TokenFiles) -> None:
    def batch(seed: int, step: int) -> list[list[int]]:
        return training_batch(files.train, seed=seed, step=step, sequences=3, context=16).tolist()

    late = batch(1, 5000)
    assert batch(0, 5000) != late != batch(1, 5001)
    assert batch(1, 5000) == late


def test_evaluation_is_the_same_text_whatever_the_batch(files: TokenFiles) -> None:
    def targets(sequences: int) -> list[int]:
        batches = evaluation_batches(files, tokens=1000, sequences=sequences, context=16)
        return [int(i) for batch in batches for i in batch[:, 1:].ravel()]

    count = min(1000, len(files.validation) - 1) // 16 * 16
    assert targets(1) == targets(7) == files.validation[1 : count + 1].tolist()
