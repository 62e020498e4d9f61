"""The teacher bank and the teachers online: two ways to the same loss."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from tgd_lib import bank, losses, training
from tgd_lib.compute import Compute, Pixels
from tgd_lib.config import InputError, Schedule
from tgd_lib.networks import wide_resnet

N, CLASSES = 60, 5
WEIGHTS = {"alpha": 0.9, "lam": 0.9, "temperature": 4.0, "gamma": 3000.0, "kl_reduction": "mean"}


@dataclass
class Case:
    teachers: tuple
    labels: torch.Tensor
    pixels: Pixels


@pytest.fixture(scope="module")
def case():
    rng = np.random.default_rng(1)
    compute = Compute()

    def teacher(channels, side, seed):
        array = rng.integers(0, 256, (N, channels, side, side)).astype(np.uint8)
        network = compute.place(wide_resnet(10, 2, channels, CLASSES, seed=seed)).eval()
        return bank.Teacher(network, Pixels(array, (0.5,) * channels, (0.25,) * channels, compute))

    teachers = (teacher(3, 12, 1), teacher(6, 16, 2))
    return Case(teachers, torch.from_numpy(rng.integers(0, CLASSES, N)), teachers[0].pixels)


def banked(case, dtype=torch.float32, alpha=WEIGHTS["alpha"]):
    maps, scales = bank.merged(*(bank.raw_maps(t) for t in case.teachers), alpha=alpha, dtype=dtype)
    return bank.Bank(tuple(bank.teacher_logits(t) for t in case.teachers), maps, scales)


def loss(case, source, index, **changes):
    student = Compute().place(wide_resnet(10, 1, 3, CLASSES, seed=3)).train()
    logits, features = student.stages(case.pixels[index])
    weights = WEIGHTS | changes
    return losses.tgd_loss(logits, case.labels[index], features, *source.batch(index), **weights)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float16, 1e-3)])
@pytest.mark.parametrize("alpha", [0.99, 0.5])
def test_bank_and_online_agree(case, dtype, tolerance, alpha):
    index = torch.randperm(N, generator=torch.Generator().manual_seed(4))[:17]
    online = loss(case, bank.Online(case.teachers), index, alpha=alpha)
    stored = loss(case, banked(case, dtype, alpha), index, alpha=alpha)
    for a, b in zip((online[0], *online[1].values()), (stored[0], *stored[1].values()), strict=True):
        assert float(a.detach()) == pytest.approx(float(b.detach()), rel=tolerance)


@pytest.mark.parametrize("lone", [0, 1])
def test_one_teacher_alone(case, lone):
    alpha = 1.0 - lone
    pair = tuple(t if i == lone else None for i, t in enumerate(case.teachers))
    maps = [t and bank.raw_maps(t) for t in pair]
    stored = bank.Bank(tuple(t and bank.teacher_logits(t) for t in pair), *bank.merged(*maps, alpha=alpha))
    index = torch.arange(0, N, 4)
    a, b = (float(loss(case, s, index, alpha=alpha)[0].detach()) for s in (stored, bank.Online(pair)))
    assert a == pytest.approx(b, rel=1e-5)


def test_blocks_and_symmetry_give_the_plain_product(case):
    teacher = case.teachers[1]
    _, features = teacher.look(slice(0, N))
    plain = [losses.similarity_map(f) for f in features]
    per_image = sum(f[0].numel() for f in features) * 4
    for budget in (10**9, 2 * per_image * 17, 1):  # one block, four blocks, blocks of one image
        for a, b in zip(bank.raw_maps(teacher, budget=budget), plain, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-2)
            assert torch.equal(a, a.T)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float16, 1e-3)])
def test_merging_while_building_is_merging_afterwards(case, dtype, tolerance):
    afterwards, _ = bank.merged(*(bank.raw_maps(t) for t in case.teachers), alpha=0.7)
    at_once, scales = bank.gram(case.teachers, (0.7, 0.3), dtype=dtype, budget=10_000_000)
    for a, b, scale in zip(afterwards, at_once, scales, strict=True):
        assert b.dtype == dtype
        torch.testing.assert_close(b.float() * scale, a, rtol=tolerance, atol=tolerance * float(a.max()))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float16, 5e-2)])
def test_an_epoch_by_bank_is_an_epoch_online(case, dtype, tolerance):
    """To rounding, that is: of maps of three digits, which rate 0.1 and gamma 3000 amplify in every step."""

    def trained(source):
        def objective(logits, features, labels, index):
            return losses.tgd_loss(logits, labels, features, *source.batch(index), **WEIGHTS)

        r = training.Run(
            wide_resnet(10, 1, 3, CLASSES, seed=3), case.pixels, case.labels, Schedule(1, 1, 16), seed=0, objective=objective
        )
        r.begin()
        for number in range(r.steps):
            r.advance(number)
        return r.conclude(), r.network.state_dict()

    (a, first), (b, second) = trained(banked(case, dtype)), trained(bank.Online(case.teachers))
    assert a["loss"] == pytest.approx(b["loss"], rel=1e-4 if dtype == torch.float32 else 1e-3)
    for name in first:
        off = (first[name] - second[name]).abs().max()
        assert off <= tolerance * second[name].abs().max(), name


def test_online_teachers_get_no_gradient(case):
    loss(case, bank.Online(case.teachers), torch.arange(8))[0].backward()
    assert all(p.grad is None for t in case.teachers for p in t.network.parameters())


def test_half_precision_does_not_overflow():
    big = [torch.full((4, 4), 1e9) for _ in range(bank.STAGES)]
    maps, scales = bank.merged(big, None, alpha=1.0, dtype=torch.float16)
    assert scales == [1e9 / 2**15] * 3 and all(float(m.max()) == 2**15 for m in maps)


def test_half_precision_does_not_underflow():
    """An image whose features are ten thousand times weaker: its row is normalised by itself, so it must keep its digits."""
    features = torch.tensor([[1e4, 0.0], [8e3, 6e3], [0.3, 0.4], [0.5, 0.1]])
    full = [features @ features.T] * bank.STAGES
    maps, scales = bank.merged(full, None, alpha=1.0, dtype=torch.float16)
    torch.testing.assert_close(maps[0].float() * scales[0], full[0], rtol=2e-2, atol=0)


def test_a_container_s_limit_counts(tmp_path):
    def write(**files):
        for name, text in files.items():
            (tmp_path / f"memory.{name}").write_text(text)
        return bank._left_in_container(tmp_path)

    assert bank._left_in_container(tmp_path / "none") == float("inf")
    assert write(max="max\n", current="70\n", stat="anon 50\ninactive_file 20\n") == float("inf")
    assert write(max="100\n", current="70\n", stat="anon 50\ninactive_file 20\n") == 50


def test_blocks_are_halves_of_the_budget_and_cover_everything(case):
    per_image = 4 * sum(f[0].numel() for f in case.teachers[0].look(slice(0, 1))[1])
    blocks = bank._blocks(case.teachers[:1], 2 * per_image * 25)
    assert [i for b in blocks for i in range(b.start, b.stop)] == list(range(N))
    assert max(b.stop - b.start for b in blocks) <= 25


def test_the_choice_follows_the_memory(monkeypatch):
    n = 1000  # three maps: 12 MB in fp32, 6 MB in fp16
    found, why = {}, {}
    for free in (25e6, 13e6, 11e6):
        monkeypatch.setattr(bank, "available", lambda compute, free=free: int(free))
        *found[free], why[free] = bank.choose("auto", n=n, compute=Compute())
    found = {free: tuple(what) for free, what in found.items()}
    assert why[13e6] == "0.0 GB of maps in fp16, 0.0 GB free on cpu" and "in fp32" in why[25e6]
    assert found == {
        25e6: ("bank", torch.float32),
        13e6: ("bank", torch.float16),
        11e6: ("online", torch.float32),
    }
    assert bank.choose("online", n=1, compute=Compute())[0] == "online"
    with pytest.raises(InputError, match="online"):
        bank.choose("bank", n=n, compute=Compute())
    with pytest.raises(InputError, match="'auto', 'bank' or 'online'"):
        bank.choose("bnak", n=n, compute=Compute())


def test_a_pair_keeps_the_teachers_apart(case):
    """Normalise-then-merge needs both raw maps in a batch: from the bank as online."""
    banks = [bank.Bank((bank.teacher_logits(t), None), bank.raw_maps(t)) for t in case.teachers]
    index = torch.arange(0, N, 3)
    logits, maps = bank.Pair(*banks).batch(index)
    wanted_logits, wanted = bank.Online(case.teachers).batch(index)
    for a, b in zip((*logits, *maps[0], *maps[1]), (*wanted_logits, *wanted[0], *wanted[1]), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-3)
    features = [f.detach() for f in wide_resnet(10, 1, 3, CLASSES, seed=0).stages(case.pixels[index])[1]]
    losses_of = [
        float(losses.maps_loss([losses.similarity_map(f) for f in features], losses.merge_maps(*m, alpha=0.5, order="normalise")))
        for m in (maps, wanted)
    ]
    assert losses_of[0] == pytest.approx(losses_of[1], rel=1e-4)


def test_remembered_is_the_teacher(case):
    teacher, index = case.teachers[0], torch.tensor([3, 59, 0])
    kept = bank.remember(teacher, room=1e9)
    logits, features = kept.look(index)
    wanted_logits, wanted = teacher.look(index)
    torch.testing.assert_close(logits, wanted_logits, rtol=1e-4, atol=1e-5)
    for a, b in zip(features, wanted, strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    assert bank.remember(teacher, room=1000) is None
