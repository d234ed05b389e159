"""Images a second that one core loads for the paper's network, and where the time goes.

Crops of 256 pixels, augmented, with all auxiliary maps at 64 x 64, collated into batches. Times are
of the processor, so that what else the machine does is not counted.
"""

import cProfile
import pstats
import tempfile
import time
from pathlib import Path

import cv2
import torch
from torch.utils.data import DataLoader

from dne_lib import InterHand, preset, synthesize

IMAGES, BATCH, REPEATS = 128, 32, 5
WANTED = 60.0  # images a second
PAPER = 75.6  # images a second that the paper's training moves: 1,361,062 in five hours
PARTS = {  # what is not in another one of them
    "read and decode the image": ("read_image",),
    "cut the crop out": ("crop_image",),
    "brightness and pixel noise": ("change_colours",),
    "pose the hands": ("single", "regress_joints", "mano_rotations"),
    "find the face of each pixel": ("rasterize",),
    "vertex normals": ("vertex_normals",),
    "heat maps": ("heatmaps",),
    "collate the batch": ("default_collate",),
}


def load(loader: DataLoader) -> int:
    """Go through all batches once; returns how many images there were."""
    return sum(len(batch["index"]) for batch in loader)


def seconds(loader: DataLoader) -> float:
    """Least processor time an image of some passes, after one to warm up."""
    load(loader)
    times = []
    for _ in range(REPEATS):
        start = time.process_time()
        count = load(loader)
        times.append((time.process_time() - start) / count)
    return min(times)


def shares(loader: DataLoader) -> dict[str, float]:
    """The part of the time that each kind of work takes."""
    profile = cProfile.Profile(time.process_time)
    profile.runcall(load, loader)
    stats = pstats.Stats(profile)
    entries = stats.stats  # pyright: ignore[reportAttributeAccessIssue]
    spent = {
        part: sum(
            cumulative
            for (_, _, name), (calls, primitive, _, cumulative, _) in entries.items()
            if name in names
        )
        for part, names in PARTS.items()
    }
    total = stats.total_tt  # pyright: ignore[reportAttributeAccessIssue]
    rest = {
        "all else (boxes, attributes of the maps, random numbers …)": total - sum(spent.values())
    }
    return {part: value / total for part, value in (spent | rest).items()}


def main() -> None:
    """Print the rate and a table of where the time goes."""
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    config = preset("paper")
    with tempfile.TemporaryDirectory() as folder:
        synthesize(Path(folder), train=IMAGES, test=0, seed=0, progress=False)
        dataset = InterHand(Path(folder), "train", config.model, config.data, augment=True)
        loader = DataLoader(dataset, BATCH, shuffle=True)
        each = seconds(loader)
        print(f"one core loads {1 / each:.0f} images/s ({each * 1e3:.2f} ms an image)", end="")
        print(f": {1 / each / WANTED:.1f} x the {WANTED:.0f} asked for", end="")
        print(f"; {PAPER * each:.1f} cores feed the paper's {PAPER} images/s")
        for part, share in sorted(shares(loader).items(), key=lambda item: -item[1]):
            print(f"  {share:6.1%}  {share * each * 1e3:5.2f} ms  {part}")


if __name__ == "__main__":
    main()
