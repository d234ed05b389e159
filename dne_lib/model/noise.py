"""The noise model (Eq. 1-2): Gaussians whose spread grows with their mean."""

import torch
from jaxtyping import Float
from torch import Tensor


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
