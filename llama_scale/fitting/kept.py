"""Fits that were kept: the fit of given runs among a folder's files, and the runs that a fit holds itself."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from llama_scale.canonical import canonical_hash
from llama_scale.errors import InputError
from llama_scale.files import parse_json
from llama_scale.fitting.observations import Observations, observe
from llama_scale.fitting.rows import Row, Rows
from llama_scale.laws import Fit, read_fit


def fingerprint(observations: Observations) -> str:
    """A hash of runs, whatever their order: by it a fit knows what it was fitted on."""
    columns = (observations.parameters, observations.tokens, observations.loss, observations.train_flops)
    return canonical_hash(sorted(zip(observations.names, *(c.tolist() for c in columns), strict=True)))


def free_name(folder: Path, name: str, runs: Collection[str]) -> str:
    """`name` for the fit of a sweep of these runs, or a longer one where something else has it."""
    file = folder / f"{name}.json"
    return name if not file.exists() or _is_of(file, runs) else f"{name}-{sweep_hash(runs)[:8]}"


def sweep_hash(runs: Iterable[str]) -> str:
    """A hash of the ids of a sweep, whether trained or not: by it a fit knows its sweep."""
    return canonical_hash(sorted(runs))


def _is_of(file: Path, runs: Collection[str]) -> bool:
    """Whether a fit is of a sweep: as it states, or for one that does not, by the runs that it holds."""
    try:
        content = parse_json(file.read_text(encoding="utf-8"))
        if "sweep" in content:
            return content["sweep"] == sweep_hash(runs)
        return set(content["observations"]["run"]) <= set(runs)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def kept_fit(observations: Observations, folders: Iterable[Path]) -> Fit | None:
    """The newest fit of exactly these runs in the folders; None where there is none.

    Files that cannot be read are passed over: others may do.
    """
    wanted = fingerprint(observations)
    files = [file for folder in folders for file in folder.glob("*.json")]
    for file in sorted(files, key=_age):
        try:
            content = parse_json(file.read_text(encoding="utf-8"))
            if content["provenance"]["observations_hash"] == wanted:
                return read_fit(file)
        except (OSError, ValueError, KeyError, TypeError, InputError):
            continue
    return None


def _age(file: Path) -> float:
    try:
        return -file.stat().st_mtime
    except OSError:
        return 0.0


def runs_of(fit: Fit) -> Observations:
    """The runs that a fit holds, to 6 digits, with those held out.

    Raises InputError for a fit that holds none: one made elsewhere, or a published law.
    """
    try:
        rows = list(_rows(fit.evidence["observations"], "loss_nats"))
        held = fit.evidence.get("held_out") or ()
        columns = {name: [one[name] for one in held] for name in (held[0] if held else ())}
        rows += list(_rows(columns, "measured", held_out=True)) if columns else []
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise InputError(
            f"the fit {fit.name} does not hold the runs that it was made from",
            hint="name the runs, or fit them anew: `llama-scale fit SOURCE`",
        ) from error
    return observe([Rows(source=fit.source, rows=tuple(rows), convention=fit.convention)])


def _rows(columns: Mapping[str, Any], loss: str, *, held_out: bool = False) -> Iterable[Row]:
    count = len(columns["run"])
    budgets = columns.get("budget_flops") or [None] * count
    families = columns.get("family") or [""] * count
    for index in range(count):
        name = str(columns["run"][index])
        yield Row(
            name=name,
            place=f"run {name} of the fit",
            parameters=float(columns["parameters"][index]),
            tokens=float(columns["tokens"][index]),
            loss=float(columns[loss][index]),
            train_flops=float(columns["train_flops"][index]),
            budget=None if (budget := budgets[index]) is None else float(budget),
            family=str(families[index]),
            held_out=held_out,
        )
