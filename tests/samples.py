"""Samples made from the hand model alone, for tests that need labels but no photographs."""

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor
from torch.utils.data import default_collate

from dne_lib.camera import ridge_camera
from dne_lib.config import HAND_UNIT, ModelConfig
from dne_lib.mano import HandModel, matrix_to_rotation_6d
from dne_lib.rasterize import auxiliary_maps

CONFIG = ModelConfig(
    backbone="resnet18", stages=2, pretrained=False, image_size=64, feature_size=16,
    channels=8, modules=2, samples=2, vertex_embedding=4,
)  # fmt: skip
FOCAL = 12.0  # NDC


def make_sample(hands: HandModel, seed: int, present: tuple[bool, bool]) -> dict[str, Tensor]:
    """Hands turned at random before a perspective camera; the image is grey."""
    rng = np.random.default_rng(seed)
    eye = np.tile(np.eye(3, dtype=np.float32), (2, 16, 1, 1))
    eye[:, 0] = Rotation.random(2, rng=rng).as_matrix()
    mesh = hands(torch.from_numpy(eye), torch.zeros(2, 10))
    there = np.array(present)
    where = there.astype(np.float32)[:, None, None]
    points = torch.cat([mesh.vertices, mesh.joints], dim=1).numpy() * where
    root = np.array([[-0.06, 0.0, 1.2], [0.06, 0.01, 1.25]], np.float32)
    placed = points + root[:, None]
    flat = (FOCAL * 0.45 * placed[..., :2] / placed[..., 2:] * where).astype(np.float32)
    valid = np.tile(there[:, None], (1, 21))
    topology, size = hands.topology, CONFIG.feature_size
    maps = auxiliary_maps(
        flat[:, :778], flat[:, 778:], points[:, :778], root[:, 2], there, valid, topology, size
    )
    units = torch.from_numpy(points / np.float32(HAND_UNIT))
    camera = ridge_camera(units[:, :778], torch.from_numpy(flat[:, :778]), CONFIG.ridge)
    return {
        "image": torch.full((3, CONFIG.image_size, CONFIG.image_size), 0.5),
        "present": torch.tensor(present),
        "interacting": torch.tensor(all(present)),
        "vertices": units[:, :778],
        "joints": units[:, 778:],
        "triangulated": units[:, 778:] + torch.tensor([[0.0]] + 20 * [[0.021]]),
        "vertices_2d": torch.from_numpy(flat[:, :778]),
        "joint_valid": torch.from_numpy(valid),
        "pose": matrix_to_rotation_6d(torch.from_numpy(eye)) * torch.from_numpy(where),
        "betas": torch.zeros(2, 10),
        "camera": camera * torch.from_numpy(where),
        "index": torch.tensor(seed),
        **{name: torch.from_numpy(values) for name, values in maps.items()},
    }


def make_batch(hands: HandModel) -> dict[str, Tensor]:
    """One right hand, one left hand, both."""
    kinds = [(True, False), (False, True), (True, True)]
    return default_collate([make_sample(hands, i, kind) for i, kind in enumerate(kinds)])
