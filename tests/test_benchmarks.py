"""The benchmarks run and find agreement; no time is asserted."""

import json
import os
import subprocess
import sys

import pytest

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
        "protocol --part embedding",
        "protocol --part embedding --test",
        "protocol --part embedding --test --images 60",
        "storage",
        "rounding",
    ],
)
def test_quick(command, tmp_path, store):
    done = run(f"{command} --quick --out {tmp_path}", store)
    assert done.returncode == 0, done.stderr
    (written,) = tmp_path.glob("*.json")
    named = command.replace("--test", "test")
    for option in ("--of ", "--part ", "--images "):
        named = named.replace(option, "")
    assert written.stem == "_".join(named.split())
    record = json.loads(written.read_text())
    assert record["quick"] is True and record["machine"]["python"]
    assert str(config.ROOT) not in written.read_text()
    assert written.with_suffix(".md").read_text().count("|") > 10


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("weights --seeds 0", "'0': a whole number from 1 on"),
        ("rounding --profile studdy", "error: profile 'studdy'"),
        ("protocol --part image --images 7 --profile smoke", ": 7 images leave class"),
    ],
)
def test_bad_input_is_a_line(command, said, tmp_path):
    done = run(f"{command} --out {tmp_path}", tmp_path / "store")
    assert done.returncode == 2 and said in done.stderr
    assert "Traceback" not in done.stderr and not list(tmp_path.glob("*.json"))
