"""The plan of a run: what is there, what is not, and nothing trained."""

from tgd_lib import config
from tgd_lib.companion import plan
from tgd_lib.study import methods
from tgd_lib.lab.lab import Lab
from tgd_lib.study.specs import specs_of

SIZE = {"n_train": 96, "n_test": 80, "holdout": 0}


def test_a_plan_counts_and_trains_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("TGD_ARTIFACTS", str(tmp_path))
    settings = config.resolve("smoke", **SIZE)
    lab = Lab(settings, say=lambda line: None)
    found = {x.label: x for x in plan.lines(lab)}
    assert set(found) == {methods.method(s.method).label for s in specs_of(lab).students(methods.of(config.resolve("smoke")))} | {t.label for t in methods.TEACHERS.values()}
    assert all(x.networks == 1 and x.there == 0 and x.seconds > 0 for x in found.values())
    assert not (tmp_path / "network").exists()
    lab.trained(specs_of(lab).student("kd", 0))
    again = {x.label: x.there for x in plan.lines(lab)}
    assert {label for label, there in again.items() if there} == {"image teacher", "KD"}
    said = plan.text(settings)
    assert "2 of them there" in said and "GB are free" in said


def test_times_are_said_in_fitting_units():
    assert [plan._time(s) for s in (30, 600, 7200)] == ["30 seconds", "10 minutes", "2.0 hours"]
