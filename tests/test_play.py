"""Controls are driven by their values, and the picture follows; without a
player it stands still."""

import matplotlib
import numpy as np
import pytest

matplotlib.use("agg")

from matplotlib.figure import Figure  # noqa: E402

from tgd_lib import diagrams, topology  # noqa: E402
from tgd_lib.companion import play  # noqa: E402
from tgd_lib.report import figures  # noqa: E402

IMAGES = np.random.default_rng(0).integers(0, 255, (3, 8, 8, 3), np.uint8)


@pytest.fixture
def player(monkeypatch):
    """A player of persistence images, and what it has drawn, newest last."""
    pytest.importorskip("ipywidgets")
    monkeypatch.delenv(play.STATIC, raising=False)
    drawn, pipeline = [], figures.pipeline

    def watched(image, signal, diagram, pi, **options):
        drawn.append({"image": image, "signal": signal, "diagram": diagram, "pi": pi} | options)
        return pipeline(image, signal, diagram, pi, **options)

    monkeypatch.setattr(figures, "pipeline", watched)
    return play.persistence(IMAGES), drawn


@pytest.mark.slow
def test_the_picture_follows_every_control(player):
    player, drawn = player
    moved = {"number": 2, "channel": "blue", "direction": "column", "level": 0.7}
    moved |= {"window": 1.0, "sigma": 0.05, "threshold": 0.1, "resolution": 25}
    assert set(moved) == set(player.controls)
    seen = {player.picture.value}
    for name, value in moved.items():
        player.controls[name].value = value
        assert player.picture.value not in seen, name  # another picture than any before
        seen.add(player.picture.value)
    last = drawn[-1]
    params = topology.PersistenceImageParams(high=1.0, sigma=0.05, threshold=0.1, resolution=25)
    np.testing.assert_array_equal(last["image"], IMAGES[2])
    np.testing.assert_array_equal(last["signal"], IMAGES[2, :, :, 2].T.ravel() / 255)
    wanted = topology.persistence_images(IMAGES[2:], "column", params)[0, 2]
    np.testing.assert_array_equal(last["pi"], wanted)
    np.testing.assert_array_equal(
        last["diagram"], diagrams.sublevel_diagrams(last["signal"][None])[0]
    )
    assert (last["level"], last["upto"]) == (0.7, 1.0)


def test_it_begins_with_the_paper_s_settings(player):
    player, drawn = player
    values = {name: control.value for name, control in player.controls.items()}
    paper = topology.PAPER
    assert (values["window"], values["sigma"], values["threshold"]) == (0.3, 0.01, 0.02)
    assert values["resolution"] == paper.resolution and len(drawn) == 1
    np.testing.assert_array_equal(drawn[0]["pi"], topology.persistence_images(IMAGES, "row")[0, 0])


def test_an_image_of_one_s_choice_is_put_to_the_networks(monkeypatch):
    pytest.importorskip("ipywidgets")
    monkeypatch.delenv(play.STATIC, raising=False)
    asked = []

    def drawn(image, given, names, truth):
        asked.append((given["a"].tolist(), truth))
        return Figure()

    monkeypatch.setattr(figures, "opinions", drawn)
    known = {IMAGES[0].tobytes(): [0.9, 0.1], IMAGES[2].tobytes(): [0.2, 0.8]}
    labels = np.array([0, 0, 1])
    player = play.opinions(
        IMAGES, labels, lambda image: {"a": np.array(known[image.tobytes()])}, ("cat", "dog")
    )
    player.controls["number"].value = 2
    assert asked == [([0.9, 0.1], 0), ([0.2, 0.8], 1)]


def test_where_nobody_plays_there_is_the_picture(monkeypatch):
    monkeypatch.setenv(play.STATIC, "1")
    assert isinstance(play.persistence(IMAGES, number=1), Figure)
    monkeypatch.delenv(play.STATIC)
    monkeypatch.setattr(play.importlib.util, "find_spec", lambda name: None)
    assert not play.interactive()  # without ipywidgets it is no different
