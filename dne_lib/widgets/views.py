"""Lesson 7: voxels and the three views."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from dne_lib.camera import project
from dne_lib.config import VERTICES
from dne_lib.lessons import Coarse
from dne_lib.mano import FINGERTIPS
from dne_lib.model.refine import interpolate
from dne_lib.widgets.panels import (
    COOL,
    GREEN,
    GREY,
    PIXELS,
    WARM,
    Choice,
    Controls,
    Panel,
    Picture,
    Points,
    Slider,
    Surface,
    check_present,
    offered,
)  # fmt: skip

FINEST = 32
TIPS = ("thumb tip", "index tip", "middle tip", "ring tip", "pinky tip")
PLANES = {"front": (0, 1), "lateral": (2, 1), "top": (0, 2)}  # the axes to the right and down
EMPTY = 0.92  # grey of a cell that no vertex fell into
VIEWS_CONTROLS: Controls = {
    "grid": Slider("voxels along an axis", 2, FINEST, 1, 16),
    "view": Choice("view", tuple(PLANES)),
    "tip": Choice("vertex", TIPS),
}
CORNERS = np.array([[i >> 2 & 1, i >> 1 & 1, i & 1] for i in range(8)])
CUBE = np.array(
    [[0, 1, 3], [0, 3, 2], [4, 6, 7], [4, 7, 5], [0, 4, 5], [0, 5, 1],
     [2, 3, 7], [2, 7, 6], [0, 2, 6], [0, 6, 4], [1, 5, 7], [1, 7, 3]]
)  # fmt: skip


class ViewsScene(NamedTuple):
    """A hand, and a feature of its vertices with three channels, so that it can be seen."""

    vertices: Float[Tensor, "778 3"]  # hand units
    colours: Float[Tensor, "778 3"]  # in [0, 1]


def views_scene(sample: dict[str, Tensor], coarse: Coarse, side: int) -> ViewsScene:
    """A scene in which every vertex has read the DensePose map at its own projection.

    Args:
        side: the hand, 0 right, 1 left.

    Raises:
        InputError: the sample has no such hand.
    """
    check_present(sample, side)
    vertices = coarse.vertices[side]
    points = project(vertices, coarse.camera[side])
    return ViewsScene(vertices, interpolate(sample["densepose"][None], points[None])[0])


def voxels(vertices: Float[Tensor, "vertex 3"], grid: int) -> Int[Tensor, "vertex 3"]:
    """The voxel each vertex falls into, in a cube around them all."""
    low, side = _cube(vertices)
    return ((vertices - low) / side * grid).long().clamp(0, grid - 1)


def view_image(
    colours: Float[Tensor, "vertex 3"], cells: Int[Tensor, "vertex 3"], view: str, grid: int
) -> Float[np.ndarray, "256 256 3"]:
    """One of the three planes as a picture: in each cell the maximum, channel by channel.

    Args:
        view: front, lateral or top.
    """
    column, row = cells[:, PLANES[view]].unbind(1)
    index = (row * grid + column)[:, None].expand(-1, 3)
    plane = torch.full((grid * grid, 3), -torch.inf).scatter_reduce(0, index, colours, "amax")
    plane = plane.where(plane.isfinite(), EMPTY).view(grid, grid, 3)
    nearest = torch.arange(PIXELS) * grid // PIXELS
    return plane[nearest][:, nearest].numpy()


@offered(VIEWS_CONTROLS)
def views_panels(
    scene: ViewsScene, grid: int = 16, view: str = "front", tip: str = "thumb tip"
) -> list[Panel]:
    """Occupied voxels, the chosen view of them, and who is left alone.

    Args:
        grid: voxels along an axis, up to `FINEST`.
        view: front, lateral or top.
        tip: one of `TIPS`, whose column is shown.
    """
    vertex = FINGERTIPS[TIPS.index(tip)]
    low, side = _cube(scene.vertices)
    cells = voxels(scene.vertices, grid)
    plane = list(PLANES[view])
    shared = (cells[:, plane] == cells[vertex, plane]).all(1)

    occupied, inside = cells.unique(dim=0, return_inverse=True)
    most = torch.zeros(len(occupied), 3).scatter_reduce(
        0, inside[:, None].expand(-1, 3), scene.colours, "amax", include_self=False
    )
    corners = (occupied[:, None] + torch.from_numpy(CORNERS)).flatten(0, 1) / grid * side + low
    faces = (8 * np.arange(len(occupied))[:, None, None] + CUBE).reshape(-1, 3)
    boxes = Surface(corners.numpy(), faces, most.numpy().repeat(8, 0), 0.5)
    through = ((cells[vertex] + 0.5) / grid * side + low).repeat(2, 1)
    depth = 3 - sum(plane)
    through[:, depth] = low[depth] + side * torch.tensor([-0.1, 1.1])

    flat = ((scene.vertices - low) / side)[:, plane] * PIXELS - 0.5
    counts = np.arange(2, FINEST + 1)
    alone = np.array([_alone(scene.vertices, int(count), plane) for count in counts])
    return [
        Panel(
            f"{len(occupied)} of {grid}³ voxels hold {VERTICES / len(occupied):.1f} vertices each",
            [
                boxes,
                Points(through.numpy(), "black", 0, "its column"),
                Points(scene.vertices[shared].numpy(), WARM, 4, "in the column"),
                Points(scene.vertices[[vertex]].numpy(), GREEN, 8, tip),
            ],
        ),
        Panel(
            f"{view} view: {int(shared.sum())} vertices in this cell",
            [
                Picture(view_image(scene.colours, cells, view, grid)),
                Points(flat.numpy(), GREY, 1.5),
                Points(flat[shared].numpy(), WARM, 4),
                Points(flat[[vertex]].numpy(), GREEN, 8),
            ],
        ),
        Panel(
            f"{grid} voxels along an axis",
            [
                Points(np.stack([counts, alone[:, 0]], 1), COOL, 0, "alone in their voxel"),
                Points(np.stack([counts, alone[:, 1]], 1), WARM, 0, f"alone in a {view} cell"),
                Points(np.array([[grid, alone[grid - 2, 1]]]), WARM, 8),
                Points(np.array([[grid, alone[grid - 2, 0]]]), COOL, 8),
            ],
            "voxels along an axis",
            "share of the vertices, %",
            (0.0, 100.0),
        ),
    ]


def _cube(vertices: Tensor) -> tuple[Tensor, Tensor]:
    """Lowest corner and side of the cube that `three_views` divides."""
    low = vertices.amin(0)
    return low, (vertices.amax(0) - low).amax().clamp(min=1e-6)


def _alone(vertices: Tensor, grid: int, plane: list[int]) -> list[float]:
    """Per cent of the vertices with a voxel, and with a cell of a plane, to themselves."""
    cells = voxels(vertices, grid)
    kinds = (cells.unique(dim=0, return_counts=True)[1] for cells in (cells, cells[:, plane]))
    return [float((counts == 1).sum()) * 100 / len(vertices) for counts in kinds]
