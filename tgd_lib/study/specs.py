"""The specs of a run: what its settings ask of each teacher and student, on given data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tgd_lib.config import Schedule, Settings
from tgd_lib.diagrams import CUBICAL
from tgd_lib.lab.lab import Lab
from tgd_lib.lab.spec import Guidance, Spec, View
from tgd_lib.study import methods
from tgd_lib.study.methods import Method
from tgd_lib.topology import PAPER

# Means and standard deviations on [0, 1] that the authors normalise by (recipe).
IMAGE_CONSTANTS = {
    "cifar10": ((0.507, 0.487, 0.441), (0.267, 0.256, 0.276)),
    "cinic10": ((0.47889522, 0.47227842, 0.43047404), (0.24205776, 0.23828046, 0.25874835)),
}
PI_CONSTANTS = ((0.05165074, 0.05487815, 0.06697452), (0.12468914, 0.12733056, 0.13768335))


def specs_of(lab: Lab) -> Specs:
    """The specs of a lab's run, on its data."""
    train, test = lab.data.train, lab.data.test
    return Specs(lab.settings, train.fingerprint, test.fingerprint, len(train.class_names))


@dataclass(frozen=True)
class Specs:
    """The specs that settings ask for, on given data: fingerprints of the train and test images."""

    settings: Settings
    train: str
    test: str
    classes: int

    def view(self, name: str) -> View:
        """What the teacher `name` looks at; a student looks at what "image" does."""
        t, cifar10 = methods.teacher(name), self.settings.dataset == "cifar10"
        if t.sees == "image":
            return View("image", 3, IMAGE_CONSTANTS.get(self.settings.dataset))
        if t.sees == "image_map":
            return View("image_map", 9, None)
        orientation = t.orientation or self.settings.orientation
        copies = 1 if orientation in ("row", "column") else 2
        published = cifar10 and t.sees not in ("noise", "pi_noisy") and t.params == PAPER and orientation not in CUBICAL
        constants = tuple(c * copies for c in PI_CONSTANTS) if published else None
        return View(t.sees, 3 * copies, constants, orientation, t.params)

    def teacher(self, name: str) -> Spec:
        """The teacher `name` of `methods.TEACHERS`."""
        s, t = self.settings, methods.teacher(name)
        size = (s.teacher[0], t.width or s.teacher[1])
        label = f"{t.label}, seed {t.seed}"
        return self._spec(label, f"teacher_{t.name}", self.view(t.name), size, s.teacher_epochs, t.seed)

    def student(self, method: str | Method, seed: int) -> Spec:
        """The student that `method` trains with `seed`."""
        s, m = self.settings, methods.method(method) if isinstance(method, str) else method
        spec = self._spec(f"{m.label}, seed {seed}", m.name, self.view("image"), s.student, s.epochs, seed)
        if m.start:
            spec = replace(spec, start=self.student(m.start, seed))
        if not m.distils:
            return spec
        if m.baseline:
            return replace(spec, baseline=m.baseline, teachers=(self.teacher(m.first), None))
        chosen = {k: getattr(m, k) for k in ("alpha", "lam", "temperature", "gamma", "kl_reduction")}
        values = {k: getattr(s, k) if v is None else v for k, v in chosen.items()}
        guidance = Guidance(**values, order=m.order)
        weights = (guidance.alpha, 1 - guidance.alpha)  # a teacher without weight is not trained
        pair = tuple(self.teacher(t) if w else None for t, w in zip((m.first, m.second), weights, strict=True))
        return replace(spec, guidance=guidance, teachers=pair)

    def students(self, names: Sequence[str]) -> list[Spec]:
        """The students of several methods with all their seeds: `seeds` of the main five, `extra_seeds` of others.

        A method that comes to the same as one before it, by the run's own alpha, say, is left out; not the main five.
        """
        s, seen = self.settings, set()
        found = []
        for name in names:
            key = self.student(name, 0).key
            if key not in seen or name in methods.MAIN:
                count = s.seeds if name in methods.MAIN else s.extra_seeds
                found += [self.student(name, seed) for seed in range(count)]
            seen.add(key)
        return found

    def _spec(self, label, method, view, network, epochs, seed) -> Spec:
        s = self.settings
        schedule = Schedule(epochs, max(epochs, s.schedule_epochs or epochs), s.batch_size)
        test = self.test if s.selection == "authors" else None
        size = (*network, self.classes)
        return Spec(label, method, self.train, view, size, schedule, s.precision, seed, s.selection, test)
