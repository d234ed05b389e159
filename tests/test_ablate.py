import copy
import json

import numpy as np
import pytest
import yaml

import dne_lib.train as training
from dne_lib import ablate as module
from dne_lib import cli
from dne_lib.ablate import ablate, claims_table, figure, load_ablations, summarise, table
from dne_lib.files import InputError
from dne_lib.metrics import GROUPS, PROTOCOLS
from dne_lib.plans import read_plan

SETTINGS = {
    "model.backbone": "resnet18", "model.stages": 2, "model.pretrained": False,
    "model.image_size": 32, "model.feature_size": 8, "model.channels": 8, "model.modules": 1,
    "model.samples": 2, "train.steps": 2, "train.batch_size": 4, "train.warmup": 1,
    "train.precision": "no", "train.workers": 0, "train.save_every": 1, "train.log_every": 1,
}  # fmt: skip
PLAN = {
    "title": "Two runs",
    "preset": "tiny",
    "images": 3,
    "seeds": [0, 1],
    "coarse": [{"train.steps": 1}],
    "variants": [
        {"name": "Full DNE"},
        {"name": "Baseline", "set": {"model.modules": 0}},
        {"name": "Sampled", "of": "Full DNE", "samples": 3},
    ],
    "tables": {
        "all": {
            "title": "All of it",
            "metrics": ["mpvpe", "mpvpe_2d"],
            "rows": ["Baseline", "Full DNE, coarse", "Full DNE", "Sampled"],
        }
    },
    "claims": [
        {
            "claim": "Modules help",
            "row": "Full DNE",
            "over": "Baseline",
            "metric": "mpvpe",
            "paper": -0.13,
        }
    ],
}


def written(folder, root):
    path = folder / "plan.yaml"
    path.write_text(yaml.safe_dump({**PLAN, "set": {**SETTINGS, "data.root": str(root)}}))
    return path


@pytest.fixture
def plan(tmp_path, builtin_data):
    return written(tmp_path, builtin_data)


@pytest.fixture
def parsed(tmp_path):
    return read_plan(written(tmp_path, "nowhere"))


@pytest.fixture
def trained(monkeypatch):
    """Folder and resume of every call of `train`."""
    calls, train = [], module.train

    def counted(config, output, resume=False):
        calls.append((output.name, resume))
        return train(config, output, resume)

    monkeypatch.setattr(module, "train", counted)
    return calls


def test_a_plan_runs_once_and_is_reported(plan, tmp_path, trained, capsys):
    runs, output = tmp_path / "runs", tmp_path / "results"
    results = ablate(plan, runs, output)
    names = ["coarse-1", "full-dne-0", "baseline-0", "full-dne-1", "baseline-1"]
    assert trained == [(name, False) for name in names]
    assert not list(runs.glob("*/checkpoint*"))
    found = load_ablations(output)["plan"]
    assert found == json.loads(json.dumps(results))
    sampled = found["runs"]["Sampled"]["0"]["stages"]
    plain = found["runs"]["Full DNE"]["0"]["stages"]
    assert sampled["coarse"] == plain["coarse"]
    assert sampled["module 1"] != plain["module 1"]
    assert found["runs"]["Full DNE"]["0"]["images"]["All"] == 3
    assert found["runs"]["Full DNE"]["0"]["parameters"] > 100_000
    text = (output / "plan.md").read_text()
    assert "| Full DNE, coarse " in text
    assert "| Modules help " in text
    assert (output / "plan-all.png").read_bytes().startswith(b"\x89PNG")

    trained.clear()
    line = ["ablate", str(plan), "--runs", str(runs), "--output", str(output)]
    assert cli.main(line) == 0
    assert capsys.readouterr().out == text + "\n"
    assert load_ablations(output)["plan"] == found
    assert not trained

    values = yaml.safe_load(plan.read_text())
    values["set"]["train.steps"] = 3
    plan.write_text(yaml.safe_dump(values))
    with pytest.raises(InputError, match=r"another plan \(train.steps differ"):
        ablate(plan, runs, output)

    (runs / "coarse-1" / "finished.json").write_text('{"initial": "abc"}')
    values["set"]["train.steps"] = 2
    plan.write_text(yaml.safe_dump(values))
    with pytest.raises(InputError, match="no longer holds"):
        ablate(plan, runs, output)


def test_an_interrupted_plan_goes_on(plan, tmp_path, trained, monkeypatch):
    runs, output = tmp_path / "runs", tmp_path / "results"
    build, loss, losses = training._build, training.total_loss, []

    def killed(config):  # before the first checkpoint
        monkeypatch.setattr(training, "_build", build)
        raise KeyboardInterrupt

    def stops(*arguments):  # in the second step of the second run
        losses.append(arguments)
        if len(losses) == 3:
            raise KeyboardInterrupt
        return loss(*arguments)

    monkeypatch.setattr(training, "_build", killed)
    monkeypatch.setattr(training, "total_loss", stops)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            ablate(plan, runs, output)
    assert not output.exists()
    ablate(plan, runs, output)
    assert trained[:4] == [
        ("coarse-1", False), ("coarse-1", False), ("full-dne-0", False), ("full-dne-0", True),
    ]  # fmt: skip
    log = (runs / "full-dne-0" / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in log] == [1, 2]


def measured(errors):
    """Results of a run whose stages have these errors, by stage."""
    groups = {
        stage: {g: error + i for i, g in enumerate(GROUPS)} for stage, error in errors.items()
    }
    return {
        "stages": {
            stage: {
                "mpjpe": {p: {g: 2 * e for g, e in values.items()} for p in PROTOCOLS},
                "mpvpe": {p: {g: e + (p != "wrist") for g, e in values.items()} for p in PROTOCOLS},
                "mpvpe_2d": {**values, "IH": None},
            }
            for stage, values in groups.items()
        },
        "images": {"All": 3},
        "hands": {"All": 4},
        "origin": {"commit": "abc", "device": "cpu", "torch": "2"},
    }


@pytest.fixture
def results(parsed):
    full = [measured({"coarse": c, "module 1": m}) for c, m in ((20.0, 10.0), (22.0, 14.0))]
    found = {
        "Full DNE": {"0": full[0], "1": full[1]},
        "Baseline": {"0": measured({"coarse": 18.0}), "1": measured({"coarse": 14.0})},
    }
    return summarise(parsed, found)


def test_means_and_spreads_over_seeds(results, parsed):
    numbers = results["rows"]["Full DNE"]["mpvpe"]["SH"]
    assert numbers == {"mean": 12.0, "std": pytest.approx(2 * 2**0.5), "seeds": [10.0, 14.0]}
    assert results["rows"]["Full DNE, module 1"] == results["rows"]["Full DNE"]
    assert results["rows"]["Full DNE, coarse"]["mpjpe"]["All"]["mean"] == 2 * (21 + 2)
    assert results["rows"]["Full DNE"]["mpvpe_2d"]["IH"]["mean"] is None
    one = summarise(parsed, {"Baseline": {"0": measured({"coarse": 18.0})}})
    assert one["rows"]["Baseline"]["mpvpe"]["SH"] == {"mean": 18.0, "std": None, "seeds": [18.0]}


@pytest.mark.parametrize(
    ("baseline", "lower", "verdict"),
    [
        ((18, 24), 2, "borne out"),
        ((30, 14.1), 2, "unclear"),  # lower each time, but by 62 % and by 1 %
        ((18, 13), 1, "unclear"),
        ((9, 13), 0, "failed"),
        ((18,), 1, "one seed"),
    ],
)
def test_a_claim_holds_if_it_does_for_every_seed(results, parsed, baseline, lower, verdict):
    runs = copy.deepcopy(results["runs"])
    runs["Baseline"] = {str(i): measured({"coarse": float(e)}) for i, e in enumerate(baseline)}
    (claim,) = summarise(parsed, runs)["claims"]
    assert (claim["lower"], claim["of"], claim["verdict"]) == (lower, len(baseline), verdict)
    # "All" is two above the number given.
    changes = [(full + 2) / (e + 2) - 1 for full, e in zip((10, 14), baseline, strict=False)]
    assert claim["change"]["seeds"] == pytest.approx(changes)
    row = claims_table({"claims": [claim]}).splitlines()[-1]
    assert row.split()[:4] == ["Modules", "help", "MPVPE", "-13.0%"]
    assert f"{np.mean(changes):+.1%}" in row
    assert ("±" in row) == (len(baseline) > 1)
    assert row.split("  ")[-1].strip() == verdict
    assert f" {lower} of {len(baseline)} seeds " in row


def test_a_table_has_a_row_for_all_that_is_there(results):
    lines = table(results, "all").splitlines()
    assert [line.split("  ")[0] for line in lines[2:]] == [
        "Baseline", "Full DNE, coarse", "Full DNE",
    ]  # fmt: skip
    assert lines[0].split()[-6:] == ["2D", "SH", "2D", "IH", "2D", "All"]
    assert "12.00 ± 2.83" in lines[-1]
    assert "| - |" in " ".join(table(results, "all", markdown=True).split())


def test_a_figure_shows_every_seed(results):
    axes = figure(results, "all").axes
    assert [axis.get_xlabel() for axis in axes] == ["MPVPE, mm", "2D, pixels"]
    labels = [label.get_text() for label in axes[0].get_yticklabels()]
    assert labels == ["Baseline", "Full DNE, coarse", "Full DNE"]
    dots = [line for line in axes[0].lines if line.get_marker() == "o"]
    assert [sorted(line.get_xdata()) for line in dots] == [[16, 20], [22, 24], [12, 16]]


def test_no_results(tmp_path):
    with pytest.raises(InputError, match="run `dne ablate` first"):
        load_ablations(tmp_path)
