"""A tokenised corpus on disk, and which of its tokens each step sees: a function of (seed, step) alone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llama_scale.canonical import canonical_json, plain
from llama_scale.checked import raise_all
from llama_scale.errors import InputError, StoreError
from llama_scale.files import parse_json, write_atomically
from llama_scale.frozen import frozen
from llama_scale.runs import MIXTURE_BLOCK, DataConfig, apportion, evaluation_problems
from llama_scale.training.corpus import fingerprint
from llama_scale.training.mixture import chunk_starts, chunks_drawn, draw
from llama_scale.training.shards import Tokens, TokenShards, file_sha256, map_shards
from llama_scale.training.tokenizer import AnyTokenizer, sha256_of, tokenizer_from_json

MANIFEST, TOKENIZER = "manifest.json", "tokenizer.json"
SCHEMA = 3  # 2 had no hash of the manifest itself
SELF = "manifest_sha256"
PARTS = ("train", "validation")
MOST_LOOKS = 8  # of one text: of installations and copies that share a store


@frozen(eq=False)
class TokenSource:
    """One source's tokens; `count` is its sequences in every MIXTURE_BLOCK of them."""

    name: str
    count: int
    train: TokenShards
    validation: TokenShards


@frozen(eq=False)
class TokenFiles:
    """A tokenised corpus, memory-mapped: what every run of a sweep reads."""

    folder: Path
    manifest: dict[str, Any]
    tokenizer: AnyTokenizer
    sources: tuple[TokenSource, ...]

    @property
    def corpus(self) -> str:
        return self.manifest["corpus"]["sha256"]

    @property
    def tokenizer_sha256(self) -> str:
        return self.manifest["tokenizer"]["sha256"]

    @property
    def counts(self) -> tuple[int, ...]:
        """Sequences of each source in every MIXTURE_BLOCK of them."""
        return tuple(source.count for source in self.sources)

    @property
    def train_tokens(self) -> int:
        return sum(len(source.train) for source in self.sources)

    @property
    def train_bytes(self) -> int:
        return sum(source["train"]["bytes"] for source in self.manifest["sources"])

    @property
    def text_bytes(self) -> int:
        """Of both parts."""
        return sum(source[part]["bytes"] for source in self.manifest["sources"] for part in PARTS)


def files_in_memory(tokens: Tokens, tokenizer: AnyTokenizer) -> TokenFiles:
    """Tokens that no folder holds, as the one source and both its parts: to time steps on."""
    shards = TokenShards(arrays=(tokens,))
    source = TokenSource(name="memory", count=MIXTURE_BLOCK, train=shards, validation=shards)
    return TokenFiles(folder=Path(), manifest={}, tokenizer=tokenizer, sources=(source,))


def data_folder(store: Path, config: DataConfig, corpus_sha256: str) -> Path:
    """Where the tokens of (corpus, tokenizer) live in a store."""
    return store / "data" / f"{corpus_sha256[:12]}-{config.tokenizer}{config.vocabulary}"


def prepared_folders(store: Path) -> list[Path]:
    """Every tokenised corpus of a store."""
    found = (manifest.parent for manifest in sorted(store.glob(f"data/*/{MANIFEST}")))
    return [folder for folder in found if not folder.name.startswith(".")]


def find_prepared(
    config: DataConfig, store: Path, tokenizer: AnyTokenizer | None = None
) -> TokenFiles | None:
    """The tokens of `config`, by the given tokenizer, if they were made before from files that look as now.

    By names, sizes and times, so that a long text is not read at every start.
    """
    alike = _made_of(config, store)
    marks = [fingerprint(source, store) for source in config.mixture] if alike else []
    for folder, manifest in alike.items():
        cut_alike = tokenizer is None or manifest["tokenizer"]["sha256"] == sha256_of(tokenizer)
        if cut_alike and marks in _looks(manifest):
            return open_tokens(folder)
    return None


def changed_since(config: DataConfig, store: Path, corpus: str) -> dict[str, tuple[str, ...]]:
    """Corpora but `corpus` that were made of the same sources, each with those that changed since."""
    found = {manifest["corpus"]["sha256"]: manifest for manifest in _made_of(config, store).values()}
    earlier = {sha256: manifest for sha256, manifest in found.items() if sha256 != corpus}
    if not earlier:
        return {}
    now = {source.label: fingerprint(source, store) for source in config.mixture}
    return {
        sha256: tuple(
            label
            for (label, mark), before in zip(now.items(), manifest["fingerprints"], strict=True)
            if mark != before
        )
        for sha256, manifest in earlier.items()
    }


def _made_of(config: DataConfig, store: Path) -> dict[Path, dict[str, Any]]:
    """The prepared folders whose manifests tell of the same sources, with these."""
    manifests = {folder: _manifest(folder) for folder in prepared_folders(store)}
    return {f: found for f, found in manifests.items() if found.get("reads") == what_is_read(config)}


def what_is_read(config: DataConfig) -> dict[str, Any]:
    """`config` as a manifest states it: less what does not change the tokens."""
    return {name: value for name, value in plain(config).items() if name != "evaluation_tokens"}


def write_manifest(folder: Path, content: dict[str, Any]) -> None:
    """Raises StoreError where the disk refuses."""
    write_atomically(folder / MANIFEST, json.dumps(_sealed(content), indent=1))


def remember_marks(folder: Path, config: DataConfig, marks: list[str]) -> None:
    """Have `find_prepared` know a text again that was read and found to be the same, though it looks another.

    As after a copy or a new installation: else it would be read at every start from then on. The looks before
    stay known, as two installations may share a store.
    """
    manifest = _manifest(folder)
    if manifest.get("reads") == what_is_read(config) and marks not in (looks := _looks(manifest)):
        known = {"fingerprints": marks, "earlier_fingerprints": looks[: MOST_LOOKS - 1]}
        with suppress(StoreError):  # a store that is read-only serves as well, more slowly
            write_manifest(folder, {**_unsealed(manifest), **known})


def _looks(manifest: dict[str, Any]) -> list[list[str]]:
    """The marks of all sources, each time that they were read and found to be this text; the last first."""
    return [manifest["fingerprints"], *manifest.get("earlier_fingerprints", [])]


def _sealed(content: dict[str, Any]) -> dict[str, Any]:
    """A manifest of `content`, with the sha256 of itself: what it says of shares decides what is learnt."""
    return {**content, SELF: hashlib.sha256(canonical_json(content).encode()).hexdigest()}


def _unsealed(manifest: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in manifest.items() if name != SELF}


def _manifest(folder: Path) -> dict[str, Any]:
    """What a folder's manifest says, nothing where it cannot be read."""
    try:
        return _read_manifest(folder)
    except (OSError, ValueError):
        return {}


def _read_manifest(folder: Path) -> dict[str, Any]:
    """Raises OSError, and ValueError for anything but what was written there."""
    found = parse_json((folder / MANIFEST).read_bytes())
    if not isinstance(found, dict):
        raise ValueError(f"{MANIFEST} holds no manifest")
    if found.get("schema") != SCHEMA:
        raise ValueError(f"it is of schema {found.get('schema')}, not {SCHEMA}")
    if found != _sealed(_unsealed(found)):
        raise ValueError(f"{MANIFEST} has changed since it was prepared")
    return found


def open_tokens(folder: Path) -> TokenFiles:
    """Map a prepared folder; raises StoreError where it is missing, torn or of another size than it says.

    The hashes of the manifest and the tokenizer are checked here, those of the shards by `verify_tokens`.
    """
    try:
        manifest = _read_manifest(folder)
        tokenizer = (folder / TOKENIZER).read_bytes()
        if hashlib.sha256(tokenizer).hexdigest() != manifest["tokenizer"]["sha256"]:
            raise ValueError(f"{TOKENIZER} has changed since it was prepared")
        return TokenFiles(
            folder=folder,
            manifest=manifest,
            tokenizer=tokenizer_from_json(tokenizer),
            sources=tuple(
                TokenSource(
                    name=stated["name"],
                    count=stated["count"],
                    **{part: map_shards(folder, stated[part]["shards"], manifest["dtype"]) for part in PARTS},
                )
                for stated in manifest["sources"]
            ),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(
            f"the prepared data in {str(folder)!r} cannot be used: {error}",
            hint="delete that folder and run `llama-scale data prepare` or the sweep again",
        ) from None


def verify_tokens(files: TokenFiles) -> int:
    """Check every file against the manifest's sha256 and return how many there are.

    Raises StoreError with the first that differs.
    """
    stated = {TOKENIZER: files.tokenizer_sha256}
    for source in files.manifest["sources"]:
        stated |= {shard["file"]: shard["sha256"] for part in PARTS for shard in source[part]["shards"]}
    for name, sha256 in stated.items():
        if file_sha256(files.folder / name) != sha256:
            raise StoreError(
                f"{name} in {str(files.folder)!r} has changed since it was prepared",
                hint="delete that folder and run the sweep again: it is made anew from the source",
            )
    return len(stated)


def check_length(files: TokenFiles, config: DataConfig, context: int, sequences: int) -> None:
    """Raises InputError where the text has fewer tokens than one batch, or one evaluation, needs.

    A batch is `sequences` of `context`; each source must have its share of it.
    """
    raise_all(evaluation_problems(config, context))
    for source, share in zip(files.sources, apportion(files.counts, sequences), strict=True):
        needed = {"training": max(share, 1), "validation": 1}
        for part, tokens in (("training", source.train), ("validation", source.validation)):
            if _chunks(tokens, context) < needed[part]:
                raise InputError(
                    f"the {part} part of {source.name} holds {len(tokens)} tokens, too few for "
                    f"{needed[part]} of the {context}-token sequences of one batch",
                    hint="give more text, a shorter shape.context or fewer training.sequences_per_step",
                )
    if not all(_evaluation_chunks(files, config.evaluation_tokens, context)):
        raise InputError(
            f"{config.evaluation_tokens} tokens of evaluation leave some source without a single sequence",
            hint="set a larger data.evaluation_tokens, or give that source more text or more weight",
        )


def evaluation_cautions(files: TokenFiles, asked: int, context: int) -> Iterator[str]:
    """That losses are measured on fewer tokens than were asked for, where too few are held out."""
    used = sum(_evaluation_chunks(files, asked, context)) * context
    if used < asked // context * context:
        scarcest = min(files.sources, key=lambda s: _chunks(s.validation, context) / s.count)
        yield (
            f"losses are measured on {used:,} held-out tokens, not on the {asked:,} of "
            f"data.evaluation_tokens: {scarcest.name} has no more; on more text they would be surer"
        )


def _chunks(tokens: TokenShards, context: int) -> int:
    """Whole sequences in a text, each of whose tokens has one after it."""
    return max(0, len(tokens) - 1) // context


def training_sequences(
    files: TokenFiles, positions: NDArray[np.int64], *, seed: int, context: int
) -> NDArray[np.int64]:
    """Ids of the training sequences at `positions` of a run, [len(positions), context + 1].

    All but the last of a sequence are inputs, all but the first their targets.
    Sources are drawn by weight; each is cut into chunks of `context`, all of which every epoch of it visits.
    """
    drawn, earlier = draw(files.counts, seed, positions)
    found = np.empty((len(positions), context + 1), dtype=np.int64)
    for number, source in enumerate(files.sources):
        here = drawn == number
        if here.any():
            chunks = chunk_starts(seed, number, earlier[here], _chunks(source.train, context))
            found[here] = source.train.gather(chunks * context, context + 1)
    return found


def evaluation_batches(
    files: TokenFiles, *, tokens: int, sequences: int, context: int
) -> Iterator[NDArray[np.int64]]:
    """The fixed validation text in batches [<= sequences, context + 1], at most `tokens` targets in all.

    Each source gives its share; one that has less makes the whole smaller, not its share.
    """
    for source, chunks in zip(files.sources, _evaluation_chunks(files, tokens, context), strict=True):
        for first in range(0, chunks, sequences):
            numbers = np.arange(first, min(first + sequences, chunks))
            yield source.validation.gather(numbers * context, context + 1)


def _evaluation_chunks(files: TokenFiles, tokens: int, context: int) -> tuple[int, ...]:
    """Sequences of each source in the evaluation: as many as asked for, or as the shortest source allows."""
    available = [_chunks(source.validation, context) for source in files.sources]
    whole = tokens // context
    for have, count in zip(available, files.counts, strict=True):
        whole = min(whole, have * MIXTURE_BLOCK // count)
    shares = apportion(files.counts, whole)
    return tuple(min(share, have) for share, have in zip(shares, available, strict=True))


def seen(files: TokenFiles, *, seed: int, sequences: int, context: int) -> list[dict[str, Any]]:
    """What a run of so many sequences has seen of each source: tokens, and times through all of them."""
    drawn = chunks_drawn(files.counts, seed, sequences)
    return [
        {
            "name": source.name,
            "share": source.count / MIXTURE_BLOCK,
            "tokens": chunks * context,
            "unique_tokens": _chunks(source.train, context) * context,
            "epochs": chunks / _chunks(source.train, context),
        }
        for source, chunks in zip(files.sources, drawn, strict=True)
    ]
