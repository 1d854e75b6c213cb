"""What the reader of a plan must not miss."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from llama_scale.architecture import ModelConfig
from llama_scale.laws import Fit, least_draws, published_names
from llama_scale.planning.proportions import SOURCE, is_ill_shaped, stretch_of
from llama_scale.planning.quantisation import UNQUANTISED_BITS, Penalty
from llama_scale.planning.request import Request
from llama_scale.quantities import counted, format_count, format_fraction, format_level, format_number

if TYPE_CHECKING:
    from llama_scale.planning.values import Intervals, PlannedModel

EXTRAPOLATED = {
    "train_flops": "training FLOPs",
    "parameters": "parameters",
    "tokens": "tokens",
    "tokens_per_parameter": "tokens per parameter",
}
FARTHEST = 1e4  # times the training FLOPs of the largest run: no law was ever shown to hold so far
PUBLIC_TEXT = 3e14  # tokens that people have written in public (Villalobos et al. 2024, arXiv 2211.04325)
WORTH_SAYING = 0.01  # nats: less is within what two runs differ by
MOST_EPOCHS = 4  # up to here a repeated token is worth nearly a new one (Muennighoff et al. 2023)


def warnings(
    request: Request,
    shape: ModelConfig,
    model: PlannedModel,
    extrapolation: Mapping[str, float],
    spread: Intervals | None,
) -> tuple[str, ...]:
    """Every caution, what matters most first."""
    return (
        *_guessing(request, model),
        *_extrapolations(request, extrapolation),
        *_proportions(shape),
        *_unscored(request, model),
        *_more_than_written(request, model),
        *_repetition(request, model),
        *_serving(request, model),
        *_quantisation(request, model),
        *caveats(request, spread),
    )


def far_beyond(extrapolation: Mapping[str, float]) -> float | None:
    """The factor beyond the largest run's FLOPs, where it is more than any law was shown to bear."""
    factor = extrapolation.get("train_flops", 1.0)
    return factor if factor > FARTHEST else None


def _guessing(request: Request, model: PlannedModel) -> Iterator[str]:
    guess = math.log(request.vocabulary)
    if model.loss_nats >= guess:
        yield (
            f"an example, not a plan to act on: a loss of {model.loss_nats:.4g} is no better than guessing "
            f"among {request.vocabulary:,} tokens ({guess:.3g}), so that the law says nothing here; check "
            "its constants, or ask for a larger model"
        )


def _extrapolations(request: Request, extrapolation: Mapping[str, float]) -> Iterator[str]:
    beyond = {name: factor for name, factor in extrapolation.items() if factor != 1}
    if not beyond:
        return
    if factor := far_beyond(extrapolation):
        largest = request.fit.support.train_flops
        most = "" if largest is None else f" ({format_number(largest.high)} FLOPs)"
        other = "" if request.fit.name in published_names() else ", or use a published --law"
        yield (
            f"an example, not a plan to act on: it trains on {format_number(factor, 2)} x the FLOPs of the "
            f"largest run behind this law{most}; ask for less with --budget, measure larger runs{other}"
        )
    parts = [
        f"{format_number(factor, 2)} x the largest {EXTRAPOLATED[name]}"
        if factor > 1
        else f"1/{format_number(1 / factor, 2)} of the smallest {EXTRAPOLATED[name]}"
        for name, factor in beyond.items()
    ]
    yield "extrapolates beyond the runs behind the law: " + ", ".join(parts)


def _proportions(shape: ModelConfig) -> Iterator[str]:
    if not is_ill_shaped(shape):
        return
    stretch, layers = stretch_of(shape), counted(shape.layers, "layer")
    off = f"{format_number(max(stretch, 1 / stretch), 2)} x as {'wide' if stretch > 1 else 'narrow'}"
    yield (
        f"{layers} of width {shape.width:,}: {off} for its depth as LLaMAs of its size, which no law sees; "
        f"its loss may be a few percent higher ({SOURCE}): try a small one first"
    )


def _unscored(request: Request, model: PlannedModel) -> Iterator[str]:
    """How far the loss lies from those that scores were seen at."""
    scored = request.fit.downstream
    if scored is None or scored.losses[0] <= model.loss_nats <= scored.losses[1]:
        return
    low, high = scored.losses
    gap = max(low - model.loss_nats, model.loss_nats - high)
    side = "below" if model.loss_nats < low else "above"
    asked = "; are both losses of one text and tokenizer?" if gap > high - low else ""
    yield (
        f"scores of {scored.task} were seen at losses of {low:.3f} to {high:.3f}, and this plan's is "
        f"{gap:.3f} nats {side}: its score is what the shape of the curve makes of it{asked}"
    )


def beyond_all_text(request: Request, model: PlannedModel) -> bool:
    """Whether the plan trains on more different tokens than all public text holds."""
    return min(model.tokens, request.unique_tokens or math.inf) > PUBLIC_TEXT


def _more_than_written(request: Request, model: PlannedModel) -> Iterator[str]:
    if beyond_all_text(request, model):
        yield (
            f"an example, not a plan to act on: {format_count(model.tokens)} tokens are more than the "
            f"{format_count(PUBLIC_TEXT)} or so of all public text (Villalobos et al. 2024, arXiv "
            "2211.04325); loosen what keeps the model small, or say what there is with --unique-tokens"
        )


def _repetition(request: Request, model: PlannedModel) -> Iterator[str]:
    if request.unique_tokens is None or model.tokens <= request.unique_tokens:
        return
    epochs = model.tokens / request.unique_tokens
    if epochs > MOST_EPOCHS:
        yield (
            f"the {format_count(request.unique_tokens)} unique tokens are seen {format_number(epochs)} x; "
            f"beyond {MOST_EPOCHS} epochs repeats are worth ever less, and few runs went there"
        )
    if request.fit.repetition is None:
        yield (
            "what repeats are worth is Muennighoff et al.'s fit of 182 runs on C4 (arXiv 2305.16264), whose "
            "constants have several minima of nearly one height: take the epochs as rough"
        )
    elif len(_minima(request.fit)) > 1:
        yield "the fit of what repeats are worth has several minima (fit --json): take the epochs as rough"


def _minima(fit: Fit) -> Sequence[object]:
    """The minima that a fit of repeated data found, as a file may tell of them."""
    found = fit.evidence.get("repeated_data")
    minima = found.get("minima") if isinstance(found, Mapping) else None
    return minima if isinstance(minima, list) else ()


def _serving(request: Request, model: PlannedModel) -> Iterator[str]:
    deployment = request.economics.deployment
    if deployment is not None and model.lifetime.serve_gpu_hours is None:
        yield (
            f"{deployment.groups[-1]} {deployment.rental.accelerator.name} cannot serve it: no serving hours "
            "or dollars; raise --serve-accelerators, or serve in fewer bits with --serve-precision"
        )


def _quantisation(request: Request, model: PlannedModel) -> Iterator[str]:
    """What rounding the weights costs where nobody counts it, or how far its law is stretched where we do."""
    deployment, penalty = request.economics.deployment, request.penalty
    n, d = model.parameters, model.tokens
    if penalty is None and deployment is not None and deployment.weight_bits < UNQUANTISED_BITS:
        uncounted = Penalty(bits=math.floor(deployment.weight_bits))
        added = float(uncounted.loss(n, d))
        if request.economics.demand.serve_tokens and added > WORTH_SAYING:
            yield (
                f"the loss is that of the weights as trained: rounding them to {uncounted.bits:g} bits would "
                f"add about {added:.2g} nats by the published law, and more to a model trained for longer; "
                "--quantisation-penalty counts it"
            )
    elif penalty is not None:
        beyond = {name: factor for name, factor in penalty.extrapolation(n, d).items() if factor > 1}
        if beyond:
            said = ", ".join(f"{format_number(factor, 2)} x its {name}" for name, factor in beyond.items())
            yield f"the penalty of quantisation is extrapolated: {said}"


def _floor(fit: Fit) -> Iterator[str]:
    """That the law has no irreducible loss, or that its runs tell none."""
    if fit.law.E == 0:  # Kaplan's by its form, a fit of Skaling's where its runs show none
        why = "the law has no irreducible loss (E = 0): its losses fall for ever"
    elif "E" in fit.at_bound:  # the mean of fits of which most have none
        why = "the law's runs tell no irreducible loss: fits with E = 0, which fall for ever, are no worse"
    else:
        return
    yield f"{why}; trust it no further than a few times the largest run behind it"


def caveats(request: Request, spread: Intervals | None = None) -> Iterator[str]:
    """What holds for every answer to a question: the law's floor, draws left out, what is counted alike."""
    fit, economics = request.fit, request.economics
    yield from _floor(fit)
    if spread and spread.unreached:
        share = format_fraction(spread.unreached, 2)
        yield f"under {share} of the law's draws no model reaches the target; intervals leave these out"
    reached = round(spread.draws * (1 - spread.unreached)) if spread else 0
    if spread and reached < (least := least_draws(spread.level)):
        yield (
            f"{reached:,} draws of the law are too few for {format_level(spread.level)} intervals,"
            f" which take {least:,}: their ends are no more than the outermost draws"
        )
    trained_on, served_on = economics.training.rental.accelerator, economics.serving.rental.accelerator
    if request.unit == "gpu_hours" and trained_on is not served_on and economics.demand.serve_tokens:
        yield f"an hour of {served_on.name} is counted like an hour of {trained_on.name}"
    if fit.convention != "total" and request.flops == "6nd":
        counted = fit.convention.replace("_", "-")
        yield f"6ND and 2NT count the law's own N ({counted} parameters); --flops exact counts the shape"
