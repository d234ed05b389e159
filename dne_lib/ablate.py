"""Ablations: the variants of a plan (`plans.py`) trained apart from the same start, in tables."""

import dataclasses
import hashlib
import logging
import platform
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn
from torch.utils.data import DataLoader, Subset

from dne_lib.config import Config, config_to_dict
from dne_lib.data.interhand import InterHand
from dne_lib.data.synthesize import synthesize
from dne_lib.evaluate import default_device, evaluate, format_table, spread
from dne_lib.files import InputError, read_json, write_bytes, write_json
from dne_lib.mano import HandModel
from dne_lib.metrics import GROUPS
from dne_lib.model import DualNoiseNetwork, Output
from dne_lib.plans import Claim, Plan, Variant, override, read_plan
from dne_lib.plots import save_figure
from dne_lib.train import find_weights, load_weights, read_weights, train

logger = logging.getLogger(__name__)

METRICS = {"mpjpe": "MPJPE", "mpvpe": "MPVPE", "mpvpe_2d": "2D"}
PROTOCOL = "wrist"  # of the tables; the JSON has all
FREE = ("train.workers", "train.save_every")  # may change between the calls that make a run


def ablate(path: Path, runs: Path, output: Path) -> dict[str, Any]:
    """Run what a plan asks for and is not there yet; write results after every variant.

    Seeds are the outer loop: one of each variant is there long before three are. Runs finished
    before are skipped, an interrupted one goes on.

    Args:
        path: the plan.
        runs: folder of the runs, a folder each, called after variant and seed. Plans that share a
            variant may share the folder.
        output: folder for PLAN.json (see `summarise`), PLAN.md and a PNG for each table.

    Returns:
        What PLAN.json holds.

    Raises:
        InputError: see `read_plan` and `train`; a run in the folder is of another configuration.
    """
    plan = read_plan(path)
    if plan.render is not None:
        synthesize(plan.config({}).data.root, **dataclasses.asdict(plan.render))
    initial = _coarse(plan, runs)
    trained = {variant.name: variant for variant in plan.variants if variant.of is None}
    found: dict[str, dict[str, Any]] = {}
    results: dict[str, Any] = {}
    for seed in plan.seeds:
        for variant in plan.variants:
            source = trained[variant.of or variant.name]
            run = runs / f"{source.slug}-{seed}"
            start = {} if initial is None else {"train.initial": initial}
            _train_once(plan.config({**source.set, **start}, seed), run)
            measured = run / f"measured-{variant.slug}.json"
            how = {"set": variant.set, "samples": variant.samples, "images": plan.images}
            known = read_json(measured) if measured.exists() else {}
            if known.get("how") != how:
                known = {"how": how, **_measure(run, variant, plan.images, seed)}
                write_json(measured, known)
            found.setdefault(variant.name, {})[str(seed)] = known
            results = summarise(plan, found)
            _write(results, output, path.stem)
    return results


def _coarse(plan: Plan, runs: Path) -> str | None:
    """What every variant starts from: the last leg of the coarse stage, or train.initial."""
    initial = plan.config({}).train.initial
    for i, leg in enumerate(plan.coarse, start=1):
        fixed = {"train.stage": "coarse", "train.initial": initial, "model.modules": 0}
        values = {**leg, **fixed}
        initial = str(_train_once(plan.config(values), runs / f"coarse-{i}"))
    return initial


def _train_once(config: Config, run: Path) -> Path:
    """Train, go on, or do nothing, as the folder needs.

    Raises:
        InputError: the run that is there is of another configuration, or of other weights.
    """
    initial, finished = config.train.initial, run / "finished.json"
    digest = None
    if initial is not None:
        digest = hashlib.sha256(find_weights(initial).read_bytes()).hexdigest()
    if (run / "config.json").exists():
        _check_same(run, config)
    if finished.exists():
        if read_json(finished)["initial"] != digest:
            raise InputError(
                f"{run} started from weights that {initial} no longer holds: delete the runs, or "
                "choose another folder for them"
            )
        return run
    logger.info("training %s", run)
    begun = (run / "checkpoint").exists() or (run / "checkpoint.old").exists()
    if (run / ".dne-run").exists() and not begun:
        shutil.rmtree(run)  # stopped before its first checkpoint
    train(config, run, resume=begun)
    write_json(finished, {"initial": digest})
    # Of dozens of runs only the weights are wanted, a quarter of what resuming takes.
    shutil.rmtree(run / "checkpoint")
    return run


def _check_same(run: Path, config: Config) -> None:
    """A run that is there must be the one that is asked for."""
    old, new = read_json(run / "config.json"), config_to_dict(config)
    differ = [
        f"{part}.{name}"
        for part in new
        for name in new[part]
        if old.get(part, {}).get(name) != new[part][name] and f"{part}.{name}" not in FREE
    ]
    if differ:
        raise InputError(
            f"{run} was trained with another plan ({', '.join(differ)} differ): delete it, or "
            "choose another folder for the runs"
        )


class _Sampling(nn.Module):
    """A network whose modules draw samples in evaluation mode, too."""

    def __init__(self, network: DualNoiseNetwork, samples: int, seed: int):
        super().__init__()
        self.network, self.samples = network, samples
        self.generator = torch.Generator(default_device()).manual_seed(seed)

    def forward(self, image: torch.Tensor, present: torch.Tensor) -> Output:
        return self.network(image, present, samples=self.samples, generator=self.generator)


def _measure(run: Path, variant: Variant, images: int | None, seed: int) -> dict[str, Any]:
    """Errors of a run's network, evaluated as the variant says."""
    state, config = read_weights(run)
    config = override(config, {**variant.set, "model.pretrained": False})
    network = DualNoiseNetwork(config.model, HandModel(config.data.mano))
    load_weights(network, state, str(run))
    dataset = InterHand(config.data.root, "test", config.model, config.data, augment=False)
    loader = DataLoader(Subset(dataset, spread(len(dataset), images)), batch_size=32)
    sampling = _Sampling(network, variant.samples, seed).to(default_device())
    return {
        "parameters": sum(p.numel() for p in network.parameters()),
        "origin": origin(),
        **evaluate(sampling, loader),
    }


def origin() -> dict[str, str | None]:
    """What made a result: commit (with + where files differ from it), device, torch."""
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
        found: by variant and seed, what was measured.

    Returns:
        `plan`; `runs`: by variant and seed, as given; `rows`: by row ("variant" for its last
        stage, "variant, stage" for each), metric and group: `mean`, `std` (over seeds, sample
        standard deviation; None for one seed), `seeds`: the values; `claims`: each with `change`
        (row / over - 1, likewise), `lower` and `of` (seeds in which the error is lower, and all),
        and `verdict`: borne out if the error is lower with every seed and the mean change is two
        standard errors below zero; failed if it is lower with none; unclear otherwise.
    """
    rows = {}
    for name, runs in found.items():
        stages = list(next(iter(runs.values()))["stages"])
        for row, stage in [(name, stages[-1]), *((f"{name}, {s}", s) for s in stages)]:
            rows[row] = {
                metric: {
                    group: _statistics([_error(run, stage, metric, group) for run in runs.values()])
                    for group in GROUPS
                }
                for metric in METRICS
            }
    claims = [
        {**dataclasses.asdict(claim), **_verdict(claim, rows)}
        for claim in plan.claims
        if claim.row in rows and claim.over in rows
    ]
    return {"plan": dataclasses.asdict(plan), "rows": rows, "claims": claims, "runs": found}


def _error(run: dict[str, Any], stage: str, metric: str, group: str) -> float | None:
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
    """Seeds are compared in pairs: they share data, order and starting weights."""
    row, over = (rows[name][claim.metric]["All"]["seeds"] for name in (claim.row, claim.over))
    changes = [ours / other - 1 for ours, other in zip(row, over, strict=False)]
    lower, count, change = sum(c < 0 for c in changes), len(changes), _statistics(changes)
    verdict = "unclear"
    if count < 2:
        verdict = "one seed"
    elif lower == 0:
        verdict = "failed"
    elif lower == count and change["mean"] < -2 * change["std"] / count**0.5:
        verdict = "borne out"
    return {"change": change, "lower": lower, "of": count, "verdict": verdict}


def load_ablations(folder: Path) -> dict[str, dict[str, Any]]:
    """The results of every plan in a folder, by the plan's name.

    Raises:
        InputError: there are none, or one cannot be read.
    """
    found = {path.stem: read_json(path) for path in sorted(folder.glob("*.json"))}
    if not found:
        raise InputError(f"{folder} has no results of a plan: run `dne ablate` first")
    return found


def table(results: dict[str, Any], name: str, markdown: bool = False) -> str:
    """A table of a plan as text: mean ± standard deviation over the seeds.

    Args:
        results: what `ablate` returned or `load_ablations` read.
        name: of the table in the plan.
    """
    entry = results["plan"]["tables"][name]
    header = ["", *(f"{METRICS[m]} {g}" for m in entry["metrics"] for g in GROUPS)]
    rows = [
        [row, *(_cell(results["rows"][row][m][g]) for m in entry["metrics"] for g in GROUPS)]
        for row in entry["rows"]
        if row in results["rows"]
    ]
    return format_table(header, rows, markdown)


def _cell(numbers: dict[str, Any]) -> str:
    if numbers["mean"] is None:
        return "-"
    return f"{numbers['mean']:.2f}" + ("" if numbers["std"] is None else f" ± {numbers['std']:.2f}")


def claims_table(results: dict[str, Any], markdown: bool = False) -> str:
    """What the paper claims, what it reports, and what was measured here."""
    header = ["claim", "metric", "paper", "here", "lower in", "verdict"]
    rows = [
        [
            claim["claim"],
            METRICS[claim["metric"]],
            "-" if claim["paper"] is None else f"{claim['paper']:+.1%}",
            _change(claim["change"]),
            f"{claim['lower']} of {claim['of']} seeds",
            claim["verdict"],
        ]
        for claim in results["claims"]
    ]
    return format_table(header, rows, markdown)


def _change(numbers: dict[str, Any]) -> str:
    spread = "" if numbers["std"] is None else f" ± {numbers['std']:.1%}"
    return f"{numbers['mean']:+.1%}{spread}"


def figure(results: dict[str, Any], name: str) -> Figure:
    """A table of a plan as a picture: a dot a seed, a bar from mean - to mean + one deviation.

    All hands together; what is drawn higher stands higher in the table.
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
        axis.set_xlabel(f"{METRICS[metric]}, {'pixels' if metric == 'mpvpe_2d' else 'mm'}")
        axis.grid(axis="x", alpha=0.3)
        axis.locator_params(axis="x", nbins=5)
    axes[0].set_yticks(range(len(rows)), rows)
    axes[0].invert_yaxis()
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
        f"{runs[0]['images']['All']} test images, {runs[0]['hands']['All']} hands. "
        f"Errors: mm under the protocol {PROTOCOL}, 2D: pixels at 256; mean ± standard deviation "
        "over the seeds.",
        "Made by " + "; ".join(f"{commit} on {device}" for commit, device in made) + ".",
    ]
    for key, entry in plan["tables"].items():
        parts += [f"## {entry['title']}", table(results, key, markdown=True)]
        parts += [f"![{entry['title']}]({name}-{key}.png)"]
    if results["claims"]:
        parts += ["## What the paper claims", claims_table(results, markdown=True)]
    return "\n\n".join(parts) + "\n"


def _write(results: dict[str, Any], output: Path, name: str) -> None:
    write_json(output / f"{name}.json", results)
    write_bytes(output / f"{name}.md", results_page(results, name).encode())
    for key, entry in results["plan"]["tables"].items():
        if any(row in results["rows"] for row in entry["rows"]):
            save_figure(figure(results, key), output / f"{name}-{key}.png")
