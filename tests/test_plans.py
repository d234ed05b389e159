import dataclasses
from pathlib import Path

import pytest
import yaml

from dne_lib.config import Config, preset
from dne_lib.files import InputError
from dne_lib.plans import Render, override, read_plan

PLANS = sorted((Path(__file__).parent.parent / "scripts" / "plans").glob("*.yaml"))

RENDER = {"train": 64, "test": 4, "seed": 5, "varied": True}
GOOD = {
    "title": "A plan",
    "preset": "tiny",
    "seeds": [0, 1],
    "set": {"train.steps": 3, "train.learning_rate": 1},
    "variants": [
        {"name": "Full DNE"},
        {"name": "+ε2d", "set": {"model.noise_3d": False}},
        {"name": "8 samples", "of": "Full DNE", "samples": 8, "set": {"model.selection": False}},
    ],
    "tables": {
        "one": {"title": "One", "metrics": ["mpvpe"], "rows": ["Full DNE, coarse", "+ε2d"]},
    },
    "claims": [
        {"claim": "2D helps", "row": "+ε2d", "over": "Full DNE, module 1", "metric": "mpvpe_2d"}
    ],
}


def written(tmp_path, values):
    path = tmp_path / "plan.yaml"
    path.write_text(yaml.safe_dump(values, allow_unicode=True))
    return path


def test_a_plan_is_read_and_configures_its_runs(tmp_path):
    plan = read_plan(written(tmp_path, GOOD))
    assert [variant.slug for variant in plan.variants] == ["full-dne", "e2d", "8-samples"]
    config = plan.config(plan.variants[1].set, seed=5)
    assert config.train.seed == 5
    assert config.train.steps == 3
    assert config.train.learning_rate == 1.0
    assert not config.model.noise_3d
    assert config.loss == preset("tiny").loss
    assert plan.tables["one"].rows == ["Full DNE, coarse", "+ε2d"]
    assert plan.claims[0].paper is None
    assert plan.render is None
    plan = read_plan(written(tmp_path, {**GOOD, "render": RENDER}))
    assert plan.render == Render(train=64, test=4, seed=5, val=0, varied=True)


@pytest.mark.parametrize("path", PLANS, ids=lambda path: path.stem)
def test_the_plans_that_come_with_the_package(path):
    plan = read_plan(path)
    assert len(plan.seeds) >= 3
    assert {row for table in plan.tables.values() for row in table.rows}


def test_every_field_can_be_overridden():
    whole = Config()
    values = {
        f"{part}.{f.name}": getattr(getattr(whole, part), f.name)
        for part in ("model", "data", "loss", "train")
        for f in dataclasses.fields(getattr(whole, part))
    }
    values = {k: str(v) if isinstance(v, Path) else v for k, v in values.items()}
    changed = override(preset("tiny"), values)
    assert changed == whole
    assert override(whole, {"data.mano": "here"}).data.mano == Path("here")
    assert whole.data.mano is None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"train.step": 3}, "train.step is no field"),
        ({"steps": 3}, "steps is no field"),
        ({"optimizer.steps": 3}, "optimizer.steps is no field"),
        ({"train.steps": 3.5}, "train.steps is 3.5: give a whole"),
        ({"train.steps": True}, "train.steps is True: give a whole"),
        ({"model.sampling": 1}, "model.sampling is 1: give true or"),
        ({"train.learning_rate": "1e-3"}, r"write 1\.0e-3"),
        ({"train.schedule": "linear"}, "give one of paper, cosine"),
        ({"train.initial": 3}, "train.initial is 3: give text"),
        ({"data.root": 3}, "data.root is 3: give a path"),
    ],
)
def test_values_that_do_not_fit(values, message):
    with pytest.raises(InputError, match=message):
        override(Config(), values)


def without(key):
    return {k: v for k, v in GOOD.items() if k != key}


def with_variant(**variant):
    return {**GOOD, "variants": [*GOOD["variants"], variant]}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1], "the plan is"),
        (without("seeds"), "missing seeds"),
        ({**GOOD, "stepps": 1}, "missing stepps"),
        ({**GOOD, "seeds": []}, "at least one"),
        ({**GOOD, "seeds": [1, 1]}, "no seed twice"),
        ({**GOOD, "seeds": "0"}, "seeds is '0'"),
        ({**GOOD, "preset": "huge"}, "give one of tiny, small, paper"),
        ({**GOOD, "set": {"model.chanels": 3}}, "model.chanels is no field"),
        ({**GOOD, "coarse": [{"train.stepps": 3}]}, "train.stepps"),
        ({**GOOD, "render": {"train": 3, "test": 4}}, "render: .* missing seed"),
        (
            {**GOOD, "render": {"train": 3, "test": 4, "seed": 0, "varied": 1}},
            "varied is 1: give true or",
        ),
        (
            {**GOOD, "render": {"train": 3, "test": 4, "seed": 0}},
            "render: train is 3, fewer images than one batch of",
        ),
        (with_variant(name="full dne"), "a name of its own"),
        (with_variant(name="Coarse"), "coarse is taken"),
        (with_variant(name="x", set={"model.channels": 0}), "channels is 0"),
        (with_variant(name="x", samples=3), "x: samples goes with"),
        (with_variant(name="x", of="Full DNE", samples=-1), "x: samples is -1"),
        (with_variant(name="x", of="Full DNE", set={"model.ridge": -1.0}), "ridge is -1"),
        (with_variant(name="x", set={"train.initial": "nowhere"}), "no weights at nowhere"),
        (with_variant(name="x", set={"data.margin": -1.0}), "margin is -1"),
        ({**GOOD, "seeds": [-1]}, "seed is -1"),
        ({**GOOD, "coarse": [{"train.steps": 0}]}, "steps is 0"),
        ({**GOOD, "images": 0}, "images is 0"),
        ({**GOOD, "render": {"train": 3, "test": 0, "seed": 0}}, "render: test is 0"),
        ({**GOOD, "tables": {"t": {"title": "T", "metrics": [], "rows": []}}}, "t has no metrics"),
        (with_variant(name="x", of="Fall"), "no variant 'Fall' is trained"),
        (
            {**GOOD, "render": RENDER, "variants": [{"name": "x", "of": "Fall"}]},
            "no variant 'Fall' is trained",
        ),
        (with_variant(name="x", of="8 samples"), "no variant '8 samples' is trained"),
        (with_variant(name="x", of="Full DNE", set={"model.modules": 1}), "settled by training"),
        ({**GOOD, "tables": {"t": {"title": "T", "metrics": ["mpvpe"], "rows": ["Ful"]}}}, "'Ful'"),
        (
            {**GOOD, "tables": {"t": {"title": "T", "metrics": ["iou"], "rows": []}}},
            "give one of mpjpe, mpvpe, mpvpe_2d",
        ),
        ({**GOOD, "claims": [{**GOOD["claims"][0], "over": "Full"}]}, "claims: 2D helps: .*'Full'"),
        (
            {**GOOD, "claims": [{**GOOD["claims"][0], "over": "8 samples, module 4"}]},
            "8 samples has 3 modules, no module 4",
        ),
        (
            {**GOOD, "claims": [{**GOOD["claims"][0], "over": "Full DNE, module 0"}]},
            "no module 0",
        ),
    ],
)
def test_plans_that_cannot_be_run(tmp_path, values, message):
    with pytest.raises(InputError, match=message) as raised:
        read_plan(written(tmp_path, values))
    assert str(tmp_path / "plan.yaml") in str(raised.value)


def test_a_plan_may_build_on_another(tmp_path):
    written(tmp_path, GOOD)
    path = tmp_path / "longer.yaml"
    path.write_text("base: plan.yaml\nset: {train.steps: 30}")
    plan = read_plan(path)
    assert plan.config({}).train.steps == 30
    assert plan.config({}).train.learning_rate == preset("tiny").train.learning_rate
    base = read_plan(tmp_path / "plan.yaml")
    assert dataclasses.replace(plan, set=base.set) == base
    path.write_text("base: nothing.yaml")
    with pytest.raises(InputError, match=r"cannot read the plan .*nothing\.yaml"):
        read_plan(path)
    (tmp_path / "list.yaml").write_text("[1, 2]")
    path.write_text("base: list.yaml")
    with pytest.raises(InputError, match=r"list\.yaml is \[1, 2\]: give `key: value` lines"):
        read_plan(path)


def test_files_that_are_no_plan(tmp_path):
    with pytest.raises(InputError, match="cannot read the plan"):
        read_plan(tmp_path / "nothing.yaml")
    path = tmp_path / "plan.yaml"
    path.write_text("title: [")
    with pytest.raises(InputError, match="not valid YAML"):
        read_plan(path)
    for odd in ("title: 2020-13-45", "title: !!int abc", "title: a\nseeds: [0]\ntitle: b"):
        path.write_text(odd)
        with pytest.raises(InputError, match=r"not valid YAML.*"):
            read_plan(path)
    with pytest.raises(InputError, match=r"title is given twice"):
        read_plan(path)
