"""Topology of an embedding: golden numbers, cases by hand, gudhi's own diagrams, what must hold."""

import itertools
import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st

from tgd_lib import embedding
from tgd_lib.config import InputError
from tgd_lib.embedding import EDGES, LOSSES

pytestmark = pytest.mark.usefixtures("one_thread")

GOLDEN = Path(__file__).parent / "golden"
ZEROS = torch.zeros(3, 2)
EVERY = list(itertools.product(LOSSES, EDGES))


@pytest.fixture(scope="module")
def golden(golden_numbers):
    return golden_numbers("embedding")


@pytest.fixture(scope="module")
def maker(golden_maker):
    return golden_maker("embedding")


@pytest.fixture(scope="module")
def clouds(maker):
    """The embeddings of student and teacher, float32."""
    x = maker.inputs()
    return torch.as_tensor(x["student"]).float(), torch.as_tensor(x["teacher"]).float()


def index(count, start=0):
    return torch.arange(start, start + count)


def cloud(count, width, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, width, generator=generator, dtype=dtype)


def lengths(x):
    return embedding.distances(x).numpy()


# ---------------------------------------------------------------- golden


def test_golden_file_is_what_its_maker_makes(golden, maker):
    made = json.loads(json.dumps(maker.golden()))
    for name in LOSSES:
        assert made[name] == pytest.approx(golden[name], rel=1e-12)
    assert made["teacher_deaths"] == pytest.approx(golden["teacher_deaths"], rel=1e-12)
    assert made["teacher_tree"] == golden["teacher_tree"]


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("edges", ["tree", "nearest", "shortest", "all"])
def test_loss_is_golden(golden, clouds, loss, edges):
    found = embedding.embedding_loss(*clouds, index(12), loss=loss, edges=edges)
    assert found.shape == () and found.dtype == torch.float32
    assert float(found) == pytest.approx(golden[loss][edges], rel=1e-5)


def test_tree_is_golden(golden, clouds):
    _, teacher = clouds
    chosen = embedding.tree_edges(lengths(teacher))
    rows, columns = np.triu_indices(12, 1)
    pairs = sorted([int(rows[e]), int(columns[e])] for e in chosen)
    assert pairs == golden["teacher_tree"]
    assert lengths(teacher)[chosen] == pytest.approx(golden["teacher_deaths"], rel=1e-6)


# ---------------------------------------------------------------- by hand


def test_a_square():
    # four sides of 1 and two diagonals of sqrt 2; a tree has three sides, the deaths are 1, 1, 1
    square = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    assert embedding.deaths(square).tolist() == [1, 1, 1]
    mean = (4 + 2 * math.sqrt(2)) / 6
    assert lengths(square)[embedding.tree_edges(lengths(square))] == pytest.approx([1 / mean] * 3)
    # against a line of four points, all distances over a mean of (3 * 1 + 2 * 2 + 3) / 6
    line = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
    found = embedding.embedding_loss(square, line, index(4), loss="diagram")
    assert float(found) == pytest.approx((1 / mean - 0.6) ** 2, rel=1e-5)


def test_two_clusters():
    # pairs of points 1 apart, 10 from one pair to the other: two short deaths and the gap
    points = torch.tensor([[0.0], [1.0], [11.0], [12.0]])
    assert embedding.deaths(points).tolist() == [1, 1, 10]
    # the three shortest pairs hold the gap, too; but without it where a cluster has three points
    points = torch.tensor([[0.0], [1.0], [2.0], [12.0]])
    assert embedding.deaths(points).tolist() == [1, 1, 10]
    order = lengths(points)
    mean = float(torch.pdist(points).mean())
    shortest = mean * order[embedding.shortest_edges(order)]
    assert shortest == pytest.approx([1, 1, 2])
    # the nearest of the last point is across the gap; those of the first three are in the cluster
    nearest = mean * order[embedding.nearest_edges(order)]
    assert nearest == pytest.approx([1, 1, 1, 10])


def test_signature_by_hand():
    # T: points 0, 1, 3 with distances 1, 3, 2 (mean 2) and the tree (0, 1), (1, 2)
    # S: points 0, 3, 1 with distances 3, 1, 2 and the tree (0, 2), (1, 2)
    teacher, student = torch.tensor([[0.0], [1.0], [3.0]]), torch.tensor([[0.0], [3.0], [1.0]])
    theirs = (1**2 + 0) / 2  # pair (0, 1) is 1.5 in S and 0.5 in T, (1, 2) is 1 in both
    ours = (1**2 + 0) / 2  # pair (0, 2) is 0.5 in S and 1.5 in T
    found = embedding.embedding_loss(student, teacher, index(3))
    assert float(found) == pytest.approx(theirs + ours, rel=1e-6)
    # the sorted deaths are the same: the diagram does not see which points they are
    assert float(embedding.embedding_loss(student, teacher, index(3), loss="diagram")) == 0


def test_pairs_are_numbered_as_scipy_numbers_them():
    rows, columns = np.triu_indices(7, 1)
    wanted = np.arange(21)
    assert np.array_equal(embedding.pair_number(rows, columns, 7), wanted)
    assert np.array_equal(embedding.pair_number(columns, rows, 7), wanted)


def test_points_that_coincide_keep_their_tree():
    # csgraph drops edges of length 0: three points in one place and one apart need three edges
    points = torch.tensor([[0.0], [0.0], [0.0], [5.0]])
    edges = embedding.tree_edges(lengths(points))
    assert len(set(edges.tolist())) == 3
    assert embedding.deaths(points).tolist() == [0, 0, 5]
    nowhere = torch.zeros(4, 2)
    assert embedding.deaths(nowhere).tolist() == [0, 0, 0]
    assert lengths(nowhere).tolist() == [0] * 6


# ---------------------------------------------------------------- agreement with gudhi


@pytest.mark.parametrize("count", [2, 3, 20, 60])
@pytest.mark.parametrize("repeats", [1, 3])
def test_deaths_are_those_of_gudhi(count, repeats):
    import gudhi

    x = cloud(count, 4, seed=count).repeat(repeats, 1)  # with repeats, many points coincide
    simplices = gudhi.RipsComplex(points=x.numpy()).create_simplex_tree(max_dimension=1)
    simplices.persistence(min_persistence=-1)  # keeps pairs that die where they are born
    intervals = simplices.persistence_intervals_in_dimension(0)
    wanted = np.sort(intervals[np.isfinite(intervals[:, 1]), 1])
    assert embedding.deaths(x).numpy() == pytest.approx(wanted, abs=1e-7)


@pytest.mark.parametrize("seed", range(3))
def test_diagram_is_the_wasserstein_distance_of_gudhi(seed):
    hera = pytest.importorskip("gudhi.hera")
    # in ten dimensions deaths differ by less than 2 + sqrt(3) times: none goes to the diagonal
    x, y = cloud(30, 10, seed), cloud(30, 10, seed + 10)
    diagrams = []
    for points in (x, y):
        d = lengths(points)
        died = np.sort(d[embedding.tree_edges(d)])
        assert died[-1] < (2 + math.sqrt(3)) * died[0]
        diagrams.append(np.stack([np.zeros(29), died], axis=1))
    wanted = hera.wasserstein_distance(*diagrams, order=2, internal_p=2, delta=1e-6) ** 2
    found = embedding.embedding_loss(x, y, index(30), loss="diagram")
    assert 29 * float(found) == pytest.approx(wanted, rel=1e-4)


# ---------------------------------------------------------------- gradients


@pytest.mark.parametrize(("loss", "edges"), EVERY)
def test_gradient_is_that_of_small_steps(loss, edges):
    student, teacher = cloud(8, 3, 1).requires_grad_(), cloud(8, 5, 2)

    def of(x):
        return embedding.embedding_loss(x, teacher, index(8), loss=loss, edges=edges)

    assert torch.autograd.gradcheck(of, (student,))


def test_gradient_of_deaths_is_that_of_small_steps():
    assert torch.autograd.gradcheck(embedding.deaths, (cloud(8, 3, 1).requires_grad_(),))


@pytest.mark.parametrize(("loss", "edges"), EVERY)
def test_gradient_is_finite_where_points_coincide_and_spares_the_teacher(loss, edges):
    student = torch.cat([cloud(6, 3), cloud(2, 3)]).requires_grad_()  # two points twice
    teacher = cloud(8, 5, 2).requires_grad_()
    embedding.embedding_loss(student, teacher, index(8), loss=loss, edges=edges).backward()
    assert student.grad.isfinite().all() and student.grad.abs().sum() > 0
    assert teacher.grad is None


def test_a_step_along_the_gradient_lowers_the_loss():
    student, teacher = cloud(16, 3, 1).requires_grad_(), cloud(16, 5, 2)
    before = embedding.embedding_loss(student, teacher, index(16))
    before.backward()
    after = embedding.embedding_loss(student.detach() - 0.1 * student.grad, teacher, index(16))
    assert float(after.detach()) < float(before.detach())


# ---------------------------------------------------------------- what must hold


@settings(max_examples=25, deadline=None)
@drawn(
    seed=st.integers(0, 10**6), count=st.integers(3, 20), width=st.integers(1, 6),
    scale=st.floats(1e-3, 1e3), case=st.sampled_from(EVERY),
)  # fmt: skip
def test_rotation_shift_and_scale_do_not_matter(seed, count, width, scale, case):
    loss, edges = case
    student, teacher = cloud(count, width, seed), cloud(count, width + 1, seed + 1)
    rotation, _ = torch.linalg.qr(cloud(width, width, seed + 2))

    def of(x):
        return float(embedding.embedding_loss(x, teacher, index(count), loss=loss, edges=edges))

    assert of(scale * student @ rotation + 1) == pytest.approx(of(student), rel=1e-6, abs=1e-9)


@settings(max_examples=25, deadline=None)
@drawn(seed=st.integers(0, 10**6), count=st.integers(2, 20), loss=st.sampled_from(LOSSES))
def test_the_order_of_the_batch_does_not_matter(seed, count, loss):
    student, teacher = cloud(count, 3, seed), cloud(count, 5, seed + 1)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    for edges in ("tree", "nearest", "shortest", "all"):
        wanted = embedding.embedding_loss(student, teacher, index(count), loss=loss, edges=edges)
        other = student[order], teacher[order], index(count)[order]
        found = embedding.embedding_loss(*other, loss=loss, edges=edges)
        assert float(found) == pytest.approx(float(wanted), rel=1e-9)


@settings(max_examples=25, deadline=None)
@drawn(seed=st.integers(0, 10**6), count=st.integers(2, 25))
def test_a_tree_joins_all_and_no_tree_is_shorter(seed, count):
    d = lengths(cloud(count, 3, seed))
    chosen = embedding.tree_edges(d)
    other = embedding.random_tree_edges(count, np.random.default_rng(seed))
    for edges in (chosen, other):
        assert edges.dtype == np.int64 and len(set(edges.tolist())) == count - 1
        assert _joined(edges, count)
    assert d[chosen].sum() <= d[other].sum() + 1e-12
    assert (np.diff(d[chosen]) >= 0).all()


def _joined(edges, count):
    """Whether the edges join all points to one component."""
    rows, columns = np.triu_indices(count, 1)
    component = list(range(count))
    for i, j in zip(rows[edges], columns[edges], strict=True):
        component = [component[i] if c == component[j] else c for c in component]
    return len(set(component)) == 1


@pytest.mark.parametrize(("loss", "edges"), EVERY)
def test_a_perfect_student_has_no_loss(clouds, loss, edges):
    _, teacher = clouds
    student = 2 * teacher + 1
    found = float(embedding.embedding_loss(student, teacher, index(12), loss=loss, edges=edges))
    # two random trees have lengths of their own: that diagram is a control, and not a distance
    if (loss, edges) == ("diagram", "random_tree"):
        assert found > 1e-4
    else:
        assert found < 1e-10


# ---------------------------------------------------------------- what is random


def test_random_trees_are_uniform():
    # four points have 4^2 = 16 trees; 3,200 draws, 200 of each expected, chi^2 with 15 degrees
    rng = np.random.default_rng(7)
    seen = Counter(tuple(embedding.random_tree_edges(4, rng)) for _ in range(3200))
    assert len(seen) == 16
    chi2 = sum((count - 200) ** 2 / 200 for count in seen.values())
    assert chi2 < 37.7  # exceeded by chance once in a thousand, and the seed is fixed


@pytest.mark.parametrize("case", [{"edges": "random_tree"}, {"permuted": True}])
def test_what_is_random_is_a_function_of_the_batch(clouds, case):
    def of(start):
        return float(embedding.embedding_loss(*clouds, index(12, start), **case))

    before = torch.random.get_rng_state()
    assert of(0) == of(0) and of(0) != of(1)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_permuted_teacher_has_the_same_diagram_and_another_signature(clouds):
    student, teacher = clouds
    plain = embedding.embedding_loss(student, teacher, index(12), loss="diagram")
    permuted = embedding.embedding_loss(student, teacher, index(12), loss="diagram", permuted=True)
    assert float(plain) == pytest.approx(float(permuted), rel=1e-5)
    assert float(embedding.embedding_loss(teacher, teacher, index(12), permuted=True)) > 0.01


# ---------------------------------------------------------------- what it is given


def test_one_image_has_no_topology_and_no_loss():
    student = torch.ones(1, 4, requires_grad=True)
    found = embedding.embedding_loss(student, torch.ones(1, 6), index(1))
    found.backward()
    assert float(found.detach()) == 0 and student.grad.tolist() == [[0] * 4]


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize(("loss", "edges"), EVERY)
def test_what_is_not_finite_is_a_loss_that_is_none(clouds, loss, edges, value):
    student = clouds[0].clone()
    student[3, 0] = value
    assert embedding.embedding_loss(student, clouds[1], index(12), loss=loss, edges=edges).isnan()


def test_bfloat16_is_computed_in_float32(clouds):
    low = [x.bfloat16() for x in clouds]
    found = embedding.embedding_loss(*low, index(12))
    assert found.dtype == torch.float32
    assert torch.equal(found, embedding.embedding_loss(*(x.float() for x in low), index(12)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: embedding.distances(torch.zeros(1, 3)), "B >= 2"),
        (lambda: embedding.distances(torch.zeros(4, 3, 2)), "must be"),
        (lambda: embedding.tree_edges(np.ones(4)), "must be"),
        (lambda: embedding.tree_edges(np.array([1.0, np.nan, 1.0])), "finite"),
        (lambda: embedding.nearest_edges(np.array([1.0, -1.0, 1.0])), "negative"),
        (lambda: embedding.edges_of(np.ones(3), "tre", np.random.default_rng(0)), "tree"),
        (lambda: embedding.random_tree_edges(1, np.random.default_rng(0)), "2 or more"),
        (lambda: embedding.embedding_loss(ZEROS, torch.zeros(4, 2), index(3)), "the same"),
        (lambda: embedding.embedding_loss(ZEROS, ZEROS, index(3), loss="x"), "signature"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_in_one_line(call, message):
    with pytest.raises(InputError, match=message) as e:
        call()
    assert "\n" not in str(e.value)
