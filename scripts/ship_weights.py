"""Put a trained network into the package, with the record of how it came.

    python scripts/ship_weights.py shipped[-coarse|-varied] RUN [RUN ...] --device "two CPU cores"

The runs are the legs of its training, in order; the last one's weights are shipped, at half
precision, in dne_lib/assets. results/ gets, for each leg, its configuration and every n-th line of
its log; metrics.json and the pictures of the last one's evaluation; and record.json, from which
model_card.py makes the card.
"""

import argparse
import shutil
import subprocess
from pathlib import Path

from dne_lib.data.index import read_index
from dne_lib.files import read_json, write_bytes, write_json
from dne_lib.weights import SHIPPED, load_network, save_network

ROOT = Path(__file__).parents[1]


def without_places(config: dict) -> dict:
    """A configuration with folders reduced to their names: they are another machine's."""
    config["data"]["root"] = Path(config["data"]["root"]).name
    if config["train"]["initial"]:
        config["train"]["initial"] = Path(config["train"]["initial"]).name
    return config


def leg(run: Path) -> dict:
    """What a run adds to the training."""
    config, steps = (read_json(run / name) for name in ("config.json", "checkpoint/step.json"))
    return {
        "name": run.name,
        "stage": config["train"]["stage"],
        "image_steps": steps["step"] * config["train"]["batch_size"],
        "image_size": config["model"]["image_size"],
        "rotation": config["data"]["rotation"],
        "images": len(read_index(Path(config["data"]["root"]), "train").file_name),
        "seed": config["train"]["seed"],
    }


def main() -> None:
    """Copy weights and records."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=sorted(SHIPPED))
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--device", required=True, help="what it was trained on")
    parser.add_argument("--commit", help="of the code of the last leg; default: this checkout's")
    parser.add_argument("--thin", type=int, default=5, help="keep every n-th line of the logs")
    options = parser.parse_args()
    target, last = SHIPPED[options.name], options.runs[-1]
    network, config = load_network(last)
    if network.refiners and not network.calibration:
        parser.error(f"{last} is not calibrated: dne calibrate {last} --data DATA-WITH-VAL")
    config.data.root = type(config.data)().root
    config.train.initial = None
    save_network(network, config, target, half=True)
    folder = ROOT / "results" / target.stem
    for run in options.runs:
        write_json(
            folder / run.name / "config.json", without_places(read_json(run / "config.json"))
        )
        lines = (run / "log.jsonl").read_bytes().splitlines(keepends=True)
        kept = lines[options.thin - 1 :: options.thin]
        write_bytes(folder / run.name / "log.jsonl", b"".join(kept))
    metrics = read_json(last / "evaluation-test" / "metrics.json")
    metrics |= {"network": last.name, "data": Path(metrics["data"]).name}
    without_places(metrics["config"])
    write_json(folder / "metrics.json", metrics)
    head = ["git", "rev-parse", "--short", options.commit or "HEAD"]
    commit = subprocess.run(head, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    legs = [leg(run) for run in options.runs]
    record = {"commit": commit.strip(), "device": options.device, "legs": legs}
    write_json(folder / "record.json", record)
    for name in ("grid.png", "maps.png"):
        shutil.copy(last / "evaluation-test" / name, folder / name)
    print(f"{target}: {target.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
