"""Corruptions, calibration, features and shares of tiny trained networks."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tgd_lib import config, evaluation
from tgd_lib.bank import Teacher
from tgd_lib.config import InputError
from tgd_lib.images import corruptions
from tgd_lib.lab.lab import Lab
from tgd_lib.lab.store import Store
from tgd_lib.report import charts, clouds, tables
from tgd_lib.study import questions
from tgd_lib.study.specs import specs_of

SIZE = {"n_train": 96, "n_test": 80, "holdout": 40}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("artifacts")


@pytest.fixture
def lab(root):
    return Lab(
        config.resolve("smoke", **SIZE), store=Store(root, newer_than=0), say=lambda line: None
    )


def specs(lab):
    return [specs_of(lab).student(m, 0) for m in ("scratch", "kd")]


def test_a_killed_measurement_keeps_the_networks_that_it_had_seen(lab, tmp_path, monkeypatch):
    here = Lab(lab.settings, store=Store(tmp_path, newer_than=0), say=lambda line: None)
    measure, seen = questions._measured, []

    def killed(lab, spec, *rest):
        if seen:
            raise KeyboardInterrupt
        seen.append(spec.method)
        return measure(lab, spec, *rest)

    monkeypatch.setattr(questions, "_measured", killed)
    with pytest.raises(KeyboardInterrupt):
        questions.robustness(here, specs(here))
    assert seen == ["scratch"] and len(list((tmp_path / "robustness").glob("*/record.json"))) == 1


def test_robustness_is_the_evaluation_of_corrupted_images(lab):
    from tgd_lib.evaluation import logits_of

    rows = questions.robustness(lab, specs(lab))
    assert (
        [r["method"] for r in rows] == ["scratch", "kd"]
        and rows[0]["n"] == 40
        and rows[0]["source"] == "own"
    )
    assert list(rows[0]["corrupted"]) == list(corruptions.NAMES)
    assert all(len(five) == 5 for five in rows[0]["corrupted"].values())
    images, _ = questions._subset(lab)
    worst = corruptions.corrupt(images.images, "contrast", 5, seed=0)
    spec = specs(lab)[1]
    logits = logits_of(lab.network(spec), lab.shown(spec, worst))
    wanted = evaluation.metrics(logits, torch.from_numpy(images.labels))
    assert rows[1]["corrupted"]["contrast"][4]["nll"] == pytest.approx(wanted["nll"], abs=1e-5)
    assert questions.robustness(lab, specs(lab)) == rows  # from the store
    charts.corruption_differences(rows, "scratch").canvas.draw()
    table = tables.corruptions(rows)
    assert table.loc["Scratch", "none"].endswith("0") and "mean of all" in table.columns


def test_means_under_corruption_by_hand():
    five = [
        {"accuracy": a, "nll": 1.0, "ece": 0.0, "brier": 0.0} for a in (0.9, 0.8, 0.7, 0.6, 0.5)
    ]
    row = {
        "method": "a",
        "label": "A",
        "seed": 0,
        "selection": "last",
        "n": 9,
        "key": "k",
        "clean": {"accuracy": 1.0},
    }
    (line,) = tables.under_corruption(
        [row | {"corrupted": {"x": five, "y": [f | {"accuracy": 0.3} for f in five]}}]
    )
    assert line["accuracy"] == pytest.approx(0.5) and line["clean"] == 1.0


def test_calibration_fits_on_held_out_images_and_changes_no_prediction(lab):
    rows = questions.calibration(lab, specs(lab))
    for r in rows:
        assert (
            r["before"]["accuracy"] == r["after"]["accuracy"]
            and r["temperature"] > 0
            and r["n"] == 80
        )
        assert sum(r["before"]["reliability"]["count"]) == 80
    charts.reliability(rows).canvas.draw()
    assert list(tables.calibration(rows).index) == ["Scratch", "KD"]
    without = Lab(
        config.resolve("smoke", **SIZE | {"holdout": 0}), store=lab.store, say=lambda line: None
    )
    with pytest.raises(InputError, match="holds no images out"):
        questions.calibration(without, specs(without))


def test_choices_see_held_out_images_and_say_the_weights(lab):
    scratch, kd = questions.metrics_on(lab, specs(lab), "holdout")
    assert kd["n"] == 40 and (kd["alpha"], kd["gamma"]) == (1.0, 0.0) and "alpha" not in scratch
    assert questions.metrics_on(lab, specs(lab)[:1], "test")[0]["n"] == 80


def test_no_transfer_without_cifar10(lab):
    assert questions.transfer_sample(lab, specs(lab)) == []


def test_transfer_counts_images_of_the_training_set_apart(lab, tmp_path):
    """Labels such that the network is right on all unseen images and wrong on all seen ones."""
    spec, images = specs(lab)[0], lab.data.test.images
    answers = lab.evaluation(spec).array("logits").argmax(1)
    seen = np.arange(len(images)) % 4 == 0
    labels = np.where(seen, (answers + 1) % 8, answers)
    np.savez(
        tmp_path / questions.SAMPLE, images=images, labels=labels, source=seen.astype(np.uint8)
    )
    lab.settings = replace(lab.settings, dataset="cifar10", data_dir=str(tmp_path))
    (row,) = questions.transfer_sample(lab, [spec])
    assert (row["transfer"], row["seen"], row["n"], row["n_seen"]) == (1.0, 0.0, 60, 20)


def test_embedding_has_a_place_an_image(lab):
    (row,) = questions.embedding(lab, specs(lab)[:1], n=40)
    assert np.array(row["places"]).shape == (40, 2) and len(row["labels"]) == 40
    charts.embeddings([row], lab.data.test.class_names).canvas.draw()


def test_what_the_last_layer_sees_gives_the_logits(lab):
    spec = specs(lab)[0]
    where = np.arange(10)
    features, network = questions._penultimate(lab, spec, where), lab.network(spec)
    logits = network.fc(torch.from_numpy(features)).detach().numpy()
    np.testing.assert_allclose(
        logits, lab.evaluation(spec).array("logits")[where], rtol=1e-3, atol=1e-4
    )


def test_a_share_by_hand():
    """Rows r1 = (1, 0), r2 = (3, 4) at alpha 1/2: r = (2, 2), r2's half along r is (1.5, 2) . r /
    |r|^2 = 7/8.
    """
    first, second = torch.tensor([[1.0, 0.0], [2.0, 0.0]]), torch.tensor([[3.0, 4.0], [2.0, 0.0]])
    assert questions.share(first, second, alpha=0.5, order=None) == pytest.approx(
        (7 / 8 + 1 / 2) / 2
    )
    assert questions.share(first, second, alpha=0.0, order=None) == pytest.approx(1)
    assert questions.share(first, second, alpha=1.0, order=None) == 0
    # normalised first, (1, 0) and (0.6, 0.8): r = (0.8, 0.4), 0.5 * (0.6 * 0.8 + 0.8 * 0.4) / 0.8 =
    # 1/2
    assert questions.share(first, second, alpha=0.5, order="normalise") == pytest.approx(1 / 2)


def test_shares_of_trained_teachers(lab):
    """A heavier weight means a larger share, in every batch and stage."""
    asked = [
        specs_of(lab).student(m, 0) for m in ("scratch", "tgd", "tgd_alpha0.5", "tgd_normalise")
    ]
    found = {r["method"]: np.array(r["shares"]) for r in questions.shares(lab, asked, batches=2)}
    assert list(found) == ["tgd", "tgd_alpha0.5", "tgd_normalise"] and found["tgd"].shape == (2, 3)
    assert (found["tgd"] > 0).all() and (found["tgd"] < found["tgd_alpha0.5"]).all()
    assert (found["tgd_alpha0.5"] < 1).all()
    # of alpha 0.99
    assert (0 < found["tgd_normalise"]).all() and (found["tgd_normalise"] < 0.02).all()


def test_a_share_is_of_what_the_second_teacher_is_shown_and_each_looks_once(lab, monkeypatch):
    looks = []
    look = Teacher.look
    monkeypatch.setattr(Teacher, "look", lambda self, i: looks.append(len(i)) or look(self, i))
    names = [f"tgd_{second}_normalise{a}" for second in ("pi", "noise") for a in (0.5, 0.9)]
    asked = [specs_of(lab).student(name, 0) for name in names]
    lab.train([teacher for spec in asked for teacher in spec.teachers])
    found = {r["method"]: r["shares"] for r in questions.shares(lab, asked, batches=3)}
    assert len(looks) == 3 * 3  # batches; image teacher, PI teacher as ever and shown noise
    assert found["tgd_pi_normalise0.9"] != found["tgd_noise_normalise0.9"]  # at 0.5: a half each
    alone = {r["method"]: r["shares"] for r in questions.shares(lab, asked[3:], batches=3)}
    assert alone[names[3]] == found[names[3]] and len(looks) == 9  # from the store


def test_official_arrays_are_used_where_they_lie(lab, tmp_path, monkeypatch):
    """A fake CIFAR-10-C of 80 images beside a fake CIFAR-10."""
    folder = tmp_path / questions.OFFICIAL
    folder.mkdir()
    monkeypatch.setattr(corruptions, "OFFICIAL_IMAGES", 80)
    test = lab.data.test
    np.save(folder / "labels.npy", np.tile(test.labels, 5))
    official = np.zeros((400, 32, 32, 3), np.uint8)
    np.save(folder / "frost.npy", official)
    lab.settings = replace(lab.settings, dataset="cifar10", n_test=None, data_dir=str(tmp_path))
    source = questions._source(lab)
    assert (source.kind, source.names) == ("official", ("frost",))
    images, places = questions._subset(lab)
    assert len(places) == 40 and not source.images(images.images, places, "frost", 3).any()
    np.save(folder / "labels.npy", np.tile((test.labels + 1) % 8, 5))
    with pytest.raises(InputError, match="not those of these test images"):
        questions._source(lab)


def test_a_spanning_tree_has_gudhis_deaths(lab):
    """Of the embedding itself, over its mean distance, in every network."""
    import gudhi

    rows = questions.spanning_trees(lab, specs(lab), n=24)
    where = questions._some(lab.data.test.labels, 24, seed=lab.settings.data_seed)
    for row, spec in zip(rows, specs(lab), strict=True):
        cloud = questions._penultimate(lab, spec, where).astype(float)
        complex_ = gudhi.RipsComplex(points=cloud).create_simplex_tree(max_dimension=1)
        complex_.compute_persistence()
        found = complex_.persistence_intervals_in_dimension(0)[:, 1]
        apart = np.linalg.norm(cloud[:, None] - cloud, axis=-1)
        wanted = np.sort(found)[:-1] / apart[np.triu_indices(24, 1)].mean()
        np.testing.assert_allclose(row["deaths"], wanted, atol=1e-4)
        assert np.shape(row["edges"]) == (23, 2) and np.shape(row["places"]) == (24, 2)
        assert len(row["labels"]) == 24 and row["key"] == spec.key
        joined = [row["labels"][a] != row["labels"][b] for a, b in row["edges"]]
        assert row["across"] == joined and any(joined)
    clouds.trees(rows, lab.data.test.class_names).canvas.draw()
    clouds.deaths(rows).canvas.draw()


def test_what_networks_say_of_one_image_is_what_they_say_among_many(lab):
    """To the rounding of another batch; the PI teacher's persistence image is made on the spot."""
    study = specs_of(lab)
    networks = {"image": study.teacher("image"), "pi": study.teacher("pi"), "s": specs(lab)[0]}
    found = questions.probabilities(lab, networks, lab.data.test.images[7])
    for name, spec in networks.items():
        logits = torch.from_numpy(lab.evaluation(spec).array("logits"))[7]
        np.testing.assert_allclose(found[name], logits.softmax(0).numpy(), atol=1e-5)
