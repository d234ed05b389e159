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

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dne_lib.camera import project, ridge_camera
    from dne_lib.config import Config, preset
    from dne_lib.data.interhand import InterHand
    from dne_lib.files import InputError
    from dne_lib.losses import total_loss
    from dne_lib.mano import HandModel
    from dne_lib.model import DualNoiseNetwork
    from dne_lib.synthetic.synthesize import synthesize
    from dne_lib.weights import load_network, load_pretrained

__version__ = "0.1.0"

_HOMES = {
    "Config": "config",
    "DualNoiseNetwork": "model",
    "HandModel": "mano",
    "InputError": "files",
    "InterHand": "data.interhand",
    "load_network": "weights",
    "load_pretrained": "weights",
    "preset": "config",
    "project": "camera",
    "ridge_camera": "camera",
    "synthesize": "synthetic.synthesize",
    "total_loss": "losses",
}

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

if not TYPE_CHECKING:  # type checkers would take it to have every name

    def __getattr__(name: str) -> Any:
        """Import a name when it is asked for: torch takes seconds, and `dne --help` needs none."""
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """What may be completed, imported yet or not."""
    return [*globals(), *__all__]
