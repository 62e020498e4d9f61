"""What a recorded run's summary says of a search, and of many methods, from rows by hand."""

import json

from tgd_lib.report import summary, tables
from tgd_lib.study import methods

METRICS = {"accuracy": 0.5, "nll": 1.0, "ece": 0.05, "brier": 0.5}


def rows(n=2, **accuracies):
    """n seeds a method, all differences the same."""
    common = {
        "selection": "last",
        "nll": 1.0,
        "ece": 0.1,
        "n": 100,
        "epochs_in_all": 2,
        "commit": "c" * 40,
    }
    common |= {"network": "WRN-16-1", "precision": "fp32", "device": "cpu"}
    return [
        common | {"method": m, "label": f"<{m}>", "seed": s, "accuracy": a + s / 100}
        for m, a in accuracies.items() for s in range(n)
    ]  # fmt: skip


def recorded(folder, test, held_out, shares=()):
    """A recorded run in a folder, as `block` reads it."""
    robust = [
        {k: r[k] for k in ("method", "label", "seed", "selection", "n")}
        | {"key": "k", "clean": METRICS, "corrupted": {"fog": [METRICS] * 5}}
        for r in test
    ]
    (folder / "records").mkdir()
    for name, values in (
        ("04_ablations", test),
        ("05_robustness", robust),
        ("04_search", held_out),
        ("04_shares", shares),
    ):
        (folder / "records" / f"{name}.json").write_text(json.dumps({"rows": list(values)}))
    run = {"versions": {"torch": "9"}, "python": "3", "platform": "here", "commit": None}
    (folder / "run.json").write_text(json.dumps(run))
    return folder


BASE = {"scratch": 0.40, "kd_annealed": 0.45, "tgd_alpha1": 0.50, "tgd": 0.49}


def test_few_seeds_get_no_interval_anywhere(tmp_path):
    text = summary.block(recorded(tmp_path, rows(3, **BASE), []), "smoke")
    assert "| <tgd> | 2 | 3 | 50.00 ± 1.00 |" in text and "| +4.00, +4.00, +4.00 |" in text
    assert "n too small" in text and "[" not in text.replace("[-", "[") and "p =" not in text
    assert "A topology that does help" not in text  # nothing was searched
    assert "its part" not in text and "KL reduction `mean`" in text
    under = text.partition("Under corruption, means over all corruptions and severities:")[2]
    assert "| <tgd> | 3 | 50.00 ± 0.00 | 1.000 ± 0.000 | 5.00 ± 0.00 |" in under
    assert "anchor" not in text  # these are other images than the authors'


def test_the_share_that_the_second_teacher_has_is_said(tmp_path):
    shares = [{"method": "tgd", "alpha": 0.99, "shares": [[0.007, 0.01, 0.04]] * 2}]
    text = summary.block(recorded(tmp_path, rows(3, **BASE), [], shares), "smoke")
    assert "the PI teacher weighs 1 %, and its share of the merged maps is 0.7, 1.0, 4.0 %" in text


def test_six_seeds_get_interval_p_and_verdict(tmp_path):
    text = summary.block(recorded(tmp_path, rows(6, **BASE), []), "smoke")
    assert "-1.00 [-1.00, -1.00] (n=6) points of accuracy, p = 0.031: differs" in text
    assert "| -1.00 [-1.00, -1.00] |" in text and "`./run_all.sh --profile smoke`" in text


def test_the_authors_networks_stand_beside_theirs(tmp_path):
    """Clean and under corruption, beside the methods they are of and no others."""
    text = summary.block(recorded(tmp_path, rows(3, **BASE), []), "study")
    clean, _, corrupted = text.partition("Under corruption")
    for part, said in (("clean", clean), ("corrupted", corrupted)):
        anchors = {name: summary._three(found[part]) for name, found in tables.anchors().items()}
        lines = {
            name: next(line for line in said.split("\n") if line.startswith(f"| <{name}> |"))
            for name in BASE
        }
        assert all(lines[name].endswith(f"| {anchors[name]} |") for name in ("scratch", "tgd"))
        assert all(lines[name].endswith("|  |") for name in ("kd_annealed", "tgd_alpha1"))


def test_where_each_figure_was_drawn_is_said(tmp_path):
    """Notebooks may be recorded one by one: the commit of the last whole run is not that of all."""
    folder = recorded(tmp_path, rows(2, **BASE), [])
    assert "drawn at none." in summary.block(folder, "smoke")
    (folder / "figures").mkdir()
    for name, commit in (("04_alpha", "b" * 40), ("05_corruptions", "a" * 40)):
        (folder / "figures" / f"{name}.json").write_text(json.dumps({"commit": commit}))
    assert f"drawn at {'a' * 10}, {'b' * 10}." in summary.block(folder, "smoke")


def test_the_chosen_is_shown_on_the_test_set_against_every_control(tmp_path):
    wide, image = methods.share_name("pi_wide", 0.5), methods.share_name("image_2", 0.5)
    held_out = rows(tgd_alpha1=0.50, tgd=0.49, **{wide: 0.52, image: 0.60})
    test = rows(**BASE, **{wide: 0.47, image: 0.48})
    text = summary.block(recorded(tmp_path, test, held_out), "smoke")
    chosen = "*TGD, PI window 0 to 1, sigma 0.02, normalised, α = 0.5*"
    assert "2 candidates (*TGD*; *TGD, PI window 0 to 1, " in text
    assert f"); the choice is made on held-out images: {chosen}" in text
    control = "*TGD without the PI teacher (α = 1)*"
    assert f"on them, against {control} +2.00, +2.00 (n=2) points of accuracy" in text
    assert "*TGD without the PI teacher (α = 1)* -3.00, -3.00 (n=2)" in text
    assert "*TGD, second image teacher, normalised, α = 0.5* -1.00, -1.00 (n=2)" in text


def test_a_long_table_is_folded_after_the_main_methods():
    short = ["| method |", "| --- |", *(f"| {i} |" for i in range(8))]
    assert summary._folded("\n".join(short), 7) == short
    long = short + [f"| {i} |" for i in range(8, 60)]
    folded = summary._folded("\n".join(long), 7)
    assert [x for x in folded if x.startswith("| ") and x[2].isdigit()] == long[2:]
    n = 2 + 7
    assert folded[:n] == long[:n] and folded[-1] == "</details>"
    assert folded[n + 1] == "<details><summary>The other 53 methods</summary>"


def test_only_the_block_of_the_profile_is_written(tmp_path):
    folder = recorded(tmp_path, rows(3, **BASE), [])
    readme = tmp_path / "README.md"
    readme.write_text(
        "a\n<!-- results:smoke -->\nold\n<!-- /results -->\nz\n"
        "<!-- results:quick -->\nkept\n<!-- /results -->\n"
    )
    summary.update(readme, folder, "smoke")
    text = readme.read_text()
    assert (
        text.startswith("a\n<!-- results:smoke -->\n### `smoke`")
        and "old" not in text
        and "\nkept\n" in text
    )
