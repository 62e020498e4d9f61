"""Data flows one way: a module imports only those below it, and topology never imports torch."""

import ast
import subprocess
import sys

import pytest

from tgd_lib import config

LAYERS = (  # from the ground up
    "config", "store", "image_folders", "photographs", "sources", "datasets", "corruptions", "transfer", "diagrams", "topology",
    "methods", "specs", "views", "compute", "networks", "losses", "rivals", "bank", "training", "evaluation", "answers",
    "experiment", "studies", "plan", "students", "cost",
    "significance", "tables", "figures", "charts", "readme", "twins", "execution", "recording", "runner",
)  # fmt: skip
MODULES = sorted(p for p in (config.ROOT / "tgd_lib").glob("*.py") if p.stem != "__init__")


def imported(path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "tgd_lib":
            found |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tgd_lib."):
            found.add(node.module.split(".")[1])
    return found


def test_every_module_has_its_place():
    assert {p.stem for p in MODULES} == set(LAYERS)


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.stem)
def test_imports_go_down(path):
    height = LAYERS.index(path.stem)
    assert not [m for m in imported(path) if LAYERS.index(m) >= height]


@pytest.mark.parametrize("module", ["diagrams", "topology", "datasets", "experiment", "tables", "runner"])
def test_what_is_light_stays_light(module):
    code = f"import sys; from tgd_lib import {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=config.ROOT).returncode == 0
