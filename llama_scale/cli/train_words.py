"""What `train` says: the run before it starts, what it costs, what became of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llama_scale import quantities
from llama_scale.cli.output import table
from llama_scale.quantities import counted

if TYPE_CHECKING:
    from llama_scale.launch.single import KnownRun, Seat


def opening(run: KnownRun, seat: Seat) -> str:
    """The run in a few lines, as it starts or goes on."""
    config, model = run.config, run.config.model
    start = f"from step {run.reached:,}" if run.reached else "from its start"
    count = f"{seat.world.size} process{'es' if seat.world.size > 1 else ''} on "
    where = f"{count if seat.world.shards else ''}{seat.device.type}"
    peak = seat.peak
    against = (
        f"MFU is of {quantities.format_flops_per_second(peak.flops_per_second)} ({peak.source})"
        + (f" x {seat.world.size}" if seat.world.size > 1 else "")
        if peak
        else "no peak is known for this device, so no MFU; give one with --peak"
    )
    slow = (
        "\nIn 32 bits a GPU's products take several times as long as in bf16: --set training.precision=bf16."
        if seat.device.type == "cuda" and config.precision == "f32" and seat.has_bf16
        else ""
    )
    return (
        f"Run {run.folder.run}, {start}: {quantities.format_count(model.parameters.total)} parameters, "
        f"{quantities.format_count(run.last_step * config.tokens_per_step)} tokens in "
        f"{run.last_step:,} steps, {quantities.format_flops(config.train_flops(run.last_step))}; "
        f"on {where}, kept in {run.folder.path}.\n{against}.{slow}"
    )


def dry_run_json(run: KnownRun, seconds: float) -> dict[str, Any]:
    """The run as --dry-run --json tells it."""
    from llama_scale.canonical import plain

    config = run.config
    return {
        "run": run.folder.run,
        "finished": run.folder.is_finished,
        "reached_step": run.reached,
        "steps": run.last_step,
        "tokens": run.last_step * config.tokens_per_step,
        "parameters": plain(config.model.parameters),
        "train_flops": config.train_flops(run.last_step),
        "expected_seconds": seconds,
        "disk_bytes": run.disk_bytes,
        "config": plain(config),
    }


def dry_run_words(run: KnownRun, seconds: float, source: str) -> list[object]:
    """The run as --dry-run shows it: one sentence, then what it is made of."""
    config, model, schedule = run.config, run.config.model, run.config.schedule
    tokens = run.last_step * config.tokens_per_step
    falls = f"{counted(schedule.decay_steps, 'step')} of {schedule.decay_shape} decay"
    phases = (schedule.kind, f"{counted(schedule.warmup_steps, 'step')} of warm-up", falls)
    layers, heads = counted(model.layers, "layer"), counted(model.heads, "head")
    rows = [
        ("model", f"{layers}, width {model.width}, {heads} of {model.head_size}"),
        ("parameters", f"{model.parameters.total:,} ({model.parameters.non_embedding:,} without tables)"),
        ("tokens", f"{tokens:,}: {tokens / model.parameters.matmul:.3g} a parameter"),
        ("steps", f"{run.last_step:,} of {config.sequences_per_step} x {model.context} tokens"),
        ("learning rate", f"{config.optimizer.learning_rate:.3g} at its peak"),
        ("schedule", ", ".join(phases if schedule.kind == "wsd" else phases[:2])),
        ("text", ", ".join(source.label for source in config.data.mixture)),
        ("tokenizer", f"{config.data.tokenizer}, {config.data.vocabulary:,} entries"),
        ("FLOPs", quantities.format_flops(config.train_flops(run.last_step))),
        ("disk", quantities.format_bytes(run.disk_bytes)),
        ("time", f"{quantities.format_seconds(round(seconds, 1))}, {source}"),
    ]
    state = (
        "is done"
        if run.folder.is_finished
        else f"stands at step {run.reached:,}"
        if run.reached
        else "is new"
    )
    return [f"Run {run.folder.run} {state}.", "", table(rows, ("", ""))]


def result_words(run: KnownRun, result: dict[str, Any], *, finished: bool) -> str:
    """The answer in a sentence, and what comes next."""
    name, store = run.folder.run, run.folder.path.parent
    if result.get("status") != "done":
        return (
            f"Run {name} diverged at step {result.get('steps', 0):,}: its loss or its gradient is no longer "
            "a number.\nIt will not be tried again as it is; lower --learning-rate."
        )
    again = " (it was done before)" if finished else ""
    return (
        f"{quantities.format_count(run.config.model.parameters.total)} parameters on "
        f"{quantities.format_count(result['tokens'])} tokens: {result['loss_nats']:.4f} nats a token, "
        f"{result['bits_per_byte']:.4f} bits a byte on held-out text{again}.\n"
        f"To look at it: llama-scale runs show {name} --store {store}"
    )
