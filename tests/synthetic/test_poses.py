"""Natural poses, checked on the skinned mesh rather than on the capsules that guard them."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.spatial.transform import Rotation

from dne_lib.files import InputError
from dne_lib.synthetic import poses
from tests.test_assets import LEFT, RIGHT, TIPS, joints_21, skin

HAND = poses.anatomy(joints_21(RIGHT))
FINGER = np.select(  # palm 5 (the ball of the thumb is part of it), thumb 0 .. pinky 4
    [k(RIGHT["weights"].argmax(1)) for k in (lambda p: p % 13 == 0, lambda p: p > 13)]
    + [RIGHT["weights"].argmax(1) <= last for last in (3, 6, 9, 12)],
    [5, 0, 1, 2, 4, 3],
)
JOINT = (RIGHT["weights"].argmax(1) - 1) % 3  # of its finger, base 0


def closed_part(part: int) -> tuple[np.ndarray, list[list[int]]]:
    """Faces of one finger or the palm, and the loops where it was cut off."""
    faces = RIGHT["f"].astype(int)
    faces = faces[(FINGER[faces] == part).all(1)]
    edges = {(f[i], f[(i + 1) % 3]) for f in faces.tolist() for i in range(3)}
    following = {b: a for a, b in sorted(edges) if (b, a) not in edges}
    loops = []
    while following:
        loop = [next(iter(following))]
        while (step := following.pop(loop[-1])) != loop[0]:
            loop.append(step)
        loops.append(loop)
    return faces, loops


PARTS = [closed_part(part) for part in range(6)]


def distance_to_triangles(points: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """Smallest distance of points (n, 3) to triangles (m, 3, 3)."""
    a, ab, ac = triangles[:, 0], *(triangles[:, i] - triangles[:, 0] for i in (1, 2))
    normal = np.cross(ab, ac)
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    offset = points[:, None] - a
    height = (offset * normal).sum(-1)
    inverse = np.linalg.pinv(np.stack([ab, ac], axis=-1))
    u, v = np.moveaxis(np.einsum("muc,nmc->nmu", inverse, offset), -1, 0)
    best = np.where((u >= 0) & (v >= 0) & (u + v <= 1), abs(height), np.inf)
    for i in range(3):
        start, along = triangles[:, i], triangles[:, (i + 1) % 3] - triangles[:, i]
        to = points[:, None] - start
        t = np.clip((to * along).sum(-1) / (along * along).sum(-1), 0, 1)
        best = np.minimum(best, np.linalg.norm(to - t[..., None] * along, axis=-1))
    return best.min(1)


def mesh_penetration(vertices: np.ndarray) -> float:
    """Depth, metres, of the deepest vertex of a finger inside another finger or the palm.

    Inside is where the winding number of the closed part is one (Van Oosterom and Strackee 1983).
    """
    deepest = 0.0
    for part, (faces, loops) in enumerate(PARTS):
        fans = [
            np.stack(
                [
                    np.broadcast_to(vertices[loop].mean(0), (len(loop), 3)),
                    vertices[loop],
                    vertices[np.roll(loop, -1)],
                ],
                axis=1,
            )
            for loop in loops
        ]
        triangles = np.concatenate([vertices[faces], *fans])
        low, high = triangles.min((0, 1)), triangles.max((0, 1))
        free = (part != FINGER) & (FINGER != 5) & ((vertices > low) & (vertices < high)).all(1)
        if part == 5:  # fingers grow out of the palm
            free &= np.where(FINGER == 0, JOINT > 1, JOINT > 0)
        points = vertices[free]
        rays = triangles - points[:, None, None]
        length = np.linalg.norm(rays, axis=-1)
        x, y, z = np.moveaxis(rays, 2, 0)
        solid = (x * np.cross(y, z)).sum(-1)
        flat = length.prod(-1)
        for p, q, r in ((x, y, 2), (y, z, 0), (z, x, 1)):
            flat = flat + (p * q).sum(-1) * length[..., r]
        inside = np.arctan2(solid, flat).sum(1) > np.pi
        if inside.any():
            deepest = max(deepest, distance_to_triangles(points[inside], vertices[faces]).max())
    return float(deepest)


def pad_gap(vertices: np.ndarray, finger: int) -> float:
    """Gap between the pads of the thumb and a finger, metres."""
    pads = []
    for k in (0, finger):
        centre, normal = RIGHT["nails"][k, :3], RIGHT["nails"][k, 9:12]
        offset = RIGHT["v_template"] - centre
        aside = offset - (offset @ normal)[:, None] * normal
        under = (k == FINGER) & (JOINT == 2) & (np.linalg.norm(aside, axis=1) < 0.006)
        pads.append(vertices[under & (offset @ normal < -0.005)])
    return float(np.linalg.norm(pads[0][:, None] - pads[1], axis=-1).min())


def test_rotations_are_rotations_and_repeat():
    a = [poses.sample_pose(np.random.default_rng(seed), HAND) for seed in range(20)]
    b = [poses.sample_pose(np.random.default_rng(seed), HAND) for seed in range(20)]
    np.testing.assert_array_equal(a, b)
    rotations = np.array(a)
    np.testing.assert_allclose(
        rotations @ np.swapaxes(rotations, -1, -2),
        np.broadcast_to(np.eye(3), rotations.shape),
        atol=1e-12,
    )
    np.testing.assert_allclose(np.linalg.det(rotations), 1)
    np.testing.assert_array_equal(rotations[:, 0], np.broadcast_to(np.eye(3), (20, 3, 3)))
    assert np.abs(rotations[0] - rotations[1]).max() > 0.1


def test_angles_stay_within_limits_and_come_back_from_the_rotations():
    angles = poses.sample_angles(np.random.default_rng(0), 1000, noise=3.0)
    assert (angles >= poses.LIMITS[..., 0]).all()
    assert (angles <= poses.LIMITS[..., 1]).all()
    rotations = poses.rotations_from_angles(angles, HAND)
    # Flexion of 90 degrees is a gimbal lock: look at the others.
    free = angles[:, 1, 0, 0] < 89
    local = HAND.frames[1, 0].T @ rotations[free, 1] @ HAND.frames[1, 0]
    yxz = Rotation.from_matrix(local).as_euler("YXZ", degrees=True)
    np.testing.assert_allclose(yxz, angles[free, 1, 0][:, [1, 0, 2]], atol=1e-6)


def test_flexion_bends_towards_the_palm_and_abduction_to_the_thumb():
    rest = skin(RIGHT, np.tile(np.eye(3), (16, 1, 1)))
    for finger, tip in enumerate(TIPS[1:], start=1):
        for axis, component, sign in ((0, 1, -1), (1, 2, 1)):
            angles = np.zeros((5, 3, 3))
            angles[finger, 0, axis] = 10
            moved = skin(RIGHT, poses.rotations_from_angles(angles, HAND))[tip] - rest[tip]
            assert sign * moved[component] > 0.005


def test_joints_follow_smplx():
    rotations = poses.sample_pose(np.random.default_rng(3), HAND)
    rotations[0] = Rotation.from_rotvec([0.3, -0.5, 1.0]).as_matrix()
    joints = poses.pose_joints(rotations, HAND.joints)
    posed = skin(RIGHT, rotations, correctives=False)
    wrist = HAND.joints[0]
    np.testing.assert_allclose(joints[[4, 8, 12, 16, 20]] + wrist, posed[TIPS], atol=0.004)
    bones = np.linalg.norm(np.diff(joints[1:].reshape(5, 4, 3), axis=1), axis=-1)
    rest = np.linalg.norm(np.diff(HAND.joints[1:].reshape(5, 4, 3), axis=1), axis=-1)
    np.testing.assert_allclose(bones, rest, atol=1e-12)


@pytest.mark.parametrize("name", poses.TEMPLATES)
def test_templates_pass_through_nothing(name):
    assert mesh_penetration(skin(RIGHT, poses.template_pose(name, HAND))) < 0.002


def test_measure_sees_penetration():
    angles = poses.template_angles("fist")
    angles[1:, 1, 0] += 25
    assert mesh_penetration(skin(RIGHT, poses.rotations_from_angles(angles, HAND))) > 0.004


def test_samples_pass_through_nothing_whatever_the_shape():
    rng = np.random.default_rng(0)
    depths = []
    for _ in range(300):
        betas = np.clip(rng.normal(size=10), -2, 2)
        hand = poses.anatomy(joints_21(RIGHT, betas))
        depths.append(mesh_penetration(skin(RIGHT, poses.sample_pose(rng, hand), betas)))
    assert np.percentile(depths, 95) < 0.001
    assert max(depths) < 0.002


def test_templates_do_what_they_are_called():
    mesh = {n: skin(RIGHT, poses.template_pose(n, HAND)) for n in poses.TEMPLATES}
    for name in ("pinch", "ok"):
        assert pad_gap(mesh[name], 1) < 0.003
        assert pad_gap(mesh[name], 3) > 0.02
    wrist = HAND.joints[0]
    reach = {n: np.linalg.norm(v[TIPS] - wrist, axis=1) for n, v in mesh.items()}
    assert (reach["fist"][1:] < 0.6 * reach["flat"][1:]).all()
    assert reach["point"][1] > 0.95 * reach["flat"][1]
    assert (reach["point"][2:] < 0.6 * reach["flat"][2:]).all()
    assert (reach["victory"][1:3] > 0.95 * reach["flat"][1:3]).all()
    # The thumb of a fist lies on the folded middle finger; a thumb up stands off from all.
    middle = (FINGER == 2) & (JOINT == 1)
    thumb = (FINGER == 0) & (JOINT == 2)

    def gap(name: str) -> float:
        between = mesh[name][thumb][:, None] - mesh[name][middle]
        return float(np.linalg.norm(between, axis=-1).min())

    assert gap("fist") < 0.004
    assert gap("thumb up") > 0.03


def test_mirrored_rotations_pose_the_left_hand():
    rotations = poses.sample_pose(np.random.default_rng(5), HAND)
    left = skin(LEFT, poses.mirror_rotations(rotations))
    np.testing.assert_allclose(left, skin(RIGHT, rotations) * [-1, 1, 1], atol=1e-6)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_segment_distance_is_the_minimum(seed):
    a, b = np.random.default_rng(seed).normal(size=(2, 2, 3))

    def squared(place: np.ndarray) -> float:
        s, t = place
        return float((((1 - s) * a[0] + s * a[1] - (1 - t) * b[0] - t * b[1]) ** 2).sum())

    found = min(
        minimize(squared, start, bounds=[(0, 1)] * 2).fun for start in ((0.5, 0.5), (0, 1), (1, 0))
    )
    assert poses._distance(a[None], b[None]) == pytest.approx(np.sqrt(found), abs=1e-4)


def test_capsules_cover_the_hand():
    segments, radii = poses.capsules(HAND.joints)
    points = RIGHT["v_template"].astype(float)
    # A point is a segment of length zero, nearly.
    dots = np.stack([points, points + 1e-9], axis=1)[:, None]
    depth = (radii - poses._distance(dots, segments)).max(1)
    assert np.percentile(depth, 5) > -0.008
    assert np.median(depth) > -0.004


def test_bad_input_is_explained():
    with pytest.raises(InputError, match="no hand pose called 'wave'"):
        poses.template_pose("wave", HAND)
    with pytest.raises(InputError, match="not finite"):
        poses.anatomy(np.full((21, 3), np.nan))
    with pytest.raises(InputError, match="left hand"):
        poses.anatomy(joints_21(LEFT))


def test_sampling_is_quick():
    rng = np.random.default_rng(0)
    times = []
    for _ in range(100):
        start = time.process_time()
        poses.sample_pose(rng, HAND)
        times.append(time.process_time() - start)
    assert np.median(times) < 0.006  # type checks on; measured 0.4 ms without
