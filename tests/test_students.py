"""Students to give away, and the check of their figures."""

import json
import shutil

import pytest

from tgd_lib import config
from tgd_lib.study import students
from tgd_lib.config import InputError
from tgd_lib.lab.lab import Lab
from tgd_lib.study.specs import specs_of

SIZE = {"n_train": 96, "n_test": 80, "holdout": 0}


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """(settings, figures folder) with the students of a tiny run recorded in it."""
    root = tmp_path_factory.mktemp("students")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TGD_ARTIFACTS", str(root / "artifacts"))
        settings = config.resolve("smoke", **SIZE)
        lab = Lab(settings, say=lambda line: None)
        made = students.save(lab, [specs_of(lab).student(m, 0) for m in ("scratch", "kd")])
        shutil.copytree(made, root / "figures/smoke/students")
    return settings, root / "figures"


def test_recorded_students_are_what_their_card_says(given, capsys):
    settings, figures = given
    assert students.recorded(figures) == ["smoke"]
    assert students.verify(settings, figures) == 0
    said = capsys.readouterr().out
    assert said.count(" ok") == 2 and "note" not in said
    card = (figures / "smoke/students/README.md").read_text()
    entries = json.loads((figures / "smoke/students/students.json").read_text())["students"]
    assert all(e["sha256"] in card and e["label"] in card for e in entries) and "**Limits**" in card


def test_a_figure_that_does_not_hold_is_found(given, tmp_path, capsys):
    settings, figures = given
    shutil.copytree(figures, tmp_path / "figures")
    index = tmp_path / "figures/smoke/students/students.json"
    content = json.loads(index.read_text())
    content["students"][1]["accuracy"] += 0.0125  # one image of 80
    index.write_text(json.dumps(content))
    assert students.verify(settings, tmp_path / "figures") == 1
    assert "DIFFERS" in capsys.readouterr().out


def test_other_test_images_are_named_as_such(given, capsys):
    settings, figures = given
    students.verify(config.resolve("smoke", **SIZE | {"n_test": 40}), figures)
    assert "not the very test images" in capsys.readouterr().out


def test_a_changed_file_is_refused(given, tmp_path):
    settings, figures = given
    shutil.copytree(figures, tmp_path / "figures")
    file = tmp_path / "figures/smoke/students/kd.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(InputError, match="not the recorded file"):
        students.verify(settings, tmp_path / "figures")


def test_nothing_recorded_is_said(given, tmp_path):
    with pytest.raises(InputError, match="recorded: none"):
        students.verify(given[0], tmp_path)
