"""What a run left behind, in one line: what laws are fitted on, and what is shared without its folder."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Literal

from llama_scale.architecture import ParameterCounts
from llama_scale.canonical import added
from llama_scale.config import structure
from llama_scale.errors import InputError
from llama_scale.files import ANOTHER_STORE, parse_json, write_atomically
from llama_scale.frozen import frozen
from llama_scale.runs.configs import RunConfig, RunRole
from llama_scale.runs.folders import RunFolder

RunStatus = Literal["planned", "running", "done", "diverged", "failed"]
ENDED = ("done", "diverged", "failed")


@frozen
class RunRecord:
    """One run's outcome: what a law is fitted on, tested with (`holdout`) or never sees (`trunk`, `search`).

    `family` names the constant-rate trunk that a decay branch grew from: runs of one family share
    its noise. `corpus` and `tokenizer` are hashes; losses compare only where both are equal. `unique_tokens`
    are those of `tokens` that the run saw for the first time; None where nothing tells.
    """

    run: str
    role: RunRole
    status: RunStatus
    parameters: ParameterCounts
    tokens: int
    train_flops: float
    budget_flops: float | None
    loss_nats: float | None
    bits_per_byte: float | None
    seed: int
    family: str
    corpus: str
    tokenizer: str
    schedule_complete: bool
    unique_tokens: int | None = added(None)

    def is_beyond(self, other: RunRecord) -> bool:
        """Whether this record of the same run says more: it ended and the other did not, or got further."""
        return (self.status in ENDED, self.tokens) > (other.status in ENDED, other.tokens)


def write_records(path: Path, records: Iterable[RunRecord], *, other: str = ANOTHER_STORE) -> None:
    """Write records as one JSON file, to share or commit them without their stores.

    Raises StoreError, with the advice to choose the `other` place, where that cannot be done.
    """
    text = json.dumps({"schema": 1, "records": [asdict(r) for r in records]}, indent=1) + "\n"
    write_atomically(path, text, other=other)


def load_records(path: Path | str) -> tuple[RunRecord, ...]:
    """Records that `write_records` wrote; raises InputError for a file that is not theirs."""
    problem = "it is not what `runs export` writes"
    try:
        content = parse_json(Path(path).read_text())
        if isinstance(content, dict) and isinstance(content.get("records"), list):
            return tuple(structure(record, RunRecord, source=str(path)) for record in content["records"])
    except OSError as error:
        problem = (error.strerror or "it cannot be read").lower()
    except ValueError as error:
        problem = f"it is not JSON, or cut short ({error})"
    raise InputError(
        f"{str(path)!r} holds no run records: {problem}",
        hint="make one with `llama-scale runs export`, or give the runs as a CSV",
    )


def read_record(folder: RunFolder) -> RunRecord:
    """What is known of one run; a run without a result counts the steps that its checkpoints hold."""
    config, result = folder.config, folder.result()
    found = result or {}
    steps = found["steps"] if result else max(folder.checkpoint_steps(), default=0)
    status: RunStatus = "planned"
    if result:
        status = result["status"]
    elif steps:
        # A trunk has no end of its own: it is done when its branches are.
        status = "done" if config.schedule.total_steps is None else "running"
    return RunRecord(
        run=folder.run,
        role=config.role,
        status=status,
        parameters=config.model.parameters,
        tokens=steps * config.tokens_per_step,
        train_flops=config.train_flops(steps),
        budget_flops=config.budget_flops,
        loss_nats=found.get("loss_nats"),
        bits_per_byte=found.get("bits_per_byte"),
        seed=config.seed,
        family=config.branch.parent if config.branch else folder.run,
        corpus=config.corpus,
        tokenizer=found.get("tokenizer", ""),
        schedule_complete=status == "done" and _came_down(config, steps),
        unique_tokens=_seen_first(found.get("data", ())),
    )


def _seen_first(texts: Iterable[Mapping[str, int]]) -> int | None:
    """Tokens that a run saw for the first time, over the texts it trained on; None where none are told."""
    each = [min(text["tokens"], text["unique_tokens"]) for text in texts]
    return sum(each) if each else None


def _came_down(config: RunConfig, steps: int) -> bool:
    """Whether the rate has decayed: a loss at its peak is .1 nats higher or more, and belongs in no fit."""
    return steps == config.schedule.total_steps and config.schedule.kind != "constant"
