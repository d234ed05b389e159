"""What is imported when: torch only where something is computed."""

import subprocess
import sys

import pytest

import dne_lib


def loaded(program: str) -> set[str]:
    """The modules that a program has imported, in a process of its own."""
    program += "\nimport sys\nprint('\\n'.join(['', 'loaded:', *sys.modules]))"
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return set(result.stdout.rpartition("loaded:\n")[2].split())


@pytest.mark.parametrize(
    "line",
    [
        "--help",
        "--version",
        "train --help",
        "synthesize",
        "predict",
        "check",
        "evaluate x --limit 0",
    ],
)
def test_help_and_mistakes_do_not_wait_for_torch(line):
    program = f"""
from contextlib import suppress
from dne_lib.cli import main
with suppress(SystemExit):
    main({line.split()})
"""
    modules = loaded(program)
    assert "dne_lib.cli" in modules
    assert not modules & {"torch", "accelerate", "scipy", "matplotlib", "trimesh", "cv2", "numpy"}


def test_the_package_has_the_names_that_it_promises():
    assert {"load_network", "synthesize"} <= set(dne_lib.__all__) <= set(dir(dne_lib))
    for name in dne_lib.__all__:
        assert getattr(dne_lib, name).__name__ == name
    with pytest.raises(AttributeError, match="dne_lib attribute nothing"):
        _ = dne_lib.nothing
