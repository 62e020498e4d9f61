"""How to get a trained network: from the store, or by training.

A `Lab` answers the specs of one `Settings`. Asking for a student trains whatever it stands on
first, if that is missing. Heavy modules are imported where they are used.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path

from tgd_lib import datasets
from tgd_lib.config import InputError, Settings
from tgd_lib.lab.spec import Spec, View
from tgd_lib.files import sha256
from tgd_lib.lab.store import Artefact, Store
from tgd_lib.lab.views import Views

STATE = "state.safetensors"  # of a training under way
TOGETHER = {"cpu": 1, "cuda": 6}  # networks that train side by side: a small one leaves a large GPU idle


class Lab:
    """The data, the store and the device of one run; turns specs into networks and figures.

    `teachers` is how students get their teachers' answers: auto | bank | online.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        store: Store | None = None,
        teachers: str = "auto",
        say: Callable[[str], None] = lambda line: print(line, file=sys.stderr, flush=True),
    ):
        self.settings, self.store = settings, store or Store()
        self.teachers, self.say = teachers, say
        self._pixels: dict = {}  # so that seeds and methods share them

    # ---- data

    @cached_property
    def data(self) -> datasets.Parts:
        """The training, test and held-out images."""
        return datasets.load_parts(self.settings)

    @cached_property
    def compute(self):
        """Where to compute (InputError if that is not there)."""
        from tgd_lib.compute import Compute

        return Compute.choose(self.settings.device, self.settings.precision)

    @cached_property
    def views(self) -> Views:
        """The pixels that views show of the data, on the host."""
        return Views(self.data, self.store, say=self.say)

    def pixels(self, view: View, part: str):
        """What `view` shows of a part, resident on the device; kept are the images and the other view last used."""
        if (view, part) not in self._pixels:
            from tgd_lib.compute import Pixels

            array, constants = self.views.array(view, part), self.views.constants(view)
            if view.kind != "image":
                self._drop_others(view)
            self._pixels[view, part] = Pixels(array, *constants, self.compute)
        return self._pixels[view, part]

    def _drop_others(self, view: View) -> None:
        """Let go of what other views than `view` and the images show: one of them fills the memory at n = 50,000."""
        for held, part in list(self._pixels):
            if held.kind != "image" and held != view:
                del self._pixels[held, part]

    def shown(self, view: View, images):
        """Other images uint8 (N, H, W, 3) as the networks of an image `view` are shown theirs."""
        from tgd_lib.compute import Pixels

        return Pixels(images.transpose(0, 3, 1, 2), *self.views.constants(view), self.compute)

    # ---- trained networks

    def trained(self, spec: Spec) -> Artefact:
        """The trained network that `spec` describes: found in the store, or trained now."""
        self.train([spec])
        return self.store.find("network", spec.question)

    def train(self, specs: Sequence[Spec], *, tolerant: bool = False) -> list[Spec]:
        """Train what is missing of `specs` and of all they stand on; on a GPU several at a time.

        One that diverges, and what stands on it, is left out, the others are trained; at the end its error is
        raised or, if `tolerant`, those of `specs` that could not be trained are returned.
        """
        from tgd_lib.config import Diverged

        missing: dict[str, Spec] = {}
        lost: dict[str, Diverged] = {}
        for spec in specs:
            self._collect(spec, missing)
        while missing:
            ready = [s for s in missing.values() if not any(n.key in missing for n in s.needs)]
            group = [s for s in ready if _alike(s) == _alike(ready[0])][: TOGETHER[self.compute.device]]
            try:
                self._train(group)
            except Diverged as error:
                error = error.with_traceback(None)  # its frames hold the networks and their teachers' answers
                lost |= {s.key: error for s in group if not self.store.find("network", s.question)}
            for spec in group:
                del missing[spec.key]
            for key in [k for k, s in missing.items() if any(n.key in lost for n in s.needs)]:
                lost[key] = next(lost[n.key] for n in missing.pop(key).needs if n.key in lost)
        if lost and not tolerant:
            raise next(iter(lost.values()))
        return [s for s in specs if s.key in lost]

    def _collect(self, spec: Spec, missing: dict[str, Spec]) -> None:
        """Add to `missing` what is not in the store of `spec` and its needs, needs first."""
        if spec.key in missing or self.store.find("network", spec.question):
            return
        for needed in spec.needs:
            self._collect(needed, missing)
        missing[spec.key] = spec

    def network(self, spec: Spec):
        """The trained network as a module in eval mode on the device."""
        from safetensors.torch import load_file

        module = self._fresh(spec)
        module.load_state_dict(load_file(self.trained(spec).path / "weights.safetensors"))
        return self.compute.place(module).eval()

    def _fresh(self, spec: Spec):
        from tgd_lib.networks import wide_resnet

        depth, width, classes = spec.network
        return wide_resnet(depth, width, spec.view.channels, classes, seed=spec.seed)

    def _train(self, specs: Sequence[Spec]) -> None:
        """Train `specs`, all whose needs are met, side by side, and put them into the store."""
        from tgd_lib import training

        with ExitStack() as stack:
            made = []  # (spec, claim, run); claimed in the order of keys, so that two labs never wait for each other
            for spec in sorted(specs, key=lambda s: s.key):
                claim = stack.enter_context(self.store.claim("network", spec.question, resumable=True))
                if claim:
                    made.append((spec, claim, self.run(spec)))
            of = {id(run): (spec, claim) for spec, claim, run in made}

            def end(run) -> None:
                spec, claim = of[id(run)]
                claim.finish(self._record(spec, run, claim.folder, len(made)), drop=(STATE,))

            training.train(
                [(run, claim.folder / STATE) for _, claim, run in made],
                on_epoch=lambda run, entry: self.say(_line(of[id(run)][0], entry)),
                on_end=end,
            )

    def run(self, spec: Spec):
        """A `training.Run` at the beginning of what `spec` describes. Its teachers and start are trained first."""
        import torch

        from tgd_lib import training

        own = self._own(spec) if spec.baseline else None
        return training.Run(
            self.network(spec.start).train() if spec.start else self._fresh(spec),
            self.pixels(spec.view, "train"),
            torch.from_numpy(self.data.train.labels),
            spec.schedule,
            seed=spec.seed,
            objective=self.answers.objective(spec, own) if any(spec.teachers) else training.label_objective,
            own=own,
            evaluate=self._test_accuracy(spec) if spec.selection == "authors" else None,
        )

    def _own(self, spec: Spec):
        """What the baseline method of `spec` trains beside the student, on the device; None for most."""
        from tgd_lib import baselines

        widths = [[16 * s.network[1] * k for k in (1, 2, 4)] for s in (spec, spec.teachers[0])]
        own = baselines.own_parameters(spec.baseline.loss, *widths, seed=spec.seed)
        return own and self.compute.place(own)

    def _record(self, spec: Spec, run, folder: Path, together: int) -> dict:
        """Write the weights that count, and say how they came about."""
        import torch

        from tgd_lib import training

        weights, epoch = run.selected()
        training.save_tensors(folder / "weights.safetensors", weights)
        if run.own.state_dict():
            training.save_tensors(folder / "own.safetensors", run.own.state_dict())
        return {
            "label": spec.label,
            "method": spec.method,
            "seed": spec.seed,
            "selection": spec.selection,
            "selected_epoch": epoch,
            "epochs_in_all": spec.epochs_in_all,
            "device": self.compute.name,
            "precision": spec.precision,
            "tf32_convolutions": self.compute.device == "cuda" and torch.backends.cudnn.allow_tf32,
            "threads": torch.get_num_threads(),
            "teachers_by": self.answers.how if any(spec.teachers) else None,
            "together": together,  # networks side by side: the seconds are those of all of them
            "training_seconds": round(sum(h["seconds"] for h in run.history), 3),
            "started_from": spec.start and spec.start.label,
            "weights_used": {n.label: sha256(self.trained(n).path / "weights.safetensors") for n in spec.needs},
            "history": run.history,
        }

    def _test_accuracy(self, spec: Spec) -> Callable:
        import torch

        from tgd_lib.compute import logits_of

        labels = torch.from_numpy(self.data.test.labels)
        pixels = self.pixels(spec.view, "test")
        return lambda network: float((logits_of(network, pixels).argmax(1) == labels).double().mean())

    # ---- what the teachers say

    @cached_property
    def answers(self):
        """The teachers' answers, for the objectives of students (`objectives.Answers`)."""
        from tgd_lib.lab.objectives import Answers

        return Answers(
            self.store, self.compute, len(self.data.train.labels), self.teacher, mode=self.teachers, say=self.say
        )

    def teacher(self, spec: Spec):
        """The trained network of `spec` as a `bank.Teacher` of the training images."""
        from tgd_lib.bank import Teacher

        return Teacher(self.network(spec), self.pixels(spec.view, "train"))

    # ---- what the networks are worth

    def evaluation(self, spec: Spec, part: str = "test", *, exact: bool = False) -> Artefact:
        """Logits and metrics of the trained network on the test (or held-out) images, from the store or made now.

        exact: in float32, on a GPU without TF32, so that it can be checked anywhere.
        """
        images = self._part(part)
        trained = self.trained(spec)  # outside the lock of the evaluation
        question = {"network": spec.key, "test": images.fingerprint}
        if exact:  # whatever is in the store may come from another device
            question |= {"arithmetic": "exact fp32"}

        def build(folder: Path) -> dict:
            import numpy as np
            import torch

            from tgd_lib import evaluation
            from tgd_lib.compute import logits_of

            logits = logits_of(self.network(spec), self.pixels(spec.view, part), exact=exact)
            np.save(folder / "logits.npy", logits.numpy())
            return evaluation.metrics(logits, torch.from_numpy(images.labels)) | {"network": trained.key}

        return self.store.make("evaluation", question, build)

    def _part(self, part: str) -> datasets.Dataset:
        images = getattr(self.data, part)
        if images is None:
            raise InputError(f"profile {self.settings.profile!r} holds no images out, so it makes no choices: set holdout")
        return images

    def row(self, spec: Spec) -> dict:
        """One line about a trained network, for tables and figures: what it is, what it is worth, what it took."""
        network, worth = self.trained(spec).record, self.evaluation(spec).record
        depth, width, _ = spec.network
        return {
            "method": spec.method,
            "label": spec.label.rsplit(", seed", 1)[0],
            "seed": spec.seed,
            "network": f"WRN-{depth}-{width}",
            **{k: network[k] for k in ("selection", "selected_epoch", "epochs_in_all", "training_seconds")},
            **{k: network[k] for k in ("device", "precision", "threads", "made", "commit")},
            **{k: worth[k] for k in ("accuracy", "nll", "ece", "brier", "per_class", "n")},
            "loss": [round(h["loss"], 5) for h in network["history"]],
            "training_accuracy": [round(h["accuracy"], 5) for h in network["history"]],
            "key": spec.key,
        }


def _alike(spec: Spec) -> tuple:
    """What networks that train side by side have in common: what they look at, how long, and their teachers."""
    teachers = tuple(t and t.key for t in spec.teachers)
    asked = spec.guidance and (spec.guidance.alpha, spec.guidance.gamma > 0, spec.guidance.order)
    return spec.view, spec.network, spec.schedule, teachers, asked, spec.baseline


def _line(spec: Spec, entry: dict) -> str:
    terms = " ".join(f"{k} {entry[k]:.3f}" for k in ("ce", "kd", "kd_t1", "kd_t2", "maps", "baseline") if entry.get(k))
    accuracy = f"training accuracy {100 * entry['accuracy']:.1f} %"
    head = f"{spec.label}: epoch {entry['epoch']}/{spec.schedule.epochs}"
    return f"{head}  loss {entry['loss']:.3f} ({terms})  {accuracy}  {entry['seconds']:.1f} s"
