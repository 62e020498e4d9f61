"""Every public name that README, DEVIATIONS or a page of docs/ promises is there."""

import importlib
import re

import pytest

from tgd_lib.config import ROOT

PROMISED = [
    "tgd_lib.load",
    "tgd_lib.topology.persistence_images",
    "tgd_lib.topology.persistence_image",
    "tgd_lib.topology.save_persistence_images",
    "tgd_lib.topology.sublevel_diagrams",
    "tgd_lib.topology.PersistenceImageParams",
    "tgd_lib.diagrams.sublevel_diagrams",
    "tgd_lib.diagrams.persistence_maps",
    "tgd_lib.networks.wide_resnet",
    "tgd_lib.losses.tgd_loss",
    "tgd_lib.losses.kd_loss",
    "tgd_lib.losses.similarity_map",
    "tgd_lib.losses.merge_maps",
    "tgd_lib.training.train",
    "tgd_lib.evaluation.metrics",
    "tgd_lib.lab.lab.Lab",
    "tgd_lib.study.specs.specs_of",
    "tgd_lib.study.methods.METHODS",
    "tgd_lib.config.resolve",
]
IMPORT = re.compile(r"^from (tgd_lib[\w.]*) import ([\w, ]+)", re.MULTILINE)


def documented() -> list[str]:
    """What the code examples of the documents import."""
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
    found = set()
    for page in pages:
        for module, names in IMPORT.findall(page.read_text(encoding="utf-8")):
            found |= {f"{module}.{name.strip()}" for name in names.split(",")}
    return sorted(found)


@pytest.mark.parametrize("name", sorted({*PROMISED, *documented()}))
def test_a_promised_name_is_there(name):
    module, _, last = name.rpartition(".")
    try:
        assert getattr(importlib.import_module(module), last, None) is not None
    except AssertionError:  # a module of a package, not imported yet
        importlib.import_module(name)
