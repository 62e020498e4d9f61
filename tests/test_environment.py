"""What is installed: the three lists agree, and run_all.sh gets there from any state."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from tgd_lib.config import ROOT

REQUIREMENTS = (ROOT / "requirements.txt").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
CONDA = (ROOT / "environment.yml").read_text()
DOCS = (ROOT / "requirements-docs.txt").read_text()
LIGHT = (ROOT / "requirements-light.txt").read_text()
BINDER = (ROOT / ".binder/environment.yml").read_text()
WORKFLOWS = sorted(p.relative_to(ROOT).as_posix() for p in (ROOT / ".github/workflows").iterdir())


def pins(text: str) -> list[str]:
    """The lines of a requirements file that are no comments."""
    return [line for line in text.splitlines() if line and not line.startswith("#")]


PINS, DOCS_PINS, LIGHT_PINS = pins(REQUIREMENTS), pins(DOCS), pins(LIGHT)

# ---------------------------------------------------------------- the three lists


def test_every_requirement_is_one_exact_pin():
    """Nor does the site need another version of anything that is pinned already."""
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", pin) for pin in [*PINS, *DOCS_PINS])
    names = [canonicalize_name(pin.split("==")[0]) for pin in [*PINS, *DOCS_PINS]]
    assert len(set(names)) == len(names)
    assert not [n for n in names if n.startswith(("nvidia", "cuda", "triton"))]


def test_each_dependency_is_pinned_within_its_range():
    pinned = {canonicalize_name(r.name): r for r in map(Requirement, PINS)}
    needed = [*PROJECT["project"]["dependencies"], *PROJECT["build-system"]["requires"]]
    for requirement in map(Requirement, needed):
        (pin,) = pinned[canonicalize_name(requirement.name)].specifier
        assert requirement.specifier.contains(pin.version), (
            f"{requirement} does not allow {pin.version}"
        )


def test_what_builds_the_site_is_pinned_within_its_range():
    pinned = {canonicalize_name(r.name): r for r in map(Requirement, DOCS_PINS)}
    for requirement in map(Requirement, PROJECT["project"]["optional-dependencies"]["docs"]):
        (pin,) = pinned[canonicalize_name(requirement.name)].specifier
        assert requirement.specifier.contains(pin.version), f"{requirement}: not {pin.version}"


def test_a_borrowed_machine_gets_the_same_versions_and_nothing_of_the_tests():
    assert LIGHT_PINS[-1] == "-e ." and set(LIGHT_PINS[:-1]) < set(PINS)
    assert not re.search(r"pytest|persim|jupyterlab", LIGHT)
    # Binder takes PyTorch from conda-forge: within the ranges of pyproject.toml.
    needed = {r.name: r.specifier for r in map(Requirement, PROJECT["project"]["dependencies"])}
    found = dict(re.findall(r"^  - (pytorch-cpu|torchvision)(\S+)$", BINDER, re.MULTILINE))
    assert SpecifierSet(found["pytorch-cpu"]) == needed["torch"]
    assert SpecifierSet(found["torchvision"]) == needed["torchvision"]


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


PLAIN = ["requirements.txt", "requirements-docs.txt", "requirements-light.txt", "pyproject.toml"]
PLAIN += ["environment.yml", ".binder/environment.yml", "run_all.sh", ".ci/run", ".ci/twins.py"]


@pytest.mark.parametrize("name", [*PLAIN, ".pre-commit-config.yaml", *WORKFLOWS])
def test_no_address_and_no_path_of_a_machine(name):
    text = (ROOT / name).read_text()
    assert not re.search(r"://|index-url|find-links|pypi|/home/|/root/", text, re.IGNORECASE)


def test_ci_runs_what_the_readme_names():
    lines = (ROOT / ".ci/run").read_text().splitlines()
    assert lines == [
        "#!/usr/bin/env bash",
        'exec "$(dirname "${BASH_SOURCE[0]}")/../run_all.sh" --test',
    ]
    assert os.access(ROOT / ".ci/run", os.X_OK) and os.access(ROOT / "run_all.sh", os.X_OK)


# ---------------------------------------------------------------- run_all.sh on a toy clone

BACKEND = """
import zipfile
def build_editable(directory, config_settings=None, metadata_directory=None):
    name = "toy-1.0-py3-none-any.whl"
    with zipfile.ZipFile(f"{directory}/{name}", "w") as wheel:
        metadata = "Metadata-Version: 2.1\\nName: toy\\nVersion: 1.0\\n"
        wheel.writestr("toy-1.0.dist-info/METADATA", metadata)
        wheel.writestr("toy-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\\nTag: py3-none-any\\n")
        wheel.writestr("toy-1.0.dist-info/RECORD", "")
    return name
"""
RUNNER = "import os, sys; print('ran', sys.argv[1:], sys.prefix, os.getcwd())"
MAIN = """
import signal, sys, time
try:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    time.sleep(5)
except KeyboardInterrupt:
    print("interrupted: the same command", file=sys.stderr)
    sys.exit(130)
"""


@pytest.fixture
def clone(tmp_path) -> Path:
    """A clone with run_all.sh, one required package (in wheels/), and a runner that only prints."""
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
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
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
    environment = kept | wheels | {"PATH": path}
    return subprocess.Popen(
        ["bash", str(clone / "run_all.sh"), *arguments], env=environment, cwd=clone.parent,
        text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
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


def test_the_site_asks_for_its_own_packages_only_where_they_are_missing(clone, tmp_path):
    (clone / "requirements.txt").write_text("# nothing\n")
    (clone / "requirements-docs.txt").write_text("# nothing\n")
    (clone / "docs").mkdir()
    (clone / "docs" / "build.py").write_text(RUNNER)
    path = pythons(tmp_path / "bin", python3=GOOD)
    status, out, err = outcome(command(clone, "--site", "--to", "here", path=path))
    assert (status, err) == (0, "")
    assert out == f"ran ['--to', 'here'] {sys.base_prefix} {clone}\n"
    (clone / "requirements-docs.txt").write_text("toypin==1.0\n")
    status, out, err = outcome(command(clone, "--site", path=path))
    assert status == 2 and "Installing what the site" in out  # toypin is nowhere


def test_an_environment_that_has_everything_is_used(clone, tmp_path):
    (clone / "requirements.txt").write_text("# nothing\n")
    path = pythons(tmp_path / "bin", python3=GOOD)
    status, out, err = outcome(command(clone, "--only", "01 02", "", path=path))
    assert (status, err) == (0, "") and not (clone / ".venv").exists()
    assert out == f"ran ['--only', '01 02', ''] {sys.base_prefix} {tmp_path}\n"


@pytest.mark.parametrize(("version", "used"), [("1.0+cpu", True), ("1.0", True), ("1.1", False)])
def test_a_build_for_some_processor_is_the_version_that_is_pinned(version, used, clone, tmp_path):
    """PyTorch's own index has 2.15.0+cpu for 2.15.0, which pip takes for it as well."""
    info = tmp_path / f"site/toypin-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: toypin\nVersion: {version}\n")
    has = f'PYTHONPATH="{tmp_path / "site"}:$PYTHONPATH" exec "{sys._base_executable}" "$@"'
    path = pythons(tmp_path / "bin", python3=has)
    status, out, err = outcome(command(clone, path=path))
    assert (status == 0 and "ran []" in out) is used
    assert (clone / ".venv").exists() is not used


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["--profile", "smoke", "--list"]])
def test_words_install_nothing(arguments, clone, tmp_path):
    """Nor do they need venv or pip: a Python is enough."""
    bare = GOOD.replace("exec", 'case "$*" in *ensurepip*) exit 1;; esac; exec')
    status, out, err = outcome(
        command(clone, *arguments, path=pythons(tmp_path / "bin", python3=bare))
    )
    assert (status, err) == (0, "") and not (clone / ".venv").exists()
    assert out.startswith(f"ran {arguments} {sys.base_prefix} ")


def test_the_real_help_without_any_package(clone, tmp_path):
    shutil.copytree(ROOT / "tgd_lib", clone / "tgd_lib", dirs_exist_ok=True)
    # -S: as if none were installed.
    path = pythons(tmp_path / "bin", python3=GOOD.replace('"$@"', '-S "$@"'))
    status, out, err = outcome(command(clone, "--help", path=path))
    assert (status, err) == (0, "") and "exit status:" in out and not (clone / ".venv").exists()


@pytest.mark.parametrize("script", ["exec sleep 5", GOOD], ids=["while it looks around", "later"])
def test_ctrl_c_is_answered_from_the_first_moment(script, clone, tmp_path):
    """The companion is only starting, or not yet: a line and 130 all the same."""
    (clone / "requirements.txt").write_text("")
    begun = tmp_path / "begun"
    path = pythons(tmp_path / "bin", python3=f"echo >'{begun}'; {script}")
    (clone / "tgd_lib/companion/__main__.py").write_text(MAIN)
    process = command(clone, path=path)
    deadline = time.monotonic() + 60
    while not begun.exists():
        assert time.monotonic() < deadline, "it did not begin"
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all of them
    status, out, err = outcome(process)
    assert status == 130 and err.strip().startswith("interrupted: the same command")


@pytest.mark.slow
def test_from_nothing_through_interruption_and_damage_to_a_run(clone, tmp_path):
    """Each state of an installation is gone on from, and a finished one costs nothing."""
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
