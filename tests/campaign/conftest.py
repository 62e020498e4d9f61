"""The reliability campaign: what happens to a run that is killed, starved, damaged or fed nonsense.

    ./run_all.sh --test -m campaign

It is no part of the ordinary suite. Every trial is counted: *clear* (it ended well, or in one line
that says what to do), *unclear* (a traceback, several lines, a hang), *lost* (other bytes than
those of an undisturbed run, or a result that is silently wrong). A seed is printed; CAMPAIGN_SEED=N
repeats it.
"""

import random
import signal
import time
from collections import Counter, defaultdict
from pathlib import Path

import campaign_work as tools
import pytest
from campaign_work import SEED

OUTCOMES = ("clear", "unclear", "lost")
LONGEST = 600  # seconds that one test may take before it counts as hanging

counts: dict[str, Counter] = defaultdict(Counter)


def pytest_collection_modifyitems(config, items):
    """Only when it is asked for by name: `-m "not slow"` shall not start it."""
    here = Path(__file__).parent
    mine = [item for item in items if here in item.path.parents]
    for item in mine:
        item.add_marker("campaign")
    if mine and "campaign" not in config.getoption("markexpr"):
        items[:] = [item for item in items if item not in mine]
        config.hook.pytest_deselected(items=mine)


def pytest_report_header():
    return f"campaign seed {SEED} (CAMPAIGN_SEED={SEED} repeats it)"


def pytest_terminal_summary(terminalreporter):
    if not counts:
        return
    terminalreporter.section("campaign")
    terminalreporter.line(f"{'':40}{'tried':>8}" + "".join(f"{o:>9}" for o in OUTCOMES))
    total = Counter()
    for part, found in counts.items():
        terminalreporter.line(_row(part, found))
        total += found
    terminalreporter.line(_row("in all", total))


def _row(name: str, found: Counter) -> str:
    return f"{name:40}{found.total():>8}" + "".join(f"{found[o]:>9}" for o in OUTCOMES)


@pytest.fixture
def tally():
    """`tally(part, outcome, what)` counts a trial; one that is not clear fails the test."""
    bad = []

    def count(part: str, outcome: str, what: str = "") -> None:
        counts[part][outcome] += 1
        if outcome != "clear":
            bad.append(f"{outcome}: {part}: {what}")

    yield count
    assert not bad, "\n".join(bad)


@pytest.fixture(scope="session")
def reference(tmp_path_factory) -> tools.Reference:
    """The work undisturbed. What it imports is imported here, for all copies of this process."""
    import torch._dynamo  # which an optimiser imports
    from torchmetrics.functional import classification  # noqa: F401

    from tgd_lib import diagrams, evaluation, topology  # noqa: F401
    from tgd_lib.lab import lab, objectives, trained  # noqa: F401
    from tgd_lib.study import specs  # noqa: F401

    # Threads do not survive a fork; whoever waits for theirs would wait for ever.
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("reference") / "store"
    started = time.monotonic()
    ending = tools.run(tools.work, root)
    assert ending.code == 0, ending.said
    return tools.Reference(root, tools.contents(root), time.monotonic() - started)


@pytest.fixture(scope="session")
def notebooks_run(tmp_path_factory) -> tools.Reference:
    """Notebooks 01 to 03 undisturbed."""
    root = tmp_path_factory.mktemp("notebooks") / "store"
    started = time.monotonic()
    ending = tools.ended(tools.run_notebooks(root), patience=400)
    assert ending.code == 0, ending.said
    return tools.Reference(root, tools.notebook_contents(root), time.monotonic() - started)


@pytest.fixture
def dice(request):
    """Random numbers of this test, the same for the same seed."""
    return random.Random(f"{SEED} {request.node.name}")


@pytest.fixture(autouse=True)
def no_hanging():
    """A test that hangs is ended, and named."""

    def ring(signum, frame):
        raise TimeoutError(f"nothing happened for {LONGEST} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(LONGEST)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
