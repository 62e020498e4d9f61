"""Topology of a batch's embedding, and losses that hand it from a teacher to a student.

The embedding of a batch is a cloud of B points. The finite deaths of its Rips filtration in
dimension 0 are the lengths of its minimum spanning tree (all births are 0), so the diagram is a
sorted vector, exact, and its gradient runs through the distances that it consists of.

    distances    of a cloud, over their mean
    edges        which pairs of points count: the tree's (topology), or a control's
    losses       signature (lengths of the same pairs), diagram (sorted lengths)

Pairs are kept condensed, as by scipy: of B points there are P = B (B - 1) / 2, in the order
(0, 1), (0, 2), ..., (B - 2, B - 1), and an edge is a number from 0 to P - 1.

Only dimension 0. Loops (H1) by gudhi's Rips complex, median of clouds in 192 dimensions: 1.2 ms for
32 points, 8.8 ms for 64, 90 ms for 128 (a quarter of that with collapsed edges, which lose the
pairs that a gradient needs). A step needs two of them; KD's own took 94 ms there, and the tree
1.3 ms (benchmarks/recorded/embedding.md).
Source: Moor, Horn, Rieck, Borgwardt, "Topological Autoencoders" (ICML 2020).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from tgd_lib.config import InputError

EDGES = ("tree", "random_tree", "nearest", "shortest", "all")
LOSSES = ("signature", "diagram")

# ---------------------------------------------------------------- distances


def distances(embedding: Tensor) -> Tensor:
    """Euclidean distances between the points of a batch over their mean, at least float32 (P,).

    embedding: float (B, c). Without a unit, mean 1; all 0 where the points coincide. The mean has
    its gradient too, so that a loss of distances cannot be lowered by scaling the space.
    Raises InputError unless there are two points or more.
    """
    lengths = _distances(embedding)
    smallest = torch.finfo(lengths.dtype).tiny
    return lengths / lengths.mean().clamp(min=smallest)


def _distances(embedding: Tensor) -> Tensor:
    """The same in the embedding's own unit."""
    if embedding.dim() != 2 or len(embedding) < 2:
        raise InputError(f"embedding of shape {tuple(embedding.shape)}: must be (B, c) with B >= 2")
    exact = embedding if embedding.dtype == torch.float64 else embedding.float()
    return F.pdist(exact)  # its gradient at a distance of 0 is 0, not infinite


def points(lengths: Tensor | np.ndarray) -> int:
    """The number B of points with distances `lengths` (P,). Raises InputError if there is none."""
    count = (1 + math.isqrt(1 + 8 * len(lengths))) // 2
    if lengths.ndim != 1 or count < 2 or count * (count - 1) // 2 != len(lengths):
        shape = tuple(lengths.shape)
        raise InputError(f"distances of shape {shape}: must be (B (B - 1) / 2,) with B >= 2")
    return count


def pair_number(first: np.ndarray, second: np.ndarray, count: int) -> np.ndarray:
    """The condensed number of the pairs (first, second) of `count` points, in either order."""
    low, high = np.minimum(first, second), np.maximum(first, second)
    before = low * (2 * count - low - 1) // 2  # pairs whose smaller point is less than `low`
    return before + high - low - 1


# ---------------------------------------------------------------- which pairs


def tree_edges(lengths: np.ndarray) -> np.ndarray:
    """The edges int64 (B - 1,) of a minimum spanning tree, shortest first.

    lengths: float (P,). Where distances are equal the tree is one of several with the same lengths.
    Raises InputError for distances that are negative or not finite.
    """
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import minimum_spanning_tree

    count = points(lengths)
    _check_lengths(lengths)
    # csgraph takes a length of 0 for a missing edge. The smallest float64 stands for it: it is
    # shorter than any other float32 distance, so the order, and with it the tree, is exact.
    weights = lengths.astype(np.float64)
    weights[weights == 0] = np.finfo(np.float64).tiny
    # The condensed order is already that of a sparse matrix by rows, its upper half.
    rows, columns = np.triu_indices(count, 1)
    starts = np.searchsorted(rows, np.arange(count + 1))
    graph = csr_matrix((weights, columns, starts), shape=(count, count))
    tree = minimum_spanning_tree(graph).tocoo()
    found = pair_number(tree.row.astype(np.int64), tree.col.astype(np.int64), count)
    return found[np.lexsort((found, lengths[found]))]


def random_tree_edges(count: int, rng: np.random.Generator) -> np.ndarray:
    """The edges int64 (B - 1,) of one of the B^(B - 2) trees on `count` points, all equally likely.

    Source: Aldous, "The random walk construction of uniform spanning trees and uniform labelled
    trees" (1990), algorithm 2: point i joins min(u, i - 1), u uniform on all; then all are renamed.
    """
    if count < 2:
        raise InputError(f"a tree on {count} points: must be 2 or more")
    # By row: each later point and the earlier one that it joins.
    later = np.arange(1, count)
    earlier = np.minimum(rng.integers(count, size=count - 1), later - 1)
    names = rng.permutation(count)
    return np.sort(pair_number(names[earlier], names[later], count))


def nearest_edges(lengths: np.ndarray) -> np.ndarray:
    """The edges int64 (B,) from each point to its nearest; a mutual pair counts twice."""
    from scipy.spatial.distance import squareform

    count = points(lengths)
    _check_lengths(lengths)
    square = squareform(lengths)
    # A point is not its own neighbour.
    np.fill_diagonal(square, np.inf)
    return pair_number(np.arange(count), square.argmin(1), count)


def shortest_edges(lengths: np.ndarray) -> np.ndarray:
    """The shortest pairs int64 (B - 1,), shortest first: as many as a tree has, and shorter."""
    count = points(lengths)
    _check_lengths(lengths)
    return np.argsort(lengths, kind="stable")[: count - 1]


def edges_of(lengths: np.ndarray, kind: str, rng: np.random.Generator) -> np.ndarray:
    """The edges int64 (E,) of a `kind` in EDGES; `rng` is drawn from by "random_tree" alone.

    Raises InputError for another kind, or for distances that are negative or not finite.
    """
    if kind == "tree":
        return tree_edges(lengths)
    if kind == "random_tree":
        return random_tree_edges(points(lengths), rng)
    if kind == "nearest":
        return nearest_edges(lengths)
    if kind == "shortest":
        return shortest_edges(lengths)
    if kind == "all":
        return np.arange(len(lengths))
    raise InputError(f"edges {kind!r}: must be one of {', '.join(EDGES)}")


def _check_lengths(lengths: np.ndarray) -> None:
    if not (np.isfinite(lengths).all() and (lengths >= 0).all()):
        raise InputError("distances must be finite and not negative: the embedding is not")


def deaths(embedding: Tensor) -> Tensor:
    """The finite deaths (B - 1,) of the Rips filtration in dimension 0, ascending; births are 0.

    Distances as they are, not over their mean: the diagram as gudhi's RipsComplex gives it,
    differentiable in the embedding, float (B, c). Raises InputError as `distances` and
    `tree_edges` do.
    """
    # The tree says which distances they are; the gradient is that of these.
    lengths = _distances(embedding)
    return lengths[_on_device(tree_edges(_on_host(lengths)), lengths)]


# ---------------------------------------------------------------- losses


def signature_loss(
    student: Tensor, teacher: Tensor, student_edges: Tensor, teacher_edges: Tensor
) -> Tensor:
    """Mean of (d_S - d_T)^2 over the teacher's edges, plus the same over the student's: a scalar.

    student, teacher: distances (P,) of the same images; edges int64 (E,). The teacher's edges
    ask that its topology be kept, the student's that it have no other.
    Source: Moor et al. 2020, L_(X -> Z) + L_(Z -> X), as means; X the teacher's space, Z the
    student's.
    """
    # Lengths of the same pairs are compared, whichever space has chosen them.
    kept = (student[teacher_edges] - teacher[teacher_edges]).square().mean()
    own = (student[student_edges] - teacher[student_edges]).square().mean()
    return kept + own


def diagram_loss(
    student: Tensor, teacher: Tensor, student_edges: Tensor, teacher_edges: Tensor
) -> Tensor:
    """Mean of (sorted lengths of S's edges - sorted lengths of T's edges)^2, a scalar.

    On tree edges it is, times B - 1, the squared 2-Wasserstein distance between the H0 diagrams,
    point to point: none is matched with the diagonal, which pays only for deaths that differ by a
    factor of 2 + sqrt(3) or more. A teacher whose images are permuted has the same diagram.
    """
    # Sorted, so that it does not matter which pairs the lengths are of.
    ours = student[student_edges].sort().values
    theirs = teacher[teacher_edges].sort().values
    return (ours - theirs).square().mean()


def embedding_loss(
    student: Tensor,
    teacher: Tensor,
    index: Tensor,
    *,
    loss: str = "signature",
    edges: str = "tree",
    permuted: bool = False,
) -> Tensor:
    """How far the student's cloud is from the teacher's, a scalar without its weight.

    student (B, c_S), teacher (B, c_T): embeddings of the same images, float; widths may differ.
    index: int64 (B,), which images they are. All that is random, random trees and the `permuted`
    teacher (the control: another image's place), is a function of it, so a resumed training ends
    in the same bits. The teacher gets no gradient. 0 for a batch of one; nan where an embedding is
    not finite, which training reports as divergence. Waits for the device: trees grow on the host.
    Raises InputError for another loss or kind of edges, or batches that do not agree.
    """
    if loss not in LOSSES:
        raise InputError(f"embedding loss {loss!r}: must be one of {', '.join(LOSSES)}")
    if not len(student) == len(teacher) == len(index):
        found = f"{len(student)}, {len(teacher)} and {len(index)}"
        raise InputError(f"student, teacher and index have {found} images: they must be the same")
    if len(student) < 2:
        return student.sum() * 0.0

    # Seeded by the images of the batch themselves: no state to keep, none to restore.
    rng = np.random.default_rng(_on_host(index))
    # Another image's place: the cloud, and so its diagram, stays; who lies where does not.
    teacher = teacher.detach()
    if permuted:
        teacher = teacher[_on_device(rng.permutation(len(index)), teacher)]
    ours, theirs = distances(student), distances(teacher)  # (P,), (P,)

    # A tree of what is no number is none: let the loss say so, as any other loss would.
    host = [_on_host(ours), _on_host(theirs)]
    if not all(np.isfinite(lengths).all() for lengths in host):
        return ours.sum() * math.nan
    # Each space has edges of its own; of random trees there are two as well, so that the control
    # has as many edges as what it controls.
    chosen = [_on_device(edges_of(lengths, edges, rng), ours) for lengths in host]
    compare = signature_loss if loss == "signature" else diagram_loss
    return compare(ours, theirs.to(ours.dtype), *chosen)


def _on_host(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy()


def _on_device(edges: np.ndarray, like: Tensor) -> Tensor:
    return torch.from_numpy(edges).to(like.device)
