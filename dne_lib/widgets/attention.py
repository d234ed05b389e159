"""Lesson 4: where the coarse regressor looks."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import functional_call
from torch.utils.data import default_collate

from dne_lib.camera import project
from dne_lib.config import HAND_UNIT, HANDS
from dne_lib.files import InputError
from dne_lib.mano import MANO_TO_JOINTS, Hands, rotation_6d_to_matrix
from dne_lib.metrics import MILLIMETRES
from dne_lib.model.coarse import Parameters
from dne_lib.model.network import DualNoiseNetwork
from dne_lib.plots import draw_crop, enlarged
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
    offered,
    pixels,
)  # fmt: skip

ATTENTION_IMAGES = 3
# What the 18 attention maps of a hand are for, in their order: MANO's joints, shape, camera.
READINGS = (
    "wrist",
    *(f"{name} {k}" for name in ("index", "middle", "pinky", "ring", "thumb") for k in (1, 2, 3)),
    "shape",
    "camera",
)
ATTENTION_CONTROLS: Controls = {
    "power": Slider("log₂ temperature", -4.0, 8.0, 0.5, 0.0),
    "reading": Choice("read", READINGS[::-1]),
    "side": Choice("hand", HANDS),
    "image": Slider("image", 1, ATTENTION_IMAGES, 1, 1),
}
POWERS = np.array(ATTENTION_CONTROLS["power"].values)


class AttentionScene(NamedTuple):
    """Images of two hands, and what the coarse regressor is given for them."""

    network: DualNoiseNetwork
    batch: dict[str, Tensor]
    features: Float[Tensor, "image C H W"]  # F, merged with the auxiliary maps
    errors: Float[np.ndarray, "image power 2"]  # for every temperature: mm in space, px of 256
    numbers: Sequence[int]  # of the images among all samples, counted from 1


def parameters_at(
    network: DualNoiseNetwork, features: Float[Tensor, "batch C H W"], temperature: float
) -> Parameters:
    """What the regressor reads from F if its attention is softmax(logits / temperature).

    Near 0 every parameter is read at one place, at 1 as it was trained, and far above 1 the
    maps are averaged.
    """
    layer = network.coarse.attention
    assert layer.bias is not None
    cooled = {
        "attention.weight": layer.weight / temperature,
        "attention.bias": layer.bias / temperature,
    }
    with torch.no_grad():
        return functional_call(network.coarse, cooled, (features,))


def posed(network: DualNoiseNetwork, parameters: Parameters) -> Hands:
    """The hands of some parameters; wrist-relative, hand units."""
    mesh = network.hands(rotation_6d_to_matrix(parameters.pose), parameters.betas)
    return Hands(mesh.vertices / HAND_UNIT, mesh.joints / HAND_UNIT)


def attention_scene(
    samples: Sequence[dict[str, Tensor]], network: DualNoiseNetwork
) -> AttentionScene:
    """The first `ATTENTION_IMAGES` samples that show both hands.

    Raises:
        InputError: there are fewer.
    """
    both = [i for i, sample in enumerate(samples) if sample["present"].all()]
    if len(both) < ATTENTION_IMAGES:
        raise InputError(
            f"{len(both)} of {len(samples)} samples show both hands: the widget needs "
            f"{ATTENTION_IMAGES}, render more"
        )
    shown = both[:ATTENTION_IMAGES]
    batch = default_collate([samples[i] for i in shown])
    errors = []
    with torch.no_grad():
        _, features = network.auxiliary(network.encoder(batch["image"]))
        for power in POWERS:
            parameters = parameters_at(network, features, float(2**power))
            vertices = posed(network, parameters).vertices
            space = (vertices - batch["vertices"]).norm(dim=-1).mean((1, 2)) * MILLIMETRES
            flat = project(vertices, parameters.camera) - batch["vertices_2d"]
            plane = flat.norm(dim=-1).mean((1, 2)) * PIXELS / 2
            errors.append(torch.stack([space, plane], dim=-1))
    numbers = [i + 1 for i in shown]
    return AttentionScene(network, batch, features, torch.stack(errors, dim=1).numpy(), numbers)


@offered(ATTENTION_CONTROLS)
def attention_panels(
    scene: AttentionScene,
    power: float = 0.0,
    reading: str = "camera",
    side: str = "right",
    image: int = 1,
) -> list[Panel]:
    """Where one thing is read at a temperature, the meshes that come of it, and their error.

    Args:
        power: logarithm of the temperature to base 2.
        reading: one of `READINGS`.
        side: right or left.
        image: of the scene, counted from 1; the title has its number among all samples.
    """
    i, hand, row = image - 1, HANDS.index(side), READINGS.index(reading)
    joint = MANO_TO_JOINTS.index(row) if row < 16 else 0
    network, batch = scene.network, scene.batch
    parameters = parameters_at(network, scene.features[[i]], 2**power)
    with torch.no_grad():
        mesh = posed(network, parameters)
    attention = parameters.attention[0, hand, row]
    photo = batch["image"][i].numpy()
    meshes = draw_crop(
        photo, project(mesh.vertices, parameters.camera)[0].numpy(), mesh.vertices[0].numpy(),
        parameters.camera[0].numpy(), network.hands.faces, batch["present"][i].numpy(),
    )  # fmt: skip
    found = project(mesh.joints, parameters.camera)[0, hand, [joint]]
    places = float((-torch.xlogy(attention, attention).sum()).exp())
    curves = scene.errors[i]
    now = int(np.abs(POWERS - power).argmin())
    space, plane = curves[now]
    return [
        Panel(
            f"{side} hand, {reading}: about {places:.0f} of {attention.numel()} places",
            [
                Picture(spotlight(enlarged(photo, PIXELS), attention)),
                Points(pixels(batch["joints_2d"][i, hand, [joint]]), GREEN, 9, "truth"),
                Points(pixels(found), "black", 6, "prediction"),
            ],
        ),
        Panel(
            f"image {scene.numbers[i]}: off by {space:.0f} mm, {plane:.0f} pixels of 256",
            [Picture(meshes)],
        ),
        Panel(
            "what the temperature does",
            [
                Points(np.stack([POWERS, curves[:, 0]], 1), WARM, 0, "in space, mm"),
                Points(np.stack([POWERS, curves[:, 1]], 1), COOL, 0, "in the image, pixels"),
                Points(np.array([[power, space], [power, plane]]), "black", 7, "now"),
                Points(np.array([[0.0, 0.0], [0.0, curves.max()]]), GREY, 0, "as trained", True),
            ],
            "log₂ temperature",
            "mean vertex error",
        ),
    ]


def spotlight(
    photo: Float[np.ndarray, "s s 3"], attention: Float[Tensor, "h w"]
) -> Float[np.ndarray, "s s 3"]:
    """A photo in the light of an attention map: its strongest place is lit fully, in red."""
    light = torch.nn.functional.interpolate(
        (attention / attention.max())[None, None], len(photo), mode="bilinear"
    )[0, 0, :, :, None].numpy()
    lit = 0.5 * photo + 0.5 * np.array([1.0, 0.15, 0.0])
    return np.clip(0.45 * photo * (1 - light) + lit * light, 0, 1).astype(np.float32)
