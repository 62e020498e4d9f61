"""From a spec to a trained network: found in the store, or trained now with all it stands on.

A `Lab` holds the data, the store and the device of one run. Heavy modules are imported where they
are used.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path

from tgd_lib import config, datasets
from tgd_lib.config import Diverged, InputError, Settings
from tgd_lib.files import sha256, write_bytes
from tgd_lib.lab.results import Result, file_name, load
from tgd_lib.lab.spec import Spec, View
from tgd_lib.lab.store import Artefact, Store, key_of
from tgd_lib.lab.views import Views

STATE = "state.safetensors"  # of a training under way


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


class Lab:
    """The data, the store and the device of one run; turns specs into networks and their metrics.

    data: the run's images; None loads what the settings ask for when they are first needed.
    teachers: how students get their teachers' outputs, auto | bank | online.
    place: said in the record of what is trained here, beside the threads: which worker of several.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        store: Store | None = None,
        data: datasets.Parts | None = None,
        teachers: str = "auto",
        say: Callable[[str], None] = _to_stderr,
        place: Mapping[str, object] | None = None,
    ):
        self.settings, self.store = settings, store or Store()
        self.teachers, self.say = teachers, say
        self.place = dict(place or {})
        self._data = data

    # ---- data and device

    @cached_property
    def data(self) -> datasets.Parts:
        """The training, test and held-out images."""
        return self._data or datasets.load_parts(self.settings)

    @cached_property
    def compute(self):
        """Where to compute (InputError if that is not there)."""
        from tgd_lib.compute import Compute

        return Compute.choose(self.settings.device, self.settings.precision)

    @cached_property
    def views(self) -> Views:
        """The pixels that views show of the data, on the host."""
        return Views(self.data, self.store, say=self.say)

    @cached_property
    def _networks(self):
        from tgd_lib.lab.trained import Trained

        return Trained(self.find, self.views, self.compute)

    @cached_property
    def objectives(self):
        """The objectives of students (`objectives.Objectives`)."""
        from tgd_lib.lab.objectives import Objectives

        images, n = self.data.train.fingerprint, len(self.data.train.labels)
        return Objectives(
            self.store, self._networks, images=images, n=n, mode=self.teachers, say=self.say
        )

    # ---- trained networks

    def network(self, spec: Spec):
        """The trained network as a module in eval mode on the device."""
        self._train([spec])
        return self._networks.network(spec)

    def teacher(self, spec: Spec, *, shown: str | None = None):
        """The trained network with the training images as it sees them, or as another kind of view
        shows them (`bank.Teacher`).
        """
        self._train([spec])
        return self._networks.teacher(spec, shown=shown)

    def pixels(self, view: View, part: str):
        """What `view` shows of "train", "test" or "holdout" (`compute.Pixels`, on the device)."""
        return self._networks.pixels(view, part)

    def view(self, spec: Spec) -> View:
        """What the trained network sees, normalised as in its own training."""
        self._train([spec])
        return self._networks.view(spec)

    def shown(self, spec: Spec, images):
        """Other images uint8 (N, H, W, 3) as the trained network, whose view is "image" or "pi",
        sees its own.
        """
        return self._networks.shown(self.view(spec), images)

    def trained(self, spec: Spec) -> Artefact:
        """The trained network that `spec` describes: found in the store, or trained now."""
        self._train([spec])
        return self.find(spec)

    def find(self, spec: Spec) -> Artefact | None:
        """The trained network, if it is in the store or published.

        Under --force an older one does not count. A published teacher does, unless the user has
        named a data folder: what it was trained on are not this run's images.
        """
        given = spec.data != self.data.train.fingerprint and self.settings.data_dir is None
        return self.store.find("network", spec.question, of_any_age=given)

    def train(self, specs: Sequence[Spec], *, tolerant: bool = False) -> list[Spec]:
        """Train what is missing of `specs` and of all they stand on, but for what has a result.

        One that diverges, and what stands on it, is left out, the others are trained; at the end
        its error is raised or, if `tolerant`, those of `specs` that could not be trained are
        returned.
        """
        return self._train(self._without_result(specs), tolerant=tolerant)

    def missing(self, specs: Sequence[Spec]) -> list[Spec]:
        """What `train` would train, needs first."""
        return self._missing(self._without_result(specs))

    def _without_result(self, specs: Sequence[Spec]) -> list[Spec]:
        return [spec for spec in specs if not self.result(spec)]

    def _train(self, specs: Sequence[Spec], *, tolerant: bool = False) -> list[Spec]:
        """The same where weights are needed, so that a result is no substitute."""
        lost: dict[str, Diverged] = {}
        for spec in self._missing(specs):
            reasons = [lost[n.key] for n in spec.needs if n.key in lost]
            if reasons:
                lost[spec.key] = reasons[0]
                continue
            try:
                self._lab_of(spec)._train_one(spec)
            except Diverged as error:  # without its frames, which hold networks and banks
                lost[spec.key] = error.with_traceback(None)
        if lost and not tolerant:
            raise next(iter(lost.values()))
        return [s for s in specs if s.key in lost]

    def _missing(self, specs: Sequence[Spec]) -> list[Spec]:
        """What is not in the store of `specs` and of all they need, needs first."""
        missing: dict[str, Spec] = {}

        def collect(spec: Spec) -> None:
            if spec.key in missing or self.find(spec):
                return
            for needed in spec.needs:
                collect(needed)
            missing[spec.key] = spec

        for spec in specs:
            collect(spec)
        return list(missing.values())

    def _lab_of(self, spec: Spec) -> Lab:
        """The lab whose training images `spec` is trained on: another than this for a teacher of
        more.
        """
        if spec.data == self.data.train.fingerprint:
            return self
        train = datasets.teachers_images(spec.data, self.settings)
        parts = self.data._replace(train=train)
        how = {"teachers": self.teachers, "say": self.say, "place": self.place}
        return Lab(self.settings, store=self.store, data=parts, **how)

    def _train_one(self, spec: Spec) -> None:
        """Train `spec`, all whose needs are met, and put it into the store."""
        from tgd_lib import training

        spec = self._further(spec)
        with self.store.claim("network", spec.question, resumable=True) as claim:
            if claim is None:  # another run has trained it meanwhile
                return
            self._take_up(spec, claim.folder / STATE)
            run, teachers_by = self._run(spec)

            def end(_) -> None:
                self._keep_last(spec, run, teachers_by)  # first: then a kill loses neither
                record = self._record(spec, run, claim.folder) | {"teachers_by": teachers_by}
                claim.finish(record, drop=(STATE,))

            def line(_, entry: dict) -> None:
                self.say(_line(spec, entry))

            training.train([(run, claim.folder / STATE)], on_epoch=line, on_end=end)

    def _take_up(self, spec: Spec, state: Path) -> None:
        """Go on from what another machine began, where it has come further than this one."""
        from tgd_lib.training import epochs_in

        begun, of = self.store.begun(spec.key), self.training_of(spec)
        epochs = epochs_in(begun, of=of) if begun else 0
        if epochs and epochs > epochs_in(state, of=of):
            write_bytes(state, begun.read_bytes())
            self.say(f"{spec.label}: goes on after epoch {epochs}, from a state that was published")

    def training_of(self, spec: Spec) -> str:
        """The name of a training in its state: the key, and the weights it stands on, which two
        machines may have trained to other bits. All that `spec` needs must be there.
        """
        return " ".join([spec.key, *(str(self._networks.sum_of(needed)) for needed in spec.needs)])

    def epochs_done(self, spec: Spec) -> int:
        """Epochs of an unfinished training that need not be trained again: begun here, or
        published, by whichever rule `_further` goes on with.
        """
        return self._epochs_begun(self._further(spec))

    def _epochs_begun(self, spec: Spec) -> int:
        from tgd_lib.training import epochs_in

        here = self.store.under_way("network", spec.key) / STATE
        states = [p for p in (here, self.store.begun(spec.key)) if p and self.store.counts(p)]
        return max((epochs_in(p, of=self.training_of(spec)) for p in states), default=0)

    def _further(self, spec: Spec) -> Spec:
        """`spec`, or the same training by the authors' rule where that has come further: it keeps
        the last epoch as well.

        A teacher or scratch student is the same training by both rules. What has teachers or a
        start is not, unless those are the same by both.
        """
        theirs = spec.by("authors", self.data.test.fingerprint)
        if (
            spec.selection != "last"
            or self.find(theirs)
            or not self._stand_on_the_same(spec, theirs)
        ):
            return spec
        return max(spec, theirs, key=self._epochs_begun)

    def _stand_on_the_same(self, one: Spec, other: Spec) -> bool:
        """Whether what they need has equal weights: a best epoch may have been the last one."""
        sums = [[self._networks.sum_of(needed) for needed in spec.needs] for spec in (one, other)]
        return None not in sums[0] and sums[0] == sums[1]

    def _keep_last(self, spec: Spec, run, teachers_by: str) -> None:
        """Keep the last epoch as well of a training by the authors' rule, if it is the same
        training by both (`_further`).
        """
        last = spec.by("last", None)
        if spec.selection == "last" or not self._stand_on_the_same(spec, last):
            return
        with self.store.claim("network", last.question) as claim:
            if claim:
                claim.finish(self._record(last, run, claim.folder) | {"teachers_by": teachers_by})

    def run(self, spec: Spec):
        """A `training.Run` at the beginning of what `spec` describes; its needs are
        trained first."""
        self._train(spec.needs)
        return self._run(spec)[0]

    def _run(self, spec: Spec):
        """The run, and how its teachers' outputs reach it."""
        import torch

        from tgd_lib import training
        from tgd_lib.lab.trained import fresh

        beside = self._trained_beside(spec)
        guided = self.objectives.of(spec, beside)
        run = training.Run(
            self._networks.network(spec.start).train() if spec.start else fresh(spec),
            self.pixels(spec.view, "train"),
            torch.from_numpy(self.data.train.labels),
            spec.schedule,
            seed=spec.seed,
            objective=guided.objective,
            own=beside,
            evaluate=self._test_accuracy(spec) if spec.selection == "authors" else None,
            of=self.training_of(spec),
            how=_how(self.compute, guided.teachers_by),
        )
        return run, guided.teachers_by

    def _trained_beside(self, spec: Spec):
        """What the baseline of `spec` trains beside the student, on the device; None for most."""
        if spec.baseline is None:
            return None
        from safetensors.torch import load_file

        from tgd_lib import baselines
        from tgd_lib.lab.trained import WEIGHTS

        widths = [[16 * s.network[1] * k for k in (1, 2, 4)] for s in (spec, spec.teachers[0])]
        module = baselines.own_parameters(spec.baseline.loss, *widths, seed=spec.seed)
        # TopKD's stand-in for persistence images is trained beforehand.
        if spec.baseline.loss == "topkd":
            trained = self.objectives.ripsnet(spec)
            module["ripsnet"].load_state_dict(load_file(trained.path / WEIGHTS))
        return module and self.compute.place(module)

    def _record(self, spec: Spec, run, folder: Path) -> dict:
        """Write the weights that count, and say how they came about."""
        import torch

        from tgd_lib import training
        from tgd_lib.lab.trained import WEIGHTS

        weights, epoch = run.selected(spec.selection)
        training.save_tensors(folder / WEIGHTS, weights)
        if run.own.state_dict():
            training.save_tensors(folder / "own.safetensors", run.own.state_dict())
        used = {n.label: sha256(self.trained(n).path / WEIGHTS) for n in spec.needs}
        on_gpu = self.compute.device == "cuda" and spec.precision == "fp32"
        tf32 = on_gpu and torch.backends.cudnn.allow_tf32
        return {
            "label": spec.label,
            "method": spec.method,
            "seed": spec.seed,
            "class_names": list(self.data.train.class_names),
            "n_train": len(self.data.train.labels),
            "constants": self.views.constants(spec.view),
            "selection": spec.selection,
            "selected_epoch": epoch,
            "epochs_in_all": spec.epochs_in_all,
            "device": self.compute.name,
            "precision": spec.precision,
            "tf32_convolutions": tf32,
            "bf16_by_rounding": self.compute.bf16_by_rounding,
            "threads": torch.get_num_threads(),
            # Of the history: a training may have gone on on another machine.
            "epochs_by": dict(Counter(h.get("how", "not said") for h in run.history)),
            "training_seconds": round(sum(h["seconds"] for h in run.history), 3),
            "started_from": spec.start and spec.start.label,
            "weights_used": used,
            "history": run.history,
        } | self.place

    def _test_accuracy(self, spec: Spec) -> Callable:
        import torch

        from tgd_lib.evaluation import logits_of

        labels = torch.from_numpy(self.data.test.labels)
        pixels = self.pixels(spec.view, "test")

        def accuracy(network) -> float:
            return float((logits_of(network, pixels).argmax(1) == labels).double().mean())

        return accuracy

    # ---- results that are kept without weights

    @cached_property
    def _results(self) -> dict[str, Result]:
        folder = config.kept_results(self.settings.profile)
        return load(folder) if folder else {}

    def result(self, spec: Spec) -> Result | None:
        """What is kept of a network; None without --from-results.

        It counts even where the network is trained again for its weights: two trainings of one
        network, on two machines, must not be mixed in what is said of it.
        """
        kept = self._results.get(spec.key)
        if kept is None or kept.record["made_unix"] < self.store.newer_than:
            return None
        for teacher in filter(None, spec.teachers):
            self._check_teacher(spec, kept, teacher)
        return kept

    def _check_teacher(self, spec: Spec, kept: Result, teacher: Spec) -> None:
        """InputError where the teacher here has other weights than the one of a kept student.

        A teacher that is trained again on another machine has the same key, and its students would
        be taken for those of the first.
        """
        used = kept.record.get("weights_used", {}).get(teacher.label)  # not in the oldest records
        here = self._networks.sum_of(teacher)
        if used and here and used != here:
            raise InputError(
                f"{self.settings.profile}/results/{file_name(spec)}: learnt from another"
                f" {teacher.label} than the one that is here; publish the one it learnt from"
                " (--publish, where that was trained), or remove the result"
            )

    def record(self, spec: Spec) -> dict:
        """The record of the trained network: kept, or of the one that is found or trained now."""
        kept = self.result(spec)
        return kept.record if kept else self.trained(spec).record

    def known(self, spec: Spec, kind: str, question: dict) -> dict | None:
        """The record of what was asked about a network before: kept, or in the store.

        InputError where something is kept of the network, but not this.
        """
        kept = self.result(spec)
        if kept is None:
            found = self.store.find(kind, question)
            return found.record if found else None
        answer = kept.answers.get(f"{kind}/{key_of(kind, question)}")
        if answer is None:
            raise InputError(
                f"results/{file_name(spec)} of {self.settings.profile} does not say"
                f" this ({kind}); remove the file, so that the network is trained again"
            )
        return answer

    def answer(self, spec: Spec, kind: str, question: dict, build: Callable[[], dict]) -> dict:
        """The record of what is asked about a network: `known`, or made by `build` and stored."""
        found = self.known(spec, kind, question)
        return found or self.store.make(kind, question, lambda _: build()).record

    # ---- evaluations

    def metrics(self, spec: Spec, part: str = "test") -> dict:
        """Metrics on the test (or held-out) images: kept, from the store, or measured now."""
        question = self._asked(spec, self.part(part))
        return self.known(spec, "evaluation", question) or self.evaluation(spec, part).record

    def evaluation(self, spec: Spec, part: str = "test", *, exact: bool = False) -> Artefact:
        """Logits and metrics of the trained network on the test (or held-out) images, from the
        store or made now.

        exact: in float32, on a GPU without TF32, so that it can be checked anywhere.
        """
        images = self.part(part)
        trained = self.trained(spec)  # outside the lock of the evaluation
        question = self._asked(spec, images, exact=exact)

        def build(folder: Path) -> dict:
            import numpy as np
            import torch

            from tgd_lib import evaluation

            pixels = self.pixels(self.view(spec), part)
            logits = evaluation.logits_of(self._networks.network(spec), pixels, exact=exact)
            np.save(folder / "logits.npy", logits.numpy())
            metrics = evaluation.metrics(logits, torch.from_numpy(images.labels))
            return metrics | {"network": trained.key, "device": self.compute.name}

        return self.store.make("evaluation", question, build)

    def _asked(self, spec: Spec, images: datasets.Dataset, *, exact: bool = False) -> dict:
        question = {"network": spec.key, "test": images.fingerprint}
        if exact:  # whatever is in the store may come from another device
            return question | {"arithmetic": "exact fp32"}
        # A published teacher may have been trained in another precision than it is asked in.
        if spec.precision != self.settings.precision:
            return question | {"precision": self.settings.precision}
        return question

    def part(self, part: str) -> datasets.Dataset:
        """The "train", "test" or "holdout" images; InputError where none are held out."""
        images = getattr(self.data, part)
        if images is None:
            name = self.settings.profile
            raise InputError(
                f"profile {name!r} holds no images out, so it makes no choices: set holdout"
            )
        return images

    def row(self, spec: Spec) -> dict:
        """One line about a trained network, for tables and figures: what it is, how good, what it
        took.
        """
        network, metrics = self.record(spec), self.metrics(spec)
        depth, width, _ = spec.network
        described = ("selection", "selected_epoch", "epochs_in_all", "training_seconds")
        made = ("device", "precision", "threads", "made", "commit")
        measured = ("accuracy", "nll", "ece", "brier", "per_class", "n")
        return {
            "method": spec.method,
            "label": spec.name,
            "seed": spec.seed,
            "network": f"WRN-{depth}-{width}",
            **{k: network[k] for k in (*described, *made)},
            **{k: metrics[k] for k in measured},
            "loss": [round(h["loss"], 5) for h in network["history"]],
            "training_accuracy": [round(h["accuracy"], 5) for h in network["history"]],
            "key": spec.key,
        }


def _how(compute, teachers_by: str | None) -> str:
    """Device, arithmetic and the way of the teachers' outputs, in words: what may differ where a
    training goes on.
    """
    arithmetic = "bf16 by rounding" if compute.bf16_by_rounding else compute.precision
    return ", ".join(filter(None, (compute.name, arithmetic, teachers_by)))


def _line(spec: Spec, entry: dict) -> str:
    """An epoch in a line, for logs."""
    terms = ("ce", "kd", "kd_t1", "kd_t2", "maps", "embedding", "baseline")
    shown = " ".join(f"{k} {entry[k]:.3f}" for k in terms if entry.get(k))
    accuracy = f"training accuracy {100 * entry['accuracy']:.1f} %"
    head = f"{spec.label}: epoch {entry['epoch']}/{spec.schedule.epochs}"
    return f"{head}  loss {entry['loss']:.3f} ({shown})  {accuracy}  {entry['seconds']:.1f} s"
