"""Distillation losses from the literature, as pure functions of the outputs of student and teacher.

Each takes `(student, teacher, labels, own)` and returns a float32 scalar without its weight:
student and teacher are `networks.Outputs`, labels int64 (B,), `own` the module from
`own_parameters` (None where a method has none). The teacher never gets a gradient. Where a paper
leaves a choice open it is made as in the KD literature's common code, RepDistiller (Tian et al.,
"Contrastive Representation Distillation", ICLR 2020), whose weights those in `methods` are. Nothing
here waits for the device (no .item(), no boolean indexing). Each is fed what its paper feeds:
stages' features, the embedding, or logits (`NEEDS`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tgd_lib.config import InputError, unknown
from tgd_lib.losses import (
    LARGEST,
    TEMPERATURES,
    check_batch,
    check_features,
    check_logits,
    check_number,
    kd_loss,
    maps_loss,
    similarity_map,
)
from tgd_lib.networks import Outputs
from tgd_lib.ripsnet import RipsNet

TEMPERATURE = 4.0  # of DKD, DIST and plain KD beside a baseline
CC_WIDTH = 128  # of CC's embeddings
VID_VARIANCE = 5.0  # the variances VID starts from
VID_FLOOR = 1e-5  # and the least it can have


def _floats(student: Outputs, teacher: Outputs) -> tuple[Outputs, Outputs]:
    """Logits and features of both in float32, the teacher's cut off from its graph."""
    check_logits("teacher logits", teacher.logits, like=student.logits)
    if len(student.features) and len(teacher.features):  # those of logits need no features
        check_features(student.features, teacher.features, len(student.logits))
    return (
        Outputs(student.logits.float(), [f.float() for f in student.features]),
        Outputs(teacher.logits.detach().float(), [f.detach().float() for f in teacher.features]),
    )


def _embeddings(student: Outputs, teacher: Outputs) -> tuple[Tensor, Tensor]:
    """The embeddings (B, c_S) and (B, c_T) in float32, the teacher's cut off from its graph."""
    if student.embedding is None or teacher.embedding is None:
        raise InputError(
            "a loss of embeddings was given none: student and teacher must both have one"
        )
    if len(student.embedding) != len(teacher.embedding):
        found = f"{len(student.embedding)} and {len(teacher.embedding)}"
        raise InputError(f"embeddings of {found} images: student and teacher must see the same")
    return student.embedding.float(), teacher.embedding.detach().float()


def _same_size(student: Tensor, teacher: Tensor) -> None:
    s, t = ("x".join(map(str, f.shape[2:])) for f in (student, teacher))
    if s != t:
        raise InputError(
            f"student features of {s} and teacher features of {t} pixels: the sizes must agree"
        )


# ---------------------------------------------------------------- features, stage by stage


def fitnets(student: Outputs, teacher: Outputs, labels: Tensor, own: nn.Module) -> Tensor:
    """MSE(r(F_S), F_T) over all entries (B, c, h, w) of the middle stage; r = `own`, 1x1
    convolution, BN.

    Source: Romero et al., "FitNets: Hints for Thin Deep Nets" (2015); trained jointly and with BN
    as in RepDistiller (measured: without BN it diverges at once), but not with its ReLU: the target
    is signed.
    """
    student, teacher = _floats(student, teacher)
    hint, target = student.features[1], teacher.features[1]
    _same_size(hint, target)
    return F.mse_loss(own(hint), target)


def at(student: Outputs, teacher: Outputs, labels: Tensor, own: None = None) -> Tensor:
    """Sum over the three stages of MSE(a(F_S), a(F_T)), a (B, hw): F^2 averaged over channels, row
    / norm.

    Source: Zagoruyko & Komodakis, "Paying More Attention to Attention" (2017); means as in
    RepDistiller.
    """

    def attention(features: Tensor) -> Tensor:
        return F.normalize(features.square().mean(1).flatten(1), dim=1)

    student, teacher = _floats(student, teacher)
    terms = []
    for s, t in zip(student.features, teacher.features, strict=True):
        _same_size(s, t)
        terms.append(F.mse_loss(attention(s), attention(t)))
    return torch.stack(terms).sum()


def sp(student: Outputs, teacher: Outputs, labels: Tensor, own: None = None) -> Tensor:
    """||N(G_S) - N(G_T)||^2 / B^2 of the third stage; G = F F^T, (B, B), N: each row / its L2 norm.

    Source: Tung & Mori, "Similarity-Preserving Knowledge Distillation" (2019); last stage only as
    in RepDistiller (TGD's maps are the same term as a mean over all three stages).
    """
    student, teacher = _floats(student, teacher)
    return maps_loss([similarity_map(student.features[2])], [similarity_map(teacher.features[2])])


def vid(student: Outputs, teacher: Outputs, labels: Tensor, own: nn.Module) -> Tensor:
    """Sum over the stages of mean((m(F_S) - F_T)^2 / v + ln v) / 2: -ln N(F_T; m(F_S), v) but for a
    constant.

    m, v: of `own[stage]`, a regressor and a variance a channel, softplus(raw) + 1e-5; mean over (B,
    c, h, w). Source: Ahn et al., "Variational Information Distillation for Knowledge Transfer"
    (2019); RepDistiller.
    """
    student, teacher = _floats(student, teacher)
    terms = []
    for s, t, channel in zip(student.features, teacher.features, own, strict=True):
        _same_size(s, t)
        variance = (F.softplus(channel.raw) + VID_FLOOR).view(1, -1, 1, 1)
        terms.append(((channel.mean(s) - t).square() / variance + variance.log()).mean() / 2)
    return torch.stack(terms).sum()


# ---------------------------------------------------------------- embeddings


def cc(student: Outputs, teacher: Outputs, labels: Tensor, own: nn.Module) -> Tensor:
    """Mean over neighbours i, i + 1 in the batch of sum_k d_ik d_(i+1)k, d (B, 128) = |E_S x_S -
    E_T x_T|.

    x: embeddings; E_S, E_T: `own`, two linear maps, both trained. 0 for a batch of one. Source:
    Peng et al., "Correlation Congruence for Knowledge Distillation" (2019); not the paper's kernels
    but what RepDistiller runs under that name, from the original author as it says.
    """
    x_s, x_t = _embeddings(student, teacher)
    distance = (own[0](x_s) - own[1](x_t)).abs()
    return (distance[:-1] * distance[1:]).sum() / max(len(distance) - 1, 1)


def rkd(
    student: Outputs,
    teacher: Outputs,
    labels: Tensor,
    own: None = None,
    *,
    distance=25.0,
    angle=50.0,
) -> Tensor:
    """25 H(D_S, D_T) + 50 H(A_S, A_T), H: mean Huber loss (delta 1), D and A of the embeddings x
    (B, c).

    D (B, B): |x_i - x_j| / the mean over i != j. A (B, B, B): cosine of the angle at x_i between
    x_j and x_k. Source: Park et al., "Relational Knowledge Distillation" (2019), both parts with
    the paper's weights.
    """
    x_s, x_t = _embeddings(student, teacher)
    d_s, a_s = _relations(x_s)
    d_t, a_t = _relations(x_t)
    return distance * F.smooth_l1_loss(d_s, d_t) + angle * F.smooth_l1_loss(a_s, a_t)


def _relations(x: Tensor) -> tuple[Tensor, Tensor]:
    """The matrices D (B, B) and A (B, B, B) of RKD."""
    n = len(x)
    edges = x[None] - x[:, None]  # [i, j] = x_j - x_i
    length = edges.square().sum(2).clamp(min=1e-12).sqrt()  # clamped: no infinite gradient at 0
    unit = edges / length[:, :, None]
    pairs = length * ~torch.eye(n, dtype=torch.bool, device=x.device)
    return pairs / (pairs.sum() / max(n * (n - 1), 1)).clamp(min=1e-12), unit @ unit.mT


def pkt(student: Outputs, teacher: Outputs, labels: Tensor, own: None = None) -> Tensor:
    """Mean over (B, B) of P ln(P / Q); P, Q: (1 + cosine) / 2 of embeddings of T, S, rows / sums.

    Source: Passalis & Tefas, "Learning Deep Representations with Probabilistic Knowledge Transfer"
    (2018).
    """
    tiny = 1e-7

    def affinities(x: Tensor) -> Tensor:
        unit = x / (x.norm(dim=1, keepdim=True) + tiny)
        cosine = (unit @ unit.T + 1) / 2
        return cosine / cosine.sum(1, keepdim=True)

    x_s, x_t = _embeddings(student, teacher)
    p, q = affinities(x_t), affinities(x_s)
    return (p * ((p + tiny) / (q + tiny)).log()).mean()


def topkd(student: Outputs, teacher: Outputs, labels: Tensor, own: nn.Module) -> Tensor:
    """MSE(r(x_T), r(m(x_S))) over the pixels (400,) of a persistence image; x: embeddings.

    r: `own["ripsnet"]`, trained beforehand on the teacher (`ripsnet.fit`) and frozen; m:
    `own["match"]`, a linear map (their 1x1 convolution) to the teacher's width, trained, where the
    widths differ. Source: Kim et al., "Do Topological Characteristics Help in Knowledge
    Distillation?" (ICML 2024).
    """
    x_s, x_t = _embeddings(student, teacher)
    return F.mse_loss(own["ripsnet"](own["match"](x_s)), own["ripsnet"](x_t))


# ---------------------------------------------------------------- logits


def dkd(
    student: Outputs, teacher: Outputs, labels: Tensor, own: None = None,
    *, alpha=1.0, beta=8.0, temperature=TEMPERATURE,
) -> Tensor:  # fmt: skip
    """T^2 [alpha KL(b_T || b_S) + beta KL(p_T || p_S)], averaged over the batch; T: temperature.

    b: the probabilities of label and not label; p: of the C - 1 other classes alone; of logits (B,
    C) / T. Source: Zhao et al., "Decoupled Knowledge Distillation" (2022); its warm-up is `warmed`.
    """
    student, teacher = _floats(student, teacher)
    classes = torch.arange(student.logits.shape[1], device=labels.device)
    is_label = labels[:, None] == classes

    def split(logits: Tensor) -> tuple[Tensor, Tensor]:
        log_p = F.log_softmax(logits / temperature, dim=1)
        others = log_p.masked_fill(is_label, -1e9)  # finite: 0 * inf would be nan
        rest = others.logsumexp(1, keepdim=True)
        return torch.cat([log_p.gather(1, labels[:, None]), rest], dim=1), others - rest

    parts = zip((alpha, beta), split(student.logits), split(teacher.logits), strict=True)
    terms = [w * F.kl_div(s, t, reduction="batchmean", log_target=True) for w, s, t in parts]
    return temperature**2 * torch.stack(terms).sum()


def dist(
    student: Outputs, teacher: Outputs, labels: Tensor, own: None = None,
    *, beta=1.0, gamma=1.0, temperature=TEMPERATURE,
) -> Tensor:  # fmt: skip
    """T^2 [beta (1 - mean r(rows)) + gamma (1 - mean r(columns))] of softmax(logits / T), (B, C).

    r: Pearson's correlation of student with teacher; rows are samples (inter-class), columns
    classes (intra). Source: Huang et al., "Knowledge Distillation from A Stronger Teacher" (2022),
    and its authors' code.
    """
    student, teacher = _floats(student, teacher)
    s, t = (F.softmax(a.logits / temperature, dim=1) for a in (student, teacher))
    return temperature**2 * (
        beta * (1 - _pearson(s, t).mean()) + gamma * (1 - _pearson(s.T, t.T).mean())
    )


def _pearson(a: Tensor, b: Tensor) -> Tensor:
    """Correlation of each row of a (n, m) with the same row of b, (n,); 0 for a constant row."""
    a, b = (x - x.mean(1, keepdim=True) for x in (a, b))
    return (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1) + 1e-8)


# ---------------------------------------------------------------- the whole objective

LOSSES: dict[str, Callable[[Outputs, Outputs, Tensor, nn.Module | None], Tensor]] = {
    f.__name__: f for f in (fitnets, at, sp, cc, rkd, vid, pkt, topkd, dkd, dist)
}
NEEDS = {  # what a loss needs of the teacher, beside its logits
    **dict.fromkeys(("fitnets", "at", "sp", "vid"), "features"),
    **dict.fromkeys(("cc", "rkd", "pkt", "topkd"), "embedding"),
    **dict.fromkeys(("dkd", "dist"), "logits"),
}


def warmed(epoch: int, length: int, *, share: float | None) -> float:
    """How much a loss counts in `epoch` (from 0) of a schedule of `length`: above 0, up to 1.

    It grows linearly over the first `share` of the schedule, (epoch + 1) / (share * length), and
    stays 1; without a share it is 1. A function of the epoch alone, so that a resumed training goes
    on with it. Source: DKD's authors' code, over 20 of 240 epochs, counted from 1.
    """
    if share is None:
        return 1.0
    return min(1.0, (epoch + 1) / (share * length))


def _known(name: str) -> str:
    if name not in LOSSES:
        raise unknown("baseline", name, LOSSES)
    return name


def baseline_loss(
    name: str,
    student: Outputs,
    teacher: Outputs,
    labels: Tensor,
    own: nn.Module | None = None,
    *,
    weight: float,
    ce: float = 1.0,
    kd: float = 0.0,
    temperature: float = TEMPERATURE,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The objective ce * CE + kd * KD + weight * loss `name`: its total, and {ce, kd, baseline},
    the weighted terms.

    KD is the textbook's (`batchmean`, `temperature`). Raises InputError for an unknown loss, a
    weight out of range, shapes that do not fit, or where it needs its `own_parameters` and has
    none.
    """
    if own is None and _known(name) in _OWN:
        raise InputError(
            f"baseline {name!r} needs the module that own_parameters({name!r}, ...) makes"
        )
    for label, value in (("weight", weight), ("ce", ce), ("kd", kd)):
        check_number(label, value, 0, LARGEST)
    check_number("temperature", temperature, *TEMPERATURES)
    check_batch(student.logits, labels)
    logits = student.logits.float()
    terms = {
        "ce": ce * F.cross_entropy(logits, labels),
        "kd": logits.new_zeros(()),
        "baseline": weight * LOSSES[name](student, teacher, labels, own),
    }
    if kd:
        hints = teacher.logits.detach()
        terms["kd"] = kd * kd_loss(logits, hints, temperature=temperature, reduction="batchmean")
    return terms["ce"] + terms["kd"] + terms["baseline"], terms


# ---------------------------------------------------------------- parameters of their own


def own_parameters(
    name: str, student_widths: Sequence[int], teacher_widths: Sequence[int], *, seed: int
) -> nn.Module | None:
    """What baseline `name` trains beside the student, freshly initialised on the CPU; None for
    most.

    TopKD's holds its RipsNet, too, which is frozen and waits for its weights. widths: channels of
    the three stages. The weights depend on the seed alone and the global random state stays as it
    is. In RepDistiller the student's optimiser trains them too, weight decay included.
    """
    if _known(name) not in _OWN:
        return None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _OWN[name](student_widths, teacher_widths)


def _regressor(student: Sequence[int], teacher: Sequence[int]) -> nn.Module:
    return nn.Sequential(nn.Conv2d(student[1], teacher[1], 1), nn.BatchNorm2d(teacher[1]))


def _projections(student: Sequence[int], teacher: Sequence[int]) -> nn.Module:
    return nn.ModuleList(nn.Linear(width[2], CC_WIDTH) for width in (student, teacher))


def _matched(student: Sequence[int], teacher: Sequence[int]) -> nn.Module:
    same = student[2] == teacher[2]
    match = nn.Identity() if same else nn.Linear(student[2], teacher[2])
    ripsnet = RipsNet(teacher[2]).requires_grad_(False)
    return nn.ModuleDict({"match": match, "ripsnet": ripsnet})


def _channels(student: Sequence[int], teacher: Sequence[int]) -> nn.Module:
    return nn.ModuleList(GaussianChannel(s, t) for s, t in zip(student, teacher, strict=True))


class GaussianChannel(nn.Module):
    """VID's q(F_T | F_S) of one stage: three 1x1 convolutions without bias, raw
    variances (c_T,)."""

    def __init__(self, student: int, teacher: int):
        super().__init__()
        widths = (student, teacher, teacher, teacher)
        convolutions = [
            nn.Conv2d(a, b, 1, bias=False) for a, b in zip(widths, widths[1:], strict=False)
        ]
        self.mean = nn.Sequential(
            convolutions[0], nn.ReLU(), convolutions[1], nn.ReLU(), convolutions[2]
        )
        self.raw = nn.Parameter(
            torch.full((teacher,), math.log(math.expm1(VID_VARIANCE - VID_FLOOR)))
        )


_OWN: dict[str, Callable[[Sequence[int], Sequence[int]], nn.Module]] = {
    "fitnets": _regressor,
    "cc": _projections,
    "topkd": _matched,
    "vid": _channels,
}
