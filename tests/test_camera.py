"""The camera against scikit-learn, finite differences and cameras known beforehand."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge

from dne_lib.camera import ndc_to_pixels, pixels_to_ndc, project, ridge_camera


def random_scene(*batch, seed=0, offset=0.0, dtype=torch.float64):
    """Vertices, a camera, and the points it sees."""
    generator = torch.Generator().manual_seed(seed)
    vertices = torch.randn(*batch, 778, 3, generator=generator, dtype=dtype) + offset
    camera = torch.rand(*batch, 2, 2, generator=generator, dtype=dtype) + 0.2
    return vertices, camera, project(vertices, camera)


def test_project_is_eq_5_written_out():
    vertices, camera, points = random_scene(2, 3)
    for axis in range(2):
        expected = camera[1, 2, axis, 0] * vertices[1, 2, :, axis] + camera[1, 2, axis, 1]
        torch.testing.assert_close(points[1, 2, :, axis], expected)


def test_project_broadcasts_one_camera_over_samples():
    vertices, camera, _ = random_scene(4, 3, 2)
    points = project(vertices, camera[0])
    torch.testing.assert_close(points[2], project(vertices[2], camera[0]))


@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 2**31),
    ridge=st.sampled_from([1e-6, 1e-2, 1.0, 100.0]),
    offset=st.floats(-50, 50),
    count=st.integers(1, 40),
)
def test_ridge_camera_is_scikit_learns(seed, ridge, offset, count):
    rng = np.random.default_rng(seed)
    vertices = rng.normal(offset, 1, (3, count, 3))
    points = rng.normal(0, 1, (3, count, 2))
    cameras = ridge_camera(torch.tensor(vertices), torch.tensor(points), ridge).numpy()
    for v, u, camera in zip(vertices, points, cameras, strict=True):
        for axis in range(2):
            design = np.stack([v[:, axis], np.ones(count)], axis=1)
            model = Ridge(alpha=ridge, fit_intercept=False, solver="svd")
            expected = model.fit(design, u[:, axis]).coef_
            np.testing.assert_allclose(camera[axis], expected, rtol=1e-6, atol=1e-8)


def test_ridge_camera_recovers_the_camera_as_ridge_vanishes():
    vertices, camera, points = random_scene(5, 2)
    errors = [
        float((ridge_camera(vertices, points, ridge) - camera).abs().max())
        for ridge in (10.0, 0.1, 1e-3, 1e-9)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-9


def test_ridge_camera_recovers_the_camera_from_noisy_points():
    vertices, camera, points = random_scene(5, 2)
    noise = torch.randn(points.shape, generator=torch.Generator().manual_seed(1)) * 0.05
    found = ridge_camera(vertices, points + noise, ridge=1e-2)
    # The standard error of a mean of 778 is 0.05 / sqrt(778) = 0.0018.
    assert (found - camera).abs().max() < 5 * 0.0018


@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_ridge_camera_in_float32_loses_nothing_far_from_the_origin(offset):
    vertices, _, points = random_scene(8, 2, offset=offset)
    exact = ridge_camera(vertices, points, 1e-2)
    single = ridge_camera(vertices.float(), points.float(), 1e-2)
    seen = project(vertices, single.double())
    torch.testing.assert_close(seen, project(vertices, exact), atol=2e-3, rtol=0)
    torch.testing.assert_close(single.double(), exact, atol=5e-3, rtol=1e-3)


def test_ridge_camera_of_a_collapsed_mesh_is_finite_and_so_is_its_gradient():
    vertices = torch.zeros(2, 778, 3, requires_grad=True)
    camera = ridge_camera(vertices, torch.full((2, 778, 2), 0.5), ridge=1e-2)
    camera.sum().backward()
    torch.testing.assert_close(camera[..., 0], torch.zeros(2, 2))
    torch.testing.assert_close(camera[..., 1], torch.full((2, 2), 0.5), atol=1e-4, rtol=0)
    assert vertices.grad is not None
    assert vertices.grad.isfinite().all()


def test_ridge_camera_keeps_the_precision_of_its_vertices():
    vertices, _, points = random_scene(1, dtype=torch.float32)
    rounded = points.bfloat16()
    expected = ridge_camera(vertices, rounded.float(), 1e-2)
    torch.testing.assert_close(ridge_camera(vertices, rounded, 1e-2), expected, atol=0, rtol=0)


def test_gradients_are_those_of_finite_differences():
    vertices, camera, points = random_scene(2, seed=3)
    bend = torch.linspace(0, 1, 12, dtype=torch.float64).view(6, 2)  # so that no camera fits
    vertices, points = vertices[:, :6].requires_grad_(), (points[:, :6] + bend).requires_grad_()
    assert torch.autograd.gradcheck(lambda v, u: ridge_camera(v, u, 1e-2), (vertices, points))
    assert torch.autograd.gradcheck(project, (vertices, camera.requires_grad_()))


@pytest.mark.parametrize("kind", [np.array, torch.tensor])
def test_pixels_and_ndc(kind):
    ndc = kind([[-1.0, 1.0], [0.0, -1 + 1 / 64]])
    pixels = ndc_to_pixels(ndc, 64)
    assert pixels.tolist() == [[-0.5, 63.5], [31.5, 0.0]]
    np.testing.assert_allclose(pixels_to_ndc(pixels, 64), ndc, atol=1e-12)


def test_ndc_is_where_grid_sample_reads():
    image = torch.arange(16.0).view(1, 1, 4, 4)
    pixel = torch.tensor([[2.0, 1.0]])
    grid = pixels_to_ndc(pixel, 4).view(1, 1, 1, 2)
    value = torch.nn.functional.grid_sample(image, grid, align_corners=False)
    assert value.item() == image[0, 0, 1, 2]
