"""Where workers of this machine run: on cores of their own, or sharing a card.

Cards are asked of nvidia-smi: launchers do not import torch.
"""

from __future__ import annotations

import math
import os
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from llama_scale import quantities
from llama_scale.errors import InputError
from llama_scale.frozen import frozen
from llama_scale.launch.memory import PROCESS_BYTES
from llama_scale.training.free_memory import free_memory_bytes

QUESTION = ("nvidia-smi", "--query-gpu=index,uuid,memory.free,name", "--format=csv,noheader,nounits")
# Of memory that a card does not count, in words of new and older drivers; in a container, of a card in parts.
UNTOLD = ("[N/A]", "[Not Supported]", "[Insufficient Permissions]")


@frozen
class Card:
    """An accelerator by the name that CUDA_VISIBLE_DEVICES takes, its free memory, and what it is."""

    name: str
    memory_bytes: float
    model: str = ""


@frozen
class Place:
    """Where one worker runs: the cores it is pinned to (none: wherever there is room), and its card."""

    cores: tuple[int, ...] = ()
    card: Card | None = None

    @property
    def room(self) -> str:
        """The memory that it shares with other workers, by name: its card's, or the machine's."""
        return self.card.name if self.card else ""


def places_for(workers: int, cards: Sequence[Card] = ()) -> list[Place]:
    """A place for each of `workers`: cards in turn, cores divided evenly, none pinned if they are too few."""
    cores = usable_cores()
    shares = [cores[i * len(cores) // workers : (i + 1) * len(cores) // workers] for i in range(workers)]
    pinned = all(shares)
    return [
        Place(cores=tuple(share) if pinned else (), card=cards[i % len(cards)] if cards else None)
        for i, share in enumerate(shares)
    ]


def rooms_of(places: Sequence[Place]) -> dict[str, float]:
    """Free bytes of each memory that `places` share, by its name."""
    return {p.room: p.card.memory_bytes if p.card else free_memory_bytes() for p in places}


def default_workers(cards: Sequence[Card] = (), largest_bytes: float = PROCESS_BYTES) -> int:
    """A worker a core; with cards, as many on each as its memory holds of the largest run."""
    cores = len(usable_cores())
    if not cards:
        return cores
    return sum(max(1, int(min(cores // len(cards), card.memory_bytes // largest_bytes))) for card in cards)


def threads_per_worker(workers: int) -> int:
    """Cores shared evenly between workers."""
    return max(1, len(usable_cores()) // workers)


def usable_cores() -> list[int]:
    """The cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def cards_here() -> tuple[Card, ...]:
    """The cards that this process may use; none where nvidia-smi knows of none."""
    try:
        said = subprocess.run(QUESTION, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return ()
    return cards_from(said.stdout, os.environ.get("CUDA_VISIBLE_DEVICES")) if said.returncode == 0 else ()


def device_here(device: str) -> str | None:
    """What the driver calls the card of this machine that `device` is; None where it is none."""
    cards, place = () if device == "cpu" else cards_here(), device.partition(":")[2]
    number = int(place) if place.isdigit() else 0
    return cards[number].model if number < len(cards) else None


def cards_for(device: str) -> tuple[Card, ...]:
    """The cards that a sweep on `device` shares out: all of them, or the one that it names as cuda:N.

    Raises InputError where there is no card of that number.
    """
    kind, _, place = device.partition(":")
    if kind not in ("auto", "cuda"):
        return ()
    cards = cards_here()
    if not place.isdigit() or not cards:
        return cards
    if int(place) >= len(cards):
        raise InputError(
            f"there is no {device}: nvidia-smi knows of {quantities.counted(len(cards), 'card')} here",
            hint=f"use cuda:0 to cuda:{len(cards) - 1}, or cuda",
        )
    return (cards[int(place)],)


def cards_from(table: str, visible: str | None) -> tuple[Card, ...]:
    """Cards out of nvidia-smi's lines `index, uuid, free MiB, name`; those in `visible` alone if it is given.

    Unknown memory is taken as infinite: of a part of a card (MIG), which the table lacks and which is taken
    for one of the first, and of a card that shares the machine's. A card of which the table says in its place
    that it is lost, or is to be reset, is none. As for CUDA, the first name in `visible` that is no card's,
    such as -1 or SLURM's NoDevFiles, ends the list, and the beginning of one card's uuid is its name.

    >>> cards_from("0, GPU-aa, 81079, NVIDIA L4", None)
    (Card(name='GPU-aa', memory_bytes=85017493504.0, model='NVIDIA L4'),)
    """
    by_index: dict[str, Card | None] = {}
    by_uuid: dict[str, Card | None] = {}
    for row in (line.split(", ") for line in table.splitlines()):
        with suppress(ValueError):
            index, uuid, mebibytes, model = row
            by_index[index] = by_uuid[uuid] = None
            free = math.inf if mebibytes in UNTOLD else float(mebibytes) * 2**20
            by_index[index] = by_uuid[uuid] = Card(name=uuid, memory_bytes=free, model=model)
    able = tuple(filter(None, by_index.values()))
    if visible is None:
        return able  # by uuid: CUDA may number cards in another order
    part = Card(name="", memory_bytes=math.inf, model=able[0].model if able else "")
    cards = by_index | by_uuid
    asked: dict[str, Card | None] = {}
    for name in map(str.strip, visible.split(",")):
        begun = [uuid for uuid in by_uuid if name.startswith("GPU-") and uuid.startswith(name)]
        whole = begun[0] if len(begun) == 1 else name
        if whole not in cards and not name.startswith("MIG-"):
            break
        asked[name] = cards.get(whole, part)
    return tuple(replace(card, name=name) for name, card in asked.items() if card)
