"""How sure a fit is: laws drawn as plausibly as the runs allow, and the noise of a new run.

Ways to draw laws of one candidate, each a refit of disturbed data:

    rows     resample runs with replacement (Besiroglu et al. 2024): for many independent runs
    runs     resample whole trunks with their branches: for many trunks
    budgets  resample whole IsoFLOP budgets, and runs that belong to none: for twenty budgets or more
    model    simulate losses from the fitted law, with normal noise of trunks and runs as estimated (`noise`):
             for sweeps of a few trunks or runs, where one more or less is another design

On synthetic sweeps of 6 trunks x 6 budgets, 90 % intervals cover the best N at the largest budget 62 to
92 % of the time by `rows` and 88 to 98 % by `model` (benchmarks/coverage.py). Noise is not made of residuals:
one times a normal number (wild bootstrap, Wu 1986) is near zero too often, and how sure a Huber fit is turns
on how many residuals lie within its delta. Such intervals of independent runs were half as wide as need be.

Where the candidate was chosen, the draws that a fit carries are of all candidates that backtests do not tell
apart (`draw_mixtures`), and their exponents waver as far as is likely from backtests (`drift`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from llama_scale.fitting.candidates import Candidate, constants_of, points_of
from llama_scale.fitting.consensus import Heard
from llama_scale.fitting.forms import CHINCHILLA, FITTED, Form
from llama_scale.fitting.minima import Minima
from llama_scale.fitting.newton import NAMES, Array
from llama_scale.fitting.noise import Noise, estimate_noise, log_prediction, noise_about
from llama_scale.fitting.observations import LAW_CONSTANTS, Observations
from llama_scale.fitting.points import Case, Points
from llama_scale.fitting.solver import LEAST_SQUARES
from llama_scale.frozen import frozen
from llama_scale.laws import FormName, ScalingLaw, median

Resampling = Literal["rows", "runs", "budgets", "model"]
# Of absolute residuals, from which a normal's sd is read: tails count, single runs don't
NOISE_QUANTILE = 0.9
NORMAL_REACH = 1.645  # what that quantile is of a normal, in sd
FEW_BUDGETS = 20
NOISE_POWER = 0.25  # runs near the frontier say more of the next run's noise than tiny ones


@frozen
class Draws:
    """Laws drawn for a fit (S,), and the relative sd of a new run under each (S,).

    `at_bound` is the share of them that end on a bound where the form's constants should not rest, `fits`
    how many candidates they are of.
    """

    law: ScalingLaw
    noise: Array
    trunk_noise: float
    own_noise: float
    method: Resampling
    at_bound: float
    fits: int = 1

    @property
    def note(self) -> str:
        """What the draws are, in a sentence."""
        parts = "of trunks and of runs" if self.trunk_noise else "of runs"
        ways = {
            "rows": "refits of runs resampled with replacement",
            "runs": "refits of trunks resampled with their branches",
            "budgets": "refits of IsoFLOP budgets resampled whole",
            "model": f"refits of losses simulated from the fit, with noise {parts} as estimated",
        }
        of_all = f", of {self.fits} fits that backtests don't tell apart" if self.fits > 1 else ""
        return f"{len(self.noise)} draws: {ways[self.method]}{of_all}"


def choose_resampling(observations: Observations) -> Resampling:
    """Simulation where runs share trunks, or are few; else the bootstrap over runs."""
    few = len(observations) < 8 * LAW_CONSTANTS
    return "model" if observations.shares_trunks or few else "rows"


def draw_laws(
    observations: Observations,
    candidate: Candidate,
    constants: Array,
    *,
    draws: int,
    seed: int = 0,
    method: Resampling | None = None,
) -> Draws:
    """Draw laws of one candidate about its optimum (5 or 6,)."""
    return _refit([_disturb(observations, candidate, constants, draws=draws, seed=seed, method=method)])[0]


class Disturbed(NamedTuple):
    """Runs disturbed many times over for one candidate: what is refitted, resampled in which way."""

    candidate: Candidate
    case: Case
    method: Resampling
    noise: Noise

    def drawn(self, found: Minima) -> Draws:
        """The draws, given the minima of the refits."""
        return Draws(
            law=self.case.points.law(found.constants),
            noise=self.noise.total,
            trunk_noise=median(self.noise.trunk),
            own_noise=median(self.noise.own),
            method=self.method,
            at_bound=float(found.at_bound[self.candidate.fitted_form.fixed_rows].any(axis=0).mean()),
        )


def _disturb(
    observations: Observations,
    candidate: Candidate,
    constants: Array,
    *,
    draws: int,
    seed: int,
    method: Resampling | None,
    noise: Noise | None = None,
) -> Disturbed:
    """With `noise` as given, or else as estimated."""
    points = points_of(observations, candidate)
    generator = np.random.default_rng(seed)
    chosen = method or choose_resampling(observations)
    noise = noise or noise_of(observations, candidate, constants, draws=draws, generator=generator)
    if chosen == "model":
        simulated = noise.simulate(observations.family_codes, generator)
        simulated += log_prediction(points, constants)
        case = Case.of(points, constants, log_losses=simulated)
    else:
        counts = _resample(_groups(observations, chosen), draws, generator)
        case = Case.of(points, constants, weights=counts)
    return Disturbed(candidate, case, chosen, noise)


def _refit(disturbed: Sequence[Disturbed]) -> list[Draws]:
    """The draws of each, those of one form and delta as one batch."""
    found: dict[int, Draws] = {}
    alike: dict[tuple[FormName, float], list[int]] = defaultdict(list)
    for number, one in enumerate(disturbed):
        alike[one.candidate.form, one.candidate.delta].append(number)
    for (form, delta), numbers in alike.items():
        cases = [disturbed[number].case for number in numbers]
        # Draws of hardly more runs than constants may lie beyond any law: no step towards them is taken.
        with np.errstate(over="ignore", invalid="ignore"):
            minima = FITTED[form].refit_each(cases, delta=delta)
        found.update({i: disturbed[i].drawn(one) for i, one in zip(numbers, minima, strict=True)})
    return [found[number] for number in range(len(disturbed))]


def _disturb_each(heard: Heard, draws: int, seed: int, method: Resampling | None) -> list[Disturbed]:
    """What is refitted: of each candidate as many draws as its weight says."""
    runs, generator = heard.observations, np.random.default_rng(seed)
    starts = {one: constants_of(points_of(runs, one), one, heard.laws[one]) for one in heard.weights}
    loudest = max(heard.weights, key=lambda one: heard.weights[one])
    noise = noise_of(runs, loudest, starts[loudest], draws=draws, generator=generator)
    shares = np.cumsum(list(heard.weights.values()))
    ends = np.round(shares / shares[-1] * draws).astype(int).tolist()
    return [
        _disturb(
            runs,
            one,
            start,
            draws=last - first,
            seed=seed + first,
            method=method,
            noise=replace(noise, trunk=noise.trunk[first:last], own=noise.own[first:last]),
        )
        for (one, start), first, last in zip(starts.items(), [0, *ends], ends, strict=False)
        if first < last
    ]


def draw_mixtures(
    mixtures: Sequence[Heard], *, draws: int, seed: int = 0, method: Resampling | None = None
) -> list[Draws]:
    """Draw laws of every candidate about its law, each as often as its weight says, in mixed order."""
    disturbed = [_disturb_each(heard, draws, seed, method) for heard in mixtures]
    found = iter(_refit([one for some in disturbed for one in some]))
    return [_mixed([next(found) for _ in some], draws, seed) for some in disturbed]


def _mixed(parts: Sequence[Draws], draws: int, seed: int) -> Draws:
    order = np.random.default_rng(seed).permutation(draws)
    return Draws(
        law=_joined([part.law for part in parts], order),
        noise=np.concatenate([part.noise for part in parts])[order],
        trunk_noise=median([part.trunk_noise for part in parts]),
        own_noise=median([part.own_noise for part in parts]),
        method=parts[0].method,
        at_bound=float(np.average([p.at_bound for p in parts], weights=[len(p.noise) for p in parts])),
        fits=len(parts),
    )


def _joined(laws: list[ScalingLaw], order: NDArray[np.intp]) -> ScalingLaw:
    columns = {name: [np.broadcast_to(getattr(law, name), np.shape(law.E)) for law in laws] for name in NAMES}
    return ScalingLaw(**{name: np.concatenate(column)[order] for name, column in columns.items()})


def noise_of(
    observations: Observations,
    candidate: Candidate,
    constants: Array,
    *,
    draws: int,
    generator: np.random.Generator,
) -> Noise:
    """Noise of a new run near the dearest ones: of trunks and runs where runs share them, else of runs."""
    form = candidate.fitted_form
    if observations.shares_trunks:
        unweighted = points_of(observations)
        return model_noise(unweighted, observations.family_codes, draws=draws, generator=generator, form=form)
    points = points_of(observations, candidate)
    residuals = np.abs(points.z - log_prediction(points, constants))
    flops = observations.train_flops
    weights = (flops / flops.max()) ** max(candidate.power, NOISE_POWER)
    order = np.argsort(residuals)
    reached = np.cumsum(weights[order]) / weights.sum()
    quantile = residuals[order][np.searchsorted(reached, NOISE_QUANTILE)]
    count = len(residuals)
    freedom = count - form.constants
    estimate = float(quantile / NORMAL_REACH * np.sqrt(count / freedom))
    return noise_about(estimate, freedom, draws, generator.spawn(1)[0])


def model_noise(
    points: Points,
    families: NDArray[np.intp],
    *,
    draws: int,
    generator: np.random.Generator,
    form: Form = CHINCHILLA,
) -> Noise:
    """Noise of trunks and runs, from the residuals of a least-squares fit.

    Without weights: a candidate's say which runs matter to its law, not how noisy they are. Read as if they
    did, weights by compute make the dearest runs of the default sweep a third quieter than their repeats are.
    """
    least = form.solve(points, delta=LEAST_SQUARES, quick=True).constants
    return estimate_noise(points, least, form.layout, families, draws=draws, generator=generator)


def _groups(observations: Observations, method: Resampling) -> NDArray[np.intp]:
    """Which runs are drawn together, as numbers, one a run."""
    count = len(observations)
    if method == "runs":
        return observations.family_codes
    if method == "budgets":
        alone = np.isnan(observations.budgets)
        labels = np.where(alone, -1.0 - np.arange(count), observations.budgets)
        return np.unique(labels, return_inverse=True)[1].ravel()
    return np.arange(count)


def doubts_of_resampling(observations: Observations, method: Resampling | None) -> list[str]:
    """A warning where too few budgets are drawn whole.

    On made-up sweeps of 5, 8, 12 and 24 budgets 90 % intervals of the best N held it in 83, 79, 82 and 90 %.
    """
    if method != "budgets":
        return []
    groups = int(_groups(observations, method).max()) + 1
    if groups >= FEW_BUDGETS:
        return []
    return [
        f"{groups} budgets are few to draw whole: of made-up sweeps of 5 to 12 budgets, 90% intervals of the"
        " best N held it in eight of ten; --resampling model in nine of ten"
    ]


def _resample(groups: NDArray[np.intp], draws: int, generator: np.random.Generator) -> Array:
    """Counts (S, n) of whole groups drawn with replacement."""
    number = int(groups.max()) + 1
    counts = generator.multinomial(number, np.full(number, 1 / number), size=draws)
    return counts[:, groups].astype(float)
