"""Lesson 1: the data, and changing it."""

import math

import cv2
import numpy as np
from jaxtyping import Float
from torch import Tensor

from dne_lib.data.augment import Augmentation
from dne_lib.data.interhand import InterHand
from dne_lib.metrics import MILLIMETRES
from dne_lib.plots import MAPS, enlarged, map_pictures
from dne_lib.widgets.panels import (
    COOL,
    PIXELS,
    WARM,
    Choice,
    Controls,
    Panel,
    Picture,
    Points,
    Slider,
    bones,
    offered,
    pixels,
)  # fmt: skip

# Wider than what training draws, so that it can be seen.
AUGMENT_CONTROLS: Controls = {
    "rotation": Slider("rotation, degrees", -90, 90, 5, 30),
    "scale": Slider("side of the crop ×", 0.7, 1.5, 0.05, 1.0),
    "right": Slider("shift right, pixels", -40, 40, 2, 0),
    "down": Slider("shift down, pixels", -40, 40, 2, 0),
    "mirror": Choice("mirror", ("no", "yes")),
    "gain": Slider("brightness ×", 0.4, 1.6, 0.05, 1.0),
    "noise": Slider("noise σ", 0.0, 0.3, 0.03, 0.0),
}
REACH = np.array([120.0, 120.0, 60.0])  # mm from the wrist, about as far as most hands reach


@offered(AUGMENT_CONTROLS)
def augment_panels(
    data: InterHand,
    index: int,
    rotation: int = 30,
    scale: float = 1.0,
    right: int = 0,
    down: int = 0,
    mirror: str = "no",
    gain: float = 1.0,
    noise: float = 0.0,
) -> list[Panel]:
    """A changed sample: joints on the image and on the normal map, and the joints in space.

    Args:
        data, index: the sample.
        rotation: degrees, clockwise in the image.
        scale: of the side of the crop.
        right, down: shift of the hands, pixels of 256.
        mirror: yes or no.
        gain: of brightness.
        noise: standard deviation, of full range.

    Raises:
        InputError: the image cannot be read.
    """
    shift = (float(right), float(down))
    angle = math.radians(rotation)
    change = Augmentation(angle, scale, shift, mirror == "yes", gain, noise)
    sample = data.changed(index, change)
    lines, dots = _skeletons(sample)
    maps = map_pictures(**{name: sample[name].numpy() for name in MAPS})
    normals = cv2.resize(maps[MAPS.index("normals")], (PIXELS, PIXELS), None, 0, 0, 0)  # nearest
    solid = MILLIMETRES * sample["joints"].numpy()
    solid[~sample["present"].numpy()] = np.nan
    corners = REACH * (2.0 * np.indices((2, 2, 2)).reshape(3, 8).T - 1)
    return [
        Panel("image and joints", [Picture(enlarged(sample["image"].numpy())), *lines, dots]),
        Panel("surface normals", [Picture(normals), *lines]),
        Panel(
            "joints in space, wrist at the centre",
            [
                Points(corners, "white", 1),  # keeps the view still, unseen
                Points(bones(solid[0]), WARM, 0, "right hand"),
                Points(bones(solid[1]), COOL, 0, "left hand"),
            ],
        ),
    ]


def _skeletons(sample: dict[str, Tensor]) -> tuple[list[Points], Points]:
    """Bones of both hands, nothing for an absent one, and all joints; pixels of 256."""
    joints, there = sample["joints_2d"], sample["present"]
    flat: list[Float[np.ndarray, "21 2"]] = [
        np.where(there[side], pixels(joints[side]), np.nan) for side in range(2)
    ]
    lines = [
        Points(bones(each), colour, 0) for each, colour in zip(flat, (WARM, COOL), strict=True)
    ]
    return lines, Points(pixels(joints[there].flatten(0, 1)), "white", 3)
