from __future__ import annotations

import csv
from pathlib import Path

import pytest

from llama_scale.architecture import LLAMA_7B, LLAMA_65B, llama
from llama_scale.closed_forms import FORMS, ClosedForm, closed_form, closed_forms, nearest_llamas
from llama_scale.errors import InputError
from llama_scale.planning.references import reference_models

RELEASED = {  # parameters of released checkpoints, and counts that follow from what the papers print
    "llama-7b": 6_738_415_616,
    "llama-13b": 13_015_864_320,
    "llama-33b": 32_528_943_616,
    "llama-65b": 65_285_660_672,
    "llama-2-70b": 68_976_648_192,
    "llama-3.1-8b": 8_030_261_248,
    "llama-3.1-70b": 70_553_706_496,
    "llama-3.1-405b": 405_853_388_800,
    "chinchilla-70b": 70_056_681_472,
    "gpt-3-175b": 174_604_259_328,
    "palm-8b": 8_632_012_800,
    "palm-540b": 540_356_474_880,
}


@pytest.mark.parametrize(("name", "total"), RELEASED.items())
def test_counts_are_exact(name: str, total: int) -> None:
    assert closed_form(name).parameters.total == total


@pytest.mark.parametrize("shape", closed_forms(), ids=lambda shape: shape.name)
def test_every_count_is_near_what_its_source_prints(shape: ClosedForm) -> None:
    off = shape.parameters.total / shape.printed - 1
    assert abs(off) < (0.005 if shape.form != "llama" else 0.01)  # "70B" is 70.55e9
    assert shape.form in FORMS


def test_every_reference_model_is_counted_as_its_row_says(shared_data: Path) -> None:
    lines = (shared_data / "reference_models.csv").read_text().splitlines()
    rows = list(csv.DictReader(line for line in lines if not line.startswith("#")))
    assert len(rows) == 17
    for row in rows:
        shape = closed_form(row["model"])
        assert shape.parameters.total == int(row["params_formula"]), row["model"]
        assert abs(shape.parameters.total / float(row["params_total"]) - 1) < 0.005
        assert shape.attention_flops_per_token() == float(row["flops_per_token_attn"])
        assert shape.tokens == float(row["tokens"])
        assert 6 * shape.printed * shape.tokens == pytest.approx(float(row["train_flops_6nd"]), rel=7e-3)
        assert shape.learning_rate == pytest.approx(float(row["peak_lr"]))
        assert (shape.layers, shape.width) == (int(row["n_layers"]), int(row["d_model"]))


def test_llama_is_counted_as_its_model_config() -> None:
    for closed in closed_forms():
        if closed.form == "llama":
            shape = closed.shape
            assert shape is not None
            assert closed.parameters == shape.parameters
            assert closed.matrix_weights == shape.matrix_weights
            assert closed.train_flops_per_token() == shape.train_flops_per_token()
            assert closed.forward_flops_per_token(512) == shape.forward_flops_per_token(512)
    assert closed_form("llama-7b").shape == LLAMA_7B
    assert closed_form("llama-2-70b").shape == llama(
        80, 8192, heads=64, kv_heads=8, hidden=28672, context=4096
    )
    assert closed_form("gpt-3").shape is None


def test_the_catalogue_agrees() -> None:
    """Models that plans are compared with are the same models."""
    catalogue = {model.name: model for model in reference_models()}
    shared = [closed for closed in closed_forms() if closed.name in catalogue]
    assert len(shared) >= 20
    for closed in shared:
        model = catalogue[closed.name]
        assert model.total == closed.parameters.total
        assert (model.layers, model.width, model.hidden) == (closed.layers, closed.width, closed.hidden)
        assert (model.heads, model.kv_heads, model.head_size) == (
            closed.heads,
            closed.kv_heads,
            closed.head_size,
        )
        assert (model.tokens, model.tied, model.vocabulary) == (closed.tokens, closed.tied, closed.vocabulary)


def test_conventions_of_other_families() -> None:
    gpt = closed_form("gpt-3-175b").parameters
    tables = 50_257 * 12_288
    assert gpt.matmul - gpt.non_embedding == tables  # the tied head multiplies
    assert gpt.total - gpt.matmul == 2_048 * 12_288  # learned positions do not
    palm = closed_form("palm-540b").parameters
    assert palm.total == palm.matmul == palm.non_embedding + 256_000 * 18_432


def test_flops_per_token_give_palms_own_mfu() -> None:
    """Appendix B: 238.3K tokens/s on 6,144 chips of 275 TFLOP/s is 46.2 %, 45.7 % without attention."""
    palm = closed_form("palm-540b")
    rate, peak = 238.3e3, 6144 * 275e12
    with_attention = 6 * palm.printed + palm.attention_flops_per_token()
    assert rate * with_attention / peak == pytest.approx(0.4623, abs=5e-5)
    assert rate * 6 * palm.printed / peak == pytest.approx(0.4573, abs=5e-5)
    assert palm.train_flops_per_token() == pytest.approx(with_attention, rel=2e-4)  # norms aside


def test_the_misprints_of_gpt_3_are_mended() -> None:
    assert closed_form("gpt-3-xl").heads == 16
    assert closed_form("gpt-3-13b").width == 5120
    for shape in closed_forms():
        if shape.form == "gpt-3":
            assert shape.query_width == shape.width


def test_the_nearest_llamas_stand_beside_an_answer() -> None:
    assert [shape.name for shape in nearest_llamas(6.6e9)] == ["llama-7b", "llama-3.1-8b"]
    assert [shape.name for shape in nearest_llamas(66e9, 3)] == ["llama-65b", "llama-2-70b", "llama-3.1-70b"]
    assert nearest_llamas(65e9, 1)[0].shape == LLAMA_65B
    assert nearest_llamas(1e12, 1)[0].name == "llama-3.1-405b"


def test_an_unknown_model_is_refused_with_near_names() -> None:
    with pytest.raises(InputError, match="unknown model 'llama-14b'") as refused:
        closed_form("llama-14b")
    assert "llama-13b" in refused.value.hint
    assert closed_form("LLaMA 30B").name == "llama-33b"
