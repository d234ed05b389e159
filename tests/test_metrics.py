import inspect

import numpy as np
import pytest
import torch
from scipy.linalg import orthogonal_procrustes
from scipy.spatial.transform import Rotation

from dne_lib import metrics
from dne_lib.files import InputError
from dne_lib.metrics import (
    MILLIMETRES,
    PROTOCOLS,
    Scores,
    aligned,
    mpjpe,
    mpvpe,
    mpvpe_2d,
    procrustes,
    roots_valid,
)


@pytest.fixture
def random():
    return torch.Generator().manual_seed(0)


def hands(random, batch=3):
    joints = torch.randn(batch, 2, 21, 3, generator=random)
    vertices = torch.randn(batch, 2, 778, 3, generator=random)
    return vertices, joints


def similarity(points, seed=0):
    """Every point under one rotation, scale and translation, of which no protocol knows."""
    rotation = torch.from_numpy(Rotation.random(rng=seed).as_matrix()).float()
    return 1.7 * points @ rotation.T + torch.tensor([3.0, -2.0, 5.0])


def test_perfect_predictions_have_no_error(random):
    vertices, joints = hands(random)
    valid = torch.ones(3, 2, 21, dtype=torch.bool)
    for protocol in PROTOCOLS:
        assert mpvpe(vertices, joints, vertices, joints, protocol).max() < 1e-3
        assert mpjpe(joints, joints, valid, protocol).max() < 1e-3


@pytest.mark.parametrize(
    ("protocol", "moved", "unchanged"),
    [
        ("wrist", lambda x: x + 2.0, True),
        ("mcp", lambda x: x + 2.0, True),
        ("wrist", lambda x: 1.1 * x, False),
        ("mcp", lambda x: 1.1 * x, False),
        ("mcp-scaled", lambda x: 1.1 * x + 2.0, True),
        ("mcp-scaled", similarity, False),
        ("procrustes", similarity, True),
        ("procrustes", lambda x: x * torch.tensor([-1.0, 1.0, 1.0]), False),
    ],
)
def test_what_each_protocol_forgives(random, protocol, moved, unchanged):
    vertices, joints = hands(random)
    valid = torch.ones(3, 2, 21, dtype=torch.bool)
    by_vertices = mpvpe(moved(vertices), moved(joints), vertices, joints, protocol)
    by_joints = mpjpe(moved(joints), joints, valid, protocol)
    for error in (by_vertices, by_joints):
        assert (error.max() < 1e-2) if unchanged else (error.min() > 1)


def test_errors_by_hand():
    joints, true = torch.zeros(1, 2, 21, 3), torch.zeros(1, 2, 21, 3)
    true[..., metrics.MIDDLE_MCP, 0] = 1.0
    joints[..., metrics.MIDDLE_MCP, 0] = 0.5
    joints[..., 20, 1] = 0.5
    valid = torch.ones(1, 2, 21, dtype=torch.bool)
    # Wrist: the MCP is half a unit short and joint 20 half a unit off.
    assert mpjpe(joints, true, valid, "wrist")[0, 0] == pytest.approx(MILLIMETRES / 21)
    # MCP: the other 19 joints are half a unit off along x, joint 20 along y as well.
    expected = (19 * 0.5 + 0.5**0.5) / 21 * MILLIMETRES
    assert mpjpe(joints, true, valid, "mcp")[0, 0].item() == pytest.approx(expected)
    # Scaled: the predicted bone is doubled, only joint 20 remains, now a whole unit off.
    assert mpjpe(joints, true, valid, "mcp-scaled")[0, 1] == pytest.approx(MILLIMETRES / 21)
    valid[..., 20] = False
    assert mpjpe(joints, true, valid, "mcp-scaled").max() == 0
    assert mpjpe(joints, true, torch.zeros_like(valid), "wrist").max() == 0


def test_procrustes_equals_scipy(random):
    points = torch.randn(4, 30, 3, generator=random, dtype=torch.float64)
    target = torch.randn(4, 30, 3, generator=random, dtype=torch.float64) + 2 * points
    found = procrustes(points, target, torch.ones(4, 30, dtype=torch.float64))
    for one, true, fitted in zip(points.numpy(), target.numpy(), found.numpy(), strict=True):
        centred, centred_target = one - one.mean(0), true - true.mean(0)
        rotation, scale = orthogonal_procrustes(centred, centred_target)
        assert np.linalg.det(rotation) > 0
        expected = centred @ rotation * scale / (centred**2).sum() + true.mean(0)
        np.testing.assert_allclose(fitted, expected, atol=1e-9)


def test_procrustes_never_mirrors(random):
    points = torch.randn(1, 30, 3, generator=random, dtype=torch.float64)
    mirrored = points * torch.tensor([-1.0, 1.0, 1.0], dtype=torch.float64)
    found = procrustes(points, mirrored, torch.ones(1, 30, dtype=torch.float64))
    rotation, _ = Rotation.align_vectors(
        (mirrored - mirrored.mean(1, keepdim=True))[0], (points - points.mean(1, keepdim=True))[0]
    )
    turned = (points - points.mean(1, keepdim=True))[0].numpy() @ rotation.as_matrix().T
    centred = (found - found.mean(1, keepdim=True))[0].numpy()
    ratio = np.linalg.norm(centred) / np.linalg.norm(turned)
    np.testing.assert_allclose(centred, ratio * turned, atol=1e-6)


def test_procrustes_ignores_points_without_weight(random):
    points = torch.randn(2, 21, 3, generator=random)
    target = similarity(points)
    target[:, 5] += 100
    weight = torch.ones(2, 21)
    weight[:, 5] = 0
    found = procrustes(points, target, weight)
    assert (found - target)[:, torch.arange(21) != 5].abs().max() < 1e-3
    assert torch.isfinite(procrustes(points, target, torch.zeros(2, 21))).all()


def test_roots_decide_which_hands_count():
    valid = torch.ones(1, 2, 21, dtype=torch.bool)
    valid[0, 0, metrics.WRIST] = False
    valid[0, 1, metrics.MIDDLE_MCP] = False
    counted = {p: metrics.roots_valid(valid, p)[0].tolist() for p in PROTOCOLS}
    assert counted == {
        "wrist": [False, True],
        "mcp": [True, False],
        "mcp-scaled": [False, False],
        "procrustes": [True, True],
    }


def test_a_protocol_that_there_is_not_is_refused():
    points, valid = torch.zeros(1, 2, 21, 3), torch.ones(1, 2, 21, dtype=torch.bool)
    for function, arguments in ((aligned, (*[points] * 4, valid.float())), (roots_valid, (valid,))):
        with pytest.raises(InputError, match="protocol 'Wrist': use wrist or mcp"):
            inspect.unwrap(function)(*arguments, "Wrist")


def test_2d_error_is_in_pixels_at_256():
    points = torch.zeros(1, 2, 778, 2)
    shifted = points + torch.tensor([3 / 128, 4 / 128])
    assert mpvpe_2d(shifted, points).tolist() == [[pytest.approx(5), pytest.approx(5)]]


def test_scores_count_only_hands_that_are_present():
    scores = Scores()
    errors = torch.tensor([[1.0, 1e9], [2.0, 3.0], [float("nan"), 6.0]])
    present = torch.tensor([[True, False], [True, True], [False, True]])
    interacting = torch.tensor([False, True, False])
    scores.update("mpvpe", errors, present, interacting)
    assert scores.means("mpvpe") == {"SH": 3.5, "IH": 2.5, "All": 3.0}
    assert scores.weights("mpvpe") == {"SH": 0.5, "IH": 0.5}
    scores.update("mpvpe", errors[:1], present[:1], interacting[:1])
    assert scores.means("mpvpe")["All"] == pytest.approx(13 / 5)
    scores.update("empty", errors[1:2], present[1:2], interacting[1:2])
    assert scores.means("empty")["SH"] is None


def test_part_scores_by_hand():
    true = torch.tensor([[[0, 0, 1, 1]]])
    found = torch.tensor([[[0, 1, 1, 2]]])
    everywhere = torch.ones(true.shape, dtype=torch.bool)
    confusion = metrics.part_confusion(found, true, everywhere)
    assert confusion[0, 1] == 1
    assert confusion[1, 2] == 1
    assert metrics.part_scores(confusion) == {
        "accuracy": 0.5,
        "hand_accuracy": 0.5,
        "iou": pytest.approx((1 / 2 + 1 / 3) / 2),
    }
    everywhere[0, 0, 1] = False
    assert (confusion - metrics.part_confusion(found, true, everywhere)).nonzero().tolist() == [
        [0, 1]
    ]
