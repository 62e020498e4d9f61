"""What several files of tests share."""

import importlib.util
import json
import os
from pathlib import Path

import pytest

# What the tests expect is what a CPU gives; one file asks for a GPU (test_devices.py).
if os.environ.get("TGD_TEST_DEVICE") != "cuda":
    os.environ["CUDA_VISIBLE_DEVICES"] = ""

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="module")
def one_thread():
    """Tensors this small are slower with several, much slower on a busy machine."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def golden_numbers():
    """`golden_numbers(name)`: what lies in golden/<name>.json."""
    return lambda name: json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def golden_maker():
    """`golden_maker(name)`: the module that made golden/<name>.json."""

    def load(name):
        path = GOLDEN / f"make_{name}.py"
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture(scope="session")
def half_trained():
    """A function that trains the first epochs of a spec and leaves the state below a store's
    folder.
    """
    from tgd_lib.lab.lab import STATE

    def begin(lab, spec, store: Path, *, epochs: int = 1) -> Path:
        run = lab.run(spec)
        for _ in range(epochs):
            run.begin()
            for number in range(run.steps):
                run.advance(number)
            run.conclude()
        state = store / "network" / f"{spec.key}.partial" / STATE
        state.parent.mkdir(parents=True)
        run.save(state)
        return state

    return begin
