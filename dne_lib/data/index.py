"""The labels of one split as memory-mapped arrays, made once from InterHand2.6M's JSON files.

At full size the files hold gigabytes of text. They are parsed once, a part at a time, into arrays
that open at once and that all processes share. The arrays lie beside the files, in
annotations/<split>/.dne-index, or in the user's cache folder where that cannot be written. Nothing
there needs care: changed files belong to another folder name, a folder gets its name only when it
is whole, and one that does not load is made again.
"""

import dataclasses
import io
import json
import logging
import os
import re
import shutil
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from operator import itemgetter
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import orjson
import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from tqdm import tqdm

from dne_lib.config import HANDS, JOINTS
from dne_lib.files import InputError, read_json, write_bytes, write_json
from dne_lib.mano import INTERHAND_TO_JOINTS, HandModel

HAND_TYPES = (*HANDS, "interacting")
FILES = ("data", "camera", "joint_3d", "MANO_NeuralAnnot")
POOR = 20.0  # mm: a fit that is farther off is hardly one
NEAREST = 0.1  # metres: a joint nearer to the camera than this is of a failed fit
VERSION = 3  # of the arrays: another one makes them again
BLOCK = 1 << 22  # bytes of JSON read at a time
TEMPORARY = "unfinished-"  # folders that are being written

log = logging.getLogger(__name__)

# Between the records of a data file: the opening of a list, the end of the file, and a comma.
OPENING = re.compile(rb'(?:^\s*\{|(?<=\})\s*\]\s*,)\s*"(images|annotations)"\s*:\s*\[\s*(?=\{)')
CLOSING = re.compile(rb"(?<=\})\s*\]\s*\}\s*$")
BETWEEN = re.compile(rb"(?<=\})\s*,\s*$")


@dataclass
class Arrays:
    """Read-only arrays, one file each; sent to another process as the name of their folder."""

    folder: Path

    def __reduce__(self):
        return load_arrays, (type(self), self.folder)


AnyArrays = TypeVar("AnyArrays", bound=Arrays)


@dataclass
class Index(Arrays):
    """All labels of one split, one row per image, frame or camera; millimetres are metres here."""

    file_name: np.ndarray  # "image", bytes, below images/<split>
    annotation: Int[np.ndarray, "image"]  # its number in the file
    size: Int[np.ndarray, "image 2"]  # width, height
    hand_type: Int[np.ndarray, "image"]  # place in HAND_TYPES
    joint_valid: Bool[np.ndarray, "image hand 21"]  # with its wrist, in the image and in space
    sequence: Int[np.ndarray, "image"]
    frame: Int[np.ndarray, "image"]
    camera: Int[np.ndarray, "image"]
    sequence_name: np.ndarray  # "sequence", bytes: capture and sequence
    number: Int[np.ndarray, "frame"]  # within its capture
    frame_sequence: Int[np.ndarray, "frame"]  # also where an export has no image of the frame
    joints: Float[np.ndarray, "frame hand 21 3"]  # triangulated, world
    known: Bool[np.ndarray, "frame hand 21"]  # which of them are valid
    fitted: Bool[np.ndarray, "frame hand"]  # has MANO parameters
    pose: Float[np.ndarray, "frame hand 48"]
    betas: Float[np.ndarray, "frame hand 10"]
    transl: Float[np.ndarray, "frame hand 3"]
    camera_name: np.ndarray  # "camera", bytes
    rotation: Float[np.ndarray, "camera 3 3"]
    position: Float[np.ndarray, "camera 3"]
    focal: Float[np.ndarray, "camera 2"]
    principal: Float[np.ndarray, "camera 2"]


@dataclass
class Fits(Arrays):
    """What follows from the labels and a hand model; zero for a hand without parameters."""

    wrist: Float[np.ndarray, "frame hand 3"]  # world, metres; MANO turns the hand about it
    error: Float[np.ndarray, "frame hand"]  # mean over known joints, mm; zero where none is
    present: Bool[np.ndarray, "image hand"]  # fitted, of the hand type, before the camera, in view


@dataclass
class Missing:
    """Images that the labels list and the tree does not hold."""

    rows: Int[np.ndarray, "missing"]
    counts: dict[str, int]  # by capture and sequence

    def where(self, most: int = 8) -> str:
        """Sequences and the number missing of each, whole captures if there are too many."""
        counts = Counter(self.counts)
        if len(counts) > most:
            counts = Counter()
            for name, count in self.counts.items():
                counts[name.split("/")[0]] += count
        names = [f"{name}: {count}" for name, count in sorted(counts.items())[:most]]
        more = len(counts) - len(names)
        return ", ".join(names) + (f" and {more} more" if more > 0 else "")

    def warn(self, images: Path, listed: int) -> None:
        """Log how many of the listed images are missing from their folder, and where; if any."""
        if len(self.rows):
            log.warning("%s: dropped %d of %d images, which are not there (%s): unpack the parts "
                        "of InterHand2.6M that hold them",
                        images, len(self.rows), listed, self.where())  # fmt: skip


def read_index(root: Path, split: str) -> Index:
    """The labels of one split; parses the annotations the first time and after they changed.

    Raises:
        InputError: the tree or one of its files is missing or half-written, a field is missing,
            malformed or not finite, a hand type is unknown, or the index cannot be written.
    """
    folder = root / "annotations" / split
    if not folder.is_dir():
        if (root / "recipe.json").exists():
            counts = {"train": "0", "test": "0", split: "N"}
            options = " ".join(f"--{name} {count}" for name, count in counts.items())
            raise InputError(
                f"{folder} does not exist: if `dne synthesize` was interrupted, the same command "
                f"goes on; if not, {root} has no {split}: render one into another folder, with "
                f"`dne synthesize FOLDER {options}`, and give that one"
            )
        raise InputError(
            f"{folder} does not exist: give the folder of InterHand2.6M that holds annotations/ "
            "and images/, or render data: `dne synthesize FOLDER --train 4000 --test 400 --val 400`"
        )
    paths = [folder / f"InterHand2.6M_{split}_{name}.json" for name in FILES]
    wanted = (*paths, image_folder(root, split))
    if missing := [f"{path.relative_to(root)}" for path in wanted if not path.exists()]:
        raise InputError(
            f"the tree {root} is half-written, it lacks {', '.join(missing)}: run the "
            "`dne synthesize` command that was writing it again, with the same numbers, or unpack "
            "that part of InterHand2.6M again"
        )
    states = [path.stat() for path in paths]
    stamp = [VERSION, *((state.st_size, state.st_mtime_ns) for state in states)]
    target = folder / ".dne-index" / _digest(repr(stamp).encode())
    index = _cached(Index, target, lambda: _parse(paths, split))
    _prune(index.folder)
    return index


def image_folder(root: Path, split: str) -> Path:
    """Where a split's images are: in images/, which may lie in the folder that unpacking makes."""
    folder = root / "images" / split
    unpacked = sorted(root.glob(f"InterHand2.6M_*fps_batch*/images/{split}"))
    return unpacked[0] if unpacked and not folder.exists() else folder


def fit_hands(index: Index, hands: HandModel) -> Fits:
    """Place the hands, see which can be used, and measure the fits; once for each hand model.

    Raises:
        InputError: the result cannot be written.
    """
    values = (hands.template, hands.shapedirs, hands.posedirs, hands.regressor, hands.weights)
    model = _digest(*(v.numpy(force=True).tobytes() for v in (*values, hands.mean_pose)))
    return _cached(Fits, index.folder / f"hands-{model}", lambda: _fit(index, hands))


def fit_errors(index: Index, fits: Fits) -> Float[np.ndarray, "hands"]:
    """How far MANO's joints are from the triangulated ones, mm, where both are known."""
    used = np.unique(index.frame)
    return fits.error[used][index.fitted[used] & index.known[used].any(-1)]


def content_digest(index: Index) -> str:
    """A name for what the labels say: the same for the same labels, wherever and whenever read."""
    # frame_sequence is younger than results that name their labels by this digest.
    names = [f.name for f in dataclasses.fields(index)]
    arrays = (getattr(index, n) for n in names if n not in ("folder", "frame_sequence"))
    return _digest(*(np.ascontiguousarray(array).data for array in arrays))


def missing_images(index: Index, images: Path, anew: bool = False) -> Missing:
    """Look which images are there; again only after a folder of folders, or one with gaps, changed.

    Args:
        images: the folder of the split's images.
        anew: look in any case, for images may also go where none was missing.
    """
    files = _candidates(index.folder / "missing.json")
    for file in files if not anew else ():
        with suppress(InputError):
            stored = read_json(file)
            if all(_changed(images / name) == at for name, at in stored["watched"].items()):
                return Missing(np.array(stored["rows"], np.int64), stored["counts"])
    found, watched = _look(index, images)
    value = {"rows": found.rows, "counts": found.counts, "watched": watched}
    for file in files:
        with suppress(InputError):  # it is looked for again next time
            write_json(file, value)
            break
    return found


def _look(index: Index, images: Path) -> tuple[Missing, dict[str, int | None]]:
    """Missing images, and when the folders last changed in which they would appear."""
    folders = defaultdict(list)
    for row, name in enumerate(index.file_name.tolist()):
        folder, _, file = name.rpartition(b"/")
        folders[folder].append((row, file))
    rows, counts = [], Counter()
    sequences = {key.decode().rpartition("/")[0] for key in folders}
    above = sequences | {name.rpartition("/")[0] for name in sequences} | {""}
    watched = {name: _changed(images / name) for name in above}
    for key, listed in tqdm(folders.items(), desc="looking for images", delay=2):
        folder = key.decode()
        near, changed = _nearest(images, folder)  # before listing, so that no change is missed
        there = set()
        with suppress(OSError), os.scandir(os.fsencode(images / folder)) as entries:
            there = {entry.name for entry in entries}
        if gone := [row for row, file in listed if file not in there]:
            rows += gone
            watched[near] = changed
            counts["/".join(folder.split("/")[:2])] += len(gone)
    return Missing(np.array(sorted(rows), np.int64), dict(counts)), watched


def _nearest(images: Path, folder: str) -> tuple[str, int | None]:
    """The folder, or the nearest one above that exists, and when it last changed."""
    while (changed := _changed(images / folder)) is None and folder:
        folder = folder.rpartition("/")[0]
    return folder, changed


def _changed(path: Path) -> int | None:
    try:
        return path.stat().st_ctime_ns  # tar and rsync set st_mtime back
    except OSError:
        return None


def _fit(index: Index, hands: HandModel) -> dict[str, np.ndarray]:
    count = len(index.frame)
    wrist, posed = np.zeros_like(index.transl), np.zeros_like(index.joints)
    for at in tqdm(_slices(len(wrist), 256), desc="fitting errors", delay=2):
        betas = torch.from_numpy(index.betas[at].copy())
        rotations = hands.mano_rotations(torch.from_numpy(index.pose[at].copy()))
        wrist[at] = hands.wrist_rest(betas).numpy() + index.transl[at]
        for side in range(2):
            some = index.fitted[at, side].copy()  # torch warns of what it may not write
            if some.any():
                hand = hands.single(side, rotations[some, side], betas[some, side])
                posed[at, side][some] = hand.joints.numpy() + wrist[at, side][some, None]
    wrist[~index.fitted] = 0
    compared = index.known & index.fitted[..., None]
    distance = np.linalg.norm(posed - index.joints, axis=-1) * compared
    error = 1000 * distance.sum(-1) / np.maximum(compared.sum(-1), 1)

    # Row by hand type: right, left, interacting.
    shown = np.array([[True, False], [False, True], [True, True]])
    present = np.zeros((count, 2), bool)
    for at in tqdm(_slices(count, 1 << 14), desc="hands in view", delay=2):
        frame, camera = index.frame[at], index.camera[at]
        offsets = posed[frame] - index.position[camera][:, None, None]
        flat = rearrange(offsets, "n h j xyz -> n (h j) xyz")
        points = flat @ np.swapaxes(index.rotation[camera], 1, 2)
        ahead = points[..., 2:] > NEAREST
        pixels = points[..., :2] / np.where(ahead, points[..., 2:], 1)
        pixels = pixels * index.focal[camera][:, None] + index.principal[camera][:, None]
        inside = (pixels > -0.5) & (pixels < index.size[at, None] - 0.5)
        seen = rearrange(inside.all(-1), "n (h j) -> n h j", h=2).any(-1)
        ahead = rearrange(ahead[..., 0], "n (h j) -> n h j", h=2).all(-1)
        present[at] = shown[index.hand_type[at]] & index.fitted[frame] & seen & ahead
    return {"wrist": wrist, "error": error.astype(np.float32), "present": present}


def _slices(count: int, step: int) -> list[slice]:
    return [slice(start, start + step) for start in range(0, count, step)]


# Files of arrays


def _cached(
    kind: type[AnyArrays], folder: Path, build: Callable[[], dict[str, np.ndarray]]
) -> AnyArrays:
    """Arrays from a folder, or from its stand-in in the user's cache; built if in neither."""
    candidates = _candidates(folder)
    for candidate in candidates:
        try:
            return load_arrays(kind, candidate)
        except (OSError, ValueError, EOFError):
            if candidate.is_dir():  # damaged
                _discard(candidate)
    arrays = build()
    for candidate in candidates:
        with suppress(OSError, ValueError, EOFError):
            publish_arrays(candidate, arrays)
            return load_arrays(kind, candidate)
    raise InputError(
        f"cannot write the index of the labels, neither to {candidates[0].parent} nor to "
        f"{candidates[1].parent}: free space, or let XDG_CACHE_HOME be a folder that can be written"
    )


def load_arrays(kind: type[AnyArrays], folder: Path) -> AnyArrays:
    """Arrays of a folder, memory-mapped; any of OSError, ValueError and EOFError if damaged."""
    names = [field.name for field in dataclasses.fields(kind) if field.name != "folder"]
    arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in names}
    return kind(folder=folder, **{name: np.asarray(array) for name, array in arrays.items()})


def publish_arrays(folder: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write arrays so that their folder appears whole, whoever else is writing it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=folder.parent, prefix=TEMPORARY))
    try:
        for name, values in arrays.items():
            buffer = io.BytesIO()
            np.save(buffer, values)
            write_bytes(work / f"{name}.npy", buffer.getvalue())
        work.chmod(0o755)
        work.rename(folder)
    except OSError:
        if not folder.is_dir():  # else another process was faster
            raise
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _discard(folder: Path) -> None:
    """Remove a folder at once, so that nobody finds a part of it."""
    with suppress(OSError):
        away = tempfile.mkdtemp(dir=folder.parent, prefix=TEMPORARY)
        shutil.rmtree(folder.rename(away))


def _prune(folder: Path) -> None:
    """Remove what earlier versions of the labels, and processes that were killed, have left."""
    for other in folder.parent.iterdir():
        with suppress(OSError):
            busy = other.name.startswith(TEMPORARY) and time.time() - other.stat().st_mtime < 86400
            if other != folder and not busy:
                _discard(other)


def _candidates(path: Path) -> list[Path]:
    """A place beside the data, and the one in the user's cache if that cannot be written."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return [path, cache / "dne" / _digest(os.fsencode(path.parent.resolve())) / path.name]


def _digest(*parts: bytes | memoryview) -> str:
    digest = blake2b(digest_size=8)
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


# Parsing


def _parse(paths: Sequence[Path], split: str) -> dict[str, np.ndarray]:
    """The arrays of an `Index`, one file after the other, so that only one is in memory."""
    data_path, camera_path, joint_path, mano_path = paths
    try:
        table = _read_data(_stream(data_path, split), data_path)
    except (_Irregular, OSError):  # the other way explains what cannot be read
        table = _read_data(_whole(data_path), data_path)
    name, moments, views, valid = table["file_name"], table["moment"], table["view"], table["valid"]

    def read(path: Path, codes: np.ndarray, keys: list[Any], one: Callable[..., tuple]) -> list:
        """The columns of what `one` reads of the file for each code, and each row's place."""
        used, first, place = np.unique(codes, return_index=True, return_inverse=True)
        content = read_object(path)
        found = [
            one(content, *keys[code], f"{path}: (image {name[row].decode()})")
            for code, row in zip(
                tqdm(used, desc=f"indexing {path.name}", delay=2), first, strict=True
            )
        ]
        columns = [np.array(column) for column in zip(*found, strict=True)]
        return [*columns, place.astype(np.int32)]

    camera_columns = read(camera_path, views, table["views"], _camera)
    rotation, position, focal, principal, camera = camera_columns
    joints, known, frame = read(joint_path, moments, table["moments"], _joints)
    fitted, pose, betas, transl, _ = read(mano_path, moments, table["moments"], _fits)
    known = rearrange(known, "n (h j) -> n h j", h=2)[..., INTERHAND_TO_JOINTS]
    valid = rearrange(valid, "n (h j) -> n h j", h=2)[..., INTERHAND_TO_JOINTS] & known[frame]
    joints = rearrange(joints, "n (h j) xyz -> n h j xyz", h=2)[:, :, INTERHAND_TO_JOINTS]
    frame_sequence = np.zeros(len(joints), np.int32)
    frame_sequence[frame] = table["sequence"]
    return {
        "file_name": name,
        "annotation": table["annotation"],
        "size": table["size"],
        "hand_type": table["hand_type"],
        "joint_valid": valid & valid[..., :1],
        "sequence": table["sequence"],
        "frame": frame,
        "camera": camera,
        "sequence_name": np.array([name.encode() for name in table["sequences"]]),
        "number": _ids([table["moments"][code][1] for code in np.unique(moments)], data_path),
        "frame_sequence": frame_sequence,
        "joints": joints / np.float32(1000),
        "known": known,
        "fitted": fitted,
        "pose": pose,
        "betas": betas,
        "transl": transl,
        "camera_name": np.array([table["views"][code][1].encode() for code in np.unique(views)]),
        "rotation": rotation,
        "position": position / np.float32(1000),
        "focal": focal,
        "principal": principal,
    }


def _read_data(chunks: Iterable[tuple[str, list]], path: Path) -> dict[str, Any]:
    """Columns of annotations and of the images they are of, a row for each annotation.

    `moment` and `view` number the pairs (capture, frame) of `moments` and (capture, camera) of
    `views`; `sequence` numbers the folders in `sequences`.
    """
    sequences: dict[str, int] = {}
    moments: dict[tuple[str, str], int] = {}
    views: dict[tuple[str, str], int] = {}
    kinds = {name: i for i, name in enumerate(HAND_TYPES)}
    images, labels = [], []
    for name, records in chunks:
        if name == "images":
            names = ("id", "file_name", "width", "height", "capture", "camera", "frame_idx")
            ids, files, wide, high, captures, cameras, frames = _columns(records, names, path)
            size = _numbers([wide, high], (2, len(ids)), f"{path}: width and height of images").T
            captures = list(map(str, captures))
            keys = zip(captures, map(str, frames), strict=True)
            moment = [moments.setdefault(key, len(moments)) for key in keys]
            keys = zip(captures, map(str, cameras), strict=True)
            view = [views.setdefault(key, len(views)) for key in keys]
            keys = (str(file).rsplit("/", 2)[0] for file in files)
            sequence = np.array([sequences.setdefault(key, len(sequences)) for key in keys])
            names = np.array([str(file).encode() for file in files])
            number = _ids(ids, path)
            images.append((number, names, size, sequence, np.array(moment), np.array(view)))
        else:
            names = ("image_id", "id", "hand_type", "joint_valid")
            ids, own, kind, valid = _columns(records, names, path)
            kind = [kinds.setdefault(str(k), len(kinds)) for k in kind]
            valid = _validity(valid, ids, path)
            labels.append((_ids(ids, path), _ids(own, path), np.array(kind), valid))
    if not labels:
        raise InputError(f"{path} has no annotations: write or download it again")
    key, own, kind, valid = (np.concatenate(column) for column in zip(*labels, strict=True))
    if not images:
        raise InputError(f"{path}: an annotation is of image {key[0]}, which is not listed")
    columns = (np.concatenate(column) for column in zip(*images, strict=True))
    ids, names, size, sequence, moment, view = columns
    order = np.argsort(ids, kind="stable")
    row = order[np.searchsorted(ids[order], key, side="right") - 1]
    if (lost := ids[row] != key).any():
        raise InputError(
            f"{path}: an annotation is of image {key[lost][0]}, which is not listed: write or "
            "download it again"
        )
    if (strange := kind >= len(HAND_TYPES)).any():
        raise InputError(
            f"{path}: image {names[row][strange][0].decode()} has hand_type "
            f"{list(kinds)[kind[strange][0]]!r}: it must be one of {HAND_TYPES}"
        )
    return {
        "file_name": names[row],
        "annotation": own,
        "size": size[row].astype(np.int32),
        "hand_type": kind.astype(np.int8),
        "valid": valid,
        "sequence": sequence[row].astype(np.int32),
        "sequences": list(sequences),
        "moment": moment[row],
        "view": view[row],
        "moments": list(moments),
        "views": list(views),
    }


class _Irregular(Exception):
    """A data file that has to be parsed as a whole."""


def _stream(path: Path, split: str) -> Iterator[tuple[str, list]]:
    """Records of the lists of a data file, some thousands at a time, as plain as they come.

    Cuts the text where one record seems to end and another to begin. A wrong cut leaves no valid
    JSON, so that what is found is right.

    Raises:
        _Irregular: there is more in the file than two lists of flat records, or an error.
    """
    name, seen, text, whole = "", set(), b"", False
    bar = tqdm(total=path.stat().st_size, unit="B", unit_scale=True, delay=2)
    bar.set_description(f"indexing {split}", refresh=False)
    with path.open("rb") as file, bar:
        while not whole:
            block = file.read(BLOCK)
            bar.update(len(block))
            whole, text = not block, text + block
            cut = len(text) if whole else max(text.rfind(b"{"), 0)
            # Only the end is searched: patterns that look behind are slow.
            end = (CLOSING if whole else BETWEEN).search(text, max(cut - 100, 0), cut)
            if end is None and (whole or len(text) > 64 * BLOCK):
                raise _Irregular
            if end is None:
                continue
            records, text = text[: end.start()], text[cut:]
            listed = b'"images"' in records or b'"annotations"' in records
            parts = OPENING.split(records) if listed else [records]
            for i, part in enumerate(parts):
                if i % 2:
                    name = part.decode()
                    seen.add(name)
                elif part:
                    if not name:
                        raise _Irregular
                    try:
                        chunk = orjson.loads(b"[" + part + b"]")
                    except orjson.JSONDecodeError:
                        raise _Irregular from None
                    yield name, chunk
    if seen != {"images", "annotations"}:
        raise _Irregular


def _whole(path: Path) -> Iterator[tuple[str, list]]:
    """The same from any data file, parsed at once."""
    names = ("images", "annotations")
    for name, records in zip(names, _fields(read_object(path), names, path), strict=True):
        if not isinstance(records, list):
            raise InputError(f"{path}: {name} is not a list: write or download the file again")
        if records:
            yield name, records


def read_object(path: Path) -> dict:
    """Like `read_json`, but lets NaN pass, which is no JSON: it is reported with its place.

    Raises:
        InputError: the file is missing, not complete JSON, or no object.
    """
    try:
        content = read_json(path)
    except InputError:
        try:
            content = json.loads(path.read_bytes())
        except (OSError, ValueError):
            content = None
        if content is None:
            raise
    if not isinstance(content, dict):
        raise InputError(f"{path} is not a JSON object: write or download it again")
    return content


def _columns(records: list, names: tuple[str, ...], path: Path) -> list[tuple]:
    try:
        return list(zip(*map(itemgetter(*names), records), strict=True))
    except (KeyError, TypeError, IndexError):
        kind = "annotation" if "image_id" in names else "image"
        for record in records:
            known = isinstance(record, dict) and "id" in record
            _fields(
                record, names, f"{path}: {kind} {record['id']}" if known else f"{path}: an {kind}"
            )
        raise


def _ids(values: Sequence, path: Path) -> np.ndarray:
    try:
        found = np.array(values)
        if found.size and found.dtype.kind == "f":  # would be cut
            raise ValueError
        return found.astype(np.int64)
    except (TypeError, ValueError, OverflowError):
        raise InputError(
            f"{path}: numbers of images, annotations or frames are not whole: write or download "
            "the file again"
        ) from None


def _validity(values: Sequence, ids: Sequence, path: Path) -> np.ndarray:
    where = f"{path}: image {{}}, joint_valid"
    try:
        return _numbers(values, (len(values), 2 * JOINTS), where) > 0
    except InputError:  # bad, or nested for some images only
        pairs = zip(values, ids, strict=True)
        return np.array([_numbers(v, 2 * JOINTS, where.format(key)) for v, key in pairs]) > 0


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


def _camera(cameras: dict, capture: str, camera: str, where: str) -> tuple:
    (record,) = _fields(cameras, (capture,), where)
    shapes = {"camrot": (3, 3), "campos": 3, "focal": 2, "princpt": 2}
    parts = _fields(record, tuple(shapes), f"{where} capture {capture}")
    where = f"{where} capture {capture}, camera {camera}"
    rotation, position, focal, principal = (
        _numbers(_fields(part, (camera,), f"{where}, {name}")[0], shape, f"{where}, {name}")
        for part, (name, shape) in zip(parts, shapes.items(), strict=True)
    )
    if np.abs(rotation @ rotation.T - np.eye(3)).max() > 0.01 or focal.min() <= 0:
        raise InputError(f"{where}: no camera is like that: download the file again")
    return rotation, position, focal, principal


def _fits(mano: dict, capture: str, frame: str, where: str) -> tuple:
    """Both hands' fitted flag, pose, betas and translation; zeros for a hand without."""
    fitted = np.zeros(2, bool)
    values = [np.zeros((2, n), np.float32) for n in (48, 10, 3)]
    record, place = mano, where
    for name, key in (("capture", capture), ("frame", frame)):
        record = record.get(key) or {}
        place = f"{place} {name} {key}"
        if not isinstance(record, dict):
            raise InputError(f"{place} is no record: correct or remove the label")
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


def _joints(joints: dict, capture: str, frame: str, where: str) -> tuple[np.ndarray, np.ndarray]:
    """The 42 triangulated joints in the file's order, zero where not valid, and which are."""
    (records,) = _fields(joints, (capture,), where)
    (record,) = _fields(records, (frame,), f"{where} capture {capture}")
    where = f"{where} capture {capture}, frame {frame}"
    world, valid = _fields(record, ("world_coord", "joint_valid"), where)
    valid = _numbers(valid, 2 * JOINTS, f"{where}, joint_valid") > 0
    points = np.zeros((2 * JOINTS, 3), np.float32)
    if not isinstance(world, list):
        raise InputError(f"{where}, world_coord is no list: correct or remove the label")
    known = [p for p, v in zip(world, valid, strict=False) if v]
    points[valid] = _numbers(known, (int(valid.sum()), 3), f"{where}, world_coord")
    return points, valid
