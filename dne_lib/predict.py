"""From any photograph to hand meshes: find the hands, run the network, draw and export."""

import io
import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from PIL import ExifTags, Image
from torch import Tensor

from dne_lib.camera import ndc_to_pixels, project
from dne_lib.config import HAND_UNIT, HANDS, Config
from dne_lib.data.augment import (
    Augmentation,
    apply_affine,
    crop_affine,
    crop_image,
    minification,
    shrink,
)
from dne_lib.files import InputError, claim_folder, read_bytes, write_bytes
from dne_lib.model import DualNoiseNetwork
from dne_lib.model.noise import Calibration, as_trained, radius, refined_way
from dne_lib.plots import ERROR_COLOURS, draw_hands, placed

if TYPE_CHECKING:
    import trimesh  # imported where meshes are made: it takes most of a second

# A hand fills some 20 % of a crop made for it, and a third of that when the other hides most of
# it; stray pixels of the part map stay well below 1 %.
PRESENT = 0.01
SOUGHT = 0.0025  # the same while looking for hands in a whole image, where they are smaller
SPECK = 0.1  # of the largest piece
# Parts of one hand are now and then taken for the other's, up to some tenth of the hand. A real
# second hand fills less only where the first hides nearly all of it.
BESIDE = 0.1
LOST = 30  # mm within which half of the vertices are: beyond it most hands are wrong altogether
LARGEST = 100  # times the image: a box around it in which no hand could be seen

# What EXIF's orientations say is to be done to an image.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
DEEP = ("I", "F")  # Pillow's modes of such images, which it would clip to 8 bits, not scale

Box = tuple[float, float, float, float]  # x, y of the top left corner, width, height; pixels


@dataclass
class Prediction:
    """The hands in one image; an absent hand's numbers mean nothing."""

    image: UInt8[np.ndarray, "height width 3"]
    crop: Float[np.ndarray, "2 3"]  # pixels of the image to pixels of the network's input
    present: Bool[np.ndarray, "hand"]
    # Metres, camera frame, from the coarse mesh's wrist: that of the refined one (the first joint)
    # may be a millimetre away.
    vertices: Float[np.ndarray, "hand 778 3"]
    joints: Float[np.ndarray, "hand 21 3"]  # likewise
    camera: Float[np.ndarray, "hand 2 2"]  # in the crop: hand units to NDC
    points: Float[np.ndarray, "hand 778 2"]  # vertices in pixels of the image
    joint_points: Float[np.ndarray, "hand 21 2"]  # joints likewise
    parts: Int[np.ndarray, "S S"]  # part map of the crop
    size: int  # of the crop, pixels
    faces: Int[np.ndarray, "hand 1538 3"]
    # Half of such vertices are within this distance of the truth, metres (`noise.radius`);
    # None from a network without modules, which says nothing of it.
    spread: Float[np.ndarray, "hand 778"] | None = None
    calibration: Calibration | None = None  # None: the spread was never held against errors

    @property
    def half_within(self) -> list[float | None]:
        """For each hand the mean of its spread, millimetres."""
        if self.spread is None:
            return [None] * len(HANDS)
        return (1000 * self.spread.mean(axis=1, dtype=np.float64)).tolist()

    @property
    def image_camera(self) -> Float[np.ndarray, "hand 2 2"]:
        """The camera in pixels of the image: `points` are scale * vertices[..., :2] + translation.

        Rows x and y; columns scale (pixels a metre) and translation (pixels).
        """
        half, sides = self.size / 2, self.crop[:, :2].diagonal()
        scale = self.camera[..., 0] * half / HAND_UNIT
        shift = (self.camera[..., 1] + 1) * half - 0.5 - self.crop[:, 2]
        return np.stack([scale, shift], axis=-1) / sides[:, None]

    @property
    def placed(self) -> Float[np.ndarray, "hand 778 3"]:
        """Both hands in one camera frame, metres; their distance is a guess (`plots.placed`)."""
        return placed(self.vertices / np.float32(HAND_UNIT), self.camera) * np.float32(HAND_UNIT)


def read_photo(path: Path) -> UInt8[np.ndarray, "height width 3"]:
    """Decode an image as RGB, turned as its EXIF orientation says.

    Raises:
        InputError: the file is missing, no image, truncated, too large, or grey of more than 8
            bits.
    """
    data = read_bytes(path, "check the name of the image", "give an image file that you may read")
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.mode.startswith(DEEP):
                raise InputError(f"{path} has more than 8 bits a pixel: save it with 8")
            # First: Pillow turns a TIFF while it reads it, and then says that it is upright.
            pixels = image.convert("RGB")
            # Pillow's own turning writes the EXIF anew, and fails where other fields are odd.
            turn = TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
            return np.array(pixels if turn is None else pixels.transpose(turn))
    except Image.UnidentifiedImageError:
        raise InputError(f"{path} is not an image: give a JPEG or PNG") from None
    except Image.DecompressionBombError as error:
        raise InputError(f"{path} is too large ({error}): make it smaller") from None
    except InputError:
        raise
    except (OSError, SyntaxError, ValueError, TypeError, struct.error) as error:
        raise InputError(
            f"{path} cannot be read as an image ({error}): it may be cut short, copy it again"
        ) from None


def check_pixels(pixels: np.ndarray) -> None:
    """Reject an array that is not RGB of 0 to 255: other kinds would be read as something else.

    Raises:
        InputError: another shape or type.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        raise InputError(
            f"the image is an array of {pixels.dtype}, {' x '.join(map(str, pixels.shape))}: give "
            "RGB as uint8, height x width x 3"
        )


def parse_box(text: str) -> Box:
    """A box written "x,y,w,h".

    Raises:
        InputError: these are not four numbers.
    """
    try:
        x, y, width, height = (float(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"box {text!r} is not four numbers: write x,y,w,h in pixels") from None
    return x, y, width, height


def check_box(box: Box, image: UInt8[np.ndarray, "height width 3"]) -> None:
    """Reject a box that holds none of the image.

    Raises:
        InputError: it is empty, not finite, far larger than the image, or outside it.
    """
    x, y, width, height = box
    if not np.isfinite(box).all() or width <= 0 or height <= 0:
        raise InputError(f"box {box} is empty: give x,y,w,h in pixels, w and h above 0")
    if x >= image.shape[1] or y >= image.shape[0] or x + width <= 0 or y + height <= 0:
        raise InputError(
            f"box {box} is outside the image, which is {image.shape[1]} x {image.shape[0]} pixels"
        )
    if max(width, height) > LARGEST * max(image.shape[:2]):
        raise InputError(
            f"box {box} is far larger than the image, which is {image.shape[1]} x "
            f"{image.shape[0]} pixels: give one close around the hands"
        )


def hands_present(parts: Int[np.ndarray, "S S"]) -> Bool[np.ndarray, "hand"]:
    """Right and left: whether its parts fill enough of the map, and enough beside the other's."""
    hands = [((parts > 16 * hand) & (parts <= 16 * (hand + 1))).mean() for hand in (0, 1)]
    shares = np.array(hands)
    return shares >= max(PRESENT, BESIDE * shares.max())


def find_hands(
    parts: Int[np.ndarray, "S S"], crop: Float[np.ndarray, "2 3"], size: int
) -> Box | None:
    """The box around what parts of hands hang together, in pixels of the image; None without any.

    Specks are left out: one of them would make the box as large as the image. Pieces of a hand that
    the other one, or a thing, cuts in two are not as small as that.

    Args:
        parts: part map of the crop.
        crop: from pixels of the image to those of the crop, `size` wide.
    """
    _, pieces = cv2.connectedComponents((parts > 0).astype(np.uint8), connectivity=8)
    pieces = pieces.astype(np.int64)
    areas = np.bincount(pieces.ravel())
    areas[0] = 0  # the background
    kept = areas >= max(SOUGHT * parts.size, SPECK * areas.max())
    rows, columns = np.nonzero(kept[pieces])
    if not len(rows):
        return None
    cell = size / len(parts)
    # Edges of the outermost cells, in pixels whose first has its centre at 0.
    edges = np.array(
        [[columns.min(), rows.min()], [columns.max() + 1, rows.max() + 1]], dtype=np.float64
    )
    edges = edges * cell - 0.5
    low, high = np.linalg.solve(crop[:, :2], (edges - crop[:, 2]).T).T + 0.5
    return (low[0], low[1], high[0] - low[0], high[1] - low[1])


@torch.inference_mode()
def predict(
    network: DualNoiseNetwork,
    config: Config,
    image: str | Path | UInt8[np.ndarray, "height width 3"],
    box: Box | None = None,
) -> Prediction:
    """The hands in an image.

    Without a box the network first looks at the whole image, squared, then at the box around what
    its part map calls a hand, and once more at the box it sees from there. It is trained on crops
    around hands: where they fill only a small part of the image, give the box.

    Args:
        network: on the device to run on; put in evaluation mode.
        config: that the network was trained with.
        image: a file, or RGB pixels.
        box: around the hands, pixels.

    Raises:
        InputError: the image cannot be read or is no RGB, the box does not fit it, or no hand is
            found.
    """
    network.eval()
    pixels = image if isinstance(image, np.ndarray) else read_photo(Path(image))
    check_pixels(pixels)
    size = config.model.image_size
    device = next(network.parameters()).device

    def look(box: Box, margin: float) -> tuple[Float[np.ndarray, "2 3"], Tensor]:
        x, y, width, height = box
        # A box holds its pixels up to their edges, half a pixel beyond their centres.
        corners = np.array([x, y, x + width, y + height]) - 0.5
        affine = crop_affine(corners, margin, size, Augmentation())
        by = min(max(int(minification(affine)), 1), *pixels.shape[:2])
        small = shrink(pixels, by) if by > 1 else pixels
        crop = torch.from_numpy(crop_image(small, affine, size, by)).to(device)
        return affine, (crop.permute(2, 0, 1)[None] / 255)

    if box is None:
        nobody = torch.zeros(1, 2, dtype=torch.bool, device=device)  # the part map is all we need
        found: Box | None = (0.0, 0.0, float(pixels.shape[1]), float(pixels.shape[0]))
        for margin in (1.0, config.data.margin):  # the first box is a rough one
            affine, crop = look(found, margin)
            parts = network(crop, nobody).auxiliary.parts[0].argmax(0).numpy(force=True)
            found = find_hands(parts, affine, size)
            if found is None:
                raise InputError("no hand found in the image: give the box around the hands")
        box = found
    check_box(box, pixels)
    affine, crop = look(box, config.data.margin)
    output = network(crop)
    parts = output.auxiliary.parts[0].argmax(0).numpy(force=True)
    present = hands_present(parts)
    if not present.any():
        raise InputError("no hand found in the box: give a box close around the hands")
    stage = output.stages[-1]
    vertices, joints, camera, projections = (
        values[0].float().numpy(force=True)
        for values in (stage.vertices, stage.joints, stage.camera, stage.projections)
    )
    spread = calibration = None
    if len(output.stages) > 1:
        kind = "IH" if present.all() else "SH"
        calibration = network.calibration.get(kind)
        way = refined_way([each.vertices for each in output.stages])[0].float().numpy(force=True)
        spread = radius(way, calibration or as_trained(config.model)[kind]) * np.float32(HAND_UNIT)
    inverse = np.linalg.inv(np.vstack([affine, [0, 0, 1]]))[:2]
    seen = project(stage.joints, stage.camera)[0].float().numpy(force=True)
    return Prediction(
        image=pixels,
        crop=affine,
        present=present,
        vertices=vertices * np.float32(HAND_UNIT),
        joints=joints * np.float32(HAND_UNIT),
        camera=camera,
        points=apply_affine(ndc_to_pixels(projections, size).astype(np.float64), inverse),
        joint_points=apply_affine(ndc_to_pixels(seen, size).astype(np.float64), inverse),
        parts=parts,
        size=size,
        faces=network.hands.faces,
        spread=spread,
        calibration=calibration,
    )


def overlay(prediction: Prediction) -> UInt8[np.ndarray, "height width 3"]:
    """The meshes drawn on the image, the right hand warm, the left one blue."""
    return _drawn(prediction)


def certainty(prediction: Prediction) -> str:
    """A line a hand: how far its vertices may be off, means over them.

    From weights that were never calibrated (`uncertainty.calibrate`) it is what Eq. 2 says as it
    was while training, and it says so.
    """
    if prediction.spread is None:
        return "how sure: unknown, the network has no modules, whose noise would say it"
    fit, lines, lost = prediction.calibration, [], False
    for name, present, half in zip(HANDS, prediction.present, prediction.half_within, strict=True):
        if not present or half is None:
            continue
        lost |= half > LOST
        line = f"{name} hand: half of its vertices within {half:.1f} mm of the truth"
        if fit is not None:
            nothing = np.zeros(1, np.float32)
            wider = radius(nothing, fit, 0.9)[0] / radius(nothing, fit, 0.5)[0]
            line += f", nine in ten within {half * wider:.1f} mm"
        lines.append(line)
    lines.append(
        "this is the noise of training, never held against errors, which may be many times larger: "
        "`dne calibrate` mends that"
        if fit is None
        else "so it was on images like those it was calibrated on; on others it may err more"
    )
    if lost:
        lines.append("that is much: the hand may be wrong altogether, or no hand at all")
    return "\n".join(lines)


def numbers(prediction: Prediction) -> dict[str, Any]:
    """The hands present by name, as lists: what `save` writes into hands.json.

    For each its `joints` (metres, see `Prediction.joints`; x right, y down, z away; wrist first,
    then thumb, index, middle, ring, pinky, each from base to tip), `joints_2d` (pixels of the
    image), `camera`, which leads from the ones to the others (see `Prediction.image_camera`), and
    `half_within_mm`, a mean over its vertices (see `Prediction.spread`).
    """
    p = prediction
    return {
        name: {
            "joints": p.joints[i].astype(np.float64).round(5).tolist(),
            "joints_2d": p.joint_points[i].round(2).tolist(),
            "camera": p.image_camera[i].astype(np.float64).round(2).tolist(),
            "half_within_mm": None if half is None else round(half, 1),
        }
        for i, (name, half) in enumerate(zip(HANDS, p.half_within, strict=True))
        if p.present[i]
    }


def spread_overlay(prediction: Prediction) -> UInt8[np.ndarray, "height width 3"]:
    """The meshes on the image, coloured by their spread: dark blue 0, red the largest there is.

    Raises:
        InputError: the network has no modules.
    """
    p = prediction
    if p.spread is None:
        raise InputError("no spread to draw: predict with a network that has modules")
    top = float(p.spread[p.present].max())
    colours = ERROR_COLOURS(p.spread / max(top, 1e-9))[..., :3].astype(np.float32)
    return _drawn(p, colours)


def _drawn(
    p: Prediction, colours: Float[np.ndarray, "hand 778 3"] | None = None
) -> UInt8[np.ndarray, "height width 3"]:
    """The meshes on the image; only what is around them is worked on, as photographs are large."""
    picture = p.image.copy()
    points = p.points[p.present].reshape(-1, 2)
    if not len(points) or not np.isfinite(points).all():
        return picture
    end = np.array(picture.shape[1::-1])
    left, top = np.clip(np.floor(points.min(axis=0)) - 2, 0, end).astype(int)
    right, bottom = np.clip(np.ceil(points.max(axis=0)) + 3, 0, end).astype(int)
    around = picture[top:bottom, left:right]
    if around.size:
        image, shifted = around.astype(np.float32) / 255, p.points - (left, top)
        drawn = draw_hands(image, shifted, p.placed, p.faces, p.present, colours)
        around[:] = (drawn * 255).round().astype(np.uint8)
    return picture


def meshes(prediction: Prediction) -> "dict[str, trimesh.Trimesh]":
    """The hands present by name, metres, in one frame: x right, y up, z to the viewer.

    That is the frame of glTF and of most viewers; the camera is at the origin.
    """
    import trimesh

    upright = prediction.placed * np.array([1, -1, -1], np.float32)
    return {
        name: trimesh.Trimesh(upright[i], prediction.faces[i], process=False)
        for i, name in enumerate(HANDS)
        if prediction.present[i]
    }


def save(prediction: Prediction, folder: str | Path, of: str = "") -> list[Path]:
    """Write `overlay.png`, `right.obj`, `left.obj`, `hands.glb` and `hands.json` of what is there.

    Meshes are in metres (see `meshes`), numbers as `numbers` has them. Where the network says how
    sure it is, `spread.png` too.

    Args:
        of: the image, so that the prediction of another one is not replaced.

    Raises:
        InputError: the folder holds something else, or cannot be written.
    """
    import trimesh
    from trimesh.exchange.gltf import export_glb

    folder = Path(folder)
    claim_folder(folder, "prediction", of)
    hands = meshes(prediction)
    files = {folder / "overlay.png": _png(overlay(prediction))}
    if prediction.spread is None:  # there may be one of another network
        (folder / "spread.png").unlink(missing_ok=True)
    else:
        files[folder / "spread.png"] = _png(spread_overlay(prediction))
    for name in HANDS:
        if name in hands:
            files[folder / f"{name}.obj"] = str(hands[name].export(file_type="obj")).encode()
        else:  # of an image predicted into this folder before
            (folder / f"{name}.obj").unlink(missing_ok=True)
    scene = trimesh.Scene()
    for name, mesh in hands.items():
        scene.add_geometry(mesh, node_name=name, geom_name=name)
    files[folder / "hands.glb"] = export_glb(scene)
    files[folder / "hands.json"] = json.dumps(numbers(prediction)).encode()
    for path, data in files.items():
        write_bytes(path, data)
    return list(files)


def _png(image: UInt8[np.ndarray, "height width 3"]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    return buffer.getvalue()
