"""Ablations: the variants of a plan (`plans.py`) trained apart from the same start, in tables."""

import dataclasses
import hashlib
import json
import logging
import platform
import shutil
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from filelock import Timeout
from matplotlib.figure import Figure
from scipy.special import stdtrit
from torch import nn

from dne_lib.config import Config, config_to_dict, differences, whole
from dne_lib.data.interhand import InterHand
from dne_lib.evaluate import batches, default_device, evaluate, format_table
from dne_lib.files import InputError, claim_folder, locked, read_json, write_bytes, write_json
from dne_lib.mano import HandModel
from dne_lib.metrics import GROUPS
from dne_lib.model import DualNoiseNetwork, Output
from dne_lib.plans import Claim, Plan, Render, Variant, override, read_plan
from dne_lib.plots import save_figure
from dne_lib.synthetic.synthesize import synthesize
from dne_lib.train import train
from dne_lib.weights import find_weights, load_weights, read_weights

logger = logging.getLogger(__name__)

METRICS = {"mpjpe": "MPJPE", "mpvpe": "MPVPE", "mpvpe_2d": "2D"}
PROTOCOL = "wrist"  # of the tables; the JSON has all
# May change between the calls that make a run; of the weights it starts from the content counts.
FREE = ("train.workers", "train.save_every", "train.initial")
# Younger than the first results that are kept: at their default they say nothing new of these.
LATER = ("loss.coarse_mesh",)
LEVEL = 0.9  # of the interval that decides on a claim
NARROWEST = 0.05  # a picture's axis, over the value in its middle: half a percent looks like it
RULE = (
    "Changes are taken seed by seed, since runs of a seed share data, order and starting weights: "
    "mean ± standard deviation over the seeds, and the 90 % interval of the mean (Student's t). "
    "A claim is borne out if the whole interval is below zero, failed if it is above, undecided if "
    "it holds zero; one seed decides nothing."
)
MISSING = "not run yet"


class _Job(NamedTuple):
    """One result that a plan asks for."""

    seed: int
    variant: Variant
    config: Config
    run: Path
    images: int | None
    render: Render | None

    @property
    def how(self) -> dict[str, Any]:
        """What the result depends on beside the run."""
        return {"set": self.variant.set, "samples": self.variant.samples, "images": self.images}

    @property
    def of(self) -> str:
        """A digest of everything that a plan can say about the result."""
        config, defaults = config_to_dict(self.config), config_to_dict(Config())
        for name in FREE + LATER:
            part, _, key = name.partition(".")
            if name in FREE or config[part][key] == defaults[part][key]:
                del config[part][key]
        render = self.render and dataclasses.asdict(self.render)
        asked = [config, _digest(self.config), render, self.how]
        return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()

    @property
    def path(self) -> Path:
        """Where it is kept."""
        return self.run / f"measured-{self.variant.slug}.json"

    def known(self, kept: dict[str, dict[str, Any]]) -> dict[str, Any] | None:
        """The result, if it is there.

        Args:
            kept: see `_kept`; they count where the run is not there, as on another machine.

        Raises:
            InputError: see `_finished`.
        """
        if _finished(self.config, self.run, self.render) and self.path.exists():
            measured = read_json(self.path)
            if measured.get("of") == self.of:
                return measured
        return kept.get(self.of)


def ablate(path: str | Path, runs: str | Path, output: str | Path) -> dict[str, Any]:
    """Run what a plan asks for and is not there yet; write results after every variant.

    Seeds are the outer loop: one of each variant is there long before three are. Runs finished
    before are skipped, an interrupted one goes on, and one that another process is at is left to
    it: the same call in several processes, one a GPU or a core, shares the work. Code is not
    looked at: an estimator of your own that has changed wants a new name. Results of the plan that
    the output holds are not made again where their runs are gone; those of a plan with `coarse`
    need the runs of these, for the same ones cannot be made again.

    Args:
        path: the plan.
        runs: folder of the runs, a folder each, called after variant and seed. Plans that share a
            variant may share the folder.
        output: folder for PLAN.json (see `summarise`), PLAN.md and a PNG for each table; they
            are whole at any time, and say what has not been run yet.

    Returns:
        What PLAN.json holds.

    Raises:
        InputError: see `read_plan` and `train`; a run in the folder is of another configuration;
            the output holds results of the plan as it no longer is, or files that are not ours.
    """
    path, runs, output = Path(path), Path(runs), Path(output)
    plan = read_plan(path)
    _check_output(plan, output, path.stem)
    start = {}
    if plan.coarse:
        with locked(runs / "start.lock"):
            start = {"train.initial": _coarse(plan, runs, output / f"{path.stem}.json")}
    jobs = _jobs(plan, runs, start)
    results = _write(plan, jobs, output, path.stem)
    if all(len(seeds) == len(plan.seeds) for seeds in results["runs"].values()):
        return results
    with locked(runs / "start.lock"):
        _render(plan)
    for job in jobs:
        try:
            with locked(job.run.with_name(f"{job.run.name}.lock"), wait=False):
                if job.known(_kept(output, path.stem)) is not None:
                    continue
                trained = _finished(job.config, job.run, plan.render)
                _train_once(job.config, job.run, plan.render)
                # Rows of one run are compared: after training it again, all of them are of it.
                for each in [job] if trained else [j for j in jobs if j.run == job.run]:
                    write_json(each.path, {"how": each.how, "of": each.of, **_measure(each)})
        except Timeout:
            logger.info("%s is another process's", job.run)
            continue
        results = _write(plan, jobs, output, path.stem)
    return results


def _check_output(plan: Plan, output: Path, name: str) -> None:
    """Keep a user's own page and pictures: those of ours always have their PLAN.json beside them.

    Raises:
        InputError: there are such, which results would replace.
    """
    files = [f"{name}.md", *(f"{name}-{key}.png" for key in plan.tables)]
    there = [file for file in files if (output / file).exists()]
    if there and not (output / f"{name}.json").exists():
        raise InputError(
            f"{output / there[0]} is no result of ours, as there is no {name}.json beside it: "
            "move it away, or choose another output"
        )


def _jobs(plan: Plan, runs: Path, start: dict[str, Any]) -> list[_Job]:
    """All that a plan asks for, in order."""
    trained = {variant.name: variant for variant in plan.variants if variant.of is None}
    jobs = []
    for seed in plan.seeds:
        for variant in plan.variants:
            source = trained[variant.of or variant.name]
            config = plan.config({**source.set, **start}, seed)
            run = runs / f"{source.slug}-{seed}"
            jobs.append(_Job(seed, variant, config, run, plan.images, plan.render))
    return jobs


def _render(plan: Plan) -> None:
    """The data, unless they are there."""
    if plan.render is not None:
        synthesize(plan.config({}).data.root, **dataclasses.asdict(plan.render))


def _plans(folder: Path) -> dict[str, dict[str, Any]]:
    """What the plans' files in a folder hold, by the plan's name."""
    found = {path.stem: read_json(path) for path in sorted(folder.glob("*.json"))}
    return {name: each for name, each in found.items() if isinstance(each, dict) and "runs" in each}


def _results(output: Path, name: str) -> dict[str, dict[str, Any]]:
    """What a plan's file holds, by variant and seed.

    Raises:
        InputError: it holds something else.
    """
    path = output / f"{name}.json"
    found = read_json(path) if path.exists() else {"runs": {}}
    if not isinstance(found, dict) or not isinstance(found.get("runs"), dict):
        raise InputError(f"{path} holds no results of a plan: choose another output")
    return found["runs"]


def _kept(output: Path, name: str) -> dict[str, dict[str, Any]]:
    """The results in a plan's file, by what they are of (`_Job.of`).

    Not those of plans beside it: they may have been made by other code, and rows are compared.
    """
    seeds = _results(output, name).values()
    return {run["of"]: run for runs in seeds for run in runs.values() if "of" in run}


def _coarse(plan: Plan, runs: Path, results: Path) -> str | None:
    """What every variant starts from: the last leg of the coarse stage.

    Args:
        results: the plan's file.

    Raises:
        InputError: it is there, and the legs are not: others would give other weights.
    """
    initial = plan.config({}).train.initial
    for i, leg in enumerate(plan.coarse, start=1):
        config = plan.config({**leg, "train.stage": "coarse", "train.initial": initial})
        run = runs / f"coarse-{i}"
        if not _finished(config, run, plan.render):
            if results.exists() and any(_results(results.parent, results.stem).values()):
                raise InputError(
                    f"{results} holds results of other starting weights than {run} will have, "
                    "which is not trained to its end: give the runs they are of, or choose "
                    "another output"
                )
            _render(plan)
            _train_once(config, run, plan.render)
        initial = str(run)
    return initial


def _train_once(config: Config, run: Path, render: Render | None) -> Path:
    """Train, go on, or do nothing, as the folder needs.

    Raises:
        InputError: see `_finished`, `_check_start` and `train`.
    """
    if _finished(config, run, render):
        return run
    logger.info("training %s", run)
    start = run / "start.json"
    if not start.exists():
        claim_folder(run, "run")
        images = {"render": render and dataclasses.asdict(render)}
        write_json(start, {"initial": _digest(config), **images, "origin": origin()})
    _check_start(start, config, render)
    # The same weights may lie elsewhere by now.
    train(config, run, resume=(run / "config.json").exists(), same=["train.initial"])
    write_json(run / "finished.json", read_json(start))
    # Of dozens of runs only the weights are wanted, a quarter of what resuming takes.
    shutil.rmtree(run / "checkpoint")
    return run


def _finished(config: Config, run: Path, render: Render | None) -> bool:
    """Whether a run has been trained to its end.

    Raises:
        InputError: the run that is there is of another configuration, other weights or other data.
    """
    path, finished = run / "config.json", run / "finished.json"
    wanted = config_to_dict(config)
    if path.exists() and (differ := differences(read_json(path), wanted, FREE)):
        raise InputError(
            f"{run} was trained with another plan ({', '.join(differ)} differ): delete it, or "
            "choose another folder for the runs"
        )
    if not finished.exists():
        return False
    _check_start(finished, config, render)
    return True


def _check_start(record: Path, config: Config, render: Render | None) -> None:
    """Reject a run that began with other weights, or on other images.

    Raises:
        InputError: names the run and what is other.
    """
    began, images = read_json(record), render and dataclasses.asdict(render)
    if began.get("render", images) != images:
        raise InputError(
            f"{record.parent} was trained on data rendered as {began['render']}, the plan has "
            f"{images}: delete the runs, or choose another folder for them"
        )
    if began["initial"] != _digest(config):
        raise InputError(
            f"{record.parent} started from weights that {config.train.initial} no longer holds: "
            "delete the runs, or choose another folder for them"
        )


def _digest(config: Config) -> str | None:
    """Which weights a run starts from."""
    if config.train.initial is None:
        return None
    path = find_weights(config.train.initial)
    return _hashed(path, path.stat().st_mtime_ns)


@cache
def _hashed(path: Path, written: int) -> str:
    """Of a file as it was written then: all runs of a plan start from the same one."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


class _Sampling(nn.Module):
    """A network whose modules draw samples in evaluation mode, too."""

    def __init__(self, network: DualNoiseNetwork, samples: int, seed: int):
        super().__init__()
        self.network, self.samples = network, samples
        self.generator = torch.Generator(default_device()).manual_seed(seed)

    def forward(self, image: torch.Tensor, present: torch.Tensor) -> Output:
        return self.network(image, present, samples=self.samples, generator=self.generator)


def _measure(job: _Job) -> dict[str, Any]:
    """Errors of a run's network, evaluated as the variant says."""
    state, config = read_weights(job.run)
    config = override(config, {**job.variant.set, "model.pretrained": False})
    network = DualNoiseNetwork(config.model, HandModel(config.data.mano))
    load_weights(network, state, str(job.run))
    dataset = InterHand(config.data.root, "test", config.model, whole(config.data), augment=False)
    sampling = _Sampling(network, job.variant.samples, job.seed).to(default_device())
    return {
        "parameters": sum(p.numel() for p in network.parameters()),
        "origin": read_json(job.run / "finished.json").get("origin", origin()),
        **evaluate(sampling, batches(dataset, config, job.images)),
    }


@cache
def origin() -> dict[str, str | None]:
    """What makes a result: commit (with + where files differ from it), device, torch.

    As it is at the first call: later ones may find other files than those that have been imported.
    """
    commit = None
    if shutil.which("git") and (head := _git("rev-parse", "--short", "HEAD")):
        commit = head + ("+" if _git("status", "--porcelain", "--untracked-files=no") else "")
    device = default_device()
    named = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {"commit": commit, "device": f"{device.type} {named}", "torch": torch.__version__}


def _git(*arguments: str) -> str:
    """What git prints about this checkout; nothing where it is none."""
    done = subprocess.run(
        ["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() if done.returncode == 0 else ""


# ---------------------------------------------------------------------------- results


def summarise(plan: Plan, found: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Means and spreads over seeds, and what became of the claims.

    Args:
        found: by variant and seed, what was measured; any of them may be missing.

    Returns:
        `plan`; `runs`: by variant and seed, as given; `rows`, of what has been run: by row
        ("variant" for its last stage, "variant, stage" for each), metric and group: `mean`, `std`
        (over seeds, sample standard deviation; None for one seed), `seeds`: the values in the
        plan's order, None where there is none; `claims`: each with `change` (row / over - 1,
        likewise), `interval` (of its mean; None below two seeds), `lower` and `of` (seeds in which
        the error is lower, and all), and `verdict`, by `RULE`.
    """
    rows = {}
    for name, runs in found.items():
        if not runs:
            continue
        by_seed = [runs.get(str(seed)) for seed in plan.seeds]
        stages = list(next(iter(runs.values()))["stages"])
        for row, stage in [(name, stages[-1]), *((f"{name}, {s}", s) for s in stages)]:
            rows[row] = {
                metric: {
                    group: _statistics([_error(run, stage, metric, group) for run in by_seed])
                    for group in GROUPS
                }
                for metric in METRICS
            }
    claims = [{**dataclasses.asdict(claim), **_verdict(claim, rows)} for claim in plan.claims]
    return {"plan": dataclasses.asdict(plan), "rows": rows, "claims": claims, "runs": found}


def _error(run: dict[str, Any] | None, stage: str, metric: str, group: str) -> float | None:
    if run is None:
        return None
    errors = run["stages"][stage][metric]
    return (errors if metric == "mpvpe_2d" else errors[PROTOCOL])[group]


def _statistics(values: Sequence[float | None]) -> dict[str, Any]:
    known = [value for value in values if value is not None]
    return {
        "mean": float(np.mean(known)) if known else None,
        "std": float(np.std(known, ddof=1)) if len(known) > 1 else None,
        "seeds": values,
    }


def _verdict(claim: Claim, rows: dict[str, Any]) -> dict[str, Any]:
    """What `RULE` says of a claim."""
    changes = []
    if claim.row in rows and claim.over in rows:
        row, over = (rows[name][claim.metric]["All"]["seeds"] for name in (claim.row, claim.over))
        pairs = zip(row, over, strict=True)
        changes = [None if None in pair else pair[0] / pair[1] - 1 for pair in pairs]
    change = _statistics(changes)
    known = [value for value in changes if value is not None]
    interval, verdict = None, "one seed" if known else MISSING
    if len(known) > 1:
        half = stdtrit(len(known) - 1, (1 + LEVEL) / 2) * change["std"] / len(known) ** 0.5
        interval = [change["mean"] - half, change["mean"] + half]
        verdict = "undecided"
        if interval[1] < 0:
            verdict = "borne out"
        elif interval[0] > 0:
            verdict = "failed"
    lower = sum(value < 0 for value in known)
    return {
        "change": change, "interval": interval, "lower": lower, "of": len(known),
        "verdict": verdict,
    }  # fmt: skip


def load_ablations(folder: Path) -> dict[str, dict[str, Any]]:
    """The results of every plan in a folder, by the plan's name.

    Raises:
        InputError: there are none, or one cannot be read.
    """
    if not (found := _plans(folder)):
        raise InputError(f"{folder} has no results of a plan: run `dne ablate` first")
    return found


def table(results: dict[str, Any], name: str, markdown: bool = False) -> str:
    """A table of a plan as text: mean ± standard deviation over the seeds.

    Args:
        results: what `ablate` returned or `load_ablations` read.
        name: of the table in the plan.
    """
    entry = results["plan"]["tables"][name]
    header = ["", "seeds", *(f"{METRICS[m]} {g}" for m in entry["metrics"] for g in GROUPS)]
    rows = []
    for row in entry["rows"]:
        cells = [MISSING] + ["-"] * (len(header) - 2)
        if errors := results["rows"].get(row):
            count = sum(value is not None for value in errors["mpvpe"]["All"]["seeds"])
            cells = [f"{count}", *(_cell(errors[m][g]) for m in entry["metrics"] for g in GROUPS)]
        rows.append([row, *cells])
    return format_table(header, rows, markdown)


def _cell(numbers: dict[str, Any]) -> str:
    if numbers["mean"] is None:
        return "-"
    return f"{numbers['mean']:.2f}" + ("" if numbers["std"] is None else f" ± {numbers['std']:.2f}")


def claims_table(results: dict[str, Any], markdown: bool = False) -> str:
    """What is claimed, the change that the paper reports, the one measured here, and `RULE`'s word.

    `error` is that of the row the claim compares with, then its own, means over the seeds that both
    have.
    """
    header = ["claim", "metric", "error", "paper", "here", "90 % interval", "lower in", "verdict"]
    rows = []
    for claim in results["claims"]:
        change, interval, count = claim["change"], claim["interval"], claim["of"]
        both = [i for i, value in enumerate(change["seeds"]) if value is not None]
        errors = []
        for row in (claim["over"], claim["row"]) if both else ():
            seeds = results["rows"][row][claim["metric"]]["All"]["seeds"]
            errors.append(f"{np.mean([seeds[i] for i in both]):.2f}")
        spread = "" if change["std"] is None else f" ± {change['std']:.1%}"
        rows.append(
            [
                claim["claim"],
                METRICS[claim["metric"]],
                " → ".join(errors) or "-",
                "-" if claim["paper"] is None else f"{claim['paper']:+.1%}",
                f"{change['mean']:+.1%}{spread}" if count else "-",
                "-" if interval is None else "{:+.1%} to {:+.1%}".format(*interval),
                f"{claim['lower']} of {count} seeds" if count else "-",
                claim["verdict"],
            ]
        )
    return format_table(header, rows, markdown)


def figure(results: dict[str, Any], name: str) -> Figure:
    """A table of a plan as a picture: a dot a seed, a bar from mean - to mean + one deviation.

    All hands together; what is drawn higher stands higher in the table. However near the rows are
    to each other, an axis is `NARROWEST` wide.
    """
    entry = results["plan"]["tables"][name]
    rows = [row for row in entry["rows"] if row in results["rows"]]
    shape = (2.2 + 3 * len(entry["metrics"]), 1.2 + 0.35 * len(rows))
    picture = Figure(shape, facecolor="white", dpi=110, layout="constrained")
    axes = picture.subplots(1, len(entry["metrics"]), sharey=True, squeeze=False)[0]
    for axis, metric in zip(axes, entry["metrics"], strict=True):
        for place, row in enumerate(rows):
            numbers = results["rows"][row][metric]["All"]
            deviation = numbers["std"] or 0.0
            axis.errorbar(numbers["mean"], place, xerr=deviation, fmt="|", color="C0", capsize=3)
            axis.plot(numbers["seeds"], [place] * len(numbers["seeds"]), "o", color="C0", ms=4)
        low, high = axis.get_xlim()
        middle, width = (low + high) / 2, high - low
        width = max(width, NARROWEST * middle)
        axis.set_xlim(middle - width / 2, middle + width / 2)
        axis.set_xlabel(f"{METRICS[metric]}, {'pixels' if metric == 'mpvpe_2d' else 'mm'}")
        axis.grid(axis="x", alpha=0.3)
        axis.locator_params(axis="x", nbins=5)
    axes[0].set_yticks(range(len(rows)), rows)
    axes[0].set_ylim(len(rows) - 0.5, -0.5)
    picture.suptitle(entry["title"], fontsize=10)
    return picture


def results_page(results: dict[str, Any], name: str) -> str:
    """All tables and claims of a plan as Markdown.

    Args:
        name: of the plan; its pictures are NAME-TABLE.png.
    """
    plan = results["plan"]
    runs = [run for seeds in results["runs"].values() for run in seeds.values()]
    made = sorted({(run["origin"]["commit"] or "-", run["origin"]["device"]) for run in runs})
    shared = ", ".join(f"{key} {value}" for key, value in plan["set"].items())
    parts = [
        f"# {plan['title']}",
        f"Preset {plan['preset']}; {shared}. Seeds {', '.join(map(str, plan['seeds']))}. "
        f"Errors: mm under the protocol {PROTOCOL}, 2D: pixels at 256; mean ± standard deviation "
        "over the seeds.",
    ]
    if len(runs) < (planned := len(plan["variants"]) * len(plan["seeds"])):
        parts += [f"Unfinished: {len(runs)} of {planned} results are there."]
    if runs:
        images, hands = runs[0]["images"]["All"], runs[0]["hands"]["All"]
        left = {group: runs[0]["floor"][group] for group in GROUPS}
        floor = ", ".join(f"{g} {'-' if e is None else f'{e:.2f}'}" for g, e in left.items())
        by = "; ".join(f"{commit} on {device}" for commit, device in made)
        parts += [
            f"{images} test images, {hands} hands. Of the 2D errors the orthographic camera alone "
            f"leaves {floor} (the floor). Made by {by}."
        ]
    for key, entry in plan["tables"].items():
        parts += [f"## {entry['title']}", table(results, key, markdown=True)]
        if any(row in results["rows"] for row in entry["rows"]):
            parts += [f"![{entry['title']}]({name}-{key}.png)"]
    if results["claims"]:
        parts += ["## Claims", claims_table(results, markdown=True), RULE]
    return "\n\n".join(parts) + "\n"


def _write(plan: Plan, jobs: list[_Job], output: Path, name: str) -> dict[str, Any]:
    """Put what is there by now, whoever made it, into the files of a plan.

    Raises:
        InputError: there are results in them that would be lost.
    """
    found: dict[str, dict[str, Any]] = {variant.name: {} for variant in plan.variants}
    with locked(output / f".{name}.lock"):
        kept = _kept(output, name)
        for job in jobs:
            if (known := job.known(kept)) is not None:
                found[job.variant.name][str(job.seed)] = known
        lost = sum(
            seed not in (now := found.get(variant, {})) or now[seed].get("of") != run.get("of")
            for variant, seeds in _results(output, name).items()
            for seed, run in seeds.items()
        )
        if lost:
            raise InputError(
                f"{output / name}.json holds {lost} results of the plan as it no longer is, or of "
                "other starting weights: move the file away, or choose another output"
            )
        results = summarise(plan, found)
        write_json(output / f"{name}.json", results)
        write_bytes(output / f"{name}.md", results_page(results, name).encode())
        for key, entry in plan.tables.items():
            if any(row in results["rows"] for row in entry.rows):
                save_figure(figure(results, key), output / f"{name}-{key}.png")
    return results
