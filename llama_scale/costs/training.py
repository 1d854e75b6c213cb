"""What training a model takes: hours, days, dollars, energy, CO2, and how accelerators share the work."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from llama_scale.architecture import ModelConfig, Recompute
from llama_scale.costs.economics import Default, Formula, Rental, Training
from llama_scale.costs.layouts import Layout, Workload, fewest_accelerators, layouts, why_none_fits
from llama_scale.costs.memory import recompute_overhead
from llama_scale.errors import InputError
from llama_scale.frozen import frozen
from llama_scale.quantities import (
    format_bytes,
    format_count,
    format_gpu_hours,
    format_number,
    format_usd,
)

DEFAULT_PUE = Default(
    1.1, "power usage effectiveness that LLaMA assumes (arXiv 2302.13971, section 6)", "2023"
)
DEFAULT_CARBON = Default(0.385, "kg CO2e a kWh, the US average that LLaMA assumes (section 6)", "2023")
DEFAULT_BATCH_TOKENS = 2**22  # LLaMA's 4M


@frozen
class TrainingReport:
    """What one training run takes; days are None without a number of accelerators, dollars without a price.

    `mfu` counts useful FLOPs; `hardware_utilisation` those that are recomputed too, under the best layout.
    `note` says why no layout fits where none does. Energy is None where no board power is known.
    """

    shape: ModelConfig
    tokens: float
    train_flops: float
    rental: Rental
    mfu: float
    goodput: float
    recompute: Recompute | None
    batch_tokens: float
    accelerators: int | None
    gpu_hours: float
    pue: float
    kg_co2_per_kwh: float
    layouts: tuple[Layout, ...]
    note: str | None
    fewest_accelerators: int | None

    @property
    def days(self) -> float | None:
        """All accelerators at work all the time."""
        return None if self.accelerators is None else self.gpu_hours / self.accelerators / 24

    @property
    def usd(self) -> float | None:
        """GPU-hours at the rental's price."""
        price = self.rental.price_usd_per_hour
        return None if price is None else self.gpu_hours * price

    @property
    def energy_mwh(self) -> float | None:
        """MWh at the board's power limit x PUE (LLaMA, arXiv 2302.13971, section 6)."""
        watts = self.rental.accelerator.power_watts
        return None if watts is None else self.gpu_hours * watts * self.pue / 1e6

    @property
    def co2_tonnes(self) -> float | None:
        """Tonnes of CO2 equivalent of that energy: kg a kWh is also tonnes a MWh."""
        return None if self.energy_mwh is None else self.energy_mwh * self.kg_co2_per_kwh

    @property
    def layout(self) -> Layout | None:
        """The best layout."""
        return self.layouts[0] if self.layouts else None

    @property
    def tokens_per_second_per_accelerator(self) -> float:
        """While training runs, goodput left out: what a benchmark prints."""
        return self.tokens / (self.gpu_hours * self.goodput * 3600)

    @property
    def hardware_utilisation(self) -> float:
        """HFU: MFU x (1 + what the layout recomputes); the MFU itself where no layout is known."""
        return self.mfu * (1 + (self.layout.recompute_overhead if self.layout else 0.0))

    def to_json(self) -> dict[str, Any]:
        """Plain numbers, layouts best first."""
        return {
            "accelerator": self.rental.accelerator.name,
            "precision": self.rental.precision,
            "accelerators": self.accelerators,
            "train_flops": self.train_flops,
            "tokens": self.tokens,
            "batch_tokens": self.batch_tokens,
            "mfu": self.mfu,
            "hardware_utilisation": self.hardware_utilisation,
            "goodput": self.goodput,
            "tokens_per_second_per_accelerator": self.tokens_per_second_per_accelerator,
            "gpu_hours": self.gpu_hours,
            "days": self.days,
            "usd": self.usd,
            "energy_mwh": self.energy_mwh,
            "pue": self.pue,
            "co2_tonnes": self.co2_tonnes,
            "kg_co2_per_kwh": self.kg_co2_per_kwh,
            "layouts": [layout.to_json() for layout in self.layouts],
            "note": self.note,
            "fewest_accelerators": self.fewest_accelerators,
            "architecture": asdict(self.shape),
        }

    def formulas(self) -> Iterator[Formula]:
        """Name, formula, numbers and source of hours, days, energy, CO2, memory and layout."""
        yield from _cost_formulas(self)
        if self.layout is not None:
            yield from _layout_formulas(self, self.layout)


def training_report(
    shape: ModelConfig,
    tokens: float,
    *,
    rental: Rental,
    mfu: float,
    goodput: float = 1.0,
    accelerators: int | None = None,
    batch_tokens: float | None = None,
    train_flops: float | None = None,
    recompute: Recompute | None = None,
    pue: float = DEFAULT_PUE.value,
    kg_co2_per_kwh: float = DEFAULT_CARBON.value,
) -> TrainingReport:
    """What it takes to train `shape` on `tokens`.

    `train_flops` are the shape's exact ones unless given (6ND, where the MFU counts 6ND). `mfu` is reached
    with attention recomputed in its fused kernel, or whatever the layout recomputes; a `recompute` that is
    asked for costs its FLOPs at the same hardware utilisation, and the hours grow by them. Raises InputError
    for no accelerators, and for a batch of less than one sequence.

    >>> from llama_scale.architecture import LLAMA_65B
    >>> from llama_scale.costs import rental
    >>> a100 = rental("A100", precision="bf16")
    >>> report = training_report(LLAMA_65B, 1.4e12, rental=a100, mfu=0.499, accelerators=2048)
    >>> round(report.days, 1), round(report.energy_mwh)
    (20.6, 446)
    """
    _refuse_absurd(shape, accelerators, batch_tokens)
    batch = DEFAULT_BATCH_TOKENS if batch_tokens is None else batch_tokens
    flops = shape.train_flops_per_token() * tokens if train_flops is None else train_flops
    extra = 0.0 if recompute is None else recompute_overhead(shape, recompute)
    training = Training(rental=rental, mfu=mfu, goodput=goodput, recomputed=extra)
    work = Workload(
        shape=shape,
        accelerator=rental.accelerator,
        peak_flops_per_second=rental.peak_flops_per_hour / 3600,
        batch_tokens=batch,
        mfu=mfu,
        recompute=recompute,
    )
    found = () if accelerators is None else layouts(work, accelerators)
    return TrainingReport(
        shape=shape,
        tokens=tokens,
        train_flops=flops,
        rental=rental,
        mfu=mfu,
        goodput=goodput,
        recompute=recompute,
        batch_tokens=batch,
        accelerators=accelerators,
        gpu_hours=flops * training.gpu_hours_per_flop,
        pue=pue,
        kg_co2_per_kwh=kg_co2_per_kwh,
        layouts=found,
        note=None if accelerators is None or found else why_none_fits(work, accelerators),
        fewest_accelerators=None if found else fewest_accelerators(work),
    )


def _refuse_absurd(shape: ModelConfig, accelerators: int | None, batch_tokens: float | None) -> None:
    if accelerators is not None and accelerators < 1:
        raise InputError(
            f"cannot train on {accelerators} accelerators", hint="give --accelerators of 1 or more"
        )
    if batch_tokens is not None and batch_tokens < shape.context:
        raise InputError(
            f"a batch of {format_count(batch_tokens)} tokens holds no sequence of {shape.context:,}",
            hint=f"use batches of at least {shape.context:,} tokens, or a shorter --context",
        )


def _cost_formulas(report: TrainingReport) -> Iterator[Formula]:
    peak = report.rental.peak_flops_per_hour / 3600
    again = 0.0 if report.recompute is None else recompute_overhead(report.shape, report.recompute)
    yield Formula(
        "training GPU-hours",
        "FLOPs x (1 + recomputed) / (peak x MFU x goodput x 3600)",
        f"{report.train_flops:.4g} x {1 + again:.4g} / ({peak:.4g} x {report.mfu:g} x {report.goodput:g} "
        f"x 3600) = {format_gpu_hours(report.gpu_hours, 4)}",
        "MFU as PaLM (arXiv 2204.02311, appendix B) defines it",
    )
    if report.accelerators is not None and report.days is not None:
        numbers = f"{report.gpu_hours:.4g} / ({report.accelerators:,} x 24) = {format_number(report.days)} d"
        yield Formula(
            "training days", "GPU-hours / (accelerators x 24)", numbers, "all of them at work all the time"
        )
    if report.usd is not None:
        numbers = (
            f"{report.gpu_hours:.4g} x ${report.rental.price_usd_per_hour:g} = {format_usd(report.usd, 4)}"
        )
        yield Formula("training dollars", "GPU-hours x price", numbers, report.rental.price_source)
    if report.energy_mwh is not None and report.co2_tonnes is not None:
        watts = report.rental.accelerator.power_watts
        yield Formula(
            "energy",
            "GPU-hours x board power x PUE",
            f"{report.gpu_hours:.4g} x {watts:g} W x {report.pue:g} = {format_number(report.energy_mwh)} MWh",
            "LLaMA, arXiv 2302.13971, section 6",
        )
        numbers = (
            f"{report.energy_mwh:.4g} x {report.kg_co2_per_kwh:g} = {format_number(report.co2_tonnes)} t CO2e"
        )
        yield Formula("CO2", "MWh x kg CO2e a kWh", numbers, "LLaMA, arXiv 2302.13971, section 6")


def _layout_formulas(report: TrainingReport, layout: Layout) -> Iterator[Formula]:
    memory, spread = layout.memory, layout.sharding
    states = memory.weights_bytes + memory.gradients_bytes + memory.optimizer_bytes
    parts = states, memory.gathered_bytes, memory.activations_bytes, memory.logits_bytes
    total, usable = format_bytes(memory.total_bytes), format_bytes(memory.usable_bytes)
    yield Formula(
        "memory of an accelerator",
        "states / (FSDP x tensor x pipeline) + gathered weights + activations + logits <= .92 memory - 3 GB",
        f"{' + '.join(format_bytes(part) for part in parts)} = {total} <= {usable}",
        "Korthikanti et al. 2022, arXiv 2205.05198; states of mixed precision: 18 bytes a parameter",
    )
    yield Formula(
        "layout",
        "data x FSDP x tensor x pipeline = accelerators; micro-batch x replicas x micro-steps = batch",
        f"{spread.data} x {spread.fsdp} x {spread.tensor} x {spread.pipeline} = {spread.accelerators:,}; "
        f"{layout.micro_batch} x {spread.replicas:,} x {layout.micro_steps} sequences = "
        f"{format_count(layout.batch_tokens)} tokens",
        "least time lost to recomputing, bubble and exposed communication (costs/layouts.py)",
    )
    yield Formula(
        "hardware utilisation",
        "MFU x (1 + recomputed)",
        f"{report.mfu:g} x {1 + layout.recompute_overhead:.4g} = {report.hardware_utilisation:.3g}; "
        f"bubble {layout.bubble:.3g} = ({spread.pipeline} - 1) / {layout.micro_steps}",
        "Korthikanti et al. 2022, section 5",
    )
