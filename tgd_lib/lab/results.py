"""What was measured of trained networks, kept without their weights.

`figures/<profile>/results/<method>_<seed>.json` (`file_name`) holds a network's spec and record,
and the record of every answer about it that needs no files: metrics on test and held-out images,
under corruptions, calibration, transfer. With --from-results, what has a result is not trained
again, so a long study goes on where another machine stopped.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
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


def file_name(spec: Spec) -> str:
    """The name of a network's result in the folder of its profile."""
    rule = "" if spec.selection == "last" else f"_{spec.selection}"
    return f"{spec.method}_{spec.seed}{rule}.json"


def load(folder: Path) -> dict[str, Result]:
    """The results in a folder, by the network's key; what is none is left out, with a warning."""
    found = [_read(path) for path in sorted(folder.glob("*.json"))]
    return {result.key: result for result in found if result}


def _read(path: Path) -> Result | None:
    """A result; None, with a warning, where its spec is not what its key says, or it is damaged."""
    try:
        kept = read_json(path)
        key, record = key_of("network", kept["spec"]), kept["record"]
        if record["key"] == key and isinstance(record["made_unix"], int | float):
            return Result(key, record, dict(kept["answers"]))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        pass
    warnings.warn(f"results/{path.name} is no result; left out", stacklevel=3)
    return None


def keep(store: Store, specs: Sequence[Spec], folder: Path) -> list[Spec]:
    """Write the results of those of `specs` that the store has trained; returns these.

    An older result stays, unless this store has all of its answers and more: then it is replaced
    as a whole, so that the answers of two trainings are never mixed, and none is lost.
    """
    answers = _answers(store)
    folder.mkdir(parents=True, exist_ok=True)
    kept = []
    for spec in specs:
        trained = store.find("network", spec.question, of_any_age=True)
        if trained is None or spec.key not in answers:
            continue
        path = folder / file_name(spec)
        # Trained again for its weights, a network says the same in other digits.
        older = _read(path) if path.exists() else None
        if older and older.key == spec.key and not older.answers.keys() < answers[spec.key].keys():
            continue
        write_text(path, _written(spec, trained.record, answers[spec.key]))
        kept.append(spec)
    return kept


def _written(spec: Spec, record: dict, answers: dict[str, dict]) -> str:
    """A result as JSON: a line for the spec, the record and each answer, for readable diffs."""
    line = partial(json.dumps, sort_keys=True, allow_nan=False)
    lines = [f"{line(name)}: {line(answer)}" for name, answer in sorted(answers.items())]
    # A key may first have been trained under another method's name.
    record = record | {"method": spec.method, "label": spec.label, "seed": spec.seed}
    asked = canonical(spec.question)
    inside = ",\n".join(lines)
    return f'{{"spec": {asked},\n"record": {line(record)},\n"answers": {{\n{inside}\n}}}}\n'


def _answers(store: Store) -> dict[str, dict[str, dict]]:
    """{key of a network: {"<kind>/<key>": record}} of all that the store has been asked."""
    found: dict[str, dict[str, dict]] = {}
    for kind in ANSWERS:
        for path in sorted((store.root / kind).glob("*/spec.json")):
            try:
                asked = read_json(path)
            except ValueError:  # damaged: what asks for it makes it again
                continue
            # Exact arithmetic is asked of what is published, and of nothing else.
            if "arithmetic" in asked:
                continue
            answer = store.find(kind, asked, of_any_age=True)
            if answer:
                found.setdefault(asked["network"], {})[f"{kind}/{answer.key}"] = answer.record
    return found
