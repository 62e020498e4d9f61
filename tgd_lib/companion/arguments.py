"""What the command line asks for: its options, what of them goes together, the settings it means.

--help needs the standard library alone.
"""

from __future__ import annotations

import argparse
from argparse import Namespace
from pathlib import Path

from tgd_lib.config import PROFILES, InputError, Settings, parse, resolve

EPILOG = """examples:
  ./run_all.sh                                    all notebooks, no download of data
  ./run_all.sh --profile smoke --only 01-03       a range of them, at toy size
  ./run_all.sh -p alpha 0.9 -p temperature 8      other parameters (a folder of its own)
  ./run_all.sh -p dataset folder --data photos    your own images
  ./run_all.sh --profile paper --device cuda      the paper's setting, on a GPU (experimental)
  ./run_all.sh --test                             the whole test suite
  ./run_all.sh --site                             these pages as a site, in artifacts/site/

exit status:
  0    success
  1    a notebook failed, or --verify found a difference
  2    invalid input, or the machine lacks something (disk space, for example)
  129  the terminal was closed (SIGHUP)
  130  Ctrl-C (SIGINT)
  143  stopped by another program (SIGTERM)

A run that was stopped goes on where it was when the same command is given again."""


class _Parser(argparse.ArgumentParser):
    """argparse whose errors are one line, and ours."""

    def error(self, message: str):
        raise InputError(f"{message}; --help shows what there is")


class _Once(argparse.Action):
    """Stores a value, and refuses a second one."""

    def __call__(self, parser, namespace, value, option=None):
        if getattr(namespace, self.dest) is not None:
            raise InputError(f"{option}: given twice; give it once")
        setattr(namespace, self.dest, value)


def arguments_of(argv: list[str] | None) -> Namespace:
    """The command line, parsed, and refused where it cannot be meant (InputError)."""
    parser = _Parser(
        prog="run_all.sh", usage="./run_all.sh [options]  (--help shows them)",
        description="Executes the notebooks and collects their figures, tables and timings.",
        epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
    )  # fmt: skip
    _add_choices(parser)
    _add_workers(parser)
    _add_verbs(parser)
    arguments = parser.parse_args(argv)
    _refuse_empty(arguments)
    _refuse_together(arguments)
    return arguments


def _add_choices(parser: argparse.ArgumentParser) -> None:
    """What a run depends on."""
    add = parser.add_argument
    add("--profile", metavar="NAME", action=_Once, help=f"{', '.join(PROFILES)} (default: quick)")
    add("--only", metavar="NN", action=_Once, help="these notebooks alone: 03, 01-03, or 01,03")
    add("-p", dest="parameters", nargs=2, action="append", metavar=("NAME", "VALUE"),
        help="override a parameter of the notebooks; may be repeated (see --list)")  # fmt: skip
    add("--data", metavar="DIR", action=_Once,
        help="the data set's folder, relative to the current directory")  # fmt: skip
    add(
        "--device",
        metavar="NAME",
        action=_Once,
        help="auto, cpu or cuda (experimental: tested on no GPU yet)",
    )
    add("--force", action="store_true", help="recompute everything, even what is in the store")
    add("--from-results", action="store_true",
        help="do not train what figures/PROFILE/results has measured already")  # fmt: skip
    add("--record", action="store_true",
        help="after the run, bring it into figures/, docs/ and the .ipynb twins")  # fmt: skip
    add("--no-wait", action="store_true",
        help="refuse to start while the same is running, instead of waiting for it")  # fmt: skip


def _add_workers(parser: argparse.ArgumentParser) -> None:
    """Who does the work of --train, or is to be planned with."""
    group = parser.add_argument_group("more than one worker (--train, --plan; docs/cluster.md)")
    add = group.add_argument
    add("--workers", metavar="N", action=_Once, help="processes on this machine")
    add("--scheduler", metavar="ADDRESS", action=_Once,
        help="a running Dask scheduler, as tcp://HOST:PORT")  # fmt: skip
    add("--no-shared-store", action="store_true",
        help="its workers do not see this store's folder: send inputs and results")  # fmt: skip


def _add_verbs(parser: argparse.ArgumentParser) -> None:
    """What can be done instead of running the notebooks."""
    group = parser.add_argument_group("instead of running the notebooks (one of these)")
    for name, help_text in {
        "list": "show notebooks, profiles and parameters",
        "plan": "show what would be trained, what is there, time, memory and disk",
        "train": "train and evaluate all networks of the profile, main methods first",
        "publish": "copy teachers, starts and students of seed 0 to figures/PROFILE/networks,"
        " and what is half trained of them to figures/PROFILE/begun",
        "keep-results": "write what was measured of the networks to figures/PROFILE/results",
        "verify": "evaluate the published networks again and compare with their records",
        "twins": "bring changed sources into the .ipynb twins",
        "drop-banks": "remove the large teacher banks, when their students are trained",
        "test": "run the test suite (must come first; further arguments go to pytest)",
    }.items():
        group.add_argument(f"--{name}", action="store_true", help=help_text)


# For each verb the options that mean something to it; any other is a mistake.
_SETTINGS = ("profile", "parameters", "data", "device")
TAKES = {
    "run": (*_SETTINGS, "only", "force", "from_results", "record", "no_wait"),
    "list": (),
    "plan": (*_SETTINGS, "from_results", "workers"),
    "train": (*_SETTINGS, "force", "from_results", "workers", "scheduler", "no_shared_store"),
    "publish": _SETTINGS,
    "keep_results": _SETTINGS,
    "verify": _SETTINGS,
    "twins": (),
    "drop_banks": (),
    "test": (),
}


def verb_of(arguments: Namespace) -> str:
    """The verb that is asked for, "run" if none is; InputError if there are several."""
    asked = [verb for verb in TAKES if getattr(arguments, verb, False)]
    if len(asked) > 1:
        raise InputError(f"{' and '.join(map(as_typed, asked))}: one at a time")
    return asked[0] if asked else "run"


def _refuse_together(arguments: Namespace) -> None:
    """InputError for options that do not go together, and would be ignored."""
    verb = verb_of(arguments)
    if verb == "test":
        raise InputError("--test: must come first, as in ./run_all.sh --test")
    if arguments.from_results and arguments.force:
        raise InputError("--from-results and --force: do not go together; leave one out")
    for option in dict.fromkeys((*TAKES["run"], *TAKES["train"])):
        if getattr(arguments, option) and option not in TAKES[verb]:
            written = "-p" if option == "parameters" else as_typed(option)
            if verb == "run":
                raise InputError(f"{written}: goes with --train (--help)")
            raise InputError(f"{as_typed(verb)} and {written}: do not go together; leave one out")


def as_typed(name: str) -> str:
    """An option, or a verb, as it is typed."""
    return f"--{name.replace('_', '-')}"


def given_in(arguments: Namespace) -> list[tuple[str, str]]:
    """Names and texts of the parameters given in any way, the profile among them."""
    given = []
    if arguments.profile is not None:
        given.append(("profile", arguments.profile))
    given += arguments.parameters or []
    if arguments.data is not None:
        given.append(("data_dir", arguments.data))
    if arguments.device is not None:
        given.append(("device", arguments.device))
    return given


def _refuse_empty(arguments: Namespace) -> None:
    """InputError for a value of nothing, as "$UNSET" gives, and for a parameter given twice."""
    options = ("profile", "only", "data", "device", "workers", "scheduler")
    values = [(f"--{option}", getattr(arguments, option)) for option in options]
    values += [(f"-p {name}", text) for name, text in arguments.parameters or []]
    for written, text in values:
        if text is not None and not text.strip():
            raise InputError(f"{written} {text!r}: empty; give a value, or leave it out")
    seen = {}
    for name, text in given_in(arguments):
        if name in seen:
            raise InputError(f"{name}: given twice ({seen[name]}, {text}); give it once")
        seen[name] = text


def settings_of(arguments: Namespace) -> Settings:
    """The settings that the command line asks for, all checked (InputError)."""
    given = {name: parse(name, text) for name, text in given_in(arguments)}
    if arguments.data is not None:  # on a command line, relative to where one is
        given["data_dir"] = str(Path(arguments.data).absolute())
    settings = resolve(**given)
    if arguments.record and settings.run_name != settings.profile:
        raise InputError("--record: records runs of a profile as it is; leave out -p")
    from tgd_lib import datasets  # with NumPy

    datasets.check(settings)
    if settings.device == "cuda" and not arguments.scheduler:  # else its workers must have it
        _check_cuda()
    return settings


def _check_cuda() -> None:
    import torch  # 3 s, and only here

    if not torch.cuda.is_available():
        raise InputError(
            "device 'cuda': PyTorch finds no CUDA device here; use device 'cpu' or 'auto'"
        )
