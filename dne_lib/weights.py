"""Weights on disk: safetensors files that carry their configuration and calibration."""

import json
import logging
import math
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from dne_lib.config import Config, config_from_dict, config_to_dict
from dne_lib.files import InputError, write_bytes
from dne_lib.mano import ASSETS, HandModel
from dne_lib.model import DualNoiseNetwork
from dne_lib.model.noise import Calibration

logger = logging.getLogger(__name__)

WEIGHTS = "model.safetensors"
SHIPPED = {
    "shipped": ASSETS / "tiny.safetensors",
    "shipped-coarse": ASSETS / "tiny_coarse.safetensors",
    "shipped-varied": ASSETS / "tiny_varied.safetensors",
}
OPTIONAL_PARTS = ("regressor", "refiners")  # of the network: weights may come without them


def save_network(
    network: DualNoiseNetwork, config: Config, path: str | Path, half: bool = False
) -> None:
    """Write weights with their configuration inside the file (safetensors).

    The hand model's arrays are not among them: MANO's licence does not allow it.

    Raises:
        InputError: the file cannot be written.
    """
    state = {}
    for name, value in network.state_dict().items():
        value = value.detach().cpu().contiguous()
        state[name] = value.half() if half and value.is_floating_point() else value
    metadata = {"config": json.dumps(config_to_dict(config))}
    if network.calibration:
        metadata |= _calibration_metadata(network.calibration)
    write_bytes(Path(path), safetensors.torch.save(state, metadata))


def save_calibration(source: str | Path, calibration: dict[str, Calibration]) -> Path:
    """Put what `uncertainty.fit` found into a file of weights, which stay as they are.

    Args:
        source: see `find_weights`.
        calibration: by kind of image, SH or IH.

    Returns:
        The file.

    Raises:
        InputError: see `read_weights`; the file cannot be written.
    """
    path = find_weights(source)
    metadata = _metadata(path) | _calibration_metadata(calibration)
    write_bytes(path, safetensors.torch.save(safetensors.torch.load_file(path), metadata))
    return path


def _calibration_metadata(calibration: dict[str, Calibration]) -> dict[str, str]:
    fits = {kind: fit._asdict() for kind, fit in calibration.items()}
    return {"calibration": json.dumps(fits)}


def read_calibration(source: str | Path) -> dict[str, Calibration]:
    """How to tell errors from what the network predicts; empty for weights that do not say.

    Raises:
        InputError: see `read_weights`.
    """
    path = find_weights(source)
    try:
        fits = json.loads(_metadata(path).get("calibration", "{}"))
        return {kind: _usable(Calibration(**fit)) for kind, fit in fits.items()}
    except (ValueError, TypeError, AttributeError):
        logger.warning("%s holds a calibration of another version: calibrate it again", path)
        return {}


def _usable(fit: Calibration) -> Calibration:
    """Raises ValueError for numbers that no fit gives."""
    if not (all(map(math.isfinite, fit)) and fit.gamma >= 0 < min(fit.delta, fit.freedom)):
        raise ValueError("no calibration has such numbers")
    return fit


def find_weights(source: str | Path) -> Path:
    """The file behind a run folder, a `.safetensors` file, or one of `SHIPPED`.

    Raises:
        InputError: there is none.
    """
    path = SHIPPED.get(str(source), Path(source))
    path = path / WEIGHTS if path.is_dir() else path
    if not path.is_file():
        legs = sorted(str(leg.parent) for leg in Path(source).glob(f"*/{WEIGHTS}"))
        if legs:
            raise InputError(f"no weights at {path}: give one of its legs, {' or '.join(legs)}")
        if (path.parent / "config.json").exists():
            raise InputError(f"no weights at {path}: that run has no checkpoint yet, train it on")
        raise InputError(
            f"no weights at {path}: give a run folder, a .safetensors file, or one of "
            f"{sorted(SHIPPED)}"
        )
    return path


def read_weights(source: str | Path) -> tuple[dict[str, Tensor], Config]:
    """Weights (as float32) and the configuration they were trained with.

    Raises:
        InputError: missing or damaged file, or one that is not ours, or holds what is no number.
    """
    path = find_weights(source)
    try:
        config = config_from_dict(json.loads(_metadata(path)["config"]), path)
    except InputError:
        raise
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path} carries no configuration of ours ({error}): it was not written by dne_lib"
        ) from None
    state = safetensors.torch.load_file(path)
    state = {k: v.float() if v.is_floating_point() else v for k, v in state.items()}
    if bad := sorted(name for name, value in state.items() if not value.isfinite().all()):
        raise InputError(
            f"{path} holds weights that are no numbers, {bad[0]} first: copy it again, or train "
            "again"
        )
    return state, config


def _metadata(path: Path) -> dict[str, str]:
    """What a file of weights says besides them.

    Raises:
        InputError: damaged file, or one that is not ours.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{path} is not a whole safetensors file ({error}): copy it again"
        ) from None
    if "config" not in metadata:
        raise InputError(f"{path} carries no configuration: it was not written by dne_lib")
    return metadata


def load_network(source: str | Path, mano: Path | None = None) -> tuple[DualNoiseNetwork, Config]:
    """A trained network, in evaluation mode, and its configuration.

    Args:
        source: see `find_weights`.
        mano: folder of the licensed MANO files; None: the hand model it was trained with.

    Raises:
        InputError: see `read_weights`; the hand model is not where it was.
    """
    state, config = read_weights(source)
    config.model.pretrained = False  # its weights are about to be replaced
    network = DualNoiseNetwork(config.model, HandModel(mano or config.data.mano))
    path = find_weights(source)
    loaded = load_weights(network, state, f"{path}")
    if absent := sorted(network.state_dict().keys() - set(loaded)):
        raise InputError(
            f"{path} lacks {len(absent)} weights of the network it describes, {absent[0]} first: "
            "it was written by another version of dne_lib; train again"
        )
    network.calibration = read_calibration(path)
    return network.eval(), config


def load_pretrained(*, varied: bool = False, mano: Path | None = None) -> DualNoiseNetwork:
    """A network that comes with the package, in evaluation mode; assets/MODEL_CARD.md has more.

    `predict.predict` wants its configuration, too: `load_network("shipped-varied")` gives both.

    Args:
        varied: the one that went on with varied images (`synthesize(varied=True)`), for
            photographs; otherwise that of the studio images, of the lessons and of `dne train`.
        mano: folder of the licensed MANO files; None: the built-in hand.

    Raises:
        InputError: see `load_network`.
    """
    return load_network("shipped-varied" if varied else "shipped", mano)[0]


def load_weights(network: DualNoiseNetwork, state: dict[str, Tensor], source: str) -> list[str]:
    """Copy weights in; a coarse network's may go into a full one, whose modules stay fresh.

    A regressor of the other kind (`ModelConfig.regressor`) stays fresh too.

    Returns:
        Names in the state of the network, of parameters and buffers, that were loaded.

    Raises:
        InputError: the weights belong to another configuration; names what differs.
    """

    def part(name: str) -> str:
        return name.partition(".")[0]

    own = network.state_dict()
    shared = {part(name) for name in own.keys() & state.keys()}
    free = set(OPTIONAL_PARTS) - shared  # only one side has them, or each has its own kind
    wrong = [k for k in state.keys() & own.keys() if state[k].shape != own[k].shape]
    missing = [k for k in own.keys() - state.keys() if part(k) not in free]
    extra = [k for k in state.keys() - own.keys() if part(k) not in free]
    if wrong or missing or extra:
        name = sorted(wrong + missing + extra)[0]
        raise InputError(
            f"{source} was trained with another configuration: {len(wrong)} weights have another "
            f"shape, {len(missing)} are missing, {len(extra)} are unknown, {name} first; use the "
            "model settings it was trained with, or start without it (`dne train --from-scratch`)"
        )
    network.load_state_dict({k: v for k, v in state.items() if k in own}, strict=False)
    return [k for k in state if k in own]
