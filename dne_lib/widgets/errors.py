"""Lesson 10: where a mesh is off, by which protocol, and how many vertices are near enough."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from dne_lib.files import InputError
from dne_lib.losses import Batch
from dne_lib.metrics import MILLIMETRES, PROTOCOLS, aligned
from dne_lib.model import Stage
from dne_lib.plots import draw_crop
from dne_lib.widgets.panels import (
    COOL,
    GREEN,
    GREY,
    WARM,
    Choice,
    Controls,
    Panel,
    Picture,
    Points,
    Slider,
    Surface,
    offered,
)

HANDS_SHOWN = 8
THRESHOLDS = np.arange(0.0, 61.0)  # mm
ERRORS_CONTROLS: Controls = {
    "threshold": Slider("threshold, mm", 2, 60, 2, 20),
    "protocol": Choice("protocol", PROTOCOLS),
    "mesh": Choice("mesh", ("last module", "coarse")),
    "hand": Slider("hand", 0, HANDS_SHOWN - 1, 1, 0),
}
NEAR, FAR = np.array([[0.42, 0.62, 0.90], [0.85, 0.37, 0.01]], np.float32)


class Aligned(NamedTuple):
    """Predicted hands, coarse and last, and the true ones, as a protocol compares them."""

    found: Float[Tensor, "2 n 778 3"]  # hand units
    true: Float[Tensor, "n 778 3"]
    errors: Float[np.ndarray, "2 n 778"]  # mm


class ErrorScene(NamedTuple):
    """The hands of a batch, one by one."""

    images: Float[np.ndarray, "n 3 S S"]
    sides: list[int]
    faces: Int[np.ndarray, "2 1538 3"]
    vertices: Float[np.ndarray, "2 n 778 3"]  # as predicted
    points: Float[np.ndarray, "2 n 778 2"]
    cameras: Float[np.ndarray, "2 n 2 2"]
    protocols: dict[str, Aligned]


def error_scene(
    batch: Batch, stages: tuple[Stage, ...], faces: Int[np.ndarray, "2 1538 3"]
) -> ErrorScene:
    """The hands present, worst first.

    Args:
        batch: collated samples.
        stages: what a network made of them.
        faces: of the hand model.

    Raises:
        InputError: there are fewer hands than the widget shows.
    """
    where = batch["present"].nonzero(as_tuple=True)
    if len(where[0]) < HANDS_SHOWN:
        raise InputError(
            f"{len(where[0])} hands in the batch, the widget shows {HANDS_SHOWN}: give more images"
        )
    ends = (stages[0], stages[-1])
    distance = (ends[1].vertices - batch["vertices"]).norm(dim=-1).mean(-1)[where]
    order = distance.argsort(descending=True)
    where = (where[0][order], where[1][order])

    def gather(name: str) -> Tensor:
        return torch.stack([getattr(stage, name)[where] for stage in ends]).detach().float()

    vertices, joints = gather("vertices"), gather("joints")
    true, true_joints = (
        batch[name][where].expand(2, -1, -1, -1) for name in ("vertices", "joints")
    )
    protocols = {}
    for protocol in PROTOCOLS:
        weight = torch.ones_like(vertices[..., 0])
        a, b = aligned(vertices, joints, true, true_joints, weight, protocol)
        errors = ((a - b).norm(dim=-1) * MILLIMETRES).numpy()
        protocols[protocol] = Aligned(a, b[0], errors)
    return ErrorScene(
        batch["image"][where[0]].numpy(), where[1].tolist(), faces, vertices.numpy(),
        gather("projections").numpy(), gather("camera").numpy(), protocols,
    )  # fmt: skip


def share_within(
    errors: Float[np.ndarray, "*any"], thresholds: Float[np.ndarray, "t"]
) -> Float[np.ndarray, "t"]:
    """Per cent of the errors that are at most each threshold."""
    ordered = np.sort(errors, axis=None)
    return 100 * np.searchsorted(ordered, thresholds, side="right") / ordered.size


@offered(ERRORS_CONTROLS)
def errors_panels(
    scene: ErrorScene,
    threshold: int = 20,
    protocol: str = "wrist",
    mesh: str = "last module",
    hand: int = 0,
) -> list[Panel]:
    """A hand with what is farther off than a threshold in orange; the share that is not.

    Args:
        threshold: millimetres.
        protocol: one of `PROTOCOLS`.
        mesh: last module or coarse.
        hand: 0 is the worst of the batch.
    """
    stage, side = int(mesh == "last module"), scene.sides[hand]
    chosen = scene.protocols[protocol]
    errors = chosen.errors[stage, hand]
    near = errors <= threshold
    colours = np.where(near[:, None], NEAR, FAR)
    drawn = draw_crop(
        scene.images[hand], scene.points[stage, [hand]], scene.vertices[stage, [hand]],
        scene.cameras[stage, [hand]], scene.faces[[side]], np.array([True]), colours[None],
    )  # fmt: skip
    curves = [
        Points(np.stack([THRESHOLDS, share_within(values, THRESHOLDS)], 1), colour, 0, name)
        for name, colour, values in (
            ("this hand", WARM, errors),
            ("all hands", COOL, chosen.errors[stage]),
            ("all hands, coarse", GREY, chosen.errors[0]),
        )
    ]
    here = Points(np.array([[threshold, 100 * near.mean()]]), "black", 8)
    return [
        Panel(f"{'left' if side else 'right'} hand, {errors.mean():.0f} mm off", [Picture(drawn)]),
        Panel(
            f"aligned by {protocol}",
            [
                Surface(chosen.found[stage, hand].numpy(), scene.faces[side], colours, 0.8),
                Points(chosen.true[hand, ::3].numpy(), GREEN, 2),
            ],
        ),
        Panel(
            f"{100 * near.mean():.0f} % within {threshold} mm", [*curves, here],
            "threshold, mm", "vertices within, %", (0.0, 102.0),
        ),
    ]  # fmt: skip
