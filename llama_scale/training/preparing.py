"""From texts to token files: a tokenizer is trained, each document encoded once, all published at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from llama_scale.checked import raise_all
from llama_scale.config import structure
from llama_scale.errors import StoreError
from llama_scale.files import publish_folder, write_atomically
from llama_scale.runs import DataConfig, apportion, vocabulary_problems
from llama_scale.training.corpus import Corpus, Places, Text, absent_sources, check_sources, read_corpus
from llama_scale.training.data import (
    MANIFEST,
    PARTS,
    SCHEMA,
    TOKENIZER,
    TokenFiles,
    data_folder,
    find_prepared,
    open_tokens,
    remember_marks,
    what_is_read,
    write_manifest,
)
from llama_scale.training.documents import Document
from llama_scale.training.shards import Tokens, token_type, write_shards
from llama_scale.training.tokenizer import AnyTokenizer, byte_tokenizer, sha256_of, train_bpe

SCRATCH = "reading-order.tmp"
TOKENIZER_CHARACTERS = 10_000_000  # to train on: merges of a vocabulary up to 8k settle well before this
CHARACTERS_TOGETHER = 4_000_000  # handed to the encoder at once


def find_text(config: DataConfig, store: Path, tokenizer: AnyTokenizer | None = None) -> Corpus | TokenFiles:
    """The tokens of `config` where `store` holds them, or else its corpus, read through.

    They are cut by `tokenizer` where `config` says that one is given.
    """
    return find_prepared(config, store, tokenizer) or read_corpus(config, store, tokenizer)


def check_text(config: DataConfig, store: Path) -> None:
    """Raises InputError that tells at once what is amiss with the sources of `config` at first sight.

    Texts whose tokens `store` holds are not opened: what reads them need not be installed here.
    """
    if find_prepared(config, store) is None:
        check_sources(config, store)


def verify_source(files: TokenFiles, store: Path) -> str:
    """Read the text of prepared tokens again: "unchanged", or "gone" where some of it is not there.

    Raises StoreError where it is another text by now.
    """
    config = structure(files.manifest["reads"], DataConfig, source=str(files.folder / MANIFEST))
    if absent_sources(config, store):
        return "gone"
    found = read_corpus(config, store)
    for text, stated in zip(found.texts, files.manifest["sources"], strict=True):
        if text.sha256 != stated["sha256"]:
            raise StoreError(
                f"{stated['source']} is no longer the text that {files.folder.name} was made from",
                hint="runs on those tokens can go on (`--tokens-only` checks them); a sweep would begin anew",
            )
    return "unchanged"


def prepare(corpus: Corpus | TokenFiles, config: DataConfig, store: Path, *, threads: int = 1) -> TokenFiles:
    """Tokenise `corpus` into `store` unless that was done before. Nothing half written is ever opened.

    Raises InputError for a vocabulary that the tokenizer cannot have and for text that changes meanwhile.
    """
    if isinstance(corpus, TokenFiles):
        return corpus
    folder = data_folder(store, config, corpus.corpus)
    if folder.exists():  # one without a manifest is for `open_tokens` to refuse
        remember_marks(folder, config, _marks(corpus))
    else:
        with publish_folder(folder) as new:
            _write(corpus, config, new, threads)
    return open_tokens(folder)


def _write(corpus: Corpus, config: DataConfig, folder: Path, threads: int) -> None:
    tokenizer = _tokenizer(corpus, config)
    write_atomically(folder / TOKENIZER, tokenizer.to_json())
    manifest = {
        "schema": SCHEMA,
        "reads": what_is_read(config),
        "fingerprints": _marks(corpus),
        "corpus": {"sha256": corpus.corpus},
        "tokenizer": {
            "kind": tokenizer.kind,
            "vocabulary": tokenizer.vocabulary,
            "sha256": sha256_of(tokenizer),
        },
        "dtype": token_type(tokenizer.vocabulary),
        "sources": [
            _source(number, source, count, tokenizer, folder, threads)
            for number, (source, count) in enumerate(zip(corpus.texts, config.block_counts, strict=True))
        ],
    }
    write_manifest(folder, manifest)


def _marks(corpus: Corpus) -> list[str]:
    return [text.catalogue.fingerprint for text in corpus.texts]


def _tokenizer(corpus: Corpus, config: DataConfig) -> AnyTokenizer:
    """A given one, that of bytes, or one trained on the start of the training part, sources by share."""
    if corpus.tokenizer is not None:
        return corpus.tokenizer
    if config.tokenizer == "bpe":
        shares = apportion(config.block_counts, TOKENIZER_CHARACTERS)
        samples = (_sample(text, share) for text, share in zip(corpus.texts, shares, strict=True))
        return train_bpe((text for sample in samples for text in sample), config.vocabulary)
    raise_all(vocabulary_problems(config.tokenizer, config.vocabulary))
    return byte_tokenizer()


def _sample(text: Text, characters: int) -> list[str]:
    """The first training documents that hold so many characters."""
    reached = np.cumsum(text.catalogue.characters[text.train])
    chosen = text.train[: int(np.searchsorted(reached, characters)) + 1]
    found = {place: document.text for place, document in text.documents(chosen)}
    return [found[place] for place in chosen.tolist()]


def _source(
    number: int, text: Text, count: int, tokenizer: AnyTokenizer, folder: Path, threads: int
) -> dict[str, Any]:
    """Write the tokens of one source and state them.

    They are encoded in the order of reading, which a text larger than memory allows, and put into
    their own order through a map of that file.
    """
    config, dtype, scratch = text.catalogue.config, token_type(tokenizer.vocabulary), folder / SCRATCH
    wanted = np.sort(np.concatenate([text.train, text.validation]))
    lengths = np.zeros(len(text.catalogue.digests), dtype=np.int64)
    with scratch.open("wb") as file:
        for place, ids in _encoded(text, wanted, tokenizer, threads):
            file.write(ids.tobytes())
            lengths[place] = len(ids)
    encoded = np.asarray(np.memmap(scratch, dtype=dtype, mode="r"))
    ends = np.cumsum(lengths)
    stated = {
        "name": config.label,
        "count": count,
        "source": config.source,
        "versions": text.catalogue.versions,
        "sha256": text.sha256,
    }
    for part, places in zip(PARTS, (text.train, text.validation), strict=True):
        ordered = (encoded[ends[place] - lengths[place] : ends[place]] for place in places.tolist())
        stated[part] = {
            "documents": len(places),
            "bytes": int(text.catalogue.sizes[places].sum()),
            "tokens": int(lengths[places].sum()),
            "shards": write_shards(folder, f"{part}-{number:02d}", ordered),
        }
    scratch.unlink()
    return stated


def _encoded(
    text: Text, places: Places, tokenizer: AnyTokenizer, threads: int
) -> Iterator[tuple[int, Tokens]]:
    """The place and the ids of each document, in the order of reading."""
    for batch in _batches(text.documents(places)):
        ids = tokenizer.encode([document.text for _, document in batch], threads=threads)
        yield from zip((place for place, _ in batch), ids, strict=True)


def _batches(documents: Iterable[tuple[int, Document]]) -> Iterator[list[tuple[int, Document]]]:
    """Documents by the handful, of about CHARACTERS_TOGETHER."""
    batch, size = [], 0
    for place, document in documents:
        batch.append((place, document))
        size += len(document.text)
        if size >= CHARACTERS_TOGETHER:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
