"""Run the notebooks: parameters checked first, progress shown, every failure collected.

    python -m tgd_lib.companion        --profile quick        (or ./run_all.sh, which also installs what it needs)

Each notebook's source is executed by papermill in a kernel of this very Python, into the folder of
the run; no tracked file is touched unless --record or --twins asks for it. torch is imported by --train, --plan and
--verify, and to look for the GPU that --device cuda asks for.
"""

from __future__ import annotations

import argparse
import re
import signal
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

from tgd_lib.companion import twins
from tgd_lib.config import PARAMETERS, PROFILES, InputError, Settings, parse, resolve, run_dir
from tgd_lib.companion.execution import Kernels, Outcome, execute_one, kernel_environment, prepare, short_path
from tgd_lib.companion.recording import FIGURES, NOTEBOOKS, record, report, write_timings

NEEDS: dict[str, tuple[str, ...]] = {  # what must have been done before a notebook
    "00_start_here": ("03_distillation",),
    "01_persistence_images": (),
    "02_teachers": (),
    "03_distillation": ("02_teachers",),
    "04_ablations": ("03_distillation",),
    "05_robustness_and_calibration": ("03_distillation",),
    "06_cost": ("03_distillation",),
    "07_results": ("03_distillation", "04_ablations", "05_robustness_and_calibration", "06_cost"),
}
EXAMPLES = """examples:
  ./run_all.sh                                    all notebooks on the sample in the repository
  ./run_all.sh --profile smoke --only 01-03       a range of them, at toy size
  ./run_all.sh -p alpha 0.9 -p temperature 8      other parameters (a folder of its own)
  ./run_all.sh -p dataset folder --data photos    your own images
  ./run_all.sh --profile paper --device cuda      the paper's setting, on a GPU
  ./run_all.sh --test                             the whole test suite

A killed run goes on where it stopped when the command is given again."""


# ---------------------------------------------------------------- which notebooks, in which order


def select(text: str | None, names) -> list[str]:
    """The notebooks that ``--only`` names: ``03``, ``01-03``, ``01,03``, or all if it is None."""
    if text is None:
        return list(names)
    chosen = []
    for part in text.split(","):
        numbers = re.fullmatch(r"(\d+)(?:_\w*)?(?:-(\d+)(?:_\w*)?)?", part.strip())
        first, last = (int(numbers[1]), int(numbers[2] or numbers[1])) if numbers else (1, 0)
        found = [n for n in names if first <= int(n[:2]) <= last]
        if not found:
            raise InputError(f"--only {part}: no such notebook; there are {', '.join(names)}")
        chosen += [n for n in found if n not in chosen]
    return chosen


def in_order(names, needs=NEEDS) -> list[str]:
    """`names` by number, but each after those of them that it needs."""
    waiting, order = sorted(names), []
    while waiting:
        ready = next(n for n in waiting if not set(needs[n]) & set(waiting))
        waiting.remove(ready)
        order.append(ready)
    return order


# ---------------------------------------------------------------- execution


def execute(names, settings: Settings, *, needs=NEEDS, notebooks: Path = NOTEBOOKS, force=False):
    """Executes the notebooks called `names` and returns their outcomes, in the order of execution.

    All are checked before any runs. One that fails stops those that need it, and no others.
    """
    order = in_order(names, needs)
    prepared = {name: prepare(notebooks / f"{name}.py") for name in order}
    parameters = {"profile": settings.profile, **dict(settings.overrides)}
    folder = run_dir(settings).resolve()
    done: dict[str, Outcome] = {}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        kernels = Kernels(kernel_environment(scratch, force), notebooks)
        for number, name in enumerate(order, 1):
            print(f"[{number}/{len(order)}] {name}", flush=True)
            lacking = [n for n in needs[name] if n in done and done[n].status != "ok"]
            if lacking:
                done[name] = Outcome(name, f"skipped: needs {', '.join(lacking)}")
            else:
                done[name] = execute_one(name, prepared[name], folder / f"{name}.ipynb", parameters, kernels)
            print(f"      {_line(done[name])}\n", flush=True)
    return list(done.values())


# ---------------------------------------------------------------- other things to do than to run


def train(settings: Settings, *, force: bool = False) -> None:
    """Trains and evaluates every network of a profile; cut off at any moment, the same command goes on."""
    from tgd_lib.study import methods, questions  # torch, and only here
    from tgd_lib.lab.lab import Lab
    from tgd_lib.study.specs import specs_of
    from tgd_lib.lab.store import Store

    lab = Lab(settings, store=Store(newer_than=time.time()) if force else None)
    specs = specs_of(lab).students(methods.of(settings))
    lost = lab.train(specs, tolerant=True)
    for spec in lost:
        print(f"{spec.label}: diverged, or its teacher or start did")
    specs = [s for s in specs if s not in lost]
    for spec in specs:
        row = lab.row(spec)
        print(f"{spec.label}: {100 * row['accuracy']:.2f} % of {row['n']} test images", flush=True)
        if settings.holdout:
            lab.evaluation(spec, "holdout")
    questions.robustness(lab, [s for s in specs if s.method in methods.EXAMINED])


def verify(arguments: argparse.Namespace, figures: Path) -> int:
    """Evaluates the recorded students of a profile, the largest recorded one if none is named; the exit status."""
    from tgd_lib.study import published  # torch, and only here

    known = published.published_profiles(figures)
    arguments.profile = arguments.profile or (known[0] if known else None)
    return published.verify(_settings(arguments), figures)


def update_twins(notebooks: Path = NOTEBOOKS) -> None:
    """Brings every changed source into its twin."""
    for source in sorted(notebooks.glob("*.py")):
        twin = source.with_suffix(".ipynb")
        print(f"{short_path(twin)}: {'updated' if twins.update(source, twin) else 'as it was'}")


def listing(needs=NEEDS, notebooks: Path = NOTEBOOKS) -> str:
    """What can be run: notebooks with titles and needs, profiles, parameters."""
    lines = ["notebooks"]
    for name in needs:
        source = notebooks / f"{name}.py"
        text = source.read_text(encoding="utf-8") if source.exists() else "# # (missing)"
        title = re.search(r"^# # (.+)$", text, re.MULTILINE)
        after = f"  (after {', '.join(needs[name])})" if needs[name] else ""
        lines.append(f"  {name:<31}{title[1] if title else ''}{after}")
    lines += ["", "profiles (--profile)"]
    lines += [f"  {p.profile:<15}{p.dataset:<13}{p.purpose}; {p.budget}" for p in PROFILES.values()]
    lines += ["", "parameters (-p NAME VALUE)"]
    for name, p in PARAMETERS.items():
        choices = f": {', '.join(p.choices)}" if p.choices else ""
        lines.append(f"  {name:<15}{p.kind.__name__:<6}{p.help}{choices}")
    return "\n".join(lines)


def _line(outcome: Outcome) -> str:
    if outcome.status.startswith("skipped"):
        return outcome.status
    return f"{outcome.status}, {outcome.seconds:.1f} s, peak {outcome.peak_mb} MB"


# ---------------------------------------------------------------- command line


def _arguments(argv) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="run_all.sh", usage="./run_all.sh [options]  (--help shows them)", allow_abbrev=False,
        description="Executes the notebooks and collects their figures, tables and timings.",
        epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add("--profile", metavar="NAME", help=f"{', '.join(PROFILES)} (default: quick)")
    add("--only", metavar="NN", help="these notebooks alone: 03, 01-03, or 01,03")
    add("-p", dest="parameters", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"),
        help="override a parameter of the notebooks; may be repeated (--list shows them)")  # fmt: skip
    add("--data", metavar="DIR", help="the data set's folder, relative to where you are")
    add("--device", metavar="NAME", help="auto, cpu or cuda")
    add("--force", action="store_true", help="make everything again, even what is in the store")
    add("--list", action="store_true", help="show notebooks, profiles and parameters, run nothing")
    add("--plan", action="store_true", help="show what would be trained, what is there, time and memory; run nothing")
    add("--train", action="store_true", help="train and evaluate all networks of the profile, main methods first; no notebooks")
    add("--verify", action="store_true", help="evaluate the recorded students again and compare with their records")
    add("--record", action="store_true", help="after the run, bring it into figures/ and the .ipynb twins")
    add("--twins", action="store_true", help="bring changed sources into the .ipynb twins, run nothing")
    add("--test", action="store_true", help="run the test suite instead (further arguments go to pytest)")
    return parser.parse_args(argv)


def _settings(arguments: argparse.Namespace) -> Settings:
    """The settings that the command line asks for, all checked."""
    given = list(arguments.parameters)
    given += [("data_dir", str(Path(arguments.data).absolute()))] if arguments.data else []
    given += [("device", arguments.device)] if arguments.device else []
    settings = resolve(**{"profile": arguments.profile or "quick"} | {name: parse(name, text) for name, text in given})
    if arguments.record and (arguments.only or settings.run_name != settings.profile):
        raise InputError("--record: records whole runs of a profile as it is; leave out --only and -p")
    from tgd_lib import datasets  # with NumPy

    datasets.check(settings)
    if settings.device == "cuda":
        import torch  # 3 s, and only here

        if not torch.cuda.is_available():
            raise InputError("device 'cuda': PyTorch finds no CUDA device here; use device 'cpu' or 'auto'")
    return settings


@contextmanager
def _alone(folder: Path):
    """Holds the folder of a run; InputError if another run does, or it cannot be written."""
    import filelock

    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(folder / ".lock", timeout=0)
        lock.acquire()
    except filelock.Timeout:
        raise InputError(f"{short_path(folder)}: another run is writing there; wait for it to end") from None
    except OSError as error:
        raise InputError(
            f"{short_path(folder)}: cannot be written ({error.strerror}); make room, or set TGD_ARTIFACTS"
        ) from None
    with lock:
        yield


def run(arguments: argparse.Namespace, *, needs=NEEDS, notebooks: Path = NOTEBOOKS, figures=FIGURES) -> int:
    """Executes, reports and records what the command line asks for; the exit status."""
    names = select(arguments.only, needs)
    settings = _settings(arguments)
    with _alone(run_dir(settings)):
        print(f"{settings.run_name}: {settings.purpose} ({settings.budget})\n", flush=True)
        outcomes = execute(names, settings, needs=needs, notebooks=notebooks, force=arguments.force)
        write_timings(outcomes, settings)
        report(outcomes, settings)
        failed = any(o.status != "ok" for o in outcomes)
        if arguments.record and failed:
            print("not recorded: only a run without failures is")
        elif arguments.record:
            record(names, settings, notebooks=notebooks, figures=figures)
    return int(failed)


def main(argv=None, *, needs=NEEDS, notebooks: Path = NOTEBOOKS, figures: Path = FIGURES) -> int:
    """The command line; returns the exit status (0 fine, 1 a notebook failed, 2 bad input, 130 Ctrl-C)."""
    arguments = _arguments(argv)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if arguments.test:
            raise InputError("--test: must come first, as in ./run_all.sh --test")
        if arguments.list:
            print(listing(needs, notebooks))
            return 0
        if arguments.twins:
            update_twins(notebooks)
            return 0
        if arguments.plan:
            from tgd_lib.companion import plan  # torch, and only here

            print(plan.text(_settings(arguments)))
            return 0
        if arguments.train:
            train(_settings(arguments), force=arguments.force)
            return 0
        if arguments.verify:
            return verify(arguments, figures)
        return run(arguments, needs=needs, notebooks=notebooks, figures=figures)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error.filename or 'writing the run'}: {error.strerror}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        again = "the same command (without --force) goes on where this one stopped"
        print(f"\ninterrupted: {again}", file=sys.stderr)
        return 130
    finally:
        signal.signal(signal.SIGTERM, before)

