"""The losses, as pure functions of tensors. Sources: the TGD paper and the authors' code (recipe.md)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from tgd_lib.config import InputError

Maps = Sequence[Tensor]  # raw similarity maps (B, B), one a stage


def kd_loss(student_logits: Tensor, teacher_logits: Tensor, *, temperature: float, reduction: str) -> Tensor:
    """T^2 KL(softmax(teacher / T) || softmax(student / T)), a scalar.

    logits: float (B, classes). reduction "batchmean" divides the sum by B (Hinton et al. 2015),
    "mean" by B * classes, as the TGD code runs it: ten times weaker for ten classes.
    Raises InputError for another reduction or a temperature that is not positive.
    """
    if reduction not in ("mean", "batchmean"):
        raise InputError(f"kl_reduction={reduction!r}: must be 'mean' or 'batchmean'")
    if not temperature > 0:
        raise InputError(f"temperature={temperature}: must be above 0")
    if teacher_logits is None:
        raise InputError("a teacher that has weight gave no logits: give them, or set its weight to 0")
    student = F.log_softmax(student_logits.float() / temperature, dim=1)
    teacher = F.log_softmax(teacher_logits.float() / temperature, dim=1)
    total = F.kl_div(student, teacher, reduction="sum", log_target=True)
    count = len(student) if reduction == "batchmean" else student.numel()
    return total * (temperature**2 / count)


def similarity_map(features: Tensor) -> Tensor:
    """The raw Gram matrix G = F F^T, float32 (B, B), of features (B, ...) flattened to F (B, d).

    Source: Tung & Mori, "Similarity-Preserving Knowledge Distillation" (2019); the TGD code.
    """
    if features.dim() == 4:
        features = features.permute(0, 2, 3, 1)  # channels last is flattened without a copy; G is the same
    return _Gram.apply(features.flatten(1))  # of F (B, d)


class _Gram(torch.autograd.Function):
    """F F^T in float32, with the gradient (dG + dG^T) F in the precision that F has.

    Autograd would take two products for the gradient, and float32 ones for a bf16 F that rounds them anyway.
    """

    @staticmethod
    def forward(ctx, flat: Tensor) -> Tensor:
        ctx.save_for_backward(flat)
        return _product(flat)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        (flat,) = ctx.saved_tensors
        return (gradient + gradient.T).to(flat.dtype) @ flat


def _product(flat: Tensor) -> Tensor:
    """F F^T in at least float32; its lower left quarter is the upper right one, and need not be multiplied."""
    full = flat if flat.dtype == torch.float64 else flat.float()
    half = len(full) // 2
    top, corner = full[:half] @ full.T, full[half:] @ full[half:].T
    return torch.cat([top, torch.cat([top[:, half:].T, corner], dim=1)])


def merge_maps(
    first: Maps | None, second: Maps | None, *, alpha: float, order: str | None = None
) -> list[Tensor]:
    """alpha G1 + (1 - alpha) G2 for each stage, on raw maps: merged first, normalised later, as the authors do.

    order "normalise": on maps whose rows are normalised, so that alpha alone decides the shares, whatever the
    scale of the features. A teacher whose weight is 0 may be None. InputError for another order.
    """
    if order not in (None, "normalise"):
        raise InputError(f"order={order!r}: must be None (merge, then normalise) or 'normalise'")
    if any(m is None and w for m, w in ((first, alpha), (second, 1 - alpha))):
        raise InputError(f"alpha={alpha} gives weight to a teacher whose maps are missing: give them, or set alpha to 0 or 1")
    if alpha in (0, 1):
        return list(first if alpha else second)
    if order:
        first, second = ([F.normalize(g, dim=1) for g in maps] for maps in (first, second))
    return [alpha * g1 + (1 - alpha) * g2 for g1, g2 in zip(first, second, strict=True)]


def maps_loss(student: Maps, merged: Maps) -> Tensor:
    """Mean over the stages of MSE(rows of S normalised, rows of M normalised), a scalar.

    Each row of each map (B, B) is divided by its L2 norm; the MSE is over all B * B entries.
    """
    terms = [
        F.mse_loss(F.normalize(s, dim=1), F.normalize(m, dim=1)) for s, m in zip(student, merged, strict=True)
    ]
    return torch.stack(terms).mean()


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
    teacher_logits the pair (T1, T2), teacher_maps the pair of their raw maps or one list of
    merged ones (`order` as in `merge_maps`). A teacher may be None where its weight is 0; features and maps where gamma is 0.

    Returns the total and {ce, kd_t1, kd_t2, maps}: the weighted terms, whose sum it is.
    With lam = gamma = 0 it is cross-entropy, with gamma = 0 and alpha = 1 plain KD.
    Raises InputError for weights out of range, or a teacher that has weight and is not given.
    """
    _check_weights(alpha, lam, gamma)
    zero = logits.new_zeros((), dtype=torch.float32)
    kd = [
        weight * kd_loss(logits, t, temperature=temperature, reduction=kl_reduction) if weight else zero
        for weight, t in zip((lam * alpha, lam * (1 - alpha)), teacher_logits, strict=True)
    ]
    maps = zero
    if gamma:
        if features is None or teacher_maps is None:
            raise InputError(f"gamma={gamma} needs features and teacher_maps: give them, or set gamma to 0")
        merged = teacher_maps if _is_merged(teacher_maps) else merge_maps(*teacher_maps, alpha=alpha, order=order)
        maps = gamma * maps_loss([similarity_map(f) for f in features], merged)
    ce = (1 - lam) * F.cross_entropy(logits.float(), labels)
    terms = {"ce": ce, "kd_t1": kd[0], "kd_t2": kd[1], "maps": maps}
    return ce + kd[0] + kd[1] + maps, terms


def _check_weights(alpha: float, lam: float, gamma: float) -> None:
    for name, value, high in (("alpha", alpha, 1), ("lam", lam, 1), ("gamma", gamma, float("inf"))):
        if not 0 <= value <= high:
            raise InputError(f"{name}={value}: must be from 0 to {high}")


def _is_merged(maps) -> bool:
    return isinstance(maps[0], Tensor)
