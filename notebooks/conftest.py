"""Runs the solutions of the exercises: each as one more cell, after the cells of its notebook.

A solution is the Python in a collapsed `<details>` block. It comes after the cell that ends in
`attempt(check, answer)`, and is held to the same check, in the kernel that ran the lesson.
"""

import re
from collections import defaultdict
from collections.abc import Generator
from typing import Any

import pytest
from nbformat.v4 import new_code_cell
from nbval.plugin import IPyNbCell, IPyNbFile

SOLUTION = re.compile(r"<details>.*?```python\n(.*?)```.*?</details>", re.DOTALL)
ATTEMPT = re.compile(r"^attempt\((\w+), (\w+)\)$", re.MULTILINE)


def solutions(cells: list[Any]) -> list[str]:
    """For each exercise the code that defines the answer and checks it.

    Raises:
        ValueError: exercises and solutions do not alternate.
    """
    found, asked = [], None
    for cell in cells:
        if cell.cell_type == "code":
            if match := ATTEMPT.search(cell.source):
                if asked:
                    raise ValueError(f"{asked[1]} has no solution before the next exercise")
                asked = match.groups()
            continue
        for code in SOLUTION.findall(cell.source):
            if not asked:
                raise ValueError(f"a solution without an exercise: {code}")
            found.append(f"{code}\n{asked[0]}({asked[1]})")
            asked = None
    if asked:
        raise ValueError(f"{asked[1]} has no solution")
    return found


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Generator[None, Any, Any]:
    """Append the solutions to the cells that nbval collects."""
    report = yield
    if isinstance(collector, IPyNbFile) and report.passed:
        count = len(report.result)
        for number, code in enumerate(solutions(collector.nb.cells)):
            cell = new_code_cell(code, outputs=[])
            report.result.append(
                IPyNbCell.from_parent(
                    collector, name=f"Solution {number + 1}", cell_num=count + number, cell=cell,
                    options=defaultdict(bool),
                )
            )  # fmt: skip
    return report
