"""Lesson 9: a small batch learnt by heart, and which loss the encoder listens to."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from dne_lib.config import LossConfig
from dne_lib.files import InputError
from dne_lib.losses import Batch, total_loss
from dne_lib.metrics import MILLIMETRES
from dne_lib.model import DualNoiseNetwork, Output
from dne_lib.plots import ERROR_SCALE, draw_crop, error_colours, placed
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

LEARNING_CONTROLS: Controls = {
    "done": Slider("training done, %", 0, 100, 4, 0),
    "image": Slider("image", 1, 4, 1, 1),
    "mesh": Choice("mesh", ("last module", "coarse")),
}


class Snapshot(NamedTuple):
    """The meshes of a batch at one step of training: the coarse ones, then the last ones."""

    step: int
    vertices: Float[Tensor, "2 batch hand 778 3"]  # hand units
    points: Float[Tensor, "2 batch hand 778 2"]  # NDC
    camera: Float[Tensor, "2 batch hand 2 2"]


def snapshot(step: int, output: Output) -> Snapshot:
    """What `LearningScene` keeps of a forward pass."""
    ends = (output.stages[0], output.stages[-1])
    return Snapshot(
        step,
        torch.stack([stage.vertices for stage in ends]).detach(),
        torch.stack([stage.projections for stage in ends]).detach(),
        torch.stack([stage.camera for stage in ends]).detach(),
    )


class LearningScene(NamedTuple):
    """A batch, and what a network made of it while it learnt."""

    batch: Batch
    faces: Int[np.ndarray, "2 1538 3"]
    snapshots: Sequence[Snapshot]
    errors: Float[np.ndarray, "time 2 batch"]  # MPVPE of the hands present, mm


def learning_scene(
    batch: Batch, faces: Int[np.ndarray, "2 1538 3"], snapshots: Sequence[Snapshot]
) -> LearningScene:
    """Raises InputError where there is no snapshot."""
    if not snapshots:
        raise InputError("no snapshots to look at: keep some while training")
    present = batch["present"]
    errors = []
    for each in snapshots:
        distance = (each.vertices - batch["vertices"]).norm(dim=-1).mean(-1) * present
        errors.append(distance.sum(-1) / present.sum(-1) * MILLIMETRES)
    return LearningScene(batch, faces, snapshots, torch.stack(errors).numpy())


@offered(LEARNING_CONTROLS)
def learning_panels(
    scene: LearningScene, done: int = 0, image: int = 1, mesh: str = "last module"
) -> list[Panel]:
    """The mesh on its image, beside the truth in space, and how far it was off at every step.

    Args:
        done: share of the training, per cent.
        image: counted from 1.
        mesh: last module or coarse.
    """
    n, stage = image - 1, int(mesh == "last module")
    time = round(done / 100 * (len(scene.snapshots) - 1))
    now = scene.snapshots[time]
    truth = {name: values[n].numpy() for name, values in scene.batch.items()}
    there = truth["present"]
    vertices, points, camera = (x[stage, n].numpy() for x in now[1:])
    colours = error_colours(vertices, truth["vertices"])
    drawn = draw_crop(truth["image"], points, vertices, camera, scene.faces, there, colours)
    # Both the hands and their truths stand where they truly are, so that only the shape differs.
    shift = (placed(truth["vertices"], truth["camera"]) - truth["vertices"])[there]
    solid, goal = vertices[there] + shift, truth["vertices"][there] + shift
    faces = np.concatenate([f + 778 * i for i, f in enumerate(scene.faces[there])])
    surface = Surface(solid.reshape(-1, 3), faces, colours[there].reshape(-1, 3))
    steps = [each.step for each in scene.snapshots]
    curves = [
        Points(np.stack([steps, scene.errors[:, i, n]], 1), colour, 0, name)
        for i, (name, colour) in enumerate((("coarse", GREY), ("last module", WARM)))
    ]
    here = Points(np.array([[now.step, scene.errors[time, stage, n]]]), "black", 8, "now")
    top = float(scene.errors.max()) * 1.05
    return [
        Panel(f"image {image}, step {now.step}", [Picture(drawn)]),
        Panel(f"{ERROR_SCALE}; dots: truth",
              [surface, Points(goal.reshape(-1, 3)[::3], GREEN, 2)]),
        Panel(f"{scene.errors[time, stage, n]:.0f} mm off", [*curves, here], "step",
              "error, mm", (0.0, top)),
    ]  # fmt: skip


# The four voices of the loss. The score is left out: it does not reach the encoder.
VOICES = {
    "maps": ("depth", "normals", "heatmaps", "densepose", "parts"),
    "MANO": ("pose", "betas"),
    "3D": ("vertices",),
    "2D": ("projections", "coordinates"),
}
BALANCE_CONTROLS: Controls = {
    "maps": Slider("maps, log₁₀", -2.0, 2.0, 0.25, 0.0),
    "mano": Slider("MANO, log₁₀", -2.0, 2.0, 0.25, 0.0),
    "space": Slider("3D, log₁₀", -2.0, 2.0, 0.25, 0.0),
    "plane": Slider("2D, log₁₀", -2.0, 2.0, 0.25, 0.0),
    "network": Choice("network", ("fresh", "trained")),
}


class Pull(NamedTuple):
    """What the loss says to the encoder's weights, voice by voice."""

    values: Float[np.ndarray, "4"]  # weighted losses
    gram: Float[np.ndarray, "4 4"]  # inner products of their gradients


def pull(network: DualNoiseNetwork, batch: Batch, config: LossConfig, seed: int = 0) -> Pull:
    """Loss and gradient of each voice on a batch; the network's weights stay as they are.

    Args:
        network: in training mode.
        batch: collated samples.
        config: the weights; the widget multiplies them.
        seed: of the noise.
    """
    noise = torch.Generator().manual_seed(seed)
    output = network(batch["image"], batch["present"], generator=noise)
    _, terms = total_loss(output, batch, config)
    weights = list(network.encoder.parameters())
    values, gradients = [], []
    for names in VOICES.values():
        each = [value for name, value in terms.items() if name.split("_")[0] in names]
        values.append(torch.stack(each).sum())
        slopes = torch.autograd.grad(values[-1], weights, retain_graph=True)
        gradients.append(torch.cat([slope.flatten() for slope in slopes]))
    stacked = torch.stack(gradients)
    return Pull(torch.stack(values).detach().numpy(), (stacked @ stacked.T).numpy())


def agreement(gram: Float[np.ndarray, "n n"], weights: Float[np.ndarray, "n"]) -> np.ndarray:
    """Cosine between the gradient of each loss and that of their weighted sum."""
    total = gram @ weights
    return total / np.sqrt(np.maximum(np.diag(gram) * (weights @ total), 1e-30))


@offered(BALANCE_CONTROLS)
def balance_panels(
    pulls: tuple[Pull, Pull],
    maps: float = 0.0,
    mano: float = 0.0,
    space: float = 0.0,
    plane: float = 0.0,
    network: str = "fresh",
) -> list[Panel]:
    """Each voice's share of the loss, and how well a step on the whole loss suits it.

    Args:
        pulls: of the fresh network, then of the trained one.
        maps, mano, space, plane: logarithms to base 10 of what the weights are multiplied by.
        network: fresh or trained.
    """
    chosen = pulls[int(network == "trained")]
    weights = 10 ** np.array([maps, mano, space, plane])
    shares = 100 * weights * chosen.values / (weights * chosen.values).sum()
    suits = agreement(chosen.gram, weights)
    loudest = list(VOICES)[int(shares.argmax())]
    return [
        Panel(
            f"share of the loss: most is {loudest}",
            _stems(shares),
            y="%",
            limits=(0.0, 100.0),
            ticks=list(VOICES),
        ),
        Panel(
            "a step on the whole loss suits …",
            _stems(suits),
            y="cosine",
            limits=(-1.0, 1.0),
            ticks=list(VOICES),
        ),
    ]


def _stems(heights: np.ndarray) -> list[Points]:
    """A stem with a head for each voice."""
    layers = []
    for i, colour in enumerate((COOL, GREY, WARM, GREEN)):
        stem = np.array([[i, 0.0], [i, heights[i]]])
        layers += [Points(stem, colour, 0), Points(stem[1:], colour, 12)]
    return layers
