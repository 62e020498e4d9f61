"""Networks: sizes as in the recipe, shapes, seeds, the authors' checkpoints."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import anchors
from tgd_lib import config, networks
from tgd_lib.compute import Compute, Pixels
from tgd_lib.config import InputError
from tgd_lib.evaluation import logits_of, metrics

SHARED = Path(__file__).resolve().parents[2] / "shared"
CHECKPOINTS = SHARED / "reference" / "authors_checkpoints"

COUNTS = {
    (16, 1): 175_066, (16, 2): 691_674, (16, 3): 1_549_530, (16, 8): 10_961_370, (28, 1): 369_498,
    (28, 3): 3_294_042, (40, 1): 563_930, (40, 2): 2_243_546,
}  # fmt: skip


@pytest.mark.parametrize(("size", "count"), COUNTS.items())
def test_parameter_counts_are_the_recipe_s(size, count):
    with torch.device("meta"):
        network = networks.WideResNet(*size)
    assert networks.parameter_count(network) == count


def test_the_pi_teacher_has_the_recipe_s_size():
    assert networks.parameter_count(networks.wide_resnet(16, 3, in_channels=6)) == 1_549_962


@pytest.mark.parametrize(
    ("channels", "side", "classes"), [(3, 32, 10), (6, 50, 10), (3, 17, 4), (1, 8, 2)]
)
def test_shapes(channels, side, classes):
    network = networks.wide_resnet(10, 2, channels, classes, seed=0).eval()
    x = torch.randn(2, channels, side, side)
    logits, features, embedding = network.stages(x)
    half, quarter = -(-side // 2), -(-side // 4)
    assert logits.shape == (2, classes)
    shapes = [tuple(f.shape) for f in features]
    assert shapes == [(2, 32, side, side), (2, 64, half, half), (2, 128, quarter, quarter)]
    assert torch.equal(network(x), logits)
    assert embedding.shape == (2, 128) and torch.equal(network.fc(embedding), logits)


def test_multiply_adds_are_the_recipe_s():
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        networks.wide_resnet(16, 1).eval()(torch.zeros(1, 3, 32, 32))
    assert counter.get_total_flops() / 2 == pytest.approx(26.66e6, rel=2e-3)


def test_a_seed_fixes_the_weights_and_leaves_the_global_state_alone():
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    one, two, other = (networks.wide_resnet(10, 1, seed=s).state_dict() for s in (5, 5, 6))
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(one[k], two[k]) for k in one)
    assert not torch.equal(one["conv.weight"], other["conv.weight"])


def test_initial_weights_have_the_recipe_s_spread():
    w = networks.wide_resnet(16, 8, seed=0).stage3[1].conv2.weight.detach()
    assert float(w.std()) == pytest.approx((2 / (9 * 512)) ** 0.5, rel=0.01)


def test_shortcuts_only_where_something_changes():
    network = networks.wide_resnet(16, 1)
    has = [
        [b.shortcut is not None for b in s]
        for s in (network.stage1, network.stage2, network.stage3)
    ]
    assert has == [[False, False], [True, False], [True, False]]
    assert networks.wide_resnet(16, 3).stage1[0].shortcut is not None


@pytest.mark.parametrize("bad", [(15, 1), (4, 1), (16, 0), (16, 1, 0), (16, 1, 3, 0)])
def test_impossible_networks_are_refused(bad):
    with pytest.raises(InputError):
        networks.wide_resnet(*bad)


def test_foreign_checkpoints_are_refused_in_one_line(tmp_path):
    torch.save({"something": torch.zeros(2)}, tmp_path / "other.pth")
    torch.save({"model_state_dict": {"conv1.weight": torch.zeros(2)}}, tmp_path / "small.pth")
    torch.save(networks.wide_resnet(10, 1), tmp_path / "pickled.pth")  # a pickle: never loaded
    (tmp_path / "text.pth").write_text("hello")
    (tmp_path / "empty.pth").touch()
    for name in ("other", "small", "pickled", "text", "empty", "missing"):
        with pytest.raises(InputError) as e:
            networks.load_authors_checkpoint(tmp_path / f"{name}.pth")
        assert "\n" not in str(e.value) and name in str(e.value)


ANCHORS = {
    "wrn161_Student": (0.8454, 0.660, 0.0921),
    "T163_S161_kd": (0.8517, 0.642, 0.0903),
    "T163_S161_TGD": (0.8595, 0.560, 0.0794),
}


@pytest.fixture(scope="module")
def cifar10_test():
    if not CHECKPOINTS.is_dir():
        pytest.skip("../shared with the authors' checkpoints and CIFAR-10 is not here")
    from PIL import Image

    strips = sorted((SHARED / "data" / "cifar10").glob("test_*.webp"))
    images = np.concatenate(
        [np.asarray(Image.open(s).convert("RGB")).reshape(-1, 32, 32, 3) for s in strips]
    )
    assert hashlib.sha256(images.tobytes()).hexdigest()[:8] == "12496260"
    with np.load(SHARED / "data" / "cifar10" / "labels.npz") as f:
        return images, torch.from_numpy(f["test"].astype(np.int64))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "anchor"), ANCHORS.items())
def test_authors_checkpoints_give_their_figures(cifar10_test, name, anchor):
    images, labels = cifar10_test
    network = Compute().place(networks.load_authors_checkpoint(CHECKPOINTS / f"{name}.pth.tar"))
    pixels = Pixels(
        images.transpose(0, 3, 1, 2), (0.507, 0.487, 0.441), (0.267, 0.256, 0.276), Compute()
    )
    found = metrics(logits_of(network, pixels), labels)
    assert found["accuracy"] == pytest.approx(anchor[0], abs=2e-4)
    assert found["nll"] == pytest.approx(anchor[1], abs=1e-3)
    assert found["ece"] == pytest.approx(anchor[2], abs=2e-4)
    recorded = json.loads((config.ROOT / "benchmarks/recorded/anchors.json").read_text())
    (row,) = [r for r in recorded["rows"] if anchors.FILES[r["method"]] == f"{name}.pth.tar"]
    for metric in ("accuracy", "nll", "ece"):
        assert row["clean"][metric] == pytest.approx(found[metric], abs=2e-4)
