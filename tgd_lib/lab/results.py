"""What was measured of trained networks, kept without their weights.

`figures/<profile>/results/<method>_<seed>.json` holds a network's spec and record, and the record
of every answer about it that needs no files: metrics on test and held-out images, under
corruptions, calibration, transfer. A store that is given such folders (--from-results) lets a long
study go on where another machine stopped: what has a result is not trained again.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tgd_lib.files import read_json, write_text
from tgd_lib.lab.spec import Spec
from tgd_lib.lab.store import Store, canonical, key_of

ANSWERS = ("evaluation", "robustness", "calibration", "transfer")  # kinds, each about one network


@dataclass(frozen=True)
class Result:
    """A trained network without its weights: its key, its record, the records of `answers`.

    answers: {"<kind>/<key>": record}.
    """

    key: str
    record: dict
    answers: dict[str, dict]


def load(folders: Iterable[Path]) -> dict[str, Result]:
    """The results in some folders, by the network's key; what cannot be one is left out, with a
    warning."""
    found = {}
    for folder in folders:
        for path in sorted(folder.glob("*.json")):
            try:
                result = _read(path)
            except (OSError, ValueError, KeyError, TypeError, RecursionError):
                warnings.warn(f"results/{path.name} is no result; left out", stacklevel=2)
            else:
                found[result.key] = result
    return found


def _read(path: Path) -> Result:
    """A result; ValueError where its spec is not what its key says."""
    kept = read_json(path)
    key = key_of("network", kept["spec"])
    if kept["record"]["key"] != key or not isinstance(kept["record"]["made_unix"], int | float):
        raise ValueError(path.name)
    return Result(key, kept["record"], dict(kept["answers"]))


def keep(store: Store, specs: Sequence[Spec], folder: Path) -> list[Spec]:
    """Write the results of those of `specs` that the store has trained; returns these.

    An older result of the same method and seed is replaced.
    """
    answers = _answers(store)
    folder.mkdir(parents=True, exist_ok=True)
    kept = []
    for spec in specs:
        trained = store.find("network", spec.question, of_any_age=True)
        if trained is None or spec.key not in answers:
            continue
        text = _written(spec, trained.record, answers[spec.key])
        write_text(folder / f"{spec.method}_{spec.seed}.json", text)
        kept.append(spec)
    return kept


def _written(spec: Spec, record: dict, answers: dict[str, dict]) -> str:
    """A result as JSON: a line for the spec, the record and each answer, for readable diffs."""
    line = partial(json.dumps, sort_keys=True, allow_nan=False)
    lines = [f"{line(name)}: {line(answer)}" for name, answer in sorted(answers.items())]
    asked = canonical(spec.question)
    inside = ",\n".join(lines)
    return f'{{"spec": {asked},\n"record": {line(record)},\n"answers": {{\n{inside}\n}}}}\n'


def _answers(store: Store) -> dict[str, dict[str, dict]]:
    """{key of a network: {"<kind>/<key>": record}} of all that the store has been asked."""
    found: dict[str, dict[str, dict]] = {}
    for kind in ANSWERS:
        for path in sorted((store.root / kind).glob("*/spec.json")):
            asked = read_json(path)
            answer = store.find(kind, asked, of_any_age=True)
            if answer:
                found.setdefault(asked["network"], {})[f"{kind}/{answer.key}"] = answer.record
    return found
