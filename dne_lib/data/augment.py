"""Crops and augmentation: one affine map for the image, the same change for every 3D target.

A change is: turn the image about the centre of the hands (rotation about the camera's z axis),
resize, shift, and last of all mirror. Points are pixel coordinates of which the centre of the
first pixel is 0.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

from dne_lib.config import DataConfig, check_fields
from dne_lib.files import InputError

MIRROR = np.diag([-1.0, 1.0, 1.0]).astype(np.float32)
PAPER_NOISE = 0.3


@dataclass(frozen=True)
class Augmentation:
    """One change of a sample; the defaults change nothing."""

    angle: float = 0.0  # radians about the camera's z axis, from x (right) to y (down)
    scale: float = 1.0  # of the side of the crop
    shift: tuple[float, float] = (0.0, 0.0)  # of the hands in the crop, pixels at 256
    flip: bool = False  # mirror in x, after everything else; hands swap
    gain: float = 1.0  # of brightness
    noise: float = 0.0  # standard deviation added to pixels, of full range


def check_data_config(data: DataConfig) -> None:
    """Reject changes that cannot be made.

    Raises:
        InputError: names the field, its value and what it may be.
    """
    check_fields(data, "data")
    for name in ("scale", "brightness"):
        if not 0 <= getattr(data, name) < 1:
            raise InputError(f"data.{name} is {getattr(data, name)}: 0.1 is ten per cent")
    for name in ("rotation", "shift", "noise"):
        if getattr(data, name) < 0:
            raise InputError(f"data.{name} is {getattr(data, name)}: it cannot be negative")
    if not 0.1 <= data.margin <= 100:
        raise InputError(f"data.margin is {data.margin}: it must be from 0.1 to 100")
    if data.rotation > 360:
        raise InputError(f"data.rotation is {data.rotation}: 360 degrees are all there are")


def draw(rng: np.random.Generator, data: DataConfig) -> Augmentation:
    """Draw one change, uniform within the ranges of the configuration."""
    return Augmentation(
        angle=math.radians(rng.uniform(-data.rotation, data.rotation)),
        scale=rng.uniform(1 - data.scale, 1 + data.scale),
        shift=(rng.uniform(-data.shift, data.shift), rng.uniform(-data.shift, data.shift)),
        flip=bool(rng.random() < 0.5) and data.flip,
        gain=rng.uniform(1 - data.brightness, 1 + data.brightness),
        noise=PAPER_NOISE if data.paper_noise else data.noise,
    )


def crop_affine(
    box: Float[np.ndarray, "4"], margin: float, size: int, change: Augmentation
) -> Float[np.ndarray, "2 3"]:
    """The map from pixels of the image to pixels of the crop.

    Args:
        box: x0, y0, x1, y1 around the hands; the crop is a square around its centre.
        margin: side of the crop over the longer side of the box.
        size: pixels along the side of the crop.
    """
    low, high = box[:2], box[2:]
    side = margin * change.scale * float((high - low).max())
    cos, sin = math.cos(change.angle), math.sin(change.angle)
    linear = np.array([[cos, -sin], [sin, cos]]) * (size / side)
    target = (size - 1) / 2 + np.array(change.shift) * (size / 256)
    affine = np.column_stack([linear, target - linear @ ((low + high) / 2)])
    if change.flip:
        affine[0] *= -1
        affine[0, 2] += size - 1
    return affine


def apply_affine(
    points: Float[np.ndarray, "*batch 2"], affine: Float[np.ndarray, "2 3"]
) -> Float[np.ndarray, "*batch 2"]:
    """Map points by an affine, e.g. from the image to the crop."""
    return points @ affine[:, :2].T + affine[:, 2]


def minification(affine: Float[np.ndarray, "2 3"]) -> float:
    """Pixels of the source along one pixel of the crop."""
    return 1 / math.sqrt(abs(np.linalg.det(affine[:, :2])))


def reduction(affine: Float[np.ndarray, "2 3"]) -> int:
    """By how much a JPEG may be shrunk as it is decoded (1, 2, 4 or 8) without losing detail."""
    return max(r for r in (1, 2, 4, 8) if r == 1 or minification(affine) >= r)


def shrink(
    image: UInt8[np.ndarray, "height width 3"], by: int
) -> UInt8[np.ndarray, "low narrow 3"]:
    """Means of blocks of pixels; what is left over on the right and below is cut off."""
    height, width = (by * (length // by) for length in image.shape[:2])
    size = (width // by, height // by)
    shrunk = cv2.resize(image[:height, :width], size, interpolation=cv2.INTER_AREA)
    return shrunk.astype(np.uint8)


def crop_image(
    image: UInt8[np.ndarray, "height width 3"],
    affine: Float[np.ndarray, "2 3"],
    size: int,
    reduced: int = 1,
) -> UInt8[np.ndarray, "size size 3"]:
    """Cut the crop out of an image; what lies outside the image is black.

    Args:
        affine: from pixels of the full image to pixels of the crop.
        reduced: the image was shrunk by this factor, each of its pixels the mean of a block. Where
            it is less than half of `minification(affine)`, pixels are skipped.
    """
    # The centre of reduced pixel k is at full-size pixel r k + (r - 1) / 2.
    linear, offset = affine[:, :2] * reduced, affine[:, :2].sum(1) * (reduced - 1) / 2
    affine = np.column_stack([linear, affine[:, 2] + offset])
    # Bilinear sampling skips pixels when it shrinks; the mean of 2 x 2 samples does not.
    if minification(affine) > 1.5:
        double = affine * 2 + np.array([0, 0, 0.5])
        crop = cv2.warpAffine(image, double, (2 * size, 2 * size), flags=cv2.INTER_LINEAR)
        return cv2.resize(crop, (size, size), interpolation=cv2.INTER_AREA).astype(np.uint8)
    return cv2.warpAffine(image, affine, (size, size), flags=cv2.INTER_LINEAR).astype(np.uint8)


def change_colours(
    crop: UInt8[np.ndarray, "height width 3"], change: Augmentation, rng: np.random.Generator
) -> Float[np.ndarray, "3 height width"]:
    """Brightness and noise; the result is in [0, 1], channels first."""
    pixels = crop.transpose(2, 0, 1).astype(np.float32, order="C") * np.float32(change.gain / 255)
    if change.noise:
        pixels += np.float32(change.noise) * rng.standard_normal(pixels.shape, dtype=np.float32)
    return np.clip(pixels, 0, 1, out=pixels)


def change_points(
    points: Float[np.ndarray, "batch hand point 3"],
    angle: Float[np.ndarray, "batch"],
    flip: Bool[np.ndarray, "batch"],
) -> Float[np.ndarray, "batch hand point 3"]:
    """Turn points about the camera's z axis, then mirror them and swap the hands.

    The mirrored right hand is the target of the left hand as it is, vertex by vertex. For the
    built-in hand, whose left is the mirror of its right, that equals posing the left hand anew;
    for MANO it differs by what the left model differs from the mirrored right.
    The faces of the other hand apply, since they are wound the other way round.
    """
    turned = points @ _about_z(angle)[:, None].swapaxes(-1, -2)
    return swap_hands(np.where(flip[:, None, None, None], turned @ MIRROR, turned), flip)


def change_rotations(
    rotations: Float[np.ndarray, "batch hand joint 3 3"],
    angle: Float[np.ndarray, "batch"],
    flip: Bool[np.ndarray, "batch"],
) -> Float[np.ndarray, "batch hand joint 3 3"]:
    """Turn the first rotation (of the whole hand), then mirror all and swap the hands.

    Mirroring a rotation, M R M with M = diag(-1, 1, 1), negates y and z of its axis-angle.
    """
    turned = rotations.copy()
    turned[:, :, 0] = _about_z(angle)[:, None] @ rotations[:, :, 0]
    mirrored = MIRROR @ turned @ MIRROR
    return swap_hands(np.where(flip[:, None, None, None, None], mirrored, turned), flip)


def swap_hands(values: np.ndarray, flip: Bool[np.ndarray, "batch"]) -> np.ndarray:
    """Exchange right and left (the second axis) in the samples that are mirrored."""
    values = values.copy()
    values[flip] = values[flip][:, ::-1]
    return values


def _about_z(angle: np.ndarray) -> np.ndarray:
    """Rotation matrices "batch 3 3"."""
    turn = np.zeros((len(angle), 3, 3), np.float32)
    turn[:, 0, 0] = turn[:, 1, 1] = np.cos(angle)
    turn[:, 1, 0] = np.sin(angle)
    turn[:, 0, 1] = -np.sin(angle)
    turn[:, 2, 2] = 1
    return turn
