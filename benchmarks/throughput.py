"""Images a second of training, for each preset and stage, on the device that is there.

A step is timed with two hands in every image (`dne_lib.estimate`), loading on one core; so the
last column says how many cores keep the device busy.
"""

import tempfile
import time
from pathlib import Path

import torch
from loader import PAPER
from torch.utils.data import DataLoader

from dne_lib import InterHand, preset, synthesize
from dne_lib.config import Config
from dne_lib.estimate import estimate

IMAGES, PASSES = 64, 3


def loading(config: Config) -> float:
    """Seconds of processor that an image takes to load, augmented, with all targets."""
    data = InterHand(config.data.root, "train", config.model, config.data, augment=True)
    times = []
    for _ in range(1 + PASSES):
        start = time.process_time()
        count = sum(len(batch["index"]) for batch in DataLoader(data, 32))
        times.append((time.process_time() - start) / count)
    return min(times[1:])


def main() -> None:
    """Print a line for each preset and stage."""
    threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        synthesize(Path(folder), train=IMAGES, test=0, seed=0, progress=False)
        for name in ("tiny", "small", "paper"):
            for stage in ("coarse", "full"):
                config = preset(name)
                config.data.root, config.train.stage = Path(folder), stage
                found = estimate(config)
                rate = config.train.batch_size / found.seconds
                torch.set_num_threads(1)
                cores = rate * loading(config)
                torch.set_num_threads(threads)
                print(f"{name}, {stage}: {found.parameters / 1e6:.1f} M parameters", end="")
                print(f", {rate:.1f} images/s on {found.device}", end="")
                if name == "paper":
                    print(f" ({rate / PAPER:.2f} x those of its authors on four GPUs)", end="")
                print(
                    f", {found.gigabytes:.1f} GB for batches of {config.train.batch_size}", end=""
                )
                print(f", {cores:.2f} cores load them")


if __name__ == "__main__":
    main()
