"""Lesson 8: the camera."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from dne_lib.camera import project, ridge_camera
from dne_lib.plots import enlarged
from dne_lib.widgets.panels import (
    COOL,
    GREEN,
    GREY,
    PIXELS,
    WARM,
    Controls,
    Panel,
    Picture,
    Points,
    Slider,
    check_present,
    pixels,
)  # fmt: skip

CAMERA_CONTROLS: Controls = {
    "noise": Slider("noise, pixels", 0.0, 20.0, 0.5, 3.0),
    "outliers": Slider("outliers, %", 0, 50, 1, 0),
    "ridge": Slider("log₁₀ ξ", -6.0, 4.0, 0.25, -2.0),
    "seed": Slider("seed", 0, 20, 1, 0),
}


class CameraScene(NamedTuple):
    """A hand whose mesh is known, and where its vertices truly are in the image."""

    image: Float[np.ndarray, "256 256 3"]
    vertices: Float[Tensor, "778 3"]  # hand units
    points: Float[Tensor, "778 2"]  # NDC


def disturbed(
    points: Float[Tensor, "vertex 2"], noise: float, outliers: int, seed: int
) -> Float[Tensor, "vertex 2"]:
    """Image points with an error of `noise` pixels (of 256) and some per cent anywhere at all."""
    generator = torch.Generator().manual_seed(seed)
    error = torch.randn(points.shape, generator=generator) * noise * 2 / PIXELS
    anywhere = 2 * torch.rand(points.shape, generator=generator) - 1
    order = torch.randperm(len(points), generator=generator)
    strayed = order < round(len(points) * outliers / 100)
    return torch.where(strayed[:, None], anywhere, points + error)


def camera_panels(
    scene: CameraScene,
    noise: float = 3.0,
    outliers: int = 0,
    ridge: float = -2.0,
    seed: int = 0,
) -> list[Panel]:
    """Disturbed points, the camera solved from them, and where it sees the mesh.

    Args:
        noise: standard deviation, pixels.
        outliers: per cent of the points.
        ridge: logarithm of ξ to base 10.
    """
    given = disturbed(scene.points, noise, outliers, seed)
    solved = ridge_camera(scene.vertices, given, 10**ridge)
    clean = ridge_camera(scene.vertices, scene.points, 1e-6)
    path = torch.stack(
        [ridge_camera(scene.vertices, given, 10**power) for power in np.linspace(-6, 6, 49)]
    )
    seen = project(scene.vertices, solved)
    error = float((seen - scene.points).norm(dim=-1).mean()) * PIXELS / 2
    axes = zip("xy", (WARM, COOL), strict=True)
    rows = [Points(clean.numpy(), GREEN, 10, "truth")]  # of both axes; first, so as to lie below
    rows += [
        layer
        for axis, (name, colour) in enumerate(axes)
        for layer in (
            Points(path[:, axis].numpy(), colour, 0, f"{name} axis, any ξ", True),
            Points(solved[[axis]].numpy(), colour, 6, f"{name} axis, this ξ"),
        )
    ]
    every = slice(None, None, 3)
    return [
        Panel(
            f"mean distance to the true points: {error:.1f} pixels",
            [
                Picture(scene.image),
                Points(pixels(given[every]), GREY, 4, "given points"),
                Points(pixels(seen[every]), WARM, 4, "seen by the solved camera"),
            ],
        ),
        Panel("the camera: scale and translation", rows, "scale s", "translation t", (-1.0, 1.0)),
    ]


def camera_scene(sample: dict[str, Tensor], side: int) -> CameraScene:
    """The scene of one hand of a sample.

    Raises:
        InputError: the sample has no such hand.
    """
    check_present(sample, side)
    return CameraScene(
        enlarged(sample["image"].numpy(), PIXELS),
        sample["vertices"][side],
        sample["vertices_2d"][side],
    )
