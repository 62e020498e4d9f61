"""Records and tables, by hand."""

import pandas as pd
import pytest
from result_rows import ROWS, row

from tgd_lib import config
from tgd_lib.config import InputError
from tgd_lib.report import tables

SIX = [row(m, s, a + s / 100) for m, a in (("x", 0.5), ("y", 0.51)) for s in range(6)]


@pytest.fixture
def settings(tmp_path, monkeypatch):
    monkeypatch.setenv("TGD_ARTIFACTS", str(tmp_path))
    return config.resolve("smoke")


def test_results_have_the_promised_columns_and_ddof_1(settings):
    path = tables.write_results(ROWS, settings)
    text = path.read_text().splitlines()
    assert (
        text[0]
        == "method,selection,seeds,accuracy_mean,accuracy_std,nll_mean,nll_std,ece_mean,ece_std"
    )
    assert text[1] == "a,last,2,0.52,0.028284,1.5,0.707107,0.1,0.0"
    assert text[3] == "c,last,1,0.4,,1.0,,0.1,"  # no spread of a single seed
    assert path.name == "results.csv" and path.parent == config.run_dir(settings)
    assert list(pd.read_csv(path)["method"]) == ["a", "b", "c"]


def test_selection_rules_are_never_mixed():
    table = tables.results([*ROWS, row("a", 0, 0.6, "authors")])
    assert list(zip(table["method"], table["selection"], strict=False)) == [
        ("a", "last"),
        ("b", "last"),
        ("c", "last"),
        ("a", "authors"),
    ]
    assert list(tables.readable([*ROWS, row("a", 0, 0.6, "authors")])["selection"]) == [
        *["last"] * 3,
        "authors",
    ]


def test_no_rows_are_no_rows_by_family_either():
    """A run on one's own images without held-out ones has none to look for a topology on."""
    assert tables.by_family([]) == []
    assert tables.against(tables.by_family([]), "tgd_alpha1").empty


def test_many_methods_stand_by_family_the_best_first():
    rows = [row(m, s, a) for m, a in (("at", 0.6), ("kd", 0.4), ("scratch", 0.5)) for s in (0, 1)]
    shown = tables.by_family([*rows, row("my own", 0, 0.9)])
    assert [r["method"] for r in shown] == [*["scratch"] * 2, *["kd"] * 2, *["at"] * 2, "my own"]
    table = tables.grouped(tables.readable(shown), rows + shown)
    assert list(table.index) == [
        ("main methods", "SCRATCH"),
        ("main methods", "KD"),
        ("baselines", "AT"),
        ("others", "MY OWN"),
    ]
    against = tables.grouped(tables.against(shown, "kd"), shown)
    assert list(against.index.get_level_values("family")) == ["main methods", "baselines", "others"]


def test_a_readable_line_always_says_how_many_seeds():
    table = tables.readable(ROWS)
    assert table["n"].to_dict() == {"A": 2, "B": 2, "C": 1}
    assert table["accuracy %"]["A"] == "52.00 ± 2.83" and table["accuracy %"]["C"] == "40.00"
    assert table["NLL"]["A"] == "1.500 ± 0.707" and table["total epochs"]["B"] == 2


def test_old_and_new_records_say_their_total_epochs():
    assert (
        tables.total_epochs({"epochs_in_all": 60})
        == 60
        == tables.total_epochs({"total_epochs": 60})
    )


def test_records_come_back_and_missing_ones_say_what_to_run(settings):
    tables.save_records(ROWS, settings, "03_distillation")
    assert tables.load_records(settings, "03_distillation") == ROWS
    with pytest.raises(InputError, match="--profile smoke --only 02"):
        tables.load_records(settings, "02_teachers")
    changed = config.resolve("smoke", alpha=0.7)
    with pytest.raises(InputError, match="--profile smoke --only 03 -p alpha 0.7 first"):
        tables.load_records(changed, "03_distillation")


def test_few_seeds_are_told_one_by_one_without_interval():
    cell = tables.against(ROWS, "a").loc["B"]
    assert cell["accuracy, points"] == "+5.00, +3.00"
    assert cell["p, accuracy"] == "" and cell["verdict, accuracy"] == "n too small"
    assert tables.against(ROWS, "nobody").empty


def test_six_seeds_have_interval_p_and_verdict():
    cell = tables.against(SIX, "x").loc["Y"]
    assert cell["accuracy, points"] == "+1.00 [+1.00, +1.00]"
    assert cell["NLL, nats"] == "+0.000 [+0.000, +0.000]"
    assert cell["p, accuracy"] == "0.031" and cell["verdict, accuracy"] == "differs"


def test_shares_by_hand():
    """Two batches, three stages; two methods with the same teachers and weight are one line, others
    are not, though their shares be equal."""
    one = {"label": "TGD", "alpha": 0.99, "shares": [[0.01, 0.02, 0.03], [0.03, 0.02, 0.01]]}
    one |= {"question": "a"}
    half, other = ({"label": q, "alpha": 0.5, "question": q} for q in ("half", "other"))
    table = tables.shares([one, one | half, one | {"label": "same"}, one | other])
    assert list(table.index) == ["TGD", "half", "other"] and table.loc["TGD", "1 − alpha, %"] == "1"
    assert (
        table.loc["TGD", "stage 1"] == "2.00 ± 1.41" and table.loc["half", "1 − alpha, %"] == "50"
    )
    assert tables.shares([]).empty


def test_weights_by_hand():
    rows = [
        {"gamma": 10.0, "alpha": 1.0, "seed": 0, "accuracy": 0.5},
        {"gamma": 10.0, "alpha": 1.0, "seed": 0, "accuracy": 0.5},  # the same network
        {"gamma": 3000.0, "alpha": 0.99, "seed": 0, "accuracy": 0.25},
    ]
    table = tables.by_weight(rows)
    assert table.loc["γ = 10", "α = 1"] == "50.00"
    assert table.loc["γ = 10", "α = 0.99"] == "not run"


def test_calibration_by_hand():
    values = {"nll": 1.0, "ece": 0.05, "brier": 0.5}
    rows = [
        {"label": "A", "temperature": 1.5 + t, "before": values, "after": values} for t in (0, 1)
    ]
    line = tables.calibration(rows).loc["A"]
    assert line["temperature"] == "2.000 ± 0.707" and line["ECE %, before"] == "5.00 ± 0.00"


def test_transfer_tells_seen_images_apart():
    rows = [{"label": "A", "transfer": 0.4, "seen": 0.6, "n": 3, "n_seen": 5}]
    table = tables.transfer(rows)
    assert table.loc["A"].tolist() == [1, "40.00", "60.00"]
    assert list(table.columns) == ["n", "unseen (3 images)", "in CIFAR-10 (5 images)"]


def test_what_was_not_measured_is_an_empty_table():
    for table in (
        tables.transfer([]),
        tables.calibration([]),
        tables.by_weight([]),
        tables.contrasts([], {}),
    ):
        assert table.empty


def test_teachers_and_their_classes_by_hand():
    about = {
        "network": "WRN-16-3",
        "made": "2026-01-02T03",
        "training_seconds": 90.0,
        "per_class": [0.5, None],
    }
    rows = [row("a", 0, 0.5) | about]
    assert tables.networks(rows).loc["A", ["accuracy %", "minutes", "trained"]].tolist() == [
        "50.00",
        "1.5",
        "2026-01-02",
    ]
    table = tables.by_class(rows, ("cat", "dog"))["A"]
    assert table["cat"] == 50 and pd.isna(table["dog"])


def test_n_is_said_once_a_line_where_a_line_has_one():
    one, two, three = (tables.Cell(f"{v}.0", n) for v, n in ((1, 2), (2, 2), (3, 6)))
    frame = pd.DataFrame({"a": ["x", "y"], "b": [one, ""], "c": [two, three]})
    once = tables.n_once(frame)
    assert once.to_numpy().tolist() == [["x", 2, "1.0", "2.0"], ["y", 6, "", "3.0"]]
    assert list(once.columns) == ["a", "n", "b", "c"]
    # Of two n in a line each stands with its own.
    mixed = tables.n_once(frame.assign(b=three))
    assert mixed.loc[0].tolist() == ["x", "3.0 (n=6)", "2.0 (n=2)"]
    without = pd.DataFrame({"a": ["x"]})
    assert tables.n_once(without).equals(without) and tables.n_once(frame[:0]).empty


def test_sets_of_seeds_stand_beside_each_other():
    pair = {"method": "a", "control": "b", "column": "accuracy"}
    many = pair | {"n": 9, "mean": 0.01, "low": -0.01, "high": 0.03, "p": 0.25}
    few = pair | {"n": 2, "differences": [0.01, -0.02], "p": None}
    shown = tables.beside({"all": [many], "late": [few]}, {"a": "A", "b": "B"})
    assert shown.loc["A − B"].to_dict() == {
        "all, points": "+1.00 [-1.00, +3.00] (n=9)",
        "p, all": "0.25",
        "late, points": "+1.00, -2.00 (n=2)",
        "p, late": "",
    }
    assert tables.beside({"all": [], "late": []}, {}).empty
