"""Records, tables and statistics, by hand."""

import numpy as np
import pandas as pd
import pytest

from tgd_lib import config
from tgd_lib.report import tables
from tgd_lib.config import InputError


def row(method, seed, accuracy, selection="last"):
    return {
        "method": method, "label": method.upper(), "seed": seed, "selection": selection, "accuracy": accuracy,
        "nll": 1.0 + seed, "ece": 0.1, "n": 100, "epochs_in_all": 2, "key": f"{method}{seed}", "loss": [2.0, 1.0],
        "training_accuracy": [0.1, 0.2],
    }  # fmt: skip


ROWS = [row("a", 0, 0.50), row("a", 1, 0.54), row("b", 0, 0.55), row("b", 1, 0.57), row("c", 0, 0.4)]


@pytest.fixture
def settings(tmp_path, monkeypatch):
    monkeypatch.setenv("TGD_ARTIFACTS", str(tmp_path))
    return config.resolve("smoke")


def test_results_have_the_promised_columns_and_ddof_1(settings):
    path = tables.write_results(ROWS, settings)
    text = path.read_text().splitlines()
    assert text[0] == "method,selection,seeds,accuracy_mean,accuracy_std,nll_mean,nll_std,ece_mean,ece_std"
    assert text[1] == "a,last,2,0.52,0.028284,1.5,0.707107,0.1,0.0"
    assert text[3] == "c,last,1,0.4,,1.0,,0.1,"  # no spread of a single seed
    assert path.name == "results.csv" and path.parent == config.run_dir(settings)
    assert list(pd.read_csv(path)["method"]) == ["a", "b", "c"]


def test_selection_rules_are_never_mixed():
    table = tables.results([*ROWS, row("a", 0, 0.6, "authors")])
    assert list(zip(table["method"], table["selection"])) == [
        ("a", "last"), ("b", "last"), ("c", "last"), ("a", "authors"),
    ]  # fmt: skip


def test_a_readable_cell_always_says_how_many_seeds():
    cells = tables.readable(ROWS)["accuracy %"]
    assert cells["A"] == "52.00 ± 2.83 (n=2)" and cells["C"] == "40.00 (n=1)"


def test_records_come_back_and_missing_ones_say_what_to_run(settings):
    tables.save_records(ROWS, settings, "03_distillation")
    assert tables.load_records(settings, "03_distillation") == ROWS
    with pytest.raises(InputError, match="--profile smoke --only 02"):
        tables.load_records(settings, "02_teachers")
    changed = config.resolve("smoke", alpha=0.7)
    with pytest.raises(InputError, match="--profile smoke --only 03 -p alpha 0.7 first"):
        tables.load_records(changed, "03_distillation")
