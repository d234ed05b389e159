"""From pose, shape and camera of the hands in an image to every target of the network."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dne_lib.camera import pixels_to_ndc, ridge_camera
from dne_lib.config import HAND_UNIT, JOINTS, VERTICES, ModelConfig
from dne_lib.data.augment import (
    Augmentation,
    apply_affine,
    change_points,
    change_rotations,
    crop_affine,
    swap_hands,
)
from dne_lib.files import InputError
from dne_lib.mano import HandModel, matrix_to_rotation_6d
from dne_lib.rasterize import auxiliary_maps

# What the points of a hand are, in the order in which they are projected.
MESH_JOINTS = slice(VERTICES, VERTICES + JOINTS)
TRIANGULATED = slice(VERTICES + JOINTS, None)


class Labels(NamedTuple):
    """What is known of a batch of images; camera frames (x right, y down, z forward), metres."""

    present: Bool[np.ndarray, "batch hand"]  # at least one in each image
    rotations: Float[np.ndarray, "batch hand 16 3 3"]  # mean pose included (`mano_rotations`)
    betas: Float[np.ndarray, "batch hand 10"]
    wrist: Float[np.ndarray, "batch hand 3"]  # MANO's first joint
    focal: Float[np.ndarray, "batch 2"]  # pixels of the image
    principal: Float[np.ndarray, "batch 2"]  # likewise, the centre of the first pixel being 0
    joint_valid: Bool[np.ndarray, "batch hand 21"]
    interacting: Bool[np.ndarray, "batch"]  # reported as IH, not SH
    # Joints known by other means than MANO, from the wrist; zero where unknown.
    triangulated: Float[np.ndarray, "batch hand 21 3"]


def targets(
    labels: Labels,
    hands: HandModel,
    config: ModelConfig,
    margin: float,
    changes: Sequence[Augmentation],
) -> dict[str, Tensor]:
    """Everything of a sample of `InterHand` but `image` and `index`, batched.

    Args:
        labels: of the images as they are.
        hands: the model that pose and shape are of; on the CPU.
        config: sizes of crop and maps, ridge of the camera.
        margin: of the crop, see `DataConfig.margin`.
        changes: to be made to each image: `Augmentation()` is none.
    """
    size, present, topology = config.image_size, labels.present, hands.topology
    angle = np.array([change.angle for change in changes], np.float32)
    flip = np.array([change.flip for change in changes])

    points = np.zeros((len(present), 2, VERTICES + 2 * JOINTS, 3), np.float32)
    for side in range(2):
        some = present[:, side]
        if not some.any():
            continue
        pose, shape = (x[some, side] for x in (labels.rotations, labels.betas))
        hand = hands.single(side, torch.from_numpy(pose), torch.from_numpy(shape))
        points[some, side, :VERTICES] = hand.vertices.numpy()
    vertices = torch.from_numpy(points[:, :, :VERTICES])
    points[:, :, MESH_JOINTS] = hands.regress_joints(vertices).numpy()
    points[:, :, TRIANGULATED] = labels.triangulated
    wrist = labels.wrist.copy()
    wrist[~present] = (0, 0, 1)  # anywhere before the camera
    pixels = points + wrist[:, :, None]
    pixels = pixels[..., :2] / pixels[..., 2:] * labels.focal[:, None, None]
    pixels += labels.principal[:, None, None]

    seen = present[:, :, None, None]
    low = np.where(seen, pixels, np.inf)[:, :, :VERTICES].min((1, 2))
    high = np.where(seen, pixels, -np.inf)[:, :, :VERTICES].max((1, 2))
    boxes = np.concatenate([low, high], axis=-1)
    affines = np.array(
        [crop_affine(box, margin, size, change) for box, change in zip(boxes, changes, strict=True)]
    )
    pixels = np.array([apply_affine(p, a) for p, a in zip(pixels, affines, strict=True)])

    points = change_points(points, angle, flip)
    rotations = change_rotations(labels.rotations, angle, flip)
    present, betas, depth, valid, projections = (
        swap_hands(values, flip)
        for values in (
            present,
            labels.betas,
            wrist[..., 2],
            labels.joint_valid & present[..., None],
            pixels_to_ndc(pixels, size).astype(np.float32),
        )
    )
    absent = ~present
    rotations[absent], betas[absent], projections[absent] = 0, 0, 0
    maps = [
        auxiliary_maps(
            projections[n, :, :VERTICES],
            projections[n, :, MESH_JOINTS],
            points[n, :, :VERTICES],
            depth[n],
            present[n],
            valid[n],
            topology,
            config.feature_size,
        )
        for n in range(len(present))
    ]
    units = torch.from_numpy(points / np.float32(HAND_UNIT))
    vertices_2d = torch.from_numpy(projections[:, :, :VERTICES])
    cameras = ridge_camera(units[:, :, :VERTICES], vertices_2d, config.ridge)
    return {
        "present": torch.from_numpy(present),
        "interacting": torch.from_numpy(labels.interacting),
        "vertices": units[:, :, :VERTICES],
        "joints": units[:, :, MESH_JOINTS],
        "triangulated": units[:, :, TRIANGULATED],
        "vertices_2d": vertices_2d,
        "joints_2d": torch.from_numpy(projections[:, :, MESH_JOINTS]),
        "joint_valid": torch.from_numpy(valid),
        "pose": matrix_to_rotation_6d(torch.from_numpy(rotations)),
        "betas": torch.from_numpy(betas),
        "camera": torch.where(torch.from_numpy(present)[..., None, None], cameras, 0.0),
        "crop": torch.from_numpy(affines.astype(np.float32)),
    } | {name: torch.stack([torch.from_numpy(m[name]) for m in maps]) for name in maps[0]}


def check_sample(sample: Mapping[str, Any], config: ModelConfig) -> None:
    """Reject a sample of anyone's data set that the network could not be trained on.

    Raises:
        InputError: names what is missing, of another shape or type, or out of range.
    """
    size, side = config.image_size, config.feature_size
    floats = {
        "image": (3, size, size),
        "vertices": (2, VERTICES, 3),
        "joints": (2, JOINTS, 3),
        "vertices_2d": (2, VERTICES, 2),
        "pose": (2, 16, 6),
        "betas": (2, 10),
        "camera": (2, 2, 2),
        "depth": (1, side, side),
        "normals": (3, side, side),
        "heatmaps": (2 * JOINTS, side, side),
        "densepose": (3, side, side),
    }
    flags = {"present": (2,), "interacting": (), "joint_valid": (2, JOINTS)}
    wanted = {name: (shape, torch.float32) for name, shape in floats.items()}
    wanted |= {name: (shape, torch.bool) for name, shape in flags.items()}
    wanted["parts"] = (side, side), torch.int64
    for name, (shape, dtype) in wanted.items():
        if name not in sample:
            raise InputError(f"a sample of the data set has no {name}: see `data.targets.targets`")
        value = torch.as_tensor(sample[name])
        if value.shape != shape or value.dtype != dtype:
            raise InputError(
                f"a sample's {name} is {value.dtype}, {list(value.shape)}: give {dtype}, "
                f"{list(shape)}"
            )
        if not value.isfinite().all():
            raise InputError(f"a sample's {name} holds what is no number")
    if not 0 <= sample["image"].min() <= sample["image"].max() <= 1:
        raise InputError("a sample's image is not between 0 and 1: divide by 255")
