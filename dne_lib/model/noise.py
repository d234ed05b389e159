"""The noise model (Eq. 1-2): Gaussians whose spread grows with their mean."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from scipy.special import fdtri
from torch import Tensor

from dne_lib.config import ModelConfig
from dne_lib.files import InputError

KINDS = ("SH", "IH")  # images of one hand and of two, which hide each other: fitted apart
GAUSSIAN = 1e6  # degrees of freedom


class Calibration(NamedTuple):
    """Eq. 2 with numbers fitted to errors and with their tails, which are no Gaussian's."""

    gamma: float  # for the way a vertex has gone through all modules
    delta: float  # hand units
    freedom: float  # degrees, of Student's t: the fewer, the more often an error is a large one


def noise_spread(mean: Float[Tensor, "*shape"], gamma: float, delta: float) -> Tensor:
    """The standard deviation of Eq. 2: gamma |mu| + delta.

    The paper writes N(mu, gamma |mu| + delta) and leaves open whether the second argument is a
    variance; as a standard deviation it has the unit of mu.
    """
    return gamma * mean.abs() + delta


def sample_noise(
    mean: Float[Tensor, "*shape"],
    gamma: float,
    delta: float,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "*shape"]:
    """Draw epsilon of Eq. 2 by the reparameterisation trick.

    epsilon = mu + (gamma |mu| + delta) z with z standard normal, so that gradients reach mu
    through both the centre and the spread.
    """
    standard = torch.randn(mean.shape, generator=generator, dtype=mean.dtype, device=mean.device)
    return mean + noise_spread(mean, gamma, delta) * standard


def refined_way(
    meshes: Sequence[Float[Tensor, "batch hand vertex 3"]],
) -> Float[Tensor, "batch hand vertex"]:
    """How far the modules moved every vertex: the root of the sum of |mu|^2; hand units.

    Args:
        meshes: the vertices of all stages of an `Output` made without samples.

    Raises:
        InputError: the network has no modules.
    """
    if len(meshes) < 2:
        raise InputError("a network without modules does not say how sure it is: train with some")
    return torch.stack(list(meshes)).diff(dim=0).square().sum(dim=(0, -1)).sqrt()


def as_trained(config: ModelConfig) -> dict[str, Calibration]:
    """Eq. 2 as it was while training: Gaussian, its gamma along each axis, a delta a module."""
    gamma, delta = config.gamma / 3**0.5, config.delta * config.modules**0.5
    return dict.fromkeys(KINDS, Calibration(gamma, delta, GAUSSIAN))


def radius(
    way: Float[np.ndarray, "*shape"], fit: Calibration, level: float = 0.5
) -> Float[np.ndarray, "*shape"]:
    """The distance from the truth that the share `level` of such vertices stays within.

    Errors are Student's t in space with the scale gamma way + delta along each axis; their
    squares over three squares of it follow F of 3 and `freedom` degrees.
    """
    scale = np.float32(np.sqrt(3 * fdtri(3, fit.freedom, level)))
    return scale * (np.float32(fit.gamma) * way + np.float32(fit.delta))
