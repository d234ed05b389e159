"""The orthographic camera of the paper: projecting with it (Eq. 5), solving for it (Eq. 6-7)."""

from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

Points = TypeVar("Points", np.ndarray, Tensor)


def project(
    vertices: Float[Tensor, "*#batch vertex 3"],
    camera: Float[Tensor, "*#batch 2 2"],
) -> Float[Tensor, "*#batch vertex 2"]:
    """Orthographic projection, u = s v + t on each image axis (Eq. 5).

    Args:
        vertices: root-relative, hand units, camera frame.
        camera: rows x and y; columns scale and translation. Batch axes broadcast.

    Returns:
        Normalised device coordinates: x right, y down, the image spans [-1, 1].
    """
    scale, translation = camera.unsqueeze(-3).unbind(-1)
    return scale * vertices[..., :2] + translation


def ridge_camera(
    vertices: Float[Tensor, "*#batch vertex 3"],
    points: Float[Tensor, "*#batch vertex 2"],
    ridge: float,
) -> Float[Tensor, "*#batch 2 2"]:
    """The orthographic camera that best maps vertices to image points (Eq. 6-7).

    Eq. 6 is printed with the wrong sign of t (lesson 8): meant is |u - (s v + t)|². The paper's V
    has no column of ones, so its closed form holds no translation; here each image
    axis is its own two-parameter ridge regression on A = [v, 1]: c = (AᵀA + ξI)⁻¹Aᵀu.

    Args:
        vertices: root-relative, hand units, camera frame. Batch axes broadcast.
        points: normalised device coordinates.
        ridge: ξ > 0; keeps the solution finite when the vertices collapse to one point.

    Returns:
        Rows x and y; columns scale and translation.
    """
    v, u = vertices[..., :2], points.to(vertices.dtype)
    n = v.shape[-2]
    v_mean, u_mean = v.mean(-2), u.mean(-2)
    dv, du = v - v_mean.unsqueeze(-2), u - u_mean.unsqueeze(-2)
    # Cramer's rule on the 2x2 system subtracts sums that nearly cancel, which float32 cannot
    # bear; the same solution written with deviations from the means only adds.
    shrink = n * ridge / (n + ridge)
    covariance = (dv * du).sum(-2) + shrink * v_mean * u_mean
    variance = (dv * dv).sum(-2) + shrink * v_mean * v_mean
    scale = covariance / (variance + ridge)
    translation = (u_mean - scale * v_mean) * n / (n + ridge)
    return torch.stack([scale, translation], dim=-1)


def ndc_to_pixels(points: Points, size: int) -> Points:
    """Normalised device coordinates to pixels of a square image `size` wide.

    The centre of the first pixel is 0.0, so -1 is its outer edge at -0.5 (`align_corners=False`).
    """
    return (points + 1) * (size / 2) - 0.5


def pixels_to_ndc(points: Points, size: int) -> Points:
    """The inverse of `ndc_to_pixels`."""
    return (points + 0.5) * (2 / size) - 1
