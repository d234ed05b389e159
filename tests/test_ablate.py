import copy
import inspect
import json
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from scipy.stats import ttest_1samp

import dne_lib.train as training
from dne_lib import ablate as module
from dne_lib import cli
from dne_lib.ablate import ablate, claims_table, figure, load_ablations, summarise, table
from dne_lib.files import InputError, locked
from dne_lib.metrics import GROUPS, PROTOCOLS
from dne_lib.plans import read_plan
from dne_lib.synthetic.synthesize import synthesize

ROOT = Path(__file__).parent.parent
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

    def counted(config, output, resume=False, **options):
        calls.append((output.name, resume))
        return train(config, output, resume, **options)

    monkeypatch.setattr(module, "train", counted)
    return calls


def interrupt_step(monkeypatch, number):
    """Ctrl-C in the n-th step that is trained from now on."""
    rate, steps = training.learning_rate, []

    def stops(*arguments):
        steps.append(arguments)
        if len(steps) == number:
            raise KeyboardInterrupt
        return rate(*arguments)

    monkeypatch.setattr(training, "learning_rate", stops)


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
    start = json.loads((runs / "full-dne-0" / "start.json").read_text())
    assert found["runs"]["Full DNE"]["0"]["origin"] == start["origin"]
    text = (output / "plan.md").read_text()
    assert "| Full DNE, coarse " in text
    floor = found["runs"]["Full DNE"]["0"]["floor"]["All"]
    assert f"All {floor:.2f} (the floor)" in text
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


def test_results_go_on_where_their_runs_are_gone(plan, tmp_path, trained):
    output = tmp_path / "results"
    values = yaml.safe_load(plan.read_text())
    del values["coarse"]
    plan.write_text(yaml.safe_dump({**values, "seeds": [0]}))
    before = ablate(plan, tmp_path / "here", output)["runs"]
    trained.clear()
    more = {**values, "variants": [*values["variants"], {"name": "New"}]}
    plan.write_text(yaml.safe_dump(more))
    after = ablate(plan, tmp_path / "there", output)["runs"]
    # "New" is what Full DNE is, by another name.
    assert [name for name, _ in trained] == ["full-dne-1", "baseline-1"]
    assert all(after[name]["0"] == before[name]["0"] for name in before)
    assert after["New"] == after["Full DNE"]
    # Another plan's results beside it are not taken: its rows are compared with each other.
    trained.clear()
    plan.rename(tmp_path / "other.yaml")
    ablate(tmp_path / "other.yaml", tmp_path / "elsewhere", output)
    assert "full-dne-0" in [name for name, _ in trained]


def test_results_that_are_no_longer_of_the_plan_are_not_lost(plan, tmp_path, trained):
    output = tmp_path / "results"
    values = yaml.safe_load(plan.read_text())
    del values["coarse"]
    plan.write_text(yaml.safe_dump(values))
    ablate(plan, tmp_path / "here", output)
    before = (output / "plan.json").read_bytes()
    (output / "package.json").write_text("[]")  # not ours
    values["set"]["train.steps"] = 3
    plan.write_text(yaml.safe_dump(values))
    trained.clear()
    with pytest.raises(InputError, match=r"plan\.json holds 6 results of the plan as it no longer"):
        ablate(plan, tmp_path / "there", output)
    assert not trained
    assert (output / "plan.json").read_bytes() == before
    assert list(load_ablations(output)) == ["plan"]


def test_results_of_an_older_plan_are_not_replaced_by_those_of_another_output(plan, tmp_path):
    here, output = tmp_path / "here", tmp_path / "results"
    values = yaml.safe_load(plan.read_text()) | {"seeds": [0]}
    del values["coarse"]
    plan.write_text(yaml.safe_dump(values))
    ablate(plan, here, output)
    before = (output / "plan.json").read_bytes()
    values["set"]["train.steps"] = 3
    plan.write_text(yaml.safe_dump(values))
    ablate(plan, tmp_path / "there", tmp_path / "others")
    with pytest.raises(InputError, match="holds 3 results of the plan as it no longer is"):
        ablate(plan, tmp_path / "there", output)
    assert (output / "plan.json").read_bytes() == before


def test_results_of_other_starting_weights_are_noticed_before_any_are_trained(
    plan, tmp_path, trained
):
    plan.write_text(yaml.safe_dump(yaml.safe_load(plan.read_text()) | {"seeds": [0]}))
    ablate(plan, tmp_path / "here", tmp_path / "results")
    trained.clear()
    with pytest.raises(InputError, match=r"other starting weights than .*there/coarse-1"):
        ablate(plan, tmp_path / "there", tmp_path / "results")
    assert not trained


def test_rows_of_a_run_that_is_trained_again_are_all_of_it(plan, tmp_path, trained):
    output = tmp_path / "results"
    values = yaml.safe_load(plan.read_text()) | {"seeds": [0]}
    del values["coarse"]
    sampled = values["variants"].pop()
    values["tables"], values["claims"] = {}, []
    plan.write_text(yaml.safe_dump(values))
    ablate(plan, tmp_path / "here", output)
    path = output / "plan.json"
    kept = json.loads(path.read_text())
    kept["runs"]["Full DNE"]["0"]["seconds"] = "of another machine"
    path.write_text(json.dumps(kept))
    values["variants"].append(sampled)
    plan.write_text(yaml.safe_dump(values))
    trained.clear()
    results = ablate(plan, tmp_path / "there", output)
    assert [name for name, _ in trained] == ["full-dne-0"]
    assert results["runs"]["Full DNE"]["0"].get("seconds") != "of another machine"
    assert results["runs"]["Sampled"]["0"]["images"]["All"] == 3


def test_a_run_goes_on_from_the_same_weights_in_another_place(plan, tmp_path, monkeypatch):
    interrupt_step(monkeypatch, 4)  # of all runs together
    plan.write_text(yaml.safe_dump(yaml.safe_load(plan.read_text()) | {"seeds": [0]}))
    with pytest.raises(KeyboardInterrupt):
        ablate(plan, tmp_path / "runs", tmp_path / "results")
    (tmp_path / "runs").rename(tmp_path / "moved")
    results = ablate(plan, tmp_path / "moved", tmp_path / "results")
    assert all(len(seeds) == 1 for seeds in results["runs"].values())


def test_a_run_belongs_to_the_data_it_was_trained_on(plan, tmp_path, builtin_data):
    recipe = json.loads((builtin_data / "recipe.json").read_text())
    render = {name: recipe[name] for name in ("train", "test", "val", "seed")}
    values = yaml.safe_load(plan.read_text()) | {"seeds": [0], "render": render}
    plan.write_text(yaml.safe_dump(values))
    runs = tmp_path / "runs"
    ablate(plan, runs, tmp_path / "results")
    for record in ("start.json", "finished.json"):
        path = runs / "baseline-0" / record
        began = json.loads(path.read_text())
        assert began["render"] == {**render, "varied": False}
        began["render"]["seed"] = 99
        path.write_text(json.dumps(began))
    with pytest.raises(InputError, match=r"baseline-0 was trained on data rendered as .*99"):
        ablate(plan, runs, tmp_path / "results")


def test_a_variant_of_the_coarse_stage_alone(plan, tmp_path, trained):
    values = yaml.safe_load(plan.read_text())
    values["variants"][1]["set"] = {"train.stage": "coarse"}
    plan.write_text(yaml.safe_dump(values | {"seeds": [0]}))
    for _ in range(2):
        results = ablate(plan, tmp_path / "runs", tmp_path / "results")
    assert list(results["runs"]["Baseline"]["0"]["stages"]) == ["coarse"]
    assert [name for name, _ in trained] == ["coarse-1", "full-dne-0", "baseline-0"]


def test_an_interrupted_plan_goes_on(plan, tmp_path, trained, monkeypatch):
    runs, output = tmp_path / "runs", tmp_path / "results"
    build = training._build

    def killed(*_):  # before the first checkpoint
        monkeypatch.setattr(training, "_build", build)
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "_build", killed)
    interrupt_step(monkeypatch, 3)  # the second of the second run
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            ablate(plan, runs, output)
    page = (output / "plan.md").read_text()  # nothing has been measured, and it says so
    assert "Unfinished: 0 of 6 results" in page
    assert page.count("not run yet") == 4 + 1  # rows and the claim
    assert not list(output.glob("*.png"))
    ablate(plan, runs, output)
    assert "not run yet" not in (output / "plan.md").read_text()
    assert trained[:4] == [
        ("coarse-1", False), ("coarse-1", False), ("full-dne-0", False), ("full-dne-0", True),
    ]  # fmt: skip
    log = (runs / "full-dne-0" / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in log] == [1, 2]


def test_a_second_call_keeps_what_the_first_has_shown(plan, tmp_path, trained, monkeypatch):
    runs, output, pages = tmp_path / "runs", tmp_path / "results", []
    write = module._write

    def stops(*arguments):
        results = write(*arguments)
        pages.append((output / "plan.md").read_text())
        if len(pages) == 3:  # the first page, and one for each run of the first round
            raise KeyboardInterrupt
        return results

    monkeypatch.setattr(module, "_write", stops)
    with pytest.raises(KeyboardInterrupt):
        ablate(plan, runs, output)
    assert "Unfinished: 3 of 6" in pages[2]
    assert "| one seed " in pages[2].replace(": |", "| ").replace("  ", " ")
    assert "not run yet" not in pages[2]
    trained.clear()
    ablate(plan, runs, output)
    assert pages[3] == pages[2]
    assert [name for name, _ in trained] == ["full-dne-1", "baseline-1"]
    assert len(pages) == 3 + 3  # the first page again, and those of the second round
    assert "Unfinished" not in pages[-1]


def test_a_run_that_another_process_is_at_is_left_to_it(plan, tmp_path, trained):
    runs, output = tmp_path / "runs", tmp_path / "results"
    with locked(runs / "full-dne-0.lock"):
        ablate(plan, runs, output)
    assert [name for name, _ in trained] == ["coarse-1", "baseline-0", "full-dne-1", "baseline-1"]
    assert "Unfinished: 4 of 6" in (output / "plan.md").read_text()
    trained.clear()
    ablate(plan, runs, output)
    assert [name for name, _ in trained] == ["full-dne-0"]
    assert "Unfinished" not in (output / "plan.md").read_text()


@pytest.mark.parametrize("name", ["plan.md", "plan-all.png"])
def test_a_users_own_files_are_not_replaced_by_results(plan, tmp_path, trained, name):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / name).write_text("precious")
    with pytest.raises(InputError, match=f"{name} is no result of ours"):
        ablate(plan, tmp_path / "runs", tmp_path / "mine")
    assert (tmp_path / "mine" / name).read_text() == "precious"
    assert not trained


def test_runs_need_a_folder(plan, tmp_path):
    (tmp_path / "runs").write_text("not one")
    with pytest.raises(InputError, match="cannot write"):
        ablate(plan, tmp_path / "runs", tmp_path / "results")


def test_what_another_process_finished_meanwhile_is_not_run_again(
    plan, tmp_path, trained, monkeypatch
):
    runs, output, measure = tmp_path / "runs", tmp_path / "results", module._measure

    def slow(job):  # another process does the rest meanwhile
        monkeypatch.setattr(module, "_measure", measure)
        ablate(plan, runs, tmp_path / "theirs")
        return measure(job)

    monkeypatch.setattr(module, "_measure", slow)
    results = ablate(plan, runs, output)
    assert sorted(name for name, _ in trained) == [
        "baseline-0", "baseline-1", "coarse-1", "full-dne-0", "full-dne-1",
    ]  # fmt: skip
    assert all(len(seeds) == 2 for seeds in results["runs"].values())


@pytest.mark.parametrize("varied", [False, True])
def test_the_data_of_a_plan_are_rendered_as_it_says(tmp_path, monkeypatch, varied):
    asked, path = [], tmp_path / "plan.yaml"
    render = {"train": 5, "test": 2, "seed": 3} | ({"varied": True} if varied else {})
    values = {**PLAN, "set": {**SETTINGS, "data.root": "somewhere"}, "render": render}
    path.write_text(yaml.safe_dump(values))

    def rendered(*where, **what):
        asked.append((*where, what))
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "synthesize", rendered)
    with pytest.raises(KeyboardInterrupt):
        ablate(path, tmp_path / "runs", tmp_path / "results")
    ((root, what),) = asked
    assert str(root) == "somewhere"
    assert what == {"train": 5, "test": 2, "seed": 3, "val": 0, "varied": varied}
    inspect.signature(synthesize).bind(root, **what)


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
        "floor": {"SH": 1.5, "IH": None, "All": 1.5},
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
    assert one["rows"]["Baseline"]["mpvpe"]["SH"] == {
        "mean": 18.0,
        "std": None,
        "seeds": [18.0, None],
    }


@pytest.mark.parametrize(
    ("baseline", "lower", "verdict"),
    [
        ((18, 24), 2, "borne out"),
        ((30, 14.1), 2, "undecided"),  # lower each time, but by 62 % and by 1 %
        ((18, 13), 1, "undecided"),
        ((9, 13), 0, "failed"),
        ((9, 4), 0, "undecided"),
        ((18,), 1, "one seed"),
        ((), 0, "not run yet"),
    ],
)
def test_a_claim_is_decided_where_the_seeds_agree(results, parsed, baseline, lower, verdict):
    runs = copy.deepcopy(results["runs"])
    runs["Baseline"] = {str(i): measured({"coarse": float(e)}) for i, e in enumerate(baseline)}
    (claim,) = summarise(parsed, runs)["claims"]
    assert (claim["lower"], claim["of"], claim["verdict"]) == (lower, len(baseline), verdict)
    # "All" is two above the number given.
    full = np.array([10.0, 14.0])[: len(baseline)] + 2
    over = np.array(baseline) + 2
    changes = (full / over - 1).tolist()
    assert [c for c in claim["change"]["seeds"] if c is not None] == pytest.approx(changes)
    if len(baseline) > 1:  # the rule is a test of Student's: one-sided, at 5 %
        above = ttest_1samp(changes, 0, alternative="greater").pvalue
        below = ttest_1samp(changes, 0, alternative="less").pvalue
        assert (below < 0.05, above < 0.05) == (verdict == "borne out", verdict == "failed")
        inside = ttest_1samp(changes, 0).confidence_interval(0.9)
        assert claim["interval"] == pytest.approx(list(inside))


def test_the_claims_table_says_how_much_and_whether(results, parsed):
    line = claims_table(results).splitlines()[-1]
    # Pairs 12 over 20 and 16 over 16; the means 14 over 18, of which nothing is the ratio.
    assert [cell for cell in re.split("  +", line) if cell] == [
        "Modules help", "MPVPE", "18.00 → 14.00", "-13.0%", "-20.0% ± 28.3%",
        "-146.3% to +106.3%", "1 of 2 seeds", "undecided",
    ]  # fmt: skip
    del results["runs"]["Baseline"]["0"]  # seeds are paired by name, not by place
    line = claims_table(summarise(parsed, results["runs"])).splitlines()[-1]
    assert (
        "16.00 → 16.00" in line
    )  # and not the 14.00 of both seeds, which is not what was compared
    assert line.split("-13.0%")[1].split() == [
        "+0.0%",
        "-",
        *["0", "of", "1", "seeds", "one", "seed"],
    ]
    line = claims_table(summarise(parsed, {"Baseline": {}})).splitlines()[-1]
    assert line.split()[2:] == ["MPVPE", "-", "-13.0%", "-", "-", "-", "not", "run", "yet"]


def test_a_table_has_a_row_for_all_that_is_there(results):
    lines = table(results, "all").splitlines()
    assert [line.split("  ")[0] for line in lines[2:]] == [
        "Baseline", "Full DNE, coarse", "Full DNE", "Sampled",
    ]  # fmt: skip
    assert lines[-1].split() == ["Sampled", "not", "run", "yet", *"------"]
    assert lines[0].split()[-6:] == ["2D", "SH", "2D", "IH", "2D", "All"]
    assert lines[-2].split()[2:6] == ["2", "12.00", "±", "2.83"]
    assert "| - |" in " ".join(table(results, "all", markdown=True).split())


def test_a_figure_shows_every_seed(results):
    axes = figure(results, "all").axes
    assert [axis.get_xlabel() for axis in axes] == ["MPVPE, mm", "2D, pixels"]
    labels = [label.get_text() for label in axes[0].get_yticklabels()]
    assert labels == ["Baseline", "Full DNE, coarse", "Full DNE"]
    dots = [line for line in axes[0].lines if line.get_marker() == "o"]
    assert [sorted(line.get_xdata()) for line in dots] == [[16, 20], [22, 24], [12, 16]]


def test_half_a_percent_looks_like_half_a_percent(results):
    for name, row in results["rows"].items():
        numbers = row["mpvpe"]["All"]
        numbers["seeds"] = [16.0 if name == "Baseline" else 16.08]
        numbers["mean"], numbers["std"] = numbers["seeds"][0], None
    axis = figure(results, "all").axes[0]
    low, high = axis.get_xlim()
    assert high - low == pytest.approx(module.NARROWEST * 16.04)
    assert low < 16 < 16.08 < high


def test_no_results(tmp_path):
    with pytest.raises(InputError, match="run `dne ablate` first"):
        load_ablations(tmp_path)


@pytest.mark.parametrize("name", ["paper", "open"])
def test_results_that_are_kept_are_still_of_their_plan(name):
    """A new setting, at its default, must not make them all over again."""
    plan = read_plan(ROOT / "scripts" / "plans" / f"{name}.yaml")
    kept = module._kept(ROOT / "results" / "ablations", name)
    wanted = {job.of for job in module._jobs(plan, Path("runs"), {})}
    assert kept
    assert kept.keys() <= wanted
