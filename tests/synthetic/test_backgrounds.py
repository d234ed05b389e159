"""Backgrounds: pictures of the right form, unlike each other, with what photographs have."""

import numpy as np
import pytest

from dne_lib.synthetic import backgrounds as module
from dne_lib.synthetic.backgrounds import (
    GREEN,
    PALE,
    clouds,
    clutter,
    desk,
    garden,
    gradient,
    patch,
    person,
    room,
    rotation,
    sample_scene,
    tint,
)

SCENES = (room, desk, garden, clutter, gradient)


@pytest.mark.parametrize("scene", SCENES)
def test_scenes_are_pure_functions_of_chance(scene):
    first, again, other = (scene(np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert first.shape == (334, 512, 3)
    assert first.dtype == np.float32
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).mean() > 0.02


def test_scenes_are_bright_and_dark_busy_and_plain():
    images = [sample_scene(np.random.default_rng(seed)) for seed in range(36)]
    levels = np.array([image.mean() for image in images])
    assert all(image.min() >= 0 and image.max() <= 1 for image in images)
    assert (levels < 0.3).sum() >= 4
    assert (levels > 0.5).sum() >= 4
    edges = np.array([np.abs(np.diff(image, axis=1)).mean() for image in images])
    assert np.quantile(edges, 0.9) > 10 * np.quantile(edges, 0.1)
    # Photographs are mostly dull, now and then loud.
    colour = np.array([(image.max(2) - image.min(2)).mean() for image in images])
    assert 0.03 < np.median(colour) < 0.2
    assert colour.max() > 0.25


def test_a_gradient_goes_from_one_colour_to_another():
    for seed in range(5):
        image = gradient(np.random.default_rng(seed)).reshape(-1, 3)
        centred = image - image.mean(0)
        variance = np.linalg.svd(centred, compute_uv=False) ** 2
        assert variance[0] > 0.999 * variance.sum()  # on a line between two colours


def test_the_sheet_of_noise_is_one_over_f_and_tiles():
    sheet = clouds()
    assert sheet.mean() == pytest.approx(0, abs=1e-4)
    assert sheet.std() == pytest.approx(1, abs=1e-4)
    power = np.abs(np.fft.fft2(sheet)) ** 2
    frequency = np.fft.fftfreq(1024)
    radius = np.hypot(frequency[:, None], frequency)
    bands = [power[(radius > low) & (radius < 1.2 * low)].mean() for low in (0.01, 0.04, 0.16)]
    np.testing.assert_allclose(np.divide(bands[:-1], bands[1:]), 16, rtol=0.25)
    step = np.abs(np.diff(sheet, axis=0)).mean()
    assert np.abs(sheet[0] - sheet[-1]).mean() < 1.3 * step


def test_pieces_of_it_are_stretched_as_told():
    piece = patch(np.random.default_rng(0), 1, 8)
    assert piece.shape == (334, 512)
    down, across = (np.abs(np.diff(piece, axis=axis)).mean() for axis in (0, 1))
    assert 5 < down / across < 12
    fine, coarse = (patch(np.random.default_rng(0), scale) for scale in (1, 4))
    assert np.abs(np.diff(fine)).mean() > 2 * np.abs(np.diff(coarse)).mean()


def test_tints_stay_near_their_palette():
    for seed in range(40):
        rng = np.random.default_rng(seed)
        near = tint(rng, PALE)
        assert np.abs(near / PALE - 1).max(1).min() < 0.25
        colour = tint(rng)
        assert 0 <= colour.min() <= colour.max() <= 1
    assert not np.allclose(*(tint(np.random.default_rng(s), GREEN) for s in (0, 1)))


def test_a_person_is_painted_over_and_only_there():
    grey = np.full((334, 512, 3), 0.5, np.float32)
    image = grey.copy()
    person(image, np.random.default_rng(1))
    changed = (image != grey).any(2)
    assert 0.02 < changed.mean() < 0.8
    assert np.ptp(image[changed], axis=0).max() > 0.1


def test_rooms_are_seen_in_perspective():
    """Rays to the corners of the picture are as far from the middle one on all sides."""
    rays = module._rays(np.random.default_rng(2)).reshape(3, 167, 256)
    middle = unit_of(rays[:, 83:85, 127:129].mean((1, 2)))
    corners = unit_of(rays[:, [0, 0, -1, -1], [0, -1, 0, -1]])
    angles = np.arccos(middle @ corners)
    assert np.ptp(angles) < 0.02  # the same on all sides
    assert 0.2 < angles.mean() < 0.8
    assert middle[2] > 0.3


def unit_of(vectors):
    return vectors / np.linalg.norm(vectors, axis=0)


def test_rotation_turns_by_its_angle():
    turned = np.array([1.0, 0]) @ rotation(np.pi / 6)
    np.testing.assert_allclose(np.degrees(np.arctan2(turned[1], turned[0])), 30)
