"""The network, one file per part of the paper."""

from dne_lib.model.network import DualNoiseNetwork, Output, Stage

__all__ = ["DualNoiseNetwork", "Output", "Stage"]
