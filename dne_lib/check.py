"""What there is of a data set, whether it is whole, and whether its labels lie on its images."""

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from string import ascii_lowercase

import cv2
import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor

from dne_lib.camera import ndc_to_pixels, pixels_to_ndc
from dne_lib.config import DataConfig, ModelConfig
from dne_lib.data.augment import apply_affine
from dne_lib.data.index import (
    POOR,
    Fits,
    Index,
    content_digest,
    fit_errors,
    fit_hands,
    image_folder,
    missing_images,
    read_index,
)
from dne_lib.data.interhand import InterHand
from dne_lib.data.shards import Shards, is_exported
from dne_lib.data.subsets import PUBLISHED, by_humans, count_types, human_list, is_builtin, release
from dne_lib.files import InputError, claim_folder
from dne_lib.mano import SKELETON, HandModel
from dne_lib.plots import contact_sheet, draw_hands, enlarged, placed, save_figure

PICTURES, ACROSS = 16, 4
SIZE = 256  # pixels of a picture
# Right, left; far from skin, and from each other.
MESH_COLOURS = np.array([[0.9, 0.15, 0.4], [0.15, 0.35, 0.95]], np.float32)
JOINT_COLOURS = ((255, 235, 0), (0, 255, 140))
TAR_PARTS = {"5": 44, "30": 198}  # of the tar file that holds v1.0's images, by frames a second
MOST = 8  # names in a line


def check_data(
    root: str | Path, mano: str | Path | None, output: str | Path, seed: int = 0
) -> Iterator[str]:
    """Say what is in a tree, split by split, and draw meshes and joints over some of its images.

    Args:
        mano: folder of the licensed MANO files; None: the built-in hand.
        output: folder for a sheet of pictures of each split.
        seed: not negative; another one draws other images.

    Yields:
        Lines to print, as the work goes on.

    Raises:
        InputError: no split is there, or one cannot be used (which one, and why, is yielded); the
            seed is negative.
    """
    if seed < 0:
        raise InputError(f"--seed is {seed}: give a whole number that is not negative")
    root, output = Path(root), Path(output)
    mano = None if mano is None else Path(mano)
    splits = [
        split
        for split in PUBLISHED
        if (root / "annotations" / split).is_dir() or is_exported(root, split)
    ]
    if not splits:
        old = (root / "annotations" / "all").is_dir()
        raise InputError(
            f"{root} holds no annotations/train, val or test"
            + (": this is InterHand2.6M v0.0, get v1.0" if old else ": give the folder above them")
        )
    claim_folder(output, "check")
    for split in PUBLISHED:  # another data set's, perhaps
        (output / f"{split}.png").unlink(missing_ok=True)
    hands, bad = HandModel(mano), []
    if mano is None and not is_builtin(root):
        yield "hand model: the built-in one, for which these labels were not made: give --mano"
    for split in PUBLISHED:
        if split not in splits:
            yield f"{split}: not there"
            continue
        try:
            yield from describe_split(root, split, hands)
            dataset = InterHand(root, split, ModelConfig(), DataConfig(mano=mano), augment=False)
            yield f"  usable: {dataset.counts['used']:,} images"
            path = output / f"{split}.png"
            sheet(dataset, path, seed)
            yield f"  look at {path}: do meshes and joints lie on the hands?"
        except InputError as error:
            bad.append(split)
            yield f"  {split} CANNOT BE USED: {error}"
    yield from describe_parts(root)
    if bad:
        raise InputError(f"{root}: {', '.join(bad)} cannot be used as it is, see above")


def describe_split(root: Path, split: str, hands: HandModel) -> Iterator[str]:
    """Lines on the labels, images and fits of a split.

    Raises:
        InputError: see `read_index` and `by_humans`.
    """
    yield f"{split}:"
    packed = Shards(root, split) if is_exported(root, split) else None
    index = read_index(root, split) if packed is None else packed.index
    listed = counts = count_types(index)
    yield f"  labels: {release(root, index)}, digest {content_digest(index)}"
    # An export of some images lists the frames, sequences and cameras of all.
    columns = (index.frame, index.sequence, index.camera)
    frames, sequences, cameras = (np.unique(column) for column in columns)
    captures = {name.split(b"/")[0] for name in index.sequence_name[sequences].tolist()}
    yield (
        f"  listed: {numbers(counts)}; {len(frames):,} frames in {len(captures)} captures, "
        f"{len(sequences)} sequences, {len(np.unique(index.camera_name[cameras]))} cameras"
    )
    if packed is not None:
        record = packed.record
        listed = (record["listed"][0], record["listed"][1])
        yield (
            f"  exported from: {numbers(listed)}, {record['missing']:,} of them missing; "
            f"annotation {record['annotation']}, hand type {record['hand_type']}, "
            f"every {record['every']}"
        )
    if not is_builtin(root):
        yield f"  {compared(listed, PUBLISHED[split]['H+M'])}"
    if human_list(root, split) is not None:
        human = count_types(index, by_humans(index, root, split))
        yield f"  annotated by humans: {numbers(human)}"
        if counts == listed:
            yield f"  {compared(human, PUBLISHED[split].get('H', (0, 0)))}"
    elif "H" in PUBLISHED[split] and not is_builtin(root):
        yield "  annotated by humans: no list, which only data.annotation H and M need"
    if packed is not None:
        yield f"  images: all there, in {len(packed.names)} tar files"
    elif len((missing := missing_images(index, image_folder(root, split), anew=True)).rows):
        gone = len(missing.rows)
        there = len(index.file_name) - gone
        yield f"  images: {there:,} there, {gone:,} MISSING: {missing.where()}"
    else:
        yield "  images: all there"
    yield from describe_fits(index, fit_hands(index, hands))


def describe_parts(root: Path) -> Iterator[str]:
    """Lines on the downloaded parts of the images, where they are still in the folder or beside it.

    They are cut from one file to one size and called partaa, partab and so on; which images are in
    which of them nobody publishes, but all parts are needed.
    """
    folders = (root, root.resolve().parent)
    for folder, (rate, count) in product(folders, TAR_PARTS.items()):
        parts = folder.glob(f"InterHand2.6M.images.{rate}.fps.v1.0.tar.part??")
        sizes = {path.suffix[1:]: path.stat().st_size for path in parts}
        if not sizes:
            continue
        names = [f"part{a}{b}" for a, b in product(ascii_lowercase, repeat=2)][:count]
        lost = [name for name in names if name not in sizes]
        size = max(sizes.values())
        short = [name for name in names[:-1] if sizes.get(name, size) < size]
        line = f"tar parts of the images in {folder}: {count - len(lost)} of {count}"
        for what, which in (("MISSING", lost), ("NOT WHOLE", short)):
            if which:
                line += f"; {what}: {', '.join(which[:MOST])}"
                line += f" and {len(which) - MOST} more" if len(which) > MOST else ""
        yield line


def describe_fits(index: Index, fits: Fits) -> Iterator[str]:
    """Lines on how far MANO's joints are from the triangulated ones."""
    used = np.unique(index.frame)
    fitted = index.fitted[used]
    yield (
        f"  MANO: {int(fitted.any(1).sum()):,} of {len(used):,} frames have "
        f"parameters; {int(fits.present.sum()):,} hands are in view"
    )
    error = fit_errors(index, fits)
    if not len(error):
        return
    middle, high = np.percentile(error, (50, 95))
    poor = int((error > POOR).sum())
    yield (
        f"  MANO's joints to the triangulated ones: median {middle:.1f} mm, 95 % below "
        f"{high:.1f} mm, {poor:,} of {len(error):,} hands above {POOR:.0f} mm"
        + (" (data.max_fit_error leaves them out)" if poor else "")
    )
    if middle > POOR:
        yield "  THE LABELS DO NOT FIT THE HAND MODEL: wrong MANO files, or units"


def numbers(counts: tuple[int, int]) -> str:
    """Counts of single-hand and interacting-hand images, and of all."""
    return f"{sum(counts):,} images ({counts[0]:,} SH + {counts[1]:,} IH)"


def compared(counts: tuple[int, int], published: tuple[int, int]) -> str:
    """Whether counts are the published ones of the 5 fps release, or else which those are."""
    if counts == published:
        return "as published"
    return f"NOT AS PUBLISHED for 5 fps: {numbers(published)}"


def sheet(dataset: InterHand, path: Path, seed: int) -> None:
    """Draw images beside their overlays into a file.

    Raises:
        InputError: an image cannot be read, or the file not be written.
    """
    count = min(PICTURES, len(dataset))
    picked = np.random.default_rng(seed).choice(len(dataset), count, replace=False)
    picked = np.sort(picked).tolist()
    pictures = []
    for i in picked:
        sample = dataset[i]
        pictures += [enlarged(sample["image"].numpy(), SIZE), overlay(dataset, sample)]
    across = min(ACROSS, count)
    blank = np.ones((SIZE, SIZE, 3), np.float32)
    pictures += [blank] * (-len(pictures) % (2 * across))
    rows = [pictures[i : i + 2 * across] for i in range(0, len(pictures), 2 * across)]
    labels = [f"#{', #'.join(map(str, picked[i : i + across]))}" for i in range(0, count, across)]
    save_figure(contact_sheet(rows, ["image", "mesh, joints"] * across, labels), path)


def overlay(dataset: InterHand, sample: dict[str, Tensor]) -> Float[np.ndarray, "size size 3"]:
    """MANO's mesh and the triangulated joints over a crop: labels that are stored independently.

    Args:
        sample: of the data set, without augmentation.
    """
    values = {name: value.numpy() for name, value in sample.items()}
    picture = draw_hands(
        enlarged(values["image"], SIZE),
        ndc_to_pixels(values["vertices_2d"], SIZE),
        placed(values["vertices"], values["camera"]),
        dataset.topology.faces,
        values["present"],
        np.broadcast_to(MESH_COLOURS[:, None], values["vertices"].shape),
        opacity=0.5,
    )
    points, seen = triangulated(dataset, sample)
    canvas = np.ascontiguousarray((picture * 255).round().astype(np.uint8))
    points = ndc_to_pixels(pixels_to_ndc(points, dataset.config.image_size), SIZE) * 16
    for hand, colour in enumerate(JOINT_COLOURS):
        pixels = [tuple(map(int, point)) for point in points[hand].round()]
        for joint, parent in enumerate(SKELETON):
            if not seen[hand, joint]:
                continue
            if parent >= 0 and seen[hand, parent]:
                cv2.line(canvas, pixels[parent], pixels[joint], colour, 1, cv2.LINE_AA, 4)
            cv2.circle(canvas, pixels[joint], 32, colour, -1, cv2.LINE_AA, 4)
    return canvas.astype(np.float32) / 255


def triangulated(
    dataset: InterHand, sample: dict[str, Tensor]
) -> tuple[Float[np.ndarray, "2 21 2"], Bool[np.ndarray, "2 21"]]:
    """Joints of the joint_3d file in pixels of the crop, and which of them can be shown."""
    index = dataset.labels
    row = dataset.rows[int(sample["index"])]
    frame, camera = index.frame[row], index.camera[row]
    points = (index.joints[frame] - index.position[camera]) @ index.rotation[camera].T
    seen = index.known[frame] & sample["present"].numpy()[:, None] & (points[..., 2] > 0)
    pixels = points[..., :2] / np.where(seen, points[..., 2], 1)[..., None]
    pixels = pixels * index.focal[camera] + index.principal[camera]
    return apply_affine(np.where(seen[..., None], pixels, 0), sample["crop"].numpy()), seen
