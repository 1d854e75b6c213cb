"""What runs will take before any has run: seconds a step, and bytes on the disk.

Where the recipe's device is here a few steps are measured; else the accelerator table says, and the words
of the answer say that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from llama_scale.architecture import ModelConfig
from llama_scale.costs.efficiency import training_mfu
from llama_scale.frozen import frozen
from llama_scale.hardware import accelerator, accelerator_of_device
from llama_scale.launch.places import device_here
from llama_scale.quantities import format_fraction
from llama_scale.runs import DataConfig, RunConfig
from llama_scale.sweeps import MachineSpec, Sweep

MEASURED = 6  # models, from the cheapest step to the dearest affordable one; others are interpolated
AFFORDABLE_SECONDS = 1.0  # a step, by the guess: eleven of them are taken
# Of small float32 models on one core of a 2020s server CPU, with torch's eager steps: what a guess needs to
# tell long runs from short ones.
CPU_FLOPS_PER_SECOND = 2.5e10
CPU_SECONDS_PER_LAYER = 1e-3
STAND_IN = "H100-SXM"  # for a CUDA device that the table lacks
STATE_BYTES = 12  # a parameter in a checkpoint: itself and two moments, fp32
WEIGHT_BYTES = 4
LOG_BYTES, LOG_BYTES_PER_STEP = 2_000, 45  # of 80 logs of 40 to 5,000 steps: 42 a step, 1,000 a start
KEPT_CHECKPOINTS = 2

_Key = tuple[ModelConfig, int]  # what the time of a step depends on: a model, and sequences
Measure = Callable[[RunConfig], float]


@frozen
class StepTimes:
    """Seconds of a step of each run by its id, where they come from, and on how many devices at once.

    `parallel` is None where that is for the launcher to say: the recipe names no machine, or it is here.
    """

    seconds: Mapping[str, float]
    source: str
    is_measured: bool
    parallel: int | None = None


def step_times(
    sweep: Sweep, *, device: str, threads: int, measure: Measure | None, elsewhere: bool = False
) -> StepTimes:
    """The time of each run's steps; `measure` takes some on this machine, None leaves it at a guess.

    Where the recipe is meant for an accelerator that is not here, nothing is measured; nor where a cluster
    trains the runs `elsewhere`, whose cards the recipe knows and this machine does not.
    """
    machine, here = sweep.spec.machine, device_here(device)
    absent = machine and (here is None or accelerator_of_device(here) != accelerator(machine.accelerator))
    if machine and (absent or elsewhere):
        return _from_table(sweep, machine, elsewhere=elsewhere)
    keys = {_key(config): config for config in sweep.by_id.values()}
    guessed = {key: _guess(config, here, threads) for key, config in keys.items()}
    if measure is None:
        source = f"{_guess_in_words(here)}; the live view corrects it"
        return StepTimes(seconds=_by_run(sweep, guessed), source=source, is_measured=False)
    affordable = sorted((k for k in keys if guessed[k] <= AFFORDABLE_SECONDS), key=lambda k: guessed[k])
    tried = _spread(affordable)
    measured = {key: measure(keys[key]) for key in tried}
    seconds = measured | {key: _interpolated(guessed, measured, key) for key in keys if key not in measured}
    return StepTimes(
        seconds=_by_run(sweep, seconds),
        source=_said(keys, guessed, measured, here),
        is_measured=bool(measured),
    )


def step_time(config: RunConfig, *, device: str, threads: int, measure: Measure) -> tuple[float, str]:
    """Seconds of a step of one run here and where they come from: measured, unless a step takes too long."""
    here = device_here(device)
    guessed = _guess(config, here, threads)
    if guessed > AFFORDABLE_SECONDS:
        return guessed, _guess_in_words(here)
    return measure(config), "measured on a few steps here"


def disk_bytes(config: RunConfig, steps: int, branch_points: int = 0) -> float:
    """Most bytes that a run's folder holds: a trunk keeps each branch point until its branch is done."""
    total = config.model.parameters.total
    kept = KEPT_CHECKPOINTS + branch_points
    files = (config.schedule.total_steps is not None) + (config.initial_weights is not None)
    weights = files * WEIGHT_BYTES * total
    return kept * STATE_BYTES * total + weights + LOG_BYTES + LOG_BYTES_PER_STEP * steps


def bytes_per_token(data: DataConfig) -> float:
    """About how many bytes a token of this tokenizer stands for, before any text is cut into tokens.

    A BPE of 1,024 entries makes 2.4 bytes a token of Python's sources, of 32,768 about 4.2.
    """
    return 1.0 if data.tokenizer == "bytes" else max(1.0, 0.36 * math.log2(data.vocabulary) - 1.2)


def _from_table(sweep: Sweep, machine: MachineSpec, *, elsewhere: bool) -> StepTimes:
    chip = accelerator(machine.accelerator)
    precision = chip.trains_in
    seconds, mfus = {}, []
    for run, config in sweep.by_id.items():
        mfu = training_mfu(chip, config.model.parameters.total, accounting="exact", precision=precision)
        mfus.append(mfu)
        seconds[run] = config.train_flops(1) / (chip.peak(precision) * mfu.value)
    ends = dict.fromkeys(format_fraction(end(m.value for m in mfus), 2) for end in (min, max))
    spread = " to ".join(ends)
    what = f"an estimate for {chip.name}" if elsewhere else f"an estimate, as {chip.name} is not here"
    source = f"{what}: its {precision} peak at {spread} MFU, {mfus[0].source}, {mfus[0].date}"
    if any(config.precision == "f32" for config in sweep.runs):
        source += "; runs in 32 bits take several times as long"
    return StepTimes(seconds=seconds, source=source, is_measured=False, parallel=machine.accelerators)


def _key(config: RunConfig) -> _Key:
    return config.model, config.sequences_per_step


def _by_run(sweep: Sweep, seconds: Mapping[_Key, float]) -> dict[str, float]:
    return {run: seconds[_key(config)] for run, config in sweep.by_id.items()}


def _guess(config: RunConfig, here: str | None, threads: int) -> float:
    """Seconds of a step by its FLOPs: right to a factor of two or three, and in the right order."""
    flops = config.train_flops(1)
    if here is None:
        return CPU_SECONDS_PER_LAYER * config.model.layers + flops / (CPU_FLOPS_PER_SECOND * threads)
    chip = accelerator_of_device(here) or accelerator(STAND_IN)
    mfu = training_mfu(chip, config.model.parameters.total, accounting="exact").value
    return 1e-3 + flops / (chip.peak(chip.trains_in) * mfu)


def _guess_in_words(here: str | None) -> str:
    of_another = here is not None and accelerator_of_device(here) is None
    return "a guess from FLOPs" + (f" as of {STAND_IN}, for no table has {here}" if of_another else "")


def _spread(keys: list[_Key]) -> list[_Key]:
    """At most MEASURED of them, from the first to the last."""
    if len(keys) <= MEASURED:
        return keys
    return [keys[round(i * (len(keys) - 1) / (MEASURED - 1))] for i in range(MEASURED)]


def _interpolated(guessed: Mapping[_Key, float], measured: Mapping[_Key, float], key: _Key) -> float:
    """The guess, corrected by how the measured models around it came out against theirs."""
    if not measured:
        return guessed[key]
    known = sorted(measured, key=lambda k: guessed[k])
    places = [math.log(guessed[k]) for k in known]
    off = [math.log(measured[k] / guessed[k]) for k in known]
    return guessed[key] * math.exp(np.interp(math.log(guessed[key]), places, off))


def _said(
    keys: Mapping[_Key, RunConfig],
    guessed: Mapping[_Key, float],
    measured: Mapping[_Key, float],
    here: str | None,
) -> str:
    if not measured:
        return f"{_guess_in_words(here)}: no model is small enough to try a step of it on this machine"
    if len(measured) == len(keys):
        return "measured on a few steps of each model here"
    beyond = sum(seconds > AFFORDABLE_SECONDS for seconds in guessed.values())
    larger = f"; {beyond} larger ones extrapolated" if beyond else ""
    return f"measured here on a few steps of {len(measured)} of {len(keys)} models{larger}"
