"""Rendered twins: what is scrubbed, what is kept, and that those of the repository are in order."""

import json
import tempfile
import time
from pathlib import Path

import nbformat
import pytest
from nbformat import v4

from tgd_lib.companion import twins
from tgd_lib.config import ROOT, InputError

SOURCES = sorted((ROOT / "notebooks").glob("*.py"))
SOURCE = """# %% [markdown]
# # Title

# %% tags=["parameters"]
profile: str = "quick"

# %%
print(1)

# %%
print(1)
"""


def output(text: str, name: str = "stdout"):
    return v4.new_output("stream", name=name, text=text)


@pytest.fixture
def source(tmp_path) -> Path:
    path = tmp_path / "01_a.py"
    path.write_text(SOURCE)
    return path


@pytest.fixture
def twin(source) -> Path:
    """The scrubbed twin of `source` as if papermill had executed it."""
    notebook = twins.read(source)
    notebook.metadata["papermill"] = {"input_path": "/tmp/x.ipynb"}
    for cell in notebook.cells:
        cell.metadata["papermill"] = {"duration": 1.0}
    notebook.cells.insert(2, v4.new_code_cell("profile = 'x'", metadata={"tags": [twins.INJECTED]}))
    for count, cell in enumerate((c for c in notebook.cells if c.cell_type == "code"), 1):
        cell.execution_count = count
        cell.outputs = [output(f"{ROOT}/artifacts/a\n"), output("warning", "stderr")]
    path = source.with_suffix(".ipynb")
    twins.write(twins.scrub(notebook, "smoke"), path)
    return path


def test_a_twin_bears_nothing_of_the_machine_or_the_moment(source, twin):
    notebook = nbformat.read(twin, as_version=4)
    nbformat.validate(notebook)
    assert twins.check(source, twin) == []
    assert "papermill" not in twin.read_text() and str(ROOT) not in twin.read_text()
    code = [c for c in notebook.cells if c.cell_type == "code"]
    assert [c.execution_count for c in code] == [1, 2, 3]
    assert [c.outputs for c in code[1:]] == [[output("artifacts/a\n")]] * 2
    (said,) = code[0].outputs  # at the top, in words
    assert "the recorded run of profile 'smoke'" in said.text
    assert code[0].metadata == {"tags": ["parameters"]}
    assert notebook.metadata.recorded.profile == "smoke"
    assert len({c.id for c in notebook.cells}) == 4


def test_writing_the_same_again_changes_nothing(source, twin):
    before = twin.stat().st_mtime_ns
    assert not twins.update(source, twin) and twin.stat().st_mtime_ns == before


def test_a_changed_source_clears_the_outputs_of_its_changed_cells_alone(source, twin):
    source.write_text(
        SOURCE.replace("# %%\nprint(1)\n\n# %%\nprint(1)", "# %%\nprint(2)\n\n# %%\nprint(1)")
    )
    (problem,) = twins.check(source, twin)
    assert "cell 3 differs from 01_a.py" in problem and "--twins" in problem
    before = [c.id for c in twins.read(twin).cells]
    assert twins.update(source, twin) and twins.check(source, twin) == []
    after = twins.read(twin)
    assert [bool(c.get("outputs")) for c in after.cells] == [False, True, False, True]
    assert [a == c.id for a, c in zip(before, after.cells, strict=True)] == [
        True,
        True,
        False,
        False,
    ]
    assert after.cells[3].id == before[2]  # the first print(1) there is
    assert after.metadata.recorded.profile == "smoke"


def test_cells_added_or_retagged_are_noticed(source, twin):
    source.write_text(SOURCE + "\n# %%\n3\n")
    assert "cell 5 differs" in twins.check(source, twin)[0]
    source.write_text(SOURCE.replace(' tags=["parameters"]', ""))
    assert "cell 2 differs" in twins.check(source, twin)[0]


def test_a_missing_twin_is_a_problem_that_update_solves(source):
    twin = source.with_suffix(".ipynb")
    assert "missing" in twins.check(source, twin)[0]
    assert twins.update(source, twin) and twins.check(source, twin) == []


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda n: n.cells[2].outputs.append(output("x", "stderr")), "stderr"),
        (lambda n: n.metadata.update(papermill={}), "papermill"),
        (lambda n: n.cells[1].update(id="abc"), "cell ids"),
        (lambda n: n.cells[2].outputs.append(output("in /home/me/x.png")), "'/home/me/x.png'"),
        (
            lambda n: n.cells[2].outputs.append(output("a.venv/site-packages/tqdm/x.py")),
            "site-packages",
        ),
        (lambda n: n.cells[2].outputs.append(output(f"saved {ROOT}/x")), repr(str(ROOT))[:-1]),
    ],
)
def test_what_does_not_belong_is_noticed(spoil, says, source, twin):
    notebook = twins.read(twin)
    spoil(notebook)
    nbformat.write(notebook, twin)
    (problem,) = twins.check(source, twin)
    assert says in problem


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"{ROOT}/figures/a.svg and {ROOT}", "figures/a.svg and ."),
        (f"'{Path.home()}/photos'", "'~/photos'"),
        (f"{tempfile.gettempdir()}/ipykernel_1/2.py:3: x", "<tmp>/ipykernel_1/2.py:3: x"),
        ("/v/lib/python3.12/site-packages/torch/nn.py:7", "torch/nn.py:7"),
        (
            "1/2, a/b, https://a.org/home/x, <td>1</td>",
            "1/2, a/b, https://a.org/home/x, <td>1</td>",
        ),
    ],
)
def test_paths_in_text_are_made_relative(text, expected, monkeypatch):
    monkeypatch.delenv("TGD_ARTIFACTS", raising=False)
    assert twins.scrub_text(text) == expected
    assert twins.machine_paths(v4.new_notebook(cells=[v4.new_markdown_cell(expected)])) == []


@pytest.mark.parametrize("home", ["/", None])
def test_a_home_that_is_the_whole_machine_is_no_place(home, monkeypatch):
    """A container's user may have the home "/" or none: slashes stay what they are."""

    def no_home(cls):
        if home is None:
            raise RuntimeError("Could not determine home directory.")
        return Path(home)

    monkeypatch.setattr(Path, "home", classmethod(no_home))
    text = '<path d="M 3 / 4"/>'
    assert twins.scrub_text(text) == text
    assert twins.machine_paths(v4.new_notebook(cells=[v4.new_markdown_cell("1 / 2")])) == []


def test_conflict_marks_are_said_in_one_line(source, twin):
    twin.write_text("<<<<<<< ours\n" + twin.read_text())
    with pytest.raises(InputError, match="01_a.ipynb: no notebook .*run ./run_all.sh --twins"):
        twins.update(source, twin)


def test_rich_outputs_are_scrubbed_and_pictures_left_alone():
    data = {
        "text/html": f"<a>{ROOT}/x</a>",
        "image/svg+xml": f"<svg>{ROOT}/x</svg>",
        "image/png": "/tmp/AAAA",
    }
    cell = v4.new_code_cell(
        "x", execution_count=7, outputs=[v4.new_output("display_data", data=data)]
    )
    scrubbed = twins.scrub(v4.new_notebook(cells=[cell]))
    expected = {"text/html": "<a>x</a>", "image/svg+xml": "<svg>x</svg>", "image/png": "/tmp/AAAA"}
    assert scrubbed.cells[0].outputs[0].data == expected
    assert twins.machine_paths(scrubbed) == []


def test_long_lines_take_linear_time():
    def seconds(count):
        start = time.perf_counter()
        assert len(twins.scrub_text("A/9" * count)) == 3 * count
        cell = v4.new_markdown_cell("A/9" * count)
        assert twins.machine_paths(v4.new_notebook(cells=[cell])) == []
        return time.perf_counter() - start

    # Eight times as long: in quadratic time it would take 64 times as much.
    assert seconds(800_000) < 32 * min(seconds(100_000) for _ in range(3))


# ---------------------------------------------------------------- those in the repository


@pytest.mark.parametrize("source", SOURCES, ids=lambda p: p.stem)
def test_each_twin_agrees_with_its_source(source):
    assert twins.check(source, source.with_suffix(".ipynb")) == []


def test_each_twin_has_a_source_and_opens_anywhere():
    rendered = sorted((ROOT / "notebooks").glob("*.ipynb"))
    assert {p.stem for p in rendered} <= {p.stem for p in SOURCES}
    for path in rendered:
        nbformat.validate(nbformat.read(path, as_version=4))
        assert json.loads(path.read_text())["metadata"]["kernelspec"]["name"] == "python3"
