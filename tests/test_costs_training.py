from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from llama_scale.architecture import (
    LLAMA_7B,
    LLAMA_13B,
    LLAMA_33B,
    LLAMA_65B,
    RECOMPUTE_MODES,
    ModelConfig,
    Recompute,
    llama,
    with_kv_heads,
)
from llama_scale.closed_forms import closed_form
from llama_scale.costs import Training, rental
from llama_scale.costs.efficiency import mfu_spread, training_goodput, training_mfu
from llama_scale.costs.layouts import Layout, Workload, fewest_accelerators, layouts
from llama_scale.costs.memory import (
    Sharding,
    layer_activation_bytes,
    memory_per_accelerator,
    recompute_overhead,
)
from llama_scale.costs.roofline import usable_bytes
from llama_scale.costs.training import (
    training_report,
)
from llama_scale.errors import InputError
from llama_scale.hardware import accelerator, accelerators

A100 = rental("A100", precision="bf16")
H100 = rental("H100", precision="bf16")
TABLE_15 = (  # LLaMA, arXiv 2302.13971: shape, tokens, GPU-hours, MWh (recomputed), tonnes
    (LLAMA_7B, 1.0e12, 82_432, 36.3, 14),
    (LLAMA_13B, 1.0e12, 135_168, 59.5, 23),
    (LLAMA_33B, 1.4e12, 530_432, 233.4, 90),
    (LLAMA_65B, 1.4e12, 1_022_362, 449.8, 173),
)
LLAMA_405B = closed_form("llama-3-405b").shape or LLAMA_65B


@pytest.mark.parametrize(("shape", "tokens", "hours", "mwh", "tonnes"), TABLE_15)
def test_llamas_hours_follow_from_one_mfu(
    shape: ModelConfig, tokens: float, hours: float, mwh: float, tonnes: float
) -> None:
    six_nd = 6 * shape.parameters.total
    attention = 12 * shape.layers * shape.width * 2048
    for flops, mfu in ((six_nd, 0.471), (six_nd + attention, 0.499), (shape.train_flops_per_token(), 0.499)):
        report = training_report(shape, tokens, rental=A100, mfu=mfu, train_flops=flops * tokens)
        assert -0.075 <= report.gpu_hours / hours - 1 <= 0.10
        spent = replace(report, gpu_hours=hours)
        assert spent.energy_mwh == pytest.approx(mwh, abs=0.05)
        assert spent.co2_tonnes is not None
        assert round(spent.co2_tonnes) == tonnes


def test_our_default_mfu_of_an_a100_gives_llamas_hours_too() -> None:
    for accounting in ("6nd", "exact"):
        mfu = training_mfu(A100.accelerator, accounting=accounting).value
        for shape, tokens, hours, _, _ in TABLE_15:
            flops = 6 * shape.parameters.total * tokens if accounting == "6nd" else None
            report = training_report(shape, tokens, rental=A100, mfu=mfu, train_flops=flops)
            assert abs(report.gpu_hours / hours - 1) < 0.11


def test_llama_65b_takes_three_weeks() -> None:
    """380 tokens a second and GPU on 2,048 of them: 20.8 days for 1.4T tokens (section 2.4)."""
    tokens, rate = 1.4e12, 380
    mfu = rate * LLAMA_65B.train_flops_per_token() / 312e12
    report = training_report(LLAMA_65B, tokens, rental=A100, mfu=mfu, accelerators=2048)
    assert report.days == pytest.approx(20.8, abs=0.05)
    assert report.tokens_per_second_per_accelerator == pytest.approx(rate)
    assert report.layout is not None
    assert report.layout.sharding.accelerators == 2048


def test_every_whole_run_is_within_reach_of_its_implied_mfu(shared_data: Path) -> None:
    lines = (shared_data / "training_benchmarks.csv").read_text().splitlines()
    rows = list(csv.DictReader(line for line in lines if not line.startswith("#")))
    assert len(rows) == 126
    for row in rows:
        if row["kind"] == "full_run" and row["implied_mfu_6nd"]:
            precision = "bf16"
            hired = rental(row["accelerator"], precision=precision)
            flops = 6 * float(row["params"]) * float(row["tokens"])
            training = Training(rental=hired, mfu=float(row["implied_mfu_6nd"]))
            hours = flops * training.gpu_hours_per_flop
            assert hours == pytest.approx(float(row["gpu_hours"]), rel=3e-3)


def test_default_mfus_are_the_medians_of_the_benchmarks(shared_data: Path) -> None:
    lines = (shared_data / "training_benchmarks.csv").read_text().splitlines()
    rows = [row for row in csv.DictReader(line for line in lines if not line.startswith("#"))]
    steady = [row for row in rows if row["kind"] == "throughput" and 1024 <= int(row["seq_len"]) <= 4096]
    for chip, least, most in (
        ("A100", 5e9, 1e12),
        ("H100", 5e9, 1e12),
        ("A100", 1e9, 5e9),
        ("H100", 1e9, 5e9),
    ):
        mfus = [
            (float(row["implied_mfu_6nd"]), float(row["implied_mfu_with_attn"]))
            for row in steady
            if row["accelerator"].startswith(chip)
            and "fp8" not in row["precision"]
            and least <= float(row["params"]) < most
        ]
        six_nd, exact = np.median(np.array(mfus), axis=0)
        assert training_mfu(accelerator(chip), least).value == pytest.approx(six_nd, abs=6e-3)
        assert training_mfu(accelerator(chip), least, accounting="exact").value == pytest.approx(
            exact, abs=6e-3
        )


def test_every_accelerator_has_a_dated_default() -> None:
    for chip in accelerators():
        mfu, goodput = training_mfu(chip), training_goodput(chip)
        assert 0.1 < mfu.value < 0.7
        assert 0.5 < goodput.value <= 1
        assert mfu.date and mfu.source and goodput.date and goodput.source
    assert "as H100-SXM" in training_mfu(accelerator("B200")).source
    spread = mfu_spread(accelerator("A100"), "bf16")
    assert spread is not None
    assert spread[:2] == (0.41, 0.56)  # of 5B parameters and more, as the default is
    assert mfu_spread(accelerator("H100"), "fp8") is not None
    for one_rate_or_none in ("V100-SXM2", "B200"):
        assert mfu_spread(accelerator(one_rate_or_none), "fp16") is None
    assert training_mfu(accelerator("H100"), precision="fp8").value == 0.34
    assert training_mfu(accelerator("V100-SXM2"), precision="fp16").value == 0.207


def test_recomputing_costs_what_korthikanti_count() -> None:
    """A GPT layer without its head: full recompute is a third more, attention s / (3 (6 h + s)) more."""
    shape = LLAMA_65B
    assert recompute_overhead(shape, "none") == 0
    head = shape.vocabulary * shape.width
    with_head = shape.forward_flops_per_token() / (shape.forward_flops_per_token() - 2 * head)
    assert recompute_overhead(shape, "full") * with_head == pytest.approx(1 / 3)
    attention = 4 * 80 * 8192 * 2048 / (3 * shape.forward_flops_per_token())
    assert recompute_overhead(shape, "selective") == pytest.approx(attention)
    asked = training_report(shape, 1e12, rental=A100, mfu=0.5, recompute="full")
    plain = training_report(shape, 1e12, rental=A100, mfu=0.5)
    assert asked.gpu_hours / plain.gpu_hours == pytest.approx(1 + recompute_overhead(shape, "full"))


def test_activations_of_a_layer() -> None:
    """32 heads of 128, hidden 11,008: per token 8 d + 8 q + 8 f bytes, and 2 heads x context of scores."""
    d, f = 4096, 11_008
    assert layer_activation_bytes(LLAMA_7B, "selective") == 8 * d + 4 * d + 4 * d + 8 * f
    assert layer_activation_bytes(LLAMA_7B, "none") - layer_activation_bytes(LLAMA_7B, "selective") == (
        2 * 32 * 2048
    )
    assert layer_activation_bytes(LLAMA_7B, "full") == 2 * d
    # about the 34 bytes a token and width of Korthikanti et al.'s GPT layer
    assert 33 < layer_activation_bytes(LLAMA_7B, "selective") / d < 39


@pytest.mark.parametrize("kv_heads", [8, 2])
def test_activations_are_what_autograd_keeps_of_our_own_layer(kv_heads: int) -> None:
    """In fp32, twice the bytes: all is counted but what each norm keeps aside where it is not fused."""
    import torch

    from llama_scale.training.model import Block, rotary_table

    shape = llama(1, 512, heads=8, kv_heads=kv_heads, hidden=1536, vocabulary=256, context=256)
    block, rotation = Block(shape), rotary_table(shape).unbind()
    weights = {tensor.untyped_storage().data_ptr() for tensor in (*block.parameters(), *rotation)}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    x = torch.randn(2, 256, 512, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        y = block(x, rotation)
    assert y.shape == x.shape
    unfused_norms, statistics = 2 * 512 * 4, 4 * shape.heads + 2 * 4
    a_token = sum(kept.values()) / (2 * 256)
    assert a_token == 2 * layer_activation_bytes(shape, "selective") + unfused_norms + statistics


def test_states_take_18_bytes_a_parameter() -> None:
    alone = memory_per_accelerator(LLAMA_7B, Sharding(), A100.accelerator)
    states = alone.weights_bytes + alone.gradients_bytes + alone.optimizer_bytes
    assert states == 18 * LLAMA_7B.parameters.total
    assert not alone.fits
    assert alone.gathered_bytes == 0
    sharded = memory_per_accelerator(LLAMA_7B, Sharding(fsdp=8), A100.accelerator)
    assert sharded.optimizer_bytes == pytest.approx(alone.optimizer_bytes / 8)
    assert sharded.fits


def test_each_kind_of_memory_is_what_its_formula_says() -> None:
    """LLaMA-7B: 32 layers of 202,383,360 parameters, and two tables of 131,072,000, by hand."""
    a_layer, table, tokens = 202_383_360, 32_000 * 4096, 2 * 2048
    kept = 2 * (4 * 4096 + 2 * 4096 + 2 * 4096 + 4 * 11_008)  # bytes of a token in a layer
    norm = 2 * 2 * 4096 * tokens
    sharded = memory_per_accelerator(LLAMA_7B, Sharding(fsdp=8), A100.accelerator, micro_batch=2)
    assert sharded.gathered_bytes == pytest.approx(8 * a_layer + 2 * (2 * table + 4096))
    assert sharded.activations_bytes == 32 * kept * tokens + norm
    assert sharded.logits_bytes == 10 * 32_000 * tokens
    again = memory_per_accelerator(
        LLAMA_7B, Sharding(fsdp=8), A100.accelerator, micro_batch=2, recompute="full"
    )
    assert again.activations_bytes == (32 * 2 * 4096 + kept) * tokens + norm
    assert again.total_bytes == pytest.approx(
        18 * LLAMA_7B.parameters.total / 8
        + again.gathered_bytes
        + again.activations_bytes
        + again.logits_bytes
    )


def test_of_a_pipeline_the_fuller_end_counts() -> None:
    """Of LLaMA-7B in 4 stages over 2: the first holds up to 4 micro-batches, the last one and its logits."""
    a_batch = 8 * 2 * (4 * 4096 + 2 * 4096 + 2 * 4096 + 4 * 11_008) * 2048 / 2
    norm, logits = 2 * 2 * 4096 * 2048 / 2, 10 * 32_000 * 2048 / 2
    spread = Sharding(tensor=2, pipeline=4)
    for micro_steps, held in ((1, 1), (2, 2), (16, 4)):
        found = memory_per_accelerator(LLAMA_7B, spread, A100.accelerator, micro_steps=micro_steps)
        first, last = held * a_batch + norm, a_batch + norm + logits
        assert found.activations_bytes + found.logits_bytes == max(first, last)
        assert found.weights_bytes == 2 * (LLAMA_7B.parameters.non_embedding / 4 + 32_000 * 4096) / 2
    short = replace(LLAMA_7B, context=256, vocabulary=256_000)
    found = memory_per_accelerator(short, spread, A100.accelerator, micro_steps=2)
    assert found.logits_bytes == 10 * 256_000 * 256 / 2


def test_memory_falls_with_every_degree_and_with_recomputing() -> None:
    def total(**degrees: int) -> float:
        return memory_per_accelerator(LLAMA_65B, Sharding(**degrees), A100.accelerator).total_bytes

    assert total() > total(tensor=2) > total(tensor=4) > total(tensor=8)
    assert total(tensor=8) > total(tensor=8, fsdp=2) > total(tensor=8, fsdp=64)
    assert total(tensor=8) > total(tensor=8, pipeline=2) > total(tensor=8, pipeline=8)
    modes = [
        memory_per_accelerator(LLAMA_65B, Sharding(fsdp=64), A100.accelerator, recompute=mode).total_bytes
        for mode in RECOMPUTE_MODES
    ]
    assert modes == sorted(modes, reverse=True)


@pytest.mark.parametrize("count", [8, 64, 96, 512, 1000, 2048])
@pytest.mark.parametrize("shape", [LLAMA_7B, LLAMA_65B])
def test_layouts_are_what_they_say(shape: ModelConfig, count: int) -> None:
    work = Workload(
        shape=shape, accelerator=A100.accelerator, peak_flops_per_second=312e12, batch_tokens=2**22
    )
    for layout in layouts(work, count, most=1000):
        spread = layout.sharding
        assert spread.accelerators == count
        assert shape.kv_heads % spread.tensor == 0 and shape.hidden % spread.tensor == 0
        assert spread.tensor <= 8
        assert shape.layers % spread.pipeline == 0
        sequences = layout.micro_batch * spread.replicas * layout.micro_steps
        assert layout.batch_tokens == sequences * shape.context
        assert abs(layout.batch_tokens / 2**22 - 1) <= 0.1
        assert layout.memory.total_bytes <= layout.memory.usable_bytes == usable_bytes(80 * 2**30)
        assert layout.memory == memory_per_accelerator(
            shape,
            spread,
            A100.accelerator,
            micro_batch=layout.micro_batch,
            micro_steps=layout.micro_steps,
            recompute=layout.recompute,
        )


def test_time_that_layouts_lose_is_what_crosses_links_and_networks() -> None:
    """LLaMA-7B on 64 A100s, NVLink at 300 GB/s a way and 50 GB/s between nodes, one sequence each a step."""
    work = Workload(
        shape=LLAMA_7B, accelerator=A100.accelerator, peak_flops_per_second=312e12, batch_tokens=64 * 2048
    )
    weights, link = LLAMA_7B.parameters.total, A100.accelerator.interconnect_bytes_per_second or 0
    a_sequence = 2048 * LLAMA_7B.train_flops_per_token() / (312e12 * 0.4)
    found = {layout.sharding: layout for layout in layouts(work, 64, most=1000)}

    def beyond(seconds: float, layout: Layout, products: float) -> float:
        return max(0.0, seconds - products * (1 + layout.recompute_overhead)) / products

    alone = found[Sharding(fsdp=64)]  # weights there twice in bf16, gradients back in fp32
    assert (alone.micro_batch, alone.micro_steps, alone.bubble) == (1, 1, 0)
    assert alone.exposed == pytest.approx(beyond(8 * weights * 63 / 64 / 50e9, alone, a_sequence))
    assert alone.exposed > 0.1
    nodes = found[Sharding(data=8, fsdp=8)]  # gathered in a node, gradients of an eighth summed over nodes
    crossing = 8 * weights * 7 / 8 / link + 8 * weights / 8 * 7 / 8 / 50e9
    assert nodes.exposed == pytest.approx(beyond(crossing, nodes, a_sequence))
    both = found[Sharding(data=2, tensor=8, pipeline=4)]  # 32 sequences through four stages
    products = both.micro_batch * both.micro_steps * a_sequence / 32
    assert both.bubble == 3 / both.micro_steps
    exchanged = 16 * 32 * 2048 * 4096 * (32 / 4) * 7 / 8 / link
    summed = beyond(8 * weights / 32 / 2 / 50e9, both, products)
    assert both.exposed == pytest.approx(summed + exchanged / products)
    one_node = {layout.sharding: layout for layout in layouts(work, 8, most=1000)}
    assert one_node[Sharding(fsdp=8)].exposed == 0
    assert Sharding(data=8, fsdp=4, tensor=2) in found  # states sharded in a node, or over all, or not


def test_the_simplest_layout_comes_first_where_it_loses_nothing() -> None:
    work = Workload(
        shape=LLAMA_7B, accelerator=H100.accelerator, peak_flops_per_second=989e12, batch_tokens=2**22
    )
    best = layouts(work, 64)[0]
    assert (best.sharding.tensor, best.sharding.pipeline) == (1, 1)
    assert best.recompute == "selective"
    assert best.lost < 0.1


def test_fewer_kv_heads_than_tensor_shards_are_held_more_than_once() -> None:
    for kv_heads, degrees in ((8, {1, 2, 4, 8}), (1, {1, 2, 4, 8}), (64, {1, 2, 4, 8})):
        work = Workload(
            shape=with_kv_heads(LLAMA_65B, kv_heads),
            accelerator=A100.accelerator,
            peak_flops_per_second=312e12,
            batch_tokens=2**22,
        )
        assert {layout.sharding.tensor for layout in layouts(work, 256, most=1000)} == degrees


def test_llama_3_405b_needs_tensor_parallelism_on_16_384_chips() -> None:
    """As Llama 3 did: 2,048 sequences of 8,192 tokens are too few for FSDP alone (arXiv 2407.21783)."""
    work = Workload(
        shape=LLAMA_405B, accelerator=H100.accelerator, peak_flops_per_second=989e12, batch_tokens=2**24
    )
    best = layouts(work, 16_384)[0]
    assert best.sharding.tensor == 8


def test_every_benchmark_that_ran_fits(shared_data: Path) -> None:
    """MPT from 125M to 70B on 8 to 512 chips, contexts up to 65,536: what was measured must be feasible."""
    lines = (shared_data / "training_benchmarks.csv").read_text().splitlines()
    ran = [
        row
        for row in csv.DictReader(line for line in lines if not line.startswith("#"))
        if row["kind"] == "throughput" and row["n_layers"]
    ]
    assert len(ran) == 108
    for row in ran:
        width, context, count = int(row["d_model"]), int(row["seq_len"]), int(row["n_accel"])
        # as many weights as MPT's ungated layer of 4 x width
        shape = llama(
            int(row["n_layers"]),
            width,
            heads=width // 64,
            hidden=8 * width // 48 * 16,
            vocabulary=50_368,
            context=context,
            tied_head=True,
        )
        chip = accelerator(row["accelerator"])
        work = Workload(
            shape=shape,
            accelerator=chip,
            peak_flops_per_second=chip.peak("bf16"),
            batch_tokens=8 * count * context,
        )
        assert layouts(work, count, most=1), row["row_id"]


def test_where_nothing_fits_the_report_says_why_and_how_many_would_do() -> None:
    report = training_report(LLAMA_65B, 1.4e12, rental=A100, mfu=0.5, accelerators=8)
    assert report.layouts == ()
    assert report.note is not None
    assert "8 x A100-80GB-SXM" in report.note and "16 would do" in report.note
    assert report.fewest_accelerators == 16
    assert training_report(LLAMA_65B, 1.4e12, rental=A100, mfu=0.5, accelerators=16).layouts
    odd = training_report(LLAMA_7B, 1e12, rental=A100, mfu=0.5, accelerators=4099)
    assert odd.note is not None and "cannot be split evenly" in odd.note


def test_more_accelerators_never_need_more_memory() -> None:
    small = Workload(
        shape=LLAMA_65B, accelerator=A100.accelerator, peak_flops_per_second=312e12, batch_tokens=2**22
    )
    least = fewest_accelerators(small)
    assert least is not None
    for doubling in range(5):
        assert layouts(small, least * 2**doubling)


@pytest.mark.parametrize("context", [2048, 32768])
@pytest.mark.parametrize("batch_tokens", [2**17, 3 * 2**18, 2**22])
@pytest.mark.parametrize("recompute", [None, "none"])
def test_the_fewest_accelerators_are_the_first_with_a_layout(
    context: int, batch_tokens: int, recompute: Recompute | None
) -> None:
    work = Workload(
        shape=replace(LLAMA_33B, context=context),
        accelerator=A100.accelerator,
        peak_flops_per_second=312e12,
        batch_tokens=batch_tokens,
        recompute=recompute,
    )
    tried = (2**doubling for doubling in range(12))
    first = next((count for count in tried if layouts(work, count, most=1)), None)
    assert fewest_accelerators(work) == first


def test_the_report_explains_itself_and_goes_into_json() -> None:
    report = training_report(
        LLAMA_7B, 1e12, rental=H100, mfu=0.4, goodput=0.9, accelerators=512, recompute="full"
    )
    document = report.to_json()
    assert document["gpu_hours"] == report.gpu_hours
    assert document["layouts"][0]["accelerators"] == 512
    rows = list(report.formulas())
    names = [row[0] for row in rows]
    assert names == [
        "training GPU-hours",
        "training days",
        "training dollars",
        "energy",
        "CO2",
        "memory of an accelerator",
        "layout",
        "hardware utilisation",
    ]
    assert all(all(row) for row in rows)
    assert document["hardware_utilisation"] == pytest.approx(0.4 * (1 + recompute_overhead(LLAMA_7B, "full")))


def test_what_is_not_known_is_none() -> None:
    no_price = training_report(LLAMA_7B, 1e12, rental=rental("MI300X", precision="bf16"), mfu=0.4)
    assert no_price.usd is None and no_price.days is None and no_price.layouts == ()
    assert no_price.fewest_accelerators == 1


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(InputError, match="cannot train on 0 accelerators"):
        training_report(LLAMA_7B, 1e12, rental=A100, mfu=0.4, accelerators=0)
    with pytest.raises(InputError, match="holds no sequence of 2,048"):
        training_report(LLAMA_7B, 1e12, rental=A100, mfu=0.4, batch_tokens=512)
