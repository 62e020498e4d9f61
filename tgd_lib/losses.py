"""The losses, as pure functions of tensors. Sources: the TGD paper and the authors' code.

What is given is checked, in one line: numbers by value, tensors by dtype and shape alone. A
tensor's values stay unread, because reading them would make every step wait for the GPU.
"""

from __future__ import annotations

import numbers
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from tgd_lib.compute import matmul
from tgd_lib.config import InputError

Maps = Sequence[Tensor]  # raw similarity maps (B, B), one a stage

# Beyond these a softened softmax is no number in float32, or all of it is rounding.
TEMPERATURES = (1e-3, 1e6)
LARGEST = 1e30  # of a weight: its product with a loss must stay a float32


# ---------------------------------------------------------------- logits


def kd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    temperature: float,
    reduction: str,
) -> Tensor:
    """T^2 KL(softmax(teacher / T) || softmax(student / T)), a scalar.

    logits: float (B, classes). reduction "batchmean" divides the sum by B (Hinton et al. 2015),
    "mean" by B * classes, as the TGD code runs it: ten times weaker for ten classes.
    Raises InputError for another reduction, a temperature out of range, or logits that do not fit.
    """
    if reduction not in ("mean", "batchmean"):
        raise InputError(f"kl_reduction={reduction!r}: must be 'mean' or 'batchmean'")
    check_number("temperature", temperature, *TEMPERATURES)
    check_logits("student logits", student_logits)
    if teacher_logits is None:
        raise InputError(
            "a teacher that has weight gave no logits: give them, or set its weight to 0"
        )
    # A single row would be taken for a whole batch's, without a word.
    check_logits("teacher logits", teacher_logits, like=student_logits)
    # Both as logarithms: a probability that underflows to 0 would be lost.
    student = F.log_softmax(student_logits.float() / temperature, dim=1)  # (B, classes)
    teacher = F.log_softmax(teacher_logits.float() / temperature, dim=1)
    total = F.kl_div(student, teacher, reduction="sum", log_target=True)
    count = len(student) if reduction == "batchmean" else student.numel()
    return total * (temperature**2 / count)


# ---------------------------------------------------------------- similarity maps


def similarity_map(features: Tensor) -> Tensor:
    """The raw Gram matrix G = F F^T, float32 (B, B), of features (B, ...) flattened to F (B, d).

    Source: Tung & Mori, "Similarity-Preserving Knowledge Distillation" (2019); the TGD code.
    Raises InputError for anything but floating features of at least one image.
    """
    if not _is_floating(features) or features.dim() < 2 or not len(features):
        raise InputError(f"features are {_kind(features)}: floating (B, ...) is needed")
    if features.dim() == 4:
        # Channels last is flattened without a copy in this order; G is the same in any.
        features = features.permute(0, 2, 3, 1)
    return _Gram.apply(features.flatten(1))  # of F (B, d)


class _Gram(torch.autograd.Function):
    """F F^T in float32, with the gradient (dG + dG^T) F in the precision that F has.

    Autograd would take two products for the gradient, and float32 ones for a bf16 F that rounds
    them anyway.
    """

    @staticmethod
    def forward(ctx, flat: Tensor) -> Tensor:
        ctx.save_for_backward(flat)
        return _product(flat)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        (flat,) = ctx.saved_tensors
        return matmul((gradient + gradient.T).to(flat.dtype), flat)


def _product(flat: Tensor) -> Tensor:
    """F F^T in at least float32, (B, B) of F (B, d)."""
    full = flat if flat.dtype == torch.float64 else flat.float()
    # The lower left quarter is the upper right one, and need not be multiplied.
    half = len(full) // 2
    top = full[:half] @ full.T  # (B/2, B)
    corner = full[half:] @ full[half:].T  # (B/2, B/2)
    bottom = torch.cat([top[:, half:].T, corner], dim=1)
    return torch.cat([top, bottom])


def merge_maps(
    first: Maps | None, second: Maps | None, *, alpha: float, order: str | None = None
) -> list[Tensor]:
    """alpha G1 + (1 - alpha) G2 for each stage: merged raw and normalised later, as the authors do.

    order "normalise": on maps whose rows are normalised, so that the scale of the features plays no
    part. A teacher whose weight is 0 may be None.
    Raises InputError for another order, an alpha outside 0 to 1, or maps that do not fit.
    """
    if order not in (None, "normalise"):
        raise InputError(f"order={order!r}: must be None (merge, then normalise) or 'normalise'")
    check_number("alpha", alpha, 0, 1)
    for maps, weight in ((first, alpha), (second, 1 - alpha)):
        if maps is None and weight:
            raise InputError(
                f"alpha={alpha} gives weight to a teacher whose maps are missing: "
                "give them, or set alpha to 0 or 1"
            )
    if alpha == 1:
        return list(first)
    if alpha == 0:
        return list(second)
    _check_alike("first teacher", first, "second teacher", second)
    # On raw maps the teacher with the larger features has the larger share.
    if order:
        first = [F.normalize(g, dim=1) for g in first]
        second = [F.normalize(g, dim=1) for g in second]
    return [alpha * g1 + (1 - alpha) * g2 for g1, g2 in zip(first, second, strict=True)]


def maps_loss(student: Maps, merged: Maps) -> Tensor:
    """Mean over the stages of MSE(rows of S normalised, rows of M normalised), a scalar.

    Each row of each map (B, B) is divided by its L2 norm; the MSE is over all B * B entries.
    Raises InputError where the maps do not fit one another.
    """
    _check_alike("student", student, "merged", merged)
    terms = []
    for s, m in zip(student, merged, strict=True):
        terms.append(F.mse_loss(F.normalize(s, dim=1), F.normalize(m, dim=1)))
    return torch.stack(terms).mean()


# ---------------------------------------------------------------- the whole loss


def tgd_loss(
    logits: Tensor,
    labels: Tensor,
    features: Sequence[Tensor] | None,
    teacher_logits: tuple[Tensor | None, Tensor | None],
    teacher_maps: tuple[Maps | None, Maps | None] | Maps | None,
    *,
    alpha: float,
    lam: float,
    temperature: float,
    gamma: float,
    kl_reduction: str,
    order: str | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """(1 - lam) CE + lam [alpha KD(T1) + (1 - alpha) KD(T2)] + gamma maps: the loss of TGD.

    logits (B, classes), labels int64 (B,), features three tensors (B, ...) of the student,
    teacher_logits the pair (T1, T2), teacher_maps the pair of their raw maps or one list of merged
    ones (`order` as in `merge_maps`). A teacher may be None where its weight is 0; features and
    maps where gamma is 0.

    Returns the total and {ce, kd_t1, kd_t2, maps}: the weighted terms, whose sum it is.
    With lam = gamma = 0 it is cross-entropy, with gamma = 0 and alpha = 1 plain KD.
    Raises InputError (one line) for weights out of range, a teacher that has weight and is not
    given, or shapes that do not fit.
    """
    check_number("alpha", alpha, 0, 1)
    check_number("lam", lam, 0, 1)
    check_number("gamma", gamma, 0, LARGEST)
    check_batch(logits, labels)
    if not isinstance(teacher_logits, Sequence) or len(teacher_logits) != 2:
        raise InputError("teacher_logits: a pair is needed, None where a teacher has no weight")

    # What has no weight is 0 all the same, so that every record has the same terms.
    zero = logits.new_zeros((), dtype=torch.float32)
    terms = {"ce": (1 - lam) * F.cross_entropy(logits.float(), labels)}
    weights = {"kd_t1": lam * alpha, "kd_t2": lam * (1 - alpha)}
    # Without weight a teacher is not asked: it may be absent, and its 0 * inf would be nan.
    for (name, weight), teacher in zip(weights.items(), teacher_logits, strict=True):
        terms[name] = zero
        if weight:
            kd = kd_loss(logits, teacher, temperature=temperature, reduction=kl_reduction)
            terms[name] = weight * kd
    terms["maps"] = zero
    if gamma:
        if features is None or teacher_maps is None:
            raise InputError(
                f"gamma={gamma} needs features and teacher_maps: give them, or set gamma to 0"
            )
        merged = _merged(teacher_maps, alpha=alpha, order=order)
        terms["maps"] = gamma * maps_loss([similarity_map(f) for f in features], merged)
    return terms["ce"] + terms["kd_t1"] + terms["kd_t2"] + terms["maps"], terms


def _merged(teacher_maps, *, alpha: float, order: str | None) -> Maps:
    """The merged maps, whether they are given so or as the pair of teachers'."""
    if not isinstance(teacher_maps, Sequence) or not teacher_maps:
        raise InputError("teacher_maps: merged maps, or the pair of two teachers' are needed")
    if isinstance(teacher_maps[0], Tensor):
        return teacher_maps
    if len(teacher_maps) != 2:
        raise InputError(f"teacher_maps: of 2 teachers, not of {len(teacher_maps)}")
    return merge_maps(*teacher_maps, alpha=alpha, order=order)


# ---------------------------------------------------------------- checks, also for the baselines


def check_batch(logits: Tensor, labels: Tensor) -> None:
    """InputError unless logits are floating (B, classes) and labels int64 (B,), B at least 1."""
    check_logits("student logits", logits)
    fits = isinstance(labels, Tensor) and labels.dtype == torch.int64
    if not fits or labels.shape != logits.shape[:1]:
        raise InputError(f"labels are {_kind(labels)}: int64 ({len(logits)},) is needed")


def check_logits(name: str, logits: Tensor, *, like: Tensor | None = None) -> None:
    """InputError unless `logits` are floating (B, classes), B at least 1, and shaped as `like`."""
    if not _is_floating(logits) or logits.dim() != 2 or not logits.numel():
        raise InputError(f"{name} are {_kind(logits)}: floating (B, classes) is needed")
    if like is not None and logits.shape != like.shape:
        raise InputError(f"{name} are {_kind(logits)}: the student's are {_kind(like)}")


def _check_alike(one: str, first: Maps, other: str, second: Maps) -> None:
    """InputError unless both are floating square maps, as many and of the same size."""
    for name, maps in ((one, first), (other, second)):
        if not isinstance(maps, Sequence) or not maps:
            raise InputError(f"{name} maps: at least one map (B, B) is needed")
        for g in maps:
            if not _is_floating(g) or g.dim() != 2 or g.shape[0] != g.shape[1] or not len(g):
                raise InputError(f"a map of {name} is {_kind(g)}: floating (B, B) is needed")
    if len(first) != len(second):
        raise InputError(
            f"{one} has maps of {len(first)} stages, {other} of {len(second)}: as many are needed"
        )
    for g1, g2 in zip(first, second, strict=True):
        if g1.shape != g2.shape:
            raise InputError(
                f"a map of {one} is {_kind(g1)}, of {other} {_kind(g2)}: of one batch are needed"
            )


def check_features(student: Sequence[Tensor], teacher: Sequence[Tensor], images: int) -> None:
    """InputError unless both are floating features (B, ...), B `images`, of as many stages."""
    for name, features in (("student", student), ("teacher", teacher)):
        for f in features:
            if not _is_floating(f) or f.dim() < 2 or len(f) != images:
                wanted = f"floating ({images}, ...) is needed"
                raise InputError(f"{name} features are {_kind(f)}: {wanted}")
    if len(student) != len(teacher):
        raise InputError(
            f"student features of {len(student)} stages, teacher features of {len(teacher)}: "
            "as many are needed"
        )


def check_number(name: str, value: float, low: float, high: float) -> None:
    """InputError unless `value` is a number from `low` to `high`."""
    if not isinstance(value, numbers.Real):
        raise InputError(f"{name} is {_kind(value)}: a number is needed")
    if not low <= value <= high:  # also refuses nan
        raise InputError(f"{name}={value}: must be from {low:g} to {high:g}")


def _is_floating(x) -> bool:
    return isinstance(x, Tensor) and x.dtype.is_floating_point


def _kind(x) -> str:
    """What something is, in a few words."""
    if isinstance(x, Tensor):
        return f"{str(x.dtype).removeprefix('torch.')} {tuple(x.shape)}"
    return type(x).__name__
