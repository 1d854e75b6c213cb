"""A plan as one HTML file that opens anywhere: no network, no library, its closed forms within it.

`problem` says what the page must solve again, `controls` what can be moved, `evidence` and `alternatives`
what stands behind and beside the plan, `sections` what is said in words; `markup` is the only home of HTML
and of escaping. The page itself, its style and its scripts lie readable in `data/report/`.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from llama_scale.errors import InputError, StoreError
from llama_scale.files import SHIPPED, at_home, check_new, write_atomically
from llama_scale.planning import Plan
from llama_scale.planning.again import command, command_words
from llama_scale.planning.curves import cost_over_time
from llama_scale.quantities import format_count
from llama_scale.report.alternatives import alternatives_section
from llama_scale.report.controls import controls
from llama_scale.report.evidence import evidence_caption, evidence_section, evidence_values
from llama_scale.report.markup import Markup, as_data, filled
from llama_scale.report.problem import problem_values
from llama_scale.report.sections import (
    assumptions_section,
    continuum,
    lead,
    provenance_section,
    reasons_section,
    sensitivity_section,
    warnings,
)
from llama_scale.version import code_version

__all__ = ["check_target", "page", "write_report"]

DATA = SHIPPED / "report"
ENDINGS = (".html", ".htm")
SCRIPTS = ("words.js", "model.js", "answer.js", "elements.js", "charts.js", "pictures.js", "page.js")


def page(plan: Plan) -> str:
    """The whole page of a plan, as text.

    Raises InputError where the law's file holds evidence that no fit would have written.
    """
    style, script = _inlined()
    plan_json = as_data({"schema": 1, **plan.to_json()})
    model = plan.recommended
    parts = {
        "version": code_version(),
        "style": style,
        "style_hash": _policy_hash(style),
        "script": script,
        "script_hash": _policy_hash(script),
        "title": f"Plan: {format_count(model.parameters)} parameters on {format_count(model.tokens)} tokens",
        "sentence": plan.sentence,
        "lead": lead(plan),
        "warnings": warnings(plan),
        "continuum": continuum(plan),
        "sensitivity": sensitivity_section(plan),
        "alternatives": alternatives_section(plan),
        "reasons": reasons_section(plan),
        "assumptions": assumptions_section(plan),
        "command": command(plan),
        "plan": plan_json,
        **_from_the_law(plan, plan_json),
    }
    return filled((DATA / "page.html").read_text(encoding="utf-8"), parts)


def _from_the_law(plan: Plan, plan_json: str) -> dict[str, str]:
    """What shows the evidence that came with the law's file, which anybody may have written."""
    try:
        return {
            "evidence_caption": evidence_caption(plan),
            "evidence": evidence_section(plan),
            "provenance": provenance_section(plan, plan_json),
            "data": as_data(_data(plan)),
        }
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise InputError(
            f"the evidence in the law {plan.request.fit.name} cannot be read: {error!r}",
            hint="fit its runs again with llama-scale fit, or pass its constants alone",
        ) from error


def write_report(plan: Plan, path: str | Path, *, overwrite: bool = False) -> Path:
    """Writes the page of a plan, whole or not at all.

    Raises InputError for a name that `check_target` refuses, and StoreError where nothing can be written.
    """
    target = at_home(path)
    check_target(target, overwrite=overwrite)
    try:
        write_atomically(target, page(plan))
    except StoreError as error:
        raise StoreError(error.message, hint="name a file in a folder that you may write to") from error
    return target


def check_target(path: Path, *, overwrite: bool, sources: Iterable[object] = ()) -> None:
    """Raises InputError for a name that is no page's, a folder, or a file that may not be replaced."""
    if path.is_dir():
        raise InputError(f"{path} is a folder", hint=f"name a file in it, such as {path / 'plan.html'}")
    if path.suffix.lower() not in ENDINGS:
        raise InputError(
            f"the page of a plan is HTML, which {path.name!r} does not say",
            hint=f"end its name with {' or '.join(ENDINGS)}; a browser prints the page as PDF",
        )
    check_new(path, overwrite=overwrite, other="name", sources=sources)


def _data(plan: Plan) -> dict[str, Any]:
    """What the scripts read: the problem, its controls, the evidence, and the plan's own place in it."""
    problem = problem_values(plan)
    optimum, spread = plan.optimum, plan.intervals
    settings = problem["settings"]
    if settings["target_loss"] is None:
        settings["target_loss"] = optimum.loss_nats
    if settings["budget"] is None and settings["goal"] == "loss":
        settings["budget"] = optimum.lifetime.total(plan.request.unit)
    intervals = None
    if spread is not None and {"parameters", "tokens"} <= spread.ranges.keys():
        intervals = {name: list(spread.ranges[name]) for name in ("parameters", "tokens")}
    return {
        "problem": problem,
        "controls": controls(plan, settings),
        "evidence": evidence_values(plan),
        "intervals": intervals,
        "draws_note": plan.request.fit.draws_note or "the law has no draws",
        "planned": {
            "parameters": optimum.parameters,
            "serve_tokens": settings["serve_tokens"],
            "recommended": plan.recommended.parameters,
            "break_even": cost_over_time(plan).break_even if settings["serve_tokens"] else None,
        },
        "command": command_words(plan),
    }


@cache
def _inlined() -> tuple[Markup, Markup]:
    """Style and scripts as they stand in the page."""
    style = (DATA / "page.css").read_text(encoding="utf-8")
    scripts = "\n".join((DATA / name).read_text(encoding="utf-8") for name in SCRIPTS)
    return Markup(style), Markup(scripts)


def _policy_hash(content: str) -> str:
    """What the page's policy allows: this content and no other."""
    return f"sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}"
