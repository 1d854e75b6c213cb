"""A sweep from recipe to records: read, cost, write down, train. Launchers only start the same worker."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence, Set
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from llama_scale import quantities
from llama_scale.canonical import canonical_hash
from llama_scale.checked import all_of
from llama_scale.errors import InputError
from llama_scale.frozen import frozen
from llama_scale.launch.estimates import StepTimes, bytes_per_token, step_times
from llama_scale.launch.local import launch_locally
from llama_scale.launch.memory import memory_bytes
from llama_scale.launch.on_ray import check_ray, launch_on_ray, task_needs
from llama_scale.launch.places import Card, cards_for, default_workers, threads_per_worker
from llama_scale.launch.slurm import check_slurm, launch_on_slurm
from llama_scale.launch.tasks import LaunchReport, Progress, Task, plan_tasks
from llama_scale.runs import Precision, RunConfig, RunFolder, RunRecord, create_runs, read_records
from llama_scale.runs.upkeep import mend, torn
from llama_scale.sweeps import Sweep, expand, find_recipe, load_recipe

if TYPE_CHECKING:
    from llama_scale.training.corpus import Corpus
    from llama_scale.training.data import TokenFiles

__all__ = [
    "EarlierText",
    "LaunchReport",
    "Launcher",
    "PreparedSweep",
    "Progress",
    "Task",
    "default_workers",
    "option_words",
    "prepare_sweep",
    "run_sweep",
    "sweep",
]

Launcher = Literal["local", "slurm", "ray"]


@frozen
class EarlierText:
    """What a recipe's sources held before: which of them changed, and how many runs were trained on it."""

    sources: tuple[str, ...]
    runs: int


@frozen
class PreparedSweep:
    """A sweep with its tasks, what is done, and what each run is expected to take here.

    `text` is the corpus as it was read, its tokens where the store holds them already, or None where
    the sources in `missing` are not here yet: then the runs can be shown, but have no ids to keep.
    `mended` says what was torn in the store and is whole again, or will be trained anew; to a dry run, which
    mends nothing, `anew` names the runs whose results do not count.
    """

    sweep: Sweep
    text: Corpus | TokenFiles | None
    missing: tuple[str, ...]
    tasks: tuple[Task, ...]
    workers: int
    times: StepTimes
    cards: tuple[Card, ...] = ()
    launcher: Launcher = "local"
    earlier: EarlierText | None = None
    mended: tuple[str, ...] = ()
    anew: frozenset[str] = frozenset()

    def is_finished(self, task: Task) -> bool:
        """Whether nothing is left to do for one of the tasks."""
        return task.is_finished(self.anew)

    @property
    def train_tokens(self) -> float | None:
        """Tokens of the training text: about, until it is tokenised; None where it is not here."""
        if self.text is None:
            return None
        counted = self.text.train_tokens
        return counted or self.text.train_bytes / bytes_per_token(self.sweep.spec.data)

    @property
    def token_bytes(self) -> float | None:
        """Bytes of the token files, both parts: about, until they are made."""
        if self.text is None:
            return None
        from llama_scale.training.shards import token_bytes

        both = self.text.text_bytes / self.text.train_bytes
        return both * (self.train_tokens or 0) * token_bytes(self.sweep.spec.data.vocabulary)

    @property
    def place_in_words(self) -> str:
        """Where it trains, how many runs at once: what an expected time rests on."""
        machine = self.sweep.spec.machine
        if machine and self.times.parallel:
            return f"on {machine.accelerators} {machine.accelerator}"
        if self.launcher != "local":
            return f"if {self.launcher} runs {self.workers} at once"
        return f"on {quantities.counted(self.workers, 'worker')} here"

    @property
    def text_in_words(self) -> str:
        """What the sweep learns from, and how much of it there is, or what has to be put in place."""
        data = self.sweep.spec.data
        names = ", ".join(source.label for source in data.mixture)
        if self.text is None:
            return (
                f"Text: {names}. Needed first, as UTF-8 text, JSONL, Parquet or folders of these "
                f"(what begins with hub: is fetched): {', '.join(self.missing)}."
            )
        size = quantities.format_bytes(self.text.train_bytes)
        about = "" if self.text.train_tokens else "about "
        return f"Text: {names}, {size}, {about}{quantities.format_count(self.train_tokens or 0, 2)} tokens."


def prepare_sweep(
    recipe: str | Path = "default",
    *,
    store: Path,
    overrides: Sequence[str] = (),
    workers: int | None = None,
    device: str = "auto",
    launcher: Launcher = "local",
    dry_run: bool = False,
) -> PreparedSweep:
    """Read a recipe and its text. Writes nothing, but for a text that is fetched and what it mends of runs.

    A dry run takes a few steps of the models here if it is here that they will train, and neither needs the
    text nor fetches any, nor mends; otherwise InputError is raised where it is missing. It is raised for a
    device that no machine has, too.
    """
    from llama_scale.training.corpus import absent_sources
    from llama_scale.training.preparing import check_text, find_text

    _check_name(device)
    path = find_recipe(str(recipe))
    spec = load_recipe(str(path), overrides)
    # A changed recipe is another sweep: its fit and figures must not replace the recipe's own.
    name = f"{path.stem}-{canonical_hash(spec)[:8]}" if overrides else path.stem
    missing = absent_sources(spec.data, store) if dry_run else ()
    # Before the text is read, which may take long: what makes no runs is refused at once.
    all_of([lambda: expand(name, spec, ""), lambda: missing or check_text(spec.data, store)])
    text = None if missing else find_text(spec.data, store)
    sweep = expand(name, spec, text.corpus if text else "")
    cards = cards_for(device) if launcher == "local" else ()  # those of a login node are not the workers'
    largest = max(map(memory_bytes, sweep.runs), default=0.0)
    count = workers or default_workers(cards, largest)
    threads = threads_per_worker(count)
    timed = _measure(device, threads) if dry_run and launcher == "local" else None
    times = step_times(sweep, device=device, threads=threads, measure=timed, elsewhere=launcher != "local")
    harmed = torn(store, sweep.by_id) if dry_run else {}
    return PreparedSweep(
        sweep=sweep,
        text=text,
        missing=missing,
        tasks=tuple(plan_tasks(store, sweep, times.seconds)),
        workers=count,
        times=times,
        cards=cards,
        launcher=launcher,
        earlier=_earlier_text(store, sweep, text.corpus) if text else None,
        mended=tuple(harmed.values()) if dry_run else mend(store, sweep.by_id),
        anew=frozenset(run for run, file in harmed if file == "result.json"),
    )


def _earlier_text(store: Path, sweep: Sweep, corpus: str) -> EarlierText | None:
    """What was trained on the earlier text with the most runs, while nothing is on that of now."""
    from llama_scale.training.data import changed_since

    changed = changed_since(sweep.spec.data, store, corpus)
    if not changed or _trained(store, sweep):
        return None
    found = [
        EarlierText(sources=sources, runs=_trained(store, expand(sweep.name, sweep.spec, before)))
        for before, sources in changed.items()
    ]
    most = max(found, key=lambda text: text.runs)
    return most if most.runs else None


def _trained(store: Path, sweep: Sweep) -> int:
    """How many runs of a sweep the store holds that are finished or have saved a step."""
    folders = (RunFolder(store / run) for run in sweep.by_id)
    return sum(folder.is_finished or bool(folder.checkpoint_steps()) for folder in folders)


def _measure(device: str, threads: int) -> Callable[[RunConfig], float]:
    from llama_scale.training.speed import seconds_per_step  # torch, which starting a sweep does without

    return lambda run: seconds_per_step(run, device, threads)


def run_sweep(
    prepared: PreparedSweep,
    *,
    store: Path,
    device: str = "auto",
    launcher: Launcher = "local",
    launcher_options: str = "",
    watch: Callable[[Progress], None] | None = None,
    tell: Callable[[str], None] | None = None,
) -> LaunchReport:
    """Tokenise the corpus once, write every run's spec, and train what is not done yet.

    `launcher_options` are sbatch's own for SLURM, and `address`, `num_cpus`, `num_gpus` of a task for Ray.
    `tell` hears what the user should know. Raises InputError for options that cannot be read, too short a
    text, a launcher, a device or a precision that is not here, StoreError for tokens that changed since
    they were made.
    """
    from llama_scale.training.data import check_length, evaluation_cautions, verify_tokens
    from llama_scale.training.preparing import prepare

    options = option_words(launcher, launcher_options)
    data, runs = prepared.sweep.spec.data, prepared.sweep.runs
    if prepared.text is None:
        raise InputError("a dry run has no text to train on", hint="prepare the sweep without dry_run")
    # Before the text is cut into tokens, which may take long.
    if launcher == "local":
        _check_device({run.precision for run in runs}, device)
    elif launcher == "slurm":
        check_slurm()
    else:
        check_ray(_pairs(options))
    files = prepare(prepared.text, data, store, threads=prepared.workers)
    for context, sequences in {(run.model.context, run.sequences_per_step) for run in runs}:
        check_length(files, data, context, sequences)
    verify_tokens(files)
    create_runs(store, prepared.sweep.by_id)
    tasks, look, say = list(prepared.tasks), watch or (lambda _: None), tell or (lambda _: None)
    for context in {run.model.context for run in runs}:
        for caution in evaluation_cautions(files, data.evaluation_tokens, context):
            say(caution)
    if launcher == "slurm":
        return launch_on_slurm(store, tasks, options=options, device=device, watch=look, tell=say)
    if launcher == "ray":
        return launch_on_ray(store, tasks, options=_pairs(options), device=device, watch=look, tell=say)
    return launch_locally(
        store, tasks, workers=prepared.workers, device=device, cards=prepared.cards, watch=look
    )


def option_words(launcher: Launcher, options: str) -> list[str]:
    """The words of a launcher's options; raises InputError where they cannot be read, or none are taken."""
    try:
        words = shlex.split(options)
    except ValueError as error:
        raise InputError(
            f"--launcher-options {options!r} cannot be read: {str(error).lower()}",
            hint="close every quote, as in --launcher-options '--partition=gpu --comment=\"a sweep\"'",
        ) from None
    if words and launcher == "local":
        raise InputError(
            f"--launcher-options {options!r} is for slurm and ray, but the launcher is local",
            hint="add --launcher slurm or --launcher ray, or leave the options out",
        )
    if launcher == "ray":
        task_needs(_pairs(words))
    return words


def _pairs(words: Sequence[str]) -> dict[str, str]:
    return {name: value for name, _, value in (word.partition("=") for word in words)}


def _check_name(device: str) -> None:
    if device not in ("auto", "cpu"):
        from llama_scale.training.environment import device_named  # torch, which most starts do without

        device_named(device)


def _check_device(precisions: Set[Precision], device: str) -> None:
    """Raises InputError, once for all workers, for a device that is not here and what it cannot compute."""
    if device not in ("auto", "cpu") or precisions - {"f32"}:
        from llama_scale.training.environment import choose_device  # torch, which most starts do without
        from llama_scale.training.kernels import check_precision

        chosen = choose_device(device)
        for precision in precisions:
            check_precision(precision, chosen)


def sweep(
    recipe: str | Path = "default",
    *,
    store: str | Path = "runs",
    overrides: Sequence[str] = (),
    workers: int | None = None,
    device: str = "auto",
) -> tuple[RunRecord, ...]:
    """Train a sweep as `llama-scale sweep` does, and return the records of its runs.

    >>> from llama_scale import sweep, fit
    >>> records = sweep("default")  # doctest: +SKIP
    """
    folder = Path(store)
    prepared = prepare_sweep(recipe, store=folder, overrides=overrides, workers=workers, device=device)
    run_sweep(prepared, store=folder, device=device)
    return read_records(folder, [task.run for task in prepared.tasks])
