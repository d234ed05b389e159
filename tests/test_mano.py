"""The hand model against smplx called directly, and what it says of bad files."""

import pickle

import numpy as np
import pytest
import scipy.sparse
import smplx
import torch
from scipy.spatial.transform import Rotation
from smplx.utils import Struct

from dne_lib import mano
from dne_lib.files import InputError
from dne_lib.mano import HandModel

SIDES = ("right", "left")
TIPS = {"thumb": 744, "index": 320, "middle": 443, "ring": 554, "pinky": 671}


@pytest.fixture(scope="module")
def model():
    return HandModel()


@pytest.fixture
def built_in():
    """The arrays of both built-in files, free to be damaged."""
    return {side: dict(np.load(mano.ASSETS / f"hand_{side}.npz")) for side in SIDES}


def save(folder, hands, suffix="npz"):
    for side, hand in hands.items():
        path = folder / f"MANO_{side.upper()}.{suffix}"
        if suffix == "npz":
            np.savez(path, **hand)
        else:
            path.write_bytes(pickle.dumps(hand))
    return folder


def parameters(*batch, seed=0, angle=0.5):
    generator = torch.Generator().manual_seed(seed)
    pose = torch.randn(*batch, 2, 48, generator=generator) * angle
    return pose, torch.randn(*batch, 2, 10, generator=generator)


@pytest.mark.parametrize("side", [0, 1])
def test_equal_to_smplx(model, built_in, side):
    pose, betas = parameters(5)
    layer = smplx.MANO(
        "", data_struct=Struct(**built_in[SIDES[side]]), is_rhand=side == 0, use_pca=False
    )
    output = layer(betas=betas[:, side], global_orient=pose[:, side, :3],
                   hand_pose=pose[:, side, 3:], transl=torch.zeros(5, 3))  # fmt: skip
    wrist = output.joints[:, :1]
    torch.testing.assert_close(model.wrist_rest(betas)[:, side], wrist[:, 0], atol=1e-6, rtol=0)
    hands = model(model.mano_rotations(pose), betas)
    torch.testing.assert_close(hands.vertices[:, side], output.vertices - wrist, atol=1e-6, rtol=0)
    # MANO: wrist, index, middle, pinky, ring, thumb, three joints each, and no tips.
    tips = {finger: output.vertices[:, [vertex]] for finger, vertex in TIPS.items()}
    starts = {"thumb": 13, "index": 1, "middle": 4, "ring": 10, "pinky": 7}
    chains = [torch.cat([output.joints[:, i : i + 3], tips[f]], 1) for f, i in starts.items()]
    expected = torch.cat([wrist, *chains], 1) - wrist
    torch.testing.assert_close(hands.joints[:, side], expected, atol=1e-6, rtol=0)


def test_zero_pose_is_the_mean_pose_and_its_opposite_is_the_template(model):
    pose = torch.cat([torch.zeros(2, 3), -model.mean_pose], dim=-1)
    rotations = model.mano_rotations(pose)
    torch.testing.assert_close(rotations, torch.eye(3).expand(2, 16, 3, 3))
    vertices = model(rotations, torch.zeros(2, 10)).vertices
    difference = vertices - model.template
    torch.testing.assert_close(difference, difference[:, :1].expand_as(difference))
    assert model.mean_pose.abs().max() > 0.1  # else this proves nothing


def test_global_orientation_turns_the_hand_about_its_wrist(model):
    pose, betas = parameters(3)
    rotations = model.mano_rotations(pose)
    still = rotations.clone()
    still[..., 0, :, :] = torch.eye(3)
    turned, still = model(rotations, betas), model(still, betas)
    expected = torch.einsum("bhij,bhvj->bhvi", rotations[..., 0, :, :], still.vertices)
    torch.testing.assert_close(turned.vertices, expected, atol=1e-6, rtol=0)
    assert turned.joints[..., 0, :].abs().max() == 0


def test_built_in_left_hand_is_the_mirrored_right_hand(model):
    pose, betas = parameters(4)
    mirrored = pose[:, :1].unflatten(-1, (16, 3)) * torch.tensor([1.0, -1.0, -1.0])
    pose = torch.cat([pose[:, :1], mirrored.flatten(-2)], dim=1)
    betas = betas[:, :1].expand(-1, 2, -1)
    vertices = model(model.mano_rotations(pose), betas).vertices
    flipped = vertices[:, 0] * torch.tensor([-1.0, 1.0, 1.0])
    torch.testing.assert_close(vertices[:, 1], flipped, atol=1e-6, rtol=0)


def test_single_is_one_hand_of_both_and_batches_have_any_shape(model):
    pose, betas = parameters(2, 3)
    rotations = model.mano_rotations(pose)
    hands = model(rotations, betas)
    assert hands.vertices.shape == (2, 3, 2, 778, 3)
    assert hands.joints.shape == (2, 3, 2, 21, 3)
    for side in (0, 1):
        one = model.single(side, rotations[1, 2, side], betas[1, 2, side])
        torch.testing.assert_close(one.vertices, hands.vertices[1, 2, side])
        torch.testing.assert_close(one.joints, hands.joints[1, 2, side])


def test_float32_even_under_autocast(model):
    pose, betas = parameters(2)
    rotations = model.mano_rotations(pose)
    expected = model(rotations, betas)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(model(rotations, betas), expected, atol=0, rtol=0)
        assert model(rotations.bfloat16(), betas.bfloat16()).vertices.dtype == torch.float32


def test_regressed_joints_of_a_hand_at_rest_are_the_skeletons(model):
    betas = parameters(3)[1]
    rest = model(torch.eye(3).expand(3, 2, 16, 3, 3), betas)
    joints = model.regress_joints(rest.vertices)
    torch.testing.assert_close(joints, rest.joints, atol=1e-6, rtol=0)
    pose = parameters(3, angle=0.3)[0]
    bent = model(model.mano_rotations(pose), betas)
    distance = (model.regress_joints(bent.vertices) - bent.joints).norm(dim=-1)
    assert 1e-4 < distance.mean() < 5e-3


def test_every_way_into_the_model_takes_double_precision(model):
    pose, betas = torch.zeros(1, 2, 48), torch.ones(1, 2, 10)
    for name, values in (
        ("wrist_rest", betas),
        ("regress_joints", model(model.mano_rotations(pose), betas).vertices),
    ):
        way = getattr(model, name)
        torch.testing.assert_close(way(values.double()), way(values), atol=0, rtol=0)


def test_gradients_are_those_of_finite_differences():
    model = HandModel().double()
    pose, betas = parameters()
    rotations = model.mano_rotations(pose.double()).requires_grad_()
    inputs = (rotations, betas.double().requires_grad_())
    assert torch.autograd.gradcheck(
        lambda r, b: model(r, b).joints, inputs, atol=1e-6, fast_mode=True
    )


def test_checkpoints_hold_no_mano_data_and_loading_is_silent(capfd):
    assert HandModel().state_dict() == {}
    assert capfd.readouterr() == ("", "")


def test_topology(model):
    topology = model.topology
    for faces, vertices in zip(topology.faces, topology.template, strict=True):
        a, b, c = np.moveaxis(vertices[faces] - vertices.mean(0), 1, 0)
        volume = (a * np.cross(b, c)).sum() / 6
        assert 1e-4 < volume < 1e-3  # m³: positive only if faces are seen from outside
    # Each fingertip belongs to the last joint of its finger in MANO's order.
    assert topology.part[list(TIPS.values())].tolist() == [15, 3, 6, 12, 9]


@pytest.mark.parametrize("suffix", ["npz", "pkl"])
@pytest.mark.parametrize("bug", [False, True])
def test_licensed_files_and_the_sign_bug_of_mano_left(tmp_path, model, built_in, suffix, bug):
    if bug:
        built_in["left"]["shapedirs"][:, 0] *= -1
    if suffix == "pkl":
        for hand in built_in.values():
            hand["J_regressor"] = scipy.sparse.csc_matrix(hand["J_regressor"])
    pose, betas = parameters(2)
    rotations = model.mano_rotations(pose)
    licensed = HandModel(save(tmp_path, built_in, suffix))
    torch.testing.assert_close(licensed(rotations, betas), model(rotations, betas))


def test_no_files(tmp_path):
    with pytest.raises(InputError, match=r"nowhere has no MANO_RIGHT.pkl .*mano.is.tue.mpg.de"):
        HandModel(tmp_path / "nowhere")


def test_one_hand_is_missing(tmp_path, built_in):
    save(tmp_path, {"right": built_in["right"]})
    with pytest.raises(InputError, match="MANO_LEFT"):
        HandModel(tmp_path)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("weights", np.zeros((6890, 24)), r"weights has shape \(6890, 24\), not \(778, 16\)"),
        ("posedirs", np.full((778, 3, 135), np.nan), "posedirs holds NaN"),
        ("f", np.full((1538, 3), 778), "f or kintree_table is not MANO's"),
        ("kintree_table", np.zeros((2, 16)), "f or kintree_table is not MANO's"),
        ("hands_mean", np.array("text"), "MANO_LEFT.npz cannot be read as a MANO hand"),
        ("shapedirs", None, "MANO_LEFT.npz cannot be read .*shapedirs"),
    ],
)
def test_damaged_fields(tmp_path, built_in, field, value, message):
    if value is None:
        del built_in["left"][field]
    else:
        built_in["left"][field] = value
    with pytest.raises(InputError, match=message):
        HandModel(save(tmp_path, built_in))


@pytest.mark.parametrize("suffix", ["npz", "pkl"])
def test_truncated_file(tmp_path, built_in, suffix):
    path = save(tmp_path, built_in, suffix) / f"MANO_RIGHT.{suffix}"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InputError, match=r"MANO_RIGHT.* cannot be read"):
        HandModel(tmp_path)


def test_rotation_6d_holds_the_first_two_columns():
    matrices = torch.tensor(Rotation.random(50, random_state=0).as_matrix())
    numbers = mano.matrix_to_rotation_6d(matrices)
    torch.testing.assert_close(numbers[:, :3], matrices[:, :, 0])
    torch.testing.assert_close(numbers[:, 3:], matrices[:, :, 1])
    torch.testing.assert_close(mano.rotation_6d_to_matrix(numbers), matrices)


def test_any_six_numbers_make_a_rotation():
    numbers = torch.randn(4, 50, 6, generator=torch.Generator().manual_seed(0)).double()
    matrices = mano.rotation_6d_to_matrix(numbers)
    identity = torch.eye(3).double().expand_as(matrices)
    torch.testing.assert_close(matrices @ matrices.mT, identity)
    torch.testing.assert_close(matrices.det(), torch.ones(4, 50).double())
    # Gram-Schmidt ignores lengths, and how much of the first vector is in the second.
    other = torch.cat([3 * numbers[..., :3], 2 * numbers[..., 3:] + numbers[..., :3]], dim=-1)
    torch.testing.assert_close(mano.rotation_6d_to_matrix(other), matrices)


@pytest.mark.parametrize("angle", [0.0, 1e-4, 1.0, np.pi, 5.0])
def test_axis_angle_is_scipys(angle):
    vectors = Rotation.random(20, random_state=1).as_rotvec()
    vectors *= angle / np.linalg.norm(vectors, axis=1, keepdims=True)
    matrices = mano.axis_angle_to_matrix(torch.tensor(vectors))
    expected = Rotation.from_rotvec(vectors).as_matrix()
    np.testing.assert_allclose(matrices.numpy(), expected, atol=1e-7)


def test_joint_orders_by_name():
    fingers = ["thumb", "index", "middle", "ring", "pinky"]
    ours = ["wrist", *(f"{finger}{i}" for finger in fingers for i in (1, 2, 3, 4))]
    interhand = [f"{finger}{i}" for finger in fingers for i in (4, 3, 2, 1)] + ["wrist"]
    order = ["index", "middle", "pinky", "ring", "thumb"]
    of_mano = ["wrist", *(f"{finger}{i}" for finger in order for i in (1, 2, 3))]
    of_mano += [f"{finger}4" for finger in fingers]
    assert [interhand[i] for i in mano.INTERHAND_TO_JOINTS] == ours
    assert [ours[i] for i in mano.JOINTS_TO_INTERHAND] == interhand
    assert [of_mano[i] for i in mano.MANO_TO_JOINTS] == ours
    for name, parent in zip(ours[1:], mano.SKELETON[1:], strict=True):
        expected = "wrist" if name.endswith("1") else f"{name[:-1]}{int(name[-1]) - 1}"
        assert ours[parent] == expected
