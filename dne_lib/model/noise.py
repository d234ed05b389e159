"""The noise model (Eq. 1-2): Gaussians whose spread grows with their mean."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


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
