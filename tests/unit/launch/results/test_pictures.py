"""Pictures of learning curves: one line for each configuration, with a band over its seeds."""

import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib import pyplot

from launch.results.curves import Axes, RunCurves
from launch.results.pictures import Group, Line, Panel, draw, mean_and_range, panels_of


def curves_of(name: str, **settings: object) -> RunCurves:
    table = {"step": np.array([1.0]), "loss": np.array([2.0])}
    return RunCurves(Path("runs") / name, "task", "mlp", json.dumps(settings), table, (Axes("step", "loss"),))


def line(x: list[float], y: list[float]) -> Line:
    return Line(np.array(x), np.array(y))


def figure_of(rows: list[list[Panel]], path: Path, monkeypatch) -> pyplot.Figure:
    figures: list[pyplot.Figure] = []
    monkeypatch.setattr(pyplot, "close", figures.append)
    draw(rows, path)
    monkeypatch.undo()
    pyplot.close(figures[0])
    return figures[0]


def test_mean_and_range_go_as_far_as_all_runs_have_come():
    x, mean, low, high = mean_and_range([line([0, 2, 4], [0, 2, 4]), line([0, 1, 2], [4, 4, 4])])
    assert x.tolist() == [0, 1, 2]
    assert (low.tolist(), mean.tolist(), high.tolist()) == ([0, 1, 2], [2, 2.5, 3], [4, 4, 4])


def test_runs_that_differ_in_their_seed_are_one_group_and_others_are_named_apart():
    runs = [curves_of("mlp-seed1"), curves_of("mlp-seed2"), curves_of("mlp-lr1-seed1", lr=1)]
    runs += [curves_of("b/mlp-lr1-seed1", lr=2), curves_of("one"), curves_of("fast-seed1", lr=3)]
    ((panel,),) = panels_of(runs)
    assert [(group.label, len(group.runs)) for group in panel.groups] == [
        ("mlp and 1 more", 3), ("runs/mlp-lr1-seed1", 1), ("runs/b/mlp-lr1-seed1", 1), ("fast", 1)
    ]  # fmt: skip


def test_a_layer_has_one_colour_everywhere_and_its_configurations_have_other_dashes(tmp_path, monkeypatch):
    short, long = line([1], [1]), line([1, 2], [1, 3])
    first = Panel("step", "loss", [Group("a", "mlp", [long]), Group("b", "neurocoder", [long, long])])
    second = Panel("step", "loss", [Group("c", "neurocoder", [long]), Group("d", "neurocoder", [short])])
    figure = figure_of([[first], [second]], tmp_path / "p.png", monkeypatch)
    a, b, c, d = (drawn for axes in figure.axes for drawn in axes.lines)
    assert a.get_color() != b.get_color() == c.get_color() == d.get_color()
    assert c.get_linestyle() != d.get_linestyle()
    # A point alone is seen.
    assert d.get_marker() == "o" and c.get_marker() == "None"


def test_the_legend_says_how_many_runs_a_line_stands_for_and_what_the_band_is(tmp_path, monkeypatch):
    one = [Group("a", "mlp", [line([1, 2], [1, 3])])]
    many = [Group("a", "mlp", [line([1, 2], [1, 3]), line([1, 2], [2, 2])])]
    rows = [[Panel("step", "loss", one)], [Panel("step", "loss", many)]]
    figure = figure_of(rows, tmp_path / "p.png", monkeypatch)
    legends = [part.legends[0] for part in figure.subfigs]
    assert [legend.get_texts()[0].get_text() for legend in legends] == ["a (n = 1)", "a (n = 2)"]
    titles = [legend.get_title().get_text() for legend in legends]
    assert titles == ["", "line: mean of n runs\nband: lowest to highest"]
    assert [len(axes.collections) for axes in figure.axes] == [0, 1]


@pytest.mark.parametrize(("column", "words"), [("test_accuracy", "test accuracy (%)"), ("mse", "mse")])
def test_axes_are_named_in_words_with_their_unit(column, words, tmp_path, monkeypatch):
    panel = Panel("agent_steps", column, [Group("a", "mlp", [line([1e6, 2e6], [1, 3])])])
    (axes,) = figure_of([[panel]], tmp_path / "p.png", monkeypatch).axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("agent steps", words)
    assert "1.2M" in [label.get_text() for label in axes.get_xticklabels()]
