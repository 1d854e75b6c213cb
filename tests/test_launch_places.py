"""Where workers run: cores of their own, and cards that they share."""

from __future__ import annotations

import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest
from recipes import write_recipe

from llama_scale.errors import InputError
from llama_scale.launch import prepare_sweep
from llama_scale.launch.places import (
    Card,
    cards_for,
    cards_from,
    cards_here,
    default_workers,
    device_here,
    places_for,
    rooms_of,
    threads_per_worker,
    usable_cores,
)

TABLE = "0, GPU-aa, 80000, NVIDIA A\n1, GPU-bb, 40000, NVIDIA B\n"
AA = Card(name="GPU-aa", memory_bytes=80000 * 2**20, model="NVIDIA A")
BB = Card(name="GPU-bb", memory_bytes=40000 * 2**20, model="NVIDIA B")


def test_every_core_belongs_to_one_worker() -> None:
    cores = usable_cores()
    for workers in range(1, len(cores) + 1):
        places = places_for(workers)
        assert [core for place in places for core in place.cores] == cores
        assert all(len(place.cores) >= threads_per_worker(workers) for place in places)
    assert all(place.cores == () for place in places_for(len(cores) + 1)), "too many to have one each"


def test_cards_take_workers_in_turn_and_share_their_memory() -> None:
    places = places_for(5, (AA, BB))
    assert [place.card for place in places] == [AA, BB, AA, BB, AA]
    assert rooms_of(places) == {"GPU-aa": AA.memory_bytes, "GPU-bb": BB.memory_bytes}
    assert list(rooms_of(places_for(2))) == [""]


def test_a_card_gets_as_many_workers_as_its_memory_and_its_cores_allow() -> None:
    cores = len(usable_cores())
    assert default_workers() == cores
    assert default_workers((AA,), largest_bytes=1e9) == cores
    assert default_workers((AA, BB), largest_bytes=75e9) == 2
    assert default_workers((AA,), largest_bytes=1e15) == 1, "one may always be tried"


@pytest.mark.parametrize(
    ("visible", "cards"),
    [
        (None, (AA, BB)),
        ("1", (replace(BB, name="1"),)),
        ("GPU-bb, GPU-aa", (BB, AA)),
        ("MIG-cc", (Card(name="MIG-cc", memory_bytes=float("inf"), model="NVIDIA A"),)),
        ("", ()),
        ("-1", ()),
        ("1,-1,0", (replace(BB, name="1"),)),
        ("0,7,1", (replace(AA, name="0"),)),
        ("NoDevFiles", ()),
        ("1,,0", (replace(BB, name="1"),)),
        ("GPU-b,GPU-dd,GPU-aa", (replace(BB, name="GPU-b"),)),
        ("GPU-,0", ()),
    ],
)
def test_the_cards_are_those_that_are_visible(visible: str | None, cards: tuple[Card, ...]) -> None:
    assert cards_from(TABLE, visible) == cards


@pytest.mark.parametrize("untold", ["[N/A]", "[Not Supported]", "[Insufficient Permissions]"])
def test_a_card_whose_memory_the_driver_does_not_tell_is_a_card(untold: str) -> None:
    """As where it is the machine's own, or in parts: a sweep had a worker a core, none of them on a card."""
    (card,) = cards_from(f"0, GPU-aa, {untold}, NVIDIA GB10\n", None)
    assert card == Card(name="GPU-aa", memory_bytes=float("inf"), model="NVIDIA GB10")
    assert default_workers((card,), largest_bytes=1e9) == len(usable_cores())


@pytest.mark.parametrize("fault", ["[GPU is lost]", "[GPU requires reset]", "[Unknown Error]"])
def test_a_card_that_cannot_be_used_gets_no_runs(fault: str) -> None:
    """Were its memory taken as unknown, all runs would seem to fit on it, and each would fail there."""
    table = f"0, GPU-aa, {fault}, NVIDIA L4\n1, GPU-bb, 81079, NVIDIA L4\n"
    assert [card.name for card in cards_from(table, None)] == ["GPU-bb"]
    assert [card.name for card in cards_from(table, "0,1")] == ["1"]
    assert [card.name for card in cards_from(table, "GPU-aa,GPU-bb")] == ["GPU-bb"]


def test_a_device_by_number_is_one_card_that_is_shared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\nprintf '{TABLE}'\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert [cards_for(device) for device in ("auto", "cuda", "cuda:1", "cpu")] == [
        (AA, BB),
        (AA, BB),
        (BB,),
        (),
    ]
    named = [device_here(device) for device in ("auto", "cuda", "cuda:1", "cuda:2", "cpu")]
    assert named == [AA.model, AA.model, BB.model, None, None]
    with pytest.raises(InputError, match=r"there is no cuda:2: nvidia-smi knows of 2 cards"):
        cards_for("cuda:2")
    # those of a login node are not those that a cluster's jobs run on
    recipe, store = write_recipe(tmp_path), tmp_path / "runs"
    prepared = prepare_sweep(recipe, store=store, device="cuda:2", launcher="slurm", dry_run=True)
    assert prepared.cards == ()


def test_a_driver_that_says_nonsense_has_no_cards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real program in place of nvidia-smi: it fails, or says what is no table."""
    program = tmp_path / "nvidia-smi"
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    for body, cards in (("exit 9", ()), ("echo No devices were found", ()), (f"printf '{TABLE}'", (AA, BB))):
        program.write_text(f"#!/bin/sh\n{body}\n")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        assert cards_here() == cards
