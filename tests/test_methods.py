"""The study's tables, and the specs they lead to."""

import dataclasses
from dataclasses import replace

import pytest

from tgd_lib import config
from tgd_lib.config import InputError
from tgd_lib.files import read_json
from tgd_lib.study import methods, protocol
from tgd_lib.study.specs import Specs


def specs(profile="study", **overrides):
    return Specs(config.resolve(profile, **overrides), "a", "b", 10)


def test_unknown_names_are_refused_with_the_nearest():
    with pytest.raises(InputError, match="did you mean 'scratch'"):
        methods.method("scrath")
    with pytest.raises(InputError, match="did you mean 'pi_noisy'"):
        methods.teacher("pi_nois")


def test_the_control_lacks_only_the_pi_teacher():
    control, tgd = (methods.method(m) for m in ("tgd_alpha1", "tgd"))
    different = {
        f.name for f in dataclasses.fields(tgd) if getattr(tgd, f.name) != getattr(control, f.name)
    }
    assert different == {"name", "label", "why", "alpha", "control"} and control.alpha == 1.0
    control, tgd = (specs().student(m, 0) for m in ("tgd_alpha1", "tgd"))
    assert control.teachers[1] is None and control.teachers[0] == tgd.teachers[0]


@pytest.mark.parametrize("profile", config.PROFILES)
def test_every_method_of_a_profile_is_another_network(profile):
    students = [
        s for s in specs(profile).students(methods.of(config.resolve(profile))) if s.seed == 0
    ]
    assert len({s.key for s in students}) == len(students) >= len(methods.MAIN)
    assert len({m.label for m in methods.METHODS.values()}) == len(methods.METHODS)


def test_the_grids_name_methods():
    assert set(methods.GRIDS) == {s.grid for s in config.PROFILES.values()} | {"main"}
    for names in methods.GRIDS.values():
        assert set(names) <= set(methods.METHODS)
    # CI sees every one.
    assert set(methods.GRIDS[config.PROFILES["smoke"].grid]) == set(methods.METHODS) - set(
        methods.MAIN
    )
    left_out = set(methods.METHODS) - {
        s.method for s in specs("smoke").students(methods.of(config.resolve("smoke")))
    }
    own = {"tgd_gamma3000", "tgd_alpha1_gamma3000"}  # those of its own gamma
    own |= {
        f"kd_random_tree_weight{methods.SIGNATURE_WEIGHT:g}",
        f"kd_diagram_random_weight{methods.DIAGRAM_WEIGHT:g}",
    }
    assert left_out == own


def test_keys_of_the_first_methods_are_as_they_ever_were():
    """What was trained before a choice was added is found after it: the keys are pinned."""
    own_teachers = specs(gamma=3000.0, teacher_epochs=30)
    found = [own_teachers.student(m, 1).key for m in methods.MAIN]
    assert found == [
        "8e66b5c7d80359f018f5",
        "eb77ab4363cd892d681a",
        "51c009e1fe114af45640",
        "73b7a34bdebc13b93013",
        "d85867046e590d634450",
    ]


RESULTS = sorted((config.ROOT / "figures/study/results").glob("*.json"))


def test_what_has_a_result_is_asked_for_by_its_key():
    """A key depends on the question alone: what was recorded is found, wherever a module lives."""
    assert len(RESULTS) > 200
    for path in RESULTS:
        kept = read_json(path)
        spec, rule = kept["spec"], kept["spec"]["selection"]
        method, seed = path.stem.removesuffix(f"_{rule}").rsplit("_", 1)
        asked = Specs(config.resolve("study", selection=rule), spec["data"], spec["test"], 10)
        assert asked.student(method, int(seed)).key == kept["record"]["key"], path.name


def test_by_the_authors_rule_those_are_asked_for_of_which_they_have_networks():
    found = Specs(config.resolve("study", selection="authors"), "train", "test", 10).asked()
    assert {spec.method for spec in found} == {"scratch", "kd", "tgd"}
    assert [spec.seed for spec in found] == [seed for seed in range(6) for _ in range(3)]


def _as_fed_before(name):
    """The baseline as it was asked until November 2026."""
    method = methods.method(name)
    return replace(method, baseline=replace(method.baseline, fed=None, warm_up=None))


@pytest.mark.parametrize("name", ["cc", "rkd", "pkt", "dkd"])
def test_what_is_fed_otherwise_is_another_question(name):
    assert specs().student(name, 0).key != specs().student(_as_fed_before(name), 0).key


@pytest.mark.parametrize("name", ["at", "sp", "fitnets", "vid", "dist"])
def test_what_is_fed_as_ever_is_the_same_question(name):
    assert specs().student(name, 0).key == specs().student(_as_fed_before(name), 0).key


@pytest.mark.parametrize("name", [*methods.EMBEDDING, *methods.WEIGHTS])
def test_guidances_by_the_embedding_differ_from_kd_in_nothing_else(name):
    kd, guided = (specs().student(m, 2) for m in ("kd_batchmean_annealed", name))
    assert guided.embedding is not None and guided.key != kd.key
    assert replace(guided, embedding=None).key == kd.key
    assert guided.epochs_in_all == specs().student("tgd", 2).epochs_in_all


@pytest.mark.parametrize("name", ["kd_signature", "kd_diagram"])
def test_a_matched_control_differs_in_the_edges_alone(name):
    control = methods.method(methods.method(name).control).embedding
    assert replace(control, edges="tree") == methods.method(name).embedding


@pytest.mark.parametrize(
    "name",
    [m for m in methods.BASELINES if m.endswith("_annealed") and m != "kd_batchmean_annealed"],
)
def test_annealed_baselines_are_the_same_but_for_their_start(name):
    once, annealed = (specs().student(m, 1) for m in (name.removesuffix("_annealed"), name))
    assert annealed.epochs_in_all == specs().student("tgd", 1).epochs_in_all
    assert replace(annealed, start=None).key == once.key


def test_baselines_weigh_what_held_out_images_chose_where_steps_are_few():
    chosen = read_json(config.ROOT / "benchmarks/recorded/weights_baselines.json")["chosen"]
    factors = {row["baseline"]: row["factor"] for row in chosen}
    assert len(factors) == 10
    assert methods.FEW_STEP_FACTORS == {b: f for b, f in factors.items() if f != 1}
    source = methods.method("pkt").baseline
    few, many = (specs(profile).student("pkt", 0).baseline for profile in ("study", "paper"))
    assert many == source and few == source.scaled(factors["pkt"]) != source
    with_kd = methods.method("topkd").baseline
    assert with_kd.scaled(0.5) == replace(with_kd, weight=2.5, kd=1.0)


def test_the_published_teachers_are_asked_for_by_their_keys():
    """The image teacher of `quick` and `study`: trained once, on the images that
    nobody holds out."""
    for profile in ("study", "quick"):
        assert specs(profile).teacher("image").key == "99130ef324462b4bda4f"
        assert specs(profile).teacher("pi").key == "852d69d9245f45c86a20"
    assert specs("study").teacher("image").data == config.NOT_HELD_OUT
    # A run with teachers of its own.
    assert specs("study", teacher_epochs=3).teacher("image").data == "a"


def test_a_small_pair_is_trained_where_the_teachers_are_published():
    """On the run's own images; a run that trains its teachers needs no other pair."""
    image, pi = specs("quick").small_teachers()
    assert (image.data, pi.data) == ("a", "a") and image.network == pi.network == (10, 1, 10)
    assert (image.view.kind, pi.view.kind) == ("image", "pi")
    assert image.schedule.epochs == config.resolve("quick").epochs // 2
    (image, _) = specs("quick", epochs=1).small_teachers()
    assert image.schedule.epochs == 1
    assert specs("quick", dataset="cifar10").small_teachers() == []


def test_a_run_on_other_images_trains_its_teachers_as_long_as_its_students():
    own = specs("quick", dataset="cinic10")
    assert own.teacher("pi").data == "a" and own.teacher("pi").schedule.epochs == 12
    assert specs("quick", dataset="cinic10", teacher_epochs=3).teacher("pi").schedule.epochs == 3


def test_a_baseline_s_weight_is_part_of_its_key_and_its_source_is_not():
    at = methods.method("at")
    keys = [
        specs().student(replace(at, baseline=replace(at.baseline, **change)), 0).key
        for change in ({}, {"weight": 1.0}, {"source": "elsewhere"})
    ]
    assert keys[0] == keys[2] != keys[1]


def test_second_teachers():
    of = {
        m: specs().student(m, 0).teachers
        for m in ("tgd", "tgd_image_2", "tgd_small_teacher", "kd_pi", "tgd_alpha0")
    }
    assert of["tgd_image_2"][1].view.kind == "image" and of["tgd_image_2"][1].seed == 1
    assert of["tgd_image_2"][1].key != of["tgd"][0].key and of["tgd_image_2"][0] == of["tgd"][0]
    assert of["tgd_small_teacher"][0].network == (16, 1, 10)
    assert of["kd_pi"] == (None, of["tgd"][1]) == of["tgd_alpha0"]


@pytest.mark.parametrize("name", methods.TEACHERS)
def test_published_constants_are_for_what_they_were_published_for(name):
    view = specs().view(name)
    assert (view.constants is not None) == (
        view.kind == "image"
        or (
            view.kind != "pi_noisy"
            and view.params == methods.TeacherKind("x", "x").params
            and view.kind != "image_map"
            and view.orientation not in ("cubical", "cubical_super")
        )
    )
    if view.constants:
        assert len(view.constants[0]) == len(view.constants[1]) == view.channels


def test_what_the_text_compares_has_all_seeds_and_a_control_that_is_trained_as_well():
    counts = {}
    for spec in specs("study").students(methods.of(config.resolve("study"))):
        counts[spec.method] = counts.get(spec.method, 0) + 1
    assert {m for m, n in counts.items() if n == 6} == set(methods.COMPARED)
    assert set(counts.values()) == {3, 6}
    controls = {methods.METHODS[name].control for name in counts} - {None}
    assert controls <= set(counts)


def test_a_real_share_differs_from_its_control_in_the_second_teacher_alone():
    shared = [*methods.SECOND_TEACHER, *methods.SEARCH]
    for m in (methods.METHODS[name] for name in shared if methods.METHODS[name].order):
        if m.control:
            control = methods.METHODS[m.control]
            assert control.second == ("pi" if m.shown else "image_2") and not control.shown
            assert (control.alpha, control.order) == (m.alpha, m.order)
        assert m.alpha in methods.SHARES and m.order == "normalise" and m.start == "scratch"


@pytest.mark.parametrize("name", ["pi_within", "pi_across", "noise"])
def test_a_teacher_that_is_shown_something_else_is_the_same_teacher(name):
    for a in methods.SHARES:
        own, other = (specs().student(methods.share_name(second, a), 0) for second in ("pi", name))
        assert other.teachers == own.teachers and other.key != own.key
        assert replace(other.guidance, shown=None) == own.guidance
        assert "shown" not in own.question["guidance"]  # keys of before


def test_what_the_run_s_own_settings_make_of_a_method_is_trained_once():
    found = [
        s.method
        for s in specs("paper", alpha=0.9, gamma=300.0).students(
            methods.of(config.resolve("paper"))
        )
        if s.seed == 0
    ]
    assert "tgd_alpha0.9" not in found and "tgd_gamma300" not in found and "tgd_gamma3000" in found
    assert [s.method for s in specs(alpha=1.0).students(methods.MAIN) if s.seed == 0] == list(
        methods.MAIN
    )


def test_the_protocol_s_methods_are_there_and_differ_in_topology_alone():
    for part, names in protocol.CANDIDATES.items():
        without = methods.METHODS[protocol.WITHOUT[part]]
        for name in names:
            mine, control = methods.METHODS[name], methods.METHODS[methods.METHODS[name].control]
            assert mine.start == control.start == without.start == "scratch"
            if part == "image":
                assert (control.second, control.alpha) == ("image_2", mine.alpha)
                continue
            for other in (control, *map(methods.method, protocol.LOCALITY[name])):
                changed = replace(other.embedding, edges=mine.embedding.edges)
                assert changed == mine.embedding and other.embedding != mine.embedding


def test_a_session_that_ends_leaves_whole_seeds_of_the_main_table():
    """Methods are compared by pairs that share a seed, and weights are published of some."""
    study = specs("paper-42")
    asked = study.asked()
    main = [s for s in asked if s.method in methods.TABLE]
    assert asked[: len(main)] == main and len({s.key for s in asked}) == len(asked)
    assert [s.seed for s in main] == sorted(s.seed for s in main)
    assert {s.method for s in asked[: len(methods.TABLE)]} == set(methods.TABLE)
    published = study.to_publish()
    teachers = {s.method for s in published if s.method.startswith("teacher_")}
    assert teachers == {"teacher_image", "teacher_pi", "teacher_image_2"}
    starts = [s.seed for s in published if s.method == "scratch"]
    assert sorted(starts) == list(range(study.settings.seeds))
    assert {s.method for s in published if s.seed == 0} >= set(methods.TABLE)


def test_the_family_has_fresh_seeds_once_something_is_chosen(monkeypatch):
    monkeypatch.setattr(protocol, "CHOSEN", {"embedding": "kd_signature", "image": None})
    found = [(c.method, c.control) for c in protocol.family()]
    controls = ("kd_batchmean_annealed", "kd_random_tree", "kd_nearest", "kd_shortest")
    assert found == [("kd_signature", control) for control in controls]
    study = specs("study")
    fresh = [s for s in study.asked() if s.seed >= study.settings.seeds]
    assert {s.method for s in fresh} == {"kd_signature", *controls}
    assert {s.seed for s in fresh} == set(range(6, 12)) and len(fresh) == 30
    assert not [s for s in specs("study", seeds=2).asked() if s.seed >= 2]
    assert set(protocol.members()) <= set(methods.COMPARED)  # the first seeds are there, too
