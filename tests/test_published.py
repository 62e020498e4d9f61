"""Networks to give away: found by key, checked against their records, ready in one line."""

import json
import shutil
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

import tgd_lib
from tgd_lib import config, datasets, evaluation
from tgd_lib.config import InputError
from tgd_lib.files import sha256
from tgd_lib.lab import results, trained
from tgd_lib.lab.lab import Lab
from tgd_lib.lab.store import Store
from tgd_lib.study import methods, published
from tgd_lib.study.specs import specs_of

SIZE = {"n_train": 96, "n_test": 80, "holdout": 0}


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """(lab, figures folder) with the networks of a tiny run published in it."""
    root = tmp_path_factory.mktemp("published")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TGD_ARTIFACTS", str(root / "artifacts"))
        lab = Lab(config.resolve("smoke", **SIZE), say=lambda line: None)
        study = specs_of(lab)
        asked = [study.student("scratch", 0), study.student("kd", 0), study.teacher("pi")]
        made = published.publish(lab, asked)
        shutil.copytree(made, root / "figures/smoke/networks")
        yield lab, root / "figures"


def test_published_networks_are_what_their_card_says(given, capsys):
    lab, figures = given
    assert published.published_profiles(figures) == ["smoke"]
    assert published.verify(lab.settings, figures) == 0
    said = capsys.readouterr().out
    assert said.count(" ok") == 3 and "note" not in said
    card = (figures / "smoke/networks/README.md").read_text()
    assert (
        "| PI teacher, seed 0 |" in card and "| Scratch, seed 0 |" in card and "**Limits**" in card
    )


def test_a_teacher_is_normalised_as_in_its_own_training(given):
    """Its constants were measured on what it was trained on, not on the images of this run."""
    lab, _ = given
    there = Lab(config.resolve("smoke", **SIZE | {"n_train": 64}), say=lambda line: None)
    cubical = specs_of(lab).teacher("cubical")
    expected, constants = lab.evaluation(cubical), lab.trained(cubical).record["constants"]
    assert np.abs(np.subtract(constants, there.views.constants(cubical.view))).max() > 1e-4
    made = published.publish(there, [cubical])
    assert published.entries(made)[0].about["constants"] == constants
    # Of the same test images, the same logits: exact arithmetic beside the run's.
    found = there.evaluation(cubical, exact=True).array("logits")
    np.testing.assert_allclose(found, expected.array("logits"), rtol=1e-4, atol=1e-4)
    images = lab.data.test.images
    shown = there.shown(specs_of(there).teacher("pi"), images)[torch.arange(4)]
    assert torch.equal(shown, lab.shown(specs_of(lab).teacher("pi"), images)[torch.arange(4)])


def test_a_run_adds_its_networks_to_those_that_are_there(given, tmp_path):
    """The card is of all of them; one that answers an older question of the same name goes."""
    lab, figures = given
    there = shutil.copytree(figures / "smoke/networks", tmp_path / "there")
    scratch, kd = (specs_of(lab).student(name, 0) for name in ("scratch", "kd"))
    older = there / scratch.key
    older.rename(there / "older")
    shutil.rmtree(there / kd.key)
    made = tmp_path / "made"
    for spec in (scratch, kd):
        shutil.copytree(figures / "smoke/networks" / spec.key, made / spec.key)
    published.add(made, there)
    pi = specs_of(lab).teacher("pi")
    names = {path.name for path in there.iterdir()}
    assert names == {scratch.key, kd.key, pi.key, "README.md"}
    assert (there / "README.md").read_text() == published.card(figures / "smoke/networks")


def test_what_is_there_whole_stays_and_half_of_it_is_made_good(given, tmp_path):
    """Students may stand on the very bits that are published."""
    lab, figures = given
    there = shutil.copytree(figures / "smoke/networks", tmp_path / "there")
    scratch, kd = (specs_of(lab).student(name, 0).key for name in ("scratch", "kd"))
    made = tmp_path / "made"
    for key in (scratch, kd):
        shutil.copytree(figures / "smoke/networks" / key, made / key)
    published.republish(made / scratch, made / scratch, {"label": "trained again"})
    (there / kd / "MANIFEST.json").unlink()  # killed while it was copied
    published.add(made, there)
    assert {e.folder.name for e in published.entries(there)} >= {scratch, kd}
    assert "trained again" not in (there / scratch / "record.json").read_text()


def test_a_network_is_published_under_the_name_it_is_asked_by(given, tmp_path):
    """Two methods may come to the same network; the record has the name of the first."""
    lab, _ = given
    spec = specs_of(lab).student("kd", 3)
    lab.train([replace(spec, method="kd_x1", name="KD x1")])
    assert lab.trained(spec).record["method"] == "kd_x1"
    (entry,) = published.entries(published.publish(lab, [spec], tmp_path / "made"))
    assert entry.name == ("kd", 3, "last") and entry.record["label"] == spec.label
    results.keep(lab.store, [spec], tmp_path / "results")
    assert not (tmp_path / "results").is_dir() or not list((tmp_path / "results").iterdir())
    lab.metrics(spec)
    results.keep(lab.store, [spec], tmp_path / "results")
    kept = json.loads((tmp_path / "results/kd_3.json").read_text())
    assert (kept["record"]["method"], kept["record"]["label"]) == ("kd", spec.label)


def test_states_are_handed_on_that_are_whole_and_have_come_further(given, tmp_path, half_trained):
    lab, _ = given
    here = Lab(
        config.resolve("smoke", **SIZE, epochs=3),
        store=Store(tmp_path / "here", newer_than=0),
        say=lambda line: None,
    )
    spec = specs_of(here).student("scratch", 7)
    state = half_trained(here, spec, tmp_path / "here", epochs=2)
    begun = tmp_path / "begun"
    target = begun / f"{spec.key}.safetensors"
    assert published.hand_on(here, [spec], begun) == [(spec, 2)]
    whole = target.read_bytes()
    assert published.hand_on(here, [spec], begun) == []  # it is there
    state.write_bytes(whole[:-4])
    target.unlink()
    with pytest.warns(UserWarning, match="is damaged"):
        assert published.hand_on(here, [spec], begun) == []
    assert not target.exists()
    target.write_bytes(whole)
    (begun / "older.safetensors").write_bytes(whole)
    shutil.rmtree(state.parent)
    half_trained(here, spec, tmp_path / "here")  # one epoch, where two are published
    assert published.hand_on(here, [spec], begun) == []
    assert [path.name for path in begun.iterdir()] == [target.name]  # what nobody asks for goes
    assert target.read_bytes() == whole


def test_the_short_way_to_a_network_takes_the_same_choices(monkeypatch):
    monkeypatch.setattr(published, "load", lambda name, **choices: (name, choices))
    assert tgd_lib.load("study/tgd") == ("study/tgd", {"seed": 0, "selection": "last"})
    asked = {"seed": 1, "selection": "authors"}
    assert tgd_lib.load("study/tgd", **asked) == ("study/tgd", asked)


def test_two_epochs_of_one_training_are_two_networks(given, tmp_path):
    """The authors' rule and the last epoch stand side by side, each under its own name."""
    lab, figures = given
    rule = config.resolve("smoke", **SIZE, selection="authors", epochs=2)
    authors = Lab(rule, store=Store(tmp_path / "artifacts"), say=lambda line: None)
    spec = specs_of(authors).student("scratch", 0)
    there = shutil.copytree(figures / "smoke/networks", tmp_path / "figures/smoke/networks")
    published.add(published.publish(authors, [spec]), there)
    assert {spec.key, specs_of(lab).student("scratch", 0).key} < {p.name for p in there.iterdir()}
    assert "| Scratch, seed 0, selection authors |" in (there / "README.md").read_text()
    known = {e.name: e for e in published.entries(there)}
    ours, theirs = (known["scratch", 0, rule] for rule in ("last", "authors"))
    assert published._call([ours, theirs]) == 'tgd_lib.load("smoke/scratch")'
    assert published._call([theirs]) == 'tgd_lib.load("smoke/scratch", selection="authors")'
    best = published.load("smoke/scratch", selection="authors", figures=tmp_path / "figures")
    wanted = torch.from_numpy(authors.evaluation(spec, exact=True).array("logits"))
    torch.testing.assert_close(best(lab.data.test.images), wanted, rtol=1e-4, atol=1e-4)
    assert published.load("smoke/scratch", figures=tmp_path / "figures")
    with pytest.raises(
        InputError, match="selection 'authors' 'kd' does not exist: choose from scratch"
    ):
        published.load("smoke/kd", selection="authors", figures=tmp_path / "figures")


def test_a_store_finds_them_by_key_and_trains_nothing(given, tmp_path):
    lab, figures = given
    study, said = specs_of(lab), []
    store = Store(tmp_path, published=[figures / "smoke/networks"], newer_than=0)
    here = Lab(lab.settings, store=store, say=said.append)
    found = here.trained(study.teacher("pi"))
    assert found.path.parent == figures / "smoke/networks" and not said
    assert found.record["made"] == lab.trained(study.teacher("pi")).record["made"]
    forced = Store(tmp_path, published=store.published, newer_than=found.record["made_unix"] + 1)
    assert forced.find("network", study.teacher("pi").question) is None  # --force trains it again


def test_force_leaves_a_teacher_whose_images_are_not_at_hand(given, tmp_path):
    """It is an input of the run; with a data folder it can be, and is, trained again."""
    lab, figures = given
    teacher = specs_of(lab).teacher("pi")
    forced = Store(tmp_path, published=[figures / "smoke/networks"], newer_than=time.time())
    fewer = config.resolve("smoke", n_train=100)
    assert Lab(fewer, store=forced).find(teacher).path.parent == figures / "smoke/networks"
    assert Lab(fewer, store=forced).network(teacher) is not None
    named = config.resolve("smoke", n_train=100, data_dir=str(tmp_path))
    assert Lab(named, store=forced, data=lab.data).find(teacher) is None
    assert Lab(named, store=forced, data=Lab(fewer).data).find(teacher) is None
    assert Lab(lab.settings, store=forced).find(teacher) is None  # its own images


def test_networks_of_one_s_own_run_load_like_published_ones(given):
    lab, figures = given
    own = config.run_dir(lab.settings)
    images = lab.data.test.images[:2]
    mine = published.load(f"{own.name}/kd", figures=own.parent)(images)
    assert torch.equal(mine, published.load("smoke/kd", figures=figures)(images))


def test_ready_in_one_line(given):
    lab, figures = given
    images = lab.data.test.images
    for name in ("kd", "teacher_pi"):
        network = published.load(f"smoke/{name}", figures=figures)
        with torch.inference_mode():
            logits = network(images)
        study = specs_of(lab)
        spec = study.student("kd", 0) if name == "kd" else study.teacher("pi")
        wanted = torch.from_numpy(lab.evaluation(spec, exact=True).array("logits"))
        torch.testing.assert_close(logits, wanted, rtol=1e-4, atol=1e-4)
        assert not network.training and network.class_names[0] == "airplane"
        assert network(torch.from_numpy(images[:2])).shape == (2, 10)


@pytest.mark.parametrize("name", ["kd", "teacher_pi"])
def test_images_of_another_kind_are_refused(given, name):
    """Between 0 and 1 they would be divided by 255 once more, and answered all the same."""
    network = published.load(f"smoke/{name}", figures=given[1])
    images = given[0].data.test.images[:2]
    for wrong in (images / 255, images[0], images.transpose(0, 3, 1, 2)):
        with pytest.raises(InputError, match="give uint8"):
            network(wrong)
        with pytest.raises(InputError, match="give uint8"):
            network(torch.from_numpy(np.ascontiguousarray(wrong)))


def test_what_a_single_image_cannot_be_shown_as_is_said(given):
    lab, _ = given
    images = lab.data.test.images[:2]
    study = specs_of(lab)
    both = trained.seen(study.teacher("image_map").view, images)
    assert both.shape == (2, 9, 32, 32) and (both[:, :3] == images.transpose(0, 3, 1, 2)).all()
    with pytest.raises(InputError, match="sees 'pi_noisy'"):
        trained.seen(study.teacher("pi_noisy").view, images)


def test_unknown_names_say_which_there_are(given):
    _, figures = given
    with pytest.raises(InputError, match="did you mean 'smoke'"):
        published.load("smok/kd", figures=figures)
    with pytest.raises(InputError, match="choose from teacher_pi, kd, scratch"):
        published.load("smoke/nothing", figures=figures)
    with pytest.raises(InputError, match="does not exist"):
        tgd_lib.load("nowhere/tgd")
    (figures / "my-run").mkdir()
    (figures / "smoke").joinpath("networks").rename(figures / "my-run/networks")
    try:  # one's own runs are named, too
        with pytest.raises(InputError, match="did you mean 'my-run'"):
            published.load("my_run/kd", figures=figures)
    finally:
        (figures / "my-run/networks").rename(figures / "smoke/networks")
        (figures / "my-run").rmdir()


def test_what_a_killed_publication_left_is_no_network(given):
    lab, figures = given
    folder = figures / "smoke/networks"
    (folder / ".0a1b.tmp").mkdir()
    before = published.card(folder)
    assert len(published.entries(folder)) == 3 and before == (folder / "README.md").read_text()
    (folder / ".0a1b.tmp").rmdir()


def test_an_accuracy_that_does_not_hold_is_found(given, tmp_path, capsys):
    lab, figures = given
    shutil.copytree(figures, tmp_path / "figures")
    folder = next(p for p in (tmp_path / "figures/smoke/networks").iterdir() if p.is_dir())
    record = json.loads((folder / "record.json").read_text())
    record["published"]["exact"]["accuracy"] += 1 / 80  # one image of 80
    (folder / "record.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match="restore it"):  # a record that was changed by hand
        published.verify(lab.settings, tmp_path / "figures")
    sums = json.loads((folder / "MANIFEST.json").read_text())
    sums["record.json"] = sha256(folder / "record.json")
    (folder / "MANIFEST.json").write_text(json.dumps(sums))
    assert published.verify(lab.settings, tmp_path / "figures") == 1
    assert "DIFFERS" in capsys.readouterr().out


def test_equal_weights_are_evaluated_once(given, tmp_path, monkeypatch, capsys):
    """After one epoch, the best on the test set is the last; both have their line, in columns."""
    there = tmp_path / "figures/smoke/networks"
    for selection in ("last", "authors"):
        rule = config.resolve("smoke", **SIZE, epochs=1, selection=selection)
        lab = Lab(rule, store=Store(tmp_path / "artifacts"), say=lambda line: None)
        published.publish(lab, [specs_of(lab).student("scratch", 0)], there)
    evaluated, logits_of = [], evaluation.logits_of
    monkeypatch.setattr(
        evaluation, "logits_of", lambda *a, **k: evaluated.append(a) or logits_of(*a, **k)
    )
    assert published.verify(given[0].settings, tmp_path / "figures") == 0
    head, last, best = capsys.readouterr().out.splitlines()[-3:]
    assert len(evaluated) == 1
    assert last.startswith("Scratch, seed 0  ") and best.startswith("Scratch, seed 0, selection au")
    assert len(last) == len(best) == len(head + "  ok")


@pytest.mark.slow
def test_the_published_networks_of_a_first_run_are_what_they_were(capsys):
    """On the images of the sample, by whatever code there is now."""
    assert published.verify(config.resolve("quick")) == 0
    assert capsys.readouterr().out.count(" ok") == 6


def test_the_readme_s_network_knows_the_sample(given):
    """`tgd_lib.load`, as README shows it: 66 % of the whole test set."""
    images = datasets.load("sample", "test")
    with torch.inference_mode():
        logits = tgd_lib.load("study/tgd")(images.images[:300])
    right = logits.argmax(1).numpy() == images.labels[:300]
    assert logits.shape == (300, 10) and 0.5 < right.mean() < 0.75


def test_other_test_images_are_named_as_such(given, capsys):
    lab, figures = given
    published.verify(config.resolve("smoke", **SIZE | {"n_test": 40}), figures)
    assert "not the very test images" in capsys.readouterr().out


def test_nothing_published_is_said(given, tmp_path):
    with pytest.raises(InputError, match="published: none"):
        published.verify(given[0].settings, tmp_path)


def test_images_of_numpy_and_torch_are_alike(given):
    network = published.load("smoke/scratch", figures=given[1])
    images = np.zeros((1, 32, 32, 3), np.uint8)
    assert torch.equal(network(images), network(torch.from_numpy(images)))


def test_a_first_run_finds_its_teachers_and_the_students_of_seed_0(tmp_path, monkeypatch):
    """What notebook 00 asks is in the repository: it trains nothing on an empty store."""
    monkeypatch.setenv("TGD_ARTIFACTS", str(tmp_path))
    lab = Lab(config.resolve("quick"), say=lambda line: None)
    study = specs_of(lab)
    asked = [study.teacher("image"), study.teacher("pi")]
    asked += [spec for spec in study.students(methods.TABLE) if spec.seed == 0]
    assert len(asked) == 7 and [spec for spec in asked if lab.find(spec) is None] == []
