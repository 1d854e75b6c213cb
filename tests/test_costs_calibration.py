from __future__ import annotations

import json
import math
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray

from llama_scale.cli.plan import command
from llama_scale.costs.calibration import (
    PHYSICS,
    accuracy,
    calibrate,
    calibrate_from_csv,
    calibration_of,
    fit,
    held_out_errors,
    predicted_rates,
)
from llama_scale.costs.constants import CONSTANTS, Calibration, shipped_calibration
from llama_scale.costs.formats import serve_in
from llama_scale.costs.measurements import Measurement, Measurements, stack
from llama_scale.costs.rate_tables import known_shapes, read_measurements
from llama_scale.costs.roofline import Traffic
from llama_scale.costs.serving import Deployment, serve
from llama_scale.errors import InputError, UnidentifiedError
from llama_scale.hardware import accelerator

TRUE = Calibration(
    prefill_mfu=0.45,
    decode_mfu=0.7,
    bandwidth_share=0.75,
    link_share=0.4,
    layer_seconds=40e-6,
    sequence_seconds=6e-7,
)
MODELS = ("llama-2-7b", "llama-3.1-8b", "llama-2-70b", "llama-3.1-405b")
CHIPS = ("A100-80GB-SXM", "H100-SXM", "B200", "L40S")
LENGTHS = ((5, 200, 1.0), (128, 2048, math.inf), (2048, 128, math.inf), (8000, 500, 16.0))
HEADER = "row_id,model,accelerator,n_accel,tp,weight_bits,kv_bits,batch,input_len,output_len,out_tok_s"


def made_up(truth: Calibration = TRUE, noise: float = 0.0, tensor_known: bool = True) -> Measurements:
    """Rates that the roofline gives with known constants, times noise."""
    rows = []
    for model in MODELS:
        for chip in CHIPS:
            for read, written, batch in LENGTHS:
                for tensor in (1.0, 2.0, 8.0):
                    rows.append(
                        Measurement(
                            name=f"row {len(rows)}",
                            model=model,
                            chip=accelerator(chip),
                            source="made up",
                            shape=known_shapes()[model],
                            weights="int8",
                            kv_bits=8.0,
                            accelerators=8.0,
                            tensor=tensor if tensor_known else math.nan,
                            stages=1.0,
                            batch=batch,
                            traffic=Traffic(float(read), float(written)),
                            rate=1.0,
                        )
                    )
    table = stack(rows)
    table = table.only(predicted_rates(truth, table) > 0)
    scatter = np.exp(noise * np.random.default_rng(1).standard_normal(len(table)))
    table.rate[:] = predicted_rates(truth, table) * scatter
    return table


def values(calibration: Calibration) -> list[float]:
    return list(calibration.constants.values())


def test_known_constants_are_recovered() -> None:
    found = fit(made_up())
    assert found == pytest.approx(values(TRUE), rel=1e-3)


def test_known_constants_are_recovered_without_the_tensor_degree() -> None:
    found = fit(made_up(tensor_known=False))
    assert found == pytest.approx(values(TRUE), rel=5e-3)


def test_noise_and_outliers_do_little_and_the_spread_covers_them() -> None:
    table = made_up(noise=0.1)
    table.rate[::50] *= 3  # broken rows
    table.rate[25::50] /= 3
    found = calibrate(table)
    for name, value in found.constants.items():
        assert abs(math.log(value / TRUE.constants[name])) < max(4 * found.spread[name], 0.05), name
    assert found.accuracy[0].median_error == pytest.approx(0.07, abs=0.03)
    assert found.rows == len(table)


def test_a_constant_that_rows_say_nothing_about_stays_where_it_was() -> None:
    table = made_up()
    alone = table.only(np.asarray(table.engine.tensor) == 1)
    found = calibration_of(fit(alone))
    assert found.link_share == pytest.approx(CONSTANTS["link_share"].guess, rel=1e-3)
    assert found.bandwidth_share == pytest.approx(TRUE.bandwidth_share, rel=1e-2)


def test_rates_are_those_of_serving() -> None:
    """The calibration and the planner share one model."""
    table = made_up()
    tensors, reads, writes = (np.asarray(values) for values in (table.engine.tensor, *table.traffic[:2]))
    for i in range(0, len(table), 17):
        name, chip = str(table.labels.model[i]), str(table.labels.accelerator[i])
        served = serve_in(chip, "int8")
        tensor = int(tensors[i])
        asked = Deployment(
            rental=served.rental,
            weight_bits=served.weight_bits,
            kv_bits=8,
            input_tokens=float(reads[i]),
            output_tokens=float(writes[i]),
            calibration=TRUE,
            most_accelerators=tensor,
            largest_batch=float(table.largest_batch[i]),
        )
        best = float(serve(asked, known_shapes()[name]).output_tokens_per_second) * 8
        assert best >= table.rate[i] * (1 - 1e-9)  # of fewer accelerators a copy too
        if tensor == 1:
            assert best == pytest.approx(table.rate[i])


def write(path: Path, *lines: str) -> Path:
    path.write_text("# made up\n" + "\n".join((HEADER, *lines)) + "\n")
    return path


def user_rows(rates: Sequence[float] | NDArray[np.float64] = (1.0,) * 8) -> list[str]:
    """Rows of one chip and two models, at these rates."""
    requests = ((100, 1000, 1), (100, 1000, 64), (1000, 200, 32), (3000, 100, 8))
    setups = product(("llama-3.1-8b", "llama-2-13b"), requests)
    return [
        f"{model}-{read}-{batch},{model},H100,1,1,16,16,{batch},{read},{written},{rate}"
        for (model, (read, written, batch)), rate in zip(setups, rates, strict=True)
    ]


def test_a_users_rows_move_our_constants(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.csv", *user_rows())
    table = read_measurements(path).measurements
    ours = predicted_rates(shipped_calibration(), table)
    found = calibrate_from_csv(write(path, *user_rows(ours / 2)))
    assert found.rows == 8
    assert found.source == "measurements of mine.csv"
    assert found.accuracy[0].median_error < 0.05
    assert predicted_rates(found, table) == pytest.approx(ours / 2, rel=0.1)
    assert found.link_share == pytest.approx(shipped_calibration().link_share, rel=1e-6)
    same = calibrate_from_csv(write(path, *user_rows(ours)))
    assert values(same) == pytest.approx(values(shipped_calibration()), rel=1e-3)


def test_a_plan_says_what_a_users_rows_came_to(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.csv", *user_rows())
    ours = predicted_rates(shipped_calibration(), read_measurements(path).measurements)
    write(path, *user_rows(ours), "moe,Mixtral-8x7B,H100,8,8,8,8,,100,100,5000")
    words = ["--serve-tokens", "1e12", "--budget", "$5M", "--serving-benchmarks", str(path)]
    shown = CliRunner().invoke(command, words)
    assert shown.exit_code == 0
    assert "8 rates, 1 of mixtures of experts left out; median error" in " ".join(shown.stdout.split())
    found = json.loads(CliRunner().invoke(command, [*words, "--json"]).stdout)
    fitted = found["serving"]["calibration"]
    assert fitted["rows"] == 8
    assert "mixture of experts" in fitted["left_out"][0]
    assert fitted["constants"].keys() == CONSTANTS.keys()
    assert fitted["accuracy"][0]["rows"] == 8


def test_aliases_units_formats_and_shapes_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "other.csv"
    path.write_text(
        "Model,GPU,GPUs,dtype,isl,osl,output_throughput,params,n_layers,n_heads,n_kv_heads\n"
        "mine,h100,8,fp8,1k,250,20000,7B,32,32,8\n"
        "Llama 3.1 8B,l40s,1,8,1000,250,2000,,,,\n"
    )
    table = read_measurements(path).measurements
    assert np.asarray(table.shape.weights) == pytest.approx([7e9, 8.03e9], rel=1e-3)
    assert np.asarray(table.shape.kv_width) == pytest.approx([1024, 1024])
    assert np.asarray(table.engine.tensor) == pytest.approx([math.nan, 1], nan_ok=True)
    assert np.asarray(table.traffic.input_tokens) == pytest.approx([1000, 1000])
    assert np.asarray(table.engine.weight_bytes) == pytest.approx([1, 1])
    assert np.asarray(table.engine.kv_bytes) == pytest.approx([2, 2])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a,llama-9b,H100,1,1,16,16,1,100,100,50", "line 3 (a): unknown model 'llama-9b'"),
        ("a,llama-2-7b,H1000,1,1,16,16,1,100,100,50", "unknown accelerator 'H1000'"),
        ("a,llama-2-7b,H100,1,1,16,16,1,100,100,fast", "out_tok_s is 'fast', which is no number"),
        ("a,llama-2-7b,H100,1,1,16,16,1,100,100,-5", "out_tok_s is -5"),
        ("a,llama-2-7b,H100,1,1,16,16,1,100,0,50", "output_len is 0"),
        ("a,llama-2-7b,H100,1,1,16,16,1,100,100,", "out_tok_s is empty"),
        ("a,llama-2-7b,H100,1,1,16,16,1,100,100,1e30", "take more FLOPs than 1 x H100-SXM can do"),
        ('a,"llama-2-7b\nand more",H100,1,1,16,16,1,100,100,50', "line 4 (a): unknown model"),
        ("a,llama-2-7b,H100,1,1,16,16,1,100,100,\x00", "out_tok_s is"),
        (f"a,{'llama' * 30000},H100,1,1,16,16,1,100,100,50", "line 3 is not CSV: field larger"),
        ("a,llama-2-7b,H100,1,1,3,16,1,100,100,50", "unknown weight format '3'"),
        ("a,llama-2-7b,H100,1,2,16,16,1,100,100,50", "tp x pp = 2 accelerators, but only 1"),
        ("a,llama-2-70b,H100,1,1,16,16,1,100,100,50", "does not fit on 1 x H100-SXM"),
        ("a,llama-2-7b,H100,1,1", "line 3 has 5 cells"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(InputError) as refused:
        calibrate_from_csv(write(tmp_path / "bad.csv", line))
    assert message in refused.value.message
    assert refused.value.hint


def test_all_bad_rows_are_named_at_once(tmp_path: Path) -> None:
    lines = [f"r{i},llama-9b,H100,1,1,16,16,1,100,100,50" for i in range(7)]
    with pytest.raises(InputError, match=r"r0.*r4.* and 2 more"):
        calibrate_from_csv(write(tmp_path / "bad.csv", *lines))


def test_too_few_rows_and_missing_columns(tmp_path: Path) -> None:
    with pytest.raises(UnidentifiedError, match="holds 3 usable rows, but"):
        calibrate_from_csv(write(tmp_path / "few.csv", *user_rows()[:3]))
    again = [*user_rows([90.0] * 8)[:4], *user_rows([100.0] * 8)[:4]]
    with pytest.raises(UnidentifiedError, match="8 usable rows, of which only 4 differ in what was measured"):
        calibrate_from_csv(write(tmp_path / "again.csv", *again))
    (tmp_path / "none.csv").write_text("model,rate\nx,1\n")
    with pytest.raises(InputError, match="no column accelerator, weight_bits, input_len"):
        calibrate_from_csv(tmp_path / "none.csv")
    with pytest.raises(InputError, match="cannot read"):
        calibrate_from_csv(tmp_path / "absent.csv")
    (tmp_path / "empty.csv").write_text("# nothing\n")
    with pytest.raises(InputError, match="holds no rows"):
        calibrate_from_csv(tmp_path / "empty.csv")


def test_rates_that_no_machine_reaches_are_not_believed(tmp_path: Path) -> None:
    lines = user_rows([5e4] * 8)
    with pytest.raises(UnidentifiedError, match=r"times off .* gives 5e\+04 tokens/s, where about"):
        calibrate_from_csv(write(tmp_path / "units.csv", *lines))


def write_scaled(path: Path, *factors: float) -> Path:
    """A user's rows with the rates that our constants predict, each times its factor."""
    ours = predicted_rates(shipped_calibration(), read_measurements(write(path, *user_rows())).measurements)
    return write(path, *user_rows([rate * factor for rate, factor in zip(ours, factors, strict=True)]))


@pytest.mark.parametrize("factor", [1e-3, 1e-6])
def test_rates_in_another_unit_are_not_believed(tmp_path: Path, factor: float) -> None:
    with pytest.raises(UnidentifiedError, match=r"a median of 1e\+0[36] times off"):
        calibrate_from_csv(write_scaled(tmp_path / "units.csv", *[factor] * 8))
    slow = calibrate_from_csv(write_scaled(tmp_path / "slow.csv", *[0.1] * 8))
    assert slow.accuracy[0].median_error < 0.1


def test_rates_that_say_nothing_of_other_models_are_not_believed(tmp_path: Path) -> None:
    path = write_scaled(tmp_path / "two.csv", *[1.0] * 4, *[0.05] * 4)
    alike = [*path.read_text().splitlines()[2:6], *path.read_text().splitlines()[-3:]]
    with pytest.raises(UnidentifiedError, match="times off with a model held out"):
        calibrate_from_csv(write(path, *alike))


@pytest.mark.parametrize("name", ["Mixtral-8x7B", "Qwen3-30B-A3B", "DeepSeek-R1"])
def test_mixtures_of_experts_are_outside(tmp_path: Path, name: str) -> None:
    lines = [*user_rows(), f"moe,{name},H100,8,8,8,8,,100,100,5000"]
    table = read_measurements(write(tmp_path / "mixed.csv", *lines))
    assert len(table.measurements) == 8
    assert table.left_out == (f"moe: {name} is a mixture of experts, outside this model",)
    with pytest.raises(UnidentifiedError, match="mixture of experts"):
        calibrate_from_csv(write(tmp_path / "only.csv", lines[-1]))


def test_accuracy_counts_too_high_and_too_low_alike() -> None:
    found = accuracy(np.log([1.1, 1 / 1.1, 1.2, 1 / 1.5]), "nothing")
    assert found.median_error == pytest.approx(math.sqrt(1.1 * 1.2) - 1)
    assert found.within == 0.75


@pytest.fixture
def published(shared_data: Path) -> Measurements:
    return read_measurements(shared_data / "serving_benchmarks.csv").measurements


def test_published_rows_are_predicted_by_the_shipped_constants(published: Measurements) -> None:
    assert len(published) == 88
    errors = np.log(predicted_rates(shipped_calibration(), published) / published.rate)
    found = accuracy(errors, "nothing")
    assert found.median_error < 0.10
    assert found.within > 0.93


def test_the_shipped_constants_are_those_of_the_published_rows(published: Measurements) -> None:
    assert fit(published) == pytest.approx(values(shipped_calibration()), rel=0.01)


@pytest.mark.parametrize(("split", "most"), [("model", 0.13), ("accelerator", 0.18), ("source", 0.14)])
def test_rows_that_were_not_fitted_are_predicted_too(
    published: Measurements, split: str, most: float
) -> None:
    found = accuracy(held_out_errors(published, getattr(published.labels, split)), split)
    assert found.median_error < most
    assert found.within > 0.85


def test_guesses_hardly_matter(published: Measurements) -> None:
    other = PHYSICS._replace(values=PHYSICS.values * np.array([0.8, 0.8, 0.95, 1.2, 2, 3]))
    assert fit(published, other) == pytest.approx(fit(published), rel=0.2)
