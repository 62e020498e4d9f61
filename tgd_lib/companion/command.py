"""The command line: who does what is asked for, and the status it ends with.

    python -m tgd_lib.companion --profile quick      (or ./run_all.sh, which also installs)

--help and --list need the standard library alone; torch is imported by --train, --plan and
--verify, and to look for the GPU that --device cuda asks for.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from tgd_lib.companion import INTERRUPTED, recording, runner, twins
from tgd_lib.companion.arguments import arguments_of, as_typed, given_in, settings_of, verb_of
from tgd_lib.companion.execution import room_wanted, short_path
from tgd_lib.config import BEGUN, KEPT, PARAMETERS, PROFILES, InputError, Settings, resolve
from tgd_lib.files import no_room

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


# ---------------------------------------------------------------- done, a function a verb


def run(arguments: Namespace) -> int:
    """The notebooks."""
    return runner.run(
        arguments.only,
        settings_of(arguments),
        force=arguments.force,
        record=arguments.record,
        wait=not arguments.no_wait,
    )


def show_list(_: Namespace) -> int:
    """Notebooks with titles and needs, profiles, parameters."""
    print("\n".join([*_notebooks(), "", *_profiles(), "", *_parameters()]))
    return 0


def _notebooks() -> list[str]:
    lines = ["notebooks"]
    for name, needs in runner.NEEDS.items():
        source = twins.NOTEBOOKS / f"{name}.py"
        text = source.read_text(encoding="utf-8") if source.exists() else "# # (missing)"
        title = re.search(r"^# # (.+)$", text, re.MULTILINE)
        after = f"  (after {', '.join(needs)})" if needs else ""
        lines.append(f"  {name:<31}{title[1] if title else ''}{after}")
    return lines


def _profiles() -> list[str]:
    lines = ["profiles (--profile)"]
    for p in PROFILES.values():
        takes = f"{p.budget}, {p.memory_gb:g} GB of memory"
        lines.append(f"  {p.profile:<15}{p.dataset:<13}{p.purpose}; {takes}")
    return lines


def _parameters() -> list[str]:
    lines = ["parameters (-p NAME VALUE)"]
    for name, p in PARAMETERS.items():
        choices = f": {', '.join(p.choices)}" if p.choices else ""
        lines.append(f"  {name:<15}{p.kind.__name__:<6}{p.help}{choices}")
    return lines


def show_plan(arguments: Namespace) -> int:
    """What would be trained, what is there, what the rest takes."""
    from tgd_lib.companion import plan  # torch, and only here
    from tgd_lib.lab.lab import Lab

    workers = _workers(arguments)
    lab = Lab(settings_of(arguments), say=lambda line: None)
    timed: dict = {}
    print(plan.text(lab, timed))
    if workers:
        print("\n" + "\n".join(_forecast(lab, workers, timed)))
    return 0


def _forecast(lab, workers: int, timed: dict) -> list[str]:
    """How long the rest of a run takes with so many workers, and with more.

    timed: seconds of a step by kind of network, as `plan.seconds_of` has them.
    """
    from tgd_lib import bank  # torch, and only here
    from tgd_lib.companion import graph, plan, schedule

    tasks = graph.of_run(
        lab,
        room=float(bank.available(lab.compute)),
        seconds=lambda spec: plan.seconds_of(lab, spec, timed),
        gpu=lab.compute.device == "cuda",
    )
    return schedule.forecast(tasks, (workers, *schedule.WORKERS))


def _workers(arguments: Namespace) -> int | None:
    """The number of workers that was asked for; InputError if it is none."""
    if arguments.workers is None:
        return None
    from tgd_lib.companion import schedule

    return schedule.parse_workers(arguments.workers)


def train(arguments: Namespace) -> int:
    """Every network of a profile; cut off at any moment, the same command goes on."""
    workers, scheduler = _workers(arguments), arguments.scheduler
    if workers and scheduler:
        raise InputError("--workers and --scheduler: do not go together; leave one out")
    if arguments.no_shared_store and not scheduler:
        raise InputError("--no-shared-store: goes with --scheduler only")
    settings = settings_of(arguments)
    if workers or scheduler:
        from tgd_lib.companion import cluster

        shared = not arguments.no_shared_store
        force = arguments.force
        return cluster.train(
            settings, workers=workers, scheduler=scheduler, shared=shared, force=force
        )
    from tgd_lib.lab.lab import Lab  # torch, and only here
    from tgd_lib.lab.store import Store
    from tgd_lib.study import questions
    from tgd_lib.study.specs import specs_of

    lab = Lab(settings, store=Store(newer_than=time.time()) if arguments.force else None)
    study = specs_of(lab)
    specs = study.asked()
    lost = lab.train(specs, tolerant=True)
    for spec in lost:
        print(f"{spec.label}: diverged, or its teacher or start did")
    left = [s for s in specs if s not in lost]
    for spec in left:
        row = lab.row(spec)
        print(f"{spec.label}: {100 * row['accuracy']:.2f} % of {row['n']} test images", flush=True)
        if settings.holdout:
            lab.metrics(spec, "holdout")
    trained = {spec.key for spec in left}
    questions.examine(lab, [spec for spec in study.examined() if spec.key in trained])
    return 0


def _of_profile(arguments: Namespace) -> Settings:
    """The settings of a profile as it is, but for the epoch that counts: what is kept of it."""
    settings = settings_of(arguments)
    changed = {name for name, _ in settings.overrides} - {"data_dir", "device", "selection"}
    if changed:
        verb = as_typed(verb_of(arguments))
        raise InputError(f"{verb}: of a profile as it is; leave out -p {sorted(changed)[0]}")
    return settings


def publish(arguments: Namespace) -> int:
    """The weights that other sessions and readers need, of those that the store has trained."""
    from tgd_lib.lab.lab import Lab  # torch, and only here
    from tgd_lib.study import published
    from tgd_lib.study.specs import specs_of

    settings = _of_profile(arguments)
    if not settings.publishes:
        raise InputError(
            f"--publish: the networks of {settings.profile} are too small to give away"
        )
    folder = recording.FIGURES / settings.profile / recording.NETWORKS
    asked, new, states = [], [], {}
    with tempfile.TemporaryDirectory() as made:
        for each in _by_rules(settings):  # both readings of a training stay together
            lab = Lab(each)
            here = specs_of(lab).to_publish()
            states |= {s.key: s for spec in specs_of(lab).asked() for s in (*spec.needs, spec)}
            fresh = [spec for spec in here if _trained_here(lab, spec)]
            if fresh:
                published.publish(lab, fresh, Path(made))
            asked, new = [*asked, *here], [*new, *fresh]
        if new:
            published.add(Path(made), folder)
    for spec in new:
        print(f"{short_path(folder / spec.key)}: {spec.label}")
    for spec, epochs in published.hand_on(lab, list(states.values()), folder.with_name(BEGUN)):
        print(f"{spec.label}: the state after epoch {epochs}, for another machine to go on with")
    left = [spec.selection for spec in asked if lab.find(spec) is None]
    print(f"{len(new)} networks published; not trained yet: {_counted(left)}")
    return 0


def _by_rules(settings: Settings) -> list[Settings]:
    """The settings as they would be by each rule of selection: with teachers of that rule."""
    given, rules = dict(settings.overrides), PARAMETERS["selection"].choices
    return [resolve(settings.profile, **given | {"selection": rule}) for rule in rules]


def _counted(rules: Sequence[str]) -> str:
    """How many networks by each rule of selection."""
    last, authors = rules.count("last"), rules.count("authors")
    return f"{last} of those asked for, {authors} by the authors' rule"


def _trained_here(lab, spec) -> bool:
    """Whether the store has trained it, and nothing whole of that key is published."""
    from tgd_lib.lab.store import damage

    given = lab.store.given(spec.key)
    return lab.find(spec) is not None and (given is None or damage(given) is not None)


def keep_results(arguments: Namespace) -> int:
    """What was measured of a profile's students into the repository, without their weights."""
    from tgd_lib.lab import results
    from tgd_lib.lab.lab import Lab  # torch, and only here
    from tgd_lib.study import questions
    from tgd_lib.study.specs import specs_of

    settings = _of_profile(arguments)
    os.environ.pop("TGD_FROM_RESULTS", None)  # what is kept is measured, not taken from a result
    lab = Lab(settings)
    study = specs_of(lab)
    folder = recording.FIGURES / settings.profile / KEPT
    trained = _to_measure(lab, study.asked(), folder)
    # All that notebooks will ask, now that the weights are there; nothing is shown of it.
    for spec in trained:
        lab.metrics(spec)
        if settings.holdout:
            lab.metrics(spec, "holdout")
    questions.examine(lab, [spec for spec in study.examined() if spec in trained])
    kept = results.keep(lab.store, trained, folder)
    there = len(trained) - len(kept)
    print(f"{short_path(folder)}: {len(kept)} students written, {there} were there already")
    return 0


def _to_measure(lab, specs: Sequence, folder: Path) -> list:
    """Those whose weights are in the store, and published ones of which nothing is kept yet.

    What is kept of a published one was measured when it was trained, maybe on another machine.
    """
    from tgd_lib.lab import results

    kept = results.load(folder) if folder.is_dir() else {}
    here = [spec for spec in specs if lab.find(spec)]
    return [s for s in here if s.key not in kept or lab.store.root in lab.find(s).path.parents]


def verify(arguments: Namespace) -> int:
    """Checks the published networks of a profile, of every one if none is named."""
    from tgd_lib.study import published  # torch, and only here

    known = published.published_profiles(recording.FIGURES)
    named = "profile" in dict(given_in(arguments))
    asked = [arguments.profile] if named else known or [None]
    wrong = 0
    for profile in asked:
        arguments.profile = profile
        wrong |= published.verify(settings_of(arguments), recording.FIGURES)
    return wrong


def update_twins(_: Namespace) -> int:
    """Every changed source into its twin."""
    for source in sorted(twins.NOTEBOOKS.glob("*.py")):
        twin = source.with_suffix(".ipynb")
        changed = twins.update(source, twin)
        print(f"{short_path(twin)}: {'updated' if changed else 'as it was'}")
    return 0


def drop_banks(_: Namespace) -> int:
    """The banks of large training sets: the next student that needs one would build it anew."""
    from tgd_lib.lab.objectives import BANK  # torch, and only here
    from tgd_lib.lab.store import Store

    store = Store()
    freed = store.drop(BANK)
    print(f"{short_path(store.root / BANK)}: {freed / 1e9:.1f} GB freed")
    return 0


DO = {
    "run": run,
    "list": show_list,
    "plan": show_plan,
    "train": train,
    "publish": publish,
    "keep_results": keep_results,
    "verify": verify,
    "twins": update_twins,
    "drop_banks": drop_banks,
}


# ---------------------------------------------------------------- how it ends


class Stopped(KeyboardInterrupt):
    """A signal that asks the process to end."""

    def __init__(self, number: int):
        super().__init__()
        self.number = number


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit status (see --help)."""
    before = _listen()
    try:
        # run_all.sh holds signals back until there is somebody to answer them: now.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)
        arguments = arguments_of(argv)
        if arguments.from_results:  # for the kernels and workers, too
            os.environ["TGD_FROM_RESULTS"] = "1"
        status = DO[verb_of(arguments)](arguments)
        sys.stdout.flush()  # here, where it is answered that nobody reads on
        return status
    except KeyboardInterrupt as stop:
        _complain(f"\n{INTERRUPTED}")
        return 128 + getattr(stop, "number", signal.SIGINT)
    except BrokenPipeError:  # as of `| head`: nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except Exception as error:
        line = _one_line(error)
        if line is None:
            raise
        _complain(f"error: {line}")
        return 2
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _listen() -> dict:
    """From now on each stopping signal raises `Stopped`; returns who answered them before.

    One that is ignored (nohup does that) stays ignored.
    """

    def stop(number, _):
        raise Stopped(number)

    before = {}
    for number in STOPPING:
        if signal.getsignal(number) != signal.SIG_IGN:
            before[number] = signal.signal(number, stop)
    return before


def _one_line(error: Exception) -> str | None:
    """What a person needs to know of an error that is not a bug; None of any other."""
    if isinstance(error, InputError):
        return str(error)
    if no_room(str(error)):  # an OSError, or safetensors' own
        return room_wanted(str(error))
    if isinstance(error, OSError):
        return f"{error.filename or 'writing the run'}: {error.strerror or error}"
    return None


def _complain(line: str) -> None:
    """To stderr, if that can still be written: a terminal may be gone, a disk full."""
    try:
        print(line, file=sys.stderr, flush=True)
    except OSError:
        pass
