"""Lesson 0: a prediction to turn in the hand."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from dne_lib.evaluate import stage_names
from dne_lib.metrics import MILLIMETRES, mpvpe, mpvpe_2d
from dne_lib.model import Stage
from dne_lib.plots import ERROR_SCALE, SKIN, draw_crop, error_colours, placed
from dne_lib.widgets.panels import (
    COOL,
    GREEN,
    WARM,
    Choice,
    Controls,
    Panel,
    Picture,
    Points,
    Slider,
    Surface,
)  # fmt: skip

TRUTH = "truth"


def welcome_controls(images: int, modules: int) -> Controls:
    """Controls for so many images and a network of so many modules."""
    return {
        "image": Slider("image", 1, images, 1, 1),
        "mesh": Choice("mesh", (*stage_names(1 + modules), TRUTH)),
        "colours": Choice("colours", ("hands", "error")),
    }


class WelcomeScene(NamedTuple):
    """Images with the meshes of every stage, the truth last; wrist-relative, hand units, NDC."""

    sample: dict[str, np.ndarray]  # the batch: image, present, vertices ...
    vertices: Float[np.ndarray, "mesh image 2 778 3"]
    projections: Float[np.ndarray, "mesh image 2 778 2"]
    cameras: Float[np.ndarray, "mesh image 2 2 2"]
    # Mean over the vertices of the hands present: mm (wrist on wrist), and pixels of 256.
    errors: Float[np.ndarray, "stage image 2"]
    faces: Int[np.ndarray, "2 1538 3"]


def welcome_scene(
    batch: dict[str, Tensor], stages: Sequence[Stage], faces: Int[np.ndarray, "2 1538 3"]
) -> WelcomeScene:
    """What a network made of a batch.

    Args:
        batch: collated samples.
        stages: of the network's output for them.
        faces: of the hand model.
    """
    names = {"vertices": "vertices", "projections": "vertices_2d", "camera": "camera"}
    vertices, projections, cameras = (
        np.stack([*(getattr(stage, own).numpy(force=True) for stage in stages), batch[name]])
        for own, name in names.items()
    )
    errors = []
    for stage in stages:
        solid = mpvpe(stage.vertices, stage.joints, batch["vertices"], batch["joints"])
        flat = mpvpe_2d(stage.projections, batch["vertices_2d"])
        there = batch["present"][..., None]
        both = torch.stack([solid, flat], dim=-1).where(there, 0)
        errors.append((both.sum(1) / there.sum(1)).numpy(force=True))
    sample = {name: values.numpy() for name, values in batch.items()}
    return WelcomeScene(sample, vertices, projections, cameras, np.stack(errors), faces)


def welcome_panels(
    scene: WelcomeScene, image: int = 1, mesh: str = "coarse", colours: str = "hands"
) -> list[Panel]:
    """A mesh over its image, the same in space, and the error of every stage.

    Args:
        image: counted from 1.
        mesh: a stage, or truth.
        colours: hands (right warm, left blue), or error (blue 0 to red 30 mm).
    """
    n = image - 1
    names = stage_names(len(scene.vertices) - 1)
    at = (*names, TRUTH).index(mesh)
    present, truth = scene.sample["present"][n], scene.vertices[-1, n]
    vertices, camera = scene.vertices[at, n], scene.cameras[at, n]
    paint, scale = np.repeat(SKIN[:, None], vertices.shape[1], 1), ""
    if colours == "error":
        paint, scale = error_colours(vertices, truth), f"; {ERROR_SCALE}"
    drawn = draw_crop(
        scene.sample["image"][n], scene.projections[at, n], vertices, camera, scene.faces, present,
        paint,
    )  # fmt: skip
    hands = np.flatnonzero(present)
    count = vertices.shape[1]
    faces = np.concatenate([scene.faces[hand] + i * count for i, hand in enumerate(hands)])
    solid = placed(vertices, camera)[hands].reshape(-1, 3) * MILLIMETRES
    steps = np.arange(len(names))
    lines = [np.stack([steps, scene.errors[:, n, unit]], 1) for unit in range(2)]
    title = "the truth: no error"
    here = np.zeros((2, 2))
    if mesh != TRUTH:
        here = np.stack([line[at] for line in lines])
        title = f"{here[0, 1]:.1f} mm, {here[1, 1]:.1f} pixels off"
    return [
        Panel(f"image {image}, {mesh}", [Picture(drawn)]),
        Panel(f"turn it{scale}", [Surface(solid, faces, paint[hands].reshape(-1, 3))]),
        Panel(
            title,
            [
                Points(lines[0], WARM, 0, "in space, mm"),
                Points(lines[1], COOL, 0, "in the image, pixels of 256"),
                Points(here, GREEN, 9),
            ],
            "after module",
            "mean vertex error",
            (0.0, 1.2 * float(scene.errors.max())),
            ticks=["coarse", *map(str, range(1, len(names)))],
        ),
    ]
