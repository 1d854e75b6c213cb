"""Token ids in files that are mapped, not read: written once, hashed, gathered from many places."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import field
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llama_scale.errors import StoreError
from llama_scale.frozen import frozen
from llama_scale.runs.manifests import sha256_of

SHARD_TOKENS = 2**30  # 2 GiB of uint16: few files, none too large to copy or to hash side by side
Tokens = NDArray[np.uint16 | np.uint32]


def token_type(vocabulary: int) -> str:
    """The smallest of the two types of token files that holds every id of `vocabulary`."""
    return "uint16" if vocabulary <= 2**16 else "uint32"


def token_bytes(vocabulary: int) -> int:
    """Bytes of one id."""
    return np.dtype(token_type(vocabulary)).itemsize


@frozen(eq=False)
class TokenShards:
    """The tokens of one part of one source: arrays that follow each other as if they were one."""

    arrays: tuple[Tokens, ...]
    starts: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        sizes = [len(array) for array in self.arrays]
        object.__setattr__(self, "starts", np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64))

    def __len__(self) -> int:
        return int(self.starts[-1])

    def gather(self, starts: NDArray[np.int64], length: int) -> NDArray[np.int64]:
        """The `length` tokens from each of `starts` on, [len(starts), length]."""
        if len(self.arrays) == 1:
            return _windows(self.arrays[0], length)[starts].astype(np.int64)
        shards = np.searchsorted(self.starts, starts, side="right") - 1
        found = np.empty((len(starts), length), dtype=np.int64)
        for row, (shard, start) in enumerate(zip(shards.tolist(), starts.tolist(), strict=True)):
            found[row] = self._read(shard, start - int(self.starts[shard]), length)
        return found

    def _read(self, shard: int, start: int, length: int) -> Tokens:
        """Tokens from a place in a shard on, and out of the shards after it where they go on there."""
        here = self.arrays[shard][start : start + length]
        if len(here) == length:
            return here
        return np.concatenate([here, self._read(shard + 1, 0, length - len(here))])


def _windows(tokens: Tokens, length: int) -> Tokens:
    """A view of all stretches of `length` tokens; nothing is copied.

    As numpy's sliding_window_view, which takes twenty times as long to make it.
    """
    shape = (max(0, len(tokens) - length + 1), length)
    return np.ndarray(shape, tokens.dtype, tokens.data, strides=(tokens.itemsize, tokens.itemsize))


def write_shards(
    folder: Path, stem: str, stretches: Iterable[Tokens], shard_tokens: int = SHARD_TOKENS
) -> list[dict[str, Any]]:
    """Write tokens, one stretch after the other, to files of `shard_tokens`, the last of what is left.

    Returns name, tokens and sha256 of each.
    """
    shards = []
    for number, pieces in groupby(_cut(stretches, shard_tokens), key=itemgetter(0)):
        name, tokens, digest = f"{stem}-{number:05d}.bin", 0, hashlib.sha256()
        with (folder / name).open("wb") as file:
            for _, piece in pieces:
                data = piece.tobytes()
                file.write(data)
                digest.update(data)
                tokens += len(piece)
        shards.append({"file": name, "tokens": tokens, "sha256": digest.hexdigest()})
    return shards


def _cut(stretches: Iterable[Tokens], shard_tokens: int) -> Iterator[tuple[int, Tokens]]:
    """Pieces of the stretches, each with the number of the file that it goes to."""
    written = 0
    for tokens in stretches:
        while len(tokens):
            number, filled = divmod(written, shard_tokens)
            piece, tokens = tokens[: shard_tokens - filled], tokens[shard_tokens - filled :]
            yield number, piece
            written += len(piece)


def map_shards(folder: Path, shards: Sequence[Mapping[str, Any]], dtype: str) -> TokenShards:
    """Map the files that a manifest states; raises ValueError where one is of another size."""
    arrays = []
    for stated in shards:
        path = folder / Path(stated["file"]).name
        size = path.stat().st_size
        if size != stated["tokens"] * np.dtype(dtype).itemsize:
            raise ValueError(f"{path.name} is {size} bytes, not the {stated['tokens']} tokens it should hold")
        # A plain view of the map: slices of np.memmap itself cost ten times as much.
        arrays.append(np.asarray(np.memmap(path, dtype=dtype, mode="r")))
    return TokenShards(arrays=tuple(arrays))


def file_sha256(path: Path) -> str:
    """The sha256 of a file; raises StoreError where it cannot be read."""
    try:
        return sha256_of(path)
    except OSError as error:
        raise StoreError(
            f"{path} cannot be read: {error.strerror}", hint="run `llama-scale data prepare` again"
        ) from None
