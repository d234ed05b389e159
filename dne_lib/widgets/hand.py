"""Lesson 2: the hand model."""

import cv2
import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from dne_lib.config import HANDS, VERTICES
from dne_lib.mano import HandModel, lbs
from dne_lib.plots import SKIN
from dne_lib.synthetic.poses import TEMPLATES, anatomy, mirror_rotations, template_pose
from dne_lib.widgets.panels import (
    GREEN,
    Choice,
    Controls,
    Panel,
    Points,
    Slider,
    Surface,
    bones,
    offered,
)

HAND_CONTROLS: Controls = {
    "gesture": Choice("gesture", ("fist", *(name for name in TEMPLATES if name != "fist"))),
    "bend": Slider("how far", 0.0, 1.0, 0.05, 0.6),
    "size": Slider("β₁", -3.0, 3.0, 0.25, 0.0),
    "build": Slider("β₂", -3.0, 3.0, 0.25, 0.0),
    "side": Choice("hand", HANDS),
    "correctives": Choice("pose correctives", ("on", "off")),
}


@offered(HAND_CONTROLS)
def hand_panels(
    hands: HandModel,
    gesture: str = "fist",
    bend: float = 0.6,
    size: float = 0.0,
    build: float = 0.0,
    side: str = "right",
    correctives: str = "on",
) -> list[Panel]:
    """A posed, shaped hand and the skeleton inside it.

    Args:
        gesture: one of `dne_lib.synthetic.poses.TEMPLATES`.
        bend: 0 is the flat template of the model, 1 the gesture.
        size, build: the first two shape coefficients.
        side: right or left.
        correctives: on or off.
    """
    hand = HANDS.index(side)
    still_hand = hands.single(0, torch.eye(3).expand(16, 3, 3), torch.zeros(10))
    goal = template_pose(gesture, anatomy(still_hand.joints.double().numpy()))
    rotations = _part_way(torch.from_numpy(goal), bend).float()
    if hand:
        rotations = torch.from_numpy(mirror_rotations(rotations.numpy())).float()
    betas = torch.zeros(10)
    betas[:2] = torch.tensor([size, build])
    posed = hands.single(hand, rotations, betas)
    vertices = posed.vertices
    if correctives == "off":
        vertices = without_correctives(hands, hand, rotations, betas)
    # Show the back of the hand, fingers up: from the model's own axes to the camera's.
    sign = 1.0 if hand == 0 else -1.0
    turn = np.array([[0, 0, -sign], [sign, 0, 0], [0, -1, 0]], np.float32)
    shown = (vertices.numpy() @ turn.T, posed.joints.numpy() @ turn.T)
    surface = Surface(shown[0] * 1000, hands.faces[hand], SKIN[[hand]].repeat(VERTICES, 0), 0.45)
    skeleton = bones(shown[1] * 1000)
    litres = volume(vertices.numpy(), hands.faces[hand]) * 1e6
    plain = ", no correctives" if correctives == "off" else ""
    title = f"{side} hand, {gesture}{plain}: {litres:.0f} ml"
    return [
        Panel(title, [surface, Points(skeleton, "black", 0), Points(shown[1] * 1000, GREEN, 5)]),
    ]


def without_correctives(
    hands: HandModel,
    side: int,
    rotations: Float[Tensor, "16 3 3"],
    betas: Float[Tensor, "10"],
) -> Float[Tensor, "778 3"]:
    """Plain linear blend skinning, metres, wrist at the origin."""
    vertices, joints = lbs(
        betas[None], rotations[None], hands.template[side], hands.shapedirs[side],
        torch.zeros_like(hands.posedirs[side]), hands.regressor[side], hands.parents,
        hands.weights[side], pose2rot=False,
    )  # fmt: skip
    return vertices[0] - joints[0, 0]


def volume(vertices: Float[np.ndarray, "vertex 3"], faces: Int[np.ndarray, "face 3"]) -> float:
    """What a mesh encloses, in its unit cubed: signed tetrahedra from the centre of the mesh.

    The open wrist is closed only roughly, by the cone to the centre, so compare, do not measure.
    """
    a, b, c = np.moveaxis((vertices - vertices.mean(0))[faces], 1, 0)
    return float((a * np.cross(b, c)).sum() / 6)


def _part_way(rotations: Float[Tensor, "joint 3 3"], share: float) -> Float[Tensor, "joint 3 3"]:
    """Rotations about the same axes by a share of the angle."""
    vectors = [cv2.Rodrigues(matrix)[0][:, 0] * share for matrix in rotations.numpy()]
    return torch.from_numpy(np.stack([cv2.Rodrigues(vector)[0] for vector in vectors]))
