"""What a student needs of its teachers for every training image.

Nothing is augmented, so the teachers' logits and similarity maps are constants of the training set.
`Bank` looks them up: the raw Gram matrix over all n images is stored once a stage, and a batch
needs its sub-matrix. `Online` runs the teachers, without gradients, in every step. Both answer
`batch(index)` with the arguments that `losses.tgd_loss` takes, and agree to rounding.
How the maps of a bank are built, small or large, is in `tiles`.
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
from tgd_lib.networks import Outputs

STAGES = 3
# Images a teacher looks at in one go. On a CPU the memory of a tensor above 32 MB is given back and
# asked for again in every layer; one of 50 persistence images takes 24 MB in WRN-16-3.
GLANCE = {"cpu": 50, "cuda": 250}
MAPS_KEPT = 4e9  # bytes of a set of float32 maps; larger ones are built as float16, into files
ROOM = 0.8  # share of the free memory that float16 maps may fill; the rest is for the student

Maps = Sequence[Tensor]  # one (n, n) or (B, B) a stage


# ---- the teachers themselves


@dataclass(frozen=True)
class Teacher:
    """A trained network in eval mode and the pixels it looks at (images, or persistence images)."""

    network: nn.Module
    pixels: Pixels

    @torch.no_grad()
    def look(self, index: Tensor | slice) -> tuple[Tensor, list[Tensor]]:
        """Logits float32 (B, classes) and the features (B, c, h, w) of three stages for `index`.

        The features are in the precision that the teacher computes in: float32 or bfloat16.
        """
        with self.pixels.compute.autocast():
            logits, features, _ = self.network.stages(self.pixels[index])
        return logits.float(), features


class Noted:
    """A teacher whose logits are noted while it looks at slices of its pixels for its features."""

    def __init__(self, teacher: Teacher):
        self.teacher, self.pixels = teacher, teacher.pixels
        self._said: dict[int, Tensor] = {}  # by the first image of the slice

    def look(self, rows: slice) -> tuple[Tensor, list[Tensor]]:
        """Logits float32 (B, classes) and the features of three stages, as `Teacher.look`."""
        logits, features = self.teacher.look(rows)
        self._said[rows.start] = logits
        return logits, features

    @property
    def whole(self) -> bool:
        """Whether it has looked at all n images, each once (`glances`)."""
        return sum(map(len, self._said.values())) == len(self.pixels)

    @property
    def logits(self) -> Tensor:
        """Logits float32 (n, classes), where it is `whole`."""
        return torch.cat([self._said[start] for start in sorted(self._said)])


def glances(teacher: Teacher | Noted, rows: slice) -> list[slice]:
    """The images `rows` in pieces that a teacher can look at in one go."""
    step = GLANCE[teacher.pixels.compute.device]
    starts = range(rows.start, rows.stop, step)
    return [slice(i, min(i + step, rows.stop)) for i in starts]


def teacher_logits(teacher: Teacher) -> Tensor:
    """Logits float32 (n, classes) of a teacher over all its pixels."""
    whole = slice(0, len(teacher.pixels))
    return torch.cat([teacher.look(rows)[0] for rows in glances(teacher, whole)])


@torch.no_grad()
def teacher_embedding(teacher: Teacher, *, batch: int = 250) -> Tensor:
    """The embedding float32 (n, c) of a teacher over all its pixels, as its last layer sees it."""
    parts: list[Tensor] = []
    for i in range(0, len(teacher.pixels), batch):
        with teacher.pixels.compute.autocast():
            outputs = teacher.network.stages(teacher.pixels[i : i + batch])
        parts.append(outputs.embedding.float())
    return torch.cat(parts)


class Online:
    """The teachers run in every step: no memory, much time.

    teachers: the pair (T1, T2), None for an absent one. maps: whether similarity maps are wanted.
    """

    def __init__(self, teachers: tuple[Teacher | None, Teacher | None], *, maps: bool = True):
        self.teachers, self.maps = teachers, maps

    def batch(self, index: Tensor):
        """((logits T1, logits T2), (raw maps T1, raw maps T2)); None for an absent teacher."""
        logits, maps = [], []
        for teacher in self.teachers:
            said, features = teacher.look(index) if teacher else (None, None)
            logits.append(said)
            maps.append(self._maps(features))
        return tuple(logits), tuple(maps) if self.maps else None

    def _maps(self, features: Sequence[Tensor] | None) -> list[Tensor] | None:
        if features is None or not self.maps:
            return None
        return [similarity_map(f) for f in features]


# ---- their answers, kept


class Bank:
    """The teachers' answers, looked up.

    logits: the pair of float32 (n, classes), None for an absent teacher. maps: merged raw maps
    (3, n, n), float32 or float16, in memory or mapped from a file, or None.
    scales: what the entries of each map are to be multiplied by (float16 maps are scaled).
    """

    def __init__(
        self,
        logits: tuple[Tensor | None, Tensor | None],
        maps: Tensor | None,
        scales: Sequence[float] = (1.0,) * STAGES,
    ):
        self.logits, self.maps = logits, maps
        if maps is not None:
            self._stages = torch.arange(STAGES, device=maps.device).view(-1, 1, 1)
            self._scales = torch.tensor(scales, device=maps.device).view(-1, 1, 1)

    def batch(self, index: Tensor):
        """((logits T1, logits T2), three merged raw maps float32 (B, B)) for a batch."""
        logits = tuple(None if said is None else said[index] for said in self.logits)
        if self.maps is None:
            return logits, None
        # Entry by entry: whole rows would be 38 MB a batch at n = 50,000. And all stages at once: a
        # look-up of fewer entries is left to one core.
        parts = self.maps[self._stages, index[:, None], index[None, :]]  # (3, B, B)
        return logits, list(parts.float() * self._scales)


class Pair:
    """Two banks of one teacher each, whose raw maps stay apart.

    What is not linear in them (normalising before merging) can then be done in a batch.
    """

    def __init__(self, first: Bank, second: Bank):
        self.first, self.second = first, second

    def batch(self, index: Tensor):
        """((logits T1, logits T2), (raw maps T1, raw maps T2)) for a batch."""
        (one, _), maps_one = self.first.batch(index)
        (two, _), maps_two = self.second.batch(index)
        return (one, two), (maps_one, maps_two)


def merged(first: Maps | None, second: Maps | None, *, alpha: float, device: str = "cpu") -> Tensor:
    """The raw maps of two teachers, three float32 (n, n) each, merged once for all steps.

    Float32 (3, n, n) on the device. None for an absent teacher, whose weight must be 0.
    """
    n = len((first or second)[0])
    merged = torch.empty(STAGES, n, n, device=device)
    for stage in range(STAGES):
        # One stage at a time: a map may take a gigabyte.
        one = first and [first[stage]]
        two = second and [second[stage]]
        (whole,) = merge_maps(one, two, alpha=alpha)
        merged[stage] = whole
    return merged


class Remembered:
    """A teacher's logits (n, classes) and stage features (n, c, h, w): `look` as in `Teacher`."""

    def __init__(self, logits: Tensor, features: Sequence[Tensor]):
        self.logits, self.features = logits, features

    def look(self, index: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Logits float32 (B, classes) and features for the images `index`."""
        return self.logits[index], [f[index] for f in self.features]


class Embedded:
    """A teacher's logits (n, classes) and embedding (n, c), float32."""

    def __init__(self, logits: Tensor, embedding: Tensor):
        self.logits, self.embedding = logits, embedding

    def look(self, index: Tensor) -> Outputs:
        """Logits (B, classes) and embedding (B, c) for the images `index`; no features."""
        return Outputs(self.logits[index], [], self.embedding[index])


def remember(teacher: Teacher, *, room: float) -> Remembered | None:
    """All that the teacher says of its pixels; None if that takes more than `room` bytes."""
    n = len(teacher.pixels)
    logits, features = teacher.look(slice(0, 1))
    one = [logits, *features]
    # What one image takes tells what all take, before anything is computed.
    if n * sum(f.nbytes for f in one) > room:
        return None
    whole = [f.new_empty(n, *f.shape[1:]) for f in one]
    for rows in glances(teacher, slice(0, n)):
        logits, features = teacher.look(rows)
        for kept, f in zip(whole, [logits, *features], strict=True):
            kept[rows] = f
    return Remembered(whole[0], whole[1:])


# ---- which way is taken


class Choice(NamedTuple):
    """How the teachers answer."""

    mode: str  # "bank" or "online"
    dtype: torch.dtype  # of the maps: float32 ones are held in memory, float16 ones lie in files
    why: str  # in a few words
    fits: bool  # whether the maps fit the memory; float16 ones can be read from the disk


def choose(mode: str, *, n: int, free: float, sets: int = 1, device: str = "cpu") -> Choice:
    """How the teachers of n images answer where `free` bytes of memory are free (`available`).

    mode: auto, bank or online. sets: how often three (n, n) maps are kept: once where they are
    merged, twice where two teachers' maps stay apart, 0 where only logits are asked for.
    "auto" takes float32 maps in memory where they are small (`MAPS_KEPT`) and fit half of it (the
    other half is for merging them); else float16 maps, built by tiles into files that are mapped,
    where they fit `ROOM` of it; else online. "bank" takes files even if they do not fit: every step
    reads from the disk then. InputError for another mode, and for a bank too large for a GPU.
    """
    if mode not in ("auto", "bank", "online"):
        raise InputError(f"teachers={mode!r}: must be 'auto', 'bank' or 'online'")
    if mode == "online":
        return Choice("online", torch.float32, "as asked", True)
    numbers = sets * STAGES * n**2
    single, half = 4 * numbers, 2 * numbers
    words = f"{{:.1f}} GB of maps in {{}}, {free / 1e9:.1f} GB free on {device}"
    if single <= min(MAPS_KEPT * max(1, sets), free / 2):
        return Choice("bank", torch.float32, words.format(single / 1e9, "fp32"), True)
    words = words.format(half / 1e9, "fp16")
    if half <= ROOM * free:
        return Choice("bank", torch.float16, words, True)
    if mode == "auto":
        return Choice("online", torch.float32, f"{words}; 'bank' would read the disk", True)
    # A GPU has no disk to read from, and would run out of memory halfway.
    if device != "cpu":
        raise InputError(f"teachers='bank': {words}; take teachers='online', or fewer images")
    if half <= free:  # what the student takes of it is read from the disk again
        return Choice("bank", torch.float16, words, True)
    return Choice("bank", torch.float16, f"{words}: every step reads the disk", False)


def available(compute: Compute) -> int:
    """Bytes of free memory on the device; in a container no more than its limit leaves."""
    if compute.device == "cuda":
        # What PyTorch keeps for itself and does not use is free to us.
        cached = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
        return torch.cuda.mem_get_info()[0] + cached
    return min(psutil.virtual_memory().available, _left_in_container())


def _left_in_container(group: Path = Path("/sys/fs/cgroup")) -> float:
    """Bytes that the control group (v2) of this container may still take; inf without a limit.

    Its page cache counts as free.
    """
    try:
        # The limit reads "max" where there is none, which is no number.
        limit = int((group / "memory.max").read_text())
        used = int((group / "memory.current").read_text())
        lines = (group / "memory.stat").read_text().splitlines()
        statistics = dict(line.split() for line in lines)
        cache = int(statistics["inactive_file"]) + int(statistics["active_file"])
        return limit - used + cache
    except (OSError, ValueError, KeyError):
        return math.inf
