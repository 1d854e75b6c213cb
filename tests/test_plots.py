"""Figures hold the values that they were given, in units, within their edges, and are written whole."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from synthetic import BUDGETS, LAW

from llama_scale import plots
from llama_scale.errors import InputError, StoreError, UnidentifiedError
from llama_scale.fitting.isoflop import isoflop
from llama_scale.fitting.observations import Row, Rows, observe
from llama_scale.laws import published
from llama_scale.planning import compare, curves, plan
from llama_scale.plots.style import MOST_NAMED
from tests import figures
from tests.figures import FIGURES, budget_plan, figure, law, lines, overhang, points, runs, target_plan, words

UNITS = {  # what each figure's axes say, in order
    "loss_curves": ("tokens seen D", "training loss (nats per token)", "training compute C (FLOPs)", ""),
    "isoflop": ("parameters N (matmul)", "final loss (nats per token)"),
    "envelope": (
        *("training compute C (FLOPs)", "final loss (nats per token)"),
        *("training compute C (FLOPs)", "parameters N (matmul)"),
    ),
    "contours": ("training compute C = 6ND (FLOPs)", "parameters N (matmul)"),
    "predictions": ("measured loss (nats per token)", "predicted loss (nats per token)"),
    "residuals": (
        *("training compute C (FLOPs)", "predicted over measured loss − 1 (%)"),
        *("tokens per parameter D/N", ""),
    ),
    "cost_by_size": ("parameters N (total)", "lifetime cost (US dollars)"),
    "loss_by_size": ("parameters N (total)", "predicted loss (nats per token)"),
    "best_by_demand": (
        "",
        "parameters N (total)",
        "tokens served over its life T",
        "tokens per parameter D/N",
    ),
    "cost_over_time": ("", "spent so far (US dollars)", "tokens served so far", "saved so far (US dollars)"),
    "sensitivity": ("bill for the same quality (US dollars)", "", "best parameters N (total)", ""),
}


@pytest.mark.parametrize("name", FIGURES)
def test_no_text_is_cut_off(name: str) -> None:
    assert overhang(figure(name)) < 0.02


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_says_what_it_shows(name: str) -> None:
    drawn = figure(name)
    assert any(axes.get_title("left") for axes in drawn.axes)
    assert all(axes.get_xlabel() or axes.get_ylabel() for axes in drawn.axes)


@pytest.mark.parametrize("name", UNITS)
def test_axes_name_quantity_and_unit(name: str) -> None:
    labels = [label for axes in figure(name).axes for label in (axes.get_xlabel(), axes.get_ylabel())]
    assert tuple(labels) == UNITS[name]


def test_a_star_import_takes_every_figure_and_nothing_else() -> None:
    taken: dict[str, Any] = {}
    exec("from llama_scale.plots import *", taken)
    assert set(FIGURES) | {"save"} == set(taken) - {"__builtins__"}


def test_drawing_leaves_matplotlib_as_it_was() -> None:
    before = dict(matplotlib.rcParams)
    plots.optima(published())
    assert dict(matplotlib.rcParams) == before


def test_curves_end_where_the_runs_do() -> None:
    found = figures.learning_curves(figures.CURVES)
    by_tokens, by_flops = figure("loss_curves").axes
    assert len(by_tokens.get_lines()) == 2 * len(found)  # raw, and smoothed
    ends = sorted(float(np.asarray(line.get_xdata())[-1]) for line in by_flops.get_lines()[1::2])
    assert ends == pytest.approx(sorted(one.flops_per_token * one.tokens[-1] for one in found))


def test_tokens_of_whole_runs_are_no_abscissa(tmp_path: Path) -> None:
    table = tmp_path / "curves.csv"
    table.write_text("run,N,total_tokens,train_loss\n" + "".join(f"a,1e6,1e9,{loss}\n" for loss in (4, 3, 2)))
    with pytest.raises(InputError, match="line 2: all rows of 'a' have"):
        figures.learning_curves(table)


def test_isoflop_draws_every_run_and_every_minimum() -> None:
    (axes,) = figure("isoflop").axes
    found = isoflop(runs())
    assert found is not None
    assert len(points(axes, "o")) == sum(len(profile.sizes) for profile in found.profiles)
    minima = points(axes, "x")
    known = sorted(p.parameters for p in found.profiles if p.parameters is not None)
    np.testing.assert_allclose(minima[:, 0], known)
    held_out = runs().held_out
    assert held_out is not None
    np.testing.assert_allclose(points(axes, "D")[:, 1], held_out.loss[np.argsort(held_out.parameters)])


def test_a_fit_holds_enough_to_draw_its_runs_from_it_alone() -> None:
    from llama_scale.fitting.kept import runs_of

    (ours,), (theirs,) = plots.isoflop(runs_of(law()), law()).axes, figure("isoflop").axes
    for marker in ("o", "x", "D"):
        np.testing.assert_allclose(points(ours, marker), points(theirs, marker), rtol=1e-4)


def test_the_envelope_is_the_lower_edge() -> None:
    losses, best = figure("envelope").axes
    edge = lines(losses)["lowest loss of all sizes"]
    for line in losses.get_lines()[:-1]:
        x, y = np.asarray(line.get_xydata()).T
        if line.get_marker() == "None":
            inside = (edge[:, 0] >= x[0]) & (edge[:, 0] <= x[-1])
            over = np.interp(np.log(edge[inside, 0]), np.log(x), y) - edge[inside, 1]
            assert over.min() > -2e-3
    assert (np.diff(lines(best)["best size"][:, 1]) > 0).all()


def test_an_envelope_that_has_no_inner_size_says_so() -> None:
    """The smallest of three sizes, all far too large, is the best at every budget."""
    swept = [(size, budget / 6 / size) for size, budget in product((1e7, 2e7, 4e7), BUDGETS)]
    rows = tuple(
        Row(name=f"r{n}", place=f"r{n}", parameters=size, tokens=tokens, loss=float(LAW.loss(size, tokens)))
        for n, (size, tokens) in enumerate(swept)
    )
    with pytest.raises(UnidentifiedError, match="there is no envelope: no size is ever best"):
        plots.envelope(observe([Rows(source="synthetic", rows=rows, convention="total")]))


def test_contours_show_runs_and_frontier() -> None:
    (axes,) = figure("contours").axes
    flops, best = lines(axes)["efficient frontier"].T
    np.testing.assert_allclose(best, law().law.compute_optimum(flops).parameters)
    held_out = runs().held_out
    assert held_out is not None
    assert len(points(axes, "D")) == len(held_out)


def test_predictions_and_residuals_tell_the_same_errors() -> None:
    (parity,) = figure("predictions").axes
    by_flops, by_ratio = figure("residuals").axes
    measured, predicted = lines(parity)[f"{len(runs())} fitted runs"].T
    errors = 100 * (predicted / measured - 1)
    for axes in (by_flops, by_ratio):
        np.testing.assert_allclose(np.sort(lines(axes)[f"{len(runs())} fitted runs"][:, 1]), np.sort(errors))
    assert "2 held out, 90% intervals" in words(figure("predictions"))


def test_optima_follow_the_law_with_its_band() -> None:
    sizes, tokens = figure("optima").axes
    flops, best = lines(sizes)["law (skaling)"].T
    np.testing.assert_allclose(best * 6 * lines(tokens)["law (skaling)"][:, 1], flops, rtol=1e-9)
    assert len(sizes.collections) >= 1
    assert "envelope" in words(figure("optima"))
    assert "IsoFLOP parabolas" in words(figure("optima"))


def test_choice_marks_the_chosen_form() -> None:
    tried = law().evidence["selection"]["candidates"]
    (axes,) = figure("choice").axes
    best = min(one["mean_error"] for one in tried)
    ends = [float(np.asarray(line.get_xdata())[1]) for line in axes.get_lines()]
    assert min(ends) == pytest.approx(100 * best)
    assert "nearest to their mean, the law" in words(figure("choice"))
    evidence = {**law().evidence, "selection": {**law().evidence["selection"], "heard": 1}}
    assert "chosen" in words(plots.choice(replace(law(), evidence=evidence)))


def test_backtest_shows_both_directions_with_coverage() -> None:
    verdicts = law().evidence["backtest"]["protocol"]
    shown = figure("backtest")
    assert len(shown.axes) == len(verdicts) == 2
    for axes, verdict in zip(shown.axes, verdicts, strict=True):
        heights = sorted(float(bar.get_height()) for bar in axes.patches)  # pyright: ignore[reportAttributeAccessIssue]
        errors = [one["mean_error"] for one in (*verdict["candidates"], verdict)]
        assert heights == pytest.approx(sorted(100 * error for error in errors))
        assert "the law" in words(shown)
        assert f"{verdict['coverage']:.0%} inside" in words(shown)


def test_cost_stacks_training_and_serving_and_marks_both_models() -> None:
    (axes,) = figure("cost_by_size").axes
    curve = curves.cost_by_size(target_plan())
    ours, theirs = target_plan().recommended, target_plan().compute_optimal
    assert lines(axes)["_chosen"][0] == pytest.approx((ours.parameters, ours.lifetime.total_usd))
    assert lines(axes)["_compute-optimal"][0] == pytest.approx((theirs.parameters, theirs.lifetime.total_usd))
    stack = [np.asarray(part.get_paths()[0].vertices) for part in axes.collections[:2]]
    assert stack[1][:, 1].max() == pytest.approx(float(np.nanmax(_shown(curve.total))), rel=1e-6)
    told = words(figure("cost_by_size"))
    for text in ("training", "serving", "within 1%", "within 5%", "chosen\n12.4B", "compute-optimal\n23.8B"):
        assert text in told


def test_a_plan_under_a_deadline_has_its_curve_and_shows_what_keeps_it() -> None:
    """Warnings are errors here: an axis of one size alone warns."""
    answer = plan(serve_tokens=1e12, budget="$3M", deadline="30d", accelerators=512)
    (axes,) = plots.cost_by_size(curves.cost_by_size(answer)).axes
    low, high = axes.get_xlim()
    assert high / low > 4
    assert "beyond the plan's limits" in [text.get_text() for text in axes.get_legend().get_texts()]  # pyright: ignore


def test_a_rival_that_is_out_of_view_is_told() -> None:
    answer = plan(serve_tokens=1e15, budget="$50M")
    (axes,) = plots.cost_by_size(curves.cost_by_size(answer)).axes
    assert answer.compute_optimal.parameters > axes.get_xlim()[1]
    assert "compute-optimal, 50.3B: $213M, off to the right" in words(axes.figure)  # pyright: ignore


@pytest.mark.parametrize(
    "limits",
    [
        {"max_parameters": "10B"},
        {"serve_accelerators": 1, "accelerator": "h100", "budget": "$50M"},
        {"unique_tokens": "1B", "budget": "$5M"},  # which buys hardly more than a hundredth of it would
    ],
)
def test_names_of_marked_sizes_and_parts_stay_within_the_axes(limits: dict[str, Any]) -> None:
    drawn = plots.cost_by_size(curves.cost_by_size(plan(serve_tokens=1e12, **limits)))
    canvas = FigureCanvasAgg(drawn)
    canvas.draw()
    (axes,) = drawn.axes
    frame = axes.get_window_extent(canvas.get_renderer())
    for text in axes.texts:
        box = text.get_window_extent(canvas.get_renderer())
        assert frame.x0 - 1 <= box.x0 < box.x1 <= frame.x1 + 1, text.get_text()
        assert frame.y0 - 1 <= box.y0 < box.y1 <= frame.y1 + 1, text.get_text()


def test_a_part_is_named_where_no_model_is() -> None:
    drawn = plots.cost_by_size(curves.cost_by_size(plan(serve_tokens="10T", budget="$5M")))
    canvas = FigureCanvasAgg(drawn)
    canvas.draw()
    boxes = {text.get_text(): text.get_window_extent(canvas.get_renderer()) for text in drawn.axes[0].texts}
    models = [box for name, box in boxes.items() if name.startswith(("chosen", "compute-optimal"))]
    assert len(models) == 2 and not any(boxes["serving"].overlaps(model) for model in models)


@pytest.mark.parametrize("name", ["contours", "residuals", "sensitivity", "model_map"])
def test_a_legend_hides_nothing(name: str) -> None:
    drawn = figure(name)
    FigureCanvasAgg(drawn).draw()
    below = min(axes.get_tightbbox().y0 for axes in drawn.axes)  # pyright: ignore
    (legend,) = drawn.legends
    box = legend.get_window_extent()
    assert box.y0 >= 0 and box.y1 < below + 1


def test_profiles_without_a_minimum_are_drawn() -> None:
    swept = [(size, budget / 6 / size) for size, budget in product((1e8, 2e8, 4e8, 8e8, 16e8), (1e18, 1e19))]
    rows = tuple(
        Row(name=f"r{n}", place=f"r{n}", parameters=size, tokens=tokens, loss=5 - 0.1 * np.log(size))
        for n, (size, tokens) in enumerate(swept)
    )
    seen = observe([Rows(source="synthetic", rows=rows, convention="total")])
    assert plots.isoflop(seen).axes[0].get_legend() is None


def test_a_single_size_is_no_curve() -> None:
    curve = curves.cost_by_size(target_plan())
    only = np.arange(curve.total.size) == np.nanargmin(curve.total)
    with pytest.raises(InputError, match="no curve to draw"):
        plots.cost_by_size(replace(curve, train=np.where(only, curve.train, np.nan)))


def _shown(total: np.ndarray) -> np.ndarray:
    return total[total <= 2 * np.nanmin(total)]


def test_loss_marks_the_lowest() -> None:
    (axes,) = figure("loss_by_size").axes
    curve = axes.get_lines()[0]
    assert float(np.min(np.asarray(curve.get_ydata(), float))) == pytest.approx(
        budget_plan().optimum.loss_nats, rel=1e-4
    )
    assert len(axes.collections) == 1


def test_best_size_falls_with_demand_and_starts_at_chinchilla() -> None:
    sizes, ratios = figure("best_by_demand").axes
    best = lines(sizes)["best"][:, 1]
    assert (np.diff(best) < 0).all()
    assert best[0] == pytest.approx(float(published().law.compute_optimum(1e24).parameters), rel=0.01)
    assert (np.diff(lines(ratios)["best"][:, 1]) > 0).all()


def test_the_break_even_is_where_both_lines_meet() -> None:
    spent, saved = figure("cost_over_time").axes
    ours, theirs = (np.asarray(line.get_xydata()) for line in spent.get_lines()[:2])
    at = float(np.asarray(saved.get_lines()[-1].get_xdata())[0])
    meeting = [np.interp(at, each[:, 0], each[:, 1]) for each in (ours, theirs)]
    assert meeting[0] == pytest.approx(meeting[1], rel=1e-6)
    assert "break-even at 702B tokens" in words(figure("cost_over_time"))


def test_with_months_costs_run_over_time_and_jump_where_it_is_trained_again() -> None:
    words = {"serve_tokens": 4e12, "match": "llama-13b", "accelerator": "h100", "months": 24}
    answer = plan(**words, retrain_every=12)
    spent, saved = plots.cost_over_time(curves.cost_over_time(answer)).axes
    assert saved.get_xlabel() == "months since training ended"
    at, ours = np.asarray(spent.get_lines()[0].get_xydata()).T
    assert (at[0], at[-1]) == (0, 24)
    life = answer.recommended.lifetime
    assert ours[0] == pytest.approx((life.train_usd or 0) / 2)
    assert ours[-1] == pytest.approx(life.total_usd)
    assert np.interp(12, at, ours) - np.interp(12 - 1e-6, at, ours) == pytest.approx(ours[0], rel=1e-3)


def test_the_words_of_the_break_even_stand_off_the_line() -> None:
    for growth in ("1%/month", "30%/month"):
        answer = plan(serve_tokens=2e12, match="llama-13b", accelerator="h100", months=24, growth=growth)
        drawn = plots.cost_over_time(curves.cost_over_time(answer))
        canvas = FigureCanvasAgg(drawn)
        canvas.draw()
        saved = drawn.axes[1]
        (told,) = [text for text in saved.texts if "break-even" in text.get_text()]
        box = told.get_window_extent(canvas.get_renderer())
        line = saved.transData.transform(np.asarray(saved.get_lines()[0].get_xydata()))
        line = np.column_stack(
            [np.interp(np.linspace(0, 1, 500), np.linspace(0, 1, len(line)), one) for one in line.T]
        )
        inside = (line > (box.x0, box.y0)) & (line < (box.x1, box.y1))
        assert not inside.all(axis=1).any(), growth


def test_the_tornado_is_sorted_and_names_both_cases() -> None:
    bills, _ = figure("sensitivity").axes
    inputs = [label.get_text() for label in bills.get_yticklabels()][::-1]
    assert inputs == [row.input for row in target_plan().sensitivity]
    base = target_plan().recommended.lifetime.total_usd
    assert base is not None
    first = target_plan().sensitivity[0]
    ends = {float(bar.get_x() + bar.get_width()) for bar in bills.patches}  # pyright: ignore[reportAttributeAccessIssue]
    assert any(end == pytest.approx(first.high.usd) for end in ends)


def test_bets_cross_one_where_the_comparison_says() -> None:
    found = compare("llama-7b", "chinchilla-70b", "gpt-3-175b")
    (axes,) = figure("model_bets").axes
    marked = points(axes, "o")
    from_ = sorted(
        model.against_rival["flops"].serve_tokens or 0
        for model in found.models
        if model.against_rival["flops"].verdict == "from"
    )
    np.testing.assert_allclose(marked[:, 0], from_)
    assert (marked[:, 1] == 1).all()
    ratios = np.asarray(axes.get_lines()[0].get_xydata())
    assert np.interp(np.log(marked[-1, 0]), np.log(ratios[:, 0]), ratios[:, 1]) == pytest.approx(1, abs=1e-3)


def test_lines_of_equal_loss_have_names_of_their_own_and_the_best_line_is_in_view() -> None:
    (axes,) = plots.model_map(compare("llama-7b")).axes
    values = [text.get_text() for text in axes.texts if text.get_text().startswith("2.")]
    assert len(set(values)) == len(values) > 4
    best = lines(axes)["compute-optimal (Chinchilla)"]
    (low, high), (left, right) = axes.get_ylim(), axes.get_xlim()
    inside = (best > (left, low)) & (best < (right, high))
    assert inside.all(axis=1).mean() > 0.5


def test_of_many_lines_some_are_named() -> None:
    budgets = np.geomspace(1e17, 1e21, 24)
    sizes = [
        (share * (budget / 120) ** 0.5, budget) for budget in budgets for share in (0.3, 0.55, 1, 1.8, 3)
    ]
    rows = tuple(
        Row(
            name=f"r{n}",
            place=f"r{n}",
            parameters=size,
            tokens=budget / 6 / size,
            loss=float(published().law.loss(size, budget / 6 / size)),
            budget=budget,
        )
        for n, (size, budget) in enumerate(sizes)
    )
    (axes,) = plots.isoflop(observe([Rows(source="synthetic", rows=rows, convention="total")])).axes
    assert [text.get_text() for text in axes.texts][:: MOST_NAMED - 1] == ["1e17", "1e21"]
    assert len(axes.texts) == MOST_NAMED


def test_names_of_curves_stand_beside_the_axes() -> None:
    drawn = figure("loss_curves")
    canvas = FigureCanvasAgg(drawn)
    canvas.draw()
    axes = drawn.axes[1]
    edge = axes.get_window_extent(canvas.get_renderer()).x1
    assert len(axes.texts) > 2
    assert all(text.get_window_extent(canvas.get_renderer()).x0 > edge for text in axes.texts)


def test_intervals_of_held_out_runs_are_within_the_axes() -> None:
    held_out = runs().held_out
    assert held_out is not None
    guess = law().predict(held_out.parameters, held_out.tokens)
    assert guess.low is not None
    assert guess.high is not None
    low, high = figure("predictions").axes[0].get_ylim()
    assert low < np.min(guess.low) < np.max(guess.high) < high


def test_the_band_of_the_rival_is_within_the_axes() -> None:
    curve = curves.cost_over_time(budget_plan())
    spent = plots.cost_over_time(curve).axes[0]
    assert curve.band is not None
    low, high = spent.get_ylim()
    assert low == 0
    assert high > np.nanmax(curve.band.high)


def test_an_input_that_does_not_move_the_size_has_no_bar() -> None:
    _, sizes = figure("sensitivity").axes
    unmoved = [
        case
        for row in target_plan().sensitivity
        for case in (row.low, row.high)
        if case.parameters == pytest.approx(target_plan().optimum.parameters, rel=1e-6)
    ]
    thin = [bar for bar in sizes.patches if abs(bar.get_width()) < 1e-6 * target_plan().optimum.parameters]  # pyright: ignore
    assert len(thin) == len(unmoved) >= 2


@pytest.mark.parametrize(("kind", "start"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_a_figure_is_saved_whole_and_the_same_each_time(tmp_path: Path, kind: str, start: bytes) -> None:
    saved = [plots.save(plots.optima(published()), tmp_path / f"{n}.{kind}").read_bytes() for n in range(2)]
    assert saved[0].startswith(start)
    assert saved[0] == saved[1]
    assert matplotlib.__version__.encode() not in saved[0]


def test_an_unknown_extension_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot write a figure as 'x\.jpeg2'"):
        plots.save(Figure(), tmp_path / "x.jpeg2")


def test_an_unwritable_place_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot write"):
        plots.save(Figure(), tmp_path / "file" / "x.png")


def test_what_cannot_be_drawn_names_the_command_that_makes_it() -> None:
    alone = runs().take(np.arange(3))
    for draw, hint in (
        (lambda: plots.loss_curves([]), "llama-scale sweep"),
        (lambda: plots.isoflop(alone), "llama-scale sweep"),
        (lambda: plots.envelope(alone), "llama-scale sweep"),
        (lambda: plots.choice(published()), "llama-scale fit"),
        (lambda: plots.backtest(published()), "--backtest"),
        (lambda: plots.sensitivity(replace(target_plan(), sensitivity=())), "--price"),
    ):
        with pytest.raises((InputError, UnidentifiedError)) as error:
            draw()
        assert hint in error.value.hint


def test_a_law_without_draws_is_drawn_without_bands() -> None:
    answer = plan(serve_tokens=1e12, law="hoffmann-2022")
    (axes,) = plots.cost_by_size(curves.cost_by_size(answer)).axes
    assert axes.get_legend() is None
    assert len(plots.best_by_demand(curves.best_by_demand(answer)).axes[0].collections) == 0


def test_saving_leaves_a_figure_where_it_was_laid_out(tmp_path: Path) -> None:
    drawn = plots.residuals(law(), runs())
    plots.save(drawn, tmp_path / "x.png")
    assert overhang(drawn) < 0.02
    again = plots.save(drawn, tmp_path / "y.png")
    assert again.read_bytes() == (tmp_path / "x.png").read_bytes()
