"""The roofline of one model with its numbers put in, formula by formula, and what a million tokens cost."""

from __future__ import annotations

import re
from typing import NamedTuple

from llama_scale.costs.economics import Formula
from llama_scale.costs.roofline import (
    RESERVED_BYTES,
    USABLE_MEMORY,
    Array,
    Engine,
    Phases,
    ServedShape,
    cache_bytes,
    exchange_seconds,
    phases,
    usable_bytes,
)
from llama_scale.costs.serving import NODE, Deployment, Throughput, engine, serve
from llama_scale.costs.serving_limits import why_not
from llama_scale.quantities import format_number


class TokenPrices(NamedTuple):
    """Dollars for a million tokens read, written, and in the mix of the requests."""

    input_usd: Array
    output_usd: Array
    blended_usd: Array


def token_prices(throughput: Throughput, price_usd_per_hour: float) -> TokenPrices:
    """What a million tokens cost at a price for an hour of one accelerator, idle time included."""
    each = 1e6 * price_usd_per_hour / 3600
    return TokenPrices(
        each * throughput.accelerator_seconds_per_input_token,
        each * throughput.accelerator_seconds_per_output_token,
        each * throughput.accelerator_seconds_per_token,
    )


def explain_serving(deployment: Deployment, shape: ServedShape) -> tuple[Formula, ...]:
    """Every formula behind `serve` for one model, in the order in which they are used.

    Raises InfeasibleError where it cannot be served.
    """
    if error := why_not(deployment, shape):
        raise error
    served = _Served(deployment, shape, serve(deployment, shape))
    formulas = (*_memory(served), *_times(served), *_limits(served), *_rates(served))
    return tuple(
        formula._replace(numbers=re.sub(r"e\+?(-?)0?(\d)", r"e\1\2", formula.numbers)) for formula in formulas
    )


class _Served(NamedTuple):
    """One model as deployed, and what comes of it."""

    deployment: Deployment
    shape: ServedShape
    found: Throughput

    @property
    def group(self) -> int:
        return int(self.found.accelerators)

    @property
    def tensor(self) -> int:
        return min(self.group, NODE)

    @property
    def machine(self) -> Engine:
        return engine(self.deployment, self.group)

    @property
    def times(self) -> Phases:
        return phases(self.deployment.calibration, self.machine, self.shape, self.deployment.traffic)

    @property
    def batch(self) -> float:
        """Answers of one stage at a time."""
        return float(self.found.batch) * self.tensor / self.group

    @property
    def source(self) -> str:
        calibration = self.deployment.calibration
        held_out = next((f for f in calibration.accuracy if f.held_out == "a model"), None)
        error = f"; median error {held_out.median_error:.0%} on models not seen" if held_out else ""
        return f"constants fitted on {calibration.rows} rates ({calibration.date or 'given'}){error}"


def _memory(served: _Served) -> list[Formula]:
    deployment, shape, machine = served.deployment, served.shape, served.machine
    traffic, chip = deployment.traffic, deployment.rental.accelerator
    weights, cache = shape.weights * machine.weight_bytes, cache_bytes(shape, machine.kv_bytes)
    room = served.group * usable_bytes(machine.memory_bytes)
    return [
        Formula(
            "bytes of weights",
            "parameters x bits / 8",
            f"{shape.weights:.4g} x {deployment.weight_bits:g} / 8 = {weights:.4g}",
            "bits with their scales",
        ),
        Formula(
            "cache bytes of a token",
            "2 L (KV heads x head size) x bits / 8",
            f"2 x {shape.layers:g} x {shape.kv_width:g} x {deployment.kv_bits:g} / 8 = {cache:.4g}",
            "one key and one value a layer",
        ),
        Formula(
            "answers that fit in memory",
            "(g (0.92 memory - 3e9) - weights) / (cache x (n_in / samples + n_out / 2))",
            f"({served.group} x ({USABLE_MEMORY:g} x {machine.memory_bytes:.4g} - {RESERVED_BYTES:.0e}) - "
            f"{weights:.4g}) / ({cache:.4g} x {traffic.stored_tokens:g}) = "
            f"{(room - weights) / (cache * traffic.stored_tokens):.4g}",
            f"{chip.name}: {chip.source}",
        ),
    ]


def _times(served: _Served) -> list[Formula]:
    deployment, shape, machine = served.deployment, served.shape, served.machine
    fitted, traffic, g = deployment.calibration, deployment.traffic, served.tensor
    times = served.times
    exchange = exchange_seconds(fitted, machine, shape)
    read, held, products = traffic.input_tokens, traffic.held_tokens, 2 * shape.active_weights
    attention, peak = 4 * shape.layers * shape.query_width, machine.peak_flops_per_second
    peak16, cache = machine.attention_flops_per_second, cache_bytes(shape, machine.kv_bytes)
    before, after = (f"{machine.stage_penalty:g} x (", ")") if served.group > NODE else ("", "")
    bandwidth = f"({g} x {machine.bandwidth_bytes_per_second:.4g} x {fitted.bandwidth_share:.3g})"
    step = float(times.step_fixed + served.batch * times.step_per_sequence)
    return [
        Formula(
            "seconds to exchange a token",
            "8 L q (g - 1) / g / (link s)",
            f"8 x {shape.layers:g} x {shape.query_width:g} x {g - 1} / {g} / "
            f"({machine.link_bytes_per_second:.4g} x {fitted.link_share:.3g}) = {exchange:.4g}",
            served.source,
        ),
        Formula(
            "seconds of a prompt",
            f"{before}(2 N n_in / peak + 2 L q n_in^2 / peak16) / (g m_p) + exchange n_in{after}",
            f"{before}({products:.4g} x {read:g} / {peak:.4g} + {attention / 2:.4g} x {read:g}^2 / "
            f"{peak16:.4g}) / ({g} x {fitted.prefill_mfu:.3g}) + {exchange:.4g} x {read:g}{after} = "
            f"{times.prompt:.4g}",
            served.source,
        ),
        Formula(
            "seconds of a step",
            f"{before}(bytes of N + B c cache) / (g bandwidth e) + u_L L "
            f"+ B ((2 N / peak + 4 L q c / peak16) / (g m_d) + exchange + u_B L){after}",
            f"{before}({shape.active_weights * machine.weight_bytes:.4g} + {served.batch:.4g} x {held:g} x "
            f"{cache:.4g}) / {bandwidth} + {fitted.layer_seconds:.3g} x {shape.layers:g} + "
            f"{served.batch:.4g} x (({products:.4g} / {peak:.4g} + {attention:.4g} x {held:g} / "
            f"{peak16:.4g}) / ({g} x {fitted.decode_mfu:.3g}) + {exchange:.4g} + "
            f"{fitted.sequence_seconds:.3g} x {shape.layers:g}){after} = {step:.4g}",
            served.source,
        ),
    ]


def _limits(served: _Served) -> list[Formula]:
    deployment, found, batch = served.deployment, served.found, served.batch
    times = served.times
    together = max(batch, 1.0)
    step = float(times.step_fixed + together * times.step_per_sequence)
    ours = "our own: prompts interrupt the batch, nobody waits in a queue"
    return [
        Formula(
            "answers at a time",
            "the largest batch that memory, its own limit and the limits on latency allow",
            f"{float(found.batch):.4g} on {served.group} x {deployment.rental.accelerator.name}, "
            f"limited by {found.limited_by}",
            ours,
        ),
        Formula(
            "seconds to the next token",
            "t_step + (B - 1) t_pre / (samples n_out)",
            f"{step:.4g} + ({together:.4g} - 1) x {times.prompt:.4g} / ({deployment.samples:g} x "
            f"{deployment.output_tokens:g}) = {float(found.time_per_output_token_seconds):.4g}",
            ours,
        ),
        Formula(
            "seconds to the first token",
            "t_step + t_pre",
            f"{step:.4g} + {times.prompt:.4g} = {float(found.time_to_first_token_seconds):.4g}",
            ours,
        ),
    ]


def _rates(served: _Served) -> list[Formula]:
    deployment, found = served.deployment, served.found
    times = served.times
    traffic, step = deployment.traffic, times.step_fixed + served.batch * times.step_per_sequence
    seconds = float(found.accelerator_seconds_per_token)
    formulas = [
        Formula(
            "accelerator-seconds of a token",
            "g (t_pre / samples + n_out t_step / B) / ((n_in / samples + n_out) x utilisation)",
            f"{served.tensor} x ({times.prompt:.4g} / {traffic.samples:g} + {traffic.output_tokens:g} x "
            f"{step:.4g} / {served.batch:.4g}) / (({traffic.input_tokens:g} / {traffic.samples:g} + "
            f"{traffic.output_tokens:g}) x {deployment.utilisation:g}) = {seconds:.4g}",
            "what one answer takes of an engine that is always full",
        )
    ]
    price = deployment.rental.price_usd_per_hour
    if price is not None:
        prices = token_prices(found, price)
        formulas.append(
            Formula(
                "dollars for a million tokens",
                "1e6 x accelerator-seconds x price / 3600",
                f"1e6 x {seconds:.4g} x {price:g} / 3600 = ${format_number(float(prices.blended_usd))} "
                f"(read ${format_number(float(prices.input_usd))}, "
                f"written ${format_number(float(prices.output_usd))})",
                deployment.rental.price_source,
            )
        )
    return formulas
