"""What the cards of a machine can do, each asked for itself."""

from __future__ import annotations

import pytest
import torch

from llama_scale.cli import checks
from llama_scale.errors import InputError
from llama_scale.training import environment
from llama_scale.training.kernels import Library, check_precision

CARDS = {0: "an A100", 1: "a T4"}


class Using:
    """Stands in for torch.cuda.device: the card in use is the one that torch asks."""

    current = 0

    def __init__(self, device: torch.device) -> None:
        self.wanted, self.before = device.index or 0, 0

    def __enter__(self) -> None:
        self.before, Using.current = Using.current, self.wanted

    def __exit__(self, *_: object) -> None:
        Using.current = self.before


@pytest.fixture(autouse=True)
def cards(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose first card has bf16 and whose second has not."""
    monkeypatch.setattr(torch.cuda, "device", Using)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: Using.current == 0)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: CARDS[device.index or 0])


def test_bf16_is_refused_on_the_card_that_has_none() -> None:
    for name in ("cuda", "cuda:0", "cpu"):
        check_precision("bf16", torch.device(name))
    check_precision("f32", torch.device("cuda:1"))
    with pytest.raises(InputError, match="is bf16, which a T4 does not compute in"):
        check_precision("bf16", torch.device("cuda:1"))


def test_doctor_asks_every_card(monkeypatch: pytest.MonkeyPatch) -> None:
    class Properties:
        name, total_memory = "a card", 2**34

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: Properties)
    for count, found in ((1, "in hardware"), (2, "emulated: runs use float32")):
        monkeypatch.setattr(torch.cuda, "device_count", lambda count=count: count)
        assert {check.name: check.found for check in checks._devices()}["bf16"] == found


@pytest.mark.parametrize(
    ("facts", "fast"),
    [
        ({"flags": "sse2 avx512_vnni"}, True),
        ({"flags": "sse2"}, False),
        ({"Features": "bf16"}, False),
        ({}, False),
    ],
)
def test_doctor_says_where_bytes_are_slow(
    facts: dict[str, str], fast: bool, kernels: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "cpu_facts", lambda: facts)
    check = checks._kernels()
    assert check.status == "pass" and kernels.name in check.found
    assert ("i8 is slower than i16" in check.found) is not fast
