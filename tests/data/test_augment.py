import math

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from dne_lib.config import DataConfig
from dne_lib.data.augment import (
    MIRROR,
    Augmentation,
    apply_affine,
    change_colours,
    change_points,
    change_rotations,
    check_data_config,
    crop_affine,
    crop_image,
    draw,
    minification,
    reduction,
    shrink,
)
from dne_lib.files import InputError

BOX = np.array([100.0, 60.0, 260.0, 180.0])
changes = st.builds(
    Augmentation,
    angle=st.floats(-math.pi, math.pi),
    scale=st.floats(0.5, 2),
    shift=st.tuples(st.floats(-20, 20), st.floats(-20, 20)),
    flip=st.booleans(),
)


def test_no_change_centres_the_box_with_its_margin():
    affine = crop_affine(BOX, 1.25, 128, Augmentation())
    # 160 x 1.25 pixels of the image, from edge to edge, fill the 128 of the crop.
    corners = np.array([[180 - 100, 120 - 100], [180 + 100, 120 + 100]])
    mapped = apply_affine(corners.astype(float), affine)
    np.testing.assert_allclose(mapped, [[-0.5, -0.5], [127.5, 127.5]], atol=1e-9)
    assert minification(affine) == pytest.approx(200 / 128)


@settings(max_examples=50, deadline=None)
@given(changes)
def test_affine_is_the_named_steps_one_after_the_other(change):
    size, points = 128, np.random.default_rng(0).uniform(0, 300, (20, 2))
    turn = Rotation.from_rotvec([0, 0, change.angle]).as_matrix()[:2, :2]
    expected = (points - [180, 120]) @ turn.T * size / (200 * change.scale)
    expected += (size - 1) / 2 + np.array(change.shift) / 2
    if change.flip:
        expected[:, 0] = size - 1 - expected[:, 0]
    mapped = apply_affine(points, crop_affine(BOX, 1.25, size, change))
    np.testing.assert_allclose(mapped, expected, atol=1e-9)


def test_quarter_turn_moves_right_to_below():
    affine = crop_affine(BOX, 1.25, 128, Augmentation(angle=math.pi / 2))
    x, y = apply_affine(np.array([[250.0, 120.0]]), affine)[0]
    assert x == pytest.approx(63.5)
    assert y > 100
    point = np.array([1.0, 0, 0], np.float32).reshape(1, 1, 1, 3).repeat(2, 1)
    angle, flip = np.array([math.pi / 2], np.float32), np.array([False])
    np.testing.assert_allclose(change_points(point, angle, flip)[0, 0, 0], [0, 1, 0], atol=1e-6)


def test_draw_stays_within_the_configuration():
    data = DataConfig(rotation=30.0, scale=0.2, shift=5.0, brightness=0.1, noise=0.02)
    drawn = [draw(np.random.default_rng(i), data) for i in range(300)]
    angles = np.degrees([d.angle for d in drawn])
    scales, gains = np.array([d.scale for d in drawn]), np.array([d.gain for d in drawn])
    shifts = np.array([d.shift for d in drawn])
    for values, middle, spread in (
        (angles, 0, 30),
        (scales, 1, 0.2),
        (gains, 1, 0.1),
        (shifts, 0, 5),
    ):
        far = np.abs(values - middle).max()
        assert 0.95 * spread < far <= spread
    assert 0.4 < np.mean([d.flip for d in drawn]) < 0.6
    assert {d.noise for d in drawn} == {0.02}
    data = DataConfig(flip=False, paper_noise=True)
    drawn = [draw(np.random.default_rng(i), data) for i in range(20)]
    assert not any(d.flip for d in drawn)
    assert {d.noise for d in drawn} == {0.3}


def gaussian(height, width, x, y, sigma=9.0):
    rows, columns = np.indices((height, width))
    values = 255 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * sigma**2))
    return np.round(values).astype(np.uint8)[..., None].repeat(3, 2)


def centre(image):
    rows, columns = np.indices(image.shape[:2])
    weights = image[..., 0].astype(float)
    return np.array([np.average(axis, weights=weights) for axis in (columns, rows)])


@pytest.mark.parametrize("size", [64, 128, 300])
@pytest.mark.parametrize("reduced", [1, 2, 4])
def test_pixels_and_points_move_together(size, reduced):
    """Whichever way the image is sampled: reduced, two by two, or enlarged."""
    image = gaussian(256, 360, 190, 130)
    small = cv2.resize(image, None, fx=1 / reduced, fy=1 / reduced, interpolation=cv2.INTER_AREA)
    rng = np.random.default_rng(size + reduced)
    for _ in range(4):
        affine = crop_affine(BOX, 1.25, size, draw(rng, DataConfig()))
        crop = crop_image(small, affine, size, reduced)
        assert crop.shape == (size, size, 3)
        expected = apply_affine(np.array([190.0, 130.0]), affine)
        np.testing.assert_allclose(centre(crop), expected, atol=0.06)


def test_shrinking_averages_what_bilinear_sampling_would_skip():
    stripes = np.zeros((400, 400, 3), np.uint8)
    stripes[:, ::2] = 200
    affine = crop_affine(np.array([40.0, 40, 360, 360]), 1.0, 160, Augmentation())
    assert minification(affine) == 2
    crop = crop_image(stripes, affine, 160)[5:-5, 5:-5]
    assert np.abs(crop.astype(int) - 100).max() <= 2


@pytest.mark.parametrize(
    ("field", "value"),
    [("scale", 10.0), ("brightness", 1.0), ("rotation", -1.0), ("noise", -0.1), ("margin", 0.0)],
)
def test_changes_that_cannot_be_made(field, value):
    check_data_config(DataConfig())
    with pytest.raises(InputError, match=rf"data\.{field} is {value}"):
        check_data_config(DataConfig(**{field: value}))


def test_shrinking_by_a_number_keeps_places():
    image = np.random.default_rng(0).integers(0, 256, (25, 32, 3), np.uint8)
    small = shrink(image, 3)
    assert small.shape == (8, 10, 3)
    mean = image[3:6, 27:30].astype(float).mean((0, 1))
    np.testing.assert_allclose(small[1, 9], mean, atol=0.51)


def test_reduction_never_loses_detail():
    sides = {100: 1, 255: 1, 257: 2, 511: 2, 513: 4, 1023: 4, 1025: 8, 4000: 8}
    for side, expected in sides.items():
        box = np.array([0.0, 0, side, side / 2])
        assert reduction(crop_affine(box, 1.0, 128, Augmentation(angle=0.7))) == expected


def test_outside_of_the_image_is_black():
    affine = crop_affine(np.array([-100.0, 0, 100, 50]), 1.0, 64, Augmentation())
    crop = crop_image(np.full((50, 200, 3), 255, np.uint8), affine, 64)
    assert not crop[:, :31].any()
    assert crop[32, 40:60].min() == 255


def test_colours():
    rng = np.random.default_rng(0)
    crop = rng.integers(0, 256, (64, 64, 3), np.uint8)
    plain = change_colours(crop, Augmentation(), rng)
    np.testing.assert_allclose(plain, crop.transpose(2, 0, 1) / 255, atol=1e-6)
    bright = change_colours(crop, Augmentation(gain=1.3), rng)
    np.testing.assert_allclose(bright, np.minimum(plain * 1.3, 1), atol=1e-6)
    grey = np.full((64, 64, 3), 128, np.uint8)
    noisy = change_colours(grey, Augmentation(noise=0.03), rng)
    assert noisy.std() == pytest.approx(0.03, rel=0.05)
    assert noisy.mean() == pytest.approx(128 / 255, abs=0.002)
    drowned = change_colours(grey, Augmentation(noise=0.3), rng)
    assert drowned.min() == 0
    assert drowned.max() == 1


def batch(count=6):
    rng = np.random.default_rng(1)
    points = rng.normal(size=(count, 2, 30, 3)).astype(np.float32)
    vectors = rng.normal(size=(count, 2, 16, 3)).astype(np.float32)
    rotations = Rotation.from_rotvec(vectors.reshape(-1, 3)).as_matrix()
    return points, vectors, rotations.reshape(count, 2, 16, 3, 3).astype(np.float32)


def test_flipping_twice_changes_nothing():
    points, _, rotations = batch()
    flip, still = np.array([True, False] * 3), np.zeros(6, np.float32)
    for change, values in ((change_points, points), (change_rotations, rotations)):
        once = change(values, still, flip)
        np.testing.assert_array_equal(once[~flip], values[~flip])
        assert not np.allclose(once[flip], values[flip])
        np.testing.assert_allclose(change(once, still, flip), values, atol=1e-6)
    affine = crop_affine(BOX, 1.25, 128, Augmentation(flip=True))
    mirrored = apply_affine(np.array([[80.0, 70.0]]), affine)
    plain = apply_affine(np.array([[80.0, 70.0]]), crop_affine(BOX, 1.25, 128, Augmentation()))
    np.testing.assert_allclose(mirrored, [[127, 0]] + plain * [-1, 1])


def test_mirrored_rotations_have_y_and_z_negated_and_hands_swapped():
    _, vectors, rotations = batch()
    mirrored = change_rotations(rotations, np.zeros(6, np.float32), np.ones(6, bool))
    expected = (vectors * [1, -1, -1])[:, ::-1]
    matrices = Rotation.from_rotvec(expected.reshape(-1, 3)).as_matrix()
    np.testing.assert_allclose(mirrored.reshape(-1, 3, 3), matrices, atol=1e-5)


def test_points_of_a_turned_hand_are_turned_points():
    """v = R p for p in the frame of the hand: changing R and changing v agree."""
    points, _, rotations = batch()
    angle = np.linspace(-2, 2, 6).astype(np.float32)
    for flip in (np.zeros(6, bool), np.ones(6, bool)):
        posed = np.einsum("nhij,nhpj->nhpi", rotations[:, :, 0], points)
        changed = change_points(posed, angle, flip)
        own = np.where(flip[:, None, None, None], (points @ MIRROR)[:, ::-1], points)
        turned = change_rotations(rotations, angle, flip)[:, :, 0]
        np.testing.assert_allclose(changed, np.einsum("nhij,nhpj->nhpi", turned, own), atol=1e-5)
