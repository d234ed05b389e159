"""Lesson 3: the auxiliary maps."""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import default_collate

from dne_lib.files import InputError
from dne_lib.metrics import MILLIMETRES
from dne_lib.model.auxiliary import Auxiliary
from dne_lib.model.network import DualNoiseNetwork
from dne_lib.plots import ERROR_COLOURS, MAP_TITLES, MAPS, enlarged, map_pictures
from dne_lib.widgets.panels import PIXELS, Choice, Controls, Panel, Picture, Slider, offered

MAP_IMAGES = 8
MAPS_CONTROLS: Controls = {
    "image": Slider("image", 1, MAP_IMAGES, 1, 1),
    "title": Choice("map", MAP_TITLES),
    "cover": Slider("map over image", 0.0, 1.0, 0.1, 0.8),
}
# The error at the top of the colours, and the unit it is counted in.
WORST_ERROR = {
    "parts": (100.0, " %"),
    "depth": (40.0, " mm"),
    "normals": (60.0, "°"),
    "densepose": (40.0, " mm"),
    "heatmaps": (100.0, " %"),
}


class MapsScene(NamedTuple):
    """The maps of some images; lists run over images, dictionaries over `MAPS`."""

    images: list[Float[np.ndarray, "256 256 3"]]
    truth: list[dict[str, Float[np.ndarray, "256 256 3"]]]  # as pictures
    predicted: list[dict[str, Float[np.ndarray, "256 256 3"]]]
    errors: list[dict[str, Float[np.ndarray, "S S"]]]  # see `map_errors`
    on_hand: list[Bool[np.ndarray, "S S"]]


def map_errors(
    auxiliary: Auxiliary, batch: dict[str, Tensor], rest: Float[Tensor, "778 3"]
) -> dict[str, Float[Tensor, "batch S S"]]:
    """How far predicted maps are off, pixel by pixel.

    Args:
        auxiliary: the prediction.
        batch: collated samples.
        rest: the right hand at rest, metres, in whose bounding box DensePose is written.

    Returns:
        parts: 100 where wrong; depth: mm; normals: degrees; densepose: mm on the hand at rest;
        heatmaps: the largest difference of the 42 maps, per cent of a peak. Depth, normals and
        DensePose are 0 off the true hands, where they have no value.
    """
    on_hand = batch["parts"] > 0
    extent = 1000 * (rest.amax(0) - rest.amin(0))
    away = (auxiliary.densepose - batch["densepose"]) * extent[:, None, None]
    cosine = F.cosine_similarity(auxiliary.normals, batch["normals"], dim=1)
    depth = (auxiliary.depth - batch["depth"])[:, 0].abs() * MILLIMETRES
    return {
        "parts": 100.0 * (auxiliary.parts.argmax(1) != batch["parts"]),
        "depth": depth * on_hand,
        "normals": cosine.clamp(-1, 1).acos().rad2deg() * on_hand,
        "densepose": away.norm(dim=1) * on_hand,
        "heatmaps": 100 * (auxiliary.heatmaps - batch["heatmaps"]).abs().amax(1),
    }


def maps_scene(samples: Sequence[dict[str, Tensor]], network: DualNoiseNetwork) -> MapsScene:
    """True and predicted maps of the first `MAP_IMAGES` samples.

    Raises:
        InputError: there are fewer.
    """
    if len(samples) < MAP_IMAGES:
        raise InputError(f"{len(samples)} samples: the widget shows {MAP_IMAGES}, render more")
    batch = default_collate(list(samples[:MAP_IMAGES]))
    with torch.no_grad():
        features = network.encoder(batch["image"])
        auxiliary, _ = network.auxiliary(features)
        errors = map_errors(auxiliary, batch, network.hands.template[0])
    predicted = auxiliary._replace(parts=auxiliary.parts.argmax(1))._asdict()
    count = range(MAP_IMAGES)
    return MapsScene(
        [enlarged(image.numpy(), PIXELS) for image in batch["image"]],
        [_pictures(batch, i) for i in count],
        [_pictures(predicted, i) for i in count],
        [{name: error[i].numpy() for name, error in errors.items()} for i in count],
        [parts.numpy() > 0 for parts in batch["parts"]],
    )


def _pictures(maps: dict[str, Tensor], i: int) -> dict[str, Float[np.ndarray, "256 256 3"]]:
    order = ("depth", "normals", "heatmaps", "densepose", "parts")
    pictures = map_pictures(*(maps[name][i].numpy() for name in order))
    return {name: _blocks(picture) for name, picture in zip(MAPS, pictures, strict=True)}


def _blocks(picture: Float[np.ndarray, "S S 3"]) -> Float[np.ndarray, "256 256 3"]:
    """Enlarged so that each pixel of the map can be told."""
    return cv2.resize(picture, (PIXELS, PIXELS), interpolation=cv2.INTER_NEAREST)


@offered(MAPS_CONTROLS)
def maps_panels(
    scene: MapsScene, image: int = 1, title: str = "parts", cover: float = 0.8
) -> list[Panel]:
    """One map of one image: the truth, the prediction, and where they differ.

    Args:
        image: counted from 1.
        title: one of `MAP_TITLES`.
        cover: how much of the image the maps cover, 0 to 1.
    """
    i, name = image - 1, MAPS[MAP_TITLES.index(title)]
    photo, error = scene.images[i], scene.errors[i][name]
    worst, unit = WORST_ERROR[name]
    counted = np.ones_like(scene.on_hand[i]) if name == "heatmaps" else scene.on_hand[i]
    shown = (
        ERROR_COLOURS(np.minimum(error / worst, 1))[..., :3] * (counted | (error > 0))[..., None]
    )

    def over(picture: Float[np.ndarray, "256 256 3"]) -> Picture:
        return Picture((1 - cover) * photo + cover * picture)

    return [
        Panel(f"image {image}", [Picture(photo)]),
        Panel(f"{title}: truth", [over(scene.truth[i][name])]),
        Panel("prediction", [over(scene.predicted[i][name])]),
        Panel(
            f"difference: {error[counted].mean():.0f}{unit} (red: {worst:.0f}{unit})",
            [Picture(_blocks(shown))],
        ),
    ]
