"""A sweep from recipe to records: read, cost, write down, train. Launchers only start the same worker."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from llama_scale import quantities
from llama_scale.config import canonical_hash
from llama_scale.launch.estimates import StepTimes, bytes_per_token, step_times
from llama_scale.launch.local import launch_locally
from llama_scale.launch.memory import memory_bytes
from llama_scale.launch.on_ray import launch_on_ray
from llama_scale.launch.places import Card, cards_here, default_workers, threads_per_worker
from llama_scale.launch.slurm import launch_on_slurm
from llama_scale.launch.tasks import LaunchReport, Progress, Task, plan_tasks
from llama_scale.runs import RunConfig, RunRecord, create_runs, read_records
from llama_scale.sweeps import Sweep, expand, find_recipe, load_recipe

if TYPE_CHECKING:
    from llama_scale.training.corpus import Corpus

__all__ = [
    "LAUNCHERS",
    "LaunchReport",
    "Launcher",
    "PreparedSweep",
    "Progress",
    "Task",
    "default_workers",
    "prepare_sweep",
    "run_sweep",
    "sweep",
]

Launcher = Literal["local", "slurm", "ray"]
LAUNCHERS: tuple[Launcher, ...] = get_args(Launcher)


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedSweep:
    """A sweep with its tasks, what is done, and what each run is expected to take here."""

    sweep: Sweep
    corpus: Corpus
    tasks: tuple[Task, ...]
    workers: int
    times: StepTimes
    cards: tuple[Card, ...] = ()

    @property
    def train_tokens(self) -> float | None:
        """Tokens of the training text: about, until it is tokenised."""
        text = sum(len(document.text) for document in self.corpus.train)
        return text / bytes_per_token(self.sweep.spec.data)

    @property
    def text_in_words(self) -> str:
        """What the sweep learns from, and how much of it there is."""
        text = sum(len(document.text) for document in self.corpus.train)
        return (
            f"Text: {self.corpus.source}, {quantities.format_bytes(text)}, about "
            f"{quantities.format_count(self.train_tokens or 0, 2)} tokens."
        )


def prepare_sweep(
    recipe: str | Path = "default",
    *,
    store: Path,
    overrides: Sequence[str] = (),
    workers: int | None = None,
    device: str = "auto",
    measure: bool = False,
) -> PreparedSweep:
    """Read a recipe and its corpus; `measure` takes a few steps of its models here. Writes nothing."""
    from llama_scale.training.corpus import read_corpus

    path = find_recipe(str(recipe))
    spec = load_recipe(str(path), overrides)
    corpus = read_corpus(spec.data.source, seed=spec.data.shuffle_seed)
    # A changed recipe is another sweep: its fit and figures must not replace the recipe's own.
    name = f"{path.stem}-{canonical_hash(spec)[:8]}" if overrides else path.stem
    sweep = expand(name, spec, corpus.sha256)
    cards = cards_here() if device in ("auto", "cuda") else ()  # cuda:1 is one for all
    largest = max(map(memory_bytes, sweep.runs), default=0.0)
    count = workers or default_workers(cards, largest)
    threads = threads_per_worker(count)
    timed = _measure(device, threads) if measure else None
    times = step_times(sweep, device=device, threads=threads, measure=timed)
    tasks = tuple(plan_tasks(store, sweep, times.seconds))
    return PreparedSweep(sweep=sweep, corpus=corpus, tasks=tasks, workers=count, times=times, cards=cards)


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
) -> LaunchReport:
    """Tokenise the corpus once, write every run's spec, and train what is not done yet.

    `launcher_options` are sbatch's own for SLURM, and `address`, `num_cpus`, `num_gpus` of a task for Ray.
    Raises InputError for text that is too short,
    StoreError for tokens that changed since they were made.
    """
    from llama_scale.training.data import check_length, prepare, verify_tokens

    spec = prepared.sweep.spec
    files = prepare(prepared.corpus, spec.data, store, threads=prepared.workers)
    check_length(files, spec.data, spec.shape.context)
    verify_tokens(files)
    create_runs(store, prepared.sweep.runs)
    tasks, look = list(prepared.tasks), watch or (lambda _: None)
    if launcher == "slurm":
        return launch_on_slurm(store, tasks, options=launcher_options, device=device, watch=look)
    if launcher == "ray":
        pairs = {name: value for name, _, value in (w.partition("=") for w in launcher_options.split())}
        return launch_on_ray(store, tasks, options=pairs, device=device, watch=look)
    return launch_locally(
        store, tasks, workers=prepared.workers, device=device, cards=prepared.cards, watch=look
    )


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
