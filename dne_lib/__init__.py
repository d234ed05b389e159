"""Monocular 3D hand mesh recovery via dual noise estimation.

The commands have a function each, to be imported from its module: `dne_lib.train.train`,
`dne_lib.evaluate.report`, `dne_lib.predict.predict`, `dne_lib.uncertainty.calibrate`,
`dne_lib.ablate.ablate`, `dne_lib.check.check_data`, `dne_lib.data.shards.export`, and `synthesize`
here. From a photograph to meshes:

    from pathlib import Path

    from dne_lib import load_network
    from dne_lib.predict import predict, save

    found = predict(*load_network("shipped-varied"), "photo.jpg")
    save(found, Path("predictions/photo"))
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
