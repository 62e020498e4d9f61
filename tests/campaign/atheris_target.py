"""One reader of files from outside, fuzzed by coverage: `python atheris_target.py NAME FOLDER ...`.

Bytes grow towards what reaches new branches of our code, which random changes of a sound file may
never do. Ends with a traceback at the first input that is neither read nor refused in one line.
"""

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["tgd_lib"]):
    from tgd_lib.config import InputError
    from tgd_lib.files import read_json
    from tgd_lib.images import cifar, corruptions, folders
    from tgd_lib.lab import store
    from tgd_lib.training import read_state


def picture(path: Path) -> None:
    folders.decode(path, (9, 7))


def npz(path: Path) -> None:
    path.rename(path.with_name("train.npz"))
    cifar.cifar10(path.parent, "train", download=False)


def official(path: Path) -> None:
    path.rename(path.with_name("fog.npy"))
    corruptions.read_official(path.parent, "fog")


def manifest(path: Path) -> None:
    (path.parent / "x").write_text("x")
    path.rename(path.with_name("MANIFEST.json"))
    said = store.damage(path.parent)
    if said is None or "\n" in said:
        assert read_json(path.parent / "MANIFEST.json") is not None, "taken for whole"


def state(path: Path) -> None:
    from safetensors import SafetensorError

    try:
        read_state(path)
    except (SafetensorError, OSError, ValueError):  # what `Run.resume` begins anew for
        return


def main() -> None:
    name, folder = sys.argv[1], Path(sys.argv[2])
    target = globals()[name]

    def one(data: bytes) -> None:
        path = folder / "input"
        path.write_bytes(data)
        try:
            target(path)
        except InputError as error:
            assert "\n" not in str(error), error

    atheris.Setup([sys.argv[0], *sys.argv[3:]], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
