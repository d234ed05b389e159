import json
import logging
import pickle
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import smplx
import torch
from torch.utils.data import DataLoader

from dne_lib import mano
from dne_lib.camera import ndc_to_pixels, ridge_camera
from dne_lib.config import HAND_UNIT, DataConfig, ModelConfig
from dne_lib.data.augment import Augmentation, crop_image, draw
from dne_lib.data.interhand import InterHand, read_image
from dne_lib.files import InputError
from dne_lib.mano import JOINTS_TO_INTERHAND, HandModel, rotation_6d_to_matrix
from dne_lib.rasterize import rasterize
from dne_lib.synthetic import synthesize

WIDTH, HEIGHT = 512, 334
KINDS = ("right", "left", "interacting", "interacting")  # one frame each, seen by two cameras
COLOURS = {"right": (40, 60, 250), "left": (250, 60, 40)}  # BGR: the right hand is red
SMALL = ModelConfig(image_size=128, feature_size=32)


def load_smplx(side: str) -> smplx.MANO:
    """The oracle: smplx as InterHand2.6M's authors call it."""
    file = mano.ASSETS / f"hand_{side}.npz"
    options = {"is_rhand": side == "right", "use_pca": False, "flat_hand_mean": False}
    return smplx.MANO(str(file), ext="npz", **options)


def look_at(position: np.ndarray, roll: float) -> np.ndarray:
    """World-to-camera rotation of a camera that looks at the origin."""
    z = -position / np.linalg.norm(position)
    x = np.cross(z, [np.sin(roll), np.cos(roll), 0])
    x /= np.linalg.norm(x)
    return np.stack([x, np.cross(z, x), z])


def paint(hands: dict[str, tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Flat silhouettes, four samples a pixel each way."""
    image = np.full((HEIGHT * 4, WIDTH * 4, 3), 25, np.uint8)
    for side, (pixels, faces) in hands.items():
        for corners in ((pixels + 0.5) * 4 - 0.5)[faces]:
            cv2.fillConvexPoly(image, np.round(corners * 16).astype(int), COLOURS[side], shift=4)
    return cv2.resize(image, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)


def write_tree(root: Path, split: str = "train") -> dict[str, list]:
    """A tree in InterHand2.6M's format; returns the pixels and camera-frame points drawn."""
    rng = np.random.default_rng(0)
    models = {side: load_smplx(side) for side in ("right", "left")}
    cameras = {"campos": {}, "camrot": {}, "focal": {}, "princpt": {}}
    for name, position in {"400002": (0.3, -0.2, -0.8), "400010": (-0.1, 0.6, 0.5)}.items():
        rotation = look_at(np.array(position), rng.uniform(-1, 1))
        cameras["campos"][name] = (np.array(position) * 1000).tolist()
        cameras["camrot"][name] = rotation.tolist()
        cameras["focal"][name] = [620.0, 640.0]
        cameras["princpt"][name] = [250.0, 170.0]
    images, annotations, joints, fits = [], [], {}, {}
    truth = {"pixels": [], "points": []}
    for frame, kind in enumerate(KINDS):
        sides = ("right", "left") if kind == "interacting" else (kind,)
        world, fits[str(frame)] = {}, {"right": None, "left": None}
        coordinates, valid = np.zeros((42, 3)), np.zeros(42, int)
        for side in sides:
            place = {"right": (-0.06, 0.02, 0.0), "left": (0.06, -0.02, 0.03)}[side]
            values = {
                "pose": np.concatenate([rng.normal(0, 1, 3), rng.normal(0, 0.2, 45)]),
                "shape": rng.normal(0, 1, 10),
                "trans": np.array(place) - models[side].v_template.mean(0).numpy(),
            }
            values = {name: value.astype(np.float32) for name, value in values.items()}
            output = models[side](
                global_orient=torch.tensor(values["pose"][None, :3]),
                hand_pose=torch.tensor(values["pose"][None, 3:]),
                betas=torch.tensor(values["shape"][None]),
                transl=torch.tensor(values["trans"][None]),
            )
            world[side] = output.vertices[0].detach().numpy()
            sixteen = output.joints[0, :16].detach().numpy()
            all_joints = np.concatenate([sixteen, world[side][mano.FINGERTIPS]])
            start = 21 * (side == "left")
            coordinates[start : start + 21] = all_joints[mano.MANO_TO_JOINTS][JOINTS_TO_INTERHAND]
            valid[start : start + 21] = 1
            fits[str(frame)][side] = {name: value.tolist() for name, value in values.items()}
        joints[str(frame)] = {
            "world_coord": (coordinates * 1000).tolist(),
            "joint_valid": valid[:, None].tolist(),
            "hand_type": kind,
            "hand_type_valid": True,
        }
        for camera in cameras["campos"]:
            position = np.array(cameras["campos"][camera]) / 1000
            points = {
                side: (vertices - position) @ np.array(cameras["camrot"][camera]).T
                for side, vertices in world.items()
            }
            pixels = {
                side: p[:, :2] / p[:, 2:] * cameras["focal"][camera] + cameras["princpt"][camera]
                for side, p in points.items()
            }
            name = f"Capture0/ROM01/cam{camera}/image{frame}.jpg"
            path = root / "images" / split / name
            path.parent.mkdir(parents=True, exist_ok=True)
            drawn = {side: (p, models[side].faces.astype(int)) for side, p in pixels.items()}
            cv2.imwrite(str(path), paint(drawn), [cv2.IMWRITE_JPEG_QUALITY, 97])
            place = {"capture": 0, "subject": 0, "seq_name": "ROM01", "camera": camera}
            size = {"id": len(images), "width": WIDTH, "height": HEIGHT}
            images.append(size | place | {"file_name": name, "frame_idx": frame})
            annotations.append(
                {
                    "id": len(annotations),
                    "image_id": size["id"],
                    "bbox": [0, 0, WIDTH, HEIGHT],
                    "joint_valid": valid.tolist(),
                    "hand_type": kind,
                    "hand_type_valid": 1,
                }
            )
            truth["pixels"].append(pixels)
            truth["points"].append(points)
    contents = {
        "data": {"images": images, "annotations": annotations},
        "camera": {"0": cameras},
        "joint_3d": {"0": joints},
        "MANO_NeuralAnnot": {"0": fits},
    }
    for name, value in contents.items():
        path = label_file(root, name, split)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value))
    return truth


def label_file(root: Path, name: str, split: str = "train") -> Path:
    return root / "annotations" / split / f"InterHand2.6M_{split}_{name}.json"


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    root = tmp_path_factory.mktemp("tree")
    return root, write_tree(root)


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    """A small tree of the generator, and what it drew: pictures and coverage."""
    root, pictures = tmp_path_factory.mktemp("rendered"), []
    with pytest.MonkeyPatch.context() as patch:
        draw = synthesize.render
        patch.setattr(synthesize, "render", lambda *a: pictures.append(draw(*a)) or pictures[-1])
        synthesize.synthesize(root / "tree", 6, 1, seed=1, workers=1, progress=False)
    return root / "tree", pictures[:6]


@pytest.fixture
def tree(drawn, tmp_path):
    """A copy to spoil."""
    shutil.copytree(drawn[0], tmp_path / "tree")
    return tmp_path / "tree"


def dataset(root, augment=False, config=SMALL, seed=0, **options):
    return InterHand(root, "train", config, DataConfig(**options), augment, seed)


def edit(tree, name, change):
    path = label_file(tree, name)
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def flipped(sample) -> bool:
    return bool(torch.det(sample["crop"][:, :2]) < 0)


def to_crop(sample, pixels):
    return pixels @ sample["crop"][:, :2].T.numpy() + sample["crop"][:, 2].numpy()


@pytest.mark.parametrize("augment", [False, True])
def test_targets_are_what_smplx_and_the_camera_say(drawn, augment):
    root, truth = drawn
    data = dataset(root, augment)
    for i in range(len(data)):
        sample = data[i]
        linear = sample["crop"][:, :2].numpy()
        turn = np.eye(3)
        turn[:2, :2] = linear / np.sqrt(abs(np.linalg.det(linear)))
        assert augment or np.allclose(turn, np.eye(3), atol=1e-6)
        for side, name in enumerate(("right", "left")):
            hand = 1 - side if flipped(sample) else side
            assert bool(sample["present"][hand]) == (name in truth["points"][i])
            if name not in truth["points"][i]:
                continue
            pixels = ndc_to_pixels(sample["vertices_2d"][hand], SMALL.image_size).numpy()
            np.testing.assert_allclose(pixels, to_crop(sample, truth["pixels"][i][name]), atol=0.01)
            points = truth["points"][i][name] @ turn.T
            vertices = sample["vertices"][hand].numpy() * HAND_UNIT
            difference = points - vertices
            np.testing.assert_allclose(difference, difference[:1].repeat(778, 0), atol=1e-5)
            tips = sample["joints"][hand, [4, 8, 12, 16, 20]]
            torch.testing.assert_close(tips, sample["vertices"][hand, mano.FINGERTIPS])
            assert sample["joints"][hand, 0].norm() * HAND_UNIT < 1e-3
            seen = sample["triangulated"][hand]  # here: MANO's joints, so that the wrist is 0
            assert seen[0].norm() * HAND_UNIT < 1e-5
            torch.testing.assert_close(seen[[4, 8, 12, 16, 20]], tips, atol=1e-4, rtol=0)


def silhouette(sample, topology) -> np.ndarray:
    """Where the target meshes are in the crop."""
    size = sample["image"].shape[-1]
    covered = np.zeros((size, size), bool)
    for hand in torch.nonzero(sample["present"])[:, 0]:
        pixels = ndc_to_pixels(sample["vertices_2d"][hand], size).numpy()
        face, _ = rasterize(pixels, np.ones(778), topology.faces[hand], size, size)
        covered |= face >= 0
    return covered


def overlap(a, b) -> float:
    return (a & b).sum() / (a | b).sum()


@pytest.mark.parametrize("augment", [False, True])
@pytest.mark.parametrize("config", [SMALL, ModelConfig()])
def test_mesh_lies_on_the_drawn_hand(drawn, augment, config):
    data = dataset(drawn[0], augment, config)
    data.data = DataConfig(noise=0.0, brightness=0.0)
    for sample in (data[i] for i in range(len(data))):
        seen = sample["image"].amax(0) > 137 / 255  # half way to the hands
        assert overlap(silhouette(sample, data.topology), seen.numpy()) >= 0.97


@pytest.mark.parametrize("augment", [False, True])
def test_mesh_lies_on_the_rendered_hand(rendered, augment):
    root, pictures = rendered
    data = dataset(root, augment, ModelConfig())
    assert len(data) == len(pictures) == 6
    assert len({bool(sample["interacting"]) for sample in map(data.__getitem__, range(6))}) == 2
    for i, picture in enumerate(pictures):
        stored = cv2.imread(str(data.path(i)))[..., ::-1].astype(int)
        assert np.abs(stored - picture.image).mean() < 4
        coverage = np.round(picture.coverage * 255).astype(np.uint8)[..., None].repeat(3, 2)
        sample = data[i]
        seen = crop_image(coverage, sample["crop"].numpy(), 256)[..., 0] > 127
        assert overlap(silhouette(sample, data.topology), seen) >= 0.97


def test_colours_tell_the_hands_apart_and_parts_agree(drawn):
    data = dataset(drawn[0], augment=True)
    for sample in (data[i] for i in range(len(data))):
        image = torch.nn.functional.interpolate(sample["image"][None], size=32, mode="area")[0]
        redder = image[0] > image[2]
        for hand, part in enumerate((sample["parts"] - 1) // 16 == h for h in (0, 1)):
            mask = part & (sample["parts"] > 0)
            assert mask.any() == sample["present"][hand]
            if mask.any():
                right_as_drawn = (hand == 0) != flipped(sample)
                agreement = (redder == right_as_drawn)[mask].float().mean()
                assert agreement > (0.5 if sample["present"].all() else 0.95)


@pytest.mark.parametrize("augment", [False, True])
def test_posing_the_hand_anew_gives_the_target_mesh(drawn, augment):
    data = dataset(drawn[0], augment)
    batch = torch.utils.data.default_collate(data.__getitems__(list(range(len(data)))))
    present = batch["present"]
    rotations = rotation_6d_to_matrix(batch["pose"][present])
    model = HandModel()
    sides = torch.nonzero(present)[:, 1]
    joints = model.regress_joints(batch["vertices"])
    torch.testing.assert_close(joints[present], batch["joints"][present], atol=1e-5, rtol=0)
    both = model(
        rotations[:, None].expand(-1, 2, 16, 3, 3),
        batch["betas"][present][:, None].expand(-1, 2, 10),
    )
    posed = both.vertices[torch.arange(len(sides)), sides] / HAND_UNIT
    torch.testing.assert_close(posed, batch["vertices"][present], atol=2e-4, rtol=0)
    camera = ridge_camera(batch["vertices"], batch["vertices_2d"], SMALL.ridge)
    torch.testing.assert_close(batch["camera"][present], camera[present])
    if augment:
        assert {flipped({"crop": crop}) for crop in batch["crop"]} == {True, False}


def test_normals_turn_with_the_image(drawn):
    plain, turned = dataset(drawn[0]), dataset(drawn[0], augment=True)
    turned.data = DataConfig(scale=0.0, shift=0.0, flip=False, rotation=90.0)
    for i in range(len(plain)):
        a, b = plain[i], turned[i]
        turn = b["crop"][:, :2] / torch.det(b["crop"][:, :2]).sqrt()
        means = []
        for sample in (a, b):
            mask = sample["parts"] > 0
            means.append(sample["normals"][:, mask].mean(1))
        torch.testing.assert_close(turn @ means[0][:2], means[1][:2], atol=0.05, rtol=0)
        torch.testing.assert_close(means[0][2], means[1][2], atol=0.05, rtol=0)


def test_single_hand_images_never_mark_the_other_hand(drawn, tree):
    # Even if the MANO file knows where it is.
    edit(tree, "MANO_NeuralAnnot", lambda v: v["0"]["0"].update(left=v["0"]["1"]["left"]))
    edit(tree, "data", lambda v: [a.update(joint_valid=[1] * 42) for a in v["annotations"]])
    for augment in (False, True):
        data = dataset(tree, augment, hand_type="SH")
        assert len(data) == 4
        for i, sample in enumerate(data[j] for j in range(4)):
            hand = int(i >= 2) ^ flipped(sample)
            other = 1 - hand
            assert sample["present"].tolist() == [hand == 0, hand == 1]
            assert not sample["interacting"]
            names = [
                "vertices",
                "joints",
                "triangulated",
                "vertices_2d",
                "joints_2d",
                "joint_valid",
                "pose",
                "betas",
                "camera",
            ]
            for name in (*names, "camera"):
                assert not sample[name][other].any(), name
                assert sample[name][hand].any(), name
            assert not sample["heatmaps"][21 * other : 21 * other + 21].any()
            parts = sample["parts"][sample["parts"] > 0]
            assert len(parts)
            assert ((parts - 1) // 16 == hand).all()


def test_hand_types(drawn):
    assert len(dataset(drawn[0])) == 8
    interacting = dataset(drawn[0], hand_type="IH")
    assert len(interacting) == 4
    assert all(interacting[i]["interacting"] for i in range(4))
    assert interacting.path(0) == dataset(drawn[0]).path(4)


def test_samples_are_functions_of_seed_epoch_and_index(drawn):
    def same(a, b):
        return all(torch.equal(a[name], b[name]) for name in a)

    data = dataset(drawn[0], augment=True, seed=3)
    first = data[5]
    assert first["index"] == 5
    together = data.__getitems__([2, 5])[1]
    # The hand model's last bits depend on how many hands it is given.
    torch.testing.assert_close(together["image"], first["image"], atol=0.02, rtol=0)
    torch.testing.assert_close(together["vertices"], first["vertices"], atol=1e-5, rtol=0)
    data.set_epoch(1)
    assert not torch.equal(data[5]["crop"], first["crop"])
    data.set_epoch(0)
    assert same(data[5], first)
    assert not torch.equal(dataset(drawn[0], True, seed=4)[5]["crop"], first["crop"])
    assert same(data[-3], first)
    with pytest.raises(IndexError):
        data[8]


def test_a_change_can_be_chosen(drawn):
    plain, data = dataset(drawn[0]), dataset(drawn[0], augment=True, seed=3, noise=0.0)
    drawn_by_chance = draw(np.random.default_rng((3, 0, 2)), data.data)
    for chosen, expected in (
        (plain.changed(2, drawn_by_chance), data[2]),
        (data.changed(-6, Augmentation()), plain[2]),
    ):
        assert all(torch.equal(chosen[name], expected[name]) for name in expected)
    with pytest.raises(IndexError):
        plain.changed(len(plain), drawn_by_chance)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on a single core
def test_living_workers_learn_of_the_epoch(drawn):
    data = dataset(drawn[0], augment=True)
    loader = DataLoader(data, batch_size=3, num_workers=2, persistent_workers=True)
    for epoch in (0, 5):
        data.set_epoch(epoch)
        batches = list(loader)
        assert [len(b["index"]) for b in batches] == [3, 3, 2]
        assert batches[0]["image"].shape == (3, 3, 128, 128)
        assert batches[0]["heatmaps"].shape == (3, 42, 32, 32)
        assert batches[0]["parts"].dtype == batches[0]["index"].dtype == torch.int64
        expected = data.__getitems__([3, 4, 5])
        for n, sample in enumerate(expected):
            assert torch.equal(batches[1]["image"][n], sample["image"])


def test_shapes_and_types(drawn):
    sample = dataset(drawn[0])[4]
    shapes = {name: tuple(value.shape) for name, value in sample.items()}
    assert shapes == {
        "image": (3, 128, 128),
        "present": (2,),
        "interacting": (),
        "vertices": (2, 778, 3),
        "joints": (2, 21, 3),
        "triangulated": (2, 21, 3),
        "vertices_2d": (2, 778, 2),
        "joints_2d": (2, 21, 2),
        "joint_valid": (2, 21),
        "pose": (2, 16, 6),
        "betas": (2, 10),
        "camera": (2, 2, 2),
        "crop": (2, 3),
        "index": (),
        "depth": (1, 32, 32),
        "normals": (3, 32, 32),
        "heatmaps": (42, 32, 32),
        "densepose": (3, 32, 32),
        "parts": (32, 32),
    }
    kinds = {"present": torch.bool, "interacting": torch.bool, "joint_valid": torch.bool}
    kinds |= {"parts": torch.int64, "index": torch.int64}
    assert all(v.dtype == kinds.get(name, torch.float32) for name, v in sample.items())
    assert 0 <= sample["image"].min() <= sample["image"].max() <= 1


def test_a_hand_without_parameters_is_masked_or_the_image_dropped(tree, caplog):
    def forget(value):
        value["0"]["2"]["left"] = None  # of two hands
        del value["0"]["3"]["right"]
        value["0"]["0"] = {"right": None, "left": None}  # of one
        del value["0"]["1"]

    edit(tree, "MANO_NeuralAnnot", forget)
    with caplog.at_level(logging.WARNING):
        data = dataset(tree)
    assert "dropped 4 of 8" in caplog.text
    samples = [data[i] for i in range(len(data))]
    assert [s["present"].tolist() for s in samples] == [[True, False]] * 2 + [[False, True]] * 2
    assert all(s["interacting"] for s in samples)
    assert not samples[0]["vertices"][1].any()
    edit(tree, "MANO_NeuralAnnot", lambda v: v.clear())
    with pytest.raises(InputError, match="no usable"):
        dataset(tree)


def test_a_fit_behind_the_camera_is_dropped(tree):
    edit(tree, "MANO_NeuralAnnot", lambda v: v["0"]["0"]["right"].update(trans=[0.0, 0.0, 9.0]))
    assert len(dataset(tree)) == 7  # one of the two cameras has it in front


def move_wrist(value):
    """Of the right of two hands: the file's joint 20, 42 mm away."""
    wrist = value["0"]["2"]["world_coord"][20]
    wrist[:] = [wrist[0] + 42, wrist[1], wrist[2]]


def test_wrong_fits_are_left_out_where_asked(tree, caplog):
    edit(tree, "joint_3d", move_wrist)
    edit(tree, "joint_3d", lambda v: v["0"]["0"].update(world_coord=[[0, 0, 500]] * 42))
    assert len(dataset(tree)) == 8
    assert "mm" not in caplog.text
    data = InterHand(tree, "train", SMALL, DataConfig(max_fit_error=1.9), augment=False)
    assert "left out 4 of 12 hands" in caplog.text
    assert "1.9 mm" in caplog.text
    assert "dropped 2 of 8" in caplog.text
    assert [data[i]["present"].tolist() for i in range(2, 4)] == [[False, True]] * 2
    assert not data[2]["joint_valid"][0].any()
    data = InterHand(tree, "train", SMALL, DataConfig(max_fit_error=2.1), augment=False)
    assert [data[i]["present"].tolist() for i in range(2, 4)] == [[True, True]] * 2
    with pytest.raises(InputError, match="max_fit_error"):
        InterHand(tree, "train", SMALL, DataConfig(max_fit_error=0.0), augment=False)


def test_the_built_in_hand_on_labels_of_another_is_warned_of(drawn, builtin_data, caplog):
    dataset(builtin_data)
    dataset(drawn[0], mano=mano.ASSETS)
    assert not caplog.text
    dataset(drawn[0])
    assert f"{drawn[0]}: these labels were not made for the built-in hand" in caplog.text
    with pytest.raises(InputError, match=r"is built-in data.*leave data\.mano out"):
        dataset(builtin_data, mano=mano.ASSETS)


def test_images_of_a_partial_download_are_dropped_and_named(tree, caplog):
    folder = tree / "images" / "train" / "Capture0" / "ROM01" / "cam400010"
    folder.rename(tree / "aside")
    data = dataset(tree)
    assert "dropped 4 of 8" in caplog.text
    assert "Capture0/ROM01: 4" in caplog.text
    assert [data.path(i).name for i in range(4)] == [f"image{i}.jpg" for i in range(4)]
    assert {data.path(i).parent.name for i in range(4)} == {"cam400002"}
    (tree / "aside").rename(folder)
    assert len(dataset(tree)) == 8


def test_images_may_stay_in_the_folder_that_unpacking_makes(tree):
    expected = dataset(tree)[3]
    (tree / "InterHand2.6M_5fps_batch1").mkdir()
    (tree / "images").rename(tree / "InterHand2.6M_5fps_batch1" / "images")
    data = dataset(tree)
    assert len(data) == 8
    assert data.path(3).parts[-7:-4] == ("InterHand2.6M_5fps_batch1", "images", "train")
    assert torch.equal(data[3]["image"], expected["image"])


def test_a_truncated_hand_keeps_its_place_in_a_crop_with_black(tree):
    # Half of the image is all the camera saw: the crop reaches over its edge.
    edit(tree, "camera", lambda v: v["0"]["princpt"].update({"400002": [20.0, 170.0]}))
    sample = dataset(tree)[0]
    assert sample["present"].tolist() == [True, False]
    pixels = sample["vertices_2d"][0]
    assert pixels.abs().max() < 0.85  # the margin around all of the hand, seen or not
    corner = np.linalg.solve(sample["crop"][:, :2].numpy(), -sample["crop"][:, 2].numpy())
    assert corner[0] < -10
    assert not sample["image"][:, :, :4].any()


def test_workers_that_are_started_anew_get_no_copy_of_the_labels(drawn):
    data = dataset(drawn[0], augment=True)
    assert "joint_valid" not in str(pickle.dumps(data.labels))
    again = pickle.loads(pickle.dumps(data))
    assert isinstance(again.labels.pose.base, np.memmap)
    assert all(torch.equal(again[3][name], value) for name, value in data[3].items())


def test_a_joint_is_valid_only_with_its_wrist(tree):
    def invalidate(value):
        valid = value["annotations"][4]["joint_valid"]  # two hands
        valid[20] = 0  # right wrist
        valid[21] = 0  # left thumb tip
        value["annotations"][4]["joint_valid"] = [[v] for v in valid]  # as some releases nest it

    edit(tree, "data", invalidate)
    edit(tree, "joint_3d", lambda v: v["0"]["2"]["joint_valid"].__setitem__(21 + 4, [0]))
    valid = dataset(tree)[4]["joint_valid"]
    assert not valid[0].any()
    assert torch.nonzero(~valid[1])[:, 0].tolist() == [4, 8]  # tips of thumb and index
    assert not dataset(tree)[4]["heatmaps"][[0, 20, 25, 29]].any()


def spoil(name, change, words):
    return pytest.param(name, change, words, id=words[-1])


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        spoil("data", lambda v: v.pop("annotations"), ["data.json", "annotations"]),
        spoil("data", lambda v: v["annotations"].clear(), ["data.json", "no annotations"]),
        spoil("data", lambda v: v["annotations"][0].pop("hand_type"), ["data.json", "hand_type"]),
        spoil("data", lambda v: v["images"][2].pop("width"), ["image 2", "field width"]),
        spoil("data", lambda v: v["images"][2].pop("id"), ["an image", "field id"]),
        spoil("data", lambda v: v["images"].pop(2), ["image 2", "not listed"]),
        spoil("data", lambda v: v["annotations"][3].update(hand_type="foot"), ["image1", "'foot'"]),
        spoil(
            "data", lambda v: v["annotations"][0].update(joint_valid=[1]), ["joint_valid is not"]
        ),
        spoil("camera", lambda v: v["0"].pop("focal"), ["camera.json", "capture 0", "field focal"]),
        spoil("camera", lambda v: v["0"]["campos"].pop("400010"), ["campos", "field 400010"]),
        spoil("camera", lambda v: v.pop("0"), ["camera.json", "field 0"]),
        spoil("joint_3d", lambda v: v["0"].pop("3"), ["joint_3d.json", "image3", "field 3"]),
        spoil(
            "joint_3d",
            lambda v: v["0"]["1"]["world_coord"][30].__setitem__(1, float("nan")),
            ["image1.jpg", "frame 1, world_coord holds NaN"],
        ),
        spoil(
            "MANO_NeuralAnnot",
            lambda v: v["0"]["2"]["left"].pop("trans"),
            ["image2.jpg", "left has no field trans"],
        ),
        spoil(
            "MANO_NeuralAnnot",
            lambda v: v["0"]["2"]["left"]["pose"].__setitem__(5, float("nan")),
            ["MANO_NeuralAnnot.json", "image2.jpg", "left, pose holds NaN"],
        ),
        spoil(
            "MANO_NeuralAnnot",
            lambda v: v["0"]["2"]["left"]["shape"].__setitem__(5, None),
            ["image2.jpg", "left, shape holds NaN"],
        ),
    ],
)
def test_bad_labels_are_named(tree, name, change, words):
    edit(tree, name, change)
    with pytest.raises(InputError) as error:
        dataset(tree)
    for word in words:
        assert word in str(error.value)


def test_missing_and_half_written_trees_are_named(tree, tmp_path):
    with pytest.raises(InputError, match=r"nowhere.*dne synthesize"):
        dataset(tmp_path / "nowhere")
    camera = label_file(tree, "camera")
    camera.write_text(camera.read_text()[:-100])
    with pytest.raises(InputError, match=r"camera\.json is not valid JSON"):
        dataset(tree)
    camera.write_text("[]")
    with pytest.raises(InputError, match=r"camera\.json is not a JSON object"):
        dataset(tree)
    camera.unlink()
    with pytest.raises(InputError, match=r"half-written.*camera\.json"):
        dataset(tree)
    write_tree(tree)
    shutil.rmtree(tree / "images")
    with pytest.raises(InputError, match=r"half-written.*lacks images/train: run"):
        dataset(tree)


def test_bad_images_are_named(tree):
    data = dataset(tree)
    path = data.path(1)
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], whole[:-2], b"", b"not an image"):
        path.write_bytes(content)
        with pytest.raises(InputError, match=rf"{path.name} is truncated"):
            data[1]
    cv2.imwrite(str(path), np.zeros((HEIGHT // 2, WIDTH // 2, 3), np.uint8))
    with pytest.raises(InputError, match=rf"{path.name} is not 512 x 334"):
        data[1]
    path.unlink()
    with pytest.raises(InputError, match=rf"cannot read image.*{path.name}"):
        data[1]
    data[0]


def test_truncated_images_are_named_where_opencv_fills_them_in(tree, monkeypatch):
    path = dataset(tree).path(1)
    whole, size = path.read_bytes(), np.array([WIDTH, HEIGHT])
    grey = np.full((HEIGHT, WIDTH, 3), 128, np.uint8)  # as OpenCV 4 may have it
    monkeypatch.setattr(cv2, "imdecode", lambda *_: grey)
    np.testing.assert_array_equal(read_image(path, size), grey)
    path.write_bytes(whole[:-2])
    with pytest.raises(InputError, match=rf"{path.name} is truncated"):
        read_image(path, size)


def test_grey_images_and_rotated_files_are_read_as_stored(tree):
    path = dataset(tree).path(0)
    grey = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    cv2.imwrite(str(path), grey)
    image = dataset(tree)[0]["image"]
    assert torch.equal(image[0], image[2])
    # An EXIF block that asks viewers for a quarter turn: 0x0112 = 6.
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    content = path.read_bytes()
    path.write_bytes(content[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2) + exif + content[2:])
    assert cv2.imread(str(path)).shape == (WIDTH, HEIGHT, 3)
    assert torch.equal(dataset(tree)[0]["image"], image)


def test_images_shrunk_while_decoding_keep_their_place(tmp_path):
    # A bright spot of odd-sized image: its centre of mass is found at the same full-size pixel.
    image = np.zeros((101, 203, 3), np.uint8)
    cv2.circle(image, (120, 60), 12, (200, 200, 200), -1)
    cv2.imwrite(str(tmp_path / "spot.jpg"), image, [cv2.IMWRITE_JPEG_QUALITY, 100])
    for reduced in (1, 2, 4, 8):
        small = read_image(tmp_path / "spot.jpg", np.array([203, 101]), reduced)[..., 0]
        rows, columns = np.indices(small.shape)
        centre = [np.average(axis, weights=small) for axis in (columns, rows)]
        full = np.array(centre) * reduced + (reduced - 1) / 2
        np.testing.assert_allclose(full, [120, 60], atol=0.1)
