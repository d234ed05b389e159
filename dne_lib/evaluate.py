"""How far the meshes of every stage are from the truth: tables, `metrics.json`, pictures."""

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import parse_flag_from_env
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset, default_collate
from tqdm.auto import tqdm

from dne_lib.camera import project
from dne_lib.config import PARTS, Config, config_to_dict
from dne_lib.data.interhand import InterHand
from dne_lib.data.subsets import is_varied
from dne_lib.files import claim_folder, write_json
from dne_lib.losses import Batch, parts_known
from dne_lib.metrics import (
    GROUPS,
    MILLIMETRES,
    PROTOCOLS,
    Breakdown,
    Protocol,
    Scores,
    mpjpe,
    mpvpe,
    mpvpe_2d,
    part_confusion,
    part_scores,
    roots_valid,
)
from dne_lib.model import DualNoiseNetwork
from dne_lib.plots import (
    MAP_TITLES,
    MAPS,
    contact_sheet,
    draw_crop,
    enlarged,
    error_colours,
    map_pictures,
    save_figure,
)

logger = logging.getLogger(__name__)


def default_device() -> torch.device:
    """The accelerator of this machine, or its CPU (which `ACCELERATE_USE_CPU` asks for)."""
    if parse_flag_from_env("ACCELERATE_USE_CPU"):
        return torch.device("cpu")
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


def stage_names(count: int) -> list[str]:
    """The baseline's mesh, then that of each module."""
    return ["coarse", *(f"module {m}" for m in range(1, count))]


def evaluate(
    network: nn.Module,
    batches: Iterable[Batch],
    groups: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, Any]:
    """Errors of every stage over a set of images, without noise and without autocast.

    Args:
        network: a `DualNoiseNetwork`, on any device.
        batches: collated samples of `InterHand`, without augmentation.
        groups: ways to break the errors down: for each, what every image of the data set is of.

    Returns:
        `stages`: by stage, `mpjpe`, `mpjpe_triangulated` and `mpvpe` (mm) by protocol and
        `mpvpe_2d` (pixels at 256), each SH, IH, All (None where there are no such hands). The
        truth of `mpjpe` is the labels' mesh, that of `mpjpe_triangulated` the joints of joint_3d
        (left out where the batches have no `triangulated`); `floor`: the 2D error that the true
        vertices keep under the best orthographic camera; `parts`: of the part map; `images` and
        `hands` counted; `weights` of SH and IH in All; `mpjpe_hands`: by protocol, how many hands
        MPJPE counts, which needs the joints it is measured from; `breakdown`: by way, then by what
        the images are of, `hands` and `mean` of each error of each stage (protocol wrist) and of
        the floor.
    """
    training = network.training
    network.eval()
    device = next(network.parameters()).device
    scores, names = Scores(), []
    breakdowns = {way: Breakdown(of) for way, of in (groups or {}).items()}
    confusion = torch.zeros(PARTS, PARTS, dtype=torch.int64)
    images = dict.fromkeys(GROUPS, 0)
    try:
        for batch in tqdm(batches, desc="evaluate", unit="batch"):
            present, interacting = batch["present"], batch["interacting"]
            with torch.inference_mode():
                output = network(batch["image"].to(device), present=present.to(device))
            names = stage_names(len(output.stages))
            for name, stage in zip(names, output.stages, strict=True):
                _score_stage(scores, breakdowns, name, stage, batch)
            floor = project(batch["vertices"], batch["camera"])
            errors = mpvpe_2d(floor, batch["vertices_2d"])
            scores.update("floor", errors, present, interacting)
            for breakdown in breakdowns.values():
                breakdown.update("floor", errors, present, batch["index"])
            found = output.auxiliary.parts.argmax(1).cpu()
            confusion += part_confusion(found, batch["parts"], parts_known(batch))
            images["IH"] += int(interacting.sum())
            images["All"] += len(interacting)
            images["SH"] = images["All"] - images["IH"]
    finally:
        network.train(training)
    in_space = [m for m in IN_SPACE if f"{names[0]} {m} {PROTOCOLS[0]}" in scores.sums]
    return {
        "stages": {
            name: {
                metric: {p: scores.means(f"{name} {metric} {p}") for p in PROTOCOLS}
                for metric in in_space
            }
            | {"mpvpe_2d": scores.means(f"{name} mpvpe_2d")}
            for name in names
        },
        "floor": scores.means("floor"),
        "parts": part_scores(confusion),
        "images": images,
        "hands": scores.hands["floor"],
        "weights": scores.weights("floor"),
        "mpjpe_hands": {p: scores.hands[f"{names[0]} mpjpe {p}"] for p in PROTOCOLS},
        "breakdown": {way: breakdown.means() for way, breakdown in breakdowns.items()},
    }


def _score_stage(
    scores: Scores, breakdowns: dict[str, Breakdown], name: str, stage: Any, batch: Batch
) -> None:
    """Add one stage's errors on one batch."""

    def add(error: str, values: Tensor, counted: Tensor) -> None:
        scores.update(f"{name} {error}", values, counted, interacting)
        if error in BROKEN_DOWN:
            for breakdown in breakdowns.values():
                breakdown.update(f"{name} {error}", values, counted, batch["index"])

    present, interacting = batch["present"], batch["interacting"]
    vertices, joints = stage.vertices.cpu().float(), stage.joints.cpu().float()
    for protocol in PROTOCOLS:
        errors = mpvpe(vertices, joints, batch["vertices"], batch["joints"], protocol)
        add(f"mpvpe {protocol}", errors, present)
        valid = batch["joint_valid"]
        counted = present & roots_valid(valid, protocol)
        add(f"mpjpe {protocol}", mpjpe(joints, batch["joints"], valid, protocol), counted)
        if "triangulated" in batch:
            errors = mpjpe(joints, batch["triangulated"], valid, protocol)
            add(f"mpjpe_triangulated {protocol}", errors, counted)
    errors = mpvpe_2d(stage.projections.cpu().float(), batch["vertices_2d"])
    add("mpvpe_2d", errors, present)


IN_SPACE = {"mpjpe": "MPJPE", "mpjpe_triangulated": "MPJPE, triangulated", "mpvpe": "MPVPE"}
BROKEN_DOWN = ("mpjpe wrist", "mpvpe wrist", "mpvpe_2d")  # by sequence and by camera
HEADER = (
    "",
    *(f"MPJPE {g}" for g in GROUPS),
    *(f"MPVPE {g}" for g in GROUPS),
    *(f"2D {g}" for g in GROUPS),
)


def table_rows(
    results: dict[str, Any], protocol: Protocol = "wrist", prefix: str = "", last: bool = False
) -> list[list[str]]:
    """One row of text per stage: MPJPE and MPVPE in mm, 2D MPVPE in pixels at 256.

    Args:
        results: what `evaluate` returned.
        prefix: put before each stage's name, to tell networks apart in one table.
        last: only the last stage.
    """
    stages = list(results["stages"].items())[-1 if last else 0 :]
    rows = []
    for name, errors in stages:
        values = [errors["mpjpe"][protocol], errors["mpvpe"][protocol], errors["mpvpe_2d"]]
        numbers = [number(group[g]) for group in values for g in GROUPS]
        rows.append([prefix + name, *numbers])
    return rows


def floor_row(results: dict[str, Any]) -> list[str]:
    """The 2D error that no orthographic camera goes below, as a row for the same table."""
    empty = [""] * (2 * len(GROUPS))
    return ["orthographic floor", *empty, *(number(results["floor"][g]) for g in GROUPS)]


def number(value: float | None) -> str:
    """Two decimals; a dash for a group without hands."""
    return "-" if value is None else f"{value:.2f}"


def format_table(
    header: Sequence[str], rows: Iterable[Sequence[str]], markdown: bool = False
) -> str:
    """Aligned columns, the first to the left and the others to the right; or Markdown."""
    lines = [list(header), *map(list, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    cells = [
        [
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        for line in lines
    ]
    if not markdown:
        rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
        text = ["  ".join(line).rstrip() for line in cells]
        return "\n".join([text[0], rule, *text[1:]])
    bars = [":" + "-" * max(widths[0] - 1, 1), *("-" * max(w - 1, 1) + ":" for w in widths[1:])]
    return "\n".join(f"| {' | '.join(line)} |" for line in [cells[0], bars, *cells[1:]])


def summary(results: dict[str, Any], protocol: Protocol = "wrist", markdown: bool = False) -> str:
    """The table of one network, and what was counted."""
    rows = [*table_rows(results, protocol), floor_row(results)]
    return f"{format_table(HEADER, rows, markdown)}\n\n{counted(results, protocol)}"


def counted(results: dict[str, Any], protocol: Protocol = "wrist") -> str:
    """What the figures of a table are of."""
    hands, weights, parts = results["hands"], results["weights"], results["parts"]
    joints, more = results["mpjpe_hands"][protocol], ""
    if joints != hands:
        more = f" MPJPE: {joints['SH']} hands SH, {joints['IH']} IH, those with a known root."
    return (
        f"MPJPE, MPVPE: mm, protocol {protocol}. 2D: MPVPE in pixels at 256. "
        f"{results['images']['All']} images, {hands['All']} hands; "
        f"All = {weights['SH']:.2f} SH + {weights['IH']:.2f} IH.{more}\n"
        f"Part map: {parts['hand_accuracy']:.1%} of hand pixels right, mean IoU {parts['iou']:.2f}."
    )


def protocol_summary(results: dict[str, Any], markdown: bool = False) -> str:
    """Every stage's errors over all hands under the four protocols.

    "MPJPE, triangulated" is measured from the joints that cameras saw, as InterNet's is; MPJPE
    from those of the mesh that was fitted to them, as MPVPE is.
    """
    rows = [
        [f"{title}, {name}", *(number(errors[metric][p]["All"]) for p in PROTOCOLS)]
        for metric, title in IN_SPACE.items()
        for name, errors in results["stages"].items()
        if metric in errors
    ]
    return format_table(["All hands, mm", *PROTOCOLS], rows, markdown)


def evenly_spaced(count: int, limit: int | None) -> list[int]:
    """At most `limit` indices, evenly spaced: neighbours in the data look alike."""
    if limit is None or limit >= count:
        return list(range(count))
    return np.linspace(0, count - 1, max(limit, 1)).round().astype(int).tolist()


def batches(dataset: InterHand, config: Config, limit: int | None = None) -> DataLoader:
    """Batches of a data set in order.

    Args:
        limit: number of images, evenly spaced; None: all.
    """
    chosen = Subset(dataset, evenly_spaced(len(dataset), limit))
    workers = min(config.train.workers, os.cpu_count() or 1) if len(chosen) > 64 else 0
    return DataLoader(chosen, batch_size=32, num_workers=workers)


def report(
    network: DualNoiseNetwork,
    config: Config,
    output: str | Path,
    split: str = "test",
    limit: int | None = None,
    pictures: int = 8,
    name: str = "",
) -> dict[str, Any]:
    """Evaluate a network on its data and write `metrics.json`, `grid.png` and `maps.png`.

    Args:
        network: on the device to run on.
        config: of the network; `data.root` is the tree to read.
        limit: number of images, evenly spaced over the split; None: all.
        pictures: images in the grid of pictures.
        name: of the network, for the record.

    Raises:
        InputError: the data cannot be read, or the output not written, or it is of other images.
    """
    output = Path(output)
    dataset = InterHand(config.data.root, split, config.model, config.data, augment=False)
    dataset.require_fit()
    images = dataset.record()
    hand = Path(config.data.mano).resolve().name if config.data.mano else "the built-in hand"
    varied = ", varied" if is_varied(Path(config.data.root)) else ""
    of = f"{split}, labels {images['labels'][:12]}{varied}, {hand}"
    claim_folder(output, "evaluation", of)
    results = evaluate(network, batches(dataset, config, limit), dataset.groups())
    origin = {"network": name, "data": str(config.data.root), "split": split, "limit": limit}
    record = {**origin, "images_of": images, **results}
    write_json(output / "metrics.json", {**record, "config": config_to_dict(config)})
    indices = evenly_spaced(len(dataset), limit)
    shown = [indices[i] for i in evenly_spaced(len(indices), pictures)]
    batch = default_collate([dataset[i] for i in shown])
    grid, maps = pictures_of(network, batch)
    save_figure(grid, output / "grid.png")
    save_figure(maps, output / "maps.png")
    logger.info("wrote metrics.json, grid.png and maps.png to %s", output)
    return results


def pictures_of(network: DualNoiseNetwork, batch: Batch) -> tuple[Figure, Figure]:
    """Two sheets for a batch of samples.

    Returns:
        Image, truth, coarse and refined meshes, and the distances of both from the truth; and
        the five predicted maps under the true ones.
    """
    training = network.training
    network.eval()
    device = next(network.parameters()).device
    with torch.inference_mode():
        output = network(batch["image"].to(device), present=batch["present"].to(device))
    network.train(training)
    truth = {key: value.numpy() for key, value in batch.items()}
    stages = [
        [x.float().numpy(force=True) for x in (s.projections, s.vertices, s.camera)]
        for s in (output.stages[0], output.stages[-1])
    ]
    maps = {name: getattr(output.auxiliary, name) for name in MAPS}
    maps["parts"] = maps["parts"].argmax(1)
    maps = {name: values.numpy(force=True) for name, values in maps.items()}

    meshes, labels, sheets = [], [], []
    for i, present in enumerate(truth["present"]):
        draw = partial(draw_crop, truth["image"][i], faces=network.hands.faces, present=present)
        true = truth["vertices"][i]
        found = [[x[i] for x in stage] for stage in stages]
        meshes.append(
            [
                enlarged(truth["image"][i]),
                draw(truth["vertices_2d"][i], true, truth["camera"][i]),
                *(draw(*mesh) for mesh in found),
                *(draw(*mesh, colours=error_colours(mesh[1], true)) for mesh in found),
            ]
        )
        errors = [np.linalg.norm(mesh[1] - true, axis=-1)[present].mean() for mesh in found]
        coarse, refined = (error * MILLIMETRES for error in errors)
        labels.append(f"#{truth['index'][i]}: {coarse:.1f} → {refined:.1f} mm")
        for source in (truth, maps):
            pictures = map_pictures(**{name: source[name][i] for name in MAPS})
            sheets.append([enlarged(truth["image"][i]), *pictures])
    titles = ["image", "truth", "coarse", "refined", "coarse, error", "refined, error"]
    grid = contact_sheet(meshes, titles, labels, error_bar=True)
    return grid, contact_sheet(sheets, ["image", *MAP_TITLES], ["truth", "predicted"] * len(labels))
