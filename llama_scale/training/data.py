"""Token ids on disk, and which of them each step sees: a function of (seed, step) alone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llama_scale.errors import InputError, StoreError
from llama_scale.files import publish_folder, write_atomically
from llama_scale.runs import DataConfig
from llama_scale.training.corpus import Corpus, Document
from llama_scale.training.tokenizer import Tokenizer, byte_tokenizer, train_bpe

MANIFEST = "manifest.json"
Tokens = NDArray[np.uint16] | NDArray[np.uint32]


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenFiles:
    """A tokenised corpus, memory-mapped: what every run of a sweep reads."""

    folder: Path
    manifest: dict[str, Any]
    tokenizer: Tokenizer
    train: Tokens
    validation: Tokens

    @property
    def corpus(self) -> str:
        return self.manifest["corpus"]["sha256"]

    @property
    def tokenizer_sha256(self) -> str:
        return self.manifest["tokenizer"]["sha256"]


def data_folder(store: Path, config: DataConfig, corpus_sha256: str) -> Path:
    """Where the tokens of (corpus, tokenizer) live in a store."""
    return store / "data" / f"{corpus_sha256[:12]}-{config.tokenizer}{config.vocabulary}"


def prepared_folders(store: Path) -> list[Path]:
    """Every tokenised corpus of a store."""
    return [manifest.parent for manifest in sorted(store.glob(f"data/*/{MANIFEST}"))]


def prepare(corpus: Corpus, config: DataConfig, store: Path, *, threads: int = 1) -> TokenFiles:
    """Tokenise `corpus` into `store` unless that was done before. Nothing half written is ever opened.

    Raises InputError for a vocabulary that the tokenizer cannot have and for too little text.
    """
    folder = data_folder(store, config, corpus.sha256)
    if not (folder / MANIFEST).exists():
        with publish_folder(folder) as new:
            _write(corpus, config, new, threads)
    return open_tokens(folder)


def open_tokens(folder: Path) -> TokenFiles:
    """Map a prepared folder; raises StoreError where it is missing, torn or of another size than it says."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        tokenizer = Tokenizer.from_json((folder / "tokenizer.json").read_text())
        parts = {}
        for part in ("train", "validation"):
            stated = manifest[part]
            parts[part] = np.memmap(folder / f"{part}.bin", dtype=stated["dtype"], mode="r")
            if len(parts[part]) != stated["tokens"]:
                raise ValueError(f"{part}.bin holds {len(parts[part])} tokens, not {stated['tokens']}")
        return TokenFiles(folder=folder, manifest=manifest, tokenizer=tokenizer, **parts)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(
            f"the prepared data in {str(folder)!r} cannot be used: {error}",
            hint="delete that folder and run `llama-scale data prepare` or the sweep again",
        ) from None


def verify_tokens(files: TokenFiles) -> None:
    """Check every file against the manifest's sha256; raises StoreError with the first that differs."""
    names = {"train": "train.bin", "validation": "validation.bin", "tokenizer": "tokenizer.json"}
    for part, name in names.items():
        if _sha256(files.folder / name) != files.manifest[part]["sha256"]:
            raise StoreError(
                f"{name} in {str(files.folder)!r} has changed since it was prepared",
                hint="delete that folder and run the sweep again: it is made anew from the source",
            )


def check_length(files: TokenFiles, config: DataConfig, context: int) -> None:
    """Raises InputError if a part of the text, or the share that evaluation takes, is under one context."""
    if config.evaluation_tokens < context:
        raise InputError(
            f"data.evaluation_tokens is {config.evaluation_tokens}, fewer than one context of {context}",
            hint=f"set data.evaluation_tokens to {context} or more",
        )
    for part, tokens in (("training", files.train), ("validation", files.validation)):
        if len(tokens) <= context:
            raise InputError(
                f"the {part} part holds {len(tokens)} tokens, too few for one context of {context}",
                hint="give more text as data.source, or a shorter shape.context",
            )


def _write(corpus: Corpus, config: DataConfig, folder: Path, threads: int) -> None:
    tokenizer = (
        byte_tokenizer()
        if config.tokenizer == "bytes"
        else train_bpe((document.text for document in corpus.train), config.vocabulary)
    )
    if tokenizer.vocabulary != config.vocabulary:
        raise InputError(
            f"data.vocabulary is {config.vocabulary}, but the byte tokenizer has {tokenizer.vocabulary}",
            hint=f"set data.vocabulary = {tokenizer.vocabulary}",
        )
    text = tokenizer.to_json()
    write_atomically(folder / "tokenizer.json", text)
    manifest = {
        "schema": 1,
        "corpus": {"source": corpus.source, "versions": corpus.versions, "sha256": corpus.sha256},
        "tokenizer": {
            "kind": config.tokenizer,
            "vocabulary": config.vocabulary,
            "sha256": hashlib.sha256(text.encode()).hexdigest(),
        },
        "train": _write_part(folder / "train.bin", corpus.train, tokenizer, threads),
        "validation": _write_part(folder / "validation.bin", corpus.validation, tokenizer, threads),
    }
    write_atomically(folder / MANIFEST, json.dumps(manifest, indent=1))


def _write_part(
    path: Path, documents: tuple[Document, ...], tokenizer: Tokenizer, threads: int
) -> dict[str, Any]:
    tokens = 0
    dtype = "uint16" if tokenizer.vocabulary <= 2**16 else "uint32"
    with path.open("wb") as file:
        for batch in _batches(documents, 256):
            for ids in tokenizer.encode([document.text for document in batch], threads=threads):
                file.write(ids.tobytes())
                tokens += len(ids)
    return {
        "documents": len(documents),
        "bytes": sum(len(document.text.encode()) for document in documents),
        "tokens": tokens,
        "dtype": dtype,
        "sha256": _sha256(path),
    }


def _batches(documents: tuple[Document, ...], size: int) -> Iterable[tuple[Document, ...]]:
    return (documents[i : i + size] for i in range(0, len(documents), size))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def training_batch(
    tokens: Tokens, *, seed: int, step: int, sequences: int, context: int
) -> NDArray[np.int64]:
    """Ids of one step, [sequences, context + 1]: inputs and, one place on, their targets.

    The text is cut into chunks of `context`; each epoch visits them all in an order of its own.
    """
    chunks = (len(tokens) - 1) // context
    positions = np.arange(step * sequences, (step + 1) * sequences)
    starts = [
        _epoch_order(seed, epoch, chunks)[place] * context
        for epoch, place in zip(*divmod(positions, chunks), strict=True)
    ]
    return np.stack([tokens[start : start + context + 1] for start in starts]).astype(np.int64)


@lru_cache(maxsize=2)
def _epoch_order(seed: int, epoch: int, chunks: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, epoch]).permutation(chunks)


def evaluation_batches(
    files: TokenFiles, *, tokens: int, sequences: int, context: int
) -> Iterator[NDArray[np.int64]]:
    """The fixed validation text in batches [<= sequences, context + 1], `tokens` targets in all."""
    chunks = min(tokens, len(files.validation) - 1) // context
    if chunks < 1:
        raise InputError(
            f"the validation part holds {len(files.validation)} tokens, fewer than one context of {context}",
            hint="give more text as data.source",
        )
    windows = np.lib.stride_tricks.sliding_window_view(files.validation, context + 1)[
        : chunks * context : context
    ]
    for first in range(0, chunks, sequences):
        yield windows[first : first + sequences].astype(np.int64)
