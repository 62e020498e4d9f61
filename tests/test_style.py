"""The code is formatted and checked by ruff, the notebooks' sources among it."""

import subprocess
import sys

import pytest

from tgd_lib.config import ROOT


@pytest.mark.parametrize("arguments", [("check",), ("format", "--check")], ids=" ".join)
def test_ruff_finds_nothing(arguments):
    pytest.importorskip("ruff", reason="ruff is not installed here")
    command = [sys.executable, "-m", "ruff", *arguments, "--quiet", "."]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
