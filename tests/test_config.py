"""Profiles and parameters: what is accepted, what is refused and how."""

import numpy as np
import pytest

from tgd_lib import config
from tgd_lib.config import InputError, Schedule


def test_every_profile_has_its_place_among_the_records():
    telling = ("paper", "paper-42", "study", "quick", "smoke")
    assert telling == config.BY_SIZE and set(telling) == set(config.PROFILES)


def test_the_paper_s_constants_are_the_defaults():
    s = config.resolve("paper")
    assert (s.alpha, s.lam, s.temperature, s.gamma, s.kl_reduction) == (
        0.99,
        0.9,
        4.0,
        3000.0,
        "mean",
    )
    assert (s.epochs, s.batch_size, s.teacher, s.student) == (200, 128, (16, 3), (16, 1))
    assert (s.orientation, s.selection, s.n_train) == ("both", "last", None)


def test_schedule_of_the_paper():
    rates = [Schedule(200, 200).rate(e) for e in (0, 39, 40, 79, 80, 119, 120, 159, 160, 199)]
    expected = [0.1, 0.1, 0.02, 0.02, 0.004, 0.004, 0.0008, 0.0008, 0.00016, 0.00016]
    assert rates == pytest.approx(expected)


def test_even_a_short_schedule_begins_at_the_full_rate():
    assert [Schedule(1, 1).rate(0), Schedule(2, 2).rate(0)] == [0.1, 0.1]
    assert [Schedule(8, 8).rate(e) for e in (1, 2, 3, 5, 6)] == pytest.approx(
        [0.1, 0.02, 0.004, 0.0008, 0.00016]
    )


def test_paper_42_is_the_beginning_of_paper():
    s = config.resolve("paper-42")
    assert (s.epochs, s.schedule_epochs) == (42, 200)
    assert [Schedule(42, 200).rate(e) for e in range(42)] == [
        Schedule(200, 200).rate(e) for e in range(42)
    ]


def test_overrides_name_the_run_and_defaults_do_not():
    assert config.resolve("quick", alpha=0.99, n_train=None).run_name == "quick"
    s = config.resolve("quick", alpha=0.5, epochs=3, device="cpu")
    assert (s.run_name, s.alpha, s.epochs) == ("quick+epochs=3,alpha=0.5", 0.5, 3)


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"alpha": 0.5, "seeds": 1},
        {"dataset": "folder", "data_dir": "d", "n_train": 2000},
        {"dataset": "cifar10"},
    ],
)
def test_a_notebook_given_the_overrides_has_the_same_settings(given):
    s = config.resolve("quick", **given)
    assert config.resolve("quick", **dict(s.overrides)) == s


def test_fewer_seeds_are_fewer_everywhere():
    assert config.resolve("study").fresh_seeds == 6
    assert config.resolve("study", seeds=6).fresh_seeds == 6  # that is what it has anyway
    assert config.resolve("study", seeds=3).fresh_seeds == 0
    s = config.resolve("paper-42", seeds=1)
    assert (s.seeds, s.extra_seeds) == (1, 1)
    assert config.resolve("paper-42", seeds=9).extra_seeds == 3
    assert config.resolve("smoke", seeds=6).extra_seeds == 6  # where all methods have as many


def test_one_s_own_images_are_all_used_unless_told_otherwise():
    s = config.resolve("quick", dataset="folder", data_dir="somewhere", n_test=50)
    assert (s.n_train, s.n_test, s.holdout) == (None, 50, 0)
    named = config.resolve("quick", dataset="folder", data_dir="somewhere", n_train=2000)
    # Though it is the profile's own number.
    assert named.n_train == 2000 and named.run_name != s.run_name
    # Its teachers are its own, and have as many epochs as its students unless told otherwise.
    longer = config.resolve("quick", dataset="folder", data_dir="somewhere", epochs=40)
    assert (longer.epochs, longer.teacher_epochs, longer.published) == (40, 40, None)
    shorter = config.resolve(
        "quick", dataset="folder", data_dir="somewhere", epochs=40, teacher_epochs=5
    )
    assert (shorter.epochs, shorter.teacher_epochs) == (40, 5)
    other = config.resolve("quick", dataset="folder", data_dir="elsewhere")
    assert (
        other.run_name != config.resolve("quick", dataset="folder", data_dir="somewhere").run_name
    )
    with pytest.raises(InputError, match="data_dir"):
        config.resolve("quick", dataset="folder")


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("n_train", "2000", 2000),
        ("alpha", "1", 1.0),
        ("gamma", "0", 0.0),
        ("precision", "bf16", "bf16"),
    ],
)
def test_parse(name, text, value):
    found = config.parse(name, text)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("name", "text", "hint"),
    [
        ("alpha", "1.2", "at most 1"),
        ("alpha", "nan", "at least 0"),
        ("alpha", "-0.1", "at least 0"),
        ("temperature", "0", "at least 0.01"),
        ("temperature", "inf", "at most 1000"),
        ("gamma", "inf", "at most 1000000"),
        ("n_train", "0", "at least 1"),
        ("seeds", "17", "at most 16"),
        ("n_train", "2.5", "not a whole number"),
        ("n_train", "many", "not a whole number"),
        ("holdout", "-1", "at least 0"),
        ("alpha", "high", "not a number"),
        ("alfa", "0.5", "did you mean 'alpha'"),
        ("dataset", "cifar", "did you mean 'cifar10'"),
        ("precision", "fp16", "fp32"),
        ("profile", "qick", "did you mean 'quick'"),
    ],
)
def test_refusals_are_one_line_with_a_way_out(name, text, hint):
    with pytest.raises(InputError) as e:
        config.parse(name, text)
    assert hint in str(e.value) and "\n" not in str(e.value)


@pytest.mark.parametrize("value", [True, "5", 5.0, [5]])
def test_a_value_of_the_wrong_kind_is_refused(value):
    with pytest.raises(InputError):
        config.resolve("quick", n_train=value)


def test_the_line_of_an_error_is_one_line_whatever_it_names():
    odd = config.InputError("a\nb\x1b[31m\udcff\u202ec")
    assert str(odd) == r"a\nb\x1b[31m\udcff\u202ec"
    long = str(config.Diverged("x" * 5000))
    assert len(long) < 1000 and " ... " in long


def test_paths_and_numbers_of_numpy_are_plain(tmp_path):
    s = config.resolve("smoke", data_dir=tmp_path, n_train=np.int64(32), alpha=np.float32(0.5))
    assert (s.data_dir, s.n_train, s.alpha) == (str(tmp_path), 32, 0.5)
    assert type(s.n_train) is int and type(s.alpha) is float


@pytest.mark.parametrize(
    "name, value",
    [("gamma", 1e308), ("gamma", 10**400), ("temperature", 1e300), ("temperature", 1e-9)]
    + [("epochs", 10**9), ("n_train", np.array([1, 2]))],
)
def test_what_would_overflow_is_refused_in_one_line(name, value):
    with pytest.raises(InputError) as error:
        config.resolve("smoke", **{name: value})
    assert "\n" not in str(error.value) and name in str(error.value)
