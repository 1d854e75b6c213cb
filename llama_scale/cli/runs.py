"""`llama-scale runs`: what a store holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llama_scale import quantities
from llama_scale.cli.options import Group, PathType, complete_run_ids, json_option, store_option
from llama_scale.cli.output import current_output, table
from llama_scale.cli.settings import OwnOption
from llama_scale.errors import InputError, StoreError

if TYPE_CHECKING:
    from llama_scale.runs import RunFolder, RunRecord
    from llama_scale.runs.upkeep import Spare


@click.group(
    cls=Group,
    alone="ls",
    examples=("llama-scale runs", "llama-scale runs --json", "llama-scale runs show 0123456789abcdef"),
)
def command() -> None:
    """What has been run, and how did it end?

    Without a COMMAND it is `llama-scale runs ls`, with all its options.
    """


@command.command(
    name="ls",
    examples=("llama-scale runs ls", "llama-scale runs ls --store /scratch/runs --json"),
)
@store_option
@json_option
def list_runs(store: Path, as_json: bool) -> None:
    """Which runs are in the store, and how far is each?"""
    from llama_scale.runs import read_records

    torn: list[StoreError] = []
    records = read_records(store, unreadable=torn.append)
    output = current_output()
    for error in torn:
        output.warn(f"{error.message}; {error.hint}")
    told = [error.message for error in torn]
    output.result({"runs": records, "unreadable": told}, lambda: _listing(records))


def _listing(records: tuple[RunRecord, ...]) -> list[object]:
    if not records:
        return ["No runs yet. `llama-scale sweep` makes some."]
    counts = Counter(record.status for record in records)
    states = ", ".join(f"{number} {status}" for status, number in counts.most_common())
    summary = f"{quantities.counted(len(records), 'run')}: {states}."
    ordered = sorted(records, key=lambda r: (r.role, r.parameters.matmul, r.tokens))
    count = cache(quantities.format_count)  # of many runs: most have the sizes and lengths of others
    rows = [
        (
            r.run,
            r.role,
            r.status,
            count(r.parameters.matmul),
            count(r.tokens) if r.tokens else "–",
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
    from llama_scale.canonical import plain
    from llama_scale.runs import read_record

    folder = _find(store, run)
    record, config, result, curve = read_record(folder), folder.config, folder.result(), folder.curve()
    value = {
        "record": plain(record),
        "config": plain(config),
        "result": result,
        "curve": plain(curve),
    }
    current_output().result(value, lambda: _description(record, value))


@command.command(
    name="diff",
    examples=(
        "llama-scale runs diff 0123456789abcdef fedcba9876543210",
        "llama-scale runs diff 0123456789abcdef fedcba9876543210 --json",
    ),
)
@click.argument("one", shell_complete=complete_run_ids)
@click.argument("other", shell_complete=complete_run_ids)
@store_option
@json_option
def diff_runs(one: str, other: str, store: Path, as_json: bool) -> None:
    """In which settings, and in which results, do two runs differ?"""
    from llama_scale.canonical import differences

    folders = [_find(store, run) for run in (one, other)]
    ours, theirs = ({"config": folder.config, "result": folder.result()} for folder in folders)
    names = [folder.run for folder in folders]
    found = list(differences(ours, theirs))
    value = {
        "runs": names,
        "differences": [{"field": field, names[0]: a, names[1]: b} for field, a, b in found],
    }
    rows = [(field, _short(a), _short(b)) for field, a, b in found]
    current_output().result(
        value, lambda: table(rows, ("field", *names)) if rows else "Nothing: they are the same run."
    )


@command.command(
    name="export",
    examples=(
        "llama-scale runs export records.json",
        "llama-scale runs export runs.csv --store /scratch/runs",
        "llama-scale runs export runs.parquet --force",
        "llama-scale runs export curves.csv --curves",
    ),
)
@click.argument("path", type=PathType(dir_okay=False, path_type=Path))
@click.option("--curves", is_flag=True, help="Write loss curves, a row a logged step, to draw with `plot`.")
@click.option("--force", is_flag=True, help="Replace PATH if it exists.")
@store_option
@json_option
def export_runs(path: Path, curves: bool, force: bool, store: Path, as_json: bool) -> None:
    """How do I share what these runs reached, without their checkpoints?

    Writes a record of every run, as JSON, CSV or Parquet by the ending of PATH: `llama-scale fit` and
    `llama-scale runs import` read it. Or, with --curves, how their losses fell.
    """
    from llama_scale.files import check_new
    from llama_scale.runs import read_records
    from llama_scale.runs.tables import write_curves, write_table

    check_new(path, overwrite=force, other="name")
    records = read_records(store)
    held = quantities.counted(len(records), "run")
    if curves:
        rows = write_curves(path, store)
        told = f"{quantities.counted(rows, 'logged step')} of {held} written to {path}."
        return current_output().result({"path": str(path), "runs": len(records), "steps": rows}, told)
    write_table(path, records)
    current_output().result({"path": str(path), "runs": len(records)}, f"{held} written to {path}.")


@command.command(
    name="import",
    examples=("llama-scale runs import records.json", "llama-scale runs import runs.csv --store elsewhere"),
)
@click.argument("path", type=PathType(exists=True, dir_okay=False, path_type=Path))
@store_option
@json_option
def import_runs(path: Path, store: Path, as_json: bool) -> None:
    """How do I fit runs of another store together with mine?

    Adds the records that `llama-scale runs export` wrote: `runs ls` lists them and `fit` counts them.
    Of a run that is here already the record that got further counts.
    """
    from llama_scale.runs import import_records
    from llama_scale.runs.tables import read_table

    records = read_table(path)
    new = import_records(store, records)
    known = len(records) - len(new)
    current_output().result(
        {"path": str(path), "imported": [record.run for record in new], "known": known},
        f"{quantities.counted(len(new), 'run')} of {path} added to {store}; {known} there already.",
    )


@command.command(
    name="verify",
    examples=("llama-scale runs verify", "llama-scale runs verify 0123456789abcdef --json"),
)
@click.argument("runs", nargs=-1, metavar="[RUN]...", shell_complete=complete_run_ids)
@store_option
@json_option
def verify_runs(runs: tuple[str, ...], store: Path, as_json: bool) -> int:
    """Is every run still what was written?

    Checks the specs against their ids, the logs record by record, results against the logs, and every
    checkpoint and weight file against its hash; exits with 1 where something is amiss. `llama-scale data
    verify` checks the tokens.
    """
    from llama_scale.runs.upkeep import harms, harms_without_spec

    folders = _folders(store, runs)
    found = [harm for folder in folders for harm in harms(folder)]
    if not runs:
        found += harms_without_spec(store)
    rows = [(harm.run, harm.what, harm.consequence) for harm in found]
    verdict = quantities.counted(len(found), "harm") if found else "all whole"
    summary = f"{quantities.counted(len(folders), 'run')} checked: {verdict}."
    current_output().result(
        {"checked": len(folders), "harms": found},
        lambda: [summary, *(["", table(rows, ("run", "what", "so"))] if rows else [])],
    )
    return 1 if found else 0


@command.command(
    name="prune",
    examples=("llama-scale runs prune --dry-run", "llama-scale runs prune --weights"),
)
@click.argument("runs", nargs=-1, metavar="[RUN]...", shell_complete=complete_run_ids)
@click.option(
    "--weights",
    cls=OwnOption,
    is_flag=True,
    help="Delete final weights too: nothing is left to export.",
)
@click.option("--dry-run", is_flag=True, help="Say what would go, and delete nothing.")
@store_option
@json_option
def prune_runs(runs: tuple[str, ...], weights: bool, dry_run: bool, store: Path, as_json: bool) -> None:
    """What takes room that no run needs?

    Deletes checkpoints that no run will go on from, and what killed processes left behind. Specs, logs and
    results stay, so every fit stays what it is; runs in training are left alone.
    """
    found = list(_pruned(store, runs, weights=weights, dry_run=dry_run))
    size = sum(spare.bytes for spare in found)
    verb = "would go" if dry_run else "deleted"
    summary = f"{len(found)} files and folders {verb}, {quantities.format_bytes(size)}."
    rows = [(s.run or "–", s.path.name, s.what, quantities.format_bytes(s.bytes)) for s in found]
    current_output().result(
        {"dry_run": dry_run, "bytes": size, "spares": found},
        lambda: [summary, *(["", table(rows, ("run", "name", "what", "size"))] if rows else [])],
    )


def _pruned(store: Path, runs: tuple[str, ...], *, weights: bool, dry_run: bool) -> Iterator[Spare]:
    """What the runs that are named, or all and the store itself, have to spare; gone but in a dry run."""
    from llama_scale.runs import branches_by_trunk, run_folders
    from llama_scale.runs.upkeep import prune, prune_store, spares, spares_of_store

    named, every = _folders(store, runs), run_folders(store)
    torn = {folder.run: error.message for folder in every if (error := _unreadable(folder))}
    current_output().warn_each(
        f"{message}; its files and those of trunks stay as they are" for message in torn.values()
    )
    grown = branches_by_trunk(every)
    for folder in named:
        # What a torn spec branches off from is not known.
        if folder.run in torn or (torn and folder.config.schedule.total_steps is None):
            continue
        yield from (spares if dry_run else prune)(folder, grown.get(folder.run, []), weights=weights)
    if not runs:
        yield from (spares_of_store if dry_run else prune_store)(store)


def _unreadable(folder: RunFolder) -> StoreError | None:
    """Why nobody can tell what the run is, if nobody can."""
    try:
        _ = folder.config
    except StoreError as error:
        return error
    return None


def _find(store: Path, run: str) -> RunFolder:
    """The run of that id or beginning; raises InputError where there is none, or its record alone."""
    from llama_scale.runs import find_run, imported_records, run_folders

    try:
        return find_run(store, run)
    except InputError:
        named = next((r.run for r in imported_records(store) if run and r.run.startswith(run)), None)
        if named is None or any(folder.run.startswith(run) for folder in run_folders(store)):
            raise  # there is none of that name, or there are several
        raise InputError(
            f"run {named} was imported into {store}, which holds its record and nothing else of it",
            hint="`llama-scale runs ls` shows the record; give --store the store that it was trained in",
        ) from None


def _folders(store: Path, runs: tuple[str, ...]) -> list[RunFolder]:
    """The runs that were named, or all of the store."""
    from llama_scale.runs import read_records, run_folders

    if runs:
        return [_find(store, run) for run in runs]
    if not store.is_dir():
        read_records(store)  # refuses, with the reason
    return run_folders(store)


def _short(value: Any) -> str:
    return "–" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


def _description(record: RunRecord, value: dict[str, Any]) -> list[object]:
    reached = f", {record.loss_nats:.4f} nats/token" if record.loss_nats is not None else ""
    headline = f"Run {record.run} ({record.role}): {record.status}{reached}."
    result = dict(value["result"] or {})
    texts = result.pop("data", [])
    rows = list(_leaves({"config": value["config"], "result": result}))
    seen = [_seen(text) for text in texts]
    drawn = ["", table(seen, ("text", "share", "tokens seen", "of", "epochs"))] if seen else []
    return [headline, "", table(rows, ("field", "value")), *drawn]


def _seen(text: dict[str, Any]) -> tuple[str, ...]:
    """How much of one source a run has trained on."""
    return (
        text["name"],
        f"{text['share']:.1%}",
        quantities.format_count(text["tokens"]),
        quantities.format_count(text["unique_tokens"]),
        f"{text['epochs']:.2f}",
    )


def _leaves(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting below `tree` by its dotted path."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
