"""What the README is made to say of a search, and of many methods, from rows by hand."""

import re

from tgd_lib.report import summary
from tgd_lib.study import methods


def rows(**accuracies):
    """Two seeds a method, half a point below and above."""
    return [
        {"method": m, "seed": s, "selection": "last", "accuracy": a + (s - 0.5) / 100}
        for m, a in accuracies.items() for s in (0, 1)
    ]  # fmt: skip


def test_no_search_nothing_said():
    assert summary._search(rows(tgd=0.5, tgd_alpha1=0.4), rows(tgd=0.5, tgd_alpha1=0.4)) == []


def test_the_chosen_is_shown_on_the_test_set_against_every_control():
    held_out = rows(tgd_alpha1=0.50, tgd=0.49, tgd_wide=0.52, tgd_super=0.51, tgd_image_2=0.60)
    test = rows(tgd_alpha1=0.50, tgd=0.49, tgd_wide=0.47, tgd_super=0.58, tgd_image_2=0.48)
    said = summary._search(test, held_out)[0]
    assert "(2 candidates beside TGD;" in said and methods.METHODS["tgd_wide"].label in said and "superlevel" not in said
    assert re.search(r"\+2\.00 ± 0\.00 \(n=2\) points above TGD at alpha = 1 on the held-out", said)
    assert "*TGD at alpha = 1* -3.00" in said and "*TGD, second image teacher* -1.00" in said
    assert "n too small to conclude" in said


def test_a_control_that_nothing_beats_is_said_to_be_so():
    held_out = rows(tgd_alpha1=0.50, tgd=0.49, tgd_wide=0.50)
    assert "none has a higher mean than TGD at alpha = 1." in summary._search(held_out, held_out)[0]


def test_a_long_table_is_folded_after_the_main_methods():
    short = ["| method |", "| --- |", *(f"| {i} |" for i in range(8))]
    assert summary._folded("\n".join(short)) == short
    long = short + [f"| {i} |" for i in range(8, 60)]
    folded = summary._folded("\n".join(long))
    assert [x for x in folded if x.startswith("| ") and x[2].isdigit()] == long[2:]
    assert folded[:8] == long[:8] and folded[9] == "<details><summary>The other 54 methods</summary>" and folded[-1] == "</details>"
