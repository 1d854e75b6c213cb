"""The Fit that carries a law between stages: draws, noise, where its runs lay, and what it predicts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, field
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from llama_scale.architecture import ParameterConvention
from llama_scale.errors import InputError, shown
from llama_scale.frozen import frozen
from llama_scale.laws.downstream import Downstream
from llama_scale.laws.forms import Numbers, ScalingLaw
from llama_scale.laws.repeated import MUENNIGHOFF_REPETITION, REPEATED, RepeatedDataLaw, Repetition
from llama_scale.laws.shipped import published_decays
from llama_scale.laws.spread import DEFAULT_LEVEL, Range, central_range, check_level, normal_strata, tails
from llama_scale.quantities import counted

FlopsAccounting = Literal["6nd", "exact"]
ACCOUNTINGS: tuple[FlopsAccounting, ...] = get_args(FlopsAccounting)
AT_ONCE = 256  # predictions: of each, a thousand draws by the strata of their noise, 70 MB in all


@frozen
class Support:
    """Where the runs behind a law lie, parameters in its convention; None where the source doesn't say."""

    train_flops: Range | None = None
    parameters: Range | None = None
    tokens: Range | None = None
    tokens_per_parameter: Range | None = None

    def extrapolation(self, *, parameters: float, tokens: float, train_flops: float) -> dict[str, float]:
        """How far a run lies beyond each known range, by name, as `Range.beyond` counts it."""
        values = {
            "train_flops": train_flops,
            "parameters": parameters,
            "tokens": tokens,
            "tokens_per_parameter": tokens / parameters,
        }
        ranges = {name: getattr(self, name) for name in values}
        return {name: ranges[name].beyond(value) for name, value in values.items() if ranges[name]}


@frozen
class Prediction:
    """The loss of a run that has not been trained, and where one such run should land with chance `level`.

    `low` and `high` are None for a law without draws: an interval is never invented.
    """

    loss: Numbers
    low: Numbers | None
    high: Numbers | None
    level: float


@frozen
class Optimum:
    """The compute-optimal split of a budget; intervals are those of the law's draws, None without them."""

    parameters: float
    tokens: float
    loss: float
    parameters_interval: Range | None
    tokens_interval: Range | None
    loss_interval: Range | None
    level: float


def _told(name: str) -> Any:
    """A part of a fit's evidence as an attribute of the fit; None where nobody told it."""
    return property(lambda fit: fit.evidence.get(name), doc=f"`{name}` of `fit --json`.")


@frozen(eq=False)
class Fit:
    """A law, how sure we are of it, and what it was fitted on: what the fitting stage hands to the planner.

    `draws` is a batch of laws, each as plausible as its frequency, or None with the reason in
    `draws_note`. `noise` is the relative standard deviation of one new run about the true law, and
    `noise_draws` the same for each draw. `interval_factor` widens predictive intervals where
    backtests showed them too narrow. `repetition` says what repeated data are worth, where that was
    fitted, with `repetition_draws` of it; `downstream` what a loss scores. `evidence` is the rest of
    `fit --json`, whose promised parts are attributes of their own too.
    """

    name: str
    law: ScalingLaw
    convention: ParameterConvention
    source: str
    flops_accounting: FlopsAccounting = "6nd"
    support: Support = Support()
    draws: ScalingLaw | None = None
    draws_note: str = ""
    noise: float = 0.0
    noise_draws: NDArray[np.float64] | None = None
    interval_factor: float = 1.0
    repetition: Repetition | None = None
    repetition_draws: Repetition | None = None
    downstream: Downstream | None = None
    evidence: Mapping[str, Any] = field(default_factory=dict)

    objective = _told("objective")
    n_observations = _told("n_observations")
    standard_errors = _told("standard_errors")
    intervals = _told("intervals")
    diagnostics = _told("diagnostics")
    selection = _told("selection")
    backtest = _told("backtest")
    provenance = _told("provenance")
    warnings = _told("warnings")

    @property
    def form(self) -> str:
        """What the law is called: its form, or `repeated` with what repeated data are worth."""
        return self.law.form if self.repetition is None else REPEATED

    @property
    def parameters(self) -> dict[str, float]:
        """The constants by name, the two decays of repeated data among them where it has them."""
        decays = asdict(self.repetition) if self.repetition else {}
        return {name: float(value) for name, value in {**self.law.constants, **decays}.items()}

    @property
    def parameter_convention(self) -> ParameterConvention:
        """Which parameters N counts: `convention`, by its name in files."""
        return self.convention

    @property
    def exponent_a(self) -> float:
        """The exponent of the optimal N in C."""
        return float(self.law.exponent_a)

    def to_json(self) -> dict[str, Any]:
        """The object that `fit --json` prints, but for the name of the fit's file."""
        from llama_scale.laws.files import fit_to_json

        return fit_to_json(self, draws=False)

    @property
    def at_bound(self) -> tuple[str, ...]:
        """The constants that its runs leave on a bound, as far as its evidence tells."""
        diagnostics = self.evidence.get("diagnostics")
        return tuple(diagnostics.get("at_bound") or ()) if isinstance(diagnostics, Mapping) else ()

    def __repr__(self) -> str:
        law = ", ".join(f"{name}={float(value):.5g}" for name, value in self.law.constants.items())
        draws = "no draws" if self.draws is None else f"{np.size(self.draws.E)} draws"
        return f"<Fit {self.name}: {law} ({self.convention} parameters, {draws}), from {self.source}>"

    def _repr_markdown_(self) -> str:
        """What a notebook shows: constants with intervals, how sure they are, runs held out."""
        from llama_scale.laws.notebook import fit_markdown

        return fit_markdown(self)

    def predict(
        self, parameters: ArrayLike, tokens: ArrayLike, *, level: float = DEFAULT_LEVEL
    ) -> Prediction:
        """Loss of a new run of N parameters on D tokens; its interval holds law draws and a run's own noise.

        Arguments broadcast; N is counted by `convention`. InputError unless all are finite and above 0.
        """
        _check_positive("parameters", parameters)
        _check_positive("tokens", tokens)
        _check_pairs(parameters, tokens)
        check_level(level)
        loss = self.law.loss(parameters, tokens)
        if self.draws is None:
            return Prediction(loss=loss, low=None, high=None, level=level)
        n, d = np.broadcast_arrays(np.asarray(parameters, float), np.asarray(tokens, float))
        pieces = [
            self._outcome_tails(n.ravel()[first : first + AT_ONCE], d.ravel()[first : first + AT_ONCE], level)
            for first in range(0, n.size, AT_ONCE)
        ]
        ends = np.concatenate([*pieces, np.zeros((2, 0))], axis=1).reshape(2, *n.shape)
        low, high = loss * np.exp(self.interval_factor * (ends - np.log(loss)))
        return Prediction(loss=loss, low=np.minimum(low, loss), high=np.maximum(high, loss), level=level)

    def _outcome_tails(
        self, parameters: NDArray[np.float64], tokens: NDArray[np.float64], level: float
    ) -> NDArray[np.float64]:
        """Where the log loss of one new run at each N, D (n,) should end: both ends (2, n)."""
        assert self.draws is not None
        centres = np.log(self.draws.loss(parameters[:, None], tokens[:, None]))
        noise = np.broadcast_to(self.noise if self.noise_draws is None else self.noise_draws, centres.shape)
        outcomes = (centres[..., None] + noise[..., None] * normal_strata()).reshape(len(parameters), -1)
        return tails(outcomes, level)

    def repeated(self, unique_tokens: float) -> RepeatedDataLaw:
        """The law where only so many tokens are there to be trained on, repeated if need be.

        What repetition costs is the fit's own where it was fitted, else as Muennighoff et al. published.
        """
        return RepeatedDataLaw(
            law=self.law,
            unique_tokens=unique_tokens,
            repetition=self.repetition or MUENNIGHOFF_REPETITION,
        )

    def repeated_draws(self, unique_tokens: float) -> RepeatedDataLaw | None:
        """The draws of that law, a draw of the decays with each draw of the law; None without draws.

        A fit that says nothing of repetition takes our draws of the published decays.
        """
        decays = self.repetition_draws or self.repetition or published_decays()
        if self.draws is None:
            if self.repetition_draws is None:
                return None
            return RepeatedDataLaw(law=self.law, unique_tokens=unique_tokens, repetition=decays)
        if np.ndim(decays.tokens_decay):
            decays = decays.at(np.arange(np.size(self.draws.E)) % np.size(decays.tokens_decay))
        return RepeatedDataLaw(law=self.draws, unique_tokens=unique_tokens, repetition=decays)

    def optimum(self, train_flops: float, *, level: float = DEFAULT_LEVEL) -> Optimum:
        """The split of C = 6ND that minimises the loss, and how sure the law is of it.

        Raises InputError for several budgets: `law.compute_optimum` splits them all at once.
        """
        _check_positive("train_flops", train_flops)
        if np.ndim(train_flops):
            raise InputError(
                f"train_flops hold {counted(np.size(train_flops), 'budget')}, but an optimum is of a number",
                hint="ask for each in turn, or call fit.law.compute_optimum(train_flops)",
            )
        check_level(level)
        parameters, tokens = self.law.compute_optimum(train_flops)
        ranges: list[Range | None] = [None, None, None]
        if self.draws is not None:
            split = self.draws.compute_optimum(train_flops)
            values = (split.parameters, split.tokens, self.draws.loss(*split))
            ranges = [central_range(value, level) for value in values]
        return Optimum(
            parameters=float(parameters),
            tokens=float(tokens),
            loss=float(self.law.loss(parameters, tokens)),
            parameters_interval=ranges[0],
            tokens_interval=ranges[1],
            loss_interval=ranges[2],
            level=level,
        )


def _check_pairs(parameters: ArrayLike, tokens: ArrayLike) -> None:
    """Raises InputError for arrays that do not broadcast: a size each, a duration each, but not as many."""
    try:
        np.broadcast_shapes(np.shape(parameters), np.shape(tokens))
    except ValueError:
        raise InputError(
            f"parameters of shape {np.shape(parameters)} and tokens of shape {np.shape(tokens)} make no"
            " pairs",
            hint="give as many of each, or reshape one to (n, 1) for a grid",
        ) from None


def _check_positive(name: str, values: ArrayLike) -> None:
    """Raises InputError unless all are finite numbers above 0."""
    try:
        array = np.asarray(values, float)
        good = bool(np.all((array > 0) & (array < np.inf)))
    except (TypeError, ValueError, OverflowError):
        good = False
    if not good:
        raise InputError(
            f"{name} is {shown(values)}, but must be finite and above 0", hint=f"write {name} as 7e9"
        )
