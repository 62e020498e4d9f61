"""The teacher bank and the teachers online: two ways to the same loss."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from tgd_lib import bank, losses, tiles, training
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


def banked(case, folder=None, alpha=WEIGHTS["alpha"]):
    """The bank of both teachers: float32 in memory, or float16 in the files of a folder."""
    logits = tuple(bank.teacher_logits(t) for t in case.teachers)
    if folder is None:
        raw = [tiles.raw_maps(t) for t in case.teachers]
        return bank.Bank(logits, bank.merged(*raw, alpha=alpha))
    weighted = list(zip(case.teachers, (alpha, 1 - alpha), strict=True))
    about = tiles.build(folder, weighted, say=lambda line: None)
    return bank.Bank(logits, tiles.mapped(folder), about["scales"])


def loss(case, source, index, **changes):
    student = Compute().place(wide_resnet(10, 1, 3, CLASSES, seed=3)).train()
    logits, features, _ = student.stages(case.pixels[index])
    weights = WEIGHTS | changes
    return losses.tgd_loss(logits, case.labels[index], features, *source.batch(index), **weights)


@pytest.mark.parametrize(("files", "tolerance"), [(False, 1e-5), (True, 1e-3)])
@pytest.mark.parametrize("alpha", [0.99, 0.5])
def test_bank_and_online_agree(case, files, tolerance, alpha, tmp_path):
    index = torch.randperm(N, generator=torch.Generator().manual_seed(4))[:17]
    online = loss(case, bank.Online(case.teachers), index, alpha=alpha)
    stored = loss(case, banked(case, tmp_path if files else None, alpha), index, alpha=alpha)
    for a, b in zip(
        (online[0], *online[1].values()), (stored[0], *stored[1].values()), strict=True
    ):
        assert float(a.detach()) == pytest.approx(float(b.detach()), rel=tolerance)


@pytest.mark.parametrize("block", [5, 16, 60])
def test_logits_are_noted_while_maps_are_made(case, block, monkeypatch):
    """To the bit, in the order of the images, whatever the blocks of the maps are."""
    monkeypatch.setitem(bank.GLANCE, "cpu", 5)
    noted = bank.Noted(case.teachers[1])
    maps = tiles.raw_maps(noted, plan=tiles.Plan(N, block - block % 5))
    assert torch.equal(noted.logits, bank.teacher_logits(case.teachers[1]))
    for found, wanted in zip(maps, tiles.raw_maps(case.teachers[1]), strict=True):
        torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("lone", [0, 1])
def test_one_teacher_alone(case, lone):
    alpha = 1.0 - lone
    pair = tuple(t if i == lone else None for i, t in enumerate(case.teachers))
    maps = [t and tiles.raw_maps(t) for t in pair]
    logits = tuple(t and bank.teacher_logits(t) for t in pair)
    stored = bank.Bank(logits, bank.merged(*maps, alpha=alpha))
    index = torch.arange(0, N, 4)
    a, b = (
        float(loss(case, s, index, alpha=alpha)[0].detach()) for s in (stored, bank.Online(pair))
    )
    assert a == pytest.approx(b, rel=1e-5)


@pytest.mark.parametrize(("files", "tolerance"), [(False, 1e-4), (True, 5e-2)])
def test_an_epoch_by_bank_is_an_epoch_online(case, files, tolerance, tmp_path):
    """To rounding, that is: of maps of three digits, which rate 0.1 and gamma 3000 amplify in every
    step.
    """

    def trained(source):
        def objective(outputs, labels, index, epoch):
            return losses.tgd_loss(
                outputs.logits, labels, outputs.features, *source.batch(index), **WEIGHTS
            )

        student, schedule = wide_resnet(10, 1, 3, CLASSES, seed=3), Schedule(1, 1, 16)
        r = training.Run(student, case.pixels, case.labels, schedule, seed=0, objective=objective)
        r.begin()
        for number in range(r.steps):
            r.advance(number)
        return r.conclude(), r.network.state_dict()

    stored = banked(case, tmp_path if files else None)
    (a, first), (b, second) = trained(stored), trained(bank.Online(case.teachers))
    assert a["loss"] == pytest.approx(b["loss"], rel=1e-3 if files else 1e-4)
    for name in first:
        off = (first[name] - second[name]).abs().max()
        assert off <= tolerance * second[name].abs().max(), name


def test_online_teachers_get_no_gradient(case):
    loss(case, bank.Online(case.teachers), torch.arange(8))[0].backward()
    assert all(p.grad is None for t in case.teachers for p in t.network.parameters())


def test_a_container_s_limit_counts(tmp_path):
    def write(**files):
        for name, text in files.items():
            (tmp_path / f"memory.{name}").write_text(text)
        return bank._left_in_container(tmp_path)

    assert bank._left_in_container(tmp_path / "none") == float("inf")
    stat = "anon 40\ninactive_file 20\nactive_file 10\n"  # a bank that was read twice is active
    assert write(max="max\n", current="70\n", stat=stat) == float("inf")
    assert write(max="100\n", current="70\n", stat=stat) == 60


def chosen(mode="auto", *, free, n=1000, **options):
    """Three maps of 1,000 images take 12 MB in fp32, 6 MB in fp16."""
    choice = bank.choose(mode, n=n, free=free, **options)
    return choice.mode, choice.dtype


def test_the_choice_follows_the_memory():
    # Single precision leaves as much for merging; half precision a fifth for the student.
    assert chosen(free=24e6) == ("bank", torch.float32)
    assert chosen(free=23.9e6) == ("bank", torch.float16)
    assert chosen(free=7.5e6) == ("bank", torch.float16)
    assert chosen(free=7.4e6) == ("online", torch.float32)
    assert chosen("online", free=1e12) == ("online", torch.float32)
    why = bank.choose("auto", n=20_000, free=2e9).why
    assert why == "2.4 GB of maps in fp16, 2.0 GB free on cpu; 'bank' would read the disk"


def test_the_paper_s_setting_fits_a_machine_of_24_gb():
    assert chosen(n=50_000, free=19e9) == ("bank", torch.float16)
    assert chosen(n=50_000, free=18e9) == ("online", torch.float32)
    # However much room there is, what is large is built into files.
    assert chosen(n=50_000, free=1e12) == ("bank", torch.float16)
    assert chosen(n=18_000, free=1e12) == ("bank", torch.float32)


def test_the_choice_counts_sets_of_maps():
    """Two teachers whose maps stay apart have one each; a student of logits has none."""
    assert chosen(free=24e6, sets=2) == ("bank", torch.float16)
    assert chosen(free=0, sets=0) == ("bank", torch.float32)


def test_a_bank_larger_than_the_memory_is_read_from_the_disk_where_asked():
    choice = bank.choose("bank", n=1000, free=5.9e6)
    assert choice[:2] == ("bank", torch.float16) and not choice.fits
    assert "every step reads the disk" in choice.why
    assert bank.choose("bank", n=1000, free=6.1e6).fits
    with pytest.raises(InputError, match="teachers='online'"):
        bank.choose("bank", n=1000, free=5e6, device="cuda")


def test_a_mistyped_mode_is_refused():
    with pytest.raises(InputError, match="'auto', 'bank' or 'online'"):
        bank.choose("bnak", n=1, free=1e9)


def test_a_pair_keeps_the_teachers_apart(case):
    """Normalise-then-merge needs both raw maps in a batch: from the bank as online."""
    banks = []
    for teacher in case.teachers:
        maps = bank.merged(tiles.raw_maps(teacher), None, alpha=1.0)
        banks.append(bank.Bank((bank.teacher_logits(teacher), None), maps))
    index = torch.arange(0, N, 3)
    logits, maps = bank.Pair(*banks).batch(index)
    wanted_logits, wanted = bank.Online(case.teachers).batch(index)
    for a, b in zip(
        (*logits, *maps[0], *maps[1]), (*wanted_logits, *wanted[0], *wanted[1]), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-3)
    apart = {"order": "normalise", "alpha": 0.5}
    stored, online = (
        float(loss(case, source, index, **apart)[0].detach())
        for source in (bank.Pair(*banks), bank.Online(case.teachers))
    )
    assert stored == pytest.approx(online, rel=1e-4)


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
