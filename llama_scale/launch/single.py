"""One run from its recipe to its end: read, cost, write down, train; alone or one process of many."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama_scale.checked import all_of
from llama_scale.config import apply_overrides, structure
from llama_scale.files import at_home
from llama_scale.frozen import frozen
from llama_scale.launch.estimates import disk_bytes, step_time
from llama_scale.launch.places import default_workers
from llama_scale.runs import DataConfig, RunConfig, RunFolder, create_run, run_id
from llama_scale.runs.upkeep import mend
from llama_scale.single import SingleSpec, Start, single_run, with_defaults_of, with_family_defaults

if TYPE_CHECKING:
    import torch

    from llama_scale.training.corpus import Corpus
    from llama_scale.training.data import TokenFiles
    from llama_scale.training.loop import Glance, Outcome
    from llama_scale.training.meter import Reading
    from llama_scale.training.mirrors import MirrorName
    from llama_scale.training.peak import Peak
    from llama_scale.training.tokenizer import AnyTokenizer
    from llama_scale.training.world import World

    Text = Corpus | TokenFiles


@frozen
class KnownRun:
    """A run that is known whole, and its folder, which may hold nothing, a part or all of it.

    `start_from` is the folder of the model that it goes on from.
    """

    config: RunConfig
    folder: RunFolder
    start_from: Path | None = None

    @property
    def last_step(self) -> int:
        return self.config.schedule.total_steps or 0

    @property
    def reached(self) -> int:
        """The step that the newest checkpoint holds; the last one of a run that ended well."""
        result = self.folder.result()
        return int(result["steps"]) if result else max(self.folder.checkpoint_steps(), default=0)

    @property
    def disk_bytes(self) -> float:
        """The most that its folder will hold, the text's tokens apart."""
        return disk_bytes(self.config, self.last_step)


def read_single(tables: Mapping[str, Any], overrides: Sequence[str], *, source: str) -> SingleSpec:
    """The recipe of one run in `tables`, with `a.b=c` overrides; raises InputError for its mistakes."""
    told = apply_overrides(tables, overrides)
    if "start_from" in told:
        from llama_scale.training.exchange import read_shape

        complete = with_defaults_of(read_shape(at_home(str(told["start_from"]))), told, tokenizer="start")
    else:
        complete = with_family_defaults(told)
    return structure(complete, SingleSpec, source=source)


def prepare_run(spec: SingleSpec, *, store: Path) -> tuple[KnownRun, Text]:
    """Find the text and work out the run. Writes nothing, but for a text that is fetched."""
    from llama_scale.training.preparing import check_text, find_text

    start_from = at_home(spec.start_from) if spec.start_from is not None else None
    # Before the text is read, which may take long: what makes no run is refused at once.
    start = _start(start_from) if start_from else None
    all_of([lambda: single_run(spec, "", start), lambda: check_text(spec.data, store)])
    given = _tokenizer(start_from, spec.data) if start_from else None
    text = find_text(spec.data, store, given)
    config = single_run(spec, text.corpus, start)
    return KnownRun(config=config, folder=RunFolder(store / run_id(config)), start_from=start_from), text


def _tokenizer(folder: Path, data: DataConfig) -> AnyTokenizer | None:
    """That of the model to start from, unless the recipe names another of the same ids."""
    from llama_scale.training.exchange import read_tokenizer

    return read_tokenizer(folder, data.vocabulary) if data.tokenizer == "start" else None


def _start(folder: Path) -> Start:
    from llama_scale.training.exchange import read_hf
    from llama_scale.training.starts import identity

    model = read_hf(folder)
    return Start(model=model.config, sha256=identity(model))


def expected_seconds(run: KnownRun, device: str) -> tuple[float, str]:
    """Seconds that are left of the run on `device`, and where they come from, in words."""
    from llama_scale.training.environment import threads_here
    from llama_scale.training.speed import seconds_per_step

    threads = threads_here()
    step, source = step_time(
        run.config,
        device=device,
        threads=threads,
        measure=lambda config: seconds_per_step(config, device, threads),
    )
    return step * (run.last_step - run.reached), source


def write_run(run: KnownRun, text: Text, *, store: Path) -> tuple[str, ...]:
    """Tokenise the text once, write the run's spec and what it starts from; returns what to warn of.

    Raises InputError for text that is too short, or cut into other tokens than the model knows.
    """
    from llama_scale.training.data import check_length, evaluation_cautions, verify_tokens
    from llama_scale.training.preparing import prepare

    config = run.config
    files = prepare(text, config.data, store, threads=default_workers())
    check_length(files, config.data, config.model.context, config.sequences_per_step)
    verify_tokens(files)
    mended = mend(store, {run.folder.run: config})
    if run.start_from is not None:
        _keep_start(run, run.start_from, files)
    create_run(store, config)
    return (*mended, *evaluation_cautions(files, config.data.evaluation_tokens, config.model.context))


def _keep_start(run: KnownRun, folder: Path, files: TokenFiles) -> None:
    from llama_scale.training.exchange import check_tokenizer, read_hf
    from llama_scale.training.starts import keep_start
    from llama_scale.training.tokenizer import Tokenizer

    if isinstance(files.tokenizer, Tokenizer):
        check_tokenizer(folder, files.tokenizer)
    if not run.folder.is_finished:
        keep_start(run.folder, read_hf(folder))


@frozen
class Seat:
    """Where a process trains: its device, whether that has bf16, its world, and the peak of one device."""

    device: torch.device
    world: World
    peak: Peak | None
    has_bf16: bool


def train_single(
    store: Path,
    run: str,
    seat: Seat,
    *,
    should_stop: Callable[[], bool],
    watch: Callable[[Reading], None],
    tell: Callable[[str], None] | None = None,
    mirror_names: Sequence[MirrorName] = (),
) -> Outcome:
    """Train a run that `write_run` wrote down from wherever it stands; every process of a world calls this.

    `watch` and the mirrors see it in the leading process alone; `tell` hears there what the user should know.
    Raises BusyError while another process trains it.
    """
    from llama_scale.training.data import data_folder, open_tokens
    from llama_scale.training.loop import check_corpus, train_run

    folder = RunFolder(store / run)
    config = folder.config
    files = open_tokens(data_folder(store, config.data, config.corpus))
    check_corpus(folder, files)
    with _watching(folder, seat, watch, mirror_names) as look:
        return train_run(
            store,
            folder,
            files,
            device=seat.device,
            should_stop=should_stop,
            watch=look,
            tell=tell,
            world=seat.world,
        )


@contextmanager
def _watching(
    folder: RunFolder, seat: Seat, watch: Callable[[Reading], None], names: Sequence[MirrorName]
) -> Iterator[Callable[[Glance], None] | None]:
    """What turns glances into readings for `watch` and the mirrors, which open at the first of them."""
    from llama_scale.training.meter import Meter
    from llama_scale.training.mirrors import Mirror, mirrors

    if not seat.world.leads:
        yield None
        return
    rate = seat.peak and seat.peak.flops_per_second * seat.world.size
    meter = Meter(
        folder.config, last_step=folder.config.schedule.total_steps or 0, peak_flops_per_second=rate
    )
    copies: list[Mirror] = []
    with ExitStack() as stack:

        def look(glance: Glance) -> None:
            if names and not copies:
                copies.extend(stack.enter_context(mirrors(names, folder, glance.steps[0].step - 1)))
            reading = meter.read(glance)
            watch(reading)
            for copy in copies:
                copy(reading)

        yield look
