"""Data flows one way: a room imports only those below it, and topology never imports torch."""

import ast
import subprocess
import sys

import pytest

from tgd_lib.config import ROOT

# From the ground up. Within a wing the order is its own; between wings it is the design's:
# companion, notebooks -> report -> study -> lab -> the method -> images, config.
WINGS = {
    "": ("config", "files"),
    "images": ("folders", "sample", "cifar", "corruptions"),
    "method": ("datasets", "diagrams", "topology", "compute", "networks", "losses", "embedding")
    + ("ripsnet", "baselines", "bank", "tiles", "training", "evaluation"),
    "lab": ("store", "spec", "results", "views", "trained", "objectives", "lab"),
    "study": ("methods", "protocol", "specs", "questions", "published", "cost"),
    "report": ("significance", "tables", "sentences", "figures", "charts", "clouds", "summary"),
    "companion": ("schedule", "graph", "plan", "twins", "execution", "recording", "worker", "crew")
    + ("cluster", "play", "runner", "arguments", "command"),
}
PACKAGES = ("images", "lab", "study", "report", "companion")
ORDER = [
    f"{wing}.{room}" if wing in PACKAGES else room
    for wing, rooms in WINGS.items()
    for room in rooms
]
LIBRARY = ROOT / "tgd_lib"
MODULES = sorted(p for p in LIBRARY.rglob("*.py") if not p.stem.startswith("__"))
LIGHT = [
    "diagrams",
    "topology",
    "datasets",
    "lab.lab",
    "report.tables",
    "companion.runner",
    "companion.command",
]


def room(path) -> str:
    """ "lab.store" of .../tgd_lib/lab/store.py."""
    return ".".join(path.relative_to(LIBRARY).with_suffix("").parts)


def imported(path) -> set[str]:
    """The rooms that a file imports, at its top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        # Only `from tgd_lib... import` is used, so that nothing passes here unseen.
        if isinstance(node, ast.Import):
            assert not any(name.name.startswith("tgd_lib") for name in node.names), path
        assert getattr(node, "level", 0) == 0 or not isinstance(node, ast.ImportFrom), path
        if not isinstance(node, ast.ImportFrom) or (node.module or "").split(".")[0] != "tgd_lib":
            continue
        package = node.module.removeprefix("tgd_lib").strip(".")
        for name in node.names:
            inside = f"{package}.{name.name}".strip(".")
            found.add(inside if inside in ORDER else package)
    return found - {"", *PACKAGES}  # what a package says of itself is no room


def test_every_room_has_its_place():
    assert {room(p) for p in MODULES} <= set(ORDER)


@pytest.mark.parametrize("path", MODULES, ids=room)
def test_imports_go_down(path):
    height = ORDER.index(room(path))
    assert not [m for m in imported(path) if ORDER.index(m) >= height]


def test_the_method_needs_no_wing_but_images():
    """The entrance hall can be taken without the rest of the house."""
    hall = {*WINGS[""], *WINGS["method"]}
    for path in MODULES:
        if room(path) in hall:
            assert all("." not in m or m.startswith("images.") for m in imported(path)), path


@pytest.mark.parametrize("name", ["diagrams", "topology", "datasets", "config", "files"])
def test_topology_and_data_need_no_torch(name):
    """Not inside a function either."""
    nodes = ast.walk(ast.parse((LIBRARY / f"{name}.py").read_text(encoding="utf-8")))
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            found.add(node.module)
    assert found and not [m for m in found if m.split(".")[0] == "torch"]


@pytest.mark.parametrize("module", LIGHT)
def test_what_is_light_stays_light(module):
    package, _, name = f"tgd_lib.{module}".rpartition(".")
    code = f"import sys; from {package} import {name}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
