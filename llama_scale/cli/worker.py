"""`llama-scale worker`: what launchers start."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import click

from llama_scale.cli.options import command as make_command
from llama_scale.cli.options import complete_run_ids, device_option, json_option, store_option
from llama_scale.cli.output import current_output
from llama_scale.errors import InputError


@make_command(
    examples=(
        "llama-scale worker 0123456789abcdef",
        "llama-scale worker 0123456789abcdef --store /scratch/runs --device cuda",
    )
)
@click.argument("run", required=False, shell_complete=complete_run_ids)
@store_option
@device_option
@click.option("--listen", is_flag=True, help="Take run ids from stdin, one a line, and report each as JSON.")
@json_option
def command(run: str | None, store: Path, device: str, listen: bool, as_json: bool) -> int:
    """Can this run go further, and how did it end?

    Trains one run of the store from its newest checkpoint to its end; a finished run is left alone. A run
    that another process holds is taken over only if that one gives no sign of life for a minute. Leaves
    with 0 when the run is done, 75 when it should be tried again later, anything else when it failed (its
    worker.log says why).
    """
    if (run is None) != listen:
        raise InputError(
            "give one run id, or --listen", hint="`llama-scale runs ls` lists the runs of a store"
        )
    parent = os.getppid()  # before torch is imported: a launcher killed meanwhile must be missed
    from llama_scale.runs import EXIT_DONE, EXIT_RETRY, find_run
    from llama_scale.runs.leases import HEARTBEAT_SECONDS, LEASE_SECONDS
    from llama_scale.training.worker import stop_on_signals, use_allotted_threads, work

    should_stop = stop_on_signals(parent)
    use_allotted_threads()
    if run is not None:
        run = find_run(store, run).run  # whose beginning may have been given
        patience = LEASE_SECONDS + 2 * HEARTBEAT_SECONDS
        code = work(store, run, device=device, should_stop=should_stop, wait_seconds=patience)
        outcome = {EXIT_DONE: "done", EXIT_RETRY: "retry"}.get(code, "failed")
        log = store / run / "worker.log"
        if outcome == "failed" and log.exists():
            current_output().warn(f"run {run} failed: see {log}")
        if as_json:
            current_output().result({"run": run, "outcome": outcome, "exit_code": code}, "")
        return code
    for name in filter(None, map(str.strip, sys.stdin)):
        code = work(store, name, device=device, should_stop=should_stop)
        print(json.dumps({"run": name, "exit_code": code}), flush=True)
        if should_stop():
            return EXIT_RETRY
    return 0
