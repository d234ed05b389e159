"""The tree that the generator writes: InterHand2.6M's, right, repeatable and hard to break."""

import os
import shutil

import cv2
import numpy as np
import pytest
import smplx
import torch
from scipy.spatial import KDTree
from smplx.utils import Struct

from dne_lib import mano
from dne_lib.files import InputError, read_json
from dne_lib.synthetic import synthesize as module
from dne_lib.synthetic.render import rest_hand
from dne_lib.synthetic.synthesize import synthesize
from tests.synthetic.test_poses import mesh_penetration

SIDES = ("right", "left")
COUNT = 22  # more than one chunk, and not a whole number of them
TIPS = [744, 320, 443, 554, 671]
# InterHand2.6M's order from MANO's 16 joints and the tips, thumb to pinky, behind them.
ORDER = [16, 15, 14, 13, 17, 3, 2, 1, 18, 6, 5, 4, 19, 12, 11, 10, 20, 9, 8, 7, 0]


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A small tree, and what the renderer said each training image's hands cover."""
    root = tmp_path_factory.mktemp("data") / "tree"
    covered, draw = [], module.render

    def record(*arguments):
        picture = draw(*arguments)
        covered.append(picture.coverage)
        return picture

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "render", record)
        synthesize(root, train=COUNT, test=3, seed=5, workers=1, progress=False)
    return root, covered[:COUNT]


@pytest.fixture(scope="module")
def labels(tree):
    folder = tree[0] / "annotations" / "train"
    return {
        name: read_json(folder / f"InterHand2.6M_train_{name}.json")
        for name in ("data", "camera", "joint_3d", "MANO_NeuralAnnot")
    }


@pytest.fixture(scope="module")
def layers():
    return {
        side: smplx.MANO(
            "",
            data_struct=Struct(**np.load(mano.ASSETS / f"hand_{side}.npz")),
            is_rhand=side == "right",
            use_pca=False,
            flat_hand_mean=False,
        )
        for side in SIDES
    }


def world_hands(layers, hands):
    """Vertices, and joints in InterHand2.6M's order, of the hands in a MANO label; millimetres."""
    result = {}
    for side, label in hands.items():
        if label is None:
            continue
        pose, shape, trans = (
            torch.tensor([label[key]], dtype=torch.float32) for key in ("pose", "shape", "trans")
        )
        output = layers[side](
            global_orient=pose[:, :3], hand_pose=pose[:, 3:], betas=shape, transl=trans
        )
        vertices = 1000 * output.vertices[0].detach().double().numpy()
        joints = 1000 * output.joints[0].detach().double().numpy()
        result[side] = vertices, np.concatenate([joints, vertices[TIPS]])[ORDER]
    return result


def files(root):
    return {
        str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()
    }


def test_the_files_of_interhand(tree, labels):
    root, _ = tree
    data = labels["data"]
    assert [image["id"] for image in data["images"]] == list(range(COUNT))
    assert [label["image_id"] for label in data["annotations"]] == list(range(COUNT))
    for image in data["images"]:
        capture, camera, frame = image["capture"], image["camera"], image["frame_idx"]
        name = f"Capture{capture}/{image['seq_name']}/cam{camera}/image{frame}.jpg"
        assert image["file_name"] == name
        picture = cv2.imread(str(root / "images" / "train" / name))
        assert picture.shape == (image["height"], image["width"], 3) == (334, 512, 3)
        assert labels["joint_3d"][str(capture)][str(frame)]["seq"] == image["seq_name"]
        rotation = np.array(labels["camera"][str(capture)]["camrot"][camera])
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-6)
        assert np.linalg.det(rotation) > 0
    on_disk = {str(p.relative_to(root / "images" / "train")) for p in root.rglob("train/**/*.jpg")}
    assert on_disk == {image["file_name"] for image in data["images"]}
    kinds = [label["hand_type"] for label in data["annotations"]]
    assert 0.4 * COUNT <= kinds.count("interacting") <= 0.6 * COUNT
    assert min(kinds.count("right"), kinds.count("left")) >= 3
    seen = {(i["capture"], i["frame_idx"]) for i in data["images"]}
    assert COUNT / 2 < len(seen) < COUNT  # some frames are seen by two cameras


def test_subjects_are_in_one_split_only(tree):
    root, _ = tree
    subjects = []
    for split in ("train", "test"):
        folder = root / "annotations" / split
        data = read_json(folder / f"InterHand2.6M_{split}_data.json")
        hands = read_json(folder / f"InterHand2.6M_{split}_MANO_NeuralAnnot.json")
        shapes = {
            tuple(hand["shape"])
            for capture in hands.values()
            for frame in capture.values()
            for hand in frame.values()
            if hand
        }
        assert len(shapes) == len(hands) > 1  # a shape for each capture
        subjects.append((shapes, {image["subject"] for image in data["images"]}))
    assert not subjects[0][0] & subjects[1][0]
    assert not subjects[0][1] & subjects[1][1]


def test_skeleton_and_subject_files(tree):
    folder = tree[0] / "annotations"
    rows = [line.split() for line in (folder / "skeleton.txt").read_text().splitlines()[1:]]
    joints = {int(number): (name, int(parent)) for name, number, parent in rows}
    assert sorted(joints) == list(range(42))
    assert joints[0] == ("r_thumb4", 1)
    assert joints[3] == ("r_thumb1", 20)
    assert joints[20] == ("r_wrist", -1)
    assert joints[40] == ("l_pinky1", 41)
    lines = (folder / "subject.txt").read_text().splitlines()
    assert "0 train/Capture0 none" in lines
    assert len(lines) == 1 + sum(module.SUBJECTS.values())


def test_joints_are_the_mano_hands(labels, layers):
    for capture, frames in labels["MANO_NeuralAnnot"].items():
        for frame, hands in frames.items():
            joint = labels["joint_3d"][capture][frame]
            coordinates = np.array(joint["world_coord"]).reshape(2, 21, 3)
            valid = np.array(joint["joint_valid"]).reshape(2, 21)
            posed = world_hands(layers, hands)
            kind = "interacting" if len(posed) == 2 else next(iter(posed))
            assert joint["hand_type"] == kind
            for side in range(2):
                assert (valid[side] == (SIDES[side] in posed)).all()
                if SIDES[side] in posed:
                    expected = posed[SIDES[side]][1]
                    np.testing.assert_allclose(coordinates[side], expected, atol=0.01)


def test_projected_labels_lie_on_the_hands(tree, labels, layers):
    faces = {side: np.load(mano.ASSETS / f"hand_{side}.npz")["f"].astype(int) for side in SIDES}
    overlaps, largest = [], []
    for image, label, coverage in zip(
        labels["data"]["images"], labels["data"]["annotations"], tree[1], strict=True
    ):
        capture, name = str(image["capture"]), image["camera"]
        camera = {key: np.array(labels["camera"][capture][key][name]) for key in
                  ("campos", "camrot", "focal", "princpt")}  # fmt: skip
        hands = labels["MANO_NeuralAnnot"][capture][str(image["frame_idx"])]
        fine = np.zeros((4 * 334, 4 * 512), np.uint8)
        points = []
        for side, (vertices, _) in world_hands(layers, hands).items():
            seen = (vertices - camera["campos"]) @ camera["camrot"].T
            assert 400 < seen[:, 2].min() < seen[:, 2].max() < 1500
            flat = seen[:, :2] / seen[:, 2:] * camera["focal"] + camera["princpt"]
            points.append(flat)
            for triangle in 4 * flat[faces[side]] + 1.5:  # the first pixel's centre is at 0
                cv2.fillConvexPoly(fine, (triangle * 16).round().astype(int), 1, shift=4)
        mask = fine.reshape(334, 4, 512, 4).mean((1, 3)) > 0.5
        drawn = coverage > 0.5
        overlaps.append((drawn & mask).sum() / (drawn | mask).sum())
        flat = np.clip(np.concatenate(points), 0, [511, 333])
        x, y, width, height = label["bbox"]
        np.testing.assert_allclose([x, y], flat.min(0), atol=0.1)
        np.testing.assert_allclose([x + width, y + height], flat.max(0), atol=0.1)
        largest.append(max(width, height))
    assert min(overlaps) > 0.97
    assert 120 < np.median(largest) < 260


def capped(vertices, side):
    body = rest_hand()
    closed = np.concatenate([vertices, vertices[body.rim].mean(0, keepdims=True)])
    return closed, body.faces[:, ::-1] if side else body.faces


def winding_number(points, vertices, faces):
    """1 inside a closed mesh, 0 outside, by solid angles (van Oosterom and Strackee 1983)."""
    a, b, c = np.moveaxis(vertices[faces][None] - points[:, None, None], 2, 0)
    x, y, z = (np.linalg.norm(v, axis=-1) for v in (a, b, c))
    volume = (a * np.cross(b, c)).sum(-1)
    spread = x * y * z + (a * b).sum(-1) * z + (b * c).sum(-1) * x + (c * a).sum(-1) * y
    return np.arctan2(volume, spread).sum(1) / (2 * np.pi)


def depth_inside(points, vertices, faces):
    """How far the deepest of some points is under the surface of a closed mesh (an upper bound)."""
    weights = np.array([[4, 1, 1], [1, 4, 1], [1, 1, 4], [2, 2, 2], [3, 3, 0], [0, 3, 3]]) / 6
    surface = np.concatenate([vertices, (weights @ vertices[faces]).reshape(-1, 3)])
    distance, _ = KDTree(surface).query(points, distance_upper_bound=0.02)
    near = np.flatnonzero(np.isfinite(distance))
    if not len(near):
        return 0.0
    return (distance[near] * (winding_number(points[near], vertices, faces) > 0.5)).max()


def test_the_oracle_sees_penetration():
    body = rest_hand()
    closed, faces = capped(body.position[:778].astype(float), 0)
    inside = body.joints[[1, 4]].astype(float)
    assert depth_inside(inside, closed, faces) > 0.005
    assert depth_inside(inside + np.array([0, 0.02, 0]), closed, faces) == 0


def test_hands_stay_outside_each_other(labels, layers):
    depths, gaps = [], []
    for frames in labels["MANO_NeuralAnnot"].values():
        for hands in frames.values():
            posed = world_hands(layers, hands)
            if len(posed) < 2:
                continue
            meshes = [capped(posed[SIDES[side]][0] / 1000, side) for side in range(2)]
            for one, other in (meshes, meshes[::-1]):
                points = np.concatenate([one[0], one[0][one[1]].mean(1)])
                depths.append(depth_inside(points, *other))
            gaps.append(KDTree(meshes[0][0]).query(meshes[1][0])[0].min())
    assert len(gaps) >= 7
    assert max(depths) < 0.002
    assert max(gaps) < 0.12
    assert min(gaps) < 0.006  # some touch


def test_hands_do_not_pass_through_themselves(labels, layers):
    depths = [
        mesh_penetration(vertices * [1 if side == "right" else -1, 1, 1] / 1000)
        for frames in labels["MANO_NeuralAnnot"].values()
        for hands in frames.values()
        for side, (vertices, _) in world_hands(layers, hands).items()
    ]
    assert len(depths) >= 20
    assert max(depths) < 0.002


def test_same_bytes_whatever_the_number_of_workers_and_images(tree, tmp_path):
    root, _ = tree
    synthesize(tmp_path / "same", train=COUNT, test=3, seed=5, workers=2, progress=False)
    assert files(tmp_path / "same") == files(root)
    synthesize(tmp_path / "fewer", train=3, test=0, seed=5, workers=1, progress=False)
    fewer = {name: data for name, data in files(tmp_path / "fewer").items() if "jpg" in name}
    assert len(fewer) == 3
    assert fewer.items() <= files(root).items()
    synthesize(tmp_path / "other", train=1, test=0, seed=6, workers=1, progress=False)
    other = [data for name, data in files(tmp_path / "other").items() if "jpg" in name]
    assert other[0] not in fewer.values()


def test_a_stopped_run_goes_on(tree, tmp_path):
    root = tmp_path / "tree"
    shutil.copytree(tree[0], root)
    pictures = sorted(root.glob("images/train/**/*.jpg"))
    kept, lost = pictures[0], pictures[1]
    lost.unlink()
    os.utime(kept, (1, 1))
    (root / "annotations/train/InterHand2.6M_train_data.json").unlink()
    synthesize(root, train=COUNT, test=3, seed=5, workers=1, progress=False)
    assert files(root) == files(tree[0])
    assert kept.stat().st_mtime == 1


def test_a_whole_tree_is_left_alone(tree, monkeypatch):
    monkeypatch.setattr(module, "make_chunk", None)
    synthesize(tree[0], train=COUNT, test=3, seed=5, workers=1, progress=False)


def test_foreign_folders_and_other_data_are_refused(tree, tmp_path):
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(InputError, match="no dataset of ours"):
        synthesize(tmp_path, train=1, test=0, seed=5)
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]
    before = files(tree[0])
    for change in ({"seed": 6}, {"train": COUNT + 1}):
        numbers = {"train": COUNT, "test": 3, "seed": 5} | change
        with pytest.raises(InputError, match="choose another folder"):
            synthesize(tree[0], **numbers, workers=1, progress=False)
    assert files(tree[0]) == before


@pytest.mark.parametrize("wrong", [{"train": -1}, {"seed": -1}, {"workers": 0}])
def test_impossible_numbers_are_refused(tmp_path, wrong):
    with pytest.raises(InputError, match="cannot be negative"):
        synthesize(tmp_path / "new", **{"train": 1, "test": 1, "seed": 0, **wrong})
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_full_disk_is_one_error(tmp_path, monkeypatch, workers):
    replace = os.replace

    def full(source, target):
        if str(target).endswith(".jpg"):
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(InputError, match="No space left"):
        synthesize(tmp_path / "new", train=40, test=0, seed=0, workers=workers, progress=False)
    left = [path.name for path in (tmp_path / "new").rglob("*") if path.is_file()]
    assert sorted(left) == [".dne-dataset", "recipe.json", "skeleton.txt", "subject.txt"]
