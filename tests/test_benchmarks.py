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
        "storage",
    ],
)
def test_quick(command, tmp_path):
    name, *options = command.split()
    options += ["--quick", "--out", str(tmp_path)]
    command = [sys.executable, "-m", f"benchmarks.{name}", *options]
    done = subprocess.run(command, cwd=config.ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / f"{name}.json").read_text())
    assert record["quick"] is True and record["machine"]["python"]
    assert str(config.ROOT) not in (tmp_path / f"{name}.json").read_text()
    assert (tmp_path / f"{name}.md").read_text().count("|") > 10
