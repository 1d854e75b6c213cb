"""The text that a sweep learns from: sources split into train and validation, with their hashes.

A source is read once from end to end for its catalogue: a hash and a length for each document. What
is learnt from and what is held out is decided on that, so that no text need fit into memory.
"""

from __future__ import annotations

import hashlib
import random
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llama_scale.canonical import canonical_json
from llama_scale.checked import all_of
from llama_scale.errors import InputError
from llama_scale.files import at_home
from llama_scale.frozen import frozen
from llama_scale.runs import BUILTIN, HUB, DataConfig, SourceConfig
from llama_scale.training.builtin import builtin_documents, builtin_listing, builtin_versions, is_held_out
from llama_scale.training.documents import PIECE_BYTES, Document, is_there, read_documents, text_files
from llama_scale.training.hub import FIELD, fetch, fetched_folder
from llama_scale.training.tokenizer import AnyTokenizer, sha256_of

VALIDATION_SHARE = 0.02
Places = NDArray[np.int64]
Read = Callable[[], Iterable[Document]]
HoldOut = Callable[[NDArray[np.bytes_]], NDArray[np.bool_]]  # which documents are, by their sha256


@frozen(eq=False)
class Catalogue:
    """One source, read through: sha256, bytes and characters of each document in the order of reading.

    `read` reads the documents again; `held_out` marks those that the source's own rule keeps for
    validation. `fingerprint` names the files as they were.
    """

    config: SourceConfig
    versions: dict[str, str]
    fingerprint: str
    read: Read
    digests: NDArray[np.bytes_]
    sizes: NDArray[np.int64]
    characters: NDArray[np.int64]
    held_out: NDArray[np.bool_]


@frozen(eq=False)
class Text:
    """One source in two parts: places in the catalogue, shuffled; `sha256` names both and their order."""

    catalogue: Catalogue
    train: Places
    validation: Places
    sha256: str

    def documents(self, places: Places) -> Iterator[tuple[int, Document]]:
        """The documents at `places`, each with its place, in the order of reading.

        Raises InputError where the text is no longer what it was.
        """
        digests, left = self.catalogue.digests, len(places)
        wanted = np.zeros(len(digests), dtype=bool)
        wanted[places] = True
        for place, document in enumerate(self.catalogue.read()):
            if not left:
                return
            if place >= len(digests) or digests[place : place + 1].tobytes() != document.digest:
                break
            if wanted[place]:
                left -= 1
                yield place, document
        if left:
            raise InputError(
                f"{self.catalogue.config.source} changed while it was read",
                hint="run the same command again once nothing writes to it",
            )


@frozen(eq=False)
class Corpus:
    """All texts of a recipe; `corpus` is the sha256 of their parts, their order and how they are mixed.

    And of the `tokenizer`, where one was given rather than made of them.
    """

    texts: tuple[Text, ...]
    corpus: str
    tokenizer: AnyTokenizer | None = None

    @property
    def train_tokens(self) -> None:
        """Known once it is tokenised, as of TokenFiles."""

    @property
    def train_bytes(self) -> int:
        return sum(int(text.catalogue.sizes[text.train].sum()) for text in self.texts)

    @property
    def text_bytes(self) -> int:
        """Of both parts."""
        return self.train_bytes + sum(int(text.catalogue.sizes[text.validation].sum()) for text in self.texts)


def read_corpus(config: DataConfig, store: Path, tokenizer: AnyTokenizer | None = None) -> Corpus:
    """Read every source of `config` once through; datasets of the hub are fetched into `store` first.

    Documents that occur twice in a source are kept once, and none of a training part is in any
    validation part. Raises InputError for a package without RECORD, a file that is not what was
    installed, and text that is missing, empty, broken or too short to split.
    """
    check_sources(config, store)
    catalogues = [_catalogue(source, store) for source in config.mixture]
    held_out = [_first_places(c.digests, np.flatnonzero(c.held_out)) for c in catalogues]
    never_learnt = np.concatenate([c.digests[places] for c, places in zip(catalogues, held_out, strict=True)])
    texts = tuple(
        _text(catalogue, validation, never_learnt, config.shuffle_seed)
        for catalogue, validation in zip(catalogues, held_out, strict=True)
    )
    corpus = _mixture_sha256(texts, config.block_counts)
    if tokenizer is not None:
        corpus = hashlib.sha256(f"{corpus} {sha256_of(tokenizer)}".encode()).hexdigest()
    return Corpus(texts=texts, corpus=corpus, tokenizer=tokenizer)


def check_sources(config: DataConfig, store: Path) -> None:
    """Raises InputError that tells at once what is amiss with the files of `config` at first sight.

    That is sources that are not there, and those whose first document cannot be read.
    """
    own = [s for s in config.mixture if s.source != BUILTIN and not s.source.startswith(HUB)]
    missing = [source for source in own if not is_there(_place(source, store))]
    all_of(
        [
            lambda: _refuse_missing([source.source for source in missing]),
            *(lambda s=s: _first_document(s, store) for s in own if s not in missing),
        ]
    )


def _refuse_missing(missing: list[str]) -> None:
    if missing:
        raise InputError(
            f"the text is not here: there is no {', no '.join(missing)}",
            hint=f'put it there (UTF-8 text, JSONL, Parquet or folders of them), or use "{BUILTIN}"',
        )


def _first_document(source: SourceConfig, store: Path) -> Document | None:
    return next(read_documents(_files(_place(source, store), store), source.field), None)


def absent_sources(config: DataConfig, store: Path) -> tuple[str, ...]:
    """The files and folders of `config` that are not there, and datasets of the hub not fetched yet."""
    own = [source for source in config.mixture if source.source != BUILTIN]
    return tuple(source.source for source in own if not is_there(_place(source, store)))


def fingerprint(source: SourceConfig, store: Path) -> str:
    """A hash of the names, sizes and times of a source's files.

    As long as it is the same the text need not be read again to know that it is.
    """
    if source.source == BUILTIN:
        stated = builtin_listing()
    else:
        folder = _place(source, store)
        stated = [(str(file), file.stat()) for file in _files(folder, store)] if is_there(folder) else []
    listing = [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stated]
    return hashlib.sha256(canonical_json(listing).encode()).hexdigest()


def _place(source: SourceConfig, store: Path) -> Path:
    """Where the files of a source lie, or will lie once they are fetched."""
    if source.source.startswith(HUB):
        return fetched_folder(source, store)
    return at_home(source.source)


def _files(place: Path, store: Path) -> list[Path]:
    """The files of a source; a store that lies in it is no text, unless the source lies in the store."""
    within = place.resolve().is_relative_to(store.resolve())
    return text_files(place, less=None if within else store)


def _catalogue(source: SourceConfig, store: Path) -> Catalogue:
    if source.source == BUILTIN:
        mark = fingerprint(source, store)
        # Read and checked once; it is small.
        documents = tuple(_limited(builtin_documents(), source.limit_bytes))
        return _read_through(source, mark, lambda: documents, lambda _: _of_packages(source, documents))
    field = source.field
    if source.source.startswith(HUB):
        fetch(source, store)
        field = FIELD
    mark, files = fingerprint(source, store), _files(_place(source, store), store)
    return _read_through(
        source,
        mark,
        lambda: _limited(read_documents(files, field), source.limit_bytes),
        lambda digests: _lowest_share(source, digests),
    )


def _limited(documents: Iterator[Document], limit_bytes: int | None) -> Iterator[Document]:
    """Documents until there are `limit_bytes` of them, the one that reaches it included."""
    left = limit_bytes
    for document in documents:
        yield document
        if left is not None:
            left -= document.size
            if left <= 0:
                return


def _read_through(source: SourceConfig, mark: str, read: Read, hold_out: HoldOut) -> Catalogue:
    digests, sizes, characters = bytearray(), array("q"), array("q")
    for document in read():
        digests += document.digest
        sizes.append(document.size)
        characters.append(len(document.text))
    if not sizes:
        raise InputError(
            f"the source {source.source!r} holds no text",
            hint=f'give UTF-8 text, JSONL, Parquet or a folder of them, or "{BUILTIN}"',
        )
    hashes = np.frombuffer(bytes(digests), dtype="S32")
    return Catalogue(
        config=source,
        versions=builtin_versions() if source.source == BUILTIN else {},
        fingerprint=mark,
        read=read,
        digests=hashes,
        sizes=np.array(sizes),
        characters=np.array(characters),
        held_out=hold_out(hashes),
    )


def _of_packages(source: SourceConfig, documents: Sequence[Document]) -> NDArray[np.bool_]:
    """Of the built-in corpus whole sub-packages are held out."""
    held_out = np.array([is_held_out(document) for document in documents])
    if not held_out.any():
        raise InputError(
            f"the first {source.limit_bytes:,} bytes of the built-in corpus hold nothing that is held out",
            hint="give a larger limit_bytes, such as 10MB, or leave it out",
        )
    return held_out


def _lowest_share(source: SourceConfig, digests: NDArray[np.bytes_]) -> NDArray[np.bool_]:
    """A document is held out if its hash falls in the lowest share; at least one is, the lowest of all."""
    firsts = digests.view(">u8").reshape(len(digests), -1)[:, 0]
    lowest = firsts == firsts.min()
    if lowest.all():
        raise InputError(
            f"the source {source.source!r} is one single document, so none can be held out for validation",
            hint="give a larger limit_bytes, or leave it out"
            if source.limit_bytes is not None
            else f"give at least {2 * PIECE_BYTES // 1000} kB of text, or several documents",
        )
    return (firsts >> 32 < int(VALIDATION_SHARE * 2**32)) | lowest


def _text(catalogue: Catalogue, validation: Places, never_learnt: NDArray[np.bytes_], seed: int) -> Text:
    digests = catalogue.digests
    train = _first_places(digests, np.flatnonzero(~catalogue.held_out))
    train = train[~np.isin(digests[train], never_learnt)]
    if not len(train):
        raise InputError(
            f"every document of {catalogue.config.source!r} is held out for validation, here or elsewhere",
            hint="give more text, or take out of data.sources what another source holds already",
        )
    parts = [_shuffled(train, seed), _shuffled(validation, seed)]
    digest = hashlib.sha256()
    for part in parts:
        digest.update(digests[part].tobytes() + b"|")
    return Text(catalogue=catalogue, train=parts[0], validation=parts[1], sha256=digest.hexdigest())


def _first_places(digests: NDArray[np.bytes_], places: Places) -> Places:
    """Of `places` those where a document occurs for the first time."""
    return places[np.sort(np.unique(digests[places], return_index=True)[1])]


def _shuffled(places: Places, seed: int) -> Places:
    order = places.tolist()
    random.Random(seed).shuffle(order)
    return np.array(order, dtype=np.int64)


def _mixture_sha256(texts: tuple[Text, ...], counts: tuple[int, ...]) -> str:
    """A lone source's own; of several, of their shares and hashes, since these decide what a loss is of."""
    if len(texts) == 1:
        return texts[0].sha256
    stated = [[count, text.sha256] for count, text in zip(counts, texts, strict=True)]
    return hashlib.sha256(canonical_json(stated).encode()).hexdigest()
