"""Pictures of hands: what they cover, what hides what, light and shadow."""

import collections

import cv2
import numpy as np
import pytest
import torch

from dne_lib.mano import HandModel
from dne_lib.synthetic import render as module
from dne_lib.synthetic.render import (
    Camera,
    Light,
    build_mesh,
    cast,
    depth_edges,
    render,
    rest_hand,
    sample_background,
    sample_lights,
    sample_skin,
    visibility,
)

CAMERA = Camera(np.array([1000.0, 1010.0]), np.array([250.0, 170.0]))
# Fingers up in the image, backs to the camera: x left to up, y (back) to the camera.
UPRIGHT = np.array([[0, 0, -1.0], [1, 0, 0], [0, -1, 0]])


@pytest.fixture(scope="module")
def hands():
    """Both hands flat and upright, backs to the camera, 0.9 m away, side by side."""
    model = HandModel()
    rest = torch.eye(3).expand(2, 16, 3, 3)
    vertices = model(rest, torch.zeros(2, 10)).vertices.double().numpy()
    vertices -= vertices.mean(1, keepdims=True)
    mirrored = UPRIGHT * [-1, 1, 1]
    turned = np.stack([vertices[0] @ UPRIGHT.T, vertices[1] @ mirrored.T])
    return turned + np.array([[[-0.06, 0, 0.9]], [[0.06, 0, 0.9]]])


def silhouette(vertices, faces, camera=CAMERA):
    """Pixels whose centre a projected triangle covers, drawn by OpenCV at four times the size."""
    flat = vertices[:, :2] / vertices[:, 2:] * camera.focal + camera.centre
    fine = np.zeros((4 * 334, 4 * 512), np.uint8)
    for triangle in 4 * flat[faces] + 1.5:
        cv2.fillConvexPoly(fine, (triangle * 16).round().astype(int), 1, shift=4)
    return fine.reshape(334, 4, 512, 4).mean((1, 3))


def test_the_capped_hand_is_closed():
    body = rest_hand()
    assert len(body.rim) == 16
    edges = collections.Counter(
        (int(face[i]), int(face[(i + 1) % 3])) for face in body.faces for i in range(3)
    )
    assert set(edges.values()) == {1}
    assert all((b, a) in edges for a, b in edges)
    a, b, c = np.moveaxis(body.position[body.faces], 1, 0)
    volume = (a * np.cross(b, c)).sum() / 6
    assert 2e-4 < volume < 5e-4  # positive: faces look outwards


def test_nails_lie_on_the_backs_of_the_fingertips():
    body = rest_hand()
    assert [nail.joint for nail in body.nails] == [15, 3, 6, 12, 9]
    for nail in body.nails:
        assert np.linalg.norm(body.position - nail.centre, axis=1).min() < 0.006
        assert nail.along @ body.bones[nail.joint] > 0.7
        assert 0.003 < nail.width < 0.01
        assert abs(nail.along @ nail.across) < 1e-3
    assert all(nail.normal[1] > 0.7 for nail in body.nails[1:])  # the thumb's looks aside


def test_picture_covers_the_projected_mesh(hands):
    picture = render(hands, (0, 1), CAMERA, sample_skin(np.random.default_rng(0)),
                     np.random.default_rng(1))  # fmt: skip
    assert picture.image.shape == (334, 512, 3)
    faces = rest_hand().faces[:1538]
    expected = np.maximum(*(silhouette(hand, faces) for hand in hands))
    both, either = (
        (picture.coverage > 0.5) & (expected > 0.5),
        (picture.coverage > 0.5) | (expected > 0.5),
    )
    assert both.sum() / either.sum() > 0.985
    partial = (picture.coverage > 0) & (picture.coverage < 1)
    assert 0.01 < partial.sum() / both.sum() < 0.2  # smooth edges, and only edges
    np.testing.assert_allclose(picture.coverage.sum(), expected.sum(), rtol=0.01)


def test_pure_function_of_its_arguments(hands):
    skin = sample_skin(np.random.default_rng(0))
    first, again, other = (
        render(hands[:1], (0,), CAMERA, skin, np.random.default_rng(s)).image for s in (1, 1, 2)
    )
    assert (first == again).all()
    assert (first != other).mean() > 0.5


def test_background_is_untouched_outside_the_hands(hands, monkeypatch):
    grey = np.full((334, 512, 3), 0.5, np.float32)
    monkeypatch.setattr(module, "sample_background", lambda rng: grey.copy())
    skin = sample_skin(np.random.default_rng(0), tone=0.0)
    picture = render(hands, (0, 1), CAMERA, skin, np.random.default_rng(3))
    away = np.abs(picture.image.astype(float) - 127.5).max(2)
    assert away[picture.coverage == 0].max() < 20  # sensor noise
    assert away[picture.coverage == 1].mean() > 20


@pytest.mark.parametrize("shift", [2.0, 0.17])
def test_hands_outside_the_picture(hands, shift):
    moved = hands[:1] + np.array([shift, 0, 0])
    picture = render(moved, (0,), CAMERA, sample_skin(np.random.default_rng(0)),
                     np.random.default_rng(1))  # fmt: skip
    full = silhouette(moved[0], rest_hand().faces[:1538]).sum()
    np.testing.assert_allclose(picture.coverage.sum(), full, rtol=0.02, atol=0)


def test_the_nearer_hand_hides_the_other(hands):
    together = hands - hands.mean(1, keepdims=True) + np.array([[[0, 0, 0.8]], [[0, 0, 0.9]]])
    for order in (together, together[::-1]):
        mesh = build_mesh(order, (0, 1), np.zeros(778))
        face, barycentric, depth = cast(mesh, np.array([[250.0, 170.0], [10.0, 10.0]]), CAMERA)
        assert face[1] == -1
        assert (face[0] >= len(rest_hand().faces)) == (order[1, 0, 2] < order[0, 0, 2])
        point = barycentric[0] @ mesh.vertices[mesh.faces[face[0]]]
        np.testing.assert_allclose(point[:2] / point[2] * 1000, [0, 0], atol=0.1)
        np.testing.assert_allclose(point[2], depth[0], atol=1e-5)


def test_shadows_fall_behind_hands(hands):
    mesh = build_mesh(hands[:1], (0,), np.zeros(778))
    centre = hands[0].mean(0)
    points = centre + np.array([[0, 0, 0.2], [0.3, 0, 0.2], [0, 0, -0.2]])
    towards = np.tile(np.array([[0, 0, -1.0]]), (3, 1))
    light = Light(np.array([0, 0, -1.0], np.float32), np.ones(3), 0.02)
    seen = visibility(mesh.scene, points, towards, light, 0.0)
    np.testing.assert_array_equal(seen, [0, 1, 1])
    edge = centre + np.array([[hands[0][:, 0].max() - centre[0], 0, 0.1]])
    xs = edge + np.linspace(-0.06, 0.06, 49)[:, None] * np.array([1, 0, 0])
    wide = Light(light.direction, light.colour, 0.3)
    penumbra = visibility(mesh.scene, xs, np.tile(towards[:1], (49, 1)), wide, 0.0)
    assert len(np.unique(penumbra.round(3))) > 2  # soft, not only lit or dark


def test_facing_hands_darken_each_other(hands):
    apart = build_mesh(hands[:1], (0,), np.zeros(778))
    stacked = np.stack([hands[0], hands[1] + hands[0].mean(0) - hands[1].mean(0) + [0, 0, 0.04]])
    close = build_mesh(stacked, (0, 1), np.zeros(778))
    open_sky = module.ambient_light(apart, np.random.default_rng(0))
    assert 0.6 < open_sky.mean() <= 1
    covered = module.ambient_light(close, np.random.default_rng(0))[:779]
    assert covered.mean() < open_sky.mean() - 0.1


def test_skin_tones_spread_evenly_from_light_to_dark(hands):
    levels = []
    for tone in (0.0, 0.33, 0.66, 1.0):
        images = []
        for seed in range(3):
            skin = sample_skin(np.random.default_rng(seed), tone)
            picture = render(hands, (0, 1), CAMERA, skin, np.random.default_rng(seed))
            images.append(picture.image[picture.coverage == 1].mean())
        levels.append(np.mean(images))
    assert (np.diff(levels) < -12).all()
    assert levels[-1] > 50  # dark, not black


def test_backgrounds_are_dark_and_bright_but_not_garish():
    images = [sample_background(np.random.default_rng(seed)) for seed in range(60)]
    levels = np.array([image.mean() for image in images])
    assert (levels < 0.25).sum() >= 10
    assert (levels > 0.5).sum() >= 10
    colourful = np.array([(image.max(2) - image.min(2)).mean() for image in images])
    assert np.median(colourful) < 0.06
    assert colourful.max() < 0.25
    sharpness = [np.abs(np.diff(image, axis=1)).max() for image in images]
    assert max(sharpness) < 0.12


def test_one_to_three_lights_of_unit_direction():
    counts = set()
    for seed in range(30):
        lights = sample_lights(np.random.default_rng(seed))
        counts.add(len(lights))
        for light in lights:
            np.testing.assert_allclose(np.linalg.norm(light.direction), 1, rtol=1e-5)
        assert lights[0].direction[2] < 0 > lights[0].direction[1]  # camera's side, above
    assert counts == {1, 2, 3}


def test_depth_edges_are_steps_only():
    depth = np.zeros((6, 8), np.float32)
    depth[2:4, 3:6] = 0.5 + 0.001 * np.arange(3)
    edge = depth_edges(depth)
    assert edge[2:4, 3:6].sum() == 6  # every pixel of so small a patch touches its rim
    assert edge.sum() == 6 + 2 * 3 + 2 * 2
