"""MPJPE, MPVPE and 2D MPVPE under named protocols, averaged over the hands that are present.

Papers on InterHand2.6M align prediction and truth in different ways before they measure, and
seldom say which: their numbers compare only under the same protocol.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from dne_lib.config import HAND_UNIT, PARTS
from dne_lib.files import InputError

Protocol = Literal["wrist", "mcp", "mcp-scaled", "procrustes"]
PROTOCOLS: tuple[Protocol, ...] = get_args(Protocol)
GROUPS = ("SH", "IH", "All")  # single-hand images, interacting-hand images, both
WRIST, MIDDLE_MCP = 0, 9
MILLIMETRES = 1000 * HAND_UNIT  # in one hand unit
PIXELS = 128  # at 256 pixels, in one unit of normalised device coordinates


def procrustes(
    points: Float[Tensor, "*batch point 3"],
    target: Float[Tensor, "*batch point 3"],
    weight: Float[Tensor, "*batch point"],
) -> Float[Tensor, "*batch point 3"]:
    """Points after the similarity (rotation, scale, translation) that best fits the target.

    Umeyama's least-squares solution; a mirror image is never used. Points of weight 0 are moved
    along without a say; where every weight is 0 the points come back merely finite.
    """
    weight = weight[..., None] / weight.sum(-1)[..., None, None].clamp(min=1e-12)
    points_mean = (weight * points).sum(-2, keepdim=True)
    target_mean = (weight * target).sum(-2, keepdim=True)
    centred, centred_target = points - points_mean, target - target_mean
    covariance = (weight * centred_target).mT @ centred
    u, singular, vh = torch.linalg.svd(covariance)
    signs = torch.ones_like(singular)
    signs[..., 2] = torch.sign(torch.linalg.det(u @ vh))
    rotation = (u * signs[..., None, :]) @ vh
    spread = (weight * centred.square()).sum((-1, -2)).clamp(min=1e-12)
    scale = (singular * signs).sum(-1) / spread
    return scale[..., None, None] * centred @ rotation.mT + target_mean


def check_protocol(protocol: str) -> None:
    """Refuse a protocol that there is not: measured by another one, it would not be noticed.

    Raises:
        InputError: names those that there are.
    """
    if protocol not in PROTOCOLS:
        raise InputError(f"protocol {protocol!r}: use {' or '.join(PROTOCOLS)}")


def aligned(
    points: Float[Tensor, "*batch point 3"],
    joints: Float[Tensor, "*batch 21 3"],
    target: Float[Tensor, "*batch point 3"],
    target_joints: Float[Tensor, "*batch 21 3"],
    weight: Float[Tensor, "*batch point"],
    protocol: Protocol,
) -> tuple[Float[Tensor, "*batch point 3"], Float[Tensor, "*batch point 3"]]:
    """Predicted and true points as the protocol compares them."""
    check_protocol(protocol)
    if protocol == "procrustes":
        return procrustes(points, target, weight), target
    root = WRIST if protocol == "wrist" else MIDDLE_MCP
    points = points - joints[..., None, root, :]
    target = target - target_joints[..., None, root, :]
    if protocol == "mcp-scaled":
        bone = (joints[..., MIDDLE_MCP, :] - joints[..., WRIST, :]).norm(dim=-1)
        true = (target_joints[..., MIDDLE_MCP, :] - target_joints[..., WRIST, :]).norm(dim=-1)
        points = points * (true / bone.clamp(min=1e-6))[..., None, None]
    return points, target


def mpvpe(
    vertices: Float[Tensor, "batch hand vertex 3"],
    joints: Float[Tensor, "batch hand 21 3"],
    true_vertices: Float[Tensor, "batch hand vertex 3"],
    true_joints: Float[Tensor, "batch hand 21 3"],
    protocol: Protocol = "wrist",
) -> Float[Tensor, "batch hand"]:
    """Mean distance of the vertices from the true ones, millimetres, for every hand.

    Args:
        vertices, true_vertices: hand units; any root, for the protocol sets its own.
        joints, true_joints: of the same hands, in the same frames: they give root and scale.
        protocol: `wrist` and `mcp` put that joint of both at the origin (middle finger's MCP);
            `mcp-scaled` then makes the bone from wrist to MCP equally long; `procrustes` fits
            a similarity.
    """
    weight = torch.ones_like(vertices[..., 0])
    found, true = aligned(vertices, joints, true_vertices, true_joints, weight, protocol)
    return (found - true).norm(dim=-1).mean(-1) * MILLIMETRES


def mpjpe(
    joints: Float[Tensor, "batch hand 21 3"],
    true_joints: Float[Tensor, "batch hand 21 3"],
    valid: Bool[Tensor, "batch hand 21"],
    protocol: Protocol = "wrist",
) -> Float[Tensor, "batch hand"]:
    """Mean distance of the valid joints from the true ones, millimetres, for every hand.

    The wrist or MCP that a protocol puts at the origin counts as a joint of error 0, as in the
    published code. (InterNet's takes the mean over hands for each joint, then over joints; where
    all joints are known that is the same.) A hand without one valid joint gets 0: leave it out with
    a mask.

    Args:
        joints, true_joints: hand units; any root.
        valid: joints whose truth is known; the others take no part.
        protocol: as for `mpvpe`.
    """
    weight = valid.to(joints.dtype)
    found, true = aligned(joints, joints, true_joints, true_joints, weight, protocol)
    distance = (found - true).norm(dim=-1)
    return (weight * distance).sum(-1) / weight.sum(-1).clamp(min=1) * MILLIMETRES


def roots_valid(
    valid: Bool[Tensor, "batch hand 21"], protocol: Protocol
) -> Bool[Tensor, "batch hand"]:
    """Hands whose joints can be measured: those the protocol aligns by are known."""
    check_protocol(protocol)
    if protocol == "wrist":
        return valid[..., WRIST]
    if protocol == "mcp":
        return valid[..., MIDDLE_MCP]
    if protocol == "mcp-scaled":
        return valid[..., WRIST] & valid[..., MIDDLE_MCP]
    return valid.sum(-1) >= 3


def mpvpe_2d(
    points: Float[Tensor, "batch hand vertex 2"],
    true_points: Float[Tensor, "batch hand vertex 2"],
) -> Float[Tensor, "batch hand"]:
    """Mean distance in the image, pixels of a 256-pixel crop, for every hand.

    Args:
        points: normalised device coordinates.
        true_points: the true perspective projections, not those of an orthographic camera.
    """
    return (points - true_points).norm(dim=-1).mean(-1) * PIXELS


@dataclass
class Scores:
    """Running means of errors over hands: single-hand images, interacting ones, and all hands.

    `All` is the mean over the hands present, so that its mix of SH and IH is that of the data;
    `weights` tells it.
    """

    sums: dict[str, dict[str, float]] = field(default_factory=dict)
    hands: dict[str, dict[str, int]] = field(default_factory=dict)

    def update(
        self,
        name: str,
        errors: Float[Tensor, "batch hand"],
        counted: Bool[Tensor, "batch hand"],
        interacting: Bool[Tensor, "batch"],
    ) -> None:
        """Add the errors of the counted hands of a batch under a name."""
        sums = self.sums.setdefault(name, dict.fromkeys(GROUPS, 0.0))
        hands = self.hands.setdefault(name, dict.fromkeys(GROUPS, 0))
        both = interacting[:, None]
        for group, mask in zip(GROUPS, (counted & ~both, counted & both, counted), strict=True):
            sums[group] += errors[mask].double().sum().item()
            hands[group] += int(mask.sum())

    def means(self, name: str) -> dict[str, float | None]:
        """Mean error of each group; None for a group without hands."""
        counts = self.hands[name]
        return {g: self.sums[name][g] / counts[g] if counts[g] else None for g in GROUPS}

    def weights(self, name: str) -> dict[str, float]:
        """The share of `All` that each group makes up."""
        counts = self.hands[name]
        return {g: counts[g] / max(counts["All"], 1) for g in ("SH", "IH")}


class Breakdown:
    """Running means of errors over the hands of images that have a name in common.

    Args:
        names: of every image of the data set: its sequence, or its camera.
    """

    def __init__(self, names: Sequence[str]):
        self.names, self.place = np.unique(np.asarray(names, np.str_), return_inverse=True)
        self.sums: dict[str, np.ndarray] = {}
        self.hands: dict[str, np.ndarray] = {}

    def update(
        self,
        name: str,
        errors: Float[Tensor, "batch hand"],
        counted: Bool[Tensor, "batch hand"],
        index: Int64[Tensor, "batch"],
    ) -> None:
        """Add the errors of the counted hands of a batch under a name.

        Args:
            index: places of the images in the data set.
        """
        image, _ = torch.nonzero(counted, as_tuple=True)
        place, length = self.place[index[image].numpy()], len(self.names)
        sums = np.bincount(place, errors[counted].double().numpy(), length)
        hands = np.bincount(place, minlength=length)
        self.sums[name] = self.sums.get(name, 0.0) + sums
        self.hands[name] = self.hands.get(name, 0) + hands

    def means(self) -> dict[str, dict[str, dict[str, float | int]]]:
        """By common name and by error: `hands` counted and their `mean`; none that has no hand."""
        result: dict[str, dict[str, dict[str, float | int]]] = {}
        for error, hands in self.hands.items():
            for i in np.flatnonzero(hands):
                entry = {"hands": int(hands[i]), "mean": float(self.sums[error][i] / hands[i])}
                result.setdefault(str(self.names[i]), {})[error] = entry
        return dict(sorted(result.items()))


def part_confusion(
    parts: Int64[Tensor, "batch height width"],
    true_parts: Int64[Tensor, "batch height width"],
    known: Bool[Tensor, "batch height width"],
) -> Int64[Tensor, "part part"]:
    """Counts of the pixels that are known: rows the true part, columns the predicted one."""
    pairs = true_parts[known] * PARTS + parts[known]
    return torch.bincount(pairs, minlength=PARTS * PARTS).reshape(PARTS, PARTS)


def part_scores(confusion: Int64[Tensor, "part part"]) -> dict[str, float]:
    """Accuracy over all pixels and over the hands' pixels, and mean IoU of the parts seen."""
    counts = confusion.double()
    hit = counts.diagonal()
    union = counts.sum(0) + counts.sum(1) - hit
    seen = counts.sum(1) > 0
    return {
        "accuracy": (hit.sum() / counts.sum().clamp(min=1)).item(),
        "hand_accuracy": (hit[1:].sum() / counts[1:].sum().clamp(min=1)).item(),
        "iou": (hit[seen] / union[seen]).mean().item() if seen.any() else 0.0,
    }
