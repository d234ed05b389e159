"""Building, opening and size of the index of a split of InterHand2.6M's size: `make bench`.

Makes annotations with the structure of the 5 fps training split (captures, sequences, cameras that
share frames); the full size is `python benchmarks/index.py 1361062`.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import orjson

from dne_lib.config import DataConfig, ModelConfig
from dne_lib.data.index import _read_data, _stream, _whole
from dne_lib.data.interhand import InterHand

CAPTURES, CAMERAS, SEQUENCE = 27, 80, 16  # captures and cameras as in train; frames of a sequence
SPLIT = "train"


def make_tree(root: Path, count: int) -> int:
    """Write the annotations of `count` images and empty images; returns the bytes of JSON."""
    rng = np.random.default_rng(0)
    cameras = [str(400000 + i) for i in range(CAMERAS)]
    frames = -(-count // CAMERAS)
    numbers = [(i * CAPTURES // frames, i // SEQUENCE, str(10000 + 3 * i)) for i in range(frames)]
    kinds = [
        "right" if i % 4 == 0 else "left" if i % 4 == 1 else "interacting" for i in range(frames)
    ]
    for capture, sequence, number in numbers:
        # The cameras of a sequence see the same frames, so that one folder serves for all.
        folder = root / "images" / SPLIT / f"Capture{capture}" / f"{sequence:04}_sequence"
        if not folder.exists():
            (folder / f"cam{cameras[0]}").mkdir(parents=True)
            for camera in cameras[1:]:
                (folder / f"cam{camera}").symlink_to(f"cam{cameras[0]}")
        (folder / f"cam{cameras[0]}" / f"image{number}.jpg").touch()

    def images() -> Iterator[dict]:
        for i in range(count):
            capture, sequence, number = numbers[i // CAMERAS]
            camera = cameras[i % CAMERAS]
            name = f"Capture{capture}/{sequence:04}_sequence/cam{camera}/image{number}.jpg"
            yield {
                "id": i,
                "file_name": name,
                "width": 334,
                "height": 512,
                "capture": capture,
                "subject": capture,
                "seq_name": f"{sequence:04}_sequence",
                "camera": camera,
                "frame_idx": int(number),
            }

    def annotations() -> Iterator[dict]:
        for i in range(count):
            kind = kinds[i // CAMERAS]
            valid = [int(kind != "left")] * 21 + [int(kind != "right")] * 21
            box = [48.3125 + i % 97, 120.25 + i % 53, 200.125, 210.5]
            yield {
                "id": i,
                "image_id": i,
                "bbox": box,
                "joint_valid": valid,
                "hand_type": kind,
                "hand_type_valid": 1,
                "capture": numbers[i // CAMERAS][0],
            }

    folder = root / "annotations" / SPLIT
    folder.mkdir(parents=True)
    with (folder / f"InterHand2.6M_{SPLIT}_data.json").open("wb") as file:
        for opening, records in (
            (b'{"images": [', images()),
            (b'], "annotations": [', annotations()),
        ):
            file.write(opening)
            for i, record in enumerate(records):
                file.write((b", " if i else b"") + json.dumps(record).encode())
        file.write(b"]}")
    place = {"campos": [0.0, 0.0, -1000.0], "camrot": np.eye(3).tolist()}
    place |= {"focal": [1250.0, 1250.0], "princpt": [167.0, 256.0]}
    view = {name: dict.fromkeys(cameras, value) for name, value in place.items()}
    joints: dict[str, dict] = {str(capture): {} for capture in range(CAPTURES)}
    fits: dict[str, dict] = {str(capture): {} for capture in range(CAPTURES)}
    for (capture, _, number), kind in zip(numbers, kinds, strict=True):
        sides = ("right", "left") if kind == "interacting" else (kind,)
        joints[str(capture)][number] = {
            "world_coord": rng.normal(0, 50, (42, 3)).tolist(),
            "joint_valid": [[int(side in sides)] for side in ("right", "left") for _ in range(21)],
            "hand_type": kind,
            "hand_type_valid": True,
        }
        fits[str(capture)][number] = dict.fromkeys(("right", "left")) | {
            side: {
                "pose": rng.normal(0, 0.2, 48).tolist(),
                "shape": rng.normal(0, 1, 10).tolist(),
                "trans": rng.normal(0, 0.02, 3).tolist(),
            }
            for side in sides
        }
    for name, value in {
        "camera": {str(capture): view for capture in range(CAPTURES)},
        "joint_3d": joints,
        "MANO_NeuralAnnot": fits,
    }.items():
        (folder / f"InterHand2.6M_{SPLIT}_{name}.json").write_bytes(orjson.dumps(value))
    return sum(path.stat().st_size for path in folder.glob("*.json"))


def memory() -> dict[str, float]:
    """MiB of this process, now and at most (Linux; elsewhere not a number)."""
    status = Path("/proc/self/status")
    lines = (
        dict(line.split(":", 1) for line in status.read_text().splitlines())
        if status.exists()
        else {}
    )
    kinds = {"now": "VmRSS", "peak": "VmHWM"}
    return {
        name: int(lines[key].split()[0]) / 1024 if lines else np.nan for name, key in kinds.items()
    }


def measure(root: Path, work: str) -> dict[str, float]:
    """Seconds and memory of one piece of work, in this process, which does nothing else."""
    path = root / "annotations" / SPLIT / f"InterHand2.6M_{SPLIT}_data.json"
    before, start, busy = memory(), time.perf_counter(), time.process_time()
    if work == "open":
        InterHand(root, SPLIT, ModelConfig(), DataConfig(), augment=False)
    else:
        _read_data(_stream(path, SPLIT) if work == "in parts" else _whole(path), path)
    seconds, busy, after = time.perf_counter() - start, time.process_time() - busy, memory()
    return {
        "seconds": seconds,
        "busy": busy,
        "before": before["now"],
        "after": after["now"],
        "peak": after["peak"],
    }


def alone(root: Path, work: str) -> dict[str, float]:
    """`measure` in a process of its own."""
    command = [sys.executable, __file__, work, str(root)]
    return orjson.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def main(count: int) -> None:
    """Print what building and opening cost."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        size = make_tree(root, count)
        print(f"{count:,} images, {size / 2**20:.0f} MiB of JSON")
        whole, parts = alone(root, "whole"), alone(root, "in parts")
        ratio = (whole["peak"] - whole["before"]) / (parts["peak"] - parts["before"])
        print(f"memory for data.json: parsed at once / in parts = {ratio:.1f}", end="")
        print(f" ({whole['busy']:.1f} / {parts['busy']:.1f} s busy)")
        built, opened = alone(root, "open"), alone(root, "open")
        for name, run in (("build", built), ("open again", opened)):
            print(f"{name}: {run['seconds']:.2f} s ({run['busy']:.2f} s busy)", end="")
            print(f", {run['before']:.0f} MiB of imports", end="")
            print(f", +{run['peak'] - run['before']:.0f} at most", end="")
            print(f", +{run['after'] - run['before']:.0f} after")
        stored = (root / "annotations" / SPLIT / ".dne-index").rglob("*.*")
        print(f"on disk: {sum(path.stat().st_size for path in stored) / 2**20:.1f} MiB")
        print(f"build / open = {built['seconds'] / opened['seconds']:.0f}")


if __name__ == "__main__":
    if len(sys.argv) == 3:
        sys.stdout.buffer.write(orjson.dumps(measure(Path(sys.argv[2]), sys.argv[1])))
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
