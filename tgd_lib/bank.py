"""What a student needs of its teachers for every training image.

Nothing is augmented, so the teachers' logits and similarity maps are constants of the training set.
`Bank` looks them up: the raw Gram matrix over all n images is stored once a stage, and a batch
needs its sub-matrix. `Online` runs the teachers, without gradients, in every step. Both answer
`batch(index)` with the arguments that `losses.tgd_loss` takes, and agree to rounding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import psutil
import torch
from torch import Tensor, nn

from tgd_lib.compute import Compute, Pixels
from tgd_lib.config import InputError
from tgd_lib.losses import merge_maps, similarity_map

STAGES = 3
GLANCE = {"cpu": 125, "cuda": 1000}  # images a teacher looks at in one go
HALF_PEAK = 2.0**15  # the largest entry of a map in float16: below its 65,504, and far from its smallest numbers
FEATURES = {"cpu": 4 * 10**9, "cuda": 16 * 10**9}  # bytes of features held while building maps, at most


@dataclass(frozen=True)
class Teacher:
    """A trained network in eval mode and the pixels it looks at (images, or persistence images)."""

    network: nn.Module
    pixels: Pixels

    @torch.no_grad()
    def look(self, index: Tensor | slice) -> tuple[Tensor, list[Tensor]]:
        """Logits float32 (B, classes) and the three stages' features for the images `index`."""
        with self.pixels.compute.autocast():
            logits, features = self.network.stages(self.pixels[index])
        return logits.float(), features


class Online:
    """The teachers themselves, run in every step: no memory, much time."""

    def __init__(self, teachers: tuple[Teacher | None, Teacher | None], *, maps: bool = True):
        self.teachers, self.maps = teachers, maps

    def batch(self, index: Tensor):
        """((logits T1, logits T2), (raw maps T1, raw maps T2)) for a batch; None for an absent teacher."""
        seen = [t and t.look(index) for t in self.teachers]
        logits = tuple(s and s[0] for s in seen)
        maps = tuple(s and [similarity_map(f) for f in s[1]] for s in seen) if self.maps else None
        return logits, maps


class Bank:
    """The teachers' answers, looked up.

    logits: the pair of float32 (n, classes), None for an absent teacher. maps: three (n, n)
    merged raw maps, float32 or float16 (`scales` undoes the scaling of the latter), or None.
    """

    def __init__(self, logits: tuple[Tensor | None, Tensor | None], maps: Sequence[Tensor] | None, scales=None):
        self.logits, self.maps = logits, maps
        self.scales = scales or [1.0] * STAGES

    def batch(self, index: Tensor):
        """((logits T1, logits T2), three merged raw maps (B, B)) for a batch."""
        logits = tuple(None if t is None else t[index] for t in self.logits)
        if self.maps is None:
            return logits, None
        rows, columns = index[:, None], index[None, :]
        maps = [m[rows, columns].float() * s for m, s in zip(self.maps, self.scales, strict=True)]
        return logits, maps


class Pair:
    """Two banks of one teacher each, whose raw maps stay apart: what is not linear in them can be done in a batch."""

    def __init__(self, first: Bank, second: Bank):
        self.first, self.second = first, second

    def batch(self, index: Tensor):
        """((logits T1, logits T2), (raw maps T1, raw maps T2)) for a batch."""
        (one, _), maps_one = self.first.batch(index)
        (two, _), maps_two = self.second.batch(index)
        return (one, two), (maps_one, maps_two)


class Remembered:
    """A teacher's logits (n, classes) and stage features (n, c, h, w), as it gave them: `look` as `Teacher.look`."""

    def __init__(self, logits: Tensor, features: Sequence[Tensor]):
        self.logits, self.features = logits, features

    def look(self, index: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Logits float32 (B, classes) and features for the images `index`."""
        return self.logits[index], [f[index] for f in self.features]


def remember(teacher: Teacher, *, room: float) -> Remembered | None:
    """All that the teacher says of its pixels; None if that takes more than `room` bytes."""
    n, glance = len(teacher.pixels), GLANCE[teacher.pixels.compute.device]
    logits, features = teacher.look(slice(0, 1))
    if n * sum(f.nbytes for f in (logits, *features)) > room:
        return None
    whole = [torch.empty(n, *f.shape[1:], dtype=f.dtype, device=f.device) for f in (logits, *features)]
    for i in range(0, n, glance):
        logits, features = teacher.look(slice(i, i + glance))
        for kept, f in zip(whole, (logits, *features), strict=True):
            kept[i : i + glance] = f
    return Remembered(whole[0], whole[1:])


def merged(
    first: Sequence[Tensor] | None,
    second: Sequence[Tensor] | None,
    *,
    alpha: float,
    dtype: torch.dtype = torch.float32,
    compute: Compute = Compute(),
) -> tuple[list[Tensor], list[float]]:
    """The maps of two teachers merged once for all steps, and their scales.

    first, second: raw maps (n, n), one a stage. In float16 a map's largest entry (it lies on the
    diagonal, by Cauchy-Schwarz) is scaled to HALF_PEAK, so that nothing overflows and little underflows.
    """
    maps, scales = [], []
    for stage in range(STAGES):
        pair = (None if m is None else [m[stage]] for m in (first, second))
        full = merge_maps(*pair, alpha=alpha)[0].float()
        scale = float(full.diagonal().max()) / HALF_PEAK if dtype == torch.float16 else 1.0
        maps.append((full / scale if scale != 1.0 else full).to(compute.device, dtype))
        scales.append(scale)
    return maps, scales


def raw_maps(teacher: Teacher, *, budget: int | None = None) -> list[Tensor]:
    """The three raw Gram matrices float32 (n, n) of a teacher over all its pixels."""
    return gram((teacher,), (1.0,), budget=budget)[0]


def gram(
    teachers: Sequence[Teacher],
    weights: Sequence[float],
    *,
    dtype: torch.dtype = torch.float32,
    budget: int | None = None,
) -> tuple[list[Tensor], list[float]]:
    """For each stage the sum over teachers of weight F F^T over all n images, (n, n), and its scale.

    Built block by block, each pair of blocks once (the sum is symmetric), in float32 and then stored as
    `dtype`; float16 is scaled as in `merged`. Beside the result only products of blocks are held.
    `budget`: bytes for the features held at a time; the fewer, the more often a teacher looks at an image.
    """
    n, compute = len(teachers[0].pixels), teachers[0].pixels.compute
    blocks = _blocks(teachers, budget or min(available(compute) // 4, FEATURES[compute.device]))
    scales = [x / HALF_PEAK for x in _largest(teachers, weights)] if dtype == torch.float16 else [1.0] * STAGES
    maps = [torch.empty(n, n, dtype=dtype, device=compute.device) for _ in range(STAGES)]
    for i, rows in enumerate(blocks):
        held = [_features(t, rows) for t in teachers]
        for columns in blocks[i:]:
            other = None  # the last block goes before the next one comes
            other = held if columns == rows else [_features(t, columns) for t in teachers]
            for stage, (g, scale) in enumerate(zip(maps, scales, strict=True)):
                pairs = zip(weights, held, other, strict=True)
                product = sum(a[stage] @ b[stage].T * (w / scale) for w, a, b in pairs)
                g[rows, columns] = product
                g[columns, rows] = product.T
    return maps, scales


def _features(teacher: Teacher, rows: slice) -> list[Tensor]:
    """Flattened features of the images `rows`, three float32 (len, d)."""
    flat: list[Tensor] = []
    glance = GLANCE[teacher.pixels.compute.device]
    for i in range(rows.start, rows.stop, glance):
        part = slice(i, min(i + glance, rows.stop))
        seen = [f.permute(0, 2, 3, 1).flatten(1) for f in teacher.look(part)[1]]
        flat = flat or [torch.empty(rows.stop - rows.start, f.shape[1], device=f.device) for f in seen]
        for whole, f in zip(flat, seen, strict=True):
            whole[i - rows.start : part.stop - rows.start] = f
    return flat


def _largest(teachers: Sequence[Teacher], weights: Sequence[float]) -> list[float]:
    """The largest entry of each stage's map: on the diagonal, the weighted squared norms of an image's features."""
    glance, n = GLANCE[teachers[0].pixels.compute.device], len(teachers[0].pixels)
    largest = []
    for i in range(0, n, glance):
        seen = [teacher.look(slice(i, i + glance))[1] for teacher in teachers]
        norms = [
            sum(w * f[stage].float().square().sum((1, 2, 3)) for w, f in zip(weights, seen, strict=True)).max()
            for stage in range(STAGES)
        ]
        largest.append(torch.stack(norms))
    return torch.stack(largest).amax(0).tolist()


def _blocks(teachers: Sequence[Teacher], budget: int) -> list[slice]:
    """Slices of the images whose features fit the budget, two blocks of them at a time."""
    n = len(teachers[0].pixels)
    per_image = 4 * sum(f[0].numel() for t in teachers for f in t.look(slice(0, 1))[1])
    size = max(1, min(n, int(budget // (2 * per_image))))
    count = -(-n // size)
    return [slice(i * n // count, (i + 1) * n // count) for i in range(count)]


def teacher_logits(teacher: Teacher, *, batch: int = 250) -> Tensor:
    """Logits float32 (n, classes) of a teacher over all its pixels."""
    n = len(teacher.pixels)
    return torch.cat([teacher.look(slice(i, i + batch))[0] for i in range(0, n, batch)])


def available(compute: Compute) -> int:
    """Bytes of free memory on the device; in a container no more than its limit leaves."""
    if compute.device == "cuda":
        cached = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
        return torch.cuda.mem_get_info()[0] + cached
    return min(psutil.virtual_memory().available, _left_in_container())


def _left_in_container(group: Path = Path("/sys/fs/cgroup")) -> float:
    """Bytes that the control group (v2) of this container may still take, its page cache counted as free; inf without a limit."""
    try:
        limit = int((group / "memory.max").read_text())  # "max" where there is no limit
        statistics = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return limit - int((group / "memory.current").read_text()) + int(statistics["inactive_file"])
    except (OSError, ValueError, KeyError):
        return math.inf


class Choice(NamedTuple):
    """How teachers' outputs reach a student: "bank" or "online", the dtype of the maps, and why."""

    mode: str
    dtype: torch.dtype
    why: str


def choose(mode: str, *, n: int, sets: int = 1, compute: Compute) -> Choice:
    """How the teachers answer: ("bank" | "online", dtype of the maps, why in a few words).

    mode "auto" takes the bank in float32 where three (n, n) maps fit half of the free memory, in
    float16 where those do, else online. The other half is for merging, whose peak is two more maps in float32.
    """
    if mode not in ("auto", "bank", "online"):
        raise InputError(f"teachers={mode!r}: must be 'auto', 'bank' or 'online'")
    if mode == "online":
        return Choice("online", torch.float32, "as asked")
    free, words = available(compute), "{:.1f} GB of maps in {}, {:.1f} GB free on " + compute.device
    for dtype, name, width in ((torch.float32, "fp32", 4), (torch.float16, "fp16", 2)):
        needed = sets * STAGES * n * n * width
        if needed <= free / 2:
            return Choice("bank", dtype, words.format(needed / 1e9, name, free / 1e9))
    if mode == "bank":
        raise InputError(f"teachers='bank': {words.format(needed / 1e9, 'fp16', free / 1e9)}; use 'online'")
    return Choice("online", torch.float32, words.format(needed / 1e9, "fp16", free / 1e9))
