"""Which images an experiment uses: the subsets that publications on InterHand2.6M name.

Images are annotated by humans (H), by a machine (M), or by both. v1.0 lists all of them together
(H+M); which are H is told by aid_human_annot_<split>.txt, a list of annotations that comes with
InterWild (https://github.com/facebookresearch/InterWild). Which of those a machine annotated too
is not told, so that M here are the images that are not in H: in test they are the published M, in
train the published M without the 76,457 that both annotated. Val has no H.
"""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from dne_lib.config import DataConfig
from dne_lib.data.index import HAND_TYPES, Index
from dne_lib.files import InputError, read_json

# Images of one hand and of two, 5 fps; https://mks0601.github.io/InterHand2.6M.
PUBLISHED: dict[str, dict[str, tuple[int, int]]] = {
    "train": {"H": (142_231, 386_251), "M": (594_189, 314_848), "H+M": (687_548, 673_514)},
    "val": {"M": (234_183, 145_942), "H+M": (234_183, 145_942)},
    "test": {"H": (33_665, 87_908), "M": (455_303, 272_284), "H+M": (488_968, 360_192)},
}


def chosen(index: Index, root: Path, split: str, data: DataConfig) -> Bool[np.ndarray, "image"]:
    """The images that the configuration asks for, before any is found to be unusable.

    Raises:
        InputError: no list of human annotations where one is needed; `data.every` is not positive.
    """
    used = every(index, data.every)
    if data.hand_type != "All":
        used &= interacting(index) == (data.hand_type == "IH")
    if data.annotation != "H+M":
        used &= by_humans(index, root, split) == (data.annotation == "H")
    return used


def interacting(index: Index) -> Bool[np.ndarray, "image"]:
    """Images of two hands (IH); the others are of one (SH)."""
    return index.hand_type == HAND_TYPES.index("interacting")


def count_types(
    index: Index, used: Bool[np.ndarray, "image"] | slice = slice(None)
) -> tuple[int, int]:
    """Numbers of images of one hand and of two, of all or of some."""
    two = interacting(index)[used]
    return int((~two).sum()), int(two.sum())


def human_list(root: Path, split: str) -> Path | None:
    """The list of human annotations, beside the labels or in a folder above."""
    name = f"aid_human_annot_{split}.txt"
    folders = (root / "annotations" / split, root / "annotations", root)
    return next((folder / name for folder in folders if (folder / name).is_file()), None)


def by_humans(index: Index, root: Path, split: str) -> Bool[np.ndarray, "image"]:
    """Images that are in the list of human annotations; none of val is.

    Raises:
        InputError: there is no list, or it is not one of numbers.
    """
    path = human_list(root, split)
    if path is None and split == "val":
        return np.zeros(len(index.annotation), bool)
    if path is None:
        raise InputError(
            f"{root} does not tell which images of {split} humans annotated: put "
            f"aid_human_annot_{split}.txt, which https://github.com/facebookresearch/InterWild "
            f"links to, into {root / 'annotations'}, or use data.annotation H+M"
        )
    try:
        numbers = np.array(path.read_bytes().split(), np.int64)
    except (ValueError, OverflowError):
        raise InputError(f"{path} is not a list of numbers: download it again") from None
    return np.isin(index.annotation, numbers)


def is_builtin(root: Path) -> bool:
    """Whether a tree was made by `dne synthesize`."""
    return (root / "recipe.json").is_file()


def recipe(root: Path) -> dict[str, Any]:
    """What `dne synthesize` was asked for; nothing where it did not make the tree.

    Raises:
        InputError: the file is damaged.
    """
    if not is_builtin(root):
        return {}
    path = root / "recipe.json"
    if not isinstance(found := read_json(path), dict):
        raise InputError(f"{path} is no recipe of `dne synthesize`: make the data again")
    return found


def is_varied(root: Path) -> bool:
    """Whether it was made by `dne synthesize --varied`."""
    return "varied" in recipe(root)


def release(root: Path, index: Index) -> str:
    """Which data these are, as far as the files tell."""
    if is_builtin(root):
        made = recipe(root)
        name = "varied built-in data" if is_varied(root) else "built-in data"
        return f"{name}, version {made.get('version')}, seed {made.get('seed')}"
    steps = frame_steps(index)
    if not steps.any():
        return "InterHand2.6M, frame rate unknown"
    return f"InterHand2.6M, {5 if np.median(steps[steps > 0]) > 4 else 30} fps"


def frame_steps(index: Index) -> np.ndarray:
    """How far apart the frames of each sequence are, at the least; 0 where there is but one.

    Sequences of the 5 fps release have 18 or 6, those of the 30 fps release 3 or 1.
    """
    _, sequence, number = _in_order(index)
    gaps = np.full(len(index.sequence_name), np.iinfo(np.int64).max)
    together = sequence[1:] == sequence[:-1]
    np.minimum.at(gaps, sequence[1:][together], np.diff(number)[together])
    return np.where(gaps == np.iinfo(np.int64).max, 0, gaps)


def every(index: Index, count: int) -> Bool[np.ndarray, "image"]:
    """Images of each `count`-th frame of every sequence, gaps in it counted as frames.

    Raises:
        InputError: `count` is not positive.
    """
    if count < 1:
        raise InputError(f"data.every is {count}: 1 takes each frame, 6 one of six")
    if count == 1:
        return np.ones(len(index.frame), bool)
    order, sequence, number = _in_order(index)
    first = np.zeros(len(index.sequence_name), np.int64)
    first[sequence[::-1]] = number[::-1]  # what is written last stays
    after = number - first[sequence]
    kept = np.zeros(len(index.number), bool)
    kept[order] = after // np.maximum(frame_steps(index)[sequence], 1) % count == 0
    return kept[index.frame]


def _in_order(index: Index) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Frames sorted by sequence and number: their rows, sequences and numbers."""
    order = np.lexsort([index.number, index.frame_sequence])
    return order, index.frame_sequence[order], index.number[order]
