"""The documents hold what the records hold, and their links lead somewhere."""

import re

import pytest

from tgd_lib import config
from tgd_lib.report import summary

README = (config.ROOT / "README.md").read_text(encoding="utf-8")
RECORDED = sorted(p.parent for p in (config.ROOT / "figures").glob("*/run.json"))


@pytest.mark.parametrize("folder", RECORDED, ids=lambda p: p.name)
def test_the_readme_s_results_are_the_records(folder):
    block = summary.block(folder, folder.name)
    assert f"<!-- results:{folder.name} -->\n{block}<!-- /results -->" in README


def test_only_recorded_results_are_shown():
    shown = re.findall(r"<!-- results:(\S+) -->\n(.*?)<!-- /results -->", README, re.DOTALL)
    assert {name for name, text in shown if text} <= {p.name for p in RECORDED}


@pytest.mark.parametrize("name", ["README.md", "REPRODUCING.md", "DEVIATIONS.md"])
def test_links_lead_to_files(name):
    text = (config.ROOT / name).read_text(encoding="utf-8")
    links = [x for x in re.findall(r"\]\(([^)#]+)\)", text) if not x.startswith("http")]
    assert not [x for x in links if not (config.ROOT / x).exists()]


def test_every_parameter_in_the_documents_exists():
    for name in ("README.md", "REPRODUCING.md", "DEVIATIONS.md"):
        text = (config.ROOT / name).read_text(encoding="utf-8")
        for parameter, value in re.findall(r"-p ([a-z_]+) ([\w.]+)", text):
            config.parse(parameter, value)


def test_every_figure_of_the_main_record_has_its_alt_text():
    alts = {path: alt for alt, path in re.findall(r"!\[([^\]]*)\]\((figures/[^)]+)\)", README)}
    figures = sorted((config.ROOT / "figures" / "cifar10-small" / "figures").glob("*.png"))
    assert figures and not [p.name for p in figures if len(alts.get(p.relative_to(config.ROOT).as_posix(), "")) < 30]
