"""Made-up sweeps of a known law: what fits are tested on where no reference data lie."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from llama_scale.fitting.observations import Observations, Row, Rows, observe
from llama_scale.laws import RepeatedDataLaw, Repetition, ScalingLaw
from llama_scale.laws.curves import MultiPowerLaw

Array = NDArray[np.float64]

# At N = 60,000 and D = 2M the size costs .9 nats and the data .7: an optimum inside the sweep below.
LAW = ScalingLaw(E=1.6, A=0.9 * 6e4**0.35, B=0.7 * 2e6**0.45, alpha=0.35, beta=0.45)
INDEPENDENT_LAW = ScalingLaw(E=1.8, A=480.0, B=2000.0, alpha=0.35, beta=0.37)
WIDTHS = (16, 24, 32, 48, 64, 96)
BUDGETS = tuple(2e11 * 2 ** (step / 2) for step in range(6))


def sweep_rows(
    seed: int, *, trunk_noise: float, own_noise: float, law: ScalingLaw = LAW, held_out: bool = False
) -> list[Row]:
    """An IsoFLOP sweep: six widths, each a trunk with a branch at each of six budgets; and held-out runs."""
    generator = np.random.default_rng(seed)
    rows = []
    for width in WIDTHS:
        size = 2 * (13 * width**2 + 2 * width) + 1025 * width
        shared = trunk_noise * generator.standard_normal()
        for budget in BUDGETS:
            noise = shared + own_noise * generator.standard_normal()
            rows.append(_row(f"w{width}", size, budget, law, noise))
    if held_out:
        budget = 4 * BUDGETS[-1]
        best = float(law.compute_optimum(budget).parameters)
        for share in (0.5, 1.0, 2.0):
            noise = trunk_noise * generator.standard_normal() + own_noise * generator.standard_normal()
            rows.append(_row(f"held-{share}", best * share, budget, law, noise, held_out=True))
    return rows


def _row(
    family: str, size: float, budget: float, law: ScalingLaw, noise: float, held_out: bool = False
) -> Row:
    tokens = budget / 6 / size
    return Row(
        name=f"{family}-{budget:.3g}",
        place=f"{family} at {budget:.3g}",
        parameters=size,
        tokens=tokens,
        loss=float(law.loss(size, tokens) * np.exp(noise)),
        train_flops=budget,
        budget=budget,
        family=family,
        held_out=held_out,
    )


def sweep(
    seed: int,
    *,
    trunk_noise: float = 0.003,
    own_noise: float = 0.0015,
    law: ScalingLaw = LAW,
    held_out: bool = False,
) -> Observations:
    """`sweep_rows` as observations."""
    rows = sweep_rows(seed, trunk_noise=trunk_noise, own_noise=own_noise, law=law, held_out=held_out)
    return observe([Rows(source="synthetic", rows=tuple(rows), convention="matmul")])


def independent_runs(seed: int, count: int = 80, noise: float = 0.01) -> Observations:
    """Runs of random sizes and durations, up to billions, with heavy-tailed noise and no families."""
    generator = np.random.default_rng(seed)
    sizes, tokens = np.exp(generator.uniform(17, 23, count)), np.exp(generator.uniform(21, 26, count))
    losses = INDEPENDENT_LAW.loss(sizes, tokens) * np.exp(noise * generator.standard_t(4, count))
    rows = [
        Row(name=f"r{i}", place=f"r{i}", parameters=float(n), tokens=float(d), loss=float(loss))
        for i, (n, d, loss) in enumerate(zip(sizes, tokens, losses, strict=True))
    ]
    return observe([Rows(source="synthetic", rows=tuple(rows), convention="total")])


def repeated_runs(
    seed: int,
    law: ScalingLaw,
    repetition: Repetition,
    *,
    noise: float,
    sizes: Array,
    unique: Array,
    epochs: tuple[float, ...],
    most: float = np.inf,
) -> Observations:
    """A grid of sizes, unique tokens and epochs, of sizes up to `most` times what the tokens call for."""
    n, u, e = (axis.ravel() for axis in np.meshgrid(sizes, unique, epochs, indexing="ij"))
    truth = RepeatedDataLaw(law=law, unique_tokens=u, repetition=repetition)
    loss = truth.loss(n, u * e) * np.exp(noise * np.random.default_rng(seed).standard_normal(len(n)))
    rows = [
        Row(
            name=f"r{i}",
            place=f"run {i}",
            parameters=n[i],
            tokens=u[i] * e[i],
            loss=loss[i],
            unique_tokens=u[i],
        )
        for i in np.flatnonzero(n <= most * np.asarray(truth.matched_parameters))
    ]
    return observe([Rows(source="synthetic", rows=tuple(rows), convention="total")])


def lowest(observations: Observations) -> Observations:
    """The lowest loss of each size and duration (several learning rates were run)."""
    order = np.argsort(observations.loss)
    pairs = np.stack([observations.parameters, observations.tokens], axis=1)[order]
    return observations.take(order[np.unique(pairs, axis=0, return_index=True)[1]])


# Luo et al. 2025, github thu-yao-01-luo/MultiPowerLaw, src/config.py: Llama-2-like models at a peak rate of
# 3e-4, fitted on cosine_24000, constant_24000 and wsdcon_9. They count the rise of the rate over the 2,160
# steps of warm-up among its changes, so that L0 is lower than where, as here, the warm-up is only summed.
LUO_CURVES = {
    25: MultiPowerLaw(
        L0=3.04045406,
        A=0.52468604,
        alpha=0.50786857,
        B=363.78751622,
        C=2.06560812,
        beta=0.58279013,
        gamma=0.64142257,
    ),
    100: MultiPowerLaw(
        L0=2.6514477,
        A=0.60115152,
        alpha=0.45295811,
        B=437.9464276,
        C=2.13245612,
        beta=0.59785199,
        gamma=0.65523644,
    ),
}
