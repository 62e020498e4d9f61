"""From a student's spec to its objective: the loss, fed with what its teachers say of every batch.

Nothing is augmented, so what a teacher says of a training image never changes: it comes from a bank
where that fits, or from the teachers themselves, online. Seeds share a bank, so the last one is
kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from tgd_lib import bank, baselines, ripsnet, tiles
from tgd_lib.embedding import embedding_loss
from tgd_lib.lab.spec import Asked, EmbeddingGuidance, Spec
from tgd_lib.lab.store import Artefact, Store, key_of
from tgd_lib.lab.trained import WEIGHTS, Trained
from tgd_lib.losses import tgd_loss
from tgd_lib.networks import Outputs
from tgd_lib.training import Objective, label_objective, save_tensors

BANK = "teacher_bank"  # kind of the artefacts that hold large merged maps
RIPSNET_PASSES = 32  # over the training images, at most, for the clouds that a RipsNet learns from


class Guided(NamedTuple):
    """A student's objective, and how its teachers' outputs reach it, for the record (None: no
    teacher).
    """

    objective: Objective
    teachers_by: str | None


class Source(NamedTuple):
    """Where a batch's teacher outputs come from, and how, in words.

    outputs: `bank.Bank`, `bank.Pair` or `bank.Online` for TGD (they answer `batch`); for a baseline
    `bank.Embedded`, `bank.Remembered` or the `bank.Teacher` itself (they answer `look`).
    """

    outputs: object
    how: str


class Objectives:
    """The objectives of the students of one run.

    images: fingerprint of the n training images. mode: how teachers answer, auto | bank | online.
    """

    def __init__(
        self,
        store: Store,
        trained: Trained,
        *,
        images: str,
        n: int,
        mode: str = "auto",
        say: Callable[[str], None] = print,
    ):
        self.store, self.trained, self.compute = store, trained, trained.compute
        self.images, self.n = images, n
        self.mode, self.say = mode, say
        self._last: tuple[tuple, Source] | None = None  # what was asked for, and its source

    def of(self, spec: Spec, trained_beside: nn.Module | None = None) -> Guided:
        """The objective that `spec` trains with; its teachers must have been trained.

        trained_beside: what a baseline trains beside the student (`baselines.own_parameters`).
        """
        if not any(spec.teachers):
            return Guided(label_objective, None)
        source = self.source(spec)
        if spec.baseline:
            return Guided(_baseline(spec, source.outputs, trained_beside), source.how)
        objective = _guidance(spec, source.outputs)
        if spec.embedding is None:
            return Guided(objective, source.how)
        teacher = self._embedding(Asked(spec.teachers[0]))
        return Guided(_with_embedding(objective, spec.embedding, teacher), source.how)

    def source(self, spec: Spec) -> Source:
        """The outputs of the teachers of `spec`: those used last, if they are the same, or made
        now.
        """
        asked = _what(spec)
        if self._last is None or self._last[0] != asked:
            self._last = None  # the old one goes before room is measured for the new one
            make = self._for_baseline if spec.baseline else self._for_guidance
            self._last = asked, make(spec)
        return self._last[1]

    # ---- TGD: logits and similarity maps

    def _for_guidance(self, spec: Spec) -> Source:
        guidance = spec.guidance
        choice = self.choice(spec)
        self.say(f"{spec.label}: teachers by {choice.mode} ({choice.why})")
        maps = guidance.gamma > 0
        if choice.mode == "online":
            teachers = tuple(t and self._teacher(t) for t in spec.asked)
            return Source(bank.Online(teachers, maps=maps), "online")
        if not maps:
            logits = tuple(t and self._logits(t) for t in spec.asked)
            return Source(bank.Bank(logits, None), "bank")
        how = f"bank, maps in {str(choice.dtype).removeprefix('torch.')}"
        banks = [self._bank(*merge, choice) for merge in merges(spec)]
        return Source(banks[0] if len(banks) == 1 else bank.Pair(*banks), how)

    def choice(self, spec: Spec) -> bank.Choice:
        """How the teachers of a guided student answer, in the memory that is free now."""
        device, free = self.compute.device, bank.available(self.compute)
        memory = {"n": self.n, "sets": len(merges(spec)), "free": free, "device": device}
        choice = bank.choose(self.mode, **memory)
        # What is built already is faster than online even from the disk, which a GPU cannot read.
        if (
            choice.mode == "online"
            and self.mode == "auto"
            and device == "cpu"
            and self._built(spec)
        ):
            return bank.choose("bank", **memory)
        return choice

    def _built(self, spec: Spec) -> bool:
        """Whether the store has all the large maps that a guided student needs, or has begun to
        build them: their room is taken, and to go on takes less than to do without.
        """
        asked = [self._merge(*merge) for merge in merges(spec)]
        return all(self._begun(question) or self.store.find(BANK, question) for question in asked)

    def _begun(self, question: dict) -> bool:
        """Whether large maps are half built."""
        return (self.store.under_way(BANK, key_of(BANK, question)) / tiles.PROGRESS).is_file()

    def _merge(self, teachers, alpha: float) -> dict:
        """The question that large merged maps answer."""
        return {"teachers": [t and self._question(t) for t in teachers], "alpha": alpha}

    def _bank(self, teachers, alpha: float, choice: bank.Choice) -> bank.Bank:
        """Logits, and the teachers' maps merged with `alpha`."""
        if choice.dtype == torch.float16:
            maps, scales = self._large_maps(teachers, alpha, resident=choice.fits)
            return bank.Bank(tuple(t and self._logits(t) for t in teachers), maps, scales)
        # Raw maps of each teacher are kept in the store: another alpha costs no forward pass. They
        # come first: what a teacher says while it looks for them need not be asked again.
        raw = [t and self.maps(t) for t in teachers]
        logits = tuple(t and self._logits(t) for t in teachers)
        return bank.Bank(logits, bank.merged(*raw, alpha=alpha, device=self.compute.device))

    def _large_maps(
        self, teachers, alpha: float, *, resident: bool
    ) -> tuple[torch.Tensor, list[float]]:
        """Large merged maps from the store, and their scales; built now, or gone on with."""
        asked = self._merge(teachers, alpha)
        found = self.store.find(BANK, asked)
        if not found:
            with self.store.claim(BANK, asked, resumable=True) as claim:
                # No claim: another run has built it while this one waited.
                if claim:
                    claim.finish(self._build(teachers, alpha, claim.folder), drop=[tiles.PROGRESS])
            found = self.store.find(BANK, asked)
        maps = tiles.mapped(found.path, resident=resident)
        return maps.to(self.compute.device), found.record["scales"]

    def _build(self, teachers, alpha: float, folder: Path) -> dict:
        """Build large maps; what the teachers say while they look is stored as their logits."""
        pairs = [(t, w) for t, w in zip(teachers, (alpha, 1 - alpha), strict=True) if t]
        noted = {t: bank.Noted(self._teacher(t)) for t, _ in pairs}  # one may stand twice in pairs
        about = tiles.build(folder, [(noted[t], w) for t, w in pairs], say=self.say)
        for asked, teacher in noted.items():
            if teacher.whole:  # a build that went on has not looked at all images
                self._stored_logits(asked, lambda said=teacher.logits: said)
        return about

    def _teacher(self, asked: Asked) -> bank.Teacher:
        return self.trained.teacher(asked.spec, shown=asked.shown)

    def disk(self, specs: Sequence[Spec]) -> int:
        """Bytes that the similarity maps of these students will take in the store, if all are kept,
        beyond those that are there.
        """
        kept: dict[tuple, int] = {}
        for spec in specs:
            choice = self.choice(spec) if spec.guidance else None
            if choice is None or choice.mode == "online":
                continue
            for teachers, alpha in merges(spec):
                names = tuple(t and t.name for t in teachers)
                if choice.dtype == torch.float16:
                    question = self._merge(teachers, alpha)
                    if not self.store.holds(BANK, question) and not self._begun(question):
                        kept[names, alpha] = tiles.disk(self.n)
                    continue
                for teacher in filter(None, teachers):
                    if not self.store.holds("teacher_maps", self._question(teacher)):
                        kept[teacher.name, None] = 4 * bank.STAGES * self.n**2
        return sum(kept.values())

    def _logits(self, asked: Asked) -> torch.Tensor:
        """Logits float32 (n, classes) of a teacher, from the store or made now."""
        found = self._stored_logits(asked, lambda: bank.teacher_logits(self._teacher(asked)))
        return torch.from_numpy(found.array("logits")).to(self.compute.device)

    def _stored_logits(self, asked: Asked, make: Callable[[], Tensor]) -> Artefact:
        def build(folder: Path) -> dict:
            np.save(folder / "logits.npy", make().cpu().numpy())
            return {"teacher": asked.spec.label}

        return self.store.make("teacher_logits", self._question(asked), build)

    def _embedding(self, asked: Asked) -> Tensor:
        """The embedding float32 (n, c) of a teacher, from the store or made now."""

        def build(folder: Path) -> dict:
            embedding = bank.teacher_embedding(self._teacher(asked))
            np.save(folder / "embedding.npy", embedding.cpu().numpy())
            return {"teacher": asked.spec.label}

        found = self.store.make("teacher_embedding", self._question(asked), build)
        return torch.from_numpy(found.array("embedding")).to(self.compute.device)

    def maps(self, asked: Asked) -> list[torch.Tensor]:
        """Raw maps of a teacher, three float32 (n, n), from the store or made now.

        What it says while it looks at the images is stored as its logits.
        """
        names = [f"stage{i + 1}" for i in range(bank.STAGES)]

        def build(folder: Path) -> dict:
            self.say(f"{asked.spec.label}: similarity maps of {self.n} images")
            teacher = bank.Noted(self._teacher(asked))
            maps = tiles.raw_maps(teacher)
            self._stored_logits(asked, lambda: teacher.logits)
            for name, g in zip(names, maps, strict=True):
                np.save(folder / f"{name}.npy", g.cpu().numpy())
            return {"teacher": asked.spec.label, "n": self.n}

        found = self.store.make("teacher_maps", self._question(asked), build)
        return [torch.from_numpy(found.array(name)) for name in names]

    def _question(self, asked: Asked) -> dict:
        """What is asked of a teacher: of the images that it was trained on, as it sees them, and in
        the precision that it was trained in, unless others are named.

        It is known by its weights: two rules of selection may have chosen the same ones, and two
        machines may have trained others of the same key. Before it is trained, by its key.
        """
        teacher = asked.spec
        question = {"teacher": self.trained.sum_of(teacher) or teacher.key}
        if asked.shown:
            question["shown"] = asked.shown
        if teacher.data != self.images:
            question["images"] = self.images
        if teacher.precision != self.compute.precision:
            question["precision"] = self.compute.precision
        return question

    # ---- baselines: logits, embeddings, features

    def ripsnet(self, spec: Spec) -> Artefact:
        """The RipsNet of a student's teacher and size of batch, from the store or made now: its
        weights, and in the record how near it comes to the images that it stands for.
        """
        teacher, size = spec.teachers[0], spec.schedule.batch_size
        batches = max(1, self.n // size)
        count = min(ripsnet.CLOUDS, RIPSNET_PASSES * batches)

        def build(folder: Path) -> dict:
            self.say(f"{teacher.label}: a RipsNet of {count} clouds of its embedding")
            network, about = ripsnet.fit(self._embedding(Asked(teacher)), size, count=count)
            save_tensors(folder / WEIGHTS, network.state_dict())
            return {"teacher": teacher.label} | about

        asked = {"points": size, "clouds": count, "epochs": ripsnet.EPOCHS}
        return self.store.make("ripsnet", self._question(Asked(teacher)) | asked, build)

    def _for_baseline(self, spec: Spec) -> Source:
        teacher = spec.teachers[0]
        needs = baselines.NEEDS[spec.baseline.loss]
        if needs == "logits":
            return Source(bank.Remembered(self._logits(Asked(teacher)), []), "bank")
        if needs == "embedding":
            asked = Asked(teacher)
            kept = bank.Embedded(self._logits(asked), self._embedding(asked))
            return Source(kept, "bank of embeddings")
        online = self.trained.teacher(teacher)
        room = bank.available(self.compute) / 2
        remembered = None if self.mode == "online" else bank.remember(online, room=room)
        source = (
            Source(online, "online")
            if remembered is None
            else Source(remembered, "bank of features")
        )
        self.say(f"{spec.label}: teacher by {source.how}")
        return source


def _what(spec: Spec) -> tuple:
    """What a student asks of its teachers: students that ask the same share a source."""
    names = tuple(t and t.name for t in spec.asked)
    if spec.baseline:
        return baselines.NEEDS[spec.baseline.loss], names
    guidance = spec.guidance
    return guidance.alpha, guidance.gamma > 0, guidance.order, names


def merges(spec: Spec) -> list[tuple[tuple, float]]:
    """The pairs of teachers whose maps a guided student needs merged, and the alpha of each."""
    guidance, teachers = spec.guidance, spec.asked
    if not guidance.gamma:
        return []
    # Normalised before they are merged, two teachers' maps stay apart: twice the memory.
    if guidance.order is not None and all(teachers):
        return [((teacher, None), 1.0) for teacher in teachers]
    return [(teachers, guidance.alpha)]


def _guidance(spec: Spec, outputs) -> Objective:
    weights = asdict(spec.guidance)
    del weights["shown"]  # what the teachers say has it in it

    def objective(student: Outputs, labels, index, epoch):
        teachers = outputs.batch(index)
        return tgd_loss(student.logits, labels, student.features, *teachers, **weights)

    return objective


def _with_embedding(
    objective: Objective, guidance: EmbeddingGuidance, teacher: Tensor
) -> Objective:
    """`objective` and the guidance by the teacher's embedding (n, c) of all images."""
    chosen = asdict(guidance)
    weight = chosen.pop("weight")

    def both(student: Outputs, labels, index, epoch):
        total, terms = objective(student, labels, index, epoch)
        term = weight * embedding_loss(student.embedding, teacher[index], index, **chosen)
        return total + term, terms | {"embedding": term}

    return both


def _baseline(spec: Spec, outputs, trained_beside: nn.Module | None) -> Objective:
    loss, weights = spec.baseline.loss, spec.baseline.weights
    whole, length, share = weights["weight"], spec.schedule.length, spec.baseline.warm_up

    def objective(student: Outputs, labels, index, epoch):
        teacher = Outputs(*outputs.look(index))
        weights["weight"] = whole * baselines.warmed(epoch, length, share=share)
        return baselines.baseline_loss(loss, student, teacher, labels, trained_beside, **weights)

    return objective
