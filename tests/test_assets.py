"""The built-in hand, checked against what MANO's users rely on and against plain geometry."""

import collections
import hashlib
from pathlib import Path

import numpy as np
import pytest
import smplx
import torch
from smplx.lbs import lbs
from smplx.utils import Struct

from dne_lib.synthetic.poses import anatomy, template_pose

ASSETS = Path(__file__).parents[1] / "dne_lib" / "assets"
TIPS = [744, 320, 443, 554, 671]  # thumb to pinky, smplx's choice
TO_21 = [0, 13, 14, 15, 16, 1, 2, 3, 17, 4, 5, 6, 18, 10, 11, 12, 19, 7, 8, 9, 20]


def load(side: str) -> dict[str, np.ndarray]:
    with np.load(ASSETS / f"hand_{side}.npz", allow_pickle=False) as file:
        return dict(file)


RIGHT, LEFT = load("right"), load("left")


def joints_21(hand: dict[str, np.ndarray], betas=None) -> np.ndarray:
    """Rest joints in the project's order, metres."""
    vertices = hand["v_template"] + hand["shapedirs"] @ (np.zeros(10) if betas is None else betas)
    return np.concatenate([hand["J_regressor"] @ vertices, vertices[TIPS]])[TO_21].astype(float)


def skin(hand, rotations, betas=None, correctives: bool = True) -> np.ndarray:
    """Posed vertices by smplx's own skinning."""
    tensor = {k: torch.tensor(v).double() for k, v in hand.items() if v.dtype == np.float32}
    parents = torch.tensor(hand["kintree_table"][0])
    parents[0] = -1
    vertices, _ = lbs(
        torch.tensor(np.zeros(10) if betas is None else betas)[None],
        torch.tensor(rotations)[None],
        tensor["v_template"],
        tensor["shapedirs"],
        tensor["posedirs"].reshape(-1, 135).T * float(correctives),
        tensor["J_regressor"],
        parents,
        tensor["weights"],
        pose2rot=False,
    )
    return vertices[0].numpy()


def directed_edges(faces: np.ndarray) -> list[tuple[int, int]]:
    return [(f[i], f[(i + 1) % 3]) for f in faces.astype(int).tolist() for i in range(3)]


def volume(vertices: np.ndarray, faces: np.ndarray) -> float:
    """Millilitres inside the mesh with its wrist closed."""
    edges = set(directed_edges(faces))
    rim = [(a, b) for a, b in edges if (b, a) not in edges]
    centre = vertices[[a for a, _ in rim]].mean(0)
    triangles = [vertices[faces.astype(int)]]
    triangles.append(np.array([[centre, vertices[b], vertices[a]] for a, b in rim]))
    return float(np.linalg.det(np.concatenate(triangles)).sum() / 6 * 1e6)


@pytest.mark.parametrize("hand", [RIGHT, LEFT], ids=["right", "left"])
class TestMesh:
    def test_sizes(self, hand):
        assert hand["v_template"].shape == (778, 3)
        assert hand["f"].shape == (1538, 3)
        assert hand["shapedirs"].shape == (778, 3, 10)
        assert hand["posedirs"].shape == (778, 3, 135)
        assert hand["weights"].shape == (778, 16)
        assert all(np.isfinite(v).all() for v in hand.values() if v.dtype.kind == "f")

    def test_one_manifold_with_one_loop_of_16(self, hand):
        edges = collections.Counter(directed_edges(hand["f"]))
        assert max(edges.values()) == 1, "two faces run along an edge the same way"
        following = {a: b for a, b in edges if (b, a) not in edges}
        at, loop = min(following), []
        while at not in loop:
            loop.append(at)
            at = following[at]
        assert len(loop) == len(following) == 16
        undirected = {frozenset(edge) for edge in edges}
        assert 778 - len(undirected) + 1538 == 1  # Euler: a disc
        reached, front = {0}, {0}
        neighbours = collections.defaultdict(set)
        for a, b in edges:
            neighbours[a].add(b)
            neighbours[b].add(a)
        while front:
            front = {u for v in front for u in neighbours[v]} - reached
            reached |= front
        assert len(reached) == 778
        assert max(map(len, neighbours.values())) <= 10

    def test_faces_outwards(self, hand):
        assert 200 < volume(hand["v_template"], hand["f"]) < 500

    def test_tips_are_the_farthest_of_their_fingers(self, hand):
        part = hand["weights"].argmax(1)
        for tip, joint in zip(TIPS, [15, 3, 6, 12, 9], strict=True):
            bone = hand["J"][joint] - hand["J"][joint - 1]
            members = np.flatnonzero(part == joint)
            along = (hand["v_template"][members] - hand["J"][joint]) @ bone
            assert members[along.argmax()] == tip

    def test_weights_and_regressor(self, hand):
        for key in ("weights", "J_regressor"):
            assert (hand[key] >= 0).all()
            np.testing.assert_allclose(hand[key].sum(1), 1, atol=1e-6)
        assert (hand["weights"] > 0).sum(1).max() <= 4
        np.testing.assert_allclose(hand["J_regressor"] @ hand["v_template"], hand["J"], atol=1e-6)

    def test_sizes_of_people(self, hand):
        betas = np.random.default_rng(0).normal(size=(500, 10))
        people = hand["v_template"] + np.einsum("nvk,bk->bnv", hand["shapedirs"], betas)
        wrists = np.einsum("n,bnv->bv", hand["J_regressor"][0], people)
        length = np.linalg.norm(people[:, TIPS[2]] - wrists, axis=1)
        assert 0.180 < length.mean() < 0.198
        assert 0.006 < length.std() < 0.014

    def test_nails_lie_on_the_back_of_the_last_phalanges(self, hand):
        part = hand["weights"].argmax(1)
        for nail, joint in zip(hand["nails"], [15, 3, 6, 12, 9], strict=True):
            centre, axes, radii = nail[:3], nail[3:12].reshape(3, 3), nail[12:]
            np.testing.assert_allclose(axes @ axes.T, np.eye(3), atol=1e-5)
            distance = np.linalg.norm(hand["v_template"] - centre, axis=1)
            assert part[distance.argmin()] == joint
            assert ((hand["v_template"][part == joint] - centre) @ axes[2]).mean() < 0
            assert (radii > 0.002).all()
            assert (radii < 0.011).all()


def test_left_is_the_mirror_of_right():
    rng = np.random.default_rng(1)
    vectors = rng.normal(scale=0.4, size=(16, 3))
    betas = rng.normal(size=10)
    rotation = smplx.lbs.batch_rodrigues
    right = rotation(torch.tensor(vectors)).numpy()
    left = rotation(torch.tensor(vectors * [1, -1, -1])).numpy()
    np.testing.assert_allclose(
        skin(LEFT, left, betas), skin(RIGHT, right, betas) * [-1, 1, 1], atol=1e-6
    )
    for key in ("hands_mean", "hands_components"):
        a, b = (h[key].reshape(-1, 15, 3) for h in (LEFT, RIGHT))
        np.testing.assert_array_equal(a, b * np.float32([1, -1, -1]))
    assert volume(LEFT["v_template"], LEFT["f"]) == pytest.approx(
        volume(RIGHT["v_template"], RIGHT["f"])
    )


@pytest.mark.parametrize("use_pca", [True, False])
@pytest.mark.parametrize("side", ["right", "left"])
def test_smplx_loads_it(side, use_pca, tmp_path):
    name = f"MANO_{side.upper()}.npz"
    (tmp_path / name).write_bytes((ASSETS / f"hand_{side}.npz").read_bytes())
    model = smplx.MANO(str(tmp_path), is_rhand=side == "right", ext="npz", use_pca=use_pca)
    out = model(hand_pose=torch.zeros(1, 6 if use_pca else 45))
    hand = load(side)
    rotations = smplx.lbs.batch_rodrigues(
        torch.tensor(np.concatenate([np.zeros(3), hand["hands_mean"]]).reshape(16, 3))
    )
    expected = skin(hand, rotations.numpy().astype(float))
    np.testing.assert_allclose(out.vertices[0].detach().numpy(), expected, atol=1e-6)
    layer = smplx.MANOLayer(model_path="", data_struct=Struct(**hand), is_rhand=side == "right")
    posed = layer(hand_pose=rotations[None, 1:].float())
    np.testing.assert_allclose(posed.vertices[0].detach().numpy(), expected, atol=1e-6)


def test_pose_components_are_a_basis():
    components = RIGHT["hands_components"].astype(float)
    np.testing.assert_allclose(components @ components.T, np.eye(45), atol=1e-5)
    variance = RIGHT["hands_coeffs"].var(0)
    assert variance[:6].sum() > 0.75 * variance.sum()


def test_correctives_keep_a_fist_full():
    fist = template_pose("fist", anatomy(joints_21(RIGHT)))
    flat, with_them, without = (
        volume(v, RIGHT["f"])
        for v in (RIGHT["v_template"], skin(RIGHT, fist), skin(RIGHT, fist, correctives=False))
    )
    assert flat - with_them < 0.5 * (flat - without)


def test_files_are_small_and_described():
    for side in ("right", "left"):
        path = ASSETS / f"hand_{side}.npz"
        assert path.stat().st_size < 250_000
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        assert digest in (ASSETS / "PROVENANCE.md").read_text()
