"""`llama-scale doctor`: whether this machine is ready."""

from __future__ import annotations

from llama_scale.cli.options import command as make_command
from llama_scale.cli.options import json_option
from llama_scale.cli.output import current_output


@make_command(examples=["llama-scale doctor", "llama-scale doctor --json"])
@json_option
def command(as_json: bool) -> None:
    """Is this machine ready to sweep, fit and plan, and what fixes what is not?"""
    current_output().result({"checks": []}, "no checks yet")
