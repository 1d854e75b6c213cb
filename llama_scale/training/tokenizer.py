"""Text to token ids and back: bytes, or a small byte-pair vocabulary trained on the corpus.

Trained with `tokenizers`, encoded with tiktoken (same ids, several times faster). The last id of
every vocabulary is the end of a document.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import tiktoken
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from llama_scale.checked import raise_all
from llama_scale.errors import InputError
from llama_scale.files import parse_json
from llama_scale.runs import TokenizerName, vocabulary_problems
from llama_scale.training.shards import token_type

END_OF_DOCUMENT = "<|endofdoc|>"  # what other tools call the last id
# Words, numbers of up to three digits, punctuation, line ends and runs of spaces stay apart, so that no
# token spans two of them; indentation is a run of spaces, which code is full of.
SPLIT_PATTERN = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LIBRARY_FILE = "tokenizer.json"  # as the library names it
_BYTE_PIECE = re.compile("<0x[0-9A-F]{2}>")
LONGEST_RUN = 900_000  # of spaces: the pattern's matcher gives up on a million


@dataclass(frozen=True, kw_only=True)
class Tokenizer:
    """A vocabulary: the bytes of every token but the last, which ends a document."""

    kind: TokenizerName
    tokens: tuple[bytes, ...]

    @property
    def vocabulary(self) -> int:
        return len(self.tokens) + 1

    @property
    def end_of_document(self) -> int:
        return len(self.tokens)

    @cached_property
    def token_bytes(self) -> np.ndarray:
        """Length in bytes of every token, [vocabulary]; the end of a document has none."""
        return np.array([*map(len, self.tokens), 0], dtype=np.int64)

    @cached_property
    def _encoding(self) -> tiktoken.Encoding:
        ranks = {token: rank for rank, token in enumerate(self.tokens)}
        return tiktoken.Encoding("corpus", pat_str=SPLIT_PATTERN, mergeable_ranks=ranks, special_tokens={})

    def encode(self, texts: Sequence[str], *, threads: int = 1) -> Iterator[np.ndarray]:
        """Ids of each text, ended by the end of a document."""
        dtype = np.dtype(token_type(self.vocabulary))
        end = np.array([self.end_of_document], dtype=dtype)
        if self.kind == "bytes":
            for text in texts:
                yield np.append(np.frombuffer(text.encode(), dtype=np.uint8).astype(dtype), end)
            return
        stretches = [_stretches(text) for text in texts]
        flat = [stretch for text in stretches for stretch in text]
        encoded = iter(self._encoding.encode_ordinary_batch(flat, num_threads=threads))
        for text in stretches:
            yield np.concatenate([*(np.array(next(encoded), dtype=dtype) for _ in text), end])

    def decode(self, ids: Iterable[int]) -> str:
        """Text of `ids`; ends of documents are dropped."""
        return b"".join(self.tokens[i] for i in ids if i != self.end_of_document).decode("utf-8", "replace")

    def to_json(self) -> str:
        return json.dumps({"kind": self.kind, "tokens": [token.hex() for token in self.tokens]})


@dataclass(frozen=True, kw_only=True)
class GivenTokenizer:
    """The tokenizer that lies beside a model: the files of its folder by name, `tokenizer.json` among them.

    `vocabulary` is the model's, which may be larger than the file's; `end_of_document` is an id of the file.
    """

    files: Mapping[str, str]
    vocabulary: int
    end_of_document: int
    kind: TokenizerName = "start"

    @cached_property
    def library(self) -> tokenizers.Tokenizer:
        return read_library(self.files[LIBRARY_FILE])

    @cached_property
    def token_bytes(self) -> np.ndarray:
        """Length in bytes of every token, [vocabulary]; special ones have none.

        Byte-level vocabularies spell each byte as one letter, but for tokens that were added; those of
        SentencePiece spaces as U+2581 and bytes that no token holds as <0x0A>. The space that the latter put
        before a text counts as one of it.
        """
        added = self.library.get_added_tokens_decoder()
        special = {self.end_of_document, *(number for number, token in added.items() if token.special)}
        letters = "ByteLevel" in json.dumps(parse_json(self.files[LIBRARY_FILE]).get("decoder"))
        lengths = np.zeros(self.vocabulary, dtype=np.int64)
        for token, number in self.library.get_vocab().items():
            if number not in special:
                spelt = letters and number not in added
                lengths[number] = len(token) if spelt else _bytes_of_piece(token)
        return lengths

    def encode(self, texts: Sequence[str], *, threads: int = 1) -> Iterator[np.ndarray]:
        """Ids of each text, on the library's own threads, ended by the end of a document."""
        dtype, end = np.dtype(token_type(self.vocabulary)), self.end_of_document
        for encoded in self.library.encode_batch_fast(list(texts)):
            ids = encoded.ids
            yield np.array(ids if ids[-1:] == [end] else [*ids, end], dtype=dtype)

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)


def read_library(file: str) -> tokenizers.Tokenizer:
    """What a `tokenizer.json` says; raises what the library does for one that it cannot read."""
    made = tokenizers.Tokenizer.from_str(file)
    made.no_truncation()
    made.no_padding()
    made.encode_special_tokens = True  # text that spells the end of a document is text
    return made


AnyTokenizer = Tokenizer | GivenTokenizer


def tokenizer_from_json(text: str | bytes) -> AnyTokenizer:
    """What `to_json` of either wrote; raises ValueError, KeyError or TypeError for anything else."""
    content = parse_json(text)
    if content["kind"] == "start":
        return GivenTokenizer(**content)
    return Tokenizer(kind=content["kind"], tokens=tuple(map(bytes.fromhex, content["tokens"])))


def sha256_of(tokenizer: AnyTokenizer) -> str:
    """What a tokenizer is known by: the hash of its JSON."""
    return hashlib.sha256(tokenizer.to_json().encode()).hexdigest()


def _bytes_of_piece(token: str) -> int:
    return 1 if _BYTE_PIECE.fullmatch(token) else len(token.replace("\u2581", " ").encode())


def _stretches(text: str) -> list[str]:
    """The text, cut only where a run of spaces is longer than the matcher can take."""
    if len(text) <= LONGEST_RUN:
        return [text]
    cuts = [0]
    # Runs of any length: a pattern of this length alone would be tried at each space of a shorter one.
    for run in re.finditer(r"\s+", text):
        for start in range(run.start(), run.end() - LONGEST_RUN + 1, LONGEST_RUN):
            cuts += [start, start + LONGEST_RUN]
    return [text[start:end] for start, end in pairwise([*cuts, len(text)]) if start < end]


def byte_tokenizer() -> Tokenizer:
    """One token a byte, and the end of a document: 257 in all."""
    return Tokenizer(kind="bytes", tokens=tuple(bytes([value]) for value in range(256)))


def train_bpe(texts: Iterable[str], vocabulary: int) -> Tokenizer:
    """Train byte-pair merges on all of `texts` (Sennrich et al. 2016)."""
    raise_all(vocabulary_problems("bpe", vocabulary))
    trainee = train_merges(texts, vocabulary)
    by_id = sorted(trainee.get_vocab().items(), key=lambda item: item[1])
    if len(by_id) < vocabulary - 1:
        raise InputError(
            f"the text gives only {len(by_id) + 1} tokens, fewer than data.vocabulary = {vocabulary}",
            hint=f"use a vocabulary of at most {len(by_id) + 1}, or more text",
        )
    letters = _byte_of_letter()
    return Tokenizer(kind="bpe", tokens=tuple(bytes(letters[c] for c in token) for token, _ in by_id))


def train_merges(texts: Iterable[str], vocabulary: int) -> tokenizers.Tokenizer:
    """The library's own tokenizer: slower to encode with, and with stand-in letters for bytes."""
    trainee = _byte_level(models.BPE())
    trainee.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocabulary - 1,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return trainee


def _byte_level(model: models.BPE) -> tokenizers.Tokenizer:
    made = tokenizers.Tokenizer(model)
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(SPLIT_PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    made.decoder = decoders.ByteLevel()
    return made


def to_library(tokenizer: Tokenizer) -> tokenizers.Tokenizer:
    """The same vocabulary as a tokenizer of the `tokenizers` library, whose ids are the same.

    Its merges are found again from the tokens: each was made of the two that the earlier merges leave of it.
    """
    letter = {byte: char for char, byte in _byte_of_letter().items()}
    words = ["".join(letter[byte] for byte in token) for token in tokenizer.tokens]
    ranks = {token: rank for rank, token in enumerate(tokenizer.tokens)}
    merges = [_last_merge(token, ranks) for token in tokenizer.tokens if len(token) > 1]
    spelled = [(words[ranks[left]], words[ranks[right]]) for left, right in merges]
    made = _byte_level(models.BPE({word: rank for rank, word in enumerate(words)}, spelled))
    made.add_special_tokens([tokenizers.AddedToken(END_OF_DOCUMENT, special=True, normalized=False)])
    return made


def from_library(library: tokenizers.Tokenizer) -> Tokenizer | None:
    """The tokenizer that `to_library` made this of, whose encoding takes a fifth of the time, or None."""
    theirs, plain = json.loads(library.to_str()), json.loads(_byte_level(models.BPE()).to_str())
    if theirs["model"]["type"] != "BPE" or theirs["pre_tokenizer"] != plain["pre_tokenizer"]:
        return None
    letters, vocabulary = _byte_of_letter(), theirs["model"]["vocab"]
    words = sorted(vocabulary, key=vocabulary.__getitem__)
    made = Tokenizer(
        kind="bpe" if theirs["model"]["merges"] else "bytes",
        tokens=tuple(bytes(letters[letter] for letter in word) for word in words),
    )
    return made if same_ids(theirs, made) else None


def same_ids(library: Mapping[str, Any], tokenizer: Tokenizer) -> bool:
    """Whether the JSON of a tokenizer of the library says that its ids are those of `tokenizer`."""
    ours = json.loads(to_library(tokenizer).to_str())
    return all(library.get(part) == ours[part] for part in ("model", "normalizer", "pre_tokenizer"))


def _last_merge(token: bytes, ranks: Mapping[bytes, int]) -> tuple[bytes, bytes]:
    """The two parts of `token` that remain when all merges before its own are done."""
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 2:
        pairs = [ranks.get(a + b, len(ranks)) for a, b in pairwise(parts)]
        first = min(range(len(pairs)), key=pairs.__getitem__)
        parts[first : first + 2] = [parts[first] + parts[first + 1]]
    return parts[0], parts[1]


@lru_cache(maxsize=1)
def _byte_of_letter() -> dict[str, int]:
    """Byte-level BPE's letters for bytes: printable Latin-1 ones are themselves, others follow U+0100."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [value for value in range(256) if value not in printable]
    return {chr(v): v for v in printable} | {chr(256 + i): v for i, v in enumerate(others)}
