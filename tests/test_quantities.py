from __future__ import annotations

import doctest
from contextlib import suppress
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_scale import quantities
from llama_scale.errors import InputError
from llama_scale.quantities import (
    Quantity,
    format_bytes,
    format_count,
    format_flops,
    format_flops_per_second,
    format_fraction,
    format_gpu_hours,
    format_number,
    format_quantity,
    format_seconds,
    format_split,
    format_usd,
    format_usd_per_hour,
    parse_budget,
    parse_bytes,
    parse_count,
    parse_flops,
    parse_flops_per_second,
    parse_fraction,
    parse_gpu_hours,
    parse_rate,
    parse_seconds,
    parse_usd,
    parse_usd_per_hour,
)

sizes = st.floats(min_value=1e-3, max_value=1e30)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("7B", 7e9),
        ("7b", 7e9),
        ("7e9", 7e9),
        ("1.4T", 1.4e12),
        ("300M", 3e8),
        ("32K", 32_000),
        ("1e12", 1e12),
        ("7_000", 7000),
        ("1,000,000", 1e6),
        ("7 billion", 7e9),
        ("1T tokens", 1e12),
        (".5B", 5e8),
        ("0", 0),
        (" 2 ", 2),
        (7e9, 7e9),
        (12, 12),
    ],
)
def test_counts(text: str | float, value: float) -> None:
    assert parse_count(text) == value


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        (parse_flops, "5.88e23", 5.88e23),
        (parse_flops, "5.88e23 FLOPs", 5.88e23),
        (parse_flops, "100 EFLOPs", 1e20),
        (parse_flops, "3640 PF-days", 3640 * 8.64e19),
        (parse_flops_per_second, "989 TFLOP/s", 9.89e14),
        (parse_flops_per_second, "3.12e14", 3.12e14),
        (parse_usd, "$2M", 2e6),
        (parse_usd, "2M USD", 2e6),
        (parse_usd, "$1,605,532", 1_605_532),
        (parse_usd_per_hour, "$2.50/h", 2.5),
        (parse_usd_per_hour, "2.5", 2.5),
        (parse_usd_per_hour, "2.50 USD/hour", 2.5),
        (parse_gpu_hours, "1M GPU-hours", 1e6),
        (parse_gpu_hours, "82,432 gpuh", 82_432),
        (parse_bytes, "80GiB", 80 * 2**30),
        (parse_bytes, "80 GB", 80e9),
        (parse_bytes, "512 B", 512),
        (parse_seconds, "30d", 30 * 86_400),
        (parse_seconds, "1h30m", 5400),
        (parse_seconds, "12 min 30 s", 750),
        (parse_seconds, "450 ms", 0.45),
        (parse_seconds, "450us", 4.5e-4),
        (parse_seconds, "2 weeks", 14 * 86_400),
        (parse_seconds, "1y", 365.25 * 86_400),
        (parse_fraction, "40%", 0.4),
        (parse_fraction, "0.4", 0.4),
        (parse_fraction, 1, 1),
    ],
)
def test_units(parse, text: str | float, value: float) -> None:
    assert parse(text) == pytest.approx(value, rel=1e-15)


@pytest.mark.parametrize(
    ("text", "quantity"),
    [
        ("1e24", Quantity(value=1e24, kind="flops")),
        ("1e24 FLOPs", Quantity(value=1e24, kind="flops")),
        ("$2M", Quantity(value=2e6, kind="usd")),
        ("1M GPU-hours", Quantity(value=1e6, kind="gpu_hours")),
        (1e24, Quantity(value=1e24, kind="flops")),
    ],
)
def test_budgets_keep_their_kind(text: str | float, quantity: Quantity) -> None:
    assert parse_budget(text) == quantity


@pytest.mark.parametrize(
    ("parse", "text", "expected", "found"),
    [
        (parse_count, "$2M", "a count of parameters or tokens", "dollars"),
        (parse_count, "80GiB", "a count of parameters or tokens", "bytes"),
        (parse_flops, "312 TFLOP/s", "FLOPs", "FLOP/s"),
        (parse_flops, "7B", "FLOPs", "a count of parameters or tokens"),
        (parse_usd_per_hour, "$2.50", "dollars an hour", "dollars"),
        (parse_usd, "$2.50/h", "dollars", "dollars an hour"),
        (parse_budget, "2M", "a budget", "a count of parameters or tokens"),
        (parse_budget, "30d", "a budget", "a duration"),
        (parse_seconds, "80%", "a duration", "a fraction"),
    ],
)
def test_a_wrong_dimension_says_what_was_expected_and_what_was_found(parse, text, expected, found) -> None:
    with pytest.raises(InputError) as raised:
        parse(text)
    assert raised.value.message == f"expected {expected}, but '{text}' is {found}"
    assert raised.value.hint.startswith("write ")


@pytest.mark.parametrize("text", ["", "abc", "7Q", "1,5", "1,0000", "--5", "7 B B", "1 2", "e9", "$"])
def test_what_is_no_number_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="is not a count"):
        parse_count(text)


@pytest.mark.parametrize("text", ["-5", "1e999", "nan", "-Infinity", float("nan"), float("inf"), -1])
def test_negative_and_infinite_numbers_are_refused(text: str | float) -> None:
    with pytest.raises(InputError, match=r"negative|not a finite"):
        parse_count(text)


def test_a_number_without_its_unit_is_refused_where_units_matter() -> None:
    with pytest.raises(InputError, match="has no unit"):
        parse_gpu_hours("40")


def test_a_fraction_above_one_is_refused() -> None:
    with pytest.raises(InputError, match="larger than 1"):
        parse_fraction("40")


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        (format_count(6_738_415_616), "6.74B"),
        (format_count(7e9), "7B"),
        (format_count(999.9e9), "1T"),
        (format_count(32_000), "32K"),
        (format_count(512), "512"),
        (format_count(0), "0"),
        (format_count(1e16), "1e16"),
        (format_flops(5.88e23), "5.88e23 FLOPs"),
        (format_flops_per_second(312e12), "312 TFLOP/s"),
        (format_usd(1_605_532), "$1.61M"),
        (format_usd(350_000), "$350,000"),
        (format_usd(2.5), "$2.50"),
        (format_usd(0), "$0"),
        (format_usd_per_hour(2.5), "$2.50/h"),
        (format_gpu_hours(82_432), "82,432 GPU-hours"),
        (format_bytes(80 * 2**30), "80 GiB"),
        (format_bytes(12), "12 B"),
        (format_seconds(750), "12 min 30 s"),
        (format_seconds(86_399.9), "1 d"),
        (format_seconds(0.45), "450 ms"),
        (format_seconds(45.6), "45.6 s"),
        (format_seconds(59.6), "1 min"),
        (format_seconds(5400), "1 h 30 min"),
        (format_seconds(0.9994), "999 ms"),
        (format_usd(99.99), "$99.99"),
        (format_usd(99.996), "$100"),
        (format_usd(0.004), "$0.004"),
        (format_seconds(float("nan")), "nan s"),
        (format_seconds(float("inf")), "inf s"),
        (format_fraction(0.4), "40%"),
        (format_fraction(0.01234), "1.23%"),
        (format_number(12345.6), "12,346"),
        (format_number(999_999.9), "1e6"),
        (format_number(-0.012345), "-0.0123"),
        (format_number(1.0), "1"),
    ],
)
def test_what_people_read(shown: str, text: str) -> None:
    assert shown == text


@given(sizes)
def test_counts_round_trip(value: float) -> None:
    assert parse_count(format_count(value, 15)) == pytest.approx(value, rel=1e-12)
    assert parse_count(format_count(value)) == pytest.approx(value, rel=6e-3)


@given(sizes)
def test_every_kind_reads_what_it_prints(value: float) -> None:
    for kind in ("flops", "usd", "gpu_hours"):
        quantity = Quantity(value=max(1.0, value), kind=kind)
        again = parse_budget(format_quantity(quantity))
        assert again.kind == kind
        assert again.value == pytest.approx(quantity.value, rel=6e-3)
    assert parse_bytes(format_bytes(value)) == pytest.approx(value, rel=6e-3)
    assert parse_flops_per_second(format_flops_per_second(value)) == pytest.approx(value, rel=6e-3)


@given(st.floats(min_value=1e-3, max_value=1e10))
def test_durations_round_trip(value: float) -> None:
    assert parse_seconds(format_seconds(value)) == pytest.approx(value, rel=0.03)


@given(st.floats(min_value=0, max_value=1))
def test_fractions_round_trip(value: float) -> None:
    assert parse_fraction(format_fraction(value)) == pytest.approx(value, rel=6e-3)


@given(st.floats(min_value=0, max_value=1))
def test_shares_of_one_whole_add_to_it(share: float) -> None:
    parts = format_split(share)
    assert sum(Decimal(part.removesuffix("%")) for part in parts) == 100
    assert parse_fraction(parts[0]) == pytest.approx(share, rel=0.06, abs=5e-7)


@pytest.mark.parametrize(
    ("share", "parts"),
    [(0.14, ("14%", "86%")), (0.0953, ("9.5%", "90.5%")), (0.9953, ("99.53%", "0.47%")), (0, ("0%", "100%"))],
)
def test_the_smaller_share_has_two_digits(share: float, parts: tuple[str, str]) -> None:
    assert format_split(share) == parts


@pytest.mark.parametrize("unit", ["k", "m", "b", "t"])
def test_a_unit_may_be_a_word(unit: str) -> None:
    words = {"k": "thousand", "m": "million", "b": "billion", "t": "trillion"}
    assert parse_count(f"3 {words[unit]}s") == parse_count(f"3 {words[unit]}") == parse_count(f"3{unit}")


@pytest.mark.parametrize(
    ("text", "yearly"),
    [
        ("100%/year", 2),
        ("100%/y", 2),
        ("5%/month", 1.05**12),
        ("5%/mo", 1.05**12),
        ("5%/m", 1.05**12),
        ("-20%/quarter", 0.8**4),
        ("-20%", 0.8),
        ("0.1", 1.1),
        (0.1, 1.1),
    ],
)
def test_rates_compound(text: str | float, yearly: float) -> None:
    assert 1 + parse_rate(text, months=12) == pytest.approx(yearly)


@given(st.integers(min_value=0, max_value=10**6), st.sampled_from([("k", 3), ("M", 6), ("B", 9), ("T", 12)]))
def test_a_suffix_is_exactly_a_power_of_ten(thousandths: int, suffix: tuple[str, int]) -> None:
    letter, power = suffix
    assert parse_count(f"{thousandths / 1000}{letter}") == float(f"{thousandths / 1000}e{power}")


@given(st.text())
def test_any_text_is_read_or_refused_politely(text: str) -> None:
    for parse in (parse_count, parse_budget, parse_seconds, parse_bytes, parse_usd_per_hour, parse_fraction):
        with suppress(InputError):
            assert parse(text) is not None


def test_the_examples_of_the_documentation() -> None:
    assert doctest.testmod(quantities).failed == 0
