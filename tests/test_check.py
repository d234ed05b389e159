import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from dne_lib import cli
from dne_lib.camera import ndc_to_pixels
from dne_lib.check import JOINT_COLOURS, PUBLISHED, check_data, compared, overlay, triangulated
from dne_lib.config import DataConfig, ModelConfig
from dne_lib.data.interhand import InterHand
from dne_lib.files import InputError
from tests.data.test_interhand import edit, label_file, to_crop, write_tree


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    root = tmp_path_factory.mktemp("tree")
    return root, write_tree(root)


@pytest.fixture
def tree(drawn, tmp_path):
    """A copy to spoil."""
    shutil.copytree(drawn[0], tmp_path / "tree")
    return tmp_path / "tree"


def lines(tree: Path) -> list[str]:
    return list(check_data(tree, None, tree.parent / "check"))


def test_what_is_there_is_said_and_drawn(tree, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tree / "annotations" / "aid_human_annot_train.txt").write_text("0\n1\n5\n")
    shutil.rmtree(tree / "images" / "train" / "Capture0" / "ROM01" / "cam400010")
    assert cli.main(["check", "--data", str(tree)]) == 0
    text = capsys.readouterr().out
    for said in (
        "hand model: the built-in one",
        "labels: InterHand2.6M, 30 fps, digest ",
        "listed: 8 images (4 SH + 4 IH); 4 frames in 1 captures, 1 sequences, 2 cameras",
        "NOT AS PUBLISHED for 5 fps: 1,361,062 images (687,548 SH + 673,514 IH)",
        "annotated by humans: 3 images (2 SH + 1 IH)",
        "NOT AS PUBLISHED for 5 fps: 528,482 images (142,231 SH + 386,251 IH)",
        "images: 4 there, 4 MISSING: Capture0/ROM01: 4",
        "MANO: 4 of 4 frames have parameters; 12 hands are in view",
        "median 0.0 mm, 95 % below 0.0 mm, 0 of 6 hands above 20 mm",
        "usable: 4 images",
        "look at check/train.png",
        "val: not there",
        "test: not there",
    ):
        assert said in text, said
    assert "DO NOT FIT" not in text
    picture = cv2.imread("check/train.png")
    assert picture is not None
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 1000
    # One more that goes, from a folder that had no gaps, is noticed here though not in training.
    next((tree / "images" / "train").rglob("*.jpg")).unlink()
    assert cli.main(["check", "--data", str(tree)]) == 0
    assert "images: 3 there, 5 MISSING" in capsys.readouterr().out


def test_tar_parts_that_are_missing_or_not_whole_are_named(tree):
    assert not any("tar parts" in line for line in lines(tree))
    names = [f"{a}{b}" for a in "ab" for b in "abcdefghijklmnopqrstuvwxyz"]
    for name in names[: names.index("br") + 1]:
        path = tree.parent / f"InterHand2.6M.images.5.fps.v1.0.tar.part{name}"
        path.write_bytes(b"1234567" if name != "br" else b"12")  # the last one is shorter
    found = [line for line in lines(tree) if "tar parts" in line]
    assert found == [f"tar parts of the images in {tree.parent}: 44 of 44"]
    for name in ("ab", "bd", "br"):
        (tree.parent / f"InterHand2.6M.images.5.fps.v1.0.tar.part{name}").unlink()
    (tree.parent / "InterHand2.6M.images.5.fps.v1.0.tar.partac").write_bytes(b"123")
    (tree / "InterHand2.6M.images.30.fps.v1.0.tar.parthp").touch()
    found = [line for line in lines(tree) if "tar parts" in line]
    assert found[0].startswith(f"tar parts of the images in {tree}: 1 of 198; MISSING: partaa, ")
    assert found[0].endswith(", partah and 189 more")
    where = f"tar parts of the images in {tree.parent}: 41 of 44"
    assert found[1:] == [f"{where}; MISSING: partab, partbd, partbr; NOT WHOLE: partac"]


def test_the_built_in_data_are_known_as_such(builtin_data, tmp_path):
    text = "\n".join(check_data(builtin_data, None, tmp_path / "check"))
    assert "hand model" not in text
    assert "PUBLISHED" not in text
    assert "built-in data, version" in text
    assert text.count("images: all there") == 2
    assert {path.name for path in (tmp_path / "check").glob("*.png")} == {"train.png", "test.png"}


def test_counts_are_held_against_the_published_ones():
    for split, total in (("train", 1_361_062), ("val", 380_125), ("test", 849_160)):
        assert sum(PUBLISHED[split]["H+M"]) == total
    assert compared((687_548, 673_514), PUBLISHED["train"]["H+M"]) == "as published"
    human, machine, both = (np.array(PUBLISHED["test"][name]) for name in ("H", "M", "H+M"))
    np.testing.assert_array_equal(human + machine, both)
    assert compared((1, 2), (3, 4)) == "NOT AS PUBLISHED for 5 fps: 7 images (3 SH + 4 IH)"


def test_joints_are_drawn_where_the_joint_file_has_them(drawn):
    data = InterHand(drawn[0], "train", ModelConfig(), DataConfig(), augment=False)
    tips = [0, 4, 8, 12, 16, 20]  # these are no matter of how joints are read off a mesh
    for i in range(len(data)):
        sample = data[i]
        points, seen = triangulated(data, sample)
        present = sample["present"].numpy()
        assert seen.all(1).tolist() == seen.any(1).tolist() == present.tolist()
        expected = ndc_to_pixels(sample["joints_2d"].numpy(), 256)
        np.testing.assert_allclose(points[present][:, tips], expected[present][:, tips], atol=0.2)
        colours = (overlay(data, sample) * 255).round().astype(np.uint8)
        for hand, colour in enumerate(JOINT_COLOURS):
            dots = np.argwhere((colours == colour).all(-1))[:, ::-1]
            assert bool(len(dots)) == bool(present[hand])
            if len(dots):
                away = np.linalg.norm(dots[:, None] - points[hand][tips], axis=-1).min(0)
                assert away.max() < 2.5


def test_mesh_is_drawn_on_the_hand(drawn):
    root, truth = drawn
    data = InterHand(root, "train", ModelConfig(), DataConfig(), augment=False)
    sample = data[0]  # the right hand, red
    drawn_over = np.abs(overlay(data, sample) - sample["image"].numpy().transpose(1, 2, 0)).sum(-1)
    found = np.argwhere(drawn_over > 0.05)[:, ::-1]
    pixels = to_crop(sample, truth["pixels"][0]["right"])
    np.testing.assert_allclose(found.min(0), pixels.min(0), atol=2)
    np.testing.assert_allclose(found.max(0), pixels.max(0), atol=2)


def test_labels_in_the_wrong_unit_are_seen(tree):
    def metres(value):
        for frame in value["0"].values():
            frame["world_coord"] = [[c / 1000 for c in p] for p in frame["world_coord"]]

    edit(tree, "joint_3d", metres)
    text = "\n".join(lines(tree))
    assert "6 of 6 hands above 20 mm (data.max_fit_error leaves them out)" in text
    assert "THE LABELS DO NOT FIT THE HAND MODEL" in text


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda tree: label_file(tree, "camera").write_text("{"), "camera.json is not valid JSON"),
        (lambda tree: label_file(tree, "joint_3d").unlink(), "M_train_joint_3d.json: run"),
        (lambda tree: edit(tree, "MANO_NeuralAnnot", dict.clear), "no usable image in train"),
        (
            lambda tree: next((tree / "images" / "train").rglob("*.jpg")).write_bytes(b"?"),
            "is truncated or not an image",
        ),
    ],
)
def test_a_split_that_cannot_be_used_is_named_and_the_others_are_checked(tree, spoil, said):
    write_tree(tree, "test")
    spoil(tree)
    found = []

    def collect():
        for line in check_data(tree, None, tree.parent / "check"):
            found.append(line)

    with pytest.raises(InputError, match=r"tree: train cannot be used"):
        collect()
    (bad,) = (line for line in found if "CANNOT BE USED" in line)
    assert "train CANNOT" in bad
    assert said in bad
    assert found[-1].startswith("  look at")
    assert "test.png" in found[-1]


def test_where_there_are_no_data_nothing_is_written(tmp_path):
    with pytest.raises(InputError, match="holds no annotations/train, val or test: give"):
        list(check_data(tmp_path, None, tmp_path / "check"))
    (tmp_path / "annotations" / "all").mkdir(parents=True)
    with pytest.raises(InputError, match=r"v0\.0, get v1\.0"):
        list(check_data(tmp_path, None, tmp_path / "check"))
    assert not (tmp_path / "check").exists()


def test_a_negative_seed_is_refused_before_the_work(tree, capsys):
    assert cli.main(["check", "--data", str(tree), "--seed", "-1"]) == 2
    captured = capsys.readouterr()
    assert "--seed is -1: give" in captured.err
    assert not captured.out


def test_a_folder_of_other_files_is_left_alone(tree):
    (tree.parent / "check").mkdir()
    (tree.parent / "check" / "thesis.tex").write_text("mine")
    with pytest.raises(InputError, match="choose another folder"):
        lines(tree)
