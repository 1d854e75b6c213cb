"""Tokens: round trips, the same ids from both encoders, files that are what their manifest says."""

from __future__ import annotations

import json
import os
import random
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recipes import write_text

from llama_scale.errors import InputError, StoreError
from llama_scale.runs import DataConfig
from llama_scale.training import tokenizer as tokenizing
from llama_scale.training.corpus import Corpus, read_corpus
from llama_scale.training.data import TokenFiles, check_length, find_prepared, open_tokens, verify_tokens
from llama_scale.training.preparing import find_text, prepare, verify_source
from llama_scale.training.shards import TokenShards
from llama_scale.training.tokenizer import (
    Tokenizer,
    byte_tokenizer,
    tokenizer_from_json,
    train_bpe,
    train_merges,
)

CONFIG = DataConfig(vocabulary=300)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    return replace(CONFIG, source=str(write_text(tmp_path_factory.mktemp("text"))))


@pytest.fixture(scope="module")
def corpus(config: DataConfig, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return read_corpus(config, tmp_path_factory.mktemp("unused"))


@pytest.fixture(scope="module")
def files(corpus: Corpus, config: DataConfig, tmp_path_factory: pytest.TempPathFactory) -> TokenFiles:
    return prepare(corpus, config, tmp_path_factory.mktemp("store"))


def texts_of(corpus: Corpus, part: str) -> list[str]:
    (text,) = corpus.texts
    places = {"train": text.train, "validation": text.validation}[part]
    found = {place: document.text for place, document in text.documents(places)}
    return [found[place] for place in places.tolist()]


@given(text=st.text())
@settings(max_examples=200)
def test_any_text_survives_both_tokenizers(files: TokenFiles, text: str) -> None:
    trained = files.tokenizer
    assert isinstance(trained, Tokenizer)
    for tokenizer in (trained, byte_tokenizer()):
        (ids,) = tokenizer.encode([text])
        assert ids[-1] == tokenizer.end_of_document
        assert tokenizer.decode(int(i) for i in ids) == text
        assert tokenizer.token_bytes[ids].sum() == len(text.encode())


@pytest.mark.parametrize("run", [" ", "\n", "a", "="])
def test_long_runs_of_one_character_are_encoded(files: TokenFiles, run: str) -> None:
    text = f"x{run * 1_500_000}y"
    assert isinstance(files.tokenizer, Tokenizer)
    (ids,) = files.tokenizer.encode([text])
    assert files.tokenizer.decode(ids.tolist()) == text


def test_a_run_is_cut_where_the_matcher_gives_up_and_nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cuts of a pattern of that length, which takes the square of a shorter run's length."""
    monkeypatch.setattr(tokenizing, "LONGEST_RUN", 5)
    rng = random.Random(0)
    for _ in range(500):
        text = "".join(rng.choices(["a", " ", "   ", "\n"], k=rng.randrange(30)))
        expected = [part for part in re.split(r"(\s{5})", text) if part] if len(text) > 5 else [text]
        assert tokenizing._stretches(text) == expected
    monkeypatch.undo()
    assert len(tokenizing._stretches(f"{'x' * 900_000}{' ' * 899_999}x")) == 1  # within the suite's patience


def test_the_tokenizer_is_of_the_training_part_and_encodes_as_the_one_that_trained(
    files: TokenFiles, corpus: Corpus
) -> None:
    reference = train_merges(texts_of(corpus, "train"), CONFIG.vocabulary)
    assert files.tokenizer == train_bpe(texts_of(corpus, "train"), CONFIG.vocabulary)
    for text in texts_of(corpus, "validation"):
        (ids,) = files.tokenizer.encode([text])
        assert ids[:-1].tolist() == reference.encode(text).ids


def test_the_files_hold_the_documents_in_their_order(files: TokenFiles, corpus: Corpus) -> None:
    (source,) = files.sources
    for part, shards in (("train", source.train), ("validation", source.validation)):
        expected = np.concatenate(list(files.tokenizer.encode(texts_of(corpus, part))))
        assert shards.gather(np.array([0]), len(shards))[0].tolist() == expected.tolist()
        stated = files.manifest["sources"][0][part]
        assert stated["tokens"] == len(expected)
        assert stated["bytes"] == sum(len(text.encode()) for text in texts_of(corpus, part))


def test_a_tokenizer_survives_its_file(files: TokenFiles) -> None:
    assert tokenizer_from_json(files.tokenizer.to_json()) == files.tokenizer


@pytest.mark.parametrize(
    ("vocabulary", "message"), [(100, "starts from 256 bytes"), (2_000_000, "gives only")]
)
def test_a_vocabulary_that_cannot_be_is_refused(corpus: Corpus, vocabulary: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        train_bpe(texts_of(corpus, "train")[:1], vocabulary)


def test_ids_that_need_more_than_two_bytes_get_four() -> None:
    tokens = (*byte_tokenizer().tokens, *(b"\xff\xff" + n.to_bytes(3, "big") for n in range(70_000)))
    (ids,) = Tokenizer(kind="bpe", tokens=tokens).encode(["text"])
    assert ids.dtype == np.uint32
    assert ids[-1] == len(tokens)


def test_preparing_twice_writes_once(corpus: Corpus, config: DataConfig, tmp_path: Path) -> None:
    first = prepare(corpus, config, tmp_path)
    written = (first.folder / "manifest.json").stat().st_mtime_ns
    second = prepare(corpus, config, tmp_path)
    assert (second.folder / "manifest.json").stat().st_mtime_ns == written
    assert first.manifest == second.manifest
    assert [path.name for path in (tmp_path / "data").iterdir()] == [first.folder.name]
    names = {"manifest.json", "tokenizer.json", "train-00-00000.bin", "validation-00-00000.bin"}
    assert {path.name for path in first.folder.iterdir()} == names


def test_threads_do_not_change_the_tokens(corpus: Corpus, config: DataConfig, tmp_path: Path) -> None:
    one = prepare(corpus, config, tmp_path / "one", threads=1)
    two = prepare(corpus, config, tmp_path / "two", threads=2)
    assert one.manifest == two.manifest


def test_a_text_that_looks_the_same_is_not_read_again(tmp_path: Path) -> None:
    folder = write_text(tmp_path / "text")
    config = replace(CONFIG, source=str(folder))
    assert find_prepared(config, tmp_path) is None
    made = prepare(read_corpus(config, tmp_path), config, tmp_path)
    found = find_text(replace(config, evaluation_tokens=512), tmp_path)
    assert isinstance(found, TokenFiles)
    assert found.folder == made.folder
    for other in (replace(config, vocabulary=301), replace(config, shuffle_seed=1)):
        assert find_prepared(other, tmp_path) is None
    before = (folder / "ast.py").stat()
    os.utime(folder / "ast.py", ns=(1, 1))
    assert find_prepared(config, tmp_path) is None
    again = find_text(config, tmp_path)
    assert isinstance(again, Corpus)
    prepare(again, config, tmp_path)
    known = find_prepared(config, tmp_path)  # once read it is known by its new looks
    assert known is not None
    assert known.corpus == made.corpus
    os.utime(folder / "ast.py", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert find_prepared(config, tmp_path) is not None  # and by those that it had, as two may share a store


def test_a_torn_file_is_refused_and_a_changed_one_found(
    corpus: Corpus, config: DataConfig, tmp_path: Path
) -> None:
    folder = prepare(corpus, config, tmp_path).folder
    shard = folder / "train-00-00000.bin"
    data = shard.read_bytes()
    shard.write_bytes(data[:-2])
    with pytest.raises(StoreError, match="bytes, not the"):
        open_tokens(folder)
    shard.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    with pytest.raises(StoreError, match=r"train-00-00000\.bin .* has changed"):
        verify_tokens(open_tokens(folder))
    shard.write_bytes(data)
    assert verify_tokens(open_tokens(folder)) == 3
    (folder / "tokenizer.json").write_text((folder / "tokenizer.json").read_text() + " ")
    with pytest.raises(StoreError, match=r"tokenizer\.json has changed"):
        open_tokens(folder)


@pytest.mark.parametrize("manifest", ["", "[]", "{}", '{"schema": 2}', '{"schema": 3, "sources": [{}]}'])
def test_a_manifest_that_is_torn_or_not_ours_is_refused(tmp_path: Path, manifest: str) -> None:
    (tmp_path / "manifest.json").write_text(manifest)
    (tmp_path / "tokenizer.json").write_text(byte_tokenizer().to_json())
    with pytest.raises(StoreError, match="cannot be used"):
        open_tokens(tmp_path)


def test_a_manifest_that_was_changed_is_refused(files: TokenFiles, tmp_path: Path) -> None:
    for name in ("tokenizer.json", "train-00-00000.bin", "validation-00-00000.bin"):
        (tmp_path / name).write_bytes((files.folder / name).read_bytes())
    (tmp_path / "manifest.json").write_text(json.dumps(files.manifest))
    assert open_tokens(tmp_path).corpus == files.corpus
    (source,) = files.manifest["sources"]
    swapped = {**source, "train": source["validation"], "validation": source["train"]}
    for changes in (
        {"sources": [swapped]},  # whose every hash is right, and learns from what is held out
        {"sources": [{**source, "count": 10}]},
        {"sources": []},
        {"dtype": "int16"},
        {"fingerprints": 3},
        {"manifest_sha256": None},
    ):
        (tmp_path / "manifest.json").write_text(json.dumps({**files.manifest, **changes}))
        with pytest.raises(StoreError, match=r"cannot be used: manifest\.json has changed"):
            open_tokens(tmp_path)


def test_a_source_is_read_again_to_verify_it(tmp_path: Path) -> None:
    folder = write_text(tmp_path / "text")
    config = replace(CONFIG, source=str(folder))
    made = prepare(read_corpus(config, tmp_path), config, tmp_path)
    assert verify_source(made, tmp_path) == "unchanged"
    stamp = (folder / "ast.py").stat().st_mtime_ns
    text = (folder / "ast.py").read_text()
    (folder / "ast.py").write_text(text.replace("e", "a", 1))
    os.utime(folder / "ast.py", ns=(stamp, stamp))  # so that only reading tells
    with pytest.raises(StoreError, match="is no longer the text"):
        verify_source(made, tmp_path)
    folder.rename(tmp_path / "elsewhere")
    assert verify_source(made, tmp_path) == "gone"


def test_text_too_short_for_a_batch_is_refused_before_training(files: TokenFiles) -> None:
    def shortened(part: str, tokens: int) -> TokenFiles:
        (source,) = files.sources
        shards = TokenShards(arrays=(np.zeros(tokens, dtype=np.uint16),))
        return replace(files, sources=(replace(source, **{part: shards}),))

    check_length(files, CONFIG, 16, 8)
    check_length(shortened("train", 8 * 16 + 1), CONFIG, 16, 8)
    with pytest.raises(InputError, match=r"training part of .* holds 128 tokens, too few for 8 of the 16-"):
        check_length(shortened("train", 8 * 16), CONFIG, 16, 8)
    with pytest.raises(InputError, match=r"the validation part of .* holds 16 tokens"):
        check_length(shortened("validation", 16), CONFIG, 16, 8)
    with pytest.raises(InputError, match="evaluation_tokens is 8, fewer"):
        check_length(files, replace(CONFIG, evaluation_tokens=8), 16, 8)
