"""What the teachers of a student answer, ready for its training: from a bank, or online.

Seeds and methods share answers, so those last used are kept; what is worth keeping longer goes to the store.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from tgd_lib import bank, baselines
from tgd_lib.bank import Teacher
from tgd_lib.compute import Compute
from tgd_lib.losses import tgd_loss
from tgd_lib.baselines import Outputs
from tgd_lib.lab.spec import Spec
from tgd_lib.lab.store import Store
from tgd_lib.training import Objective

MAPS_KEPT = 4e9  # bytes of a teacher's raw maps; larger ones are merged while built, and not stored


class _Last(NamedTuple):
    """The answers last used, the question they answer, and how they are kept."""

    question: tuple
    source: object
    how: str


class Answers:
    """Answers for the specs of one lab, over its n training images.

    teacher: from a spec to the trained `bank.Teacher`; mode: auto | bank | online.
    """

    def __init__(
        self, store: Store, compute: Compute, n: int, teacher: Callable[[Spec], Teacher],
        *, mode: str = "auto", say: Callable[[str], None] = print,
    ):  # fmt: skip
        self.store, self.compute, self.n = store, compute, n
        self.teacher, self.mode, self.say = teacher, mode, say
        self._last: _Last | None = None

    @property
    def how(self) -> str:
        """How the answers last used are kept, for records."""
        return self._last.how

    def objective(self, spec: Spec, own: nn.Module | None = None) -> Objective:
        """The loss that the student `spec` trains with; `own`: what its baseline method trains beside it."""
        source = self.of(spec)
        if spec.baseline:
            loss, weights = spec.baseline.loss, spec.baseline.weights

            def objective(logits, features, labels, index):
                teacher = Outputs(*source.look(index))
                student = Outputs(logits, features)
                return baselines.baseline_loss(loss, student, teacher, labels, own, **weights)

            return objective
        weights = asdict(spec.guidance)

        def objective(logits, features, labels, index):
            return tgd_loss(logits, labels, features, *source.batch(index), **weights)

        return objective

    def of(self, spec: Spec):
        """`bank.Bank`, `bank.Pair` or `bank.Online` for TGD; `bank.Remembered` or the teacher itself for a baseline."""
        question = (self.mode, _asked(spec), *(t and t.key for t in spec.teachers))
        if self._last is None or self._last.question != question:
            self._last = None  # the old ones go before room is measured for the new ones
            source, how = self._baseline(spec) if spec.baseline else self._tgd(spec)
            self._last = _Last(question, source, how)
        return self._last.source

    # ---- TGD: logits and similarity maps

    def _tgd(self, spec: Spec):
        maps = spec.guidance.gamma > 0
        apart = maps and spec.guidance.order and all(spec.teachers)  # normalised before merging: in every batch anew
        n = (2**0.5 if apart else 1) * self.n if maps else 0
        mode, dtype, why = bank.choose(self.mode, n=n, compute=self.compute)
        self.say(f"{spec.label}: teachers by {mode} ({why})")
        if mode == "online":
            return bank.Online(tuple(t and self.teacher(t) for t in spec.teachers), maps=maps), mode
        how = f"{mode}, maps in {str(dtype).removeprefix('torch.')}" if maps else mode
        if apart:
            first, second = ((t, None) for t in spec.teachers)
            return bank.Pair(self._bank(first, 1.0, True, dtype), self._bank(second, 1.0, True, dtype)), how
        return self._bank(spec.teachers, spec.guidance.alpha, maps, dtype), how

    def _bank(self, teachers, alpha: float, maps: bool, dtype):
        logits = tuple(t and self._logits(t) for t in teachers)
        if not maps:
            return bank.Bank(logits, None)
        if bank.STAGES * self.n**2 * 4 > MAPS_KEPT or dtype == torch.float16:
            weighted = [(self.teacher(t), w) for t, w in zip(teachers, (alpha, 1 - alpha), strict=True) if t]
            return bank.Bank(logits, *bank.gram(*zip(*weighted, strict=True), dtype=dtype))
        pair = [t and self.maps(t) for t in teachers]
        return bank.Bank(logits, *bank.merged(*pair, alpha=alpha, dtype=dtype, compute=self.compute))

    def _logits(self, spec: Spec):
        def build(folder: Path) -> dict:
            np.save(folder / "logits.npy", bank.teacher_logits(self.teacher(spec)).cpu().numpy())
            return {"teacher": spec.label}

        found = self.store.make("teacher_logits", {"teacher": spec.key}, build)
        return torch.from_numpy(found.array("logits")).to(self.compute.device)

    def maps(self, spec: Spec):
        """Raw maps of a teacher from the store, three float32 (n, n): alpha can change without making them again."""
        names = [f"stage{i + 1}" for i in range(bank.STAGES)]

        def build(folder: Path) -> dict:
            self.say(f"{spec.label}: similarity maps of {self.n} images")
            for name, g in zip(names, bank.raw_maps(self.teacher(spec)), strict=True):
                np.save(folder / f"{name}.npy", g.cpu().numpy())
            return {"teacher": spec.label, "n": self.n}

        found = self.store.make("teacher_maps", {"teacher": spec.key}, build)
        return [torch.from_numpy(found.array(name)) for name in names]

    # ---- baselines: logits and features

    def _baseline(self, spec: Spec):
        (teacher, _) = spec.teachers
        if spec.baseline.loss in baselines.LOGITS_ONLY:
            return bank.Remembered(self._logits(teacher), []), "bank"
        room = bank.available(self.compute) / 2
        asked = "online" if self.mode == "online" else bank.remember(self.teacher(teacher), room=room)
        source, how = (self.teacher(teacher), "online") if asked in ("online", None) else (asked, "bank of features")
        self.say(f"{spec.label}: teacher by {how}")
        return source, how


def _asked(spec: Spec) -> tuple:
    """What of its teachers a student asks for."""
    if spec.baseline:
        return ("logits" if spec.baseline.loss in baselines.LOGITS_ONLY else "features",)
    return spec.guidance.alpha, spec.guidance.gamma > 0, spec.guidance.order
