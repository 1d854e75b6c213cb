"""A model's whole life in FLOPs, GPU-hours and dollars: its trainings, and everything that it serves."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import NamedTuple

from llama_scale.costs.demand import Demand
from llama_scale.costs.economics import CostUnit, Rental, Serving, Training, missing_price
from llama_scale.costs.roofline import ServedShape
from llama_scale.costs.serving import Deployment, Throughput, serve
from llama_scale.frozen import frozen


class Rates(NamedTuple):
    """Cost of one FLOP of training and of one FLOP of serving, in the unit that they were asked in."""

    train: float
    serve: float


@frozen
class Lifetime:
    """What one model costs to train and to serve.

    Dollars are None where a price is missing; serving hours where no accelerators that were allowed hold
    the model or answer in time.
    """

    train_flops: float
    serve_flops: float
    train_gpu_hours: float
    serve_gpu_hours: float | None
    train_usd: float | None
    serve_usd: float | None

    @property
    def total_flops(self) -> float:
        """FLOPs of training and serving."""
        return self.train_flops + self.serve_flops

    @property
    def total_gpu_hours(self) -> float | None:
        """Hours of training and serving accelerators, counted alike."""
        return None if self.serve_gpu_hours is None else self.train_gpu_hours + self.serve_gpu_hours

    @property
    def total_usd(self) -> float | None:
        """Dollars of training and serving."""
        return None if self.train_usd is None or self.serve_usd is None else self.train_usd + self.serve_usd

    def total(self, unit: CostUnit) -> float:
        """The total in `unit`; nan where it is not known."""
        totals = {"flops": self.total_flops, "gpu_hours": self.total_gpu_hours, "usd": self.total_usd}
        value = totals[unit]
        return float("nan") if value is None else value

    def to_json(self) -> dict[str, float | None]:
        """Its parts and totals."""
        totals = ("total_flops", "total_gpu_hours", "total_usd")
        return asdict(self) | {name: getattr(self, name) for name in totals}


@frozen
class Economics:
    """Everything that turns FLOPs and shapes into hours and dollars.

    Serving hours come from the roofline of `deployment`, or from the MFUs of `serving` where it is None.
    """

    training: Training
    serving: Serving
    demand: Demand
    deployment: Deployment | None = None

    @property
    def units(self) -> tuple[CostUnit, ...]:
        """The units that costs can be given in: dollars where both prices are known."""
        rentals = self.training.rental, self.serving.rental
        priced = all(hired.price_usd_per_hour is not None for hired in rentals)
        return ("flops", "gpu_hours", "usd") if priced else ("flops", "gpu_hours")

    def rates(self, unit: CostUnit) -> Rates:
        """Cost of one FLOP of each training and of serving in `unit`, serving at its constant MFUs.

        Dollars are today's: later ones are discounted. A FLOP of training is paid in every generation.
        Raises InputError naming the option where dollars are asked for and a price is missing.
        """
        if unit == "flops":
            return Rates(self.demand.trainings, 1.0)
        hours = Rates(
            self.training.gpu_hours_per_flop, self.serving.gpu_hours_per_flop(self.demand.input_share)
        )
        if unit == "gpu_hours":
            return Rates(hours.train * self.demand.trainings, hours.serve)
        price = _price(self.training.rental, "--price") * self.demand.train_factor
        return Rates(hours.train * price, hours.serve * self.serve_rate(unit) * 3600)

    def serve_rate(self, unit: CostUnit) -> float:
        """Cost of one second of a serving accelerator in GPU-hours or dollars."""
        if unit == "gpu_hours":
            return 1 / 3600
        return _price(self.serving.rental, "--serve-price") * self.demand.serve_factor / 3600

    def lifetime(self, train_flops: float, serve_flops: float, shape: ServedShape | None = None) -> Lifetime:
        """The cost, in every unit, of trainings of so many FLOPs each and of serving so many in all.

        Without its shape, or without a deployment, a model is served at the constant MFUs.
        """
        demand = self.demand
        train_hours = train_flops * self.training.gpu_hours_per_flop
        serve_hours = serve_flops * self.serving.gpu_hours_per_flop(demand.input_share)
        if demand.serve_tokens and (served := self.throughput(shape)) is not None:
            serve_hours = float(served.accelerator_seconds_per_token) * demand.serve_tokens / 3600
        prices = self.training.rental.price_usd_per_hour, self.serving.rental.price_usd_per_hour
        return Lifetime(
            train_flops=train_flops * demand.trainings,
            serve_flops=serve_flops,
            train_gpu_hours=train_hours * demand.trainings,
            serve_gpu_hours=None if math.isnan(serve_hours) else serve_hours,
            train_usd=_times(train_hours * demand.train_factor, prices[0]),
            serve_usd=_times(serve_hours * demand.serve_factor, prices[1]),
        )

    def throughput(self, shape: ServedShape | None) -> Throughput | None:
        """How the deployment serves one shape; None without either."""
        return None if shape is None or self.deployment is None else serve(self.deployment, shape)


def _price(hired: Rental, option: str) -> float:
    if hired.price_usd_per_hour is None:
        raise missing_price(hired, option)
    return hired.price_usd_per_hour


def _times(hours: float, price: float | None) -> float | None:
    return None if price is None or math.isnan(hours) else hours * price
