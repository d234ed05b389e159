"""InterHand2.6M v1.0 trees, the real one and the built-in one, as training samples.

Moon et al., "InterHand2.6M" (ECCV 2020). In its files joints and camera positions are in
millimetres, MANO is in metres, and a world point x is R (x - position) in a camera's frame.

Rulings:
- The crop is a square around the projected MANO vertices of the hands in the image, not around
  the annotated box, which some releases draw around the joints and some around both hands.
- The mesh is the label: joints are read off it, as off a predicted one, so that they agree with
  the vertices. The triangulated ones only say which joints are valid.
- A hand is absent (masked) that has no MANO parameters, is not of the image's hand type, has a
  joint behind or at the camera, or no joint within the image. So is one whose parameters lie
  farther from the triangulated joints than `DataConfig.max_fit_error`, if that is set.
- An image without any hand left is dropped, and so is one that is not in the tree, as in a partial
  download; how many, and of which captures, is logged.
"""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from dne_lib.config import HANDS, DataConfig, ModelConfig
from dne_lib.data.augment import (
    Augmentation,
    change_colours,
    check_data_config,
    crop_image,
    draw,
    reduction,
)
from dne_lib.data.index import (
    POOR,
    Missing,
    content_digest,
    fit_errors,
    fit_hands,
    image_folder,
    missing_images,
    read_index,
)
from dne_lib.data.shards import Shards, is_exported
from dne_lib.data.subsets import PUBLISHED, chosen, is_builtin, recipe, release
from dne_lib.data.targets import Labels, targets
from dne_lib.files import InputError
from dne_lib.mano import HandModel

log = logging.getLogger(__name__)

NONE_MISSING = Missing(np.zeros(0, np.int64), {})


class InterHand(Dataset):
    """Samples of one split, cropped to the hands, with every target of the network.

    A sample is a function of (seed, epoch, index), but for the last bits of its targets, which
    depend on what it is batched with. Keys, with the batch axis left out; all that belongs to an
    absent hand is zero and its `present` is False:

    - image "3 size size": RGB in [0, 1]
    - present "hand", interacting "": bool
    - vertices "hand 778 3", joints "hand 21 3" (`HandModel.regress_joints`): relative to MANO's
      wrist, hand units, camera frame; triangulated "hand 21 3": the joints of joint_3d likewise,
      which MANO was fitted to, zero where it does not know them
    - vertices_2d "hand 778 2", joints_2d "hand 21 2": their perspective projections, normalised
      device coordinates of the crop; joint_valid "hand 21": bool
    - pose "hand 16 6", betas "hand 10": 6D rotations, mean pose included, and shape
    - camera "hand 2 2": the ridge camera of vertices and vertices_2d
    - depth, normals, heatmaps, densepose, parts: see `rasterize.auxiliary_maps`
    - crop "2 3": from pixels of the image to pixels of the crop; index "": int64

    Args:
        root: folder with images/ and annotations/, or one that `dne export` wrote.
        split: train, val or test.
        config: sizes of image and maps, ridge of the camera.
        data: which images, hand model, crop and augmentation.
        augment: change samples at random.
        seed: of the augmentation.

    Raises:
        InputError: see `read_index`, `chosen` and `HandModel`; MANO is given for built-in data; no
            image is left.
    """

    def __init__(
        self,
        root: str | Path,
        split: str,
        config: ModelConfig,
        data: DataConfig,
        augment: bool,
        seed: int = 0,
    ):
        check_data_config(data)
        root = Path(root)
        self.root, self.images = root, image_folder(root, split)
        self.config, self.data, self.augment, self.seed = config, data, augment, seed
        if data.mano is not None and is_builtin(root):
            raise InputError(
                f"{root} is built-in data, drawn with the built-in hand: MANO's meshes (data.mano "
                f"{data.mano}) do not fit its images: leave data.mano out, or give InterHand2.6M "
                "as data.root"
            )
        self.hands = HandModel(data.mano)
        self.topology = self.hands.topology
        self.shards = Shards(root, split) if is_exported(root, split) else None
        if self.shards is None and not (root / "annotations").is_dir():
            packed = [other for other in PUBLISHED if is_exported(root, other)]
            if packed:
                raise InputError(
                    f"{root} has the split {' and '.join(packed)} packed, and no {split}: add it "
                    f"with `dne export {root} --data TREE --split {split}`, of the same tree"
                )
        index = self.labels = read_index(root, split) if self.shards is None else self.shards.index
        fits = self.fits = fit_hands(index, self.hands)
        limit = np.inf if data.max_fit_error is None else data.max_fit_error
        self.poor = fits.error > limit
        missing = NONE_MISSING if self.shards else missing_images(index, self.images)

        if data.mano is None and not is_builtin(root):
            log.warning("%s: these labels were not made for the built-in hand: give MANO's folder "
                        "as data.mano", root)  # fmt: skip
        used = chosen(index, root, split, data)
        present, poor = fits.present & used[:, None], self.poor[index.frame]
        left = present & ~poor
        usable = left[:, 0] | left[:, 1]
        if dropped := int((present & poor).sum()):
            log.warning("%s: left out %d of %d hands, whose MANO joints are more than %g mm off",
                        self.images, dropped, present.sum(), limit)  # fmt: skip
        if dropped := int((used & ~usable).sum()):
            log.warning("%s: dropped %d of %d images, which show no hand with a usable fit",
                        self.images, dropped, used.sum())  # fmt: skip
        missing.warn(self.images, len(used))
        there = usable.copy()
        there[missing.rows] = False
        self.rows = np.flatnonzero(there)
        self.counts = {
            "listed": len(used),
            "chosen": int(used.sum()),
            "usable": int(usable.sum()),
            "used": len(self.rows),
        }
        if not len(self.rows):
            raise InputError(
                f"{root} has no usable image in {split} (annotation {data.annotation}, hand type "
                f"{data.hand_type}, every {data.every}): check its MANO file, its images and "
                "data.max_fit_error, or choose another split"
            )
        # Shared memory, so that workers which outlive an epoch learn of the next one.
        self.epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def __len__(self) -> int:
        return len(self.rows)

    def set_epoch(self, epoch: int) -> None:
        """Draw other changes from now on, in workers that are already running too."""
        self.epoch.fill_(epoch)

    def require_fit(self) -> None:
        """Refuse labels of another hand model: nobody should train for days on them.

        Raises:
            InputError: MANO's joints are not where the triangulated ones are.
        """
        error = fit_errors(self.labels, self.fits)
        if len(error) and (middle := np.median(error)) > POOR:
            hand = self.data.mano or "the built-in hand"
            raise InputError(
                f"{self.root}: with {hand} the joints are {middle:.0f} mm (median) from the "
                "triangulated ones: give the folder of MANO's files that the labels were made "
                "with as data.mano, and look at what `dne check` draws"
            )

    def identity(self) -> dict[str, str]:
        """Which labels, hand model and pictures these are, wherever they lie."""
        names = {"labels": content_digest(self.labels), "hands": self.fits.folder.name}
        # Those of `dne synthesize` may be drawn in several ways with the same labels.
        drawn = {key: value for key, value in recipe(self.root).items() if key not in PUBLISHED}
        return names | ({"pictures": json.dumps(drawn, sort_keys=True)} if drawn else {})

    def record(self) -> dict[str, Any]:
        """Which images these are, for a results file; `counts` tells what was left out."""
        options = ("annotation", "hand_type", "every", "max_fit_error")
        return {
            "release": release(self.root, self.labels),
            "labels": content_digest(self.labels),
            "split": self.images.name,
            **{name: getattr(self.data, name) for name in options},
            "counts": self.counts,
        }

    def groups(self) -> dict[str, list[str]]:
        """The sequence, and the camera, of every sample."""
        index = self.labels
        names = {
            "sequences": index.sequence_name[index.sequence[self.rows]],
            "cameras": index.camera_name[index.camera[self.rows]],
        }
        return {way: [name.decode() for name in of.tolist()] for way, of in names.items()}

    def path(self, index: int) -> Path:
        """The image file of a sample, as in the tree."""
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
        return self._samples(indices, changes, rngs)

    def changed(self, index: int, change: Augmentation) -> dict[str, Tensor]:
        """A sample after the change given, whatever `augment` says.

        Raises:
            InputError: see `__getitems__`.
        """
        index = range(len(self))[index]
        rng = np.random.default_rng((self.seed, int(self.epoch), index))
        return self._samples([index], [change], [rng])[0]

    def _samples(
        self,
        indices: list[int],
        changes: list[Augmentation],
        rngs: list[np.random.Generator],
    ) -> list[dict[str, Tensor]]:
        labels = self._labels(self.rows[indices])
        found = targets(labels, self.hands, self.config, self.data.margin, changes)
        images = [
            self._image(i, affine, change, rng)
            for i, affine, change, rng in zip(
                indices, found["crop"].numpy(), changes, rngs, strict=True
            )
        ]
        return [
            {name: values[n] for name, values in found.items()}
            | {"image": torch.from_numpy(image), "index": torch.tensor(i)}
            for n, (i, image) in enumerate(zip(indices, images, strict=True))
        ]

    def _image(
        self,
        index: int,
        affine: Float[np.ndarray, "2 3"],
        change: Augmentation,
        rng: np.random.Generator,
    ) -> Float[np.ndarray, "3 size size"]:
        reduced = reduction(affine)
        path, row = self.path(index), int(self.rows[index])
        if self.shards is None:
            image = read_image(path, self.labels.size[row], reduced)
        else:
            image = decode(self.shards.read(row), path, self.labels.size[row], reduced)
        crop = crop_image(image, affine, self.config.image_size, reduced)
        return change_colours(crop, change, rng)

    def _labels(self, rows: Int[np.ndarray, "batch"]) -> Labels:
        """What the files say of some images, in the frames of their cameras."""
        index = self.labels
        frame, camera = index.frame[rows], index.camera[rows]
        present, view = self.fits.present[rows] & ~self.poor[frame], index.rotation[camera]
        rotations = self.hands.mano_rotations(torch.from_numpy(index.pose[frame])).numpy()
        rotations[:, :, 0] = view[:, None] @ rotations[:, :, 0]
        triangulated = index.joints[frame] - self.fits.wrist[frame][:, :, None]
        triangulated[~(index.known[frame] & present[..., None])] = 0
        offsets = self.fits.wrist[frame] - index.position[camera][:, None]
        return Labels(
            present=present,
            rotations=rotations,
            betas=index.betas[frame],
            wrist=np.einsum("bij,bhj->bhi", view, offsets),
            focal=index.focal[camera],
            principal=index.principal[camera],
            joint_valid=index.joint_valid[rows],
            interacting=index.hand_type[rows] == len(HANDS),
            triangulated=np.einsum("bij,bhkj->bhki", view, triangulated),
        )


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
    return decode(encoded, path, size, reduced)


def decode(
    encoded: bytes, path: Path, size: Int[np.ndarray, "2"], reduced: int = 1
) -> UInt8[np.ndarray, "height width 3"]:
    """Decode the content of an image file; see `read_image`.

    Args:
        path: of the file, for error messages.
    """
    # OpenCV 4 fills what is missing of a JPEG with grey and does not say so: look for its end.
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
