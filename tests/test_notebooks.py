"""The notebooks themselves: their form, and all of them at profile smoke by the real command."""

import ast
import csv
import os
import subprocess
import sys

import pytest

from tgd_lib import config
from tgd_lib.companion import runner, twins
from tgd_lib.companion.execution import prepare
from tgd_lib.config import ROOT
from tgd_lib.study import methods
from tgd_lib.study.specs import Specs

SOURCES = sorted((ROOT / "notebooks").glob("*.py"))
COLUMNS = (
    "method, selection, seeds, accuracy_mean, accuracy_std, nll_mean, nll_std, ece_mean, ece_std"
).split(", ")
each_notebook = pytest.mark.parametrize("source", SOURCES, ids=lambda p: p.stem)


def code_cells(source) -> list:
    return [c for c in twins.read(source).cells if c.cell_type == "code"]


def parameters_cell(source) -> str:
    (cell,) = [c for c in code_cells(source) if "parameters" in c.metadata.get("tags", [])]
    return cell.source


def test_the_runner_knows_every_notebook_and_no_other():
    assert {p.stem for p in SOURCES} == set(runner.NEEDS)


def test_one_and_the_same_parameters_cell_in_all():
    assert len({parameters_cell(source) for source in SOURCES}) == 1


@each_notebook
def test_the_parameters_are_a_profile_and_what_differs_from_it(source):
    prepare(source)  # one parameters cell, the names in order
    statements = ast.parse(parameters_cell(source)).body
    assert all(isinstance(s, ast.AnnAssign) for s in statements)
    assert [ast.unparse(s) for s in statements] == [
        "profile: str = 'quick'",
        "overrides: dict = {}",
    ]


@each_notebook
def test_cells_are_short_and_define_nothing(source):
    for number, cell in enumerate(code_cells(source), 1):
        assert len(cell.source.splitlines()) <= 15, f"code cell {number} is too long"
        kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
        tree = ast.parse(cell.source)
        assert not any(isinstance(n, kinds) for n in ast.walk(tree)), (
            f"code cell {number} defines something"
        )


def run(artifacts, *arguments: str) -> subprocess.CompletedProcess:
    """The command itself at profile smoke, on a store of its own."""
    return subprocess.run(
        [sys.executable, "-m", "tgd_lib.companion", "--profile", "smoke", *arguments],
        cwd=ROOT, env=os.environ | {"TGD_ARTIFACTS": str(artifacts)},
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip


@each_notebook
@pytest.mark.slow
def test_alone_on_an_empty_store(source, tmp_path):
    """Whatever a notebook stands on it makes itself: nobody has to know an order.

    But 07, which draws from the records of others alone: it says in a line which to run first.
    """
    done = run(tmp_path, "--only", source.stem)
    text = done.stdout[-5000:] + done.stderr[-2000:]
    if source.stem == "07_results":
        assert done.returncode == 2 and "--only 04 first" in text, text
    else:
        assert done.returncode == 0, text


@pytest.mark.slow
def test_smoke(tmp_path):
    """Everything runs; a second run answers from the store with the identical table, and so does
    one without held-out images, as with one's own, in which nothing is calibrated.
    """
    tables, made, drawn = [], [], []
    for overrides in ((), (), ("-p", "holdout", "0")):
        done = run(tmp_path, *overrides)
        assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
        assert "Kernel" not in done.stderr and "Traceback" not in done.stderr
        name = "smoke" if not overrides else config.resolve("smoke", holdout=0).run_name
        folder = tmp_path / "runs" / name
        with open(folder / "timings.csv", newline="") as file:
            statuses = {r["notebook"]: r["status"] for r in csv.DictReader(file)}
        assert statuses == dict.fromkeys(runner.NEEDS, "ok")
        tables.append((folder / "results.csv").read_text())
        networks = (tmp_path / "network").glob("*/MANIFEST.json")
        made.append({path: path.stat().st_mtime_ns for path in networks})
        drawn.append({path.stem for path in folder.glob("figures/*.png")})
    assert tables[0] == tables[1] == tables[2]
    assert made[0] and made[0] == made[1] == made[2]  # nothing was trained a second time
    assert drawn[0] - drawn[2] == {"05_reliability"}
    assert tables[0].splitlines()[0].split(",") == COLUMNS
    trained = {line.split(",")[0] for line in tables[0].splitlines()[1:]}
    specs = Specs(config.resolve("smoke"), "train", "test", 8)
    asked = {s.method for s in specs.students(methods.of(config.resolve("smoke")))}
    assert trained == asked  # none diverged, none was left out
