"""Plans of ablations: which variants are trained with which seeds, and which tables they make.

A plan is a YAML file; `scripts/plans/` has the paper's and ours. Its keys:

- base: another plan, beside this one, whose keys hold where this one does not have them
- title: a line; preset: tiny, small or paper
- render: train, val, test, seed of the built-in data, drawn into data.root unless it is there;
  varied: true for pictures as photographs are
- images: of the test split to evaluate on, evenly spaced
- seeds: whole numbers; every variant is trained once with each
- set: fields of the configuration shared by all ("train.steps: 500")
- coarse: a list of legs of the coarse stage, each a `set` of its own. The last one's weights are
  where every variant starts. Without it they start at train.initial
- variants: a list; each has a name and
    - set: the fields in which it differs, or
    - of: evaluate the network of that variant in another way, by samples (draws of the noise in
      every module, of which the confidence head takes the best) and set (switches of the model)
- tables: by name, title, metrics (mpjpe, mpvpe, mpvpe_2d) and rows. A row is a variant, measured
  after its last module, or "variant, coarse" or "variant, module 1"
- claims: a list; `row` is said to have a lower error than `over` in `metric`. `paper` is the
  change that the paper reports, as a fraction
"""

import dataclasses
import re
import types
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import yaml

from dne_lib.config import Config, Preset, preset
from dne_lib.files import InputError
from dne_lib.train import check_config, check_train_config

Metric = Literal["mpjpe", "mpvpe", "mpvpe_2d"]
# What can be changed after training: everything else is in the weights or in what they learned.
SWITCHES = (
    "model.selection",
    "model.camera_correction",
    "model.ridge",
    "model.gamma",
    "model.delta",
)
STAGE = re.compile(r", (coarse|module \d+)$")  # at the end of a row's name


@dataclass
class Render:
    """The built-in data of a plan."""

    train: int
    test: int
    seed: int
    val: int = 0
    varied: bool = False


@dataclass
class Variant:
    """One way to train, or to evaluate what another variant trained."""

    name: str
    set: dict[str, Any] = field(default_factory=dict)
    of: str | None = None
    samples: int = 0

    @property
    def slug(self) -> str:
        """The name as a file's name."""
        plain = self.name.lower().replace("ε", "e")
        return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")


@dataclass
class Table:
    """Rows of variants, columns of metrics."""

    title: str
    metrics: list[Metric]
    rows: list[str]


@dataclass
class Claim:
    """That one row's error is lower than another's."""

    claim: str
    row: str
    over: str
    metric: Metric
    paper: float | None = None


@dataclass
class Plan:
    """What a plan file says; see the module's text."""

    title: str
    preset: Preset
    seeds: list[int]
    variants: list[Variant]
    tables: dict[str, Table]
    set: dict[str, Any] = field(default_factory=dict)
    render: Render | None = None
    images: int | None = None
    coarse: list[dict[str, Any]] = field(default_factory=list)
    claims: list[Claim] = field(default_factory=list)

    def config(self, values: dict[str, Any], seed: int = 0) -> Config:
        """The configuration of a run, with a variant's or a leg's own values."""
        config = override(preset(self.preset), {**self.set, **values, "train.seed": seed})
        if config.train.stage == "coarse":
            config.model = dataclasses.replace(config.model, modules=0)
        return config


def read_plan(path: str | Path) -> Plan:
    """Read a plan and check all of it, so that no mistake shows up hours later.

    Raises:
        InputError: it is no YAML, has unknown or missing keys, sets fields that do not exist or to
            values they cannot have, or names a variant that it does not define.
    """
    path = Path(path)
    values = _parsed(path)
    try:
        if isinstance(values, dict) and "base" in values:
            base = path.parent / _fitting(values.pop("base"), str, "base")
            values = {**_fitting(_parsed(base), dict, str(base)), **values}
        plan = _fitting(values, Plan, "the plan")
        _check(plan)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    return plan


class _Loader(yaml.SafeLoader):
    """Refuses a key that is given twice, of which YAML's own keeps the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value != "<<":  # may be merged twice
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"{key.value} is given twice", key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def _parsed(path: Path) -> Any:
    """What a YAML file holds.

    Raises:
        InputError: it cannot be read, or is no YAML.
    """
    try:
        return yaml.load(path.read_bytes(), _Loader)
    except OSError as error:
        raise InputError(
            f"cannot read the plan {path} ({error.strerror}): check its name"
        ) from None
    except (yaml.YAMLError, ValueError, AttributeError) as error:  # the others of odd scalars
        raise InputError(f"the plan {path} is not valid YAML: {error}") from None


def _check(plan: Plan) -> None:
    """Everything in a plan that refers to something else."""
    slugs = [variant.slug for variant in plan.variants]
    if not plan.seeds or not slugs or len(set(plan.seeds)) < len(plan.seeds):
        raise InputError("give at least one variant and one seed, and no seed twice")
    if len(set(slugs)) < len(slugs) or {"", "coarse"} & set(slugs):
        raise InputError("give every variant a name of its own, in letters; coarse is taken")
    if plan.images is not None and plan.images < 1:
        raise InputError(f"images is {plan.images}: evaluate at least one")
    if plan.render is not None and plan.render.test < 1:
        raise InputError(f"render: test is {plan.render.test}: that is what is evaluated on")
    if empty := [name for name, table in plan.tables.items() if not table.metrics]:
        raise InputError(f"tables: {empty[0]} has no metrics")
    for seed in plan.seeds:
        check_train_config(plan.config({}, seed).train)

    def check(values: dict[str, Any]) -> None:
        config = plan.config(values)
        check_config(config)
        batch = config.train.batch_size
        if plan.render is not None and plan.render.train < batch:
            raise InputError(
                f"render: train is {plan.render.train}, fewer images than one batch of {batch}"
            )

    for leg in plan.coarse:
        check(leg)
    trained = {variant.name: variant for variant in plan.variants if variant.of is None}
    for variant in plan.variants:
        if variant.samples < 0:
            raise InputError(f"{variant.name}: samples is {variant.samples}: 0 takes the means")
        if variant.of is None:
            check(variant.set)
            if variant.samples:
                raise InputError(f"{variant.name}: samples goes with `of`, the variant to evaluate")
            continue
        if variant.of not in trained:
            raise InputError(f"{variant.name}: of: no variant {variant.of!r} is trained")
        check({**trained[variant.of].set, **variant.set})
        if other := [name for name in variant.set if name not in SWITCHES]:
            raise InputError(
                f"{variant.name}: {other[0]} is settled by training: set {', '.join(SWITCHES)}, or "
                "train a variant of its own"
            )
    modules = {
        v.name: plan.config((v if v.of is None else trained[v.of]).set).model.modules
        for v in plan.variants
    }
    named = modules.keys()
    rows = [(f"tables: {name}", row) for name, table in plan.tables.items() for row in table.rows]
    rows += [
        (f"claims: {each.claim}", row) for each in plan.claims for row in (each.row, each.over)
    ]
    for where, row in rows:
        if row in named:
            continue
        stage = STAGE.search(row)
        if stage is None or (name := row[: stage.start()]) not in named:
            raise InputError(f"{where}: no variant {row!r}")
        _, _, number = stage[1].partition(" ")
        if number and not 1 <= int(number) <= modules[name]:
            raise InputError(f"{where}: {name} has {modules[name]} modules, no {stage[1]}")


def override(config: Config, values: dict[str, Any]) -> Config:
    """A configuration with some fields changed.

    Args:
        values: by dotted name, "train.steps".

    Raises:
        InputError: there is no such field, or the value is not of its kind.
    """
    parts = {
        each.name: dataclasses.replace(getattr(config, each.name))
        for each in dataclasses.fields(config)
    }
    for name, value in values.items():
        part, _, key = str(name).partition(".")
        hints = get_type_hints(type(parts[part])) if part in parts else {}
        if key not in hints:
            raise InputError(f"{name} is no field of the configuration: see dne_lib/config.py")
        setattr(parts[part], key, _fitting(value, hints[key], name))
    return Config(**parts)


def _fitting(value: Any, kind: Any, name: str) -> Any:
    """A value read from YAML as its annotation wants it.

    Raises:
        InputError: it is of another kind.
    """
    if kind is Any:
        return value
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is types.UnionType:
        if value is None:
            return None
        (kind,) = (each for each in arguments if each is not types.NoneType)
        return _fitting(value, kind, name)
    if origin is Literal and value in arguments:
        return value
    if origin is list and isinstance(value, list):
        return [_fitting(each, arguments[0], name) for each in value]
    if origin is dict and isinstance(value, dict):
        return {key: _fitting(each, arguments[1], f"{name}: {key}") for key, each in value.items()}
    if dataclasses.is_dataclass(kind) and isinstance(value, dict):
        return _dataclass(value, kind, name)
    if kind is Path and isinstance(value, str):
        return Path(value)
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is kind:
        return value
    if origin is Literal:
        wanted = "one of " + ", ".join(map(str, arguments))
    else:
        plain = {
            str: "text",
            Path: "a path, as text",
            list: "a list",
            int: "a whole number",
            bool: "true or false",
            float: "a number",
        }
        wanted = plain.get(origin or kind, "`key: value` lines")
    hint = " (1e-3 is text to YAML: write 1.0e-3)" if kind is float else ""
    raise InputError(f"{name} is {value!r}: give {wanted}{hint}")


def _dataclass(values: dict[Any, Any], kind: Any, name: str) -> Any:
    """A dataclass from a mapping of its fields."""
    hints = get_type_hints(kind)
    missing = dataclasses.MISSING
    needed = {f.name for f in dataclasses.fields(kind) if f.default is missing is f.default_factory}
    if wrong := [*sorted(map(str, values.keys() - hints)), *sorted(needed - values.keys())]:
        raise InputError(
            f"{name}: unknown or missing {', '.join(wrong)}: its keys are {', '.join(hints)}"
        )
    return kind(
        **{key: _fitting(each, hints[key], f"{name}: {key}") for key, each in values.items()}
    )
