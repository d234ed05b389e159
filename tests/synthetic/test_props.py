"""Arms join their hands, things fit into them, and nothing hides too much."""

import collections

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from dne_lib.mano import HandModel
from dne_lib.rasterize import vertex_normals
from dne_lib.synthetic.props import (
    ARM,
    HIDDEN,
    Prop,
    Shape,
    bare,
    bend_arm,
    hold,
    leave_visible,
    loft,
    paint_shape,
    palm,
    pass_before,
    sample_arm,
    sample_props,
    sample_shape,
    see,
    skin_points,
    sleeve,
    surface,
)
from dne_lib.synthetic.render import (
    Light,
    build_mesh,
    cast,
    rest_hand,
    sample_skin,
    unit,
    visibility,
)
from tests.synthetic.test_render import CAMERA, UPRIGHT
from tests.synthetic.test_synthesize import depth_inside

SKIN = sample_skin(np.random.default_rng(0), 0.5)
BOARD = Shape(np.zeros(3), np.eye(3), np.array([0.2, 0.2, 0.004]), (0.1, 0.1))


@pytest.fixture(scope="module")
def hands():
    """Both hands flat and upright, backs to the camera, side by side 0.9 m away."""
    rest = torch.eye(3).expand(2, 16, 3, 3)
    vertices = HandModel()(rest, torch.zeros(2, 10)).vertices.double().numpy()
    vertices -= vertices.mean(1, keepdims=True)
    other = np.array([[0, 0, 1.0], [-1, 0, 0], [0, -1, 0]])
    turned = np.stack([vertices[0] @ UPRIGHT.T, vertices[1] @ other.T])
    return turned + np.array([[[-0.07, 0, 0.9]], [[0.07, 0, 0.9]]])


def assert_closed(solid):
    """Each edge is run along once each way, faces look outwards, normals are units."""
    edges = collections.Counter(
        (int(f[i]), int(f[(i + 1) % 3])) for f in solid.faces for i in range(3)
    )
    assert set(edges.values()) == {1}
    assert all((b, a) in edges for a, b in edges)
    a, b, c = np.moveaxis(solid.vertices[solid.faces], 1, 0)
    assert (a * np.cross(b, c)).sum() > 0
    np.testing.assert_allclose(np.linalg.norm(solid.normals, axis=1), 1, atol=1e-4)
    assert (solid.paint[:, 3:6] > 0).all()
    assert (solid.paint[:, 3:6] <= 1).all()


@pytest.mark.parametrize("side", [0, 1])
def test_an_arm_continues_its_hand(hands, side):
    body = rest_hand()
    arm = bend_arm(hands[side], 0.3, np.random.default_rng(side))
    rim = hands[side][body.rim]
    np.testing.assert_allclose(arm.rings[1], rim, atol=1e-9)
    assert np.diff(arm.centre[1:], axis=0)[:, 1].min() > 0  # down, away from the fingers
    assert np.linalg.norm(np.diff(arm.centre, axis=0), axis=1)[1:].sum() == pytest.approx(
        ARM, rel=0.01
    )
    solid = bare(arm, hands[side], side, SKIN)
    assert_closed(solid)
    own = body.faces[:1538, ::-1] if side else body.faces[:1538]
    normals = unit(vertex_normals(hands[side], own))
    np.testing.assert_allclose(solid.normals[:16], normals[body.rim], atol=1e-6)
    # Seen with the hand, no colour steps at the seam.
    mesh = build_mesh(hands[side : side + 1], (side,), SKIN.mottle)
    np.testing.assert_allclose(solid.paint[:16, :3], mesh.attributes[body.rim, :3], atol=1e-6)
    girth = np.linalg.norm(arm.rings - arm.centre[:, None], axis=2).mean(1)
    assert 1.2 < girth[-1] / girth[1] < 2.2


def test_arms_bend_as_told(hands):
    straight = bend_arm(hands[0], 0.0, np.random.default_rng(0))
    ways = [bend_arm(hands[0], 0.4, np.random.default_rng(s)) for s in range(40)]
    first = unit(straight.centre[-1] - straight.centre[1])
    ends = np.array([unit(arm.centre[-1] - arm.centre[1]) for arm in ways])
    angles = np.degrees(np.arccos(ends @ first))
    assert 12 < np.median(angles) < 26  # |N(0, 0.4)| has the median 15.5 degrees, and sideways
    assert angles.max() < 62


def test_sleeves_are_around_arms(hands):
    arm = bend_arm(hands[0], 0.2, np.random.default_rng(3))
    for seed in range(8):
        cloth = sleeve(arm, np.random.default_rng(seed))
        assert_closed(cloth)
        rings = cloth.vertices[64:-2]  # past the hem
        reach = cdist(rings, arm.centre[1:]).min(1)
        skin = bare(arm, hands[0], 0, SKIN).vertices
        assert reach.min() > 0.017
        assert cdist(rings, skin).min(1).max() < 0.06


def test_no_arm_goes_through_another_hand(hands):
    kept = 0
    for seed in range(12):
        rng = np.random.default_rng(seed)
        together = hands + np.array([[[0.03, 0, 0]], [[-0.03, 0.1, 0.02]]])
        arm = sample_arm(together, 0, skin_points(together)[1], rng)
        if arm is None:
            continue
        kept += 1
        solid = bare(arm, together[0], 0, SKIN)
        assert depth_inside(together[1], solid.vertices, solid.faces) < 1e-3
    assert kept
    # A plate across the wrist leaves no way.
    grid = np.stack(np.meshgrid(*[np.linspace(-0.3, 0.3, 61)] * 2), -1).reshape(-1, 2)
    below = hands[0][rest_hand().rim].mean(0)[1] + 0.08
    plate = np.insert(grid, 1, below, axis=1) + [0, 0, 0.9]
    assert sample_arm(hands, 0, plate, np.random.default_rng(0)) is None


def test_shapes_are_what_they_are_called():
    points = np.random.default_rng(0).uniform(-0.06, 0.06, (4000, 3))
    size = np.array([0.03, 0.03, 0.05])
    ball = Shape(np.zeros(3), np.eye(3), size, (1.0, 1.0))
    np.testing.assert_array_equal(ball.inside(points), ((points / size) ** 2).sum(1) < 1)
    can = Shape(np.zeros(3), np.eye(3), size, (0.02, 1.0))
    exact = (np.hypot(*points[:, :2].T) < 0.03) & (np.abs(points[:, 2]) < 0.05)
    assert (can.inside(points) == exact).mean() > 0.995
    box = Shape(np.zeros(3), np.eye(3), size, (0.02, 0.02))
    assert (box.inside(points) == (np.abs(points) < size).all(1)).mean() > 0.995


def test_surfaces_are_those_of_the_shapes():
    for seed in range(20):
        rng = np.random.default_rng(seed)
        shape = sample_shape(rng, np.array([0, 1.0, 0]))._replace(centre=np.array([0.1, 0.2, 0.9]))
        assert abs(shape.axes[2, 1]) > 0.7
        assert_closed(paint_shape(shape, rng))
        vertices = surface(shape)[0]
        around = vertices[:-2] - shape.centre  # without the middles of the flat ends
        assert shape.inside(shape.centre + 0.98 * around).all()
        assert not shape.inside(shape.centre + 1.02 * around).any()


def test_loft_of_a_prism_has_its_volume():
    square = np.array([[0, 0], [1, 0], [1, 1], [0, 1.0]])
    rings = np.stack([np.insert(square, 2, z, axis=1) for z in (0, 1, 3.0)])
    vertices, faces = loft(rings)
    a, b, c = np.moveaxis(vertices[faces], 1, 0)
    assert abs((a * np.cross(b, c)).sum() / 6) == pytest.approx(3)


@pytest.mark.parametrize("side", [0, 1])
def test_the_palm_looks_away_from_the_back(hands, side):
    centre, ahead, across = palm(hands[side], side)
    assert ahead[2] > 0.9  # backs to the camera
    assert np.linalg.norm(centre - hands[side], axis=1).min() < 0.02
    assert across[0] * (1 if side else -1) > 0.7  # of a right hand's back, the thumb is left


def test_held_things_touch_no_skin_and_are_in_reach(hands):
    found = 0
    for seed in range(30):
        solid = hold(hands, (0, 1), skin_points(hands).reshape(-1, 3), np.random.default_rng(seed))
        if solid is None:
            continue
        found += 1
        assert depth_inside(hands.reshape(-1, 3), solid.vertices, solid.faces) < 1e-3
        palms = np.array([palm(hands[i], i)[0] for i in (0, 1)])
        assert cdist(palms, solid.vertices).min() < 0.08
    assert found > 15
    full = np.random.default_rng(0).uniform(-0.3, 0.3, (40000, 3)) + [0, 0, 0.9]
    assert hold(hands, (0, 1), full, np.random.default_rng(0)) is None


def test_what_passes_before_is_before_and_touches_nothing(hands):
    found = 0
    for seed in range(20):
        solid = pass_before(hands, np.random.default_rng(seed))
        if solid is not None:
            found += 1
            assert solid.vertices[:, 2].mean() < 0.95
            assert depth_inside(hands.reshape(-1, 3), solid.vertices, solid.faces) < 1e-3
    assert found > 10


def board_at(*centre):
    shape = BOARD._replace(centre=np.array(centre))
    return Prop((paint_shape(shape, np.random.default_rng(0)),))


def test_what_hides_a_hand_is_left_out(hands):
    hiding, behind = board_at(-0.2, 0, 0.7), board_at(0, 0, 1.2)
    close = board_at(0.25, 0, 0.2)  # reaches behind the camera
    turned = close._replace(
        solids=(close.solids[0]._replace(vertices=close.solids[0].vertices - [0, 0, 0.2]),)
    )
    kept = leave_visible(hands, (0, 1), [hiding, behind, turned], CAMERA)
    assert kept == [behind]
    assert leave_visible(hands, (0, 1), [], CAMERA) == []


def test_hiding_adds_up(hands):
    strips = []
    for y in (-0.06, 0.0, 0.06):
        shape = Shape(
            np.array([-0.07, y, 0.8]), np.eye(3), np.array([0.1, 0.018, 0.004]), (0.1, 0.1)
        )
        strips.append(Prop((paint_shape(shape, np.random.default_rng(0)),)))
    kept = leave_visible(hands, (0, 1), strips, CAMERA)
    assert 1 <= len(kept) < 3
    rows, columns = np.mgrid[0:334:2, 0:512:2].astype(np.float32)
    pixels = np.stack([columns, rows], -1).reshape(-1, 2)
    alone = cast(build_mesh(hands[:1], (0,), np.zeros(778)), pixels, CAMERA)[0] >= 0
    solids = [solid for prop in kept for solid in prop.solids]
    mesh = build_mesh(hands[:1], (0,), np.zeros(778), solids)
    face = cast(mesh, pixels, CAMERA)[0]
    left = (alone & (face >= 0) & ~mesh.solid[face]).sum() / alone.sum()
    assert 1 - HIDDEN - 0.03 < left < 0.95


def test_things_throw_shadows_on_hands(hands):
    light = Light(np.array([0, 0, -1.0], np.float32), np.ones(3), 0.05)
    points = hands[0][rest_hand().part[:778] == 0][:50] - [0, 0, 0.03]
    normals = np.tile([[0, 0, -1.0]], (len(points), 1))
    lit = visibility(build_mesh(hands, (0, 1), np.zeros(778)).scene, points, normals, light, 0.0)
    solids = board_at(-0.07, 0, 0.7).solids
    dark = build_mesh(hands, (0, 1), np.zeros(778), solids)
    assert lit.mean() > 0.9
    assert visibility(dark.scene, points, normals, light, 0.0).max() == 0


def test_props_belong_to_the_frame(hands):
    """The same thing from every camera, and most hands have arms."""
    first, again = (sample_props(hands, (0, 1), SKIN, np.random.default_rng(4)) for _ in range(2))
    for one, other in zip(first, again, strict=True):
        for a, b in zip(one.solids, other.solids, strict=True):
            np.testing.assert_array_equal(a.vertices, b.vertices)
    quarter = np.array([[0, -1.0, 0], [1, 0, 0], [0, 0, 1]])
    seen = see(first, quarter, np.array([0.1, 0, 0]))
    before, after = first[0].solids[0], seen[0].solids[0]
    np.testing.assert_allclose(after.vertices, (before.vertices - [0.1, 0, 0]) @ quarter.T)
    np.testing.assert_allclose(after.normals, before.normals @ quarter.T)
    np.testing.assert_array_equal(after.paint, before.paint)
    many = [sample_props(hands, (0, 1), SKIN, np.random.default_rng(s)) for s in range(20)]
    arms = [sum(prop.arm for prop in props) for props in many]
    assert np.mean(arms) > 1.4
    assert any(len(prop.solids) == 2 for props in many for prop in props)  # sleeves
    assert any(len(prop.solids) == 1 and prop.arm for props in many for prop in props)
    assert any(not prop.arm for props in many for prop in props)  # held things
