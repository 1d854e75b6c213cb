"""What a picture of runs or of a law is drawn from: a store, tables, a fit's file, a published name."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from llama_scale.errors import InputError

if TYPE_CHECKING:
    from llama_scale.fitting import Observations
    from llama_scale.laws import Fit


def default_store() -> Path:
    """The store of the running command."""
    return Path(click.get_current_context().params["store"])


def runs_and_law(sources: Sequence[str], where: Sequence[str] = ()) -> tuple[Observations, Fit | None]:
    """The runs of some sources, and their law: one that is named, or one that was kept of exactly these runs.

    A fit's file stands for the runs that it holds, unless others are named beside it.
    """
    from llama_scale.fitting import gather
    from llama_scale.fitting.kept import kept_fit, runs_of

    if named := next(filter(None, map(_published, sources)), None):
        raise InputError(
            f"{named} is a published law, which comes without its runs",
            hint=f"draw the law alone, `llama-scale plot optima {named}`, or name runs",
        )
    paths = [Path(source) for source in sources] or [default_store()]
    fits, tables = _sorted(paths)
    fit = fits[0] if fits else None
    if fit is not None and not tables:
        if where:
            raise InputError(
                f"--where keeps rows of tables and stores, and {sources[0]} holds just the runs of its law",
                hint=f"name the runs beside it: RUNS {shlex.join([sources[0], '--where', where[0]])}",
            )
        return runs_of(fit), fit
    runs = gather(tables, where=where, convention=None if fit is None else fit.convention)
    return runs, fit or kept_fit(runs, _folders(tables))


def law_of(sources: Sequence[str], kind: str) -> Fit:
    """A law: by its published name, from its file, or kept of the runs that are named."""
    from llama_scale.laws import published, published_names

    if len(sources) == 1 and (name := _published(sources[0])):
        return published(name)
    paths = [Path(source) for source in sources] or [default_store()]
    if missing := next((path for path in paths if not path.exists()), None):
        raise InputError(
            f"there is no fit, run store, CSV or published law called {str(missing)!r}",
            hint=f"run `llama-scale sweep`, or name a published law: {', '.join(published_names())}",
        )
    fits, tables = _sorted(paths)
    if fits and not tables:
        return fits[0]
    return needed(runs_and_law(sources)[1], sources, kind)


def _published(source: str) -> str | None:
    """The published law of a name; a file or store of it is preferred to a law not quite called so."""
    from llama_scale.laws import published_name

    name = published_name(source)
    return name if name == source or not Path(source).exists() else None


def needed(fit: Fit | None, sources: Sequence[str], kind: str, where: Sequence[str] = ()) -> Fit:
    """The law that a picture cannot do without; raises InputError naming the command that makes one."""
    if fit is None:
        named, those = sources or [str(default_store())], "these" if where else "the"
        rows = [word for kept in where for word in ("--where", kept)]
        raise InputError(
            f"{kind} shows a law, and none is kept of {those} runs in {' '.join(named)}",
            hint=f"fit them first: `{shlex.join(['llama-scale', 'fit', *named, *rows])}`",
        )
    return fit


def _sorted(paths: Sequence[Path]) -> tuple[list[Fit], list[Path]]:
    """Fits, read, and the paths that are none."""
    from llama_scale.laws import is_fit, read_fit

    fits = [path for path in paths if is_fit(path)]
    if len(fits) > 1:
        raise InputError(
            f"{fits[0]} and {fits[1]} are two laws", hint="name one fit, and the runs to show it with"
        )
    return [read_fit(path) for path in fits], [path for path in paths if path not in fits]


def _folders(tables: Sequence[Path]) -> list[Path]:
    """Where `fit` and `sweep` keep the fits of these sources."""
    stores = [path for path in tables if path.is_dir()]
    return [store / "fits" for store in dict.fromkeys([*stores, default_store()])]
