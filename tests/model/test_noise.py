import torch

from dne_lib.model.noise import noise_spread, sample_noise

MEAN = torch.tensor([-2.0, 0.0, 0.5])


def test_samples_have_the_moments_of_eq_2():
    draws = sample_noise(MEAN.expand(200_000, 3), 0.1, 0.01, torch.Generator().manual_seed(0))
    torch.testing.assert_close(draws.mean(0), MEAN, atol=2e-3, rtol=0)
    torch.testing.assert_close(draws.std(0), torch.tensor([0.21, 0.01, 0.06]), atol=0, rtol=0.01)


def test_gradient_reaches_the_mean_through_centre_and_spread():
    mean = MEAN.clone().requires_grad_()
    generator = torch.Generator().manual_seed(1)
    standard = torch.randn(3, generator=torch.Generator().manual_seed(1))
    sample_noise(mean, 0.1, 0.01, generator).sum().backward()
    torch.testing.assert_close(mean.grad, 1 + 0.1 * MEAN.sign() * standard)


def test_the_spread_of_a_zero_mean_is_the_floor():
    torch.testing.assert_close(noise_spread(torch.zeros(2), 0.3, 0.05), torch.full((2,), 0.05))
