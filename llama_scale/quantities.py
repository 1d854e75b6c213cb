"""The only parser and formatter of numbers and units: 7B, 1.4T, 1e12, 5.88e23 FLOPs, $2M, 80GiB, 30d.

Numbers inside are in base units (parameters, tokens, FLOPs, dollars, bytes, seconds, fractions of one);
text exists only at the edges. Every parser also takes a number, which is already in base units.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

from llama_scale.errors import InputError
from llama_scale.frozen import frozen

QuantityKind = Literal[
    "count", "flops", "flops_per_second", "usd", "usd_per_hour", "gpu_hours", "bytes", "seconds", "fraction"
]


@frozen
class Quantity:
    """A number in the base unit of its kind."""

    value: float
    kind: QuantityKind


@frozen
class _Kind:
    """How one kind of quantity is written: its name, examples for hints, and units with their factors.

    `bare` says whether a number without a unit, already in base units, is accepted.
    """

    name: str
    examples: str
    units: Mapping[str, float]
    bare: bool = True


_WHOLE = r"(?:\d{1,3}(?:,\d{3})+|\d+(?:_\d+)*)"
_NUMBER = rf"(?:{_WHOLE}(?:\.\d*)?|\.\d+)(?:e[+-]?\d+)?"
_WRITTEN = re.compile(rf"\s*(?P<sign>[+-]?)(?P<currency>\$|usd)?\s*(?P<number>{_NUMBER})\s*(?P<unit>.*?)\s*")
_CURRENCY = re.compile(r"\$|usd|dollars?")
_DURATION_PART = re.compile(rf"\s*(?P<number>{_NUMBER})\s*(?P<unit>[a-z]+)")


def _units(prefixes: Mapping[str, float], *names: str, each: float = 1.0) -> dict[str, float]:
    return {prefix + name: factor * each for name in names for prefix, factor in prefixes.items()}


_COUNT_PREFIXES = {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9, "t": 1e12}
_COUNT_WORDS = {
    word + plural: factor
    for word, factor in (("thousand", 1e3), ("million", 1e6), ("billion", 1e9), ("trillion", 1e12))
    for plural in ("", "s")
}
_SI = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12, "p": 1e15, "e": 1e18, "z": 1e21, "y": 1e24}
_BINARY = {"ki": 2.0**10, "mi": 2.0**20, "gi": 2.0**30, "ti": 2.0**40, "pi": 2.0**50}
_COUNTS = {**_COUNT_PREFIXES, **_COUNT_WORDS}
_DAY = 86_400.0
_MILLIONS = ((1e12, "T"), (1e9, "B"), (1e6, "M"))  # and more, as suffixes

_KINDS: dict[QuantityKind, _Kind] = {
    "count": _Kind(
        name="a count of parameters or tokens",
        examples="7B, 1.4T, 300M or 1e12",
        units=_units(_COUNTS, "", "tokens", "parameters", "params"),
    ),
    "flops": _Kind(
        name="FLOPs",
        examples="1e24, 5.88e23 FLOPs or 100 EFLOPs",
        units={
            **_units(_SI, "flops", "flop"),
            **_units(_SI, "flop/s-days", each=_DAY),
            **_units({k: v for k, v in _SI.items() if k}, "f-days", each=_DAY),
        },
    ),
    "flops_per_second": _Kind(
        name="FLOP/s",
        examples="989 TFLOP/s or 3.12e14",
        units=_units(_SI, "flop/s", "flops/s"),
    ),
    "usd": _Kind(
        name="dollars",
        examples="$2M, $350k or $1,605,532",
        units={"$" + scale: factor for scale, factor in _COUNTS.items()},
    ),
    "usd_per_hour": _Kind(
        name="dollars an hour",
        examples="$2.50/h",
        units=_units({"$": 1.0, "": 1.0}, "/h", "/hr", "/hour", "perhour", "/gpu-hour", "/gpu-h", "/gpuh"),
    ),
    "gpu_hours": _Kind(
        name="GPU-hours",
        examples="1M GPU-hours or 82,432 GPU-hours",
        units=_units(_COUNTS, "gpu-hours", "gpu-hour", "gpuhours", "gpuhour", "gpu-h", "gpuh"),
        bare=False,
    ),
    "bytes": _Kind(
        name="bytes",
        examples="80GiB, 512 MB or 1e9",
        units={
            **_units({k: v for k, v in _SI.items() if k not in ("z", "y")}, "b"),
            **_units(_BINARY, "b"),
            "bytes": 1.0,
        },
    ),
    "seconds": _Kind(
        name="a duration",
        examples="30d, 12h, 1h30m or 45s",
        units={
            **dict.fromkeys(("s", "sec", "second", "seconds"), 1.0),
            **dict.fromkeys(("m", "min", "minute", "minutes"), 60.0),
            **dict.fromkeys(("h", "hr", "hour", "hours"), 3600.0),
            **dict.fromkeys(("d", "day", "days"), _DAY),
            **dict.fromkeys(("w", "week", "weeks"), 7 * _DAY),
            **dict.fromkeys(("y", "year", "years"), 365.25 * _DAY),
            "ms": 1e-3,
            "us": 1e-6,
        },
        bare=False,  # 30 is as likely days or milliseconds
    ),
    "fraction": _Kind(name="a fraction", examples="40% or 0.4", units={"%": 0.01}),
}


def parse_count(text: str | float) -> float:
    """A number of parameters or tokens.

    >>> parse_count("1.4T")
    1400000000000.0
    """
    return _parse(text, "count")


def parse_number(text: str | float) -> float:
    """What may be a count, written like one, or any other number: `1.4T`, `0.003`, `1e-3`."""
    return _parse_any(text, ("count",), "a number", "0.003, 1e12 or 7B").value


def parse_flops(text: str | float) -> float:
    """A number of floating-point operations: `1e24`, `5.88e23 FLOPs`, `100 EFLOPs`, `3640 PF-days`."""
    return _parse(text, "flops")


def parse_flops_per_second(text: str | float) -> float:
    """A rate of floating-point operations, such as an accelerator's peak: `989 TFLOP/s`."""
    return _parse(text, "flops_per_second")


def parse_usd(text: str | float) -> float:
    """An amount of dollars: `$2M`, `350k USD`."""
    return _parse(text, "usd")


def parse_usd_per_hour(text: str | float) -> float:
    """The price of one accelerator for one hour: `$2.50/h`."""
    return _parse(text, "usd_per_hour")


def parse_gpu_hours(text: str | float) -> float:
    """Hours of one accelerator: `1M GPU-hours`."""
    return _parse(text, "gpu_hours")


def parse_bytes(text: str | float) -> float:
    """An amount of memory or disk: `80GiB` is 80 x 2^30, `80GB` is 80 x 10^9."""
    return _parse(text, "bytes")


def parse_seconds(text: str | float) -> float:
    """A duration: `30d`, `1h30m`, `12 min 30 s`."""
    return _parse(text, "seconds")


def parse_fraction(text: str | float) -> float:
    """A share between 0 and 1: `40%` or `0.4`."""
    value = _parse(text, "fraction")
    if value > 1:
        shown = text if isinstance(text, str) else repr(text)
        raise InputError(
            f"'{shown}' is larger than 1, but a fraction is expected",
            hint="write a percentage like 40% or a fraction like 0.4",
        )
    return value


class CountRange(NamedTuple):
    """A count, or the range that it lies in; `per_month` where it is that of the first month."""

    low: float
    high: float
    per_month: bool


def parse_count_range(text: str | float) -> CountRange:
    """A count, one of two ends, or one of a month: `1e12`, `1e11..1e13`, `2B/month`.

    >>> parse_count_range("1e11..1e13/month")
    CountRange(low=100000000000.0, high=10000000000000.0, per_month=True)
    """
    if not isinstance(text, str):
        value = parse_count(text)
        return CountRange(value, value, False)
    counts, slash, period = text.partition("/")
    if slash and period.strip().lower() not in ("month", "mo", "m"):
        raise InputError(f"{text!r} is neither a count nor one a month", hint="write 1e12, or 2B/month")
    ends = [parse_count(part) for part in counts.split("..")]
    if len(ends) > 2 or ends[0] > ends[-1]:
        raise InputError(f"{text!r} is no range", hint="write its ends as 1e11..1e13, the smaller first")
    if len(ends) == 2 and ends[0] == 0:
        raise InputError(f"{text!r} starts at 0", hint="write the least that you expect, such as 1e9..1e13")
    return CountRange(ends[0], ends[-1], bool(slash))


_MONTHS = {"month": 1, "mo": 1, "m": 1, "quarter": 3, "year": 12, "y": 12}


def parse_rate(text: str | float, *, months: int) -> float:
    """A rate of change that compounds, over so many months: `5%/month`, `10%` (of `months`), `-20%/year`.

    >>> round(parse_rate("100%/year", months=1), 4)
    0.0595
    """
    hint = "write it like 5%/month or 10%/year"
    share, slash, period = str(text).partition("/")
    if slash and period.strip().lower() not in _MONTHS:
        raise InputError(f"{text!r} is no rate of change", hint=hint)
    sign = -1 if share.strip().startswith("-") else 1
    try:
        value = sign * _parse(share.strip().removeprefix("-"), "fraction")
    except InputError as error:
        raise InputError(f"{text!r} is no rate of change", hint=hint) from error
    if value <= -1:
        raise InputError(f"{text!r} leaves nothing after one period", hint=hint)
    return (1 + value) ** (months / _MONTHS[period.strip().lower()]) - 1 if slash else value


def parse_budget(text: str | float) -> Quantity:
    """A budget of FLOPs, dollars or GPU-hours; a bare number is FLOPs.

    >>> parse_budget("1M GPU-hours")
    Quantity(value=1000000.0, kind='gpu_hours')
    """
    expected: tuple[QuantityKind, ...] = ("flops", "usd", "gpu_hours")
    return _parse_any(text, expected, "a budget", "1e24 (FLOPs), $2M or 1M GPU-hours")


def _parse(text: str | float, kind: QuantityKind) -> float:
    return _parse_any(text, (kind,), _KINDS[kind].name, _KINDS[kind].examples).value


def _parse_any(text: str | float, kinds: tuple[QuantityKind, ...], name: str, examples: str) -> Quantity:
    """Reads `text` as the first of `kinds` that it fits; says what it is instead where it fits none."""
    hint = f"write {examples}"
    if not isinstance(text, str):
        return Quantity(value=_checked(float(text), repr(text), name, hint), kind=kinds[0])
    for kind in kinds:
        if (value := _read(text, kind)) is not None:
            return Quantity(value=_checked(value, text, name, hint), kind=kind)
    if text.strip().lower().lstrip("+-") in ("nan", "inf", "infinity"):
        raise InputError(f"expected {name}, but {text} is not a finite number", hint=hint)
    found = next((_KINDS[kind].name for kind in _KINDS if _read(text, kind) is not None), None)
    if found is None:
        raise InputError(f"{text!r} is not {name}", hint=hint)
    if _read(text, "fraction") is not None and "%" not in text:
        raise InputError(f"expected {name}, but {text!r} has no unit", hint=hint)
    raise InputError(f"expected {name}, but {text!r} is {found}", hint=hint)


def _checked(value: float, text: str, name: str, hint: str) -> float:
    if not math.isfinite(value):
        raise InputError(f"expected {name}, but {text} is not a finite number", hint=hint)
    if value < 0:
        raise InputError(f"expected {name}, but {text} is negative", hint=hint)
    return value


def _read(text: str, kind: QuantityKind) -> float | None:
    """The value of `text` in base units if it can be read as `kind`, else None."""
    lowered = text.lower()
    if kind == "seconds" and (total := _read_duration(lowered)) is not None:
        return total
    written = _WRITTEN.fullmatch(lowered)
    if written is None:
        return None
    unit = _canonical_unit(written["currency"] or "", written["unit"])
    factor = (1.0 if _KINDS[kind].bare else None) if unit == "" else _KINDS[kind].units.get(unit)
    return None if factor is None else _scaled(written["sign"] + written["number"], factor)


def _canonical_unit(before: str, after: str) -> str:
    """A unit without spaces, its currency in front: `M USD` becomes `$m`."""
    unit, currencies = _CURRENCY.subn("", before + "".join(after.split()))
    return "$" * currencies + unit


def _read_duration(text: str) -> float | None:
    """The sum of several parts, as in `1h30m`."""
    total, end, units = 0.0, 0, _KINDS["seconds"].units
    for part in _DURATION_PART.finditer(text):
        if part.start() != end or part["unit"] not in units:
            return None
        total, end = total + _scaled(part["number"], units[part["unit"]]), part.end()
    return total if end and not text[end:].strip() else None


def _scaled(number: str, factor: float) -> float:
    """`number` x `factor`, exact for powers of ten: they move the exponent instead of multiplying."""
    mantissa, _, exponent = number.replace(",", "").replace("_", "").partition("e")
    shift = round(math.log10(factor))
    if 10.0**shift == factor:
        return float(f"{mantissa}e{int(exponent or 0) + shift}")
    return float(f"{mantissa}e{exponent or 0}") * factor


def format_number(value: float, digits: int = 3) -> str:
    """`value` to so many significant digits; below a million, never less than its whole part.

    >>> format_number(0.012345), format_number(12345.6), format_number(5.88e23)
    ('0.0123', '12,346', '5.88e23')
    """
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    rounded = float(f"{value:.{digits - 1}e}")
    if not 1e-4 <= abs(rounded) < 1e6:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        return f"{_trimmed(mantissa)}e{int(exponent)}"
    decimals = digits - 1 - math.floor(math.log10(abs(rounded)))
    return f"{value:,.0f}" if decimals <= 0 else _trimmed(f"{rounded:.{decimals}f}")


def format_count(value: float, digits: int = 3) -> str:
    """A number of parameters or tokens: 6738415616 is `6.74B`."""
    if abs(value) >= 0.9995e15:
        return format_number(value, digits)
    return _with_scale(value, digits, (*_MILLIONS, (1e3, "K")))


def counted(number: int, noun: str) -> str:
    """A number of things: `1 run`, `1,200 runs`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def format_flops(value: float, digits: int = 3) -> str:
    """A number of floating-point operations, in powers of ten: `5.88e23 FLOPs`."""
    return f"{format_number(value, digits)} FLOPs"


def format_flops_per_second(value: float, digits: int = 3) -> str:
    """A rate of floating-point operations: `312 TFLOP/s`."""
    return _with_scale(value, digits, ((1e15, " P"), (1e12, " T"), (1e9, " G"), (1.0, " "))) + "FLOP/s"


def format_usd(value: float, digits: int = 3) -> str:
    """An amount of dollars: `$1.61M`, `$350,000`, `$2.50`."""
    if 0.01 <= abs(value) < 99.995:
        return f"${value:.2f}"
    return "$" + _with_scale(value, digits, _MILLIONS)


def format_usd_per_hour(value: float) -> str:
    """The price of one accelerator for one hour: `$2.50/h`."""
    return f"{format_usd(value)}/h"


def format_gpu_hours(value: float, digits: int = 3) -> str:
    """Hours of one accelerator: `82,432 GPU-hours`, `1.02M GPU-hours`."""
    return _with_scale(value, digits, _MILLIONS) + " GPU-hours"


def format_bytes(value: float, digits: int = 3) -> str:
    """An amount of memory or disk in powers of 1,024: `80 GiB`."""
    scales = ((2.0**50, " PiB"), (2.0**40, " TiB"), (2.0**30, " GiB"), (2.0**20, " MiB"), (2.0**10, " KiB"))
    return _with_scale(value, digits, (*scales, (1.0, " B")))


def format_seconds(value: float) -> str:
    """A duration in its two largest units: `3 d 4 h`, `12 min 30 s`, `4.2 s`, `450 ms`."""
    if not math.isfinite(value):
        return f"{value:g} s"
    if value < 0.9995:
        return f"{format_number(value * 1e3)} ms"
    for unit, size, part, part_size in (("d", 24, "h", 3600), ("h", 60, "min", 60), ("min", 60, "s", 1)):
        whole, rest = divmod(round(value / part_size), size)
        if whole:
            return f"{whole} {unit} {rest} {part}" if rest else f"{whole} {unit}"
    return f"{format_number(value)} s"


def format_fraction(value: float, digits: int = 3) -> str:
    """A share as a percentage: `40%`."""
    return f"{format_number(value * 100, digits)}%"


def format_split(share: float) -> tuple[str, str]:
    """A share and the rest of the whole as percentages that add to 100: the smaller one to 2 digits.

    >>> format_split(0.0953)
    ('9.5%', '90.5%')
    """
    smaller = round(100 * min(share, 1 - share), 4)
    decimals = 0 if smaller == 0 else max(0, 1 - math.floor(math.log10(smaller)))
    first = f"{100 * share:.{decimals}f}"
    return f"{_trimmed(first)}%", f"{_trimmed(f'{100 - float(first):.{decimals}f}')}%"


def format_level(level: float) -> str:
    """How sure an interval is, with its nines: `99.99%`."""
    return format_fraction(level, 4)


def format_quantity(quantity: Quantity) -> str:
    """`quantity` in the words of its kind."""
    formats: dict[QuantityKind, Callable[[float], str]] = {
        "count": format_count,
        "flops": format_flops,
        "flops_per_second": format_flops_per_second,
        "usd": format_usd,
        "usd_per_hour": format_usd_per_hour,
        "gpu_hours": format_gpu_hours,
        "bytes": format_bytes,
        "seconds": format_seconds,
        "fraction": format_fraction,
    }
    return formats[quantity.kind](quantity.value)


def _with_scale(value: float, digits: int, scales: tuple[tuple[float, str], ...]) -> str:
    """`value` over the largest scale that it reaches once rounded, followed by that scale's suffix."""
    for factor, suffix in scales:
        if float(f"{abs(value) / factor:.{digits - 1}e}") >= 1:
            return format_number(value / factor, digits) + suffix
    factor, suffix = scales[-1]
    return format_number(value, digits) + (suffix if factor == 1 else "")


def _trimmed(number: str) -> str:
    """`number` without the zeros, and the point, that say nothing."""
    return number.rstrip("0").rstrip(".") if "." in number else number
