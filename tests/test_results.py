"""Results kept without weights: what they answer, what is trained nevertheless, what is refused."""

import json
import shutil
from dataclasses import replace

import pytest

from tgd_lib import config
from tgd_lib.companion import command, graph, plan, recording
from tgd_lib.config import InputError
from tgd_lib.lab import results
from tgd_lib.lab.lab import Lab
from tgd_lib.lab.store import Store
from tgd_lib.lab.trained import WEIGHTS
from tgd_lib.study import published, questions
from tgd_lib.study.specs import specs_of

SIZE = {"n_train": 96, "n_test": 80, "holdout": 40}


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """(lab that has trained, folder with what it measured)."""
    root = tmp_path_factory.mktemp("kept")
    store = Store(root / "artifacts", newer_than=0, published=[])
    lab = Lab(config.resolve("smoke", **SIZE), store=store, say=lambda line: None)
    specs = [specs_of(lab).student(name, 0) for name in ("scratch", "kd_annealed")]
    asked(lab, specs)
    folder = root / "figures/smoke/results"
    assert results.keep(store, specs, folder) == specs
    return lab, folder


def asked(lab, specs):
    """Everything that a study asks of its students."""
    rows = [lab.row(spec) for spec in specs]
    held_out = questions.metrics_on(lab, specs, "holdout")
    return rows, held_out, questions.calibration(lab, specs), questions.robustness(lab, specs)


def another(tmp_path, folder, monkeypatch, **options):
    """A lab with an empty store that goes on from the results in `folder`; and what it says."""
    monkeypatch.setattr(config, "kept_results", lambda profile: folder)
    said = []
    store = Store(tmp_path, published=[], **{"newer_than": 0} | options)
    return Lab(config.resolve("smoke", **SIZE), store=store, say=said.append), said


def specs(lab):
    return [specs_of(lab).student(name, 0) for name in ("scratch", "kd_annealed")]


def test_a_lab_with_results_answers_the_same_and_trains_nothing(kept, tmp_path, monkeypatch):
    lab, folder = kept
    here, said = another(tmp_path, folder, monkeypatch)
    assert here.train(specs(here)) == []
    assert asked(here, specs(here)) == asked(lab, specs(lab))
    assert said == [] and not (tmp_path / "network").exists()
    tasks = {task.name for task in graph.of_run(here, room=8e9)}
    start, annealed = specs(here)
    assert f"network {start.key}" in tasks  # others start from its weights
    assert not [name for name in tasks if annealed.key in name]
    there = {line.label: line.there for line in plan.lines(here)}
    assert there["Scratch"] == 0 and there["KD, annealing"] == 1 and there["KD"] == 0


def test_weights_are_trained_where_they_are_needed(kept, tmp_path, monkeypatch):
    lab, folder = kept
    here, said = another(tmp_path, folder, monkeypatch)
    network = here.network(specs(here)[0])
    assert network is not None and len(said) == 1
    # What is said of it stays that of the first training: the two must not be mixed.
    assert here.find(specs(here)[0]).record["made_unix"] > lab.record(specs(lab)[0])["made_unix"]
    assert asked(here, specs(here)) == asked(lab, specs(lab)) and len(said) == 1


def test_a_result_that_does_not_answer_is_refused_in_a_line(kept, tmp_path, monkeypatch):
    _, folder = kept
    copy = shutil.copytree(folder, tmp_path / "results")
    value = json.loads((copy / "scratch_0.json").read_text())
    value["answers"] = {k: v for k, v in value["answers"].items() if not k.startswith("cal")}
    (copy / "scratch_0.json").write_text(json.dumps(value))
    here, _ = another(tmp_path / "artifacts", copy, monkeypatch)
    with pytest.raises(InputError, match="results/scratch_0.json of smoke .*calibration.*remove"):
        questions.calibration(here, specs(here))


def test_without_the_option_and_under_force_results_do_not_count(kept, tmp_path, monkeypatch):
    lab, folder = kept
    forced, _ = another(
        tmp_path / "forced",
        folder,
        monkeypatch,
        newer_than=lab.record(specs(lab)[0])["made_unix"] + 60,
    )
    assert forced.result(specs(forced)[0]) is None
    monkeypatch.undo()
    monkeypatch.delenv("TGD_FROM_RESULTS", raising=False)
    assert config.kept_results("study") is None
    plain = Lab(lab.settings, store=Store(tmp_path / "plain", newer_than=0, published=[]))
    assert plain.result(specs(plain)[0]) is None
    monkeypatch.setenv("TGD_FROM_RESULTS", "1")
    assert config.kept_results("study") == config.ROOT / "figures/study/results"
    monkeypatch.setenv("TGD_FROM_RESULTS", "0")
    assert config.kept_results("study") is None


@pytest.mark.parametrize(
    "damage",
    [
        lambda kept: kept["spec"].update(seed=7),  # another network than its key says
        lambda kept: kept["record"].update(made_unix=None),
        lambda kept: kept.pop("answers"),
    ],
)
def test_what_is_no_result_is_left_out_with_a_warning(kept, tmp_path, damage):
    _, folder = kept
    copy = shutil.copytree(folder, tmp_path / "results")
    path = copy / "scratch_0.json"
    value = json.loads(path.read_text())
    damage(value)
    path.write_text(json.dumps(value))
    with pytest.warns(UserWarning, match="scratch_0.json is no result"):
        found = results.load(copy)
    assert [r.record["method"] for r in found.values()] == ["kd_annealed"]


def test_a_network_that_nothing_was_asked_about_is_not_kept(tmp_path):
    store = Store(tmp_path / "artifacts", newer_than=0, published=[])
    lab = Lab(config.resolve("smoke", **SIZE), store=store, say=lambda line: None)
    scratch = specs(lab)[0]
    assert results.keep(store, [scratch], tmp_path / "results") == []  # not trained
    lab.train([scratch])
    assert results.keep(store, [scratch], tmp_path / "results") == []  # not evaluated
    assert list((tmp_path / "results").iterdir()) == []


def test_a_result_that_answers_all_of_it_stays(kept, tmp_path):
    lab, folder = kept
    copy = shutil.copytree(folder, tmp_path / "results")
    before = (copy / "scratch_0.json").read_text()
    again = Lab(lab.settings, store=Store(tmp_path, newer_than=0, published=[]), say=lambda _: None)
    again.metrics(specs(again)[0])
    assert results.keep(again.store, specs(again), copy) == []
    assert (copy / "scratch_0.json").read_text() == before
    # Nor does it go for one answer more: what the new one lacks would be lost.
    again.evaluation(specs(again)[0], "train")
    again.evaluation(specs(again)[0], exact=True)  # of what is published: no answer of a result
    assert results.keep(again.store, specs(again), copy) == []
    assert (copy / "scratch_0.json").read_text() == before
    unreadable = again.store.root / "evaluation/0"  # damaged: no reason to stop
    unreadable.mkdir()
    (unreadable / "spec.json").write_text("{")
    (copy / "scratch_0.json").write_text("{}")  # what is no result is no reason to stay
    with pytest.warns(UserWarning, match="no result"):
        assert results.keep(again.store, specs(again), copy) == specs(again)[:1]


def test_the_command_writes_them_and_goes_on_from_them(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TGD_ARTIFACTS", str(tmp_path / "artifacts"))
    monkeypatch.setattr(recording, "FIGURES", tmp_path / "figures")
    monkeypatch.delenv("TGD_FROM_RESULTS", raising=False)
    lab = Lab(config.resolve("smoke"), say=lambda line: None)
    lab.train(specs(lab)[:1])
    for written in (1, 0):
        assert command.main(["--keep-results", "--profile", "smoke"]) == 0
        said = capsys.readouterr().out
        assert f"figures/smoke/results: {written} students written, {1 - written} were" in said
    (path,) = (tmp_path / "figures/smoke/results").iterdir()
    kinds = {
        name.partition("/")[0] for name in results.load(path.parent)[specs(lab)[0].key].answers
    }
    assert path.name == "scratch_0.json" and kinds >= {"evaluation", "robustness", "calibration"}
    seen = []
    for verb in ("run", "train", "plan"):

        def note(_):
            seen.append(config.kept_results("study"))
            return 0

        monkeypatch.setitem(command.DO, verb, note)
        asked = [] if verb == "run" else [f"--{verb}"]
        assert command.main([*asked, "--from-results", "--profile", "study"]) == 0
        monkeypatch.delenv("TGD_FROM_RESULTS")  # for kernels and workers; not for other tests
    assert seen == 3 * [config.ROOT / "figures/study/results"]
    assert command.main(["--force", "--from-results"]) == 2
    assert "--from-results and --force" in capsys.readouterr().err
    assert command.main(["--verify", "--from-results"]) == 2


def test_what_is_kept_is_measured_even_where_results_are_in_use(tmp_path, monkeypatch, capsys):
    """With TGD_FROM_RESULTS set, a result that lacks an answer does not stop what completes it."""
    monkeypatch.setenv("TGD_ARTIFACTS", str(tmp_path / "artifacts"))
    monkeypatch.setattr(recording, "FIGURES", tmp_path / "figures")
    folder = tmp_path / "figures/smoke/results"
    real = config.kept_results
    monkeypatch.setattr(config, "kept_results", lambda profile: real(profile) and folder)
    monkeypatch.delenv("TGD_FROM_RESULTS", raising=False)
    lab = Lab(config.resolve("smoke"), say=lambda line: None)
    lab.train(specs(lab)[:1])
    assert command.main(["--keep-results", "--profile", "smoke"]) == 0
    whole = (folder / "scratch_0.json").read_text()
    value = json.loads(whole)
    value["answers"] = {k: v for k, v in value["answers"].items() if not k.startswith("cal")}
    (folder / "scratch_0.json").write_text(json.dumps(value))
    monkeypatch.setenv("TGD_FROM_RESULTS", "1")
    assert command.main(["--keep-results", "--profile", "smoke"]) == 0
    assert "1 students written" in capsys.readouterr().out
    assert (folder / "scratch_0.json").read_text() == whole


def test_students_of_another_teacher_are_not_taken_for_those_of_this_one(
    kept, tmp_path, monkeypatch
):
    """A teacher that was trained again has the same key, and other weights."""
    lab, folder = kept
    annealed = specs(lab)[1]
    teacher = annealed.teachers[0]
    here, _ = another(tmp_path / "artifacts", folder, monkeypatch)
    assert here.result(annealed)  # there is no teacher yet
    here.trained(teacher)
    assert here.result(annealed)  # trained again, but in the same bits
    copy = shutil.copytree(folder, tmp_path / "results")
    value = json.loads((copy / "kd_annealed_0.json").read_text())
    value["record"]["weights_used"][teacher.label] = "0" * 64
    (copy / "kd_annealed_0.json").write_text(json.dumps(value))
    there, _ = another(tmp_path / "artifacts", copy, monkeypatch)
    with pytest.raises(InputError, match="kd_annealed_0.json: learnt from another image teacher"):
        there.train(specs(there))
    assert there.result(specs(there)[0])  # scratch has none


@pytest.mark.slow
def test_what_other_sessions_need_is_published(tmp_path, monkeypatch, capsys, half_trained):
    """Teachers, starts and students of seed 0; by the authors' rule beside the last epoch."""
    monkeypatch.setenv("TGD_ARTIFACTS", str(tmp_path / "artifacts"))
    monkeypatch.setattr(recording, "FIGURES", tmp_path / "figures")
    monkeypatch.setitem(config.PROFILES, "smoke", replace(config.PROFILES["smoke"], publishes=True))
    assert command.main(["--publish", "--profile", "smoke"]) == 0
    assert "0 networks published; not trained yet: " in capsys.readouterr().out
    lab = Lab(config.resolve("smoke"), say=lambda line: None)
    study = specs_of(lab)
    trained = [study.student("scratch", 0), study.student("kd", 0), study.student("dkd", 0)]
    lab.train(trained)
    rule = ["-p", "selection", "authors"]
    best = Lab(config.resolve("smoke", selection="authors"), say=lambda line: None)
    best.train([specs_of(best).student("scratch", 0)])
    assert command.main(["--publish", "--profile", "smoke"]) == 0
    assert command.main(["--publish", "--profile", "smoke", *rule]) == 0
    found = {e.name for e in published.entries(tmp_path / "figures/smoke/networks")}
    last = {(name, 0, "last") for name in ("teacher_image", "scratch", "kd")}  # no baseline
    assert found == last | {("scratch", 0, "authors")}
    assert command.main(["--keep-results", "--profile", "smoke", *rule]) == 0
    assert (tmp_path / "figures/smoke/results/scratch_0_authors.json").is_file()
    pi = study.teacher("pi")
    half = half_trained(lab, pi, tmp_path / "artifacts")
    baseline = half_trained(lab, study.student("at", 0), tmp_path / "artifacts")
    capsys.readouterr()
    assert command.main(["--publish", "--profile", "smoke"]) == 0
    assert f"{pi.label}: the state after epoch 1, for another" in capsys.readouterr().out
    begun = tmp_path / "figures/smoke/begun" / f"{pi.key}.safetensors"
    assert begun.read_bytes() == half.read_bytes()
    # Any student's, too, also of those whose weights are not given away.
    assert baseline.read_bytes() in [path.read_bytes() for path in begun.parent.iterdir()]
    lab.train([pi])
    assert command.main(["--publish", "--profile", "smoke"]) == 0
    assert not begun.exists()  # it is finished
    capsys.readouterr()
    assert command.main(["--publish", "--profile", "smoke", "-p", "alpha", "0.5"]) == 2
    assert "--publish: of a profile as it is; leave out -p alpha" in capsys.readouterr().err
    monkeypatch.undo()
    assert command.main(["--publish", "--profile", "smoke"]) == 2
    assert "too small to give away" in capsys.readouterr().err


@pytest.mark.parametrize("given", [{}, {"selection": "authors"}])
def test_by_the_authors_rule_a_profile_trains_its_own_teachers(given):
    """Those that are published are by the last epoch; what is published follows the same rule."""
    last, best = command._by_rules(config.resolve("study", data_dir="data", **given))
    assert last == config.resolve("study", data_dir="data")
    assert best == config.resolve("study", data_dir="data", selection="authors")
    assert last.published and best.published is None


def test_a_published_student_of_which_all_is_kept_is_not_measured_again(kept, tmp_path):
    lab, folder = kept
    first = specs(lab)[0]
    published = [lab.store.root / "network"]
    elsewhere = Lab(lab.settings, store=Store(tmp_path, newer_than=0, published=published))
    assert results.load(folder).keys() >= {first.key} and elsewhere.find(first)
    assert command._to_measure(lab, [first], folder) == [first]  # of this store
    assert command._to_measure(elsewhere, [first], folder) == []
    assert command._to_measure(elsewhere, [first], tmp_path / "none") == [first]


RECORDED = sorted(config.ROOT.glob("figures/*/results"))


@pytest.mark.parametrize("folder", RECORDED, ids=lambda folder: folder.parent.name)
def test_what_is_recorded_stands_on_what_is_published(folder):
    """The same teachers and, where they are published, the same starts: pairs share them."""
    assert len(results.load(folder)) == len(list(folder.iterdir()))
    starts: dict[str, set] = {}  # of each start: the sums of its weights that students began with
    for path in folder.iterdir():
        kept = json.loads(path.read_text())
        used = kept["record"].get("weights_used", {}).values()  # not in the oldest records
        needs = [key for key in [*kept["spec"]["teachers"], kept["spec"]["start"]] if key]
        published = {}
        for key in needs:
            for manifest in config.ROOT.glob(f"figures/*/networks/{key}/MANIFEST.json"):
                published[key] = json.loads(manifest.read_text())[WEIGHTS]
        assert set(published.values()) <= set(used), path.name
        assert published or not needs, path.name  # its teachers, at least, can be looked up
        if kept["spec"]["start"]:
            begun = set(used) - {s for k, s in published.items() if k != kept["spec"]["start"]}
            starts.setdefault(kept["spec"]["start"], set()).update(begun)
    assert all(len(sums) == 1 for sums in starts.values())
