"""The benchmarks run and find agreement; no time is asserted."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from benchmarks import selection, training, weights
from tgd_lib import config


def run(command, store):
    """`python -m benchmarks.` with a command; `store` holds what it trains."""
    called = [sys.executable, "-m", *f"benchmarks.{command}".split()]
    environment = os.environ | {"TGD_ARTIFACTS": str(store)}
    return subprocess.run(
        called, cwd=config.ROOT, env=environment, capture_output=True, text=True, timeout=300
    )


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tmp_path_factory.mktemp("store")


def test_training_on_a_cpu_without_bf16_kernels_has_its_own_record(monkeypatch):
    for kernels, name in ((True, "training"), (False, "training_rounding")):
        monkeypatch.setattr(training, "multiplies_bf16", lambda found=kernels: found)
        assert training.recorded_as("cpu") == name
        assert training.recorded_as("cuda") == "training"


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        "topology",
        "distillation",
        "training",
        "embedding",
        "weights",
        "weights --of embedding",
        "weights --of baselines",
        "schedules --of epochs",
        "schedules --of teachers",
        "protocol --part embedding",
        "protocol --part embedding --test",
        "protocol --part embedding --test --images 60",
        "storage",
        "map_rounding",
        "anchors",
        "selection",
        "rounding",
        "again",
        "looks",
        "ripsnet",
    ],
)
def test_quick(command, tmp_path, store):
    done = run(f"{command} --quick --out {tmp_path}", store)
    assert done.returncode == 0, done.stderr
    (written,) = tmp_path.glob("*.json")
    named = command.replace("--test", "test")
    for option in ("--of ", "--part ", "--images "):
        named = named.replace(option, "")
    expected = training.recorded_as("cpu") if command == "training" else "_".join(named.split())
    assert written.stem == expected
    record = json.loads(written.read_text())
    assert record["quick"] is True and record["machine"]["python"]
    assert str(config.ROOT) not in written.read_text()
    assert written.with_suffix(".md").read_text().count("|") > 10


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("weights --seeds 0", "'0': a whole number from 1 on"),
        ("rounding --profile studdy", "error: profile 'studdy'"),
        ("selection --profile smoke", "error: no student of smoke is trained yet: run ./run_all"),
        ("again --profile smoke --methods kd --seeds 1", "KD, seed 0 of smoke: no result is kept"),
        ("protocol --part image --images 7 --profile smoke", ": 7 images leave class"),
    ],
)
def test_bad_input_is_a_line(command, said, tmp_path):
    done = run(f"{command} --out {tmp_path}", tmp_path / "store")
    assert done.returncode == 2 and said in done.stderr
    assert "Traceback" not in done.stderr and not list(tmp_path.glob("*.json"))


def test_only_what_was_chosen_on_the_test_set_is_set_against_the_authors():
    """Their scratch network is right about 84.54 % of the test images."""
    made = {"method": "scratch", "label": "Scratch", "total_epochs": 42, "n": 10_000}
    made |= {"nll": 0.5, "ece": 0.05}
    rows = [
        made | {"seed": seed, "selection": rule, "selected_epoch": epoch, "accuracy": accuracy}
        for rule, seed, epoch, accuracy in (
            ("last", 0, 42, 0.83),
            ("last", 1, 42, 0.85),
            ("authors", 0, 42, 0.84),
            ("authors", 1, 41, 0.8510),
        )
    ]
    head, _, last, best = selection.report({"profile": "paper-42", "rows": rows}).split("\n")[2:]
    assert head.endswith("| theirs % | minus theirs | within 0.6 points |")
    assert last.startswith("| Scratch | the last | 42 | 2 | 84.00 ± 1.41 |")
    assert last.endswith("| 84.54 |  |  |")
    assert best.startswith("| Scratch | best on the test set | 42, 41 | 2 | 84.55 ± 0.78 |")
    assert best.endswith("| 84.54 | +0.01 | yes |")


def test_a_baseline_s_weight_falls_until_accuracy_does_but_not_within_a_collapse(monkeypatch):
    images = SimpleNamespace(fingerprint="a", class_names=["x"] * 10)
    lab = SimpleNamespace(
        settings=config.resolve("study"), data=SimpleNamespace(train=images, test=images)
    )
    course = {"sp": [0.3, 0.2, 0.6, 0.59], "pkt": [0.3] * 5, "at": [0.7, 0.6]}
    left = {name: iter(values) for name, values in course.items()}

    def held_out(lab, specs):
        (spec,) = specs
        if spec.baseline is None:
            return {"mean": 0.5}
        return {"mean": next(left.get(spec.baseline.loss, iter(())), 0.4)}

    monkeypatch.setattr(weights, "held_out", held_out)
    rows = weights.baselines(lab, weights.FACTORS, seeds=1)
    for name, values in course.items():
        mine = [r for r in rows if r["baseline"] == name]
        assert [r["mean"] for r in mine] == values
        assert [r["factor"] for r in mine] == list(weights.FACTORS[: len(values)])
    assert weights.chosen([r for r in rows if r["baseline"] == "sp"])["factor"] == 0.1
