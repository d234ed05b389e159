"""The files around the package agree with each other."""

import ast
import contextlib
import dataclasses
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import dne_lib
from dne_lib import cli
from dne_lib.config import maps_first, preset
from scripts import model_card

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
IMPORT_NAMES = {
    "dne-lib": "dne_lib",
    "lazy-loader": "lazy_loader",
    "opencv-python": "cv2",
    "pillow": "PIL",
    "pyyaml": "yaml",
}
COMMANDS = ("synthesize", "train", "evaluate", "calibrate", "predict", "ablate", "check", "export")
PAGES = [ROOT / "README.md", *sorted((ROOT / "results").rglob("*.md")), model_card.CARD]
# Imported by accelerate when it is asked to log.
INDIRECT = {"tensorboard"}


def files() -> list[Path]:
    """Tracked files, and new ones that git does not ignore."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def name_of(requirement: str) -> str:
    return re.split(r"[\[<>=!~ ]", requirement)[0].lower()


def test_environment_is_in_step_with_pyproject():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    *conda, pip = environment["dependencies"]
    assert f"python{PROJECT['requires-python']}" in conda
    assert {name_of(requirement) for requirement in conda} == {"python", "pip", "make"}
    (package,) = pip["pip"]
    extras = re.fullmatch(r"-e \.\[([\w,]+)\]", package)
    assert extras
    assert set(extras[1].split(",")) <= set(PROJECT["optional-dependencies"])
    assert f"'.[{extras[1]}]'" in (ROOT / "Makefile").read_text()


def test_what_is_imported_is_declared_and_what_is_declared_is_imported():
    imported = set()
    notebooks = {name_of(name) for name in PROJECT["optional-dependencies"]["notebooks"]}
    for path in (ROOT / "dne_lib").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add((node.module or "").split(".")[0])
        if path.name == "panels.py":  # the one module that only notebooks import
            assert notebooks & imported >= {"plotly", "ipywidgets"}
            imported -= notebooks
    imported -= sys.stdlib_module_names | {"dne_lib"}
    declared = {name_of(requirement) for requirement in PROJECT["dependencies"]} - INDIRECT
    assert imported == {IMPORT_NAMES.get(name, name) for name in declared}


def test_versions_agree():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == dne_lib.__version__ == PROJECT["version"]
    assert f"## {PROJECT['version']}" in (ROOT / "CHANGELOG.md").read_text()


def test_no_path_of_somebodys_machine_is_committed():
    pattern = re.compile(rb"(?<![\w.$}])/(home|Users|root|work|mnt|tmp)/\w")
    found = [
        f"{path.relative_to(ROOT)}: {match[0].decode()}"
        for path in files()
        if path.suffix not in {".npz", ".png", ".jpg", ".safetensors"}
        and (match := pattern.search(path.read_bytes()))
    ]
    assert not found


def test_no_large_or_licensed_file_is_committed():
    for path in files():
        assert path.stat().st_size <= 16 * 2**20, path
        assert not path.name.startswith(("MANO_LEFT", "MANO_RIGHT")), path


def test_git_ignores_where_licensed_files_are_put():
    licensed = [
        "MANO_LEFT.pkl",
        "elsewhere/MANO_RIGHT.npz",
        "mano/models/mano_v1_2.zip",
        "InterHand2.6M/images/train/image1.jpg",
        "InterHand2.6M.images.5.fps.v1.0.tar.partaa",
        "packed/train/train-00000.tar",
        "check/train.png",
    ]
    ours = ["dne_lib/assets/hand_right.npz", "dne_lib/check.py", "dne_lib/mano.py"]
    result = subprocess.run(
        ["git", "check-ignore", "--no-index", *licensed, *ours],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode == 128:
        pytest.skip("not a git checkout")
    assert result.stdout.splitlines() == licensed


@pytest.mark.parametrize("arguments", [[], ["ARGS=tests/test_camera.py"]])
def test_coverage_is_measured_of_all_tests_only(arguments):
    outer = ("MAKEFLAGS", "MFLAGS", "MAKEOVERRIDES", "ARGS")  # of the make that runs the tests
    result = subprocess.run(
        ["make", "--dry-run", "test", *arguments],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name not in outer},
        capture_output=True,
        text=True,
        check=True,
    )
    (command,) = (line for line in result.stdout.splitlines() if "worksteal" in line)
    assert command.endswith(" tests/test_camera.py" if arguments else " --cov")
    assert ("--cov" in command) == (not arguments)


def test_every_target_is_explained():
    text = (ROOT / "Makefile").read_text()
    (phony,) = re.findall(r"^\.PHONY: (.*)$", text, re.MULTILINE)
    helped = re.findall(r"^([a-z]+):.*## \w", text, re.MULTILINE)
    assert sorted(helped) == sorted(phony.split())
    assert {"train", "test", "lab", "lint", "bench", "clean", "help"} <= set(helped)


def test_links_in_the_readme_lead_somewhere():
    text = (ROOT / "README.md").read_text()
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert (ROOT / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_in_the_pages_have_options_that_there_are(page, monkeypatch, capsys):
    for name in COMMANDS:
        monkeypatch.setattr(getattr(cli, name.capitalize()), "run", lambda command: None)
    named = rf"(?:\.venv/bin/|`|^)dne ((?:{'|'.join(COMMANDS)})\b[^`\n#]*)"
    for line in re.findall(named, page.read_text(), re.MULTILINE):
        if "…" in line or " N" in line:
            continue
        with contextlib.suppress(SystemExit):  # a mention need not have all that is required
            cli.main(shlex.split(line))
        assert not re.search("unrecognized|invalid", capsys.readouterr().err, re.IGNORECASE), line


@pytest.mark.parametrize(
    "script", ["shipped_weights.sh", "gpu/pretrain.sh", "plans/paper_size.yaml"]
)
def test_scripts_weigh_the_first_leg_as_maps_first_does(script):
    text = (ROOT / "scripts" / script).read_text()
    given = {name: float(value) for name, value in re.findall(r"loss\.(\w+):? ([\d.]+)", text)}
    first = dataclasses.asdict(maps_first()).items()
    assert given == dict(first - dataclasses.asdict(preset("tiny").loss).items())


def test_the_code_of_the_readme_runs():
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    found: dict = {}
    exec(code, found)
    assert found["last"].vertices.shape == (1, 2, 778, 3)
    assert found["last"].projections.shape == (1, 2, 778, 2)


def test_the_model_card_says_what_results_say():
    assert model_card.CARD.read_text() == model_card.card(ROOT / "results")
