"""The form of the notebooks. That they run, nbval tests: `make test` does both."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from notebooks.conftest import ATTEMPT, SOLUTION, solutions
from scripts import run_notebooks

ROOT = Path(__file__).parent.parent
LESSONS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
LINK = re.compile(r"\]\(((?!http)[^)#]+)\)")
STUB = re.compile(r"^def (\w+)\(.*\):\n    raise NotImplementedError$")


def ids(path):
    return path.stem


@pytest.fixture(params=LESSONS, ids=ids)
def lesson(request):
    return request.param


@pytest.fixture
def cells(lesson):
    return nbformat.read(lesson, as_version=4).cells


def code(cells):
    return [cell for cell in cells if cell.cell_type == "code"]


def text(cells):
    return "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")


def test_there_are_lessons():
    assert len(LESSONS) >= 3


def test_what_is_committed_was_run_and_is_clean(lesson):
    notebook = nbformat.read(lesson, as_version=4)
    assert run_notebooks.faults(notebook) == []
    assert notebook == run_notebooks.clean(nbformat.read(lesson, as_version=4))
    assert lesson.stat().st_size <= run_notebooks.LARGEST
    counts = [cell.execution_count for cell in code(notebook.cells)]
    assert counts == list(range(1, len(counts) + 1))


def test_cells_are_short(cells):
    lengths = sorted(len(cell.source.splitlines()) for cell in code(cells))
    assert lengths[-1] <= 30
    assert lengths[len(lengths) // 2] <= 8


def test_it_opens_with_title_aims_and_time_then_one_setup_cell(lesson, cells):
    first, setup, *_ = cells
    assert re.match(rf"# {int(lesson.stem[:2])}\. ", first.source)
    for part in ("**What you will learn**", "**Time:**"):
        assert part in first.source
    assert setup.cell_type == "code"
    assert "SEED = " in setup.source
    for cell in code(cells)[1:]:
        plain = "\n".join(x for x in cell.source.splitlines() if not x.startswith("%"))
        imports = (ast.Import, ast.ImportFrom)
        assert not any(isinstance(node, imports) for node in ast.walk(ast.parse(plain)))


def test_it_ends_with_a_recap_and_the_next_lesson(lesson, cells):
    assert "## Recap" in cells[-1].source
    following = LESSONS[LESSONS.index(lesson) + 1 :]
    links = re.findall(r"\*\*Next:\*\* \[.+\]\((.+)\)", cells[-1].source)
    assert links == [path.name for path in following[:1]]


def test_links_lead_somewhere(lesson, cells):
    for target in LINK.findall(text(cells)):
        assert (lesson.parent / target).exists(), target


def test_numbers_are_compared_and_the_library_is_held_to_the_naive_version(cells):
    sources = [cell.source for cell in code(cells)]
    checked = [cell for cell in code(cells) if "# NBVAL_CHECK_OUTPUT" in cell.source]
    assert len(checked) >= 3
    assert all(cell.outputs for cell in checked)
    assert any("assert" in source for source in sources if not ATTEMPT.search(source))


def test_every_figure_is_explained(cells):
    """After a picture, before the next heading, the text says what to see."""
    for i, cell in enumerate(cells):
        pictures = [x for x in cell.get("outputs", []) if "image/png" in x.get("data", {})]
        if not pictures:
            continue
        after = text(cells[i + 1 :]).split("\n## ")[0]
        assert "*What to see:*" in after, cell.source


def test_a_widget_has_a_still_picture_beside_it(cells):
    live = [i for i, cell in enumerate(cells) if re.search(r"^explore\(", cell.source, re.M)]
    assert live
    for i in live:
        assert "# NBVAL_IGNORE_OUTPUT" in cells[i].source
        following = code(cells[i + 1 :])[0]
        assert "still(" in following.source
        assert any("image/png" in output.data for output in following.outputs)


def test_exercises_have_a_stub_a_checker_and_a_solution(cells):
    answers = [match[2] for cell in code(cells) if (match := ATTEMPT.search(cell.source))]
    stubs = [match[1] for cell in code(cells) if (match := STUB.search(cell.source))]
    assert 2 <= len(answers) <= 3
    assert stubs == answers
    for answer, solution in zip(answers, solutions(cells), strict=True):
        assert f"def {answer}(" in solution
    assert "NotImplementedError" not in "".join(SOLUTION.findall(text(cells)))


def test_solutions_need_exercises_and_exercises_solutions():
    ask = new_code_cell("attempt(check, answer)")
    solve = new_markdown_cell(
        "<details><summary>Solution</summary>\n\n```python\nanswer = 1\n```\n</details>"
    )
    assert solutions([ask, solve]) == ["answer = 1\n\ncheck(answer)"]
    for wrong in ([ask], [solve], [ask, ask, solve]):
        with pytest.raises(ValueError, match="solution"):
            solutions(wrong)


@pytest.mark.parametrize("answer", [1, 2])
def test_a_wrong_solution_fails(tmp_path, answer):
    """The real conftest under the real nbval, on a lesson of three cells."""
    cells = [
        new_code_cell("def check(answer):\n    assert answer == 1\n\n\nattempt = lambda *_: None"),
        new_code_cell("answer = None\nattempt(check, answer)"),
        new_markdown_cell(f"<details>\n\n```python\nanswer = {answer}\n```\n</details>"),
    ]
    nbformat.write(new_notebook(cells=cells), tmp_path / "lesson.ipynb")
    conftest = (ROOT / "notebooks" / "conftest.py").read_text()
    (tmp_path / "conftest.py").write_text(conftest)
    command = [sys.executable, "-m", "pytest", "--nbval-lax", "--nbval-current-env", "-p",
               "no:cacheprovider", "--rootdir", str(tmp_path), "-v", "lesson.ipynb"]  # fmt: skip
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "Solution 1" in done.stdout
    assert done.returncode == (0 if answer == 1 else 1), done.stdout


def write(path, *cells):
    nbformat.write(new_notebook(cells=list(cells)), path)
    return path


def test_running_keeps_outputs_and_drops_what_is_live(tmp_path):
    source = "import ipywidgets\nprint(6 * 7)\ndisplay(ipywidgets.IntSlider())"
    path = write(tmp_path / "good.ipynb", new_code_cell(source, metadata={"tags": ["kept"]}))
    assert run_notebooks.main([str(path)]) == 0
    notebook = nbformat.read(path, as_version=4)
    (cell,) = notebook.cells
    assert [output.get("text") for output in cell.outputs] == ["42\n"]
    assert cell.metadata == {"tags": ["kept"]}
    assert "widgets" not in notebook.metadata


@pytest.mark.parametrize(
    ("source", "message"),
    [("1 / 0", "does not run"), ("import sys\nprint('x', file=sys.stderr)", "stderr")],
)
def test_a_notebook_with_a_fault_is_left_as_it_was(tmp_path, caplog, source, message):
    path = write(tmp_path / "bad.ipynb", new_code_cell(source))
    before = path.read_bytes()
    assert run_notebooks.main([str(path)]) == 1
    assert path.read_bytes() == before
    assert message in caplog.text


def test_what_must_not_be_committed_is_named():
    slash = "/"
    shown = new_output("display_data", data={run_notebooks.WIDGET: {"model_id": "1"}})
    error = new_output("error", ename="ValueError", evalue="no", traceback=[])
    long = new_output("stream", text="x" * run_notebooks.LARGEST)
    path = new_output("stream", text=f"saved to {slash}home{slash}someone/x.png")
    for output, message in [(shown, "widget"), (error, "ValueError"), (long, "bytes"),
                            (path, "someone")]:  # fmt: skip
        cell = new_code_cell("x", outputs=[output])
        assert any(message in fault for fault in run_notebooks.faults(new_notebook(cells=[cell])))
    stateful = new_notebook(metadata={"widgets": {}})
    assert run_notebooks.faults(stateful) == ["it holds the state of widgets"]


def test_a_broken_file_is_explained(tmp_path, caplog):
    path = tmp_path / "broken.ipynb"
    path.write_text("{")
    assert run_notebooks.main([str(path)]) == 1
    assert "cannot be read as a notebook" in caplog.text
