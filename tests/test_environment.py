"""What is installed: the three lists agree, and run_all.sh gets there from any state."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tgd_lib.config import ROOT

REQUIREMENTS = (ROOT / "requirements.txt").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
CONDA = (ROOT / "environment.yml").read_text()
PINS = [line for line in REQUIREMENTS.splitlines() if line and not line.startswith("#")]

# ---------------------------------------------------------------- the three lists


def test_every_requirement_is_one_exact_pin():
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", pin) for pin in PINS)
    names = [canonicalize_name(pin.split("==")[0]) for pin in PINS]
    assert len(set(names)) == len(names)
    assert not [n for n in names if n.startswith(("nvidia", "cuda", "triton"))]


def test_each_dependency_is_pinned_within_its_range():
    pinned = {canonicalize_name(r.name): r for r in map(Requirement, PINS)}
    needed = [*PROJECT["project"]["dependencies"], *PROJECT["build-system"]["requires"]]
    for requirement in map(Requirement, needed):
        (pin,) = pinned[canonicalize_name(requirement.name)].specifier
        assert requirement.specifier.contains(pin.version), f"{requirement} does not allow {pin.version}"


def test_the_cluster_extra_is_pinned_and_changes_nothing_else():
    lines = (ROOT / "requirements-cluster.txt").read_text().splitlines()
    extra = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", pin) for pin in extra)
    pinned = {canonicalize_name(r.name): r for r in map(Requirement, extra)}
    assert not set(pinned) & {canonicalize_name(pin.split("==")[0]) for pin in PINS}
    for requirement in map(Requirement, PROJECT["project"]["optional-dependencies"]["cluster"]):
        (pin,) = pinned[canonicalize_name(requirement.name)].specifier
        assert requirement.specifier.contains(pin.version)


def test_conda_users_get_the_same():
    assert re.findall(r"^      - (.+)$", CONDA, re.MULTILINE) == [*PINS, "-e ."]
    assert re.findall(r"^  - (.+)$", CONDA, re.MULTILINE) == [
        "conda-forge",
        "python>=3.11,<3.14",
        "pip",
        "pip:",
    ]
    assert PROJECT["project"]["requires-python"] == ">=3.11,<3.14"


@pytest.mark.parametrize(
    "name", ["requirements.txt", "pyproject.toml", "environment.yml", "run_all.sh", ".ci/run"]
)
def test_no_address_and_no_path_of_a_machine(name):
    text = (ROOT / name).read_text()
    assert not re.search(r"://|index-url|find-links|pypi|/home/|/root/", text, re.IGNORECASE)


def test_ci_runs_what_the_readme_names():
    lines = (ROOT / ".ci/run").read_text().splitlines()
    assert lines == ["#!/usr/bin/env bash", 'exec "$(dirname "${BASH_SOURCE[0]}")/../run_all.sh" --test']
    assert os.access(ROOT / ".ci/run", os.X_OK) and os.access(ROOT / "run_all.sh", os.X_OK)


# ---------------------------------------------------------------- run_all.sh on a toy clone

BACKEND = """
import zipfile
def build_editable(directory, config_settings=None, metadata_directory=None):
    name = "toy-1.0-py3-none-any.whl"
    with zipfile.ZipFile(f"{directory}/{name}", "w") as wheel:
        wheel.writestr("toy-1.0.dist-info/METADATA", "Metadata-Version: 2.1\\nName: toy\\nVersion: 1.0\\n")
        wheel.writestr("toy-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\\nTag: py3-none-any\\n")
        wheel.writestr("toy-1.0.dist-info/RECORD", "")
    return name
"""
RUNNER = "import os, sys; print('ran', sys.argv[1:], sys.prefix, os.getcwd())"


@pytest.fixture
def clone(tmp_path) -> Path:
    """A clone with run_all.sh, one required package (lying in wheels/), and a runner that only prints."""
    folder = tmp_path / "a clone"
    (folder / "tgd_lib" / "companion").mkdir(parents=True)
    shutil.copy(ROOT / "run_all.sh", folder)
    (folder / "requirements.txt").write_text("# pins\n\ntoypin==1.0\n")
    (folder / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    )
    (folder / "backend.py").write_text(BACKEND)
    (folder / "tgd_lib" / "__init__.py").write_text("")
    (folder / "tgd_lib" / "companion" / "__init__.py").write_text("")
    (folder / "tgd_lib" / "companion" / "__main__.py").write_text(RUNNER)
    return folder


def make_wheel(folder: Path) -> None:
    """What a registry would have: toypin 1.0."""
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / "toypin-1.0-py3-none-any.whl", "w") as wheel:
        info = "toypin-1.0.dist-info"
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: toypin\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


def pythons(folder: Path, **scripts: str) -> str:
    """A PATH with these pythons alone (each a shell script), and the system's tools."""
    folder.mkdir(exist_ok=True)
    for tool in ("bash", "dirname", "cat", "cksum", "rm", "flock", "sh", "env", "sleep"):
        if (place := shutil.which(tool)) and not (folder / tool).exists():
            (folder / tool).symlink_to(place)
    for name, script in scripts.items():
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    return str(folder)


def command(clone: Path, *arguments: str, path: str) -> subprocess.Popen:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PIP_", "PYTHON", "VIRTUAL"))}
    wheels = {
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": (clone.parent / "wheels").as_uri(),
        "PIP_CONFIG_FILE": os.devnull,
    }
    return subprocess.Popen(
        ["bash", str(clone / "run_all.sh"), *arguments], env=kept | wheels | {"PATH": path}, cwd=clone.parent,
        text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def outcome(process: subprocess.Popen) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


GOOD = f'exec "{sys._base_executable}" "$@"'


def test_without_a_suitable_python_it_says_so_in_one_line(clone, tmp_path):
    path = pythons(tmp_path / "bin", python3="exit 127", **{"python3.12": "exit 1"})
    status, out, err = outcome(command(clone, path=path))
    assert status == 2 and not out and not (clone / ".venv").exists()
    assert err.startswith("error: no Python 3.11, 3.12 or 3.13") and err.count("\n") == 1


def test_an_environment_that_has_everything_is_used(clone, tmp_path):
    (clone / "requirements.txt").write_text("# nothing\n")
    path = pythons(tmp_path / "bin", python3=GOOD)
    status, out, err = outcome(command(clone, "--only", "01 02", "", path=path))
    assert (status, err) == (0, "") and not (clone / ".venv").exists()
    assert out == f"ran ['--only', '01 02', ''] {sys.base_prefix} {tmp_path}\n"


@pytest.mark.slow
def test_from_nothing_through_interruption_and_damage_to_a_run(clone, tmp_path):
    """Each state that an installation can be left in is gone on from, and a finished one costs nothing."""
    path = pythons(tmp_path / "bin", python3="echo shim >&2; exit 127", **{"python3.13": GOOD})
    status, out, err = outcome(command(clone, path=path))
    assert status == 2 and "the same command goes on where it did" in err  # toypin is nowhere yet
    assert "Making .venv" in out and not (clone / ".venv/complete").exists()

    make_wheel(tmp_path / "wheels")
    both = [command(clone, "-p", "x", path=path) for _ in range(2)]  # at once
    for status, out, err in map(outcome, both):
        assert status == 0, err
        assert "Making" not in out and f"ran ['-p', 'x'] {clone / '.venv'} {tmp_path}\n" in out
    status, out, _ = outcome(command(clone, path=path))
    assert status == 0 and "nstalling" not in out

    (clone / ".venv/bin/python").unlink()
    (clone / ".venv/bin/python").symlink_to(tmp_path / "gone")
    status, out, err = outcome(command(clone, path=path))
    assert status == 0 and "Making .venv" in out and "Installing" in out, err

    (clone / "requirements.txt").write_text("toypin==1.0 # changed\n")
    status, out, _ = outcome(command(clone, path=path))
    assert status == 0 and "Making" not in out and "Installing" in out
