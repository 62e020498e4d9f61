"""The specs of a run: what its settings ask of each teacher and student, on given data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tgd_lib.config import Schedule, Settings
from tgd_lib.diagrams import CUBICAL
from tgd_lib.lab.lab import Lab
from tgd_lib.lab.spec import Architecture, Baseline, Guidance, Spec, View
from tgd_lib.study import methods, protocol
from tgd_lib.study.methods import Method
from tgd_lib.topology import PAPER

# Means and standard deviations on [0, 1] that the authors normalise by (their code).
CIFAR10 = ("cifar10", "sample")  # the sample is a part of CIFAR-10
IMAGE_CONSTANTS = {
    **dict.fromkeys(CIFAR10, ((0.507, 0.487, 0.441), (0.267, 0.256, 0.276))),
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
        t, cifar10 = methods.teacher(name), self.settings.dataset in CIFAR10
        if t.sees == "image":
            return View("image", 3, IMAGE_CONSTANTS.get(self.settings.dataset))
        if t.sees == "image_map":
            return View("image_map", 9, None)
        orientation = t.orientation or self.settings.orientation
        copies = 1 if orientation in ("row", "column") else 2
        published = (
            cifar10 and t.sees != "pi_noisy" and t.params == PAPER and orientation not in CUBICAL
        )
        constants = tuple(c * copies for c in PI_CONSTANTS) if published else None
        return View(t.sees, 3 * copies, constants, orientation, t.params)

    def teacher(self, name: str) -> Spec:
        """The teacher `name` of `methods.TEACHERS`: the published one where the
        settings name it."""
        s, t = self.settings, methods.teacher(name)
        depth, width = s.teacher
        spec = self._spec(
            t.label,
            f"teacher_{t.name}",
            self.view(name),
            (depth, t.width or width),
            s.teacher_epochs,
            t.seed,
        )
        if s.published is None:
            return spec
        p = s.published
        schedule = Schedule(s.teacher_epochs, s.teacher_epochs, p.batch_size)
        return replace(spec, data=p.images, schedule=schedule, precision=p.precision)

    def small_teachers(self) -> list[Spec]:
        """A small pair, trained on the run's own images for half a student's epochs: nobody's
        teachers, but the whole way from pixels to teachers in a minute. None where the run trains
        its teachers itself.
        """
        if self.settings.published is None:
            return []
        pair, epochs = [], max(1, self.settings.epochs // 2)
        for name in ("image", "pi"):
            label = f"small {methods.teacher(name).label}"
            pair.append(self._spec(label, f"small_{name}", self.view(name), (10, 1), epochs, 0))
        return pair

    def student(self, method: str | Method, seed: int) -> Spec:
        """The student that `method` trains with `seed`."""
        s, m = self.settings, methods.method(method) if isinstance(method, str) else method
        spec = self._spec(m.label, m.name, self.view("image"), s.student, s.epochs, seed)
        if m.start:
            spec = replace(spec, start=self.student(m.start, seed))
        if not m.distils:
            return spec
        if m.baseline:
            return replace(spec, baseline=self._baseline(m), teachers=(self.teacher(m.first), None))
        guidance = self._guidance(m)
        first = self.teacher(m.first) if guidance.alpha > 0 else None
        second = self.teacher(m.second) if guidance.alpha < 1 else None
        return replace(spec, guidance=guidance, embedding=m.embedding, teachers=(first, second))

    def _baseline(self, m: Method) -> Baseline:
        """The baseline with its source's weights; on few steps with what was chosen of them."""
        few = self.settings.few_steps
        factor = methods.FEW_STEP_FACTORS.get(m.baseline.loss, 1.0) if few else 1.0
        return m.baseline.scaled(factor)

    def _guidance(self, m: Method) -> Guidance:
        """The weights of a method: its own where it has them, else the run's."""
        values = {}
        for name in ("alpha", "lam", "temperature", "gamma", "kl_reduction"):
            own = getattr(m, name)
            values[name] = getattr(self.settings, name) if own is None else own
        return Guidance(**values, order=m.order, shown=m.shown)

    def students(self, names: Sequence[str]) -> list[Spec]:
        """The students of several methods with all their seeds: `seeds` of those that the text
        compares, `extra_seeds` of others.

        A method that comes to the same as one before it, by the run's own alpha, say, is left out;
        not the main five.
        """
        s, seen = self.settings, set()
        found = []
        for name in names:
            key = self.student(name, 0).key
            if key not in seen or name in methods.MAIN:
                count = s.seeds if name in methods.COMPARED else s.extra_seeds
                found += [self.student(name, seed) for seed in range(count)]
            seen.add(key)
        return found

    def asked(self) -> list[Spec]:
        """All students of a run: those of its methods, and the protocol's with fresh seeds.

        The main table's first, and all methods of a seed before the next one: then what a session
        leaves can be compared by pairs. By the authors' rule, those alone of which there are
        figures of theirs.
        """
        if self.settings.selection == "authors":
            own = self.students(methods.AUTHORS)
            return sorted(own, key=lambda spec: spec.seed)
        own = self.students(methods.of(self.settings))
        own.sort(key=lambda spec: (spec.method not in methods.TABLE, spec.seed))
        return [*own, *self._fresh(protocol.members())]

    def to_publish(self) -> list[Spec]:
        """What other sessions and readers need the weights of: what students stand on (teachers,
        starts), and the main table's students of seed 0.
        """
        asked = self.asked()
        below = [needed for spec in asked for needed in spec.needs]
        shown = [spec for spec in asked if spec.seed == 0 and spec.method in methods.TABLE]
        return list({spec.key: spec for spec in (*below, *shown)}.values())

    def tested(self, names: Sequence[str]) -> list[Spec]:
        """The students of methods that are tested together: all seeds of a run, fresh ones too."""
        return [*self.students(names), *self._fresh(names)]

    def _fresh(self, names: Sequence[str]) -> list[Spec]:
        first, count = self.settings.seeds, self.settings.fresh_seeds
        seeds = range(first, first + count)
        return [self.student(name, seed) for seed in seeds for name in names]

    def examined(self) -> list[Spec]:
        """Those that are asked about corrupted images, calibration and transfer; no fresh seeds."""
        run = methods.of(self.settings)
        return self.students([name for name in methods.EXAMINED if name in run])

    def _spec(self, name, method, view, size, epochs, seed) -> Spec:
        s = self.settings
        schedule = Schedule(epochs, max(epochs, s.schedule_epochs or epochs), s.batch_size)
        test = self.test if s.selection == "authors" else None
        network = Architecture(*size, self.classes)
        return Spec(
            name, method, self.train, view, network, schedule, s.precision, seed, s.selection, test
        )
