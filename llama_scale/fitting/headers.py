"""What a header says in its brackets: a unit or power of ten, how parameters are counted, a loss's unit."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

from llama_scale.architecture import ParameterConvention
from llama_scale.errors import InputError
from llama_scale.fitting.filters import plain_name
from llama_scale.frozen import frozen
from llama_scale.quantities import parse_count, parse_flops

BITS = math.log(2)  # nats
_BRACKET = re.compile(r"[(\[]([^()\[\]]*)[)\]]")
_WORD = re.compile(r"[^\s,;:]+")
_POWER = re.compile(r"10(?:\^|\*\*)\{?(\d+)\}?")
_RAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹", "0123456789")
_FILLERS = {
    *("in", "of", "x", "×", "*", "#", "the", "number", "count", "seen", "train", "training", "model"),
    *("total", "unique", "6nd"),
}
_CONVENTIONS: dict[ParameterConvention, re.Pattern[str]] = {
    "non_embedding": re.compile(r"(?:non|no|without|w/o|excl\w*\.?)[-_\s]*(?:the\s+)?embed\w*"),
    "total": re.compile(r"total|all|(?:with|incl\w*\.?)\s+(?:the\s+)?embed\w*"),
    "matmul": re.compile(r"matmul"),
}
_PERPLEXITY = re.compile(r"perplexity|ppl")
_OTHER_LOSS = re.compile(r"(?:\bper|/|\ba)\s*(?:byte|char|word)|bp[bcw]\b")
_BITS = re.compile(  # not those of a 16-bit or 8 bit number
    r"(?<![\d-])(?<!\d )\bbits?\b|\bbpt\b|\blog ?2\b|\bbase[ -]?2\b|\bshannons?\b"
)


@frozen
class Header:
    """A header as written, its plain name without brackets, and what stands in these."""

    written: str
    name: str
    words: str

    @property
    def convention(self) -> ParameterConvention | None:
        """How its brackets say that parameters are counted, None where they do not."""
        return next((name for name, said in _CONVENTIONS.items() if said.search(self.words)), None)


def read_header(written: str) -> Header:
    """The parts of a header.

    >>> read_header("Parameters (non-embedding) [M]").words
    'non-embedding m'
    """
    words = " ".join(_BRACKET.findall(written)).lower()
    return Header(written=written, name=plain_name(_BRACKET.sub("", written)), words=words)


def count_factor(header: Header) -> float:
    """What its bare numbers of parameters or tokens are times: 1e9 for `(B)`, `(in billions)`, `(10^9)`."""
    words = header.words
    for said in _CONVENTIONS.values():
        words = said.sub(" ", words)
    return _factor(header, words, parse_count, "(M), (B), (1e6) or (non-embedding)")


def flops_factor(header: Header) -> float:
    """What its bare numbers of FLOPs are times: 1e18 for `(EFLOPs)`, `(10^18 FLOPs)`."""
    return _factor(header, header.words, parse_flops, "(EFLOPs), (PF-days) or (1e18)")


def loss_factor(header: Header) -> float:
    """What its losses are times for nats a token. Words that are no unit name a text, and change nothing."""
    if _PERPLEXITY.search(header.words):
        raise InputError(
            f"column {header.written!r} is a perplexity, not a loss",
            hint="write its natural logarithm: losses are in nats a token",
        )
    if _OTHER_LOSS.search(header.words):
        raise InputError(
            f"column {header.written!r} is a loss of another unit than a token",
            hint="write nats a token: the loss of a byte times the bytes that a token has on average",
        )
    return BITS if in_bits(header.words) else 1.0


def in_bits(words: str) -> bool:
    """Whether the words of a loss say that it is in bits.

    >>> in_bits("bits_per_token"), in_bits("16-bit")
    (True, False)
    """
    return bool(_BITS.search(words.lower().replace("_", " ")))


def _factor(header: Header, words: str, parse: Callable[[str], float], examples: str) -> float:
    """The product of what its words stand for; InputError names one that stands for nothing."""
    factor = 1.0
    for word in _WORD.findall(words):
        if word in _FILLERS:
            continue
        try:
            factor *= _worth(word.lstrip("x×*"), parse)
        except (InputError, ValueError, OverflowError):
            raise InputError(
                f"column {header.written!r}: {word!r} is no unit",
                hint=f"write {examples}, or leave the brackets out",
            ) from None
    return factor


def _worth(word: str, parse: Callable[[str], float]) -> float:
    power = _POWER.fullmatch(re.sub(r"^10(?=[⁰¹²³⁴⁵⁶⁷⁸⁹])", "10^", word).translate(_RAISED))
    if power:
        return float(f"1e{power[1]}")
    return parse(word) if word[:1].isdigit() else parse(f"1 {word}")
