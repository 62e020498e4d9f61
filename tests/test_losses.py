"""Losses against golden numbers (float64, tests/golden/make_losses.py) and literals by hand."""

import math

import pytest
import torch
from torch.nn import functional as F

from tgd_lib import losses
from tgd_lib.config import InputError

WEIGHTS = {"lam": 0.9, "temperature": 4.0, "gamma": 3000.0, "kl_reduction": "mean"}


@pytest.fixture(scope="module")
def golden(golden_numbers):
    return golden_numbers("losses")


@pytest.fixture(scope="module")
def maker(golden_maker):
    return golden_maker("losses")


@pytest.fixture(scope="module")
def given(maker):
    def tensors(x):
        return [tensors(v) for v in x] if isinstance(x, list) else torch.as_tensor(x)

    x = {k: tensors(v) for k, v in maker.inputs().items()}
    return {
        k: v if k == "labels" else ([f.float() for f in v] if isinstance(v, list) else v.float())
        for k, v in x.items()
    }


def maps(features):
    return [losses.similarity_map(f) for f in features]


def test_golden_file_is_what_its_maker_makes(golden, maker):
    made = maker.golden()
    assert made.keys() == golden.keys()
    for name, values in golden.items():
        assert made[name] == pytest.approx(values, rel=1e-12), name


@pytest.mark.parametrize("reduction", ["mean", "batchmean"])
def test_kd_is_golden(golden, given, reduction):
    found = losses.kd_loss(given["student"], given["t1"], temperature=4.0, reduction=reduction)
    assert float(found) == pytest.approx(golden[f"kd_{reduction}"], rel=1e-5)


def test_kd_by_hand():
    # softmax((ln 3, 0)) = (3/4, 1/4) against (1/2, 1/2), at temperature 1:
    # 3/4 ln(3/2) + 1/4 ln(1/2)
    teacher, student = torch.tensor([[math.log(3), 0.0]]), torch.zeros(1, 2)
    kl = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert float(
        losses.kd_loss(student, teacher, temperature=1, reduction="batchmean")
    ) == pytest.approx(kl, rel=1e-6)
    # twice the logits at temperature 2: the same divergence, times 2^2
    doubled = losses.kd_loss(student, 2 * teacher, temperature=2, reduction="mean")
    assert float(doubled) == pytest.approx(4 * kl / 2, rel=1e-6)


def test_mean_is_batchmean_over_classes(given):
    both = [
        losses.kd_loss(given["student"], given["t1"], temperature=3.0, reduction=r)
        for r in ("mean", "batchmean")
    ]
    assert float(both[1] / both[0]) == pytest.approx(10, rel=1e-6)


def test_similarity_map_by_hand(golden, given):
    f = torch.tensor([[1.0, 2.0], [3.0, -1.0]]).reshape(2, 2, 1, 1)
    assert losses.similarity_map(f).tolist() == [[5.0, 1.0], [1.0, 10.0]]
    assert losses.similarity_map(given["features"][0])[0].tolist() == pytest.approx(
        golden["gram_first_row"], rel=1e-4
    )


def test_similarity_map_does_not_depend_on_the_layout(given):
    f = given["features"][1]
    last = f.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(losses.similarity_map(f), losses.similarity_map(last))


def test_the_gradient_of_the_map_is_right():
    flat = torch.randn(
        4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True
    )
    assert torch.autograd.gradcheck(losses._Gram.apply, (flat,))


@pytest.mark.parametrize("alpha", [0.99, 0.5, 1.0, 0.0])
@pytest.mark.parametrize("already", [False, True])
def test_tgd_is_golden(golden, given, alpha, already):
    pair = (maps(given["features1"]), maps(given["features2"]))
    teacher_maps = losses.merge_maps(*pair, alpha=alpha) if already else pair
    total, terms = losses.tgd_loss(
        given["student"], given["labels"], given["features"], (given["t1"], given["t2"]),
        teacher_maps,
        alpha=alpha, **WEIGHTS,
    )  # fmt: skip
    wanted = golden[f"tgd_{alpha}"]
    assert {k: float(v) for k, v in terms.items()} == pytest.approx(
        {k: wanted[k] for k in terms}, rel=2e-5
    )
    assert float(total) == pytest.approx(wanted["total"], rel=2e-5)
    assert float(total) == pytest.approx(float(sum(terms.values())), rel=1e-6)


def test_a_teacher_without_weight_may_be_absent(given):
    pair = (maps(given["features1"]), maps(given["features2"]))
    whole = losses.tgd_loss(
        given["student"],
        given["labels"],
        given["features"],
        (given["t1"], given["t2"]),
        pair,
        alpha=1.0,
        **WEIGHTS,
    )
    alone = losses.tgd_loss(
        given["student"],
        given["labels"],
        given["features"],
        (given["t1"], None),
        (pair[0], None),
        alpha=1.0,
        **WEIGHTS,
    )
    assert torch.equal(whole[0], alone[0])


def test_without_distillation_it_is_cross_entropy(given):
    total, _ = losses.tgd_loss(
        given["student"], given["labels"], None, (None, None), None,
        alpha=0.5, lam=0.0, gamma=0.0, temperature=4.0, kl_reduction="mean",
    )  # fmt: skip
    assert torch.equal(total, F.cross_entropy(given["student"], given["labels"]))


def test_a_perfect_student_has_no_distillation_loss(given):
    same = maps(given["features"])
    _, terms = losses.tgd_loss(
        given["t1"],
        given["labels"],
        given["features"],
        (given["t1"], given["t1"]),
        (same, same),
        alpha=0.7,
        **WEIGHTS,
    )
    assert max(abs(float(terms[k])) for k in ("kd_t1", "kd_t2", "maps")) < 1e-5


def test_maps_ignore_the_scale_of_the_student_but_not_of_one_teacher(given):
    pair = (maps(given["features1"]), maps(given["features2"]))
    merged, louder = (
        losses.merge_maps(pair[0], [s * g for g in pair[1]], alpha=0.9) for s in (1, 100)
    )
    one = losses.maps_loss(maps(given["features"]), merged)
    assert torch.allclose(
        one, losses.maps_loss(maps([3 * f for f in given["features"]]), merged), rtol=1e-4
    )
    assert not torch.allclose(one, losses.maps_loss(maps(given["features"]), louder), rtol=1e-3)


def test_gradients_reach_the_student_only(given):
    logits = given["student"].clone().requires_grad_()
    features = [f.clone().requires_grad_() for f in given["features"]]
    pair = (maps(given["features1"]), maps(given["features2"]))
    total, _ = losses.tgd_loss(
        logits, given["labels"], features, (given["t1"], given["t2"]), pair, alpha=0.99, **WEIGHTS
    )
    total.backward()
    assert all(x.grad.abs().sum() > 0 for x in (logits, *features))


@pytest.mark.parametrize(
    "bad", [{"reduction": "sum"}, {"temperature": 0.0}, {"temperature": float("nan")}]
)
def test_bad_arguments_are_refused_in_one_line(given, bad):
    arguments = {"temperature": 4.0, "reduction": "mean"} | bad
    with pytest.raises(InputError) as e:
        losses.kd_loss(given["student"], given["t1"], **arguments)
    assert "\n" not in str(e.value)


def test_a_missing_teacher_with_weight_is_refused_in_one_line(given):
    first = maps(given["features1"])
    whole = {
        "teacher_logits": (given["t1"], given["t2"]),
        "teacher_maps": (first, first),
        "alpha": 0.9,
    }
    bad = [
        {"teacher_maps": (first, None)},
        {"teacher_maps": None},
        {"teacher_logits": (given["t1"], None)},
        {"alpha": 1.2},
        {"alpha": float("nan")},
    ]
    for change in bad:
        with pytest.raises(InputError) as e:
            losses.tgd_loss(
                given["student"], given["labels"], given["features"], **whole | change, **WEIGHTS
            )
        assert "\n" not in str(e.value)


@pytest.mark.parametrize("images", [1, 2, 5])
def test_a_map_of_few_images_is_the_plain_product(images):
    f = torch.randn(images, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    found = losses.similarity_map(f)
    torch.testing.assert_close(found, f.flatten(1) @ f.flatten(1).T)
    assert torch.equal(found, found.T)


def test_normalise_then_merge_by_hand():
    """After normalising, the second teacher's share no longer depends on its scale."""
    first = [torch.tensor([[3.0, 4.0], [4.0, 3.0]])]
    second = [torch.tensor([[0.0, 1000.0], [1000.0, 0.0]])]
    merged = losses.merge_maps(first, second, alpha=0.5, order="normalise")[0]
    torch.testing.assert_close(merged, torch.tensor([[0.3, 0.9], [0.9, 0.3]]))
    raw = losses.merge_maps(first, second, alpha=0.5)[0]
    torch.testing.assert_close(raw, torch.tensor([[1.5, 502.0], [502.0, 1.5]]))
    with pytest.raises(InputError, match="order='first'"):
        losses.merge_maps(first, second, alpha=0.5, order="first")


# ---------------------------------------------------------------- what does not fit


def features(images=8, stages=3):
    return [torch.randn(images, 4, 2, 2) for _ in range(stages)]


def call(**changed):
    """`tgd_loss` of eight images, ten classes and three stages, but for what is changed."""
    given = {
        "logits": torch.randn(8, 10),
        "labels": torch.arange(8),
        "features": features(),
        "teacher_logits": (torch.randn(8, 10), torch.randn(8, 10)),
        "teacher_maps": (maps(features()), maps(features())),
        "alpha": 0.9,
        **WEIGHTS,
    }
    return losses.tgd_loss(**given | changed)


MISFITS = {
    "a teacher's logits of one image": {"teacher_logits": (torch.randn(1, 10), torch.randn(8, 10))},
    "a teacher's logits of other classes": {
        "teacher_logits": (torch.randn(8, 5), torch.randn(8, 10))
    },
    "a teacher's logits of whole numbers": {"teacher_logits": (torch.ones(8, 10).long(),) * 2},
    "one teacher": {"teacher_logits": (torch.randn(8, 10),)},
    "no teachers": {"teacher_logits": None},
    "no logits": {"logits": None},
    "logits of no image": {"logits": torch.randn(0, 10), "labels": torch.arange(0)},
    "logits of no class": {"logits": torch.randn(8, 0)},
    "flat logits": {"logits": torch.randn(8)},
    "a label too many": {"labels": torch.arange(9)},
    "labels of floats": {"labels": torch.arange(8.0)},
    "labels one-hot": {"labels": torch.eye(8, 10)},
    "labels as a list": {"labels": [0] * 8},
    "two of three stages": {"features": features(stages=2)},
    "no stages": {"features": []},
    "features of one image": {"features": features(images=1)},
    "features that are none": {"features": [None] * 3},
    "flat features": {"features": [torch.randn(8)] * 3},
    "maps of another batch": {"teacher_maps": (maps(features(4)), maps(features(4)))},
    "merged maps of another batch": {"teacher_maps": maps(features(4))},
    "two merged maps": {"teacher_maps": maps(features(stages=2))},
    "maps of two and three stages": {"teacher_maps": (maps(features(stages=2)), maps(features()))},
    "three teachers' maps": {"teacher_maps": (maps(features()),) * 3},
    "maps that are none": {"teacher_maps": ([None] * 3, [None] * 3)},
    "no maps at all": {"teacher_maps": []},
    "oblong maps": {"teacher_maps": [torch.randn(8, 4)] * 3},
    "infinite gamma": {"gamma": math.inf},
    "huge gamma": {"gamma": 1e308},
    "negative gamma": {"gamma": -1.0},
    "gamma as a text": {"gamma": "3000"},
    "gamma as a tensor": {"gamma": torch.tensor(1.0)},
    "infinite temperature": {"temperature": math.inf},
    "huge temperature": {"temperature": 1e300},
    "tiny temperature": {"temperature": 1e-300},
    "no temperature": {"temperature": None},
    "lam above 1": {"lam": 1.5},
    "lam as nan": {"lam": math.nan},
}


@pytest.mark.parametrize("misfit", MISFITS)
def test_what_does_not_fit_is_refused_in_one_line(misfit):
    assert call()[0].isfinite()
    with pytest.raises(InputError) as e:
        call(**MISFITS[misfit])
    assert "\n" not in str(e.value) and len(str(e.value)) < 200


def test_numbers_of_numpy_are_numbers():
    import numpy as np

    assert call(gamma=np.float32(3000), alpha=np.float64(0.5), temperature=np.int64(4))[
        0
    ].isfinite()


def test_no_value_of_a_tensor_is_read():
    """Shapes are enough: a look at a value would make every step wait for a GPU."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class NoReading(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            assert "_local_scalar_dense" not in str(function), "a value was read"
            return function(*args, **(kwargs or {}))

    with NoReading():
        call()
