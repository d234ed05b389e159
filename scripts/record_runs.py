"""Keep the record of a training: what it was told, what it said, what came out.

    python scripts/record_runs.py NAME RUN [RUN ...] --device "two CPU cores"

The runs are the legs of one training, in order; of those that results/NAME holds already the name
is enough. results/NAME gets, for each leg, its configuration
and every n-th line of its log; metrics.json and the pictures of the last one's evaluation; and
record.json with the images, steps and seeds of the legs. Where --made names weights that no run has
trained as they are (by join_weights.py or average_weights.py) and the folder of their evaluation,
it gets that evaluation, and the weights.
"""

import argparse
import shutil
import subprocess
from pathlib import Path
from typing import Any

from dne_lib.config import DataConfig
from dne_lib.data.index import read_index
from dne_lib.files import read_json, write_bytes, write_json
from dne_lib.weights import load_network, save_network

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


def record(
    runs: list[Path],
    folder: Path,
    device: str,
    commit: str | None,
    thin: int,
    evaluation: Path | None = None,
) -> None:
    """Write the records of legs of training.

    Args:
        folder: to write into.
        device: what it was trained on.
        commit: of the code of the last leg; None: this checkout's.
        thin: keep every n-th line of the logs.
        evaluation: folder of metrics.json and pictures; None: that of the last run.
    """
    path = folder / "record.json"
    known = {each["name"]: each for each in read_json(path)["legs"]} if path.exists() else {}
    legs = [known[run.name] if str(run) in known else leg(run) for run in runs]
    for run in runs:
        if str(run) in known:
            continue
        write_json(
            folder / run.name / "config.json", without_places(read_json(run / "config.json"))
        )
        lines = (run / "log.jsonl").read_bytes().splitlines(keepends=True)
        write_bytes(folder / run.name / "log.jsonl", b"".join(lines[thin - 1 :: thin]))
    evaluation = evaluation or runs[-1] / "evaluation-test"
    metrics = read_json(evaluation / "metrics.json")
    metrics |= {"network": Path(metrics["network"]).name, "data": Path(metrics["data"]).name}
    without_places(metrics["config"])
    write_json(folder / "metrics.json", metrics)
    head = ["git", "rev-parse", "--short", commit or "HEAD"]
    short = subprocess.run(head, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    write_json(path, {"commit": short.strip(), "device": device, "legs": legs})
    for name in ("grid.png", "maps.png"):
        shutil.copy(evaluation / name, folder / name)


def put(weights: Path, target: Path) -> None:
    """Copy weights, at half precision and without the folders of another machine."""
    network, config = load_network(weights)
    if network.refiners and not network.calibration:
        raise SystemExit(f"{weights} is not calibrated: dne calibrate {weights} --data TREE")
    config.data.root = DataConfig().root
    config.train.initial = None
    save_network(network, config, target, half=True)


def training_parser(description: str | None, **name: Any) -> argparse.ArgumentParser:
    """Of what `record` asks for, and a name."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("name", **name)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--device", required=True, help="what it was trained on")
    parser.add_argument("--commit", help="of the code of the last leg; default: this checkout's")
    parser.add_argument("--made", type=Path, nargs=2, metavar=("WEIGHTS", "EVALUATION"))
    parser.add_argument("--thin", type=int, default=5, help="keep every n-th line of the logs")
    return parser


if __name__ == "__main__":
    options = training_parser(__doc__, help="folder in results/").parse_args()
    target = ROOT / "results" / options.name
    weights, evaluation = options.made or (None, None)
    record(options.runs, target, options.device, options.commit, options.thin, evaluation)
    if weights is not None:
        put(weights, target / "model.safetensors")
    print(target)
