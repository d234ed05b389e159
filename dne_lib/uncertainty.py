"""How far a vertex may be off: Eq. 2's noise, held against true errors.

Eq. 2 gives each step mu that a module moves a vertex a noise of gamma |mu| + delta: what had to go
far is less certain. Its gamma and delta are chosen for training, and say little in millimetres.
`fit` chooses them, and the tails of the distribution, so that errors on images the network has
not seen are likeliest. `weights.save_calibration` keeps them with the weights. (Drawing samples
tells less than the means do: in the spread of a few draws, delta drowns what sets vertices apart.)
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from matplotlib.figure import Figure
from scipy.optimize import minimize
from scipy.special import gammaln
from torch import Tensor
from tqdm.auto import tqdm

from dne_lib.config import Config
from dne_lib.data.interhand import InterHand
from dne_lib.evaluate import batches, evenly_spaced, format_table
from dne_lib.files import InputError
from dne_lib.metrics import MILLIMETRES
from dne_lib.model import DualNoiseNetwork
from dne_lib.model.noise import GAUSSIAN, KINDS, Calibration, as_trained, radius, refined_way

FEWEST = 40  # hands of a kind to fit it on
LEVELS = np.array([0.5, 0.68, 0.9, 0.95])


class Measured(NamedTuple):
    """Vertices of the hands present, hand units."""

    way: Float[np.ndarray, "hand vertex"]  # see `refined_way`
    error: Float[np.ndarray, "hand vertex"]  # distance of the prediction from the truth
    interacting: Bool[np.ndarray, " hand"]


@torch.inference_mode()
def measure(network: DualNoiseNetwork, batches: Iterable[dict[str, Tensor]]) -> Measured:
    """The way and the error of every vertex of a set of images.

    Args:
        network: in evaluation mode, on any device.
        batches: collated samples of `InterHand`, without augmentation.

    Raises:
        InputError: see `refined_way`.
    """
    device = next(network.parameters()).device
    found: list[Measured] = []
    for batch in tqdm(batches, desc="measure", unit="batch"):
        present = batch["present"]
        stages = network(batch["image"].to(device), present.to(device)).stages
        error = (stages[-1].vertices.cpu() - batch["vertices"]).norm(dim=-1)
        each = (
            refined_way([stage.vertices for stage in stages]).cpu(),
            error,
            batch["interacting"][:, None].expand_as(present),
        )
        found.append(Measured(*(values[present].numpy() for values in each)))
    return Measured(*map(np.concatenate, zip(*found, strict=True)))


def fit(measured: Measured) -> dict[str, Calibration]:
    """Maximum likelihood, for images of one hand and of two apart.

    Fit on images that are used neither for training nor for what is reported.

    Returns:
        By kind; a kind with fewer than 40 hands is left out.

    Raises:
        InputError: so are both.
    """
    fits = {
        kind: _likeliest(part)
        for kind in KINDS
        if len((part := _of_kind(measured, kind)).error) >= FEWEST
    }
    if not fits:
        raise InputError(
            f"{len(measured.error)} hands are too few to calibrate on: take images of {FEWEST} "
            "single hands, or pairs, or more"
        )
    return fits


def _of_kind(measured: Measured, kind: str) -> Measured:
    chosen = measured.interacting == (kind == "IH")
    return Measured(*(values[chosen] for values in measured))


def _likeliest(measured: Measured) -> Calibration:
    # Neighbours err alike: every eighth vertex says as much as all.
    way, error = (values[:, ::8].astype(np.float64) for values in measured[:2])

    def surprise(logarithms: Float[np.ndarray, "3"]) -> float:
        gamma, delta, freedom = np.exp(logarithms)
        scale = gamma * way + delta
        constant = gammaln((freedom + 3) / 2) - gammaln(freedom / 2) - 1.5 * np.log(freedom)
        tail = (freedom + 3) / 2 * np.log1p((error / scale) ** 2 / freedom)
        return float(np.mean(3 * np.log(scale) + tail) - constant)

    start = np.log([1.0, np.median(error) / 2, 4.0])
    bounds = [(-10, 5), (-10, 5), (0, np.log(GAUSSIAN))]
    found = minimize(surprise, start, method="Nelder-Mead", bounds=bounds, tol=1e-5)
    return Calibration(*np.exp(found.x).tolist())


def coverage(
    measured: Measured, fits: Mapping[str, Calibration], levels: Float[np.ndarray, "level"]
) -> Float[np.ndarray, "level"]:
    """Share of vertices within the radius that should hold the share `levels` of them.

    Calibrated, the result is `levels`; overconfident, it lies below.

    Raises:
        InputError: there are hands of a kind without a fit, as in all that is made of one.
    """
    within = [measured.error <= _radii(measured, fits, level) for level in levels]
    return np.mean(within, axis=(1, 2))


def _radii(
    measured: Measured, fits: Mapping[str, Calibration], level: float
) -> Float[np.ndarray, "hand vertex"]:
    """`radius`, for each hand as its kind has it."""
    radii = np.empty_like(measured.error)
    for kind, part in zip(KINDS, (~measured.interacting, measured.interacting), strict=True):
        if not part.any():
            continue
        if kind not in fits:
            raise InputError(f"there are {part.sum()} hands of {kind}, and no fit for those")
        radii[part] = radius(measured.way[part], fits[kind], level)
    return radii


def binned(
    measured: Measured, fits: Mapping[str, Calibration], bins: int = 10
) -> tuple[Float[np.ndarray, "bin"], Float[np.ndarray, "bin"]]:
    """Predicted and true error of vertices sorted by the prediction, in bins of equal number.

    Returns:
        Medians, millimetres.
    """
    said = _radii(measured, fits, 0.5).ravel()
    groups = np.array_split(np.argsort(said), bins)
    predicted, true = (
        np.array([np.median(values[group]) for group in groups]) * MILLIMETRES
        for values in (said, measured.error.ravel())
    )
    return predicted, true


def calibration_figure(measured: Measured, fits: dict[str, Mapping[str, Calibration]]) -> Figure:
    """Predicted against true errors on the left, the calibration curve on the right.

    Args:
        fits: by name, such as "as trained" and "calibrated".
    """
    figure = Figure((8.5, 3.8), facecolor="white", dpi=110, layout="constrained")
    left, right = figure.subplots(1, 2)
    levels = np.linspace(0, 1, 51)[1:-1]
    for name, each in fits.items():
        predicted, true = binned(measured, each)
        left.plot(predicted, true, "o-", ms=4, label=name)
        right.plot(levels, coverage(measured, each, levels), label=name)
    # A line through the origin, as far as the curves go.
    top = max(max(line.get_xdata().max(), line.get_ydata().max()) for line in left.lines)
    left.plot([0, top], [0, top], color="0.6", ls="--", zorder=0)
    right.plot([0, 1], [0, 1], color="0.6", ls="--", zorder=0)
    left.set(xlabel="predicted error, mm", ylabel="error, mm", title="vertices by prediction")
    right.set(xlabel="share expected within", ylabel="share found within", title="calibration")
    left.legend(frameon=False)
    right.legend(frameon=False)
    return figure


def calibrate(
    network: DualNoiseNetwork, config: Config, limit: int | None = None
) -> tuple[dict[str, Calibration], str]:
    """Fit on the split val of a network's data.

    Args:
        network: in evaluation mode, on the device to run on.
        config: of the network; `data.root` is the tree to read.
        limit: number of images, evenly spaced; None: all.

    Returns:
        What was fitted, and a table of how well such a fit does on images it has not seen: each
        half of the images is fitted and held against the other.

    Raises:
        InputError: the data cannot be read, are too few, or the network has no modules.
    """
    dataset = InterHand(config.data.root, "val", config.model, config.data, augment=False)
    dataset.require_fit()
    images = len(evenly_spaced(len(dataset), limit))
    if 2 * images < FEWEST:
        raise InputError(
            f"{images} images are too few to calibrate on: their hands must be {FEWEST} at least, "
            "on images of one hand or of two"
        )
    measured = measure(network, batches(dataset, config, limit))
    fits, before = fit(measured), as_trained(config.model)
    rows = []
    for kind in fits:
        part = _of_kind(measured, kind)
        middle = len(part.error) // 2  # neighbours are alike: other images, not every other one
        first, second = (
            Measured(*(values[half] for values in part))
            for half in (slice(middle), slice(middle, None))
        )
        crossed = [
            coverage(other, {kind: _likeliest(one)}, LEVELS)
            for one, other in ((first, second), (second, first))
        ]
        found = {
            "as trained": coverage(part, before, LEVELS),
            "calibrated": np.mean(crossed, axis=0),
        }
        rows += [
            [f"{kind}, {name}", f"{len(part.error)}", *(f"{share:.1%}" for share in shares)]
            for name, shares in found.items()
        ]
    header = ["vertices within what should hold", "hands", *(f"{level:.0%}" for level in LEVELS)]
    numbers = [
        f"{kind}: gamma {each.gamma:.2f}, delta {each.delta * MILLIMETRES:.1f} mm, "
        f"freedom {each.freedom:.1f}"
        for kind, each in fits.items()
    ]
    return fits, "\n".join([format_table(header, rows), "", *numbers])
