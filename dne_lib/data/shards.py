"""Splits packed into tar files in WebDataset's layout, and reading them as the tree is read.

A tree of a million small files is slow to copy and hard on a network disk, which is asked for
every folder and file. Packed, a split is

    DIR/train/train-00000.tar …   000000042.jpg as released, 000000042.json: all its labels
    DIR/train/labels-89ab…/       the labels as arrays, and where in which tar each image is
    DIR/train/begun.json          written first, gone at the end: what is being exported
    DIR/train/shards.json         written last: without it the export is not finished

The tar files alone feed any reader of WebDataset's. Ours goes by the arrays: it reads any image
from the middle of a tar, so that order, batches, augmentation and resuming are those of the tree,
on however many machines.
"""

import dataclasses
import io
import os
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from jaxtyping import Int
from tqdm import tqdm

from dne_lib.config import HANDS, DataConfig
from dne_lib.data.index import (
    HAND_TYPES,
    VERSION,
    Arrays,
    Index,
    content_digest,
    image_folder,
    load_arrays,
    missing_images,
    publish_arrays,
    read_index,
)
from dne_lib.data.subsets import chosen, count_types, human_list, is_builtin
from dne_lib.files import InputError, claim_folder, read_json, write_bytes, write_json
from dne_lib.mano import JOINTS_TO_INTERHAND

BEGUN, DONE = "begun.json", "shards.json"
# Arrays of an `Index` with a row for each image; the others are of frames, cameras, sequences.
PER_IMAGE = (
    "file_name", "annotation", "size", "hand_type", "joint_valid", "sequence", "frame", "camera"
)  # fmt: skip


@dataclass
class Places(Arrays):
    """Where the images are, one row for each."""

    shard: Int[np.ndarray, "image"]
    offset: Int[np.ndarray, "image"]  # bytes
    length: Int[np.ndarray, "image"]


def is_exported(root: Path, split: str) -> bool:
    """Whether a folder holds a split as tar files, not as a tree."""
    return (root / split / DONE).is_file()


class Shards:
    """The images and labels of an exported split.

    Attributes:
        index: labels of the images that were exported.
        record: which of the tree's images those are, and how many it listed.

    Raises:
        InputError: the export is damaged, not whole, or of another version.
    """

    def __init__(self, root: Path, split: str):
        self.folder = root / split
        self.record = read_json(self.folder / DONE)
        if not isinstance(self.record, dict):
            raise InputError(f"{self.folder / DONE} is damaged: copy or export it again")
        if self.record.get("version") != VERSION:
            raise InputError(f"{root} was exported by another version of dne_lib: export it again")
        sizes = self.record.pop("shards", None)
        if not isinstance(sizes, dict):
            raise InputError(f"{self.folder / DONE} is damaged: copy or export it again")
        self.names: list[str] = list(sizes)
        for name, size in sizes.items():
            path = self.folder / name
            found = path.stat().st_size if path.is_file() else 0
            if found != size:
                raise InputError(
                    f"{path} is missing or not whole ({found:,} of {size:,} bytes): "
                    "copy or export it again"
                )
        labels = _labels_folder(self.folder, self.record)
        try:
            self.index = load_arrays(Index, labels)
            self.places = load_arrays(Places, labels)
        except (OSError, ValueError, EOFError) as error:
            raise InputError(f"{labels} is damaged ({error}): copy or export it again") from None

    def read(self, row: int) -> bytes:
        """The bytes of an image file.

        Raises:
            InputError: its tar file can no longer be read.
        """
        path = self.folder / self.names[self.places.shard[row]]
        try:
            with path.open("rb", buffering=0) as file:
                size, offset = int(self.places.length[row]), int(self.places.offset[row])
                return os.pread(file.fileno(), size, offset)
        except OSError as error:
            raise InputError(f"cannot read {path} ({error.strerror}): copy it again") from None


def export(
    root: str | Path,
    split: str,
    output: str | Path,
    data: DataConfig,
    shard_images: int = 2000,
) -> list[Path]:
    """Pack the images of a split that the configuration asks for and that are there.

    An export that was interrupted goes on: whole tar files of the same images are kept.

    Args:
        root: an InterHand2.6M tree.
        output: folder of the exported splits.
        data: `annotation`, `hand_type` and `every` choose; all else is up to who reads.
        shard_images: images in one tar file, which is put together in memory.

    Returns:
        The tar files.

    Raises:
        InputError: see `read_index` and `chosen`; there is nothing to export; the split is exported
            already, or others of its images in part; a file cannot be read or written.
    """
    if shard_images < 1:
        raise InputError(f"{shard_images} images in a shard: put at least one there")
    root, output = Path(root), Path(output)
    index = read_index(root, split)
    used = chosen(index, root, split, data)
    images = image_folder(root, split)
    missing = missing_images(index, images)
    missing.warn(images, len(used))
    used[missing.rows] = False
    rows = np.flatnonzero(used)
    if not len(rows):
        raise InputError(f"{root} has no image of {split} to export: choose another subset")
    labels = {
        f.name: getattr(index, f.name) for f in dataclasses.fields(Index) if f.name != "folder"
    }
    labels |= {name: labels[name][rows] for name in PER_IMAGE}
    claim_folder(output, "shards")
    folder = output / split
    if is_exported(output, split):
        raise InputError(f"{folder} holds an export already: choose another folder, or delete it")
    record = {
        "version": VERSION,
        "labels": content_digest(Index(folder=folder, **labels)),
        # Pictures may differ where labels do not.
        "recipe": read_json(root / "recipe.json") if is_builtin(root) else None,
        "listed": list(count_types(index)),
        "missing": len(missing.rows),
        "images": len(rows),
        "annotation": data.annotation,
        "hand_type": data.hand_type,
        "every": data.every,
        "shard_images": shard_images,
    }
    # The recipe stands beside the splits and is of all of them.
    for done in output.glob(f"*/{DONE}"):
        if read_json(done)["recipe"] != record["recipe"]:
            raise InputError(f"{done.parent} is of other data than {root}: choose another folder")
    begun = folder / BEGUN
    same = begun.is_file() and read_json(begun) == record
    if not same and folder.is_dir() and any(folder.iterdir()):
        raise InputError(
            f"{folder} holds an unfinished export of other images, or in other tar files: repeat "
            "its command to go on with it, choose another folder, or delete it"
        )
    write_json(begun, record)

    sizes, places = {}, []
    starts = range(0, len(rows), shard_images)
    for number, start in enumerate(tqdm(starts, desc=f"exporting {split}", delay=2)):
        path, some = folder / f"{split}-{number:05}.tar", rows[start : start + shard_images]
        if not (members := _members(path, len(some))):
            write_bytes(path, _pack(index, some, start, images))
            members = _members(path, len(some))
        sizes[path.name] = path.stat().st_size
        places += [(number, *member) for member in members]
    shard, offset, length = np.array(places, np.int64).T
    labels |= {"shard": shard, "offset": offset, "length": length}
    try:
        publish_arrays(_labels_folder(folder, record), labels)
    except OSError as error:
        raise InputError(
            f"cannot write the labels into {folder} ({error.strerror}): free space"
        ) from None
    for path in (root / "recipe.json", human_list(root, split)):
        if path is not None and path.is_file():
            write_bytes(output / path.name, path.read_bytes())
    write_json(folder / DONE, {**record, "shards": sizes})
    begun.unlink()
    return [folder / name for name in sizes]


def _labels_folder(folder: Path, record: dict[str, Any]) -> Path:
    """Named by content, for what is kept of these labels must not be taken for that of others."""
    return folder / f"labels-{record['labels']}"


def _pack(index: Index, rows: Int[np.ndarray, "image"], start: int, images: Path) -> bytes:
    """One tar file, the same bytes for the same images, which are numbered from `start`."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for number, row in enumerate(rows.tolist(), start):
            path = images / bytes(index.file_name[row]).decode()
            try:
                image = path.read_bytes()
            except OSError as error:
                raise InputError(
                    f"cannot read image {path} ({error.strerror}): unpack it again"
                ) from None
            label = orjson.dumps(describe(index, row), option=orjson.OPT_SERIALIZE_NUMPY)
            for suffix, content in (("jpg", image), ("json", label)):
                info = tarfile.TarInfo(f"{number:09}.{suffix}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def _members(path: Path, count: int) -> list[tuple[int, int]]:
    """Offset and length of each image in a tar file of so many; empty if it is not there whole."""
    try:
        with tarfile.open(path, "r:") as tar:
            members = tar.getmembers()
            whole = len(members) == 2 * count and path.stat().st_size % tarfile.RECORDSIZE == 0
    except (OSError, tarfile.TarError):
        return []
    return [(m.offset_data, m.size) for m in members[::2]] if whole else []


def describe(index: Index, row: int) -> dict[str, Any]:
    """The labels of one image under InterHand2.6M's names, in its orders and units.

    `joint_valid` holds what holds in the image and in space, of hands whose wrist is valid.
    """
    frame, camera = index.frame[row], index.camera[row]
    hands: Sequence[dict[str, np.ndarray] | None] = [
        {
            "pose": index.pose[frame, i],
            "shape": index.betas[frame, i],
            "trans": index.transl[frame, i],
        }
        if index.fitted[frame, i]
        else None
        for i in range(2)
    ]
    return {
        "file_name": bytes(index.file_name[row]).decode(),
        "id": int(index.annotation[row]),
        "width": int(index.size[row, 0]),
        "height": int(index.size[row, 1]),
        "camera": bytes(index.camera_name[camera]).decode(),
        "frame_idx": int(index.number[frame]),
        "hand_type": HAND_TYPES[index.hand_type[row]],
        "joint_valid": index.joint_valid[row][:, JOINTS_TO_INTERHAND].reshape(42).astype(np.int8),
        "world_coord": index.joints[frame][:, JOINTS_TO_INTERHAND].reshape(42, 3) * 1000,
        "campos": index.position[camera] * 1000,
        "camrot": np.ascontiguousarray(index.rotation[camera]),
        "focal": index.focal[camera],
        "princpt": index.principal[camera],
        "mano": dict(zip(HANDS, hands, strict=True)),
    }
