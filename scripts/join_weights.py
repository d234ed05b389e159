"""One network's coarse stage with the modules of another, for both to be trained on together.

    python scripts/join_weights.py COARSE FULL OUTPUT.safetensors

What the coarse stage of a full network learns alone, cheaply, on other images, need not cost it
its modules. COARSE and FULL are run folders, .safetensors files or names of shipped weights, of
the same sizes but for the image's.
"""

import argparse
from pathlib import Path

from dne_lib.weights import load_network, load_weights, read_weights, save_network


def join(coarse: str, full: str, output: Path) -> None:
    """Write FULL with all that COARSE has, without a calibration: it would be another network's.

    Raises:
        InputError: weights that cannot be read, or do not fit each other.
    """
    network, config = load_network(full)
    load_weights(network, read_weights(coarse)[0], coarse)
    network.calibration = {}
    save_network(network, config, output)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("coarse")
    parser.add_argument("full")
    parser.add_argument("output", type=Path)
    options = parser.parse_args()
    join(options.coarse, options.full, options.output)
    print(options.output)
