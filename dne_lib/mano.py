"""Two hands from MANO parameters, over smplx; rotations and joint orders.

Romero, Tzionas and Black, "Embodied Hands" (SIGGRAPH Asia 2017). The hand axis is [right, left].
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import smplx.lbs
import torch
from einops import einsum, rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from dne_lib.config import HANDS, JOINTS, VERTICES
from dne_lib.mano_files import FIELDS, PARENTS, left_is_unmirrored, read_hand

# smplx annotates with a tensor type of its own, which no tensor has.
lbs: Callable[..., Any] = smplx.lbs.lbs
rodrigues: Callable[..., Any] = smplx.lbs.batch_rodrigues

ASSETS = Path(__file__).parent / "assets"

# Our 21 joints: wrist, then thumb, index, middle, ring, pinky, each from base to tip.
SKELETON = [-1, 0, 1, 2, 3, 0, 5, 6, 7, 0, 9, 10, 11, 0, 13, 14, 15, 0, 17, 18, 19]  # parents
# MANO has 16 joints and no fingertips: smplx takes these vertices, thumb to pinky.
FINGERTIPS = [744, 320, 443, 554, 671]
MANO_TO_JOINTS = [0, 13, 14, 15, 16, 1, 2, 3, 17, 4, 5, 6, 18, 10, 11, 12, 19, 7, 8, 9, 20]
# InterHand2.6M orders each finger tip first and puts the wrist last.
INTERHAND_TO_JOINTS = [20, 3, 2, 1, 0, 7, 6, 5, 4, 11, 10, 9, 8, 15, 14, 13, 12, 19, 18, 17, 16]
JOINTS_TO_INTERHAND = np.argsort(INTERHAND_TO_JOINTS).tolist()


class Hands(NamedTuple):
    """Metres, wrist at the origin."""

    vertices: Float[Tensor, "*batch 778 3"]
    joints: Float[Tensor, "*batch 21 3"]


@dataclass(frozen=True)
class HandTopology:
    """What does not move: all that rasterising needs to know of a hand model."""

    faces: Int[np.ndarray, "hand 1538 3"]  # outward when counter-clockwise
    template: Float[np.ndarray, "hand 778 3"]  # rest pose, mean shape, metres
    part: Int[np.ndarray, "778"]  # MANO joint with the largest skinning weight

    @property
    def places(self) -> Float[np.ndarray, "778 3"]:
        """DensePose: each vertex's place on the right hand at rest, [0, 1] over its bounding box.

        One frame for both hands: a vertex has one place, whichever side it is on.
        """
        rest = self.template[0]
        return (rest - rest.min(0)) / (rest.max(0) - rest.min(0))


def rotation_6d_to_matrix(rotations: Float[Tensor, "*batch 6"]) -> Float[Tensor, "*batch 3 3"]:
    """Gram-Schmidt on two 3-vectors, which become the first two columns.

    Zhou et al., "On the Continuity of Rotation Representations in Neural Networks" (CVPR 2019).
    """
    a, b = rotations[..., :3], rotations[..., 3:]
    x = F.normalize(a, dim=-1)
    y = F.normalize(b - (x * b).sum(-1, keepdim=True) * x, dim=-1)
    return torch.stack([x, y, torch.linalg.cross(x, y)], dim=-1)


def matrix_to_rotation_6d(matrices: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 6"]:
    """The first two columns, one after the other: the inverse of `rotation_6d_to_matrix`."""
    return rearrange(matrices[..., :2], "... row column -> ... (column row)")


def axis_angle_to_matrix(vectors: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
    """Rodrigues' formula; the length of a vector is its angle in radians."""
    return rodrigues(vectors.reshape(-1, 3)).view(*vectors.shape[:-1], 3, 3)


class HandModel(nn.Module):
    """MANO for both hands: rotations and shape to vertices and 21 joints.

    Args:
        path: folder with the licensed MANO_RIGHT and MANO_LEFT (`.npz` before `.pkl`);
            None is the built-in hand.

    Attributes:
        faces: (hand, 1538, 3) NumPy integers, counter-clockwise seen from outside.
        part: (778,) NumPy integers, the MANO joint of largest skinning weight, for both hands.
        template: (hand, 778, 3) rest pose, mean shape, metres, as the file places it.
        mean_pose: (hand, 45) axis-angle pose that MANO adds to a pose of zeros.

    Raises:
        InputError: a file is missing, cannot be read, or is not a MANO hand.
    """

    faces: Int[np.ndarray, "hand 1538 3"]
    part: Int[np.ndarray, "778"]
    template: Float[Tensor, "hand 778 3"]
    mean_pose: Float[Tensor, "hand 45"]
    shapedirs: Float[Tensor, "hand 778 3 10"]
    posedirs: Float[Tensor, "hand 135 2334"]
    regressor: Float[Tensor, "hand 16 778"]
    weights: Float[Tensor, "hand 778 16"]
    tips: Int[Tensor, "5"]
    order: Int[Tensor, "21"]

    def __init__(self, path: str | Path | None = None):
        super().__init__()
        right, left = (read_hand(Path(path or ASSETS), side) for side in HANDS)
        if left_is_unmirrored(right, left):  # as MANO_LEFT is published
            left["shapedirs"][:, 0] *= -1
        both = {name: np.stack([right[name], left[name]]) for name in FIELDS}
        self.faces = both["f"].astype(np.int64)
        self.part = right["weights"].argmax(1)
        self.parents = np.array(PARENTS)  # no tensor: lbs reads numbers, which export must know
        posedirs = rearrange(both["posedirs"], "hand vertex xyz pose -> hand pose (vertex xyz)")
        for name, values in {
            "template": both["v_template"],
            "mean_pose": both["hands_mean"],
            "shapedirs": both["shapedirs"],
            "posedirs": posedirs,
            "regressor": both["J_regressor"],
            "weights": both["weights"],
            # Lists would be copied to the device, which waits for them, at every call.
            "tips": FINGERTIPS,
            "order": MANO_TO_JOINTS,
        }.items():
            # Not persistent, so that no checkpoint carries MANO's licensed data.
            self.register_buffer(name, torch.as_tensor(values), persistent=False)

    @property
    def topology(self) -> HandTopology:
        """What rasterising needs."""
        return HandTopology(self.faces, self.template.numpy(force=True), self.part)

    def mano_rotations(
        self, pose: Float[Tensor, "*batch hand 48"]
    ) -> Float[Tensor, "*batch hand 16 3 3"]:
        """Full rotations from MANO's axis-angle pose, by adding the mean pose to the 15 joints.

        Args:
            pose: global_orient (3) and hand_pose (45), radians, as InterHand2.6M stores them:
                relative to the mean pose (`flat_hand_mean=False`), not PCA coefficients.
        """
        full = pose + F.pad(self.mean_pose, (3, 0))
        return axis_angle_to_matrix(rearrange(full, "... (joint xyz) -> ... joint xyz", xyz=3))

    def forward(
        self,
        rotations: Float[Tensor, "*batch hand 16 3 3"],
        betas: Float[Tensor, "*batch hand 10"],
    ) -> Hands:
        """Vertices and joints of both hands.

        Args:
            rotations: full rotation matrices, the mean pose included; index 0 is global_orient.
            betas: MANO's shape coefficients.

        Returns:
            vertices (*batch, hand, 778, 3) and joints (*batch, hand, 21, 3): metres, in the axes
            of global_orient, wrist (MANO's joint 0) at the origin; float32 even under autocast.
        """
        hands = [self.single(i, rotations[..., i, :, :, :], betas[..., i, :]) for i in (0, 1)]
        vertices, joints = (torch.stack(values, -3) for values in zip(*hands, strict=True))
        return Hands(vertices, joints)

    def single(
        self,
        side: int,
        rotations: Float[Tensor, "*batch 16 3 3"],
        betas: Float[Tensor, "*batch 10"],
    ) -> Hands:
        """As `forward`, for right hands only (side 0) or left hands only (side 1)."""
        batch = betas.shape[:-1]
        if not betas.numel():  # lbs cannot
            points = self.template.new_zeros(*batch, VERTICES + JOINTS, 3)
            return Hands(*points.split([VERTICES, JOINTS], dim=-2))
        with torch.autocast(betas.device.type, enabled=False):
            vertices, joints = lbs(
                betas.reshape(-1, 10).to(self.template.dtype),
                rotations.reshape(-1, 16, 3, 3).to(self.template.dtype),
                self.template[side],
                self.shapedirs[side],
                self.posedirs[side],
                self.regressor[side],
                self.parents,
                self.weights[side],
                pose2rot=False,
            )
        wrist = joints[:, :1]
        joints = torch.cat([joints, vertices[:, self.tips]], dim=1)[:, self.order]
        return Hands(
            (vertices - wrist).view(*batch, -1, 3),
            (joints - wrist).view(*batch, -1, 3),
        )

    def wrist_rest(self, betas: Float[Tensor, "*batch hand 10"]) -> Float[Tensor, "*batch hand 3"]:
        """Where the wrist is for a shape, metres: global_orient turns about it, transl adds to it.

        In smplx's coordinates the wrist of a hand is at `wrist_rest(betas) + transl`.
        """
        template, shapedirs = (
            torch.einsum("hv,hv...->h...", self.regressor[:, 0], values)
            for values in (self.template, self.shapedirs)
        )
        betas = betas.to(shapedirs.dtype)
        return template + torch.einsum("hck,...hk->...hc", shapedirs, betas)

    def regress_joints(
        self, vertices: Float[Tensor, "*batch hand 778 3"]
    ) -> Float[Tensor, "*batch hand 21 3"]:
        """Joints read off any mesh, posed by MANO or not: J_regressor and the five fingertips.

        A refined mesh has no skeleton, so that true and predicted joints are both read this way.
        On a bent finger they lie a few millimetres from the joints the skeleton turns about.
        """
        vertices = vertices.to(self.regressor.dtype)
        with torch.autocast(vertices.device.type, enabled=False):
            joints = einsum(self.regressor, vertices, "hand j v, ... hand v xyz -> ... hand j xyz")
        tips = vertices[..., self.tips, :]
        return torch.cat([joints, tips], dim=-2)[..., self.order, :]
