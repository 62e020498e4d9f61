"""The benchmarks run and find agreement; no time is asserted."""

import json
import subprocess
import sys

import pytest

from tgd_lib import config


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
        "protocol --part embedding",
        "protocol --part embedding --test",
        "storage",
        "rounding",
    ],
)
def test_quick(command, tmp_path):
    name, *options = command.split()
    options += ["--quick", "--out", str(tmp_path)]
    called = [sys.executable, "-m", f"benchmarks.{name}", *options]
    done = subprocess.run(called, cwd=config.ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    (written,) = tmp_path.glob("*.json")
    assert written.stem == "_".join(
        command.replace("--of ", "").replace("--part ", "").replace("--test", "test").split()
    )
    record = json.loads(written.read_text())
    assert record["quick"] is True and record["machine"]["python"]
    assert str(config.ROOT) not in written.read_text()
    assert written.with_suffix(".md").read_text().count("|") > 10
