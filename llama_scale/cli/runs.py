"""`llama-scale runs`: what a store holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llama_scale import quantities
from llama_scale.cli.options import Group, complete_run_ids, json_option, store_option
from llama_scale.cli.output import current_output, table
from llama_scale.errors import InputError

if TYPE_CHECKING:
    from llama_scale.runs import RunRecord


@click.group(cls=Group)
def command() -> None:
    """What has been run, and how did it end?"""


@command.command(
    name="ls",
    examples=("llama-scale runs ls", "llama-scale runs ls --store /scratch/runs --json"),
)
@store_option
@json_option
def list_runs(store: Path, as_json: bool) -> None:
    """Which runs are in the store, and how far is each?"""
    from llama_scale.runs import read_records

    records = read_records(store)
    current_output().result({"runs": records}, lambda: _listing(records))


def _listing(records: tuple[RunRecord, ...]) -> list[object]:
    if not records:
        return ["No runs yet. `llama-scale sweep` makes some."]
    counts = Counter(record.status for record in records)
    summary = f"{len(records)} runs: {', '.join(f'{n} {status}' for status, n in counts.most_common())}."
    ordered = sorted(records, key=lambda r: (r.role, r.parameters.matmul, r.tokens))
    rows = [
        (
            r.run,
            r.role,
            r.status,
            quantities.format_count(r.parameters.matmul),
            quantities.format_count(r.tokens) if r.tokens else "–",
            f"{r.loss_nats:.4f}" if r.loss_nats is not None else "–",
            f"{r.bits_per_byte:.4f}" if r.bits_per_byte is not None else "–",
        )
        for r in ordered
    ]
    return [summary, "", table(rows, ("run", "role", "status", "params", "tokens", "nats", "bits/byte"))]


@command.command(
    name="show",
    examples=(
        "llama-scale runs show 0123456789abcdef",
        "llama-scale runs show 0123456789abcdef --json",
    ),
)
@click.argument("run", shell_complete=complete_run_ids)
@store_option
@json_option
def show_run(run: str, store: Path, as_json: bool) -> None:
    """What is this run, what did it cost, and what did it reach?"""
    from llama_scale.config import plain
    from llama_scale.runs import find_run, read_record

    folder = find_run(store, run)
    record, config, result, curve = read_record(folder), folder.config, folder.result(), folder.curve()
    value = {
        "record": plain(record),
        "config": plain(config),
        "result": result,
        "curve": plain(curve),
    }
    current_output().result(value, lambda: _description(record, value, run))


@command.command(
    name="export",
    examples=(
        "llama-scale runs export records.json",
        "llama-scale runs export records.json --store /scratch/runs",
    ),
)
@click.argument("path", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--force", is_flag=True, help="Replace PATH if it exists.")
@store_option
@json_option
def export_runs(path: Path, force: bool, store: Path, as_json: bool) -> None:
    """How do I share what these runs reached, without their checkpoints?

    Writes the record of every run as one JSON file; `llama_scale.runs.load_records` reads it.
    """
    from llama_scale.runs import read_records, write_records

    if path.exists() and not force:
        raise InputError(f"{path} exists", hint="give another name, or --force to replace it")
    records = read_records(store)
    write_records(path, records)
    current_output().result(
        {"path": str(path), "runs": len(records)}, f"{len(records)} runs written to {path}."
    )


def _description(record: RunRecord, value: dict[str, Any], run: str) -> list[object]:
    reached = f", {record.loss_nats:.4f} nats/token" if record.loss_nats is not None else ""
    headline = f"Run {run} ({record.role}): {record.status}{reached}."
    rows = list(_leaves({"config": value["config"], "result": value["result"] or {}}))
    return [headline, "", table(rows, ("field", "value"))]


def _leaves(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting below `tree` by its dotted path."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
