"""The mean of the weights of several legs of one training, which is better than any of them.

    python scripts/average_weights.py NETWORK NETWORK [NETWORK ...] OUTPUT.safetensors

Legs that each came down from a high learning rate end on different sides of one valley, and the
middle lies deeper (Izmailov et al., Averaging Weights Leads to Wider Optima and Better
Generalization, 2018; Wortsman et al., Model Soups, 2022). Networks of other beginnings lie in
other valleys: their mean is worth nothing. The running means of batch normalisation are averaged,
too. NETWORK is a run folder, a .safetensors file or a name of shipped weights.
"""

import argparse
import dataclasses
from pathlib import Path

from torch.optim.swa_utils import AveragedModel

from dne_lib.config import config_to_dict, differences
from dne_lib.files import InputError
from dne_lib.model import DualNoiseNetwork
from dne_lib.weights import load_network, save_network


def average(names: list[str], output: Path) -> None:
    """Write the mean, without a calibration: that would be another network's.

    Raises:
        InputError: weights that cannot be read, or are of networks that differ.
    """
    network, config = load_network(names[0])
    mean = AveragedModel(network, use_buffers=True)
    mean.update_parameters(network)
    for other in names[1:]:
        network, theirs = load_network(other)
        theirs = dataclasses.replace(config, model=theirs.model)
        differ = differences(config_to_dict(config), config_to_dict(theirs), ["model.pretrained"])
        if differ:
            raise InputError(f"{names[0]} and {other} are not alike: {', '.join(differ)} differ")
        mean.update_parameters(network)
    averaged = mean.module
    assert isinstance(averaged, DualNoiseNetwork)
    averaged.calibration = {}
    save_network(averaged, config, output)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("networks", nargs="+", metavar="network")
    parser.add_argument("output", type=Path)
    options = parser.parse_args()
    average(options.networks, options.output)
    print(options.output)
