"""The rasteriser against Embree and brute force; the maps against slow loops."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from embreex.mesh_construction import TriangleMesh
from embreex.rtcore_scene import EmbreeScene
from hypothesis import given, settings
from hypothesis import strategies as st

from dne_lib.camera import ndc_to_pixels, pixels_to_ndc
from dne_lib.mano import HandModel
from dne_lib.rasterize import auxiliary_maps, heatmaps, rasterize, vertex_normals

FOCAL = 5.0  # NDC per unit of x/z
BOTH = np.array([True, True])
VALID = np.ones((2, 21), bool)


@pytest.fixture(scope="module")
def model():
    return HandModel()


def two_hands(model, roots, seed=0):
    """Posed hands with their wrists at `roots`: the arguments of `auxiliary_maps`, in order."""
    generator = torch.Generator().manual_seed(seed)
    pose = torch.randn(2, 48, generator=generator) * 0.3
    betas = torch.randn(2, 10, generator=generator)
    vertices, joints = (x.numpy() for x in model(model.mano_rotations(pose), betas))
    roots = np.array(roots, np.float32)

    def see(points):
        points = points + roots[:, None]
        return FOCAL * points[..., :2] / points[..., 2:]

    return see(vertices), see(joints), vertices, roots[:, 2]


CROSSED = [[0.08, 0.0, 0.55], [-0.08, 0.0, 0.65]]  # right hand in front of the left


def embree(vertices, faces, size):
    """Face and depth at the centre of every pixel, by tracing rays from the camera."""
    scene = EmbreeScene()
    TriangleMesh(scene, np.ascontiguousarray(vertices, np.float32), faces.astype(np.int32))
    ndc = pixels_to_ndc(np.arange(size, dtype=np.float64), size)
    y, x = np.meshgrid(ndc, ndc, indexing="ij")
    rays = np.stack([x / FOCAL, y / FOCAL, np.ones_like(x)], -1).reshape(-1, 3)
    rays = rays.astype(np.float32)
    hit = scene.run(np.zeros_like(rays), rays, output=1)
    return hit["primID"].reshape(size, size), hit["tfar"].reshape(size, size)


def whole_mesh(model, arguments, roots):
    faces = np.concatenate([model.faces[0], model.faces[1] + 778])
    return (arguments[2] + np.array(roots, np.float32)[:, None]).reshape(-1, 3), faces


@pytest.mark.parametrize("size", [64, 128])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_agrees_with_embree(model, size, seed):
    arguments = two_hands(model, CROSSED, seed)
    vertices, faces = whole_mesh(model, arguments, CROSSED)
    points = ndc_to_pixels(arguments[0], size).reshape(-1, 2)
    found, barycentric = rasterize(points, vertices[:, 2], faces, size, size)
    expected, depth = embree(vertices, faces, size)
    covered = (found >= 0) | (expected >= 0)
    assert covered.mean() > 0.1
    assert (found == expected)[covered].mean() > 0.995
    same = (found == expected) & covered
    z = (vertices[faces[found[same]], 2] * barycentric[same]).sum(-1)
    np.testing.assert_allclose(z, depth[same], atol=1e-5)


def brute_force(points, depth, faces, height, width):
    """Loops over pixels and faces; barycentrics from a 3x3 system in homogeneous coordinates."""
    face_id = np.full((height, width), -1)
    z = np.full((height, width), np.inf)
    for row in range(height):
        for column in range(width):
            for f, face in enumerate(faces):
                corners = np.append(points[face], np.ones((3, 1)), axis=1) * depth[face, None]
                if abs(np.linalg.det(corners)) < 1e-12:
                    continue
                weights = np.linalg.solve(corners.T, [column, row, 1.0])
                # The ray meets the plane of the face at 1 / weights.sum().
                if (weights >= 0).all() and 1 / weights.sum() < z[row, column]:
                    face_id[row, column], z[row, column] = f, 1 / weights.sum()
    return face_id, z


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**31))
def test_agrees_with_brute_force(seed):
    rng = np.random.default_rng(seed)
    points, depth = rng.uniform(-4, 10, (12, 2)), rng.uniform(0.5, 3, 12)
    faces = rng.integers(0, 12, (9, 3))
    found, barycentric = rasterize(points, depth, faces, 5, 7)
    expected, z = brute_force(points, depth, faces, 5, 7)
    seen = found >= 0
    np.testing.assert_array_equal(seen, expected >= 0)
    # Not the indices: two faces may have the same corners.
    homogeneous = np.append(points, np.ones((12, 1)), axis=1) * depth[:, None]
    x, y, found_z = np.einsum("rck,rckd->drc", barycentric, homogeneous[faces[found]])
    np.testing.assert_allclose(found_z[seen], z[seen], rtol=1e-5)
    row, column = np.nonzero(seen)
    np.testing.assert_allclose((x / z)[seen], column, atol=1e-4)
    np.testing.assert_allclose((y / z)[seen], row, atol=1e-4)
    assert (barycentric[~seen] == 0).all()


def test_pixel_centres_and_windings():
    points = np.array([[-0.5, -0.5], [2.5, -0.5], [-0.5, 2.5]])  # of pixels 0-2, half the square
    for face in ([0, 1, 2], [0, 2, 1]):
        found, _ = rasterize(points, np.ones(3), np.array([face]), 3, 3)
        assert (found + 1).tolist() == [[1, 1, 1], [1, 1, 0], [1, 0, 0]]


def test_no_gap_between_faces_that_share_an_edge_through_pixel_centres():
    points = np.array([[0.0, 0], [8, 0], [8, 8], [0, 8]])
    found, _ = rasterize(points, np.ones(4), np.array([[0, 1, 2], [0, 2, 3]]), 9, 9)
    assert (found >= 0).all()


def test_barycentrics_are_perspective_correct():
    # A floor from z = 1 to z = 3: the middle of the segment in the image is not its middle in 3D.
    depth = np.array([1.0, 1.0, 3.0])
    points = np.array([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0]])
    _, barycentric = rasterize(points, depth, np.array([[0, 1, 2]]), 5, 5)
    np.testing.assert_allclose(barycentric[2, 0], [0.75, 0, 0.25], atol=1e-6)


def test_what_cannot_be_seen_is_left_out():
    points = np.array([[0.0, 0], [9, 0], [0, 9], [1, 1], [2, 2], [50, 50], [60, 50], [50, 60]])
    faces = np.array([[0, 1, 2], [0, 3, 4], [5, 6, 7], [1, 1, 2]])
    for depth in (np.full(8, -1.0), np.array([1.0, 1, 0, 1, 1, 1, 1, 1])):
        found, barycentric = rasterize(points, depth, faces, 6, 6)
        assert (found == -1).all()
        assert (barycentric == 0).all()
    assert (rasterize(points, np.ones(8), faces[:0], 6, 6)[0] == -1).all()
    # A far line and a flat face hide nothing.
    assert set(np.unique(rasterize(points, np.ones(8), faces, 4, 4)[0])) == {0}


def test_maps_are_those_of_a_slow_loop(model):
    size = 40
    arguments = two_hands(model, CROSSED, seed=4)
    vertices, faces = whole_mesh(model, arguments, CROSSED)
    maps = auxiliary_maps(*arguments, BOTH, VALID, model.topology, size)
    face_id, depth = embree(vertices, faces, size)
    hits = 0
    for row in range(size):
        for column in range(size):
            here = {name: values[..., row, column] for name, values in maps.items()}
            face = face_id[row, column]
            if face < 0:
                assert here["parts"] == 0 or face_id[row - 1 : row + 2].max() >= 0
                continue
            if here["parts"] == 0:  # the two may differ on the outline itself
                continue
            x, y = pixels_to_ndc(np.array([column, row]), size) / FOCAL
            point = np.array([x, y, 1]) * depth[row, column]
            corners = faces[face]
            weights = np.linalg.solve(vertices[corners].T.astype(np.float64), point)
            hand = int(face >= 1538)
            wrist = CROSSED[hand][2]
            template = model.template[0].numpy()  # of either hand
            low, high = template.min(0), template.max(0)
            expected = (weights @ template[corners - 778 * hand] - low) / (high - low)
            part = model.part[corners[weights.argmax()] - 778 * hand]
            np.testing.assert_allclose(here["depth"], (point[2] - wrist) / 0.095, atol=1e-3)
            np.testing.assert_allclose(here["densepose"], expected, atol=1e-3)
            hits += here["parts"] == 1 + 16 * hand + part
    assert hits > 0.99 * (face_id >= 0).sum()
    for name in ("depth", "normals", "densepose"):
        assert (maps[name][:, maps["parts"] == 0] == 0).all()
        assert maps[name].dtype == np.float32
    assert maps["depth"].shape == (1, size, size)
    assert 0 <= maps["densepose"].min() < maps["densepose"].max() <= 1


def test_normals_are_unit_face_the_camera_and_follow_the_faces(model):
    arguments = two_hands(model, CROSSED, seed=5)
    vertices, faces = whole_mesh(model, arguments, CROSSED)
    maps = auxiliary_maps(*arguments, BOTH, VALID, model.topology, 64)
    seen = maps["parts"] > 0
    normals = maps["normals"][:, seen]
    np.testing.assert_allclose(np.linalg.norm(normals, axis=0), 1, atol=1e-5)
    assert (normals[2] < 0).mean() > 0.95
    face_id, _ = embree(vertices, faces, 64)
    a, b, c = np.moveaxis(vertices[faces[face_id[seen]]], 1, 0)
    flat = np.cross(b - a, c - a)
    flat *= -np.sign((flat * a).sum(-1, keepdims=True))
    cosine = (flat * normals.T).sum(-1) / np.linalg.norm(flat, axis=1)
    assert np.median(cosine) > 0.97
    assert (cosine > 0.5).mean() > 0.98


def test_normals_face_the_camera_on_the_inner_side_of_a_face_too(model):
    arguments = two_hands(model, CROSSED, seed=5)
    turned = replace(model.topology, faces=model.topology.faces[..., ::-1])
    maps, reversed_maps = (
        auxiliary_maps(*arguments, BOTH, VALID, topology, 64)
        for topology in (model.topology, turned)
    )
    np.testing.assert_allclose(reversed_maps["normals"], maps["normals"], atol=1e-5)


def test_vertex_normals_of_a_tetrahedron_by_loop():
    vertices = np.random.default_rng(0).normal(size=(4, 3))
    faces = np.array([[0, 1, 2], [0, 2, 3], [0, 3, 1], [1, 3, 2]])
    expected = np.zeros((4, 3))
    for face in faces:
        a, b, c = vertices[face]
        for vertex in face:
            expected[vertex] += np.cross(b - a, c - a)
    np.testing.assert_allclose(vertex_normals(vertices, faces), expected)


@pytest.mark.parametrize("front", [0, 1])
def test_the_front_hand_hides_the_other(model, front):
    roots = [[0.08, 0.0, 0.5], [-0.08, 0.0, 0.8]]
    if front == 1:
        roots[0][2], roots[1][2] = roots[1][2], roots[0][2]
    arguments = two_hands(model, roots)
    alone = [
        auxiliary_maps(*arguments, np.arange(2) == hand, VALID, model.topology, 64)
        for hand in (0, 1)
    ]
    maps = auxiliary_maps(*arguments, BOTH, VALID, model.topology, 64)
    near, far = alone[front], alone[1 - front]
    covered = near["parts"] > 0
    assert (covered & (far["parts"] > 0)).sum() > 50
    for name in ("parts", "depth", "normals", "densepose"):
        expected = np.where(covered, near[name], far[name])
        np.testing.assert_allclose(maps[name], expected, atol=1e-6)
    right, left = alone[0]["parts"], alone[1]["parts"]
    assert set(np.unique(right)) <= set(range(17))
    assert set(np.unique(left)) <= {0, *range(17, 33)}


def test_heatmaps_by_loop():
    joints = np.array([[0.1, -0.3], [5.0, 0.0], [0.5, 0.5], [-1.0, 1.0]])
    maps = heatmaps(joints, np.array([True, True, False, True]), 16)
    for row in range(16):
        for column in range(16):
            x, y = pixels_to_ndc(np.array([column, row]), 16)
            for joint, (u, v) in enumerate(joints):
                sigma = 2 / 64 * 2  # NDC: the map is 2 wide
                value = np.exp(-((x - u) ** 2 + (y - v) ** 2) / (2 * sigma**2))
                expected = 0 if joint == 2 else value
                np.testing.assert_allclose(maps[joint, row, column], expected, atol=1e-6)


def test_absent_hands_and_invalid_joints_leave_nothing_behind(model):
    points, joints, vertices, depth = two_hands(model, CROSSED)
    valid = VALID.copy()
    valid[0] = False
    valid[1, 3] = False
    junk = [x.copy() for x in (points, joints, vertices, depth)]
    for x in junk:
        x[0] = np.nan
    maps = auxiliary_maps(*junk, np.array([False, True]), valid, model.topology, 64)
    assert all(np.isfinite(x).all() for x in maps.values())
    assert maps["parts"].max() > 16
    assert not ((maps["parts"] > 0) & (maps["parts"] < 17)).any()
    drawn = maps["heatmaps"].max((1, 2)) > 0.5
    assert drawn.tolist() == valid.ravel().tolist()
    nothing = auxiliary_maps(*junk, ~BOTH, valid & False, model.topology, 64)
    assert all((x == 0).all() for x in nothing.values())
