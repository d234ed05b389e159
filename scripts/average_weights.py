"""The mean of the weights of several legs of one training, which is better than any of them.

    python scripts/average_weights.py NETWORK NETWORK [NETWORK ...] OUTPUT.safetensors

Legs that each came down from a high learning rate end on different sides of one valley, and the
middle lies deeper (Izmailov et al., Averaging Weights Leads to Wider Optima and Better
Generalization, 2018; Wortsman et al., Model Soups, 2022). Networks of other beginnings lie in
other valleys: their mean is worth nothing. The running means of batch normalisation are averaged,
too. NETWORK is a run folder, a .safetensors file or a name of shipped weights.
"""

import argparse
from pathlib import Path

import torch

from dne_lib.config import config_to_dict, differences
from dne_lib.files import InputError
from dne_lib.weights import load_network, save_network


def average(names: list[str], output: Path) -> None:
    """Write the mean, without a calibration: that would be another network's.

    Raises:
        InputError: weights that cannot be read, or are of networks that differ.
    """
    network, config = load_network(names[0])
    sums = {name: value.double() for name, value in network.state_dict().items()}
    model = {"model": config_to_dict(config)["model"]}
    for other in names[1:]:
        added, theirs = load_network(other)
        asked = {"model": config_to_dict(theirs)["model"]}
        if differ := differences(model, asked, ["model.pretrained"]):
            raise InputError(f"{names[0]} and {other} are not alike: {', '.join(differ)} differ")
        for name, value in added.state_dict().items():
            sums[name] += value
    mean = {
        name: (sums[name] / len(names)).to(value.dtype)
        for name, value in network.state_dict().items()
    }
    network.load_state_dict(mean)
    network.calibration = {}
    save_network(network, config, output)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("networks", nargs="+", metavar="network")
    parser.add_argument("output", type=Path)
    options = parser.parse_args()
    with torch.inference_mode():
        average(options.networks, options.output)
    print(options.output)
