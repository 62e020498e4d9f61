"""The plan of a run: what is there, what is not, what it takes, and nothing trained."""

import csv
import json
import os
import subprocess
import sys

import pytest
import torch

from benchmarks import distillation
from tgd_lib import bank, config
from tgd_lib.companion import plan
from tgd_lib.lab.lab import Lab
from tgd_lib.lab.objectives import BANK, Objectives, merges
from tgd_lib.lab.store import key_of
from tgd_lib.study import methods
from tgd_lib.study.specs import Specs, specs_of

SIZE = {"n_train": 96, "n_test": 80, "holdout": 0}
STUDY = Specs(config.resolve("paper"), "train", "test", 10)


@pytest.fixture
def lab(tmp_path, monkeypatch) -> Lab:
    """A run at toy size on an empty store."""
    monkeypatch.setenv("TGD_ARTIFACTS", str(tmp_path))
    return Lab(config.resolve("smoke", **SIZE), say=lambda line: None)


@pytest.mark.slow
def test_a_plan_counts_and_trains_nothing(lab, tmp_path):
    found = {x.label: x for x in plan.lines(lab)}
    students = specs_of(lab).students(methods.of(config.resolve("smoke")))
    labels = {methods.method(s.method).label for s in students}
    assert set(found) == labels | {t.label for t in methods.TEACHERS.values()}
    assert all(x.networks == 1 and x.there == 0 and x.seconds > 0 for x in found.values())
    assert not (tmp_path / "network").exists()
    lab.trained(specs_of(lab).student("kd", 0))
    again = {x.label: x.there for x in plan.lines(lab)}
    assert {label for label, there in again.items() if there} == {"image teacher", "KD"}
    said = plan.text(lab)
    assert "2 of them there" in said and "Memory: up to" in said and "Disk: up to" in said
    assert said.count("are free") == 2


@pytest.mark.parametrize(
    ("teacher", "shape", "numbers"),
    [
        ("image", (3, 32, 32), 48 * 32 * 32 + 96 * 16 * 16 + 192 * 8 * 8),
        ("pi", (6, 50, 50), 48 * 50 * 50 + 96 * 25 * 25 + 192 * 13 * 13),  # halves rounded up
    ],
)
def test_features_are_counted_from_the_network_itself(teacher, shape, numbers):
    assert plan.feature_numbers(STUDY.teacher(teacher), shape) == numbers


def test_memory_by_hand(lab, monkeypatch):
    """Of TGD alone at toy size: teachers WRN-10-2, 96 and 80 images, PIs of 50 x 50."""
    tgd = specs_of(lab).student("tgd", 0)
    monkeypatch.setattr(plan, "networks", lambda lab: [*tgd.needs, tgd])
    side = lab.data.train.images.shape[1]
    sizes = plan.memory(lab)
    assert sizes["images and persistence images"] == 176 * (3 * side**2 + 6 * 50 * 50)
    assert sizes["similarity maps"] == 4 * (3 + 1) * 96**2
    assert sizes["features"] == 4 * 96 * (32 * 50 * 50 + 64 * 25 * 25 + 128 * 13 * 13)
    assert sizes["Python and a training step"] > 1e8


@pytest.mark.slow
def test_the_memory_that_is_stated_is_enough(tmp_path):
    """The main methods trained in one process: its peak lies below what the plan said before."""
    code = """
import json, sys
from tgd_lib import config
from tgd_lib.companion import command, plan
from tgd_lib.lab.lab import Lab
from tgd_lib.study import methods
methods.GRIDS["all"] = ()
size = dict(n_train=600, n_test=80, holdout=0)
lab = Lab(config.resolve("smoke", **size), say=lambda line: None)
plan.lines(lab)
stated = sum(plan.memory(lab).values())
options = [word for name, value in size.items() for word in ("-p", name, str(value))]
status = command.main(["--train", "--profile", "smoke", *options])
print(json.dumps([status, stated, plan._own_peak()]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=config.ROOT,
        env=os.environ | {"TGD_ARTIFACTS": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    status, stated, peak = json.loads(done.stdout.splitlines()[-1])
    assert status == 0 and stated / 3 < peak < 1.05 * stated


@pytest.mark.parametrize("profile", ["smoke", "quick"])
def test_the_memory_that_a_profile_states_is_what_the_plan_counts(profile, tmp_path, monkeypatch):
    """A ceiling: not below the plan, and not so far above that it says nothing."""
    monkeypatch.setenv("TGD_ARTIFACTS", str(tmp_path))
    # What this very process holds depends on the tests before; a GB is more than any run has held.
    monkeypatch.setattr(plan, "_own_peak", lambda: 1e9)
    settings = config.resolve(profile)
    held = sum(plan.memory(Lab(settings, say=lambda line: None)).values())
    assert plan._ceiling_words(settings, held) == [] and held > 0.5e9 * settings.memory_gb
    assert plan._ceiling_words(settings, 1e9 * settings.memory_gb + 1e9) == [
        f"That is more than the {settings.memory_gb} GB that {profile} states."
    ]


@pytest.mark.parametrize(
    "timings", sorted(config.ROOT.glob("figures/*/timings.csv")), ids=lambda path: path.parent.name
)
def test_a_recorded_run_has_kept_to_the_memory_of_its_profile(timings):
    with timings.open(encoding="utf-8") as table:
        peaks = [float(row["peak_mb"]) for row in csv.DictReader(table)]
    assert max(peaks) < 1e3 * config.PROFILES[timings.parent.name].memory_gb


def test_large_maps_and_the_features_that_they_are_built_of_are_not_held_at_once(lab, monkeypatch):
    tgd = specs_of(lab).student("tgd", 0)
    monkeypatch.setattr(plan, "networks", lambda lab: [*tgd.needs, tgd])
    half = bank.Choice("bank", torch.float16, "", True)
    monkeypatch.setattr(Objectives, "choice", lambda self, spec: half)
    features = plan._features(lab, [*tgd.needs, tgd])
    sizes = plan.memory(lab)
    assert features > 2 * 3 * 96**2  # at this size they are the larger
    assert (sizes["similarity maps"], sizes["features"]) == (0, features)
    monkeypatch.setattr(plan, "_features", lambda lab, specs: 1.0)
    sizes = plan.memory(lab)
    assert (sizes["similarity maps"], sizes["features"]) == (2 * 3 * 96**2, 0)


def test_what_is_half_trained_is_planned_by_half(lab, tmp_path, half_trained):
    kd = specs_of(lab).student("kd", 0)
    two = Lab(config.resolve("smoke", **SIZE, epochs=2), say=lambda line: None)
    scratch = specs_of(two).student("scratch", 0)
    assert plan._share_left(lab, kd) == 1 == plan._share_left(two, scratch)
    half_trained(two, scratch, tmp_path)
    assert plan._share_left(two, scratch) == 0.5


def test_looks_at_the_test_images_cost_their_time_by_the_authors_rule(lab):
    """A forward pass of 80 images an epoch, beside two steps of 96 images in batches of 64."""
    authors = Lab(config.resolve("smoke", **SIZE, selection="authors"), say=lambda line: None)
    timed = {}
    last, best = (
        plan.seconds_of(here, specs_of(here).student("scratch", 0), timed)
        for here in (lab, authors)
    )
    batch = lab.settings.batch_size
    steps = -(-96 // batch)
    assert best / last == pytest.approx((steps + 80 / batch / 3) / steps)


def test_disk_by_hand(lab, monkeypatch):
    tgd, wide = (
        specs_of(lab).student("tgd", 0),
        specs_of(lab).student("tgd_image_2", 0),
    )
    monkeypatch.setattr(plan, "networks", lambda lab: [tgd, wide])
    sizes = plan.disk(lab)
    parameters = sum(p.numel() for p in plan.sketch(tgd).parameters())
    # Small maps are kept in float32, three a teacher: one image teacher, two others.
    assert sizes == {"networks": 2 * 4 * parameters, "teacher banks": 3 * 3 * 4 * 96**2}
    half = bank.Choice("bank", torch.float16, "", True)
    monkeypatch.setattr(Objectives, "choice", lambda self, spec: half)
    assert plan.disk(lab)["teacher banks"] == 2 * 3 * 2 * 96**2  # large ones for each pair
    (question,) = (lab.objectives._merge(*merge) for merge in merges(tgd))
    (lab.store.root / BANK / key_of(BANK, question)).mkdir(parents=True)
    assert plan.disk(lab)["teacher banks"] == 3 * 2 * 96**2  # one is there


def test_what_does_not_fit_is_said():
    line = plan._sizes("Memory", {"a": 3e9, "b": 0.0}, 2e9, "do this")
    assert line == "Memory: up to 3.0 GB (3.0 GB of a); 2.0 GB are free, which is less: do this."
    assert (
        plan._sizes("Disk", {"a": 2e6}, 2e9, "do this")
        == "Disk: up to 2.0 MB (2.0 MB of a); 2.0 GB are free."
    )


def test_times_are_said_in_fitting_units():
    assert [plan._time(s) for s in (30, 600, 7200)] == ["30 seconds", "10 minutes", "2.0 hours"]


# ---------------------------------------------------------------- factors are those of the records


def test_a_bank_step_is_as_recorded():
    record = json.loads((config.ROOT / "benchmarks/recorded/distillation.json").read_text())
    for precision in ("fp32", "bf16"):
        steps = {k: v["median"] for k, v in record[precision]["step_s"].items()}
        ratio = steps[distillation.MEMORY] / steps["plain"]
        assert plan.BANK_STEP == pytest.approx(ratio, rel=0.1)


def test_an_online_step_is_about_as_recorded(lab, monkeypatch):
    """By operations, against the clock: TGD at the paper's size, 8.2 and 7.5 times a plain step."""
    online = bank.Choice("online", torch.float32, "", True)
    monkeypatch.setattr(Objectives, "choice", lambda self, spec: online)
    monkeypatch.setattr(
        plan,
        "shape_of",
        lambda lab, view: (view.channels, *((32, 32) if view.channels == 3 else (50, 50))),
    )
    factor = plan._factor(lab, STUDY.student("tgd", 0))
    assert factor == pytest.approx(1 + (223.00 + 560.56) / (3 * 26.66), rel=0.01)
    record = json.loads((config.ROOT / "benchmarks/recorded/distillation.json").read_text())
    for precision in ("fp32", "bf16"):
        steps = {k: v["median"] for k, v in record[precision]["step_s"].items()}
        measured = steps["online, no gradients"] / steps["plain"]
        assert measured / 2 < factor < 2 * measured
