"""Figures as reproducible files."""

import json

import matplotlib
import numpy as np
import pytest

matplotlib.use("agg")

from tgd_lib import config
from tgd_lib.report import charts, figures, significance, tables  # noqa: E402


def row(method, seed, accuracy, selection="last"):
    return {
        "method": method, "label": method.upper(), "seed": seed, "selection": selection, "accuracy": accuracy,
        "nll": 1.0 + seed, "ece": 0.1, "n": 100, "epochs_in_all": 2, "key": f"{method}{seed}", "loss": [2.0, 1.0],
        "training_accuracy": [0.1, 0.2],
    }  # fmt: skip


TIME = {"n": 3, "median": 0.002, "min": 0.001, "max": 0.003}
ROWS = [row("a", 0, 0.50), row("a", 1, 0.54), row("b", 0, 0.55), row("b", 1, 0.57), row("c", 0, 0.4)]


@pytest.fixture
def settings(tmp_path, monkeypatch):
    monkeypatch.setenv("TGD_ARTIFACTS", str(tmp_path))
    return config.resolve("smoke")


def test_figures_are_reproducible_files_with_a_record(settings):
    def draw():
        figures.save(charts.accuracies(ROWS), settings, "x", caption="c", source=["k"])
        folder = config.run_dir(settings) / "figures"
        return {s: (folder / f"x.{s}").read_bytes() for s in ("svg", "png", "json")}

    one, two = draw(), draw()
    assert one["svg"] == two["svg"] and one["png"] == two["png"]
    record = json.loads(one["json"])
    assert record["caption"] == "c" and record["source"] == ["k"] and record["run"] == "smoke"


def test_every_plot_draws(settings):
    rng = np.random.default_rng(0)
    images, pis = rng.integers(0, 255, (6, 8, 8, 3), np.uint8), rng.integers(0, 255, (6, 6, 50, 50), np.uint8)
    labels, names = np.arange(6) % 3, ("a", "b", "c")
    pair = significance.paired(ROWS, "b", "a")
    drawn = [
        charts.accuracies(ROWS, {"a": 0.5}),
        charts.differences([pair], {"a": "A", "b": "B"}),
        charts.curves(ROWS, "loss", "loss"),
        figures.pipeline(images[0], rng.random(64), np.array([[0.1, 0.3]]), pis[0, 0], channel="red", upto=0.3),
        figures.by_class(images, pis, labels, names),
        figures.by_class(images, pis, labels, ("a", "nobody", "b", "c")),  # a class may be absent
        figures.mean_pis(pis, labels, names, upto=0.3),
        figures.opinions(images[0], {"x": np.array([0.2, 0.3, 0.5])}, names, 2),
        charts.costs({"networks": {"student": {"batch_1": TIME, "batch_128": TIME}}, "topology": {"batch_1": TIME, "batch_128": TIME}, "steps": {"plain": TIME}}),
        charts.accuracies(ROWS, None, "a"),
        charts.alpha_curve([{"alpha": a, "accuracy": 0.5 + a / 10} for a in (0.0, 0.99, 1.0, 1.0)], ylabel="accuracy, %"),
        charts.cost_and_accuracy({"student": {"multiply_adds": 2e7}}, [r | {"role": "student"} for r in ROWS]),
        figures.similarity_maps({"x": rng.random((6, 6))}, [2, 4]),
    ]
    for figure in drawn:
        figure.canvas.draw()
    assert matplotlib.rcParams["svg.hashsalt"] is None  # the style stays inside
