"""The documents hold what the records hold, and their links lead somewhere."""

import re

import pytest

from tgd_lib import config
from tgd_lib.files import read_json
from tgd_lib.report import significance, summary, tables
from tgd_lib.study import methods, protocol

README = (config.ROOT / "README.md").read_text(encoding="utf-8")
RESULTS = config.ROOT / "docs" / "results"
DRAWN_FROM = ("04_ablations", "05_robustness")  # a profile without one has no page yet
RECORDED = sorted(
    folder
    for folder in (config.ROOT / "figures").iterdir()
    if all((folder / "records" / f"{name}.json").is_file() for name in DRAWN_FROM)
)
PAGES = ["README.md", "REPRODUCING.md", "DEVIATIONS.md", "CONTRIBUTING.md"]
MAIN = "study/records/03_distillation.json"  # the record that the README quotes
ROWS = {  # the README's name of a method: ours
    "Scratch": "scratch",
    "KD, annealing (`mean`, as the authors)": "kd_annealed",
    "TGD without the PI teacher (α = 1)": "tgd_alpha1",
    "TGD": "tgd",
    "KD, batchmean, annealing": "kd_batchmean_annealed",
}


@pytest.mark.parametrize("folder", RECORDED, ids=lambda p: p.name)
def test_a_page_of_results_holds_the_records(folder):
    page = (RESULTS / f"{folder.name}.md").read_text(encoding="utf-8")
    block = summary.block(folder, folder.name)
    assert f"<!-- results:{folder.name} -->\n{block}<!-- /results -->" in page


def main_rows() -> list[dict]:
    return read_json(config.ROOT / "figures" / MAIN)["rows"]


def test_the_readme_s_table_is_the_record():
    lines = re.findall(
        r"^\| ([^|]+) \| (\d+) \| ([^|]+) \| ([^|]+) \| ([^|]+) \| (\d) \|$", README, re.M
    )
    assert [line[0] for line in lines] == list(ROWS)
    for name, epochs, accuracy, nll, ece, n in lines:
        rows = [r for r in main_rows() if r["method"] == ROWS[name]]
        for written, column, scale, digits in (
            (accuracy, "accuracy", 100, 2),
            (nll, "nll", 1, 3),
            (ece, "ece", 100, 2),
        ):
            found = tables.spread([r[column] for r in rows], scale, digits)
            assert f"{written} (n={n})" == str(found), (name, column)
        assert {r["epochs_in_all"] for r in rows} == {int(epochs)}, name


@pytest.mark.parametrize(
    "pair",
    [("tgd", "tgd_alpha1"), ("tgd_alpha1", "kd_annealed"), ("kd_batchmean_annealed", "tgd")],
)
def test_the_readme_s_findings_are_the_record(pair):
    found = significance.paired(main_rows(), *pair)
    mean, low, high = (f"{100 * found[k]:+.2f}".replace("-", "−") for k in ("mean", "low", "high"))
    text = " ".join(README.split())
    assert f"{mean} points" in text and f"[{low}, {high}], n = {found['n']}" in text


def test_the_pi_teacher_shows_in_no_metric_that_the_readme_names():
    for column in ("accuracy", "nll", "ece"):
        found = significance.paired(main_rows(), "tgd", "tgd_alpha1", column)
        assert found["n"] == 6 and found["verdict"] == "no difference shown", column
    robust = read_json(config.ROOT / "figures/study/records/05_robustness.json")["rows"]
    found = significance.paired(tables.under_corruption(robust), "tgd", "tgd_alpha1")
    assert found["n"] == 6 and found["verdict"] == "no difference shown"


def test_the_readme_s_tgd_with_batchmean_is_what_the_results_of_study_say():
    name, control = "tgd_batchmean", "kd_batchmean_annealed"
    rows = [r for r in main_rows() if r["method"] == control]
    for seed in range(6):
        kept = read_json(config.ROOT / f"figures/study/results/{name}_{seed}.json")
        (answer,) = [a for a in kept["answers"].values() if "accuracy" in a and a["n"] == 10_000]
        rows.append(rows[0] | {"method": name, "seed": seed, "accuracy": answer["accuracy"]})
    found = significance.paired(rows, name, control)
    mean, low, high = (f"{100 * found[k]:+.2f}".replace("-", "−") for k in ("mean", "low", "high"))
    assert f"{mean} points [{low}, {high}], n = {found['n']}" in " ".join(README.split())
    said = str(tables.difference(found)).removesuffix(" (n=6)")
    assert f"TGD minus it {said.replace(' ', ' points ', 1)}" in study_prose()


def study_prose() -> str:
    """What is said of `study`, without the tables of its record."""
    return (RESULTS / "study.md").read_text(encoding="utf-8").partition("<!-- /results -->")[2]


def test_the_page_of_study_says_of_maps_with_batchmean_what_its_record_does():
    rows = read_json(config.ROOT / "figures/study/records/04_ablations.json")["rows"]
    found = significance.paired(rows, "tgd_alpha1_batchmean", "kd_batchmean_annealed")
    said = str(tables.difference(found)).removesuffix(" (n=6)").replace(" ", " points ", 1)
    assert f"TGD without the PI teacher minus that KD is {said}" in study_prose()


CONTROLLED = ("tgd_image_map_normalise0.5", "tgd_image_2_normalise0.5")


def test_the_page_of_study_says_of_image_and_map_what_its_records_do():
    clean = read_json(config.ROOT / "figures/study/records/04_ablations.json")["rows"]
    robust = read_json(config.ROOT / "figures/study/records/05_robustness.json")["rows"]
    under = tables.under_corruption(robust)
    calibrated = read_json(config.ROOT / "figures/study/records/05_calibration.json")["rows"]
    scaled = tables.scaled(calibrated, "after")
    for rows, column, said in (
        (clean, "accuracy", "{} points on clean images"),
        (under, "accuracy", "{} on corrupted ones"),
        (clean, "ece", "lower, {} points clean"),
        (under, "ece", "and {} points corrupted"),
        (under, "nll", "NLL under corruption, {} nats"),
        (scaled, "nll", "NLL after scaling {}, no difference shown"),
    ):
        found = significance.paired(rows, *CONTROLLED, column)
        assert said.format(str(tables.difference(found)).removesuffix(" (n=6)")) in study_prose()


def test_the_terms_of_tgd_that_are_recorded_sum_to_its_loss():
    terms = read_json(config.ROOT / "figures/study/records/03_terms.json")["rows"]
    losses = {r["key"]: r["loss"] for r in main_rows()}
    assert len(terms) == 6
    for row in terms:
        sums = [sum(values) for values in zip(*row["terms"].values(), strict=True)]
        assert sums == pytest.approx(losses[row["key"]], abs=2e-5)


@pytest.mark.parametrize("control", ["tgd_alpha1", "tgd_image_2_normalise{}"])
@pytest.mark.parametrize("alpha", ["0.5", "0.9"])
def test_the_page_of_study_says_of_real_shares_what_its_record_does(alpha, control):
    rows = read_json(config.ROOT / "figures/study/records/04_ablations.json")["rows"]
    found = significance.paired(rows, f"tgd_pi_normalise{alpha}", control.format(alpha))
    prose = (RESULTS / "study.md").read_text(encoding="utf-8").partition("<!-- /results -->")[2]
    assert str(tables.difference(found)).removesuffix(" (n=6)") in prose


@pytest.mark.parametrize("shown", ["pi_across", "noise"])
@pytest.mark.parametrize("alpha", ["0.5", "0.9"])
def test_the_page_of_study_says_of_what_the_pi_teacher_is_shown_what_its_record_does(alpha, shown):
    rows = read_json(config.ROOT / "figures/study/records/04_ablations.json")["rows"]
    name = f"tgd_{shown}_normalise{alpha}"
    found = significance.paired(rows, name, f"tgd_pi_normalise{alpha}")
    prose = (RESULTS / "study.md").read_text(encoding="utf-8").partition("<!-- /results -->")[2]
    assert str(tables.difference(found)).removesuffix(" (n=6)") in prose


def test_what_is_said_of_students_trained_again_is_what_was_recorded():
    record = read_json(config.ROOT / "benchmarks/recorded/again.json")
    again, across, noise = (line["pair"] for line in record["compared"])
    prose = (RESULTS / "study.md").read_text(encoding="utf-8").partition("<!-- /results -->")[2]
    for pair in (again, across, noise):
        assert pair["n"] == 6
        assert str(tables.difference(pair)).removesuffix(" (n=6)") in prose
    assert across["verdict"] == significance.NOTHING and f"p = {across['p']:.3f}" in prose
    mean, interval = str(tables.difference(across)).removesuffix(" (n=6)").split(" ", 1)
    assert f"{mean} points {interval}, n = 6".replace("-", "−") in " ".join(README.split())
    for line in record["compared"]:
        assert str(tables.difference(line["nll"])).removesuffix(" (n=6)") in prose
    (worse,) = (line["nll"] for line in record["compared"] if line["pair"] == across)
    assert worse["verdict"] == significance.DIFFERS and f"p = {worse['p']:.3f}" in prose
    mean, interval = str(tables.difference(worse)).replace("+", "").split(" (n=6)")[0].split(" ", 1)
    assert f"by {mean} nats {interval}, n = 6" in " ".join(README.split())
    # Those set against each other are of one kind of CPU.
    here = {r["method"] for r in record["rows"] if r["bf16_by_rounding"]}
    assert here == {r["method"] for r in record["rows"]}


def test_the_authors_figures_are_those_that_were_measured():
    named = "{scratch} (scratch), {kd} (KD) and\n{tgd} % (TGD)".replace("\n", " ")
    found = {name: f"{100 * value:.2f}" for name, value in tables.anchor_accuracies().items()}
    assert named.format(**found) in " ".join(README.split())
    deviations = (config.ROOT / "DEVIATIONS.md").read_text(encoding="utf-8")
    assert "{scratch} / {kd} / {tgd} %".format(**found) in deviations


def test_the_readme_is_two_screens():
    assert len(README.splitlines()) <= 150


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_to_files(name):
    text = (config.ROOT / name).read_text(encoding="utf-8")
    links = [x for x in re.findall(r"\]\(([^)#]+)\)", text) if not x.startswith("http")]
    assert not [x for x in links if not (config.ROOT / x).exists()]


def test_every_parameter_in_the_documents_exists():
    for page in [config.ROOT / name for name in PAGES] + sorted(
        (config.ROOT / "docs").rglob("*.md")
    ):
        text = page.read_text(encoding="utf-8")
        for parameter, value in re.findall(r"-p ([a-z_]+) ([\w.]+)", text):
            config.parse(parameter, value)


def test_every_figure_that_is_shown_has_its_alt_text():
    for page in [config.ROOT / "README.md", *sorted(RESULTS.glob("*.md"))]:
        text = page.read_text(encoding="utf-8")
        for alt, path in re.findall(r"!\[([^\]]*)\]\(([^)]+)\)", text):
            assert len(alt) >= 30, (page.name, path)
            assert (page.parent / path).is_file(), (page.name, path)


@pytest.mark.parametrize(
    ("part", "told"), [("embedding", "kd_batchmean_annealed"), ("image", protocol.CHOSEN["image"])]
)
def test_the_readme_s_search_for_a_topology_is_what_was_recorded(part, told):
    recorded = read_json(config.ROOT / f"benchmarks/recorded/protocol_{part}_test.json")
    text = " ".join(README.split())
    for pair in recorded["pairs"]["seeds from 0 on"]:
        mean, low, high = (
            f"{100 * pair[k]:+.2f}".replace("-", "−") for k in ("mean", "low", "high")
        )
        assert f"{mean} against" in text.replace(" points against", " against"), pair["control"]
        assert f"[{low}, {high}]" in text, pair["control"]
        assert f"{100 * pair['detectable']:.2f}" in text, pair["control"]
    found = [r["accuracy"] for r in recorded["rows"] if r["method"] == told]
    assert str(tables.spread(found)).removesuffix(" (n=12)") + " %" in text


@pytest.mark.parametrize("part", sorted(protocol.CANDIDATES))
def test_the_protocol_s_rows_are_the_results_of_study(part):
    """Each row's accuracy is one that its network's result says of 10,000 test images."""
    recorded = read_json(config.ROOT / f"benchmarks/recorded/protocol_{part}_test.json")
    for row in recorded["rows"]:
        name = f"{row['method']}_{row['seed']}.json"
        kept = read_json(config.ROOT / "figures/study/results" / name)
        answers = [a for a in kept["answers"].values() if "accuracy" in a]
        said = [a["accuracy"] for a in answers if a["n"] == 10_000]
        assert row["accuracy"] in said and kept["record"]["key"] == row["key"], name
    assert len(recorded["rows"]) == 12 * len(protocol.members())


def test_the_table_of_profiles_is_what_they_are():
    text = (config.ROOT / "REPRODUCING.md").read_text(encoding="utf-8")
    cells = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| `")]
    table = {line[0].strip("`"): line for line in cells if line[0].strip("`") in config.PROFILES}
    assert list(table) == list(config.PROFILES)
    for profile, (_, _, networks, seeds, memory, how_long) in table.items():
        s = config.PROFILES[profile]
        for depth, width in (s.teacher, s.student):
            assert f"WRN-{depth}-{width}" in networks, profile
        assert f"{s.epochs} " in networks or f" {s.epochs} epoch" in networks, profile
        assert seeds.split(",")[0] == str(s.seeds) and memory == f"{s.memory_gb:g} GB", profile
        # "13 hours on 2 cores, resumable" says no other number than the list of profiles does.
        numbers = re.findall(r"\d+ (?:hours|minutes)", s.budget)
        assert all(number in how_long for number in numbers), profile
    assert f"{len(methods.of(config.resolve('study')))} methods" in table["study"][2]


def test_the_candidate_of_the_image_is_the_one_that_was_chosen():
    recorded = read_json(config.ROOT / "benchmarks/recorded/protocol_image.json")
    assert recorded["chosen"] == protocol.CHOSEN["image"]
    best = max(recorded["pairs"], key=lambda pair: pair["mean"])
    assert best["method"] == recorded["chosen"] and best["n"] == 6
    assert {row["n"] for row in recorded["rows"]} == {2000}  # held-out images


@pytest.mark.parametrize("part", sorted(protocol.CANDIDATES))
def test_the_protocol_shows_what_was_recorded(part):
    page = (config.ROOT / "docs/protocol-topology.md").read_text(encoding="utf-8")
    path = config.ROOT / f"benchmarks/recorded/protocol_{part}_test.md"
    recorded = path.read_text(encoding="utf-8")
    lines = [line for line in recorded.splitlines() if line.startswith("|")]
    compared = len(protocol.comparisons(part, protocol.CHOSEN[part]))
    # Five tables: methods, tests, sets of seeds, and two of what is described only.
    described = compared + len(protocol.DESCRIBED[part])
    assert len(lines) == 5 * 2 + (compared + 1) + 2 * compared + 2 * described
    assert not [line for line in lines if line not in page]
    for images in (500, 1000):  # students that saw fewer
        few = path.with_name(f"protocol_{part}_test_{images}.md").read_text(encoding="utf-8")
        lines = [line for line in few.splitlines() if line.startswith("|")]
        assert len(lines) == 2 * 2 + (compared + 1) + compared
        assert not [line for line in lines if line not in page]
    assert "*: no gain is shown.\n" in recorded and "**No gain is shown.**" in page
