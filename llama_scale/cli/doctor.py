"""`llama-scale doctor`: whether this machine is ready, and the fix for what is not."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from llama_scale.cli.options import command as make_command
from llama_scale.cli.options import json_option, store_option
from llama_scale.cli.output import current_output, table

if TYPE_CHECKING:
    from rich.console import RenderableType

    from llama_scale.cli.checks import Check


@make_command(
    examples=["llama-scale doctor", "llama-scale doctor --store /scratch/runs", "llama-scale doctor --json"]
)
@store_option
@json_option
@click.pass_context
def command(ctx: click.Context, store: Path, as_json: bool) -> int:
    """Is this machine ready to sweep, fit and plan, and what fixes what is not?

    Looks at Python, the packages, CPU and CUDA devices, number formats, memory, disk, the store, the
    text of the built-in corpus, the extras and your settings files. Leaves with 1 if anything fails.
    """
    from llama_scale.cli.checks import examine

    checks = list(examine(store, ctx.find_root()))
    failed = [check for check in checks if check.status == "fail"]
    value = {"ready": not failed, "checks": [asdict(check) for check in checks]}
    current_output().result(value, lambda: _report(checks))
    return 1 if failed else 0


def _report(checks: list[Check]) -> list[RenderableType]:
    failed, warned = ([c.name for c in checks if c.status == status] for status in ("fail", "warn"))
    answer = f"Not ready: {', '.join(failed)}." if failed else "This machine is ready."
    if warned:
        answer += f" Worth a look: {', '.join(warned)}."
    fixes = [f"{check.name}: {check.fix}" for check in checks if check.status != "pass" and check.fix]
    following = [] if failed else ["", "next: llama-scale sweep"]
    rows = [(check.status, check.name, check.found) for check in checks]
    return [answer, "", table(rows, ("", "what", "found")), *(["", *fixes] if fixes else []), *following]
