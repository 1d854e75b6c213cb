"""Shapes from sizes, widths and layers: what can be built, near what was asked for, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from llama_scale.architecture import LLAMA_7B, LLAMA_13B
from llama_scale.errors import InputError
from llama_scale.shapes import ExplicitShape, ShapeSpec, model_of_shape, model_of_size, model_of_width


@pytest.mark.parametrize("size", [1e6, 5e6, 2e7, 1e8, 3e8, 1e9, 7e9])
@pytest.mark.parametrize("tied", [False, True])
def test_a_size_gives_a_model_of_about_that_size(size: float, tied: bool) -> None:
    shape = ShapeSpec(tied_head=tied, qk_norm=True, context=512)
    model = model_of_size(size, shape, vocabulary=1024 if size < 1e8 else 32_000)
    assert model.parameters.total == pytest.approx(size, rel=0.15 if size < 1e8 else 0.03)
    assert (model.tied_head, model.qk_norm, model.context) == (tied, True, 512)


@pytest.mark.parametrize(
    ("spec", "holds"),
    [
        (ShapeSpec(layers=2), lambda m: m.layers == 2),
        (ShapeSpec(head_size=16), lambda m: m.head_size == 16),
        (ShapeSpec(hidden_ratio=3.0), lambda m: m.hidden == 3 * m.width),
        (ShapeSpec(aspect_ratio=40), lambda m: 30 < m.width / m.layers < 55),
        (ShapeSpec(head_size=32, kv_heads=2), lambda m: m.kv_heads == 2),
        (ShapeSpec(kv_heads=4), lambda m: m.kv_heads == 4),
    ],
)
def test_what_a_spec_fixes_is_kept(spec: ShapeSpec, holds: object) -> None:
    model = model_of_size(3e7, spec, vocabulary=4096)
    assert callable(holds) and holds(model)
    assert model.parameters.total == pytest.approx(3e7, rel=0.1)


def test_sizes_may_be_counted_without_embeddings() -> None:
    spec = ShapeSpec(sizes_count="non_embedding")
    assert model_of_size(5e7, spec, vocabulary=32_000).parameters.non_embedding == pytest.approx(5e7, rel=0.1)


def test_the_family_comes_back_from_its_widths_and_its_layers() -> None:
    assert model_of_width(4096, ShapeSpec(), vocabulary=32_000) == LLAMA_7B
    assert model_of_shape(ExplicitShape(layers=40, width=5120), ShapeSpec(), vocabulary=32_000) == LLAMA_13B
    wanted = ExplicitShape(layers=40, width=5120, heads=20, kv_heads=4, hidden=10_000)
    built = model_of_shape(wanted, ShapeSpec(), vocabulary=32_000)
    assert built == replace(LLAMA_13B, heads=20, head_size=256, kv_heads=4, hidden=10_000)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: model_of_width(40, ShapeSpec(head_size=16), vocabulary=256), "not a multiple"),
        (lambda: model_of_size(1e5, ShapeSpec(), vocabulary=128_000), "no model of about 100,000"),
        (lambda: model_of_size(1e5, ShapeSpec(layers=300), vocabulary=256), "no model of about 100,000"),
        (lambda: ShapeSpec(layers=2, aspect_ratio=64), "both say how deep"),
        (lambda: ShapeSpec(context=0), "context is 0"),
        (lambda: ExplicitShape(layers=0, width=64), "layers is 0"),
        (lambda: ExplicitShape(layers=1, width=64, heads=0), "heads is 0"),
        (lambda: ExplicitShape(layers=1, width=64, kv_heads=0, hidden=-3), "hidden is -3"),
        (
            lambda: model_of_shape(ExplicitShape(layers=1, width=10, heads=3), ShapeSpec(), vocabulary=256),
            "3 heads",
        ),
    ],
)
def test_what_cannot_be_built_is_refused(make: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        assert callable(make) and make()
