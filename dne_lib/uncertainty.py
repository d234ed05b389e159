"""How far a mesh may be off: the spread of the network's samples, held against true errors.

The noise of Eq. 2 is drawn while training; drawn at inference too, it says where the network
would also put a vertex. Whether that means anything in millimetres is a matter of measuring: a
spread is calibrated if errors are as large as it says, no more and no less.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from scipy.stats import chi
from torch import Tensor
from tqdm.auto import tqdm

from dne_lib.files import InputError
from dne_lib.metrics import MILLIMETRES
from dne_lib.model import DualNoiseNetwork, Stage


class Measured(NamedTuple):
    """Vertices of the hands present, millimetres."""

    spread: Float[np.ndarray, "hand vertex"]  # predicted standard deviation along one axis
    error: Float[np.ndarray, "hand vertex"]  # distance of the mean prediction from the truth


def vertex_spread(stages: Sequence[Stage]) -> Float[Tensor, "batch hand vertex"]:
    """Predicted standard deviation of every vertex along one axis, hand units.

    Samples count by the softmax of their scores, the confidence that the network gives them. The
    modules draw independently of each other, so that their variances add.

    Args:
        stages: of an `Output` made with two samples or more; the first, the baseline, has none.

    Raises:
        InputError: there are no samples to spread.
    """
    drawn = [stage for stage in stages[1:] if len(stage.samples) > 1]
    if not drawn:
        raise InputError(
            "no samples to take a spread of: run a network that has modules, samples=8"
        )
    variance = torch.zeros_like(drawn[0].vertices[..., 0])
    for stage in drawn:
        weight = stage.scores.softmax(dim=0)[..., None, None]
        mean = (weight * stage.samples).sum(dim=0)
        square = (weight * (stage.samples - mean).square()).sum(dim=0).mean(dim=-1)
        # As n / (n - 1) for equal weights: a mean lies too close to the samples it is made of.
        variance += square / (1 - weight.square().sum(dim=0)[..., 0]).clamp(min=1e-6)
    return variance.sqrt()


@torch.inference_mode()
def measure(
    network: DualNoiseNetwork,
    batches: Iterable[dict[str, Tensor]],
    samples: int = 8,
    seed: int = 0,
) -> Measured:
    """Predicted spread and true error of every vertex of a set of images.

    Args:
        network: in evaluation mode, on any device.
        batches: collated samples of `InterHand`, without augmentation.
        samples: draws of the noise in every module, for the spread.
        seed: of the draws.

    Raises:
        InputError: see `vertex_spread`.
    """
    device = next(network.parameters()).device
    generator = torch.Generator(device).manual_seed(seed)
    spreads, errors = [], []
    for batch in tqdm(batches, desc="measure", unit="batch"):
        image, present = batch["image"].to(device), batch["present"]
        arguments = (image, present.to(device))
        drawn = network(*arguments, samples=samples, generator=generator)
        spreads.append(vertex_spread(drawn.stages).cpu()[present])
        # The prediction itself takes the means, as the paper does at inference.
        vertices = network(*arguments, samples=0).stages[-1].vertices.cpu()
        errors.append((vertices - batch["vertices"]).norm(dim=-1)[present])
    return Measured(*(torch.cat(each).numpy() * MILLIMETRES for each in (spreads, errors)))


def fit_scale(measured: Measured) -> float:
    """The factor on the spread that makes the errors likeliest; 1 where it is right on average.

    An error of three independent axes has the expected square 3 s^2: the factor is the root of
    the mean of error^2 / 3 s^2, which is the maximum of the Gaussian likelihood. Fit it on
    images that are used neither for training nor for what is reported.
    """
    return float(np.sqrt(np.mean((measured.error / measured.spread) ** 2) / 3))


def scaled(measured: Measured, scale: float) -> Measured:
    """The same errors, the spread times a factor."""
    return measured._replace(spread=measured.spread * np.float32(scale))


def coverage(measured: Measured, levels: Float[np.ndarray, "level"]) -> Float[np.ndarray, "level"]:
    """Share of vertices within the distance that should hold the share `levels` of them.

    Distances of a Gaussian in space over its spread follow the chi distribution of three degrees
    of freedom. Calibrated, the result is `levels`; overconfident, it lies below.
    """
    ratio = np.sort(measured.error / measured.spread, axis=None)
    return np.searchsorted(ratio, chi.ppf(levels, df=3), side="right") / ratio.size


def binned(
    measured: Measured, bins: int = 10
) -> tuple[Float[np.ndarray, "bin"], Float[np.ndarray, "bin"]]:
    """Predicted and true error of vertices sorted by spread, in bins of equal number.

    Returns:
        Root mean square of the error that the spread predicts, and of the error; millimetres.
    """
    order = np.argsort(measured.spread, axis=None)
    groups = np.array_split(order, bins)
    variance, square = 3 * measured.spread.ravel() ** 2, measured.error.ravel() ** 2
    predicted, true = (
        np.array([np.sqrt(values[group].mean()) for group in groups])
        for values in (variance, square)
    )
    return predicted, true


def calibration_figure(measured: dict[str, Measured]) -> Figure:
    """Spread against error on the left, the calibration curve on the right.

    Args:
        measured: by name, such as "before" and "after" the scale.
    """
    figure = Figure((8.5, 3.8), facecolor="white", dpi=110, layout="constrained")
    left, right = figure.subplots(1, 2)
    levels = np.linspace(0, 1, 51)[1:-1]
    for name, each in measured.items():
        predicted, true = binned(each)
        left.plot(predicted, true, "o-", ms=4, label=name)
        right.plot(levels, coverage(each, levels), label=name)
    # A line through the origin, as far as the curves go.
    top = max(max(line.get_xdata().max(), line.get_ydata().max()) for line in left.lines)
    left.plot([0, top], [0, top], color="0.6", ls="--", zorder=0)
    right.plot([0, 1], [0, 1], color="0.6", ls="--", zorder=0)
    left.set(xlabel="predicted error, mm", ylabel="error, mm", title="vertices by spread")
    right.set(xlabel="share expected within", ylabel="share found within", title="calibration")
    left.legend(frameon=False)
    right.legend(frameon=False)
    return figure
