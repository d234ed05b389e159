"""Lesson 6: the two image points of a vertex."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from dne_lib.camera import ndc_to_pixels, pixels_to_ndc
from dne_lib.mano import FINGERTIPS
from dne_lib.model.refine import interpolate
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
    check_present,
    offered,
    pixels,
)  # fmt: skip

TIPS = ("index tip", "thumb tip", "middle tip", "ring tip", "pinky tip")
TIP_VERTICES: dict[str, int] = dict(
    zip(TIPS, [FINGERTIPS[i] for i in (1, 0, 2, 3, 4)], strict=True)
)
COORDINATE_CONTROLS: Controls = {
    "tip": Choice("vertex", TIPS),
    "right": Slider("shift right, pixels", -60, 60, 1, 0),
    "down": Slider("shift down, pixels", -60, 60, 1, 0),
    "gate": Slider("gate σ(w)", 0.0, 1.0, 0.05, 0.5),
}


class CoordinateScene(NamedTuple):
    """A hand, the feature map of its image, and what is said of where its vertices are (NDC)."""

    image: Float[np.ndarray, "256 256 3"]
    features: Float[Tensor, "C H W"]
    colours: Float[np.ndarray, "256 256 3"]  # of the features
    projected: Float[Tensor, "778 2"]
    regressed: Float[Tensor, "778 2"]
    truth: Float[Tensor, "778 2"]


def coordinate_scene(
    sample: dict[str, Tensor],
    features: Float[Tensor, "C H W"],
    projected: Float[Tensor, "778 2"],
    regressed: Float[Tensor, "778 2"],
    side: int,
) -> CoordinateScene:
    """The scene of one hand.

    Args:
        side: the hand, 0 right, 1 left.

    Raises:
        InputError: the sample has no such hand.
    """
    check_present(sample, side)
    nearest = torch.arange(PIXELS) * features.shape[-1] // PIXELS
    colours = feature_colours(features)[nearest][:, nearest]
    image = enlarged(sample["image"].numpy(), PIXELS)
    truth = sample["vertices_2d"][side]
    return CoordinateScene(image, features, colours.numpy(), projected, regressed, truth)


def feature_colours(features: Float[Tensor, "C H W"]) -> Float[Tensor, "H W 3"]:
    """A feature map as a picture: its three directions of largest variance as red, green, blue."""
    rows = features.flatten(1).T.double()
    rows = rows - rows.mean(0)
    directions = torch.linalg.eigh(rows.T @ rows)[1][:, -3:].flip(1)
    # An eigenvector may come with either sign.
    directions = directions * directions.sum(0).sign()
    parts = rows @ directions
    low, high = parts.quantile(0.01, dim=0), parts.quantile(0.99, dim=0)
    scaled = ((parts - low) / (high - low).clamp(min=1e-9)).clamp(0, 1)
    return scaled.float().view(*features.shape[1:], 3)


def four_pixels(point: Float[Tensor, "2"], size: int) -> Float[Tensor, "4 2"]:
    """The pixels that a bilinear reading at a point mixes, NDC; on a map of `size` squared."""
    first = ndc_to_pixels(point, size).floor()
    steps = torch.tensor([[0, 0], [1, 0], [0, 1], [1, 1]])
    return pixels_to_ndc((first + steps).clamp(0, size - 1), size)


@offered(COORDINATE_CONTROLS)
def coordinate_panels(
    scene: CoordinateScene,
    tip: str = "index tip",
    right: int = 0,
    down: int = 0,
    gate: float = 0.5,
) -> list[Panel]:
    """Where a vertex is said to be, which pixels of F are read there, and what they say.

    Args:
        tip: one of `TIPS`.
        right, down: how far the projection is moved, pixels of 256.
        gate: weight of the regressed point in u.
    """
    vertex = TIP_VERTICES[tip]
    shift = torch.tensor([right, down]) * 2 / PIXELS
    p, r, true = scene.projected[vertex] + shift, scene.regressed[vertex], scene.truth[vertex]
    u = gate * r + (1 - gate) * p
    f_p, f_r, f_true = interpolate(scene.features[None], torch.stack([p, r, true])[None])[0]
    off = [float((each - true).norm()) * PIXELS / 2 for each in (p, r, u)]
    like = [float(torch.cosine_similarity(each, f_true, dim=0)) for each in (f_p, f_r)]
    places = [
        Points(pixels(p[None]), COOL, 8, "projected"),
        Points(pixels(r[None]), WARM, 8, "regressed"),
        Points(pixels(true[None]), GREEN, 8, "truth"),
    ]
    between = Points(pixels(torch.stack([p, r])), GREY, 0)
    size = scene.features.shape[-1]
    read = [
        Points(pixels(four_pixels(point, size)), colour, 4)
        for point, colour in ((p, COOL), (r, WARM))
    ]
    channels = np.arange(len(f_p))
    lines = ((f_true, GREEN, "at the truth"), (f_p, COOL, "f_p"), (f_r, WARM, "f_r"))
    return [
        Panel(
            f"off by: projected {off[0]:.0f}, regressed {off[1]:.0f}, u {off[2]:.0f} pixels",
            [Picture(scene.image), between, *places, Points(pixels(u[None]), "black", 5, "u")],
        ),
        Panel("F, and the pixels that are read", [Picture(scene.colours), *read, *places]),
        Panel(
            f"like the truth's: f_p {like[0]:.2f}, f_r {like[1]:.2f}",
            [
                Points(np.stack([channels, f.numpy()], axis=1), colour, 0, name)
                for f, colour, name in lines
            ],
            "channel of F",
            "feature",
        ),
    ]
