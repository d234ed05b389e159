"""Monocular 3D hand mesh recovery via dual noise estimation.

The commands have a function each, in the module of their name: `dne_lib.train.train`,
`dne_lib.evaluate.evaluate`, `dne_lib.predict.predict`.
"""

from dne_lib.camera import project, ridge_camera
from dne_lib.config import Config, preset
from dne_lib.data.interhand import InterHand
from dne_lib.data.synthesize import synthesize
from dne_lib.files import InputError
from dne_lib.losses import total_loss
from dne_lib.mano import HandModel
from dne_lib.model import DualNoiseNetwork
from dne_lib.weights import load_network, load_pretrained

__version__ = "0.1.0"

__all__ = [
    "Config",
    "DualNoiseNetwork",
    "HandModel",
    "InputError",
    "InterHand",
    "load_network",
    "load_pretrained",
    "preset",
    "project",
    "ridge_camera",
    "synthesize",
    "total_loss",
]
