"""InterHand2.6M v1.0 trees, the real one and the built-in one, as training samples.

Moon et al., "InterHand2.6M" (ECCV 2020). In its files joints and camera positions are in
millimetres, MANO is in metres, and a world point x is R (x - position) in a camera's frame.

Rulings:
- The crop is a square around the projected MANO vertices of the hands in the image, not around
  the annotated box, which some releases draw around the joints and some around both hands.
- The mesh is the label: joints are read off it, as off a predicted one, so that they agree with
  the vertices. The triangulated ones only say which joints are valid.
- A hand without MANO parameters is absent (masked); an image without any such hand is dropped.
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info
from tqdm import tqdm

from dne_lib.camera import pixels_to_ndc, ridge_camera
from dne_lib.config import HAND_UNIT, HANDS, JOINTS, VERTICES, DataConfig, ModelConfig
from dne_lib.data.augment import (
    Augmentation,
    apply_affine,
    change_colours,
    change_points,
    change_rotations,
    crop_affine,
    crop_image,
    draw,
    reduction,
    swap_hands,
)
from dne_lib.files import InputError, read_json
from dne_lib.mano import INTERHAND_TO_JOINTS, HandModel, matrix_to_rotation_6d
from dne_lib.rasterize import auxiliary_maps

log = logging.getLogger(__name__)

HAND_TYPES = (*HANDS, "interacting")
FILES = ("data", "camera", "joint_3d", "MANO_NeuralAnnot")
NEAREST = 0.1  # metres: a wrist nearer to the camera than this is a failed fit


@dataclass
class Index:
    """All labels of one split, one row per image, frame or camera; millimetres are metres here."""

    file_name: np.ndarray  # "image", bytes, below images/<split>
    size: Int[np.ndarray, "image 2"]  # width, height
    hand_type: Int[np.ndarray, "image"]  # place in HAND_TYPES
    joint_valid: Bool[np.ndarray, "image hand 21"]
    frame: Int[np.ndarray, "image"]
    camera: Int[np.ndarray, "image"]
    fitted: Bool[np.ndarray, "frame hand"]  # has MANO parameters
    pose: Float[np.ndarray, "frame hand 48"]
    betas: Float[np.ndarray, "frame hand 10"]
    transl: Float[np.ndarray, "frame hand 3"]
    rotation: Float[np.ndarray, "camera 3 3"]
    position: Float[np.ndarray, "camera 3"]
    focal: Float[np.ndarray, "camera 2"]
    principal: Float[np.ndarray, "camera 2"]


def read_index(root: Path, split: str) -> Index:
    """Read the annotations of one split.

    Raises:
        InputError: the tree or one of its files is missing or half-written, a field is missing,
            malformed or not finite, or a hand type is unknown.
    """
    folder = root / "annotations" / split
    if not folder.is_dir():
        raise InputError(
            f"{folder} does not exist: make a tree with `dne synthesize {root}`, or point "
            "data.root at the folder of InterHand2.6M that holds annotations/ and images/"
        )
    paths = [folder / f"InterHand2.6M_{split}_{name}.json" for name in FILES]
    missing = [path.name for path in (*paths, root / "images" / split) if not path.exists()]
    if missing:
        raise InputError(
            f"the tree {root} is half-written, it lacks {', '.join(missing)} of {split}: run "
            f"`dne synthesize {root}` again, or unpack that part of InterHand2.6M again"
        )
    contents = [_read(path) for path in paths]
    for path, content in zip(paths, contents, strict=True):
        if not isinstance(content, dict):
            raise InputError(f"{path} is not a JSON object: write or download it again")
    data, cameras, joints, mano = contents
    data_path, camera_path, joint_path, mano_path = paths

    lists = _fields(data, ("images", "annotations"), data_path)
    images = {_fields(image, ("id",), f"{data_path}: an image")[0]: image for image in lists[0]}
    if not lists[1]:
        raise InputError(f"{data_path} has no annotations: write or download it again")

    rows: list[tuple] = []
    validity: list[np.ndarray] = []
    frames: dict[tuple[str, str], int] = {}
    places: dict[tuple[str, str], int] = {}
    fits: list[tuple] = []
    views: list[tuple] = []
    joint_validity: list[np.ndarray] = []
    names = ("file_name", "width", "height", "capture", "camera", "frame_idx")
    for annotation in tqdm(lists[1], desc=f"reading {split} labels", delay=2):
        (key, kind, valid) = _fields(
            annotation, ("image_id", "hand_type", "joint_valid"), f"{data_path}: an annotation"
        )
        if key not in images:
            raise InputError(f"{data_path}: an annotation is of image {key}, which is not listed")
        name, width, height, capture, camera, frame = _fields(
            images[key], names, f"{data_path}: image {key}"
        )
        if kind not in HAND_TYPES:
            raise InputError(
                f"{data_path}: image {name} has hand_type {kind!r}: it must be one of {HAND_TYPES}"
            )
        moment, view = (str(capture), str(frame)), (str(capture), str(camera))
        if view not in places:
            places[view] = len(views)
            views.append(_camera(cameras, *view, f"{camera_path}: (image {name})"))
        if moment not in frames:
            frames[moment] = len(fits)
            fits.append(_fits(mano, *moment, f"{mano_path}: (image {name})"))
            joint_validity.append(_joint_validity(joints, *moment, f"{joint_path}: (image {name})"))
        row = frames[moment]
        valid = _numbers(valid, 2 * JOINTS, f"{data_path}: image {name}, joint_valid") > 0
        validity.append(valid & joint_validity[row])
        rows.append((name.encode(), width, height, HAND_TYPES.index(kind), row, places[view]))

    columns = list(zip(*rows, strict=True))
    valid = rearrange(np.array(validity), "n (h j) -> n h j", h=2)[..., INTERHAND_TO_JOINTS]
    fitted, pose, betas, transl = (np.array(column) for column in zip(*fits, strict=True))
    rotation, position, focal, principal = (np.array(column) for column in zip(*views, strict=True))
    return Index(
        file_name=np.array(columns[0]),
        size=np.array(columns[1:3], np.int32).T,
        hand_type=np.array(columns[3], np.int8),
        joint_valid=valid & valid[..., :1],
        frame=np.array(columns[4], np.int32),
        camera=np.array(columns[5], np.int32),
        fitted=fitted,
        pose=pose,
        betas=betas,
        transl=transl,
        rotation=rotation,
        position=position / 1000,
        focal=focal,
        principal=principal,
    )


class InterHand(Dataset):
    """Samples of one split, cropped to the hands, with every target of the network.

    A sample is a function of (seed, epoch, index), but for the last bits of its targets, which
    depend on what it is batched with. Keys, with the batch axis left out; all that belongs to an
    absent hand is zero and its `present` is False:

    - image "3 size size": RGB in [0, 1]
    - present "hand", interacting "": bool
    - vertices "hand 778 3", joints "hand 21 3" (`HandModel.regress_joints`): relative to MANO's
      wrist, hand units, camera frame
    - vertices_2d "hand 778 2", joints_2d "hand 21 2": their perspective projections, normalised
      device coordinates of the crop; joint_valid "hand 21": bool
    - pose "hand 16 6", betas "hand 10": 6D rotations, mean pose included, and shape
    - camera "hand 2 2": the ridge camera of vertices and vertices_2d
    - depth, normals, heatmaps, densepose, parts: see `rasterize.auxiliary_maps`
    - crop "2 3": from pixels of the image to pixels of the crop; index "": int64

    Args:
        root: folder with images/ and annotations/.
        split: train, val or test.
        config: sizes of image and maps, ridge of the camera.
        data: hand model, crop and augmentation.
        augment: change samples at random.
        seed: of the augmentation.
        hand_type: only images of one hand, or only of two; None is all.

    Raises:
        InputError: see `read_index`; no image is left.
    """

    def __init__(
        self,
        root: Path,
        split: str,
        config: ModelConfig,
        data: DataConfig,
        augment: bool,
        seed: int = 0,
        hand_type: Literal["single", "interacting"] | None = None,
    ):
        self.images = root / "images" / split
        self.config, self.data, self.augment, self.seed = config, data, augment, seed
        self.hands = HandModel(data.mano)
        self.topology = self.hands.topology
        index = self.labels = read_index(root, split)

        # In world coordinates; MANO turns the hand about this point, whatever its rotation.
        rest = self.hands.wrist_rest(torch.from_numpy(index.betas)).numpy()
        self.wrist = rest + index.transl
        towards = np.einsum("nc,nhc->nh", index.rotation[index.camera, 2], self._offsets())
        # Row by hand type: right, left, interacting.
        shown = np.array([[True, False], [False, True], [True, True]])[index.hand_type]
        self.present = shown & index.fitted[index.frame] & (towards > NEAREST)
        index.joint_valid &= self.present[..., None]

        usable = self.present.any(1)
        if dropped := int((~usable).sum()):
            log.warning("%s: dropped %d of %d images, which have no usable MANO parameters",
                        self.images, dropped, len(usable))  # fmt: skip
        if hand_type is not None:
            usable &= (index.hand_type == HAND_TYPES.index("interacting")) == (
                hand_type == "interacting"
            )
        self.rows = np.flatnonzero(usable)
        if not len(self.rows):
            raise InputError(
                f"{root} has no usable {hand_type or ''} image in {split}: check its MANO file, "
                "or choose another split"
            )
        # Shared memory, so that workers which outlive an epoch learn of the next one.
        self.epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def __len__(self) -> int:
        return len(self.rows)

    def set_epoch(self, epoch: int) -> None:
        """Draw other changes from now on, in workers that are already running too."""
        self.epoch.fill_(epoch)

    def path(self, index: int) -> Path:
        """The image file of a sample."""
        return self.images / bytes(self.labels.file_name[self.rows[index]]).decode()

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Tensor]]:
        """Several samples at once, which is faster: the hand model runs once for all.

        Raises:
            InputError: an image is missing, truncated or not of the size its labels say.
        """
        if get_worker_info() is not None:
            cv2.setNumThreads(0)  # each worker has one core
        indices = [range(len(self))[i] for i in indices]
        epoch = int(self.epoch)
        rngs = [np.random.default_rng((self.seed, epoch, i)) for i in indices]
        changes = [draw(rng, self.data) if self.augment else Augmentation() for rng in rngs]
        targets = self._targets(self.rows[indices], changes)
        images = [
            self._image(i, affine, change, rng)
            for i, affine, change, rng in zip(
                indices, targets["crop"].numpy(), changes, rngs, strict=True
            )
        ]
        return [
            {name: values[n] for name, values in targets.items()}
            | {"image": torch.from_numpy(image), "index": torch.tensor(i)}
            for n, (i, image) in enumerate(zip(indices, images, strict=True))
        ]

    def _offsets(self) -> Float[np.ndarray, "image hand 3"]:
        """From cameras to wrists, world axes, metres."""
        return self.wrist[self.labels.frame] - self.labels.position[self.labels.camera][:, None]

    def _image(
        self,
        index: int,
        affine: Float[np.ndarray, "2 3"],
        change: Augmentation,
        rng: np.random.Generator,
    ) -> Float[np.ndarray, "3 size size"]:
        reduced = reduction(affine)
        image = read_image(self.path(index), self.labels.size[self.rows[index]], reduced)
        crop = crop_image(image, affine, self.config.image_size, reduced)
        return change_colours(crop, change, rng)

    def _targets(
        self, rows: Int[np.ndarray, "batch"], changes: list[Augmentation]
    ) -> dict[str, Tensor]:
        """Everything but the image, batched."""
        index, size = self.labels, self.config.image_size
        frame, camera = index.frame[rows], index.camera[rows]
        present, view = self.present[rows], index.rotation[camera]
        angle = np.array([change.angle for change in changes], np.float32)
        flip = np.array([change.flip for change in changes])

        rotations = self.hands.mano_rotations(torch.from_numpy(index.pose[frame])).numpy()
        rotations[:, :, 0] = view[:, None] @ rotations[:, :, 0]
        betas = index.betas[frame]
        points = np.zeros((len(rows), 2, VERTICES + JOINTS, 3), np.float32)
        for side in range(2):
            some = present[:, side]
            if not some.any():
                continue
            hand = self.hands.single(
                side, torch.from_numpy(rotations[some, side]), torch.from_numpy(betas[some, side])
            )
            points[some, side, :VERTICES] = hand.vertices.numpy()
        vertices = torch.from_numpy(points[:, :, :VERTICES])
        points[:, :, VERTICES:] = self.hands.regress_joints(vertices).numpy()
        offsets = self.wrist[frame] - index.position[camera][:, None]
        wrist = np.einsum("bij,bhj->bhi", view, offsets)
        wrist[~present] = (0, 0, 1)  # anywhere before the camera
        pixels = points + wrist[:, :, None]
        pixels = pixels[..., :2] / pixels[..., 2:] * index.focal[camera][:, None, None]
        pixels += index.principal[camera][:, None, None]

        seen = present[:, :, None, None]
        low = np.where(seen, pixels, np.inf)[:, :, :VERTICES].min((1, 2))
        high = np.where(seen, pixels, -np.inf)[:, :, :VERTICES].max((1, 2))
        boxes = np.concatenate([low, high], axis=-1)
        affines = np.array(
            [
                crop_affine(box, self.data.margin, size, change)
                for box, change in zip(boxes, changes, strict=True)
            ]
        )
        pixels = np.array([apply_affine(p, a) for p, a in zip(pixels, affines, strict=True)])

        points = change_points(points, angle, flip)
        rotations = change_rotations(rotations, angle, flip)
        present, betas, depth, valid, projections = (
            swap_hands(values, flip)
            for values in (
                present,
                betas,
                wrist[..., 2],
                index.joint_valid[rows],
                pixels_to_ndc(pixels, size).astype(np.float32),
            )
        )
        absent = ~present
        rotations[absent], betas[absent], projections[absent] = 0, 0, 0
        maps = [
            auxiliary_maps(
                projections[n, :, :VERTICES],
                projections[n, :, VERTICES:],
                points[n, :, :VERTICES],
                depth[n],
                present[n],
                valid[n],
                self.topology,
                self.config.feature_size,
            )
            for n in range(len(rows))
        ]
        units = torch.from_numpy(points / np.float32(HAND_UNIT))
        vertices_2d = torch.from_numpy(projections[:, :, :VERTICES])
        cameras = ridge_camera(units[:, :, :VERTICES], vertices_2d, self.config.ridge)
        return {
            "present": torch.from_numpy(present),
            "interacting": torch.from_numpy(index.hand_type[rows] == len(HANDS)),
            "vertices": units[:, :, :VERTICES],
            "joints": units[:, :, VERTICES:],
            "vertices_2d": vertices_2d,
            "joints_2d": torch.from_numpy(projections[:, :, VERTICES:]),
            "joint_valid": torch.from_numpy(valid),
            "pose": matrix_to_rotation_6d(torch.from_numpy(rotations)),
            "betas": torch.from_numpy(betas),
            "camera": torch.where(torch.from_numpy(present)[..., None, None], cameras, 0.0),
            "crop": torch.from_numpy(affines.astype(np.float32)),
        } | {name: torch.stack([torch.from_numpy(m[name]) for m in maps]) for name in maps[0]}


def read_image(
    path: Path, size: Int[np.ndarray, "2"], reduced: int = 1
) -> UInt8[np.ndarray, "height width 3"]:
    """Decode an image as RGB, grey ones too.

    Args:
        size: width and height the labels were made for.
        reduced: shrink by 1, 2, 4 or 8 while decoding, which saves time.

    Raises:
        InputError: the file is missing, truncated, no image, or of another size.
    """
    try:
        encoded = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"cannot read image {path} ({error.strerror}), which the annotations list: "
            "write or unpack the images again"
        ) from None
    # OpenCV fills what is missing of a JPEG with grey and does not say so: look for its end.
    whole = not encoded.startswith(b"\xff\xd8") or b"\xff\xd9" in encoded[-1024:]
    flag = {
        1: cv2.IMREAD_COLOR,
        2: cv2.IMREAD_REDUCED_COLOR_2,
        4: cv2.IMREAD_REDUCED_COLOR_4,
        8: cv2.IMREAD_REDUCED_COLOR_8,
    }[reduced]
    image = None
    if whole and encoded:
        # Labels are of the pixels as stored, before any rotation the file may ask for.
        buffer = np.frombuffer(encoded, np.uint8)
        image = cv2.imdecode(buffer, flag | cv2.IMREAD_IGNORE_ORIENTATION)
    if image is None:
        raise InputError(f"image {path} is truncated or not an image: write or download it again")
    width, height = (-(-int(side) // reduced) for side in size)
    if image.shape != (height, width, 3):
        raise InputError(
            f"image {path} is not {size[0]} x {size[1]} pixels, as its labels say: use the images "
            "as released, not resized"
        )
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)


def _read(path: Path) -> Any:
    """Like `read_json`, but lets NaN pass, which is no JSON: it is reported with its place."""
    try:
        return read_json(path)
    except InputError:
        try:
            return json.loads(path.read_bytes())
        except ValueError:
            pass
        raise


def _fields(record: Any, names: tuple[str, ...], where: Any) -> tuple:
    try:
        values = itemgetter(*names)(record)
    except (KeyError, TypeError, IndexError):
        missing = [n for n in names if not isinstance(record, dict) or n not in record]
        raise InputError(
            f"{where} has no field {', '.join(missing)}: the file is not of InterHand2.6M v1.0, "
            "or half-written; write or download it again"
        ) from None
    return values if len(names) > 1 else (values,)


def _numbers(values: Any, shape: int | tuple[int, ...], where: str) -> np.ndarray:
    """Finite numbers of a given shape, extra axes of length one dropped."""
    try:
        numbers = np.array(values, np.float32).reshape(shape)
    except (TypeError, ValueError):
        raise InputError(f"{where} is not {shape} numbers: correct or remove the label") from None
    if not np.isfinite(numbers).all():
        raise InputError(f"{where} holds NaN or infinity: correct or remove the label")
    return numbers


def _camera(cameras: Any, capture: str, camera: str, where: str) -> tuple:
    (record,) = _fields(cameras, (capture,), where)
    shapes = {"camrot": (3, 3), "campos": 3, "focal": 2, "princpt": 2}
    parts = _fields(record, tuple(shapes), f"{where} capture {capture}")
    where = f"{where} capture {capture}, camera {camera}"
    return tuple(
        _numbers(_fields(part, (camera,), f"{where}, {name}")[0], shape, f"{where}, {name}")
        for part, (name, shape) in zip(parts, shapes.items(), strict=True)
    )


def _fits(mano: Any, capture: str, frame: str, where: str) -> tuple:
    """Both hands' fitted flag, pose, betas and translation; zeros for a hand without."""
    fitted = np.zeros(2, bool)
    values = [np.zeros((2, n), np.float32) for n in (48, 10, 3)]
    record = mano.get(capture, {}).get(frame) or {}
    for side, hand in enumerate(HANDS):
        if record.get(hand) is None:
            continue
        place = f"{where} capture {capture}, frame {frame}, {hand}"
        names = ("pose", "shape", "trans")
        for value, part, name in zip(
            _fields(record[hand], names, place), values, names, strict=True
        ):
            part[side] = _numbers(value, part.shape[1], f"{place}, {name}")
        fitted[side] = True
    return fitted, *values


def _joint_validity(joints: Any, capture: str, frame: str, where: str) -> np.ndarray:
    """Validity of the 42 triangulated joints, in the file's order."""
    (records,) = _fields(joints, (capture,), where)
    (record,) = _fields(records, (frame,), f"{where} capture {capture}")
    where = f"{where} capture {capture}, frame {frame}"
    world, valid = _fields(record, ("world_coord", "joint_valid"), where)
    valid = _numbers(valid, 2 * JOINTS, f"{where}, joint_valid") > 0
    known = [p for p, v in zip(world, valid, strict=False) if v]
    _numbers(known, (int(valid.sum()), 3), f"{where}, world_coord")
    return valid
