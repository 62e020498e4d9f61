"""Baseline losses against golden numbers (float64 NumPy, tests/golden/make_baselines.py) and
literals by hand.
"""

import math
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tgd_lib import baselines
from tgd_lib.baselines import LOSSES, NEEDS
from tgd_lib.config import InputError
from tgd_lib.networks import Outputs
from tgd_lib.ripsnet import RipsNet
from tgd_lib.study.methods import METHODS

pytestmark = pytest.mark.usefixtures("one_thread")

GOLDEN = Path(__file__).parent / "golden"
WITH_OWN = ("fitnets", "cc", "vid", "topkd")
BASELINES = {m.baseline.loss: m.baseline for m in METHODS.values() if m.baseline}
LABELS = torch.tensor([0])  # for the losses that do not look at them


@pytest.mark.parametrize("name", LOSSES)
def test_no_value_of_a_tensor_is_read(given, name):
    """A look at one would make every step wait for a GPU."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class NoReading(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            read = ("_local_scalar_dense", "nonzero", "masked_select")
            assert not any(word in str(function) for word in read), function
            return function(*args, **(kwargs or {}))

    student, teacher, labels, own = given
    with NoReading():
        assert LOSSES[name](student, teacher, labels, own[name]).shape == ()


@pytest.fixture(scope="module")
def golden(golden_numbers):
    return golden_numbers("baselines")


@pytest.fixture(scope="module")
def maker(golden_maker):
    return golden_maker("baselines")


@pytest.fixture(scope="module")
def given(maker):
    """(student, teacher, labels, {name: own module with the golden weights})."""
    x = maker.inputs()
    student, teacher = (
        Outputs(
            torch.as_tensor(x[who]).float(),
            [torch.as_tensor(f).float() for f in x[f"features_{who[0]}"]],
            torch.as_tensor(x[f"embedding_{who[0]}"]).float(),
        )
        for who in ("student", "teacher")
    )
    own = {
        name: baselines.own_parameters(name, maker.STUDENT, maker.TEACHER, seed=0)
        for name in LOSSES
    }
    for module in filter(None, own.values()):
        module.requires_grad_(False)
    for name, part in (("fitnets", "hint"), ("cc", "embed"), ("vid", "channels")):
        weights = {k: torch.as_tensor(v).float() for k, v in x[part].items()}
        _, unexpected = own[name].load_state_dict(weights, strict=False)
        assert not unexpected
    for name in ("match", "ripsnet"):
        own["topkd"][name].load_state_dict(
            {k: torch.as_tensor(v).float() for k, v in x[name].items()}
        )
    return student, teacher, torch.as_tensor(x["labels"]), own


def answer(pixels, logits=None):
    """Outputs whose three stages are all `pixels` (B, c, h, w), and the embedding their mean."""
    logits = torch.zeros(len(pixels), 2) if logits is None else logits
    return Outputs(logits, [pixels] * 3, pixels.mean((2, 3)))


def changed(a, change):
    """Outputs, each of whose tensors is changed alike."""
    return Outputs(change(a.logits), [change(f) for f in a.features], change(a.embedding))


def chosen(a, images):
    return changed(a, lambda x: x[images])


def tracked(a):
    return changed(a, lambda x: x.clone().requires_grad_())


def gradients(a):
    return [x.grad for x in (a.logits, *a.features, a.embedding) if x.grad is not None]


# ---------------------------------------------------------------- golden


def test_golden_file_is_what_its_maker_makes(golden, maker):
    assert maker.golden() == pytest.approx(golden, rel=1e-9)


@pytest.mark.parametrize("name", LOSSES)
def test_loss_is_golden(golden, given, name):
    student, teacher, labels, own = given
    found = LOSSES[name](student, teacher, labels, own[name])
    assert found.shape == () and found.dtype == torch.float32
    assert float(found) == pytest.approx(golden[name], rel=2e-4 if name == "pkt" else 2e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_objective_is_the_weighted_sum(golden, given, name):
    student, teacher, labels, own = given
    total, terms = baselines.baseline_loss(
        name, student, teacher, labels, own[name], **BASELINES[name].weights
    )
    assert list(terms) == ["ce", "kd", "baseline"]
    assert float(terms["ce"]) == pytest.approx(golden["ce"], rel=1e-5)
    if name == "topkd":  # the only one whose own objective holds plain KD
        assert float(terms["kd"]) > 0
    else:
        assert float(terms["kd"]) == 0
    assert float(terms["baseline"]) == pytest.approx(
        BASELINES[name].weight * golden[name], rel=2e-4
    )
    assert float(total) == pytest.approx(float(sum(terms.values())), rel=1e-6)


def test_plain_kd_can_stand_beside_a_baseline(given):
    student, teacher, labels, _ = given
    total, terms = baselines.baseline_loss(
        "at", student, teacher, labels, weight=2.0, ce=0.1, kd=0.9
    )
    kd = baselines.kd_loss(student.logits, teacher.logits, temperature=4.0, reduction="batchmean")
    assert float(terms["kd"]) == pytest.approx(0.9 * float(kd), rel=1e-6)
    assert float(terms["ce"]) == pytest.approx(
        0.1 * float(F.cross_entropy(student.logits, labels)), rel=1e-6
    )
    assert float(total) == pytest.approx(float(sum(terms.values())), rel=1e-6)


def test_weights_are_the_customary_ones():
    assert set(BASELINES) == set(LOSSES)
    assert {name: r.weight for name, r in BASELINES.items()} == {
        "fitnets": 100, "at": 1000, "sp": 3000, "cc": 0.02, "rkd": 1, "vid": 1, "pkt": 30000,
        "topkd": 5, "dkd": 1, "dist": 2,
    }  # fmt: skip
    assert all((r.ce, r.temperature) == (1, 4) and r.source for r in BASELINES.values())
    assert {name: r.kd for name, r in BASELINES.items() if r.kd} == {"topkd": 2}
    assert set(NEEDS) == set(LOSSES)


# ---------------------------------------------------------------- by hand


def test_fitnets_by_hand():
    # the middle stages differ by 2 in one of four entries: 4 / 4
    s = torch.zeros(1, 1, 2, 2)
    t = torch.tensor([[[[2.0, 0.0], [0.0, 0.0]]]])
    assert float(baselines.fitnets(answer(s), answer(t), LABELS, nn.Identity())) == 1


def test_at_by_hand():
    # attention (1, 0) against (9 + 16, 25) / |.| = (1, 1) / sqrt 2, the same in three stages
    s = torch.tensor([[[[5.0, 0.0]]]])
    t = torch.tensor([[[[3.0, 0.0]], [[4.0, 5.0]]]])
    mse = ((1 - math.sqrt(0.5)) ** 2 + 0.5) / 2
    assert float(baselines.at(answer(s), answer(t), LABELS)) == pytest.approx(3 * mse, rel=1e-6)


def test_sp_by_hand():
    # rows e1, e2 have the map I; rows e1, e1 have ones, normalised 1 / sqrt 2
    s, t = torch.eye(2)[:, :, None, None], torch.tensor([[1.0, 0.0], [1.0, 0.0]])[:, :, None, None]
    wanted = 2 * ((1 - math.sqrt(0.5)) ** 2 + 0.5) / 4
    assert float(baselines.sp(answer(s), answer(t), LABELS)) == pytest.approx(wanted, rel=1e-6)


def test_vid_by_hand():
    # a teacher met exactly, variance 5: ln 5 / 2 in each of three stages; a miss of 2 adds 4 / (2 *
    # 5)
    own = baselines.own_parameters("vid", (1, 1, 1), (1, 1, 1), seed=0).requires_grad_(False)
    for channel in own:
        for conv in channel.mean[::2]:
            nn.init.ones_(conv.weight)
    s = torch.full((1, 1, 2, 2), 3.0)
    assert float(baselines.vid(answer(s), answer(s), LABELS, own)) == pytest.approx(
        1.5 * math.log(5), rel=1e-5
    )
    missed = 3 * (math.log(5) / 2 + 0.4)
    assert float(baselines.vid(answer(s), answer(s + 2), LABELS, own)) == pytest.approx(
        missed, rel=1e-5
    )


def test_cc_by_hand():
    # both are (1, 0, 1, 0); with weights 1 and -1 their distances 2, 0, 2, 0 have no product, and a
    # bias of 1 makes them 3, 1, 3, 1
    x = torch.tensor([1.0, 0.0, 1.0, 0.0])[:, None, None, None]
    own = nn.ModuleList([nn.Linear(1, 1), nn.Linear(1, 1)]).requires_grad_(False)
    for linear, weight in zip(own, (1.0, -1.0), strict=True):
        nn.init.constant_(linear.weight, weight)
        nn.init.zeros_(linear.bias)
    assert float(baselines.cc(answer(x), answer(x), LABELS, own)) == pytest.approx(0, abs=1e-5)
    nn.init.ones_(own[0].bias)
    assert float(baselines.cc(answer(x), answer(x), LABELS, own)) == pytest.approx(3, rel=1e-4)


def test_rkd_relations_by_hand():
    # a right angle with legs 3 and 4: distances over their mean (3 + 4 + 5) / 3, cosines 0, 3/5 and
    # 4/5
    distances, cosines = baselines._relations(torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]]))
    wanted = torch.tensor([[0.0, 3.0, 4.0], [3.0, 0.0, 5.0], [4.0, 5.0, 0.0]]) / 4
    torch.testing.assert_close(distances, wanted)
    corners = torch.stack([cosines[0, 1, 2], cosines[1, 0, 2], cosines[2, 0, 1]])
    torch.testing.assert_close(corners, torch.tensor([0, 0.6, 0.8]))
    assert float(cosines[0, 0].abs().sum()) == 0  # there is no direction from a point to itself


def test_pkt_by_hand():
    # embeddings (1, 0) and (0, 1): cosines I, (I + 1) / 2, rows (2, 1) / 3; against rows all (1,
    # 0): (1, 1) / 2
    apart = torch.eye(2)[:, :, None, None]
    alike = torch.tensor([[1.0, 0.0], [1.0, 0.0]])[:, :, None, None]
    wanted = (2 / 3 * math.log(4 / 3) + 1 / 3 * math.log(2 / 3)) / 2
    assert float(baselines.pkt(answer(alike), answer(apart), LABELS)) == pytest.approx(
        wanted, rel=1e-4
    )


def test_dkd_by_hand():
    # teacher (1/2, 1/4, 1/4) and student (1/4, 1/4, 1/2) for label 0 at temperature 1
    teacher, student = (torch.tensor([p]).log() for p in ([0.5, 0.25, 0.25], [0.25, 0.25, 0.5]))
    target = 0.5 * math.log(2) + 0.5 * math.log(2 / 3)
    others = 0.5 * math.log(3 / 2) + 0.5 * math.log(3 / 4)  # (1/2, 1/2) against (1/3, 2/3)
    pixels = torch.zeros(1, 1, 1, 1)
    found = baselines.dkd(answer(pixels, student), answer(pixels, teacher), LABELS, temperature=1)
    assert float(found) == pytest.approx(target + 8 * others, rel=1e-5)
    twice = baselines.dkd(
        answer(pixels, 2 * student), answer(pixels, 2 * teacher), LABELS, temperature=2
    )
    assert float(twice) == pytest.approx(4 * float(found), rel=1e-5)


def test_dist_by_hand():
    # probabilities reversed: rows and columns are perfectly anticorrelated, so each part is 1 -
    # (-1)
    pixels, logits = torch.zeros(2, 1, 1, 1), torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
    found = baselines.dist(answer(pixels, logits), answer(pixels, -logits), LABELS, temperature=2)
    assert float(found) == pytest.approx(4 * (2 + 2), rel=1e-5)


def test_topkd_by_hand():
    # a RipsNet whose last layer is 0 says 1/2 everywhere; the student's cloud is mapped before it
    # is seen
    own = baselines.own_parameters("topkd", (1, 1, 2), (1, 1, 3), seed=0)
    assert own["match"].weight.shape == (3, 2) and own["match"].weight.requires_grad
    assert not any(p.requires_grad for p in own["ripsnet"].parameters())
    s, t = torch.rand(4, 2, 1, 1), torch.rand(4, 3, 1, 1)
    assert float(baselines.topkd(answer(s), answer(t), LABELS, own).detach()) > 0
    nn.init.zeros_(own["ripsnet"].image.weight)
    assert float(baselines.topkd(answer(s), answer(t), LABELS, own).detach()) == 0
    same = baselines.own_parameters("topkd", (1, 1, 3), (1, 1, 3), seed=0)
    assert isinstance(same["match"], nn.Identity)  # as wide as the teacher: nothing to match


def test_warm_up_by_hand():
    # 20 of 240 epochs, the first counted as 1: 1/20, 2/20, ..., 1, 1
    found = [baselines.warmed(e, 240, share=1 / 12) for e in (0, 1, 9, 19, 20, 239)]
    assert found == pytest.approx([0.05, 0.1, 0.5, 1, 1, 1])
    assert baselines.warmed(0, 3, share=1 / 12) == 1  # shorter than an epoch
    assert baselines.warmed(0, 30, share=None) == 1


# ---------------------------------------------------------------- what must hold


@pytest.mark.parametrize("name", ["at", "sp", "rkd", "pkt", "dkd", "dist"])
def test_a_perfect_student_has_no_loss(given, name):
    _, teacher, labels, _ = given
    assert abs(float(LOSSES[name](teacher, teacher, labels, None))) < 2e-5


def test_a_perfect_student_has_no_loss_after_its_own_map(given):
    _, teacher, labels, _ = given
    assert float(baselines.fitnets(teacher, teacher, labels, nn.Identity())) == 0
    same = nn.Linear(12, 128).requires_grad_(False)
    assert float(baselines.cc(teacher, teacher, labels, nn.ModuleList([same, same]))) == 0
    own = nn.ModuleDict({"match": nn.Identity(), "ripsnet": RipsNet(12).requires_grad_(False)})
    assert float(baselines.topkd(teacher, teacher, labels, own)) == 0


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_reach_student_and_own_parameters_only(given, maker, name):
    student, teacher, labels, _ = given
    own = baselines.own_parameters(name, maker.STUDENT, maker.TEACHER, seed=1)
    student, teacher = tracked(student), tracked(teacher)
    LOSSES[name](student, teacher, labels, own).backward()
    found = gradients(student)
    assert (
        found and all(g.isfinite().all() for g in found) and any(g.abs().sum() > 0 for g in found)
    )
    assert not gradients(teacher)
    if own is not None:  # a bias before BN has no effect, hence "is not None"
        trained = [p for p in own.parameters() if p.requires_grad]
        assert all(p.grad is not None for p in trained)
        assert any(p.grad.abs().sum() > 0 for p in trained)


@pytest.mark.parametrize("name", ["at", "sp", "pkt", "rkd"])
@pytest.mark.parametrize("who", [0, 1])
def test_scale_of_the_features_does_not_matter(given, name, who):
    student, teacher, labels, _ = given
    pair = [student, teacher]
    pair[who] = changed(pair[who], lambda x: 100 * x)
    wanted = LOSSES[name](student, teacher, labels, None)
    assert float(LOSSES[name](*pair, labels, None)) == pytest.approx(float(wanted), rel=1e-3)


def test_rkd_ignores_rotation_shift_and_scale():
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(7, 5, generator=generator)
    rotation, _ = torch.linalg.qr(torch.randn(5, 5, generator=generator))
    for a, b in zip(
        baselines._relations(x), baselines._relations(3 * x @ rotation + 1), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_dist_ignores_shift_and_scale_of_what_it_correlates(given):
    student, teacher, labels, _ = given
    wanted = baselines.dist(student, teacher, labels)
    shifted = student._replace(logits=student.logits + torch.arange(6.0)[:, None])
    assert float(baselines.dist(shifted, teacher, labels)) == pytest.approx(float(wanted), rel=1e-4)
    a, b = student.logits, teacher.logits
    torch.testing.assert_close(baselines._pearson(a, b), baselines._pearson(5 * a + 1, b))
    torch.testing.assert_close(baselines._pearson(a, b), -baselines._pearson(-2 * a, b))


def test_dkd_with_the_weights_that_kd_implies_is_kd():
    # KD = TCKD + (1 - p_T of the label) NCKD, the paper's eq. 7, on one sample
    student, teacher = torch.tensor([[1.0, 0.5, -2.0]]), torch.tensor([[2.0, 0.0, 1.0]])
    label = torch.tensor([1])
    pair = [answer(torch.zeros(1, 1, 1, 1), x) for x in (student, teacher)]
    beta = 1 - float((teacher / 4).softmax(1)[0, 1])
    kd = baselines.kd_loss(student, teacher, temperature=4.0, reduction="batchmean")
    assert float(baselines.dkd(*pair, label, beta=beta)) == pytest.approx(float(kd), rel=1e-5)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("case", ["all alike", "zeros", "two alike", "certain", "one image"])
def test_nothing_is_nan_where_it_is_degenerate(given, maker, name, case):
    student, teacher, labels, _ = given
    if case == "all alike":
        student = chosen(student, [0] * 6)
    if case == "zeros":
        student, teacher = (changed(a, lambda x: 0 * x) for a in (student, teacher))
    if case == "two alike":
        student, teacher = (chosen(a, [0, 0, 2, 3, 4, 5]) for a in (student, teacher))
    if case == "certain":
        student, teacher = (a._replace(logits=1000 * a.logits) for a in (student, teacher))
    if case == "one image":
        student, teacher = (chosen(a, [0]) for a in (student, teacher))
        labels = labels[:1]
    own = baselines.own_parameters(name, maker.STUDENT, maker.TEACHER, seed=0)
    student = tracked(student)
    total, _ = baselines.baseline_loss(
        name, student, teacher, labels, own, **BASELINES[name].weights
    )
    total.backward()
    assert total.isfinite() and all(g.isfinite().all() for g in gradients(student))


@pytest.mark.parametrize("name", LOSSES)
def test_bfloat16_answers_are_computed_in_float32(given, name):
    student, teacher, labels, own = given
    low = [changed(a, torch.Tensor.bfloat16) for a in (student, teacher)]
    high = [changed(a, torch.Tensor.float) for a in low]
    found, wanted = (
        baselines.baseline_loss(name, *pair, labels, own[name], **BASELINES[name].weights)[0]
        for pair in (low, high)
    )
    assert found.dtype == torch.float32 and torch.equal(found, wanted)


@pytest.mark.parametrize("name", ["fitnets", "at", "vid"])
def test_other_sizes_are_refused_where_pixels_are_compared(given, name):
    student, teacher, labels, own = given
    wide = teacher._replace(features=[F.pad(f, (1, 0)) for f in teacher.features])
    with pytest.raises(
        InputError, match="student features of .x. and teacher features of .x. pixels"
    ) as e:
        LOSSES[name](student, wide, labels, own[name])
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("name", ["sp", "cc", "rkd", "pkt", "dkd", "dist"])
def test_other_sizes_do_not_matter_elsewhere(given, name):
    student, teacher, labels, own = given
    wide = teacher._replace(features=[F.pad(f, (1, 0)) for f in teacher.features])
    assert LOSSES[name](student, wide, labels, own[name]).isfinite()


# ---------------------------------------------------------------- parameters of their own


@pytest.mark.parametrize("name", LOSSES)
def test_own_parameters_depend_on_the_seed_alone(name):
    before = torch.random.get_rng_state()
    a, b, other = (
        baselines.own_parameters(name, (16, 32, 64), (48, 96, 192), seed=s) for s in (5, 5, 6)
    )
    assert torch.equal(torch.random.get_rng_state(), before)
    if name not in WITH_OWN:
        assert a is None
        return
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    assert any(
        not torch.equal(p, q) for p, q in zip(a.parameters(), other.parameters(), strict=True)
    )


def test_sizes_of_own_parameters():
    own = {
        name: baselines.own_parameters(name, (16, 32, 64), (48, 96, 192), seed=0)
        for name in WITH_OWN
    }
    count = {name: sum(p.numel() for p in module.parameters()) for name, module in own.items()}
    assert count == {
        "fitnets": 32 * 96 + 96 + 2 * 96,
        "cc": (64 + 192 + 2) * 128,
        "vid": sum(s * t + 2 * t * t + t for s, t in ((16, 48), (32, 96), (64, 192))),
        "topkd": (64 + 1) * 192
        + (192 + 1) * 192
        + (192 + 1) * 96
        + (96 + 1) * 96
        + 96 * 50
        + 50 * 100
        + 100 * 200
        + 200 * 400,
    }


def test_what_cannot_be_is_refused_in_one_line(given):
    student, teacher, labels, _ = given
    with pytest.raises(InputError, match="did you mean 'fitnets'") as e:
        baselines.own_parameters("fitnet", (1, 1, 1), (1, 1, 1), seed=0)
    assert "\n" not in str(e.value)
    with pytest.raises(InputError, match="needs the module that own_parameters"):
        baselines.baseline_loss("vid", student, teacher, labels, **BASELINES["vid"].weights)
