"""Lesson 5: noise."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from dne_lib.camera import project
from dne_lib.config import VERTICES
from dne_lib.lessons import Coarse
from dne_lib.mano import FINGERTIPS, HandModel
from dne_lib.metrics import MILLIMETRES
from dne_lib.model.noise import sample_noise
from dne_lib.plots import enlarged
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
    pixels,
)  # fmt: skip

MOST_SAMPLES = 64
NOISE_CONTROLS: Controls = {
    "gamma": Slider("γ", 0.0, 1.0, 0.02, 0.1),
    "delta": Slider("δ", 0.0, 0.1, 0.005, 0.01),
    "samples": Slider("R", 1, MOST_SAMPLES, 1, 16),
    "seed": Slider("seed", 0, 20, 1, 0),
    "space": Choice("noise in", ("3D", "2D")),
    "where": Choice("vertices", ("fingertips", "knuckles", "everywhere")),
}


class NoiseScene(NamedTuple):
    """One hand, a coarse guess at it, and the mean noise some module predicted for the guess."""

    image: Float[np.ndarray, "256 256 3"]
    faces: Int[np.ndarray, "1538 3"]
    camera: Float[Tensor, "2 2"]
    vertices: Float[Tensor, "778 3"]  # coarse, hand units
    truth: Float[Tensor, "778 3"]
    points: Float[Tensor, "778 2"]  # projections of the coarse vertices, NDC
    true_points: Float[Tensor, "778 2"]
    mean_3d: Float[Tensor, "778 3"]  # hand units
    mean_2d: Float[Tensor, "778 2"]  # NDC
    knuckles: list[int]


def noise_scene(
    sample: dict[str, Tensor], coarse: Coarse, hands: HandModel, side: int, share: float = 0.6
) -> NoiseScene:
    """A scene in which the predicted mean goes part of the way from the coarse hand to the truth.

    Args:
        side: the hand, 0 right, 1 left.
        share: of the way; 1 would be a perfect module.

    Raises:
        InputError: the sample has no such hand.
    """
    check_present(sample, side)
    vertices, camera = coarse.vertices[side], coarse.camera[side]
    truth, true_points = sample["vertices"][side], sample["vertices_2d"][side]
    points = project(vertices, camera)
    joints = hands.regress_joints(coarse.vertices)[side, [5, 9, 13, 17]]
    knuckles = torch.cdist(joints, vertices).argmin(1).tolist()
    return NoiseScene(
        enlarged(sample["image"].numpy(), PIXELS), hands.faces[side], camera, vertices, truth,
        points, true_points, share * (truth - vertices), share * (true_points - points), knuckles,
    )  # fmt: skip


class Draws(NamedTuple):
    """What R samples of Eq. 2 did for one hand; mm in 3D, pixels of 256 in 2D."""

    samples: Float[Tensor, "sample 778 axis"]  # v + epsilon or u + epsilon
    mean_error: float  # of the deterministic mean
    best_error: Float[np.ndarray, "sample"]  # of the best whole hand among the first 1, 2, ... R
    vertex_error: Float[np.ndarray, "sample"]  # were every vertex free to pick its own sample


def draw_noise(
    scene: NoiseScene, gamma: float, delta: float, samples: int, seed: int, space: str
) -> Draws:
    """Sample Eq. 2 around the scene's mean and compare with the truth.

    A larger R keeps the samples of a smaller one: always the first of the same `MOST_SAMPLES`.
    """
    flat = space == "2D"
    start, mean = (scene.points, scene.mean_2d) if flat else (scene.vertices, scene.mean_3d)
    truth, unit = (scene.true_points, PIXELS / 2) if flat else (scene.truth, MILLIMETRES)
    generator = torch.Generator().manual_seed(seed)
    noise = sample_noise(mean.expand(MOST_SAMPLES, *mean.shape), gamma, delta, generator)[:samples]
    errors = (start + noise - truth).norm(dim=-1) * unit
    return Draws(
        start + noise,
        float((start + mean - truth).norm(dim=-1).mean() * unit),
        errors.mean(1).cummin(0).values.numpy(),
        errors.cummin(0).values.mean(1).numpy(),
    )


@offered(NOISE_CONTROLS)
def noise_panels(
    scene: NoiseScene,
    gamma: float = 0.1,
    delta: float = 0.01,
    samples: int = 16,
    seed: int = 0,
    space: str = "3D",
    where: str = "fingertips",
) -> list[Panel]:
    """Samples of Eq. 2 on the image, on the mesh, and what they are worth.

    In 2D the samples have no depth: on the mesh they are drawn at the depth of their vertex.

    Args:
        gamma, delta: of Eq. 2; delta in hand units in 3D, in NDC in 2D.
        samples: R, up to `MOST_SAMPLES`.
        space: 3D or 2D.
        where: fingertips, knuckles or everywhere.
    """
    chosen = {"fingertips": FINGERTIPS, "knuckles": scene.knuckles}.get(
        where, range(0, VERTICES, 26)
    )
    index = torch.tensor(list(chosen))
    draws = draw_noise(scene, gamma, delta, samples, seed, space)
    cloud = draws.samples[:, index]
    scale, translation = scene.camera.unbind(-1)
    if space == "2D":
        depth = scene.vertices[index, 2:].expand(samples, -1, -1)
        flat, solid = cloud, torch.cat([(cloud - translation) / scale, depth], dim=-1)
        mean_flat = (scene.points + scene.mean_2d)[index]
        mean_solid = torch.cat([(mean_flat - translation) / scale, depth[0]], dim=-1)
    else:
        flat, solid = project(cloud, scene.camera), cloud
        mean_solid = (scene.vertices + scene.mean_3d)[index]
        mean_flat = project(mean_solid, scene.camera)
    name = "pixels" if space == "2D" else "mm"
    counts = np.arange(1, samples + 1)
    best, alone = draws.best_error[-1], draws.mean_error
    return [
        Panel(
            f"R = {samples} samples in {space}",
            [
                Picture(scene.image),
                Points(pixels(flat.flatten(0, 1)), WARM, 4, "samples"),
                Points(pixels(scene.true_points[index]), GREEN, 7, "truth"),
                Points(pixels(mean_flat), "black", 5, "mean"),
            ],
        ),
        Panel(
            "the same on the mesh",
            [
                Surface(scene.vertices.numpy(), scene.faces, GREY, 0.35),
                Points(solid.flatten(0, 1).numpy(), WARM, 3),
                Points(scene.truth[index].numpy(), GREEN, 6),
                Points(mean_solid.numpy(), "black", 5),
            ],
        ),
        Panel(
            f"best of {samples}: {best:.1f} {name}; the mean: {alone:.1f} {name}",
            [
                Points(np.stack([counts, draws.best_error], 1), WARM, 5, "best whole hand"),
                Points(np.stack([counts, draws.vertex_error], 1), COOL, 5, "best for each vertex"),
                Points(np.array([[0, alone], [samples + 1, alone]]), "black", 0, "the mean", True),
            ],
            "R",
            f"mean vertex error, {name}",
            (0.0, 1.1 * float(draws.best_error[0])),
        ),
    ]
