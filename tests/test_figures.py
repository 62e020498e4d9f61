"""Figures as reproducible files, and what charts show."""

import json

import matplotlib.pyplot
import numpy as np
import pytest

matplotlib.use("agg")

from result_rows import ROWS, row  # noqa: E402

from tgd_lib import config  # noqa: E402
from tgd_lib.report import charts, figures, significance  # noqa: E402

TIME = {"n": 3, "median": 0.002, "min": 0.001, "max": 0.003}
SIX = [row(m, s, a + s * s / 1000) for m, a in (("x", 0.5), ("y", 0.6)) for s in range(6)]
BOTH = {"batch_1": TIME, "batch_128": TIME}


@pytest.fixture
def settings(tmp_path, monkeypatch):
    monkeypatch.setenv("TGD_ARTIFACTS", str(tmp_path))
    return config.resolve("smoke")


@pytest.fixture(autouse=True)
def closed():
    """No figure outlives its test."""
    yield
    matplotlib.pyplot.close("all")


def texts(figure) -> list[str]:
    figure.canvas.draw()
    return [t.get_text() for t in figure.findobj(matplotlib.text.Text) if t.get_text()]


# ---------------------------------------------------------------- files


def test_figures_are_reproducible_files_with_a_record(settings):
    def draw():
        figures.save(charts.accuracies(ROWS), settings, "x", caption="c", source=["k"])
        folder = config.run_dir(settings) / "figures"
        return {s: (folder / f"x.{s}").read_bytes() for s in ("svg", "png", "json")}

    one, two = draw(), draw()
    assert one["svg"] == two["svg"] and one["png"] == two["png"]
    record = json.loads(one["json"])
    assert record["caption"] == "c" and record["source"] == ["k"] and record["run"] == "smoke"
    assert matplotlib.rcParams["svg.hashsalt"] is None  # the style stays inside


def test_a_saved_figure_is_shown_with_its_caption_under_it(settings, monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", shown.append)
    figure = charts.accuracies(ROWS)
    figures.save(figure, settings, "x", caption="What this is.", source=[])._ipython_display_()
    assert shown[0] is figure and shown[1].data == "*What this is.*"


# ---------------------------------------------------------------- comparisons


def test_few_seeds_are_drawn_without_an_interval_and_six_with_theirs():
    few = charts.differences([significance.paired(ROWS, "b", "a")], {"a": "A", "b": "B"})
    assert "n too small" in texts(few) and "B − A (n=2)" in texts(few)
    pair = significance.paired(SIX, "y", "x")
    many = charts.differences([pair], {"x": "X", "y": "Y"})
    assert "differs (p = 0.031)" in texts(many)
    tested = pair | {"adjusted": 0.12, "verdict": "no difference shown"}  # of a family
    shown = texts(charts.differences([tested], {"x": "X", "y": "Y"}))
    assert "no difference shown (p after Holm = 0.12)" in shown
    ends = [tuple(line.get_xdata()) for line in many.axes[0].lines if len(line.get_xdata()) == 2]
    assert (100 * pair["low"], 100 * pair["high"]) in ends
    assert len(few.axes[0].lines) == len(many.axes[0].lines) - 1  # the interval


def test_methods_stand_by_family_the_best_first_and_the_reference_is_named():
    rows = [
        row(m, 0, a)
        for m, a in (("at", 0.3), ("tgd", 0.2), ("scratch", 0.5), ("fitnets", 0.4), ("my own", 0.9))
    ]
    figure = charts.accuracies(rows, reference="tgd")
    names = [t.get_text() for t in figure.axes[0].get_yticklabels()]
    assert names == [f"{m} (n=1)" for m in ("SCRATCH", "TGD", "FITNETS", "AT", "MY OWN")]
    said = texts(figure)
    assert "TGD: 20.0 %" in said and {"main methods", "baselines", "others"} <= set(said)
    assert said.count("n too small") == 4  # all but the reference have a verdict


def test_what_shares_no_seed_with_the_reference_has_no_verdict():
    figure = charts.accuracies([*ROWS, row("b", 7, 0.5), row("d", 9, 0.5)], reference="a")
    assert texts(figure).count("n too small") == 2  # b and c; d has seed 9 alone


def test_a_control_that_all_share_is_named_once():
    pairs = [significance.paired(ROWS, m, "a") for m in ("b", "c")]
    figure = charts.differences(pairs, {m: m.upper() for m in "abc"}, of="transfer")
    names = [t.get_text() for t in figure.axes[0].get_yticklabels()]
    assert names == ["B (n=2)", "C (n=1)"]
    assert figure.axes[0].get_xlabel() == "paired difference in transfer from A, points"


def test_alpha_is_drawn_as_differences_from_alpha_1():
    curves = {"tgd_alpha1": 1.0, "tgd": 0.99, "tgd_alpha0": 0.0, "tgd_pi_normalise0.5": 0.5}
    points = [
        {"method": m, "alpha": a, "seed": s, "accuracy": 0.5 + a / 10, "selection": "last"}
        for m, a in curves.items()
        for s in range(6)
    ]
    figure = charts.alpha_curve(significance.from_alpha_1(points), part="held-out")
    words = texts(figure)
    assert "1\n(control)" in words and "0\n(n=6)\ndiffers" in words
    assert {"PI teacher", "PI teacher, normalised"} <= set(words)
    drawn = [line for line in figure.axes[0].lines if line.get_marker() == "_"]
    assert [line.get_ydata()[0] for line in drawn] == pytest.approx([-0.1, -10, -5])
    colours = [line.get_color() for line in drawn]
    assert colours[0] == colours[1] != colours[2]


def test_corruptions_are_drawn_as_differences_from_the_control():
    def robust(method, seed, lost):
        five = [{"accuracy": 0.5 - lost * s / 100} for s in range(1, 6)]
        about = {"method": method, "label": method, "seed": seed, "selection": "last"}
        return about | {"clean": {"accuracy": 0.5}, "corrupted": {"fog": five, "snow": five}}

    rows = [robust(m, s, lost) for m, lost in (("control", 1), ("tgd", 2)) for s in range(2)]
    figure = charts.corruption_differences(rows, "control")
    course = [line for line in figure.axes[0].lines if line.get_label() == "tgd (n=2)"][0]
    assert course.get_ydata() == pytest.approx([0, -1, -2, -3, -4, -5])
    # Zero, mean, two seeds.
    assert not figure.axes[0].collections and len(figure.axes[0].lines) == 4


def test_the_median_is_written_at_the_median():
    figure = charts.costs(
        {"networks": {"student": BOTH}, "topology": BOTH, "steps": {"plain step": TIME}}
    )
    assert {t.xy[0] for t in figure.axes[0].texts} == {2.0} and figure.axes[0].texts[
        0
    ].get_text() == "2"


# ---------------------------------------------------------------- pictures


def test_the_window_is_drawn_in_the_density():
    figure = figures.window_density(np.array([0.1, 0.5]), np.array([0.1, 0.2]), upto=0.3)
    (window,) = [p for p in figure.axes[0].patches if p.get_width() == 0.3]
    assert window.get_xy() == (0, 0) and window.get_height() == 0.3
    (mesh,) = [c for c in figure.axes[0].collections if hasattr(c, "get_array")]
    assert mesh.get_array().sum() == 2  # every point counts once
    figures.window_density(np.array([]), np.array([]), upto=0.3).canvas.draw()  # flat images


def test_the_barcode_grows_with_the_water():
    """At level 0.25 a component born at 0.1 lives, one born at 0.3 is not there yet."""
    diagram = np.array([[0.1, 0.4], [0.3, 0.9]])
    births, deaths = figures._grown(diagram, 0.25)
    assert births.tolist() == [0.1] and deaths.tolist() == [0.25]
    assert figures._grown(diagram, None)[1].tolist() == [0.4, 0.9]


def test_every_plot_draws():
    rng = np.random.default_rng(0)
    images, pis = (
        rng.integers(0, 255, (6, 8, 8, 3), np.uint8),
        rng.integers(0, 255, (6, 6, 50, 50), np.uint8),
    )
    labels, names = np.arange(6) % 3, ("a", "b", "c")
    signal, diagram = rng.random(64), np.array([[0.1, 0.3]])
    # Absent classes.
    drawn = [
        charts.accuracies(ROWS, {"a": 0.5}),
        charts.curves(ROWS, "loss", "loss"),
        charts.terms([row("tgd", 0, 0.5) | {"terms": {"ce": [1.0], "maps": [3.0]}}]),
        figures.pipeline(images[0], signal, diagram, pis[0, 0], channel="red", upto=0.3),
        figures.pipeline(images[0], signal, diagram, pis[0, 0], channel="red", upto=0.3, level=0.2),
        figures.by_class(images, pis, labels, names, orientation="both", upto=0.3),
        figures.by_class(images, pis[:, :3], labels, names, orientation="column", upto=0.3),
        figures.by_class(images, pis, 2 * labels, "axbxc", orientation="both", upto=0.3),
        figures.by_class(images, pis, 0 * labels, names, orientation="both", upto=0.3),
        figures.readings(images[0], {"by rows": pis[0, 0], "by columns": pis[0, 3]}, upto=0.3),
        figures.mean_pis(pis, labels, names, upto=0.3),
        figures.opinions(images[0], {"x": np.array([0.2, 0.3, 0.5])}, names, 2),
        charts.cost_and_accuracy(
            {"student": {"multiply_adds": 2e7}}, [r | {"role": "student"} for r in ROWS]
        ),
        figures.similarity_maps({"x": rng.random((6, 6))}, np.sort(labels), names),
    ]
    for figure in drawn:
        figure.canvas.draw()
