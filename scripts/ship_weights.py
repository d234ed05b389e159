"""Put a finished run into the package: half-precision weights, and the record of how they came.

    python scripts/ship_weights.py RUN shipped-coarse|shipped --note "what was run before"

Writes dne_lib/assets/NAME.safetensors, and into results/NAME/: config.json, log.jsonl (one line
in --thin), metrics.json and pictures of the run's evaluation on the test split.
"""

import argparse
import shutil
from pathlib import Path

from dne_lib.files import write_bytes
from dne_lib.train import SHIPPED, load_network, save_network

ROOT = Path(__file__).parents[1]


def main() -> None:
    """Copy weights and records."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("name", choices=sorted(SHIPPED))
    parser.add_argument("--thin", type=int, default=5, help="keep every n-th line of the log")
    options = parser.parse_args()
    network, config = load_network(options.run)
    # The folders of the machine that trained are of no use on another.
    config.data.root = type(config.data)().root
    config.train.initial = None
    save_network(network, config, SHIPPED[options.name], half=True)
    folder = ROOT / "results" / SHIPPED[options.name].stem
    folder.mkdir(parents=True, exist_ok=True)
    lines = (options.run / "log.jsonl").read_bytes().splitlines(keepends=True)
    write_bytes(folder / "log.jsonl", b"".join(lines[:: options.thin] + lines[-1:]))
    for name in ("metrics.json", "grid.png", "maps.png"):
        shutil.copy(options.run / "evaluation-test" / name, folder / name)
    print(f"{SHIPPED[options.name]}: {SHIPPED[options.name].stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
