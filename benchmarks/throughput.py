"""Images a second of training, for each preset and stage, on the device that is there.

A step is timed with two hands in every image (`dne_lib.estimate`), loading on one core; so the
last column says how many cores keep the device busy.
"""

import tempfile
from pathlib import Path

import torch
from loader import PAPER, seconds
from torch.utils.data import DataLoader

from dne_lib import InterHand, preset, synthesize
from dne_lib.estimate import estimate

IMAGES, BATCH = 64, 32


def main() -> None:
    """Print a line for each preset and stage."""
    torch.set_num_threads(1)  # for loading: the steps are timed in a process of their own
    with tempfile.TemporaryDirectory() as folder:
        synthesize(Path(folder), train=IMAGES, test=0, seed=0, progress=False)
        for name in ("tiny", "small", "paper"):
            config = preset(name)
            config.data.root = Path(folder)
            data = InterHand(config.data.root, "train", config.model, config.data, augment=True)
            each = seconds(DataLoader(data, BATCH))
            for config.train.stage in ("coarse", "full"):
                found = estimate(config)
                rate = config.train.batch_size / found.seconds
                print(f"{name}, {config.train.stage}: {found.parameters / 1e6:.1f} M", end="")
                print(f" parameters, {rate:.1f} images/s on {found.device}", end="")
                if name == "paper":
                    print(f" ({rate / PAPER:.2f} x those of its authors on four GPUs)", end="")
                print(f", {found.gigabytes:.1f} GB for batches of", end="")
                print(f" {config.train.batch_size}, {rate * each:.2f} cores load them")


if __name__ == "__main__":
    main()
