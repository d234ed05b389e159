import json
import logging
import pickle
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from dne_lib import cli
from dne_lib.check import check_data
from dne_lib.config import Config, DataConfig, LossConfig, TrainConfig
from dne_lib.data import index as index_module
from dne_lib.data import shards as module
from dne_lib.data.interhand import InterHand
from dne_lib.data.shards import export
from dne_lib.files import InputError
from dne_lib.mano import INTERHAND_TO_JOINTS
from dne_lib.synthetic.synthesize import synthesize
from dne_lib.train import train
from tests.data.test_index import plain_reading
from tests.data.test_interhand import dataset, write_tree
from tests.samples import CONFIG


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """A tree of eight images, and its export in tar files of three."""
    root = tmp_path_factory.mktemp("tree")
    write_tree(root)
    (root / "annotations" / "aid_human_annot_train.txt").write_text("1\n2\n5\n")
    packed = tmp_path_factory.mktemp("packed")
    export(root, "train", packed, DataConfig(), shard_images=3)
    return root, packed


@pytest.fixture
def packed(drawn, tmp_path):
    """A copy to spoil."""
    shutil.copytree(drawn[1], tmp_path / "packed")
    return tmp_path / "packed"


def same(a, b) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("options", [{}, {"annotation": "H"}, {"hand_type": "IH"}, {"every": 2}])
def test_reading_tar_files_equals_reading_the_tree(drawn, tmp_path, options):
    root, whole = drawn
    tree = dataset(root, augment=True, seed=3, **options)
    export(root, "train", tmp_path / "part", DataConfig(**options), shard_images=2)
    part = dataset(tmp_path / "part", augment=True, seed=3)
    for read in (dataset(whole, augment=True, seed=3, **options), part):
        assert len(read) == len(tree) > 0
        assert read.groups() == tree.groups()
        for epoch in (0, 2):
            read.set_epoch(epoch)
            tree.set_epoch(epoch)
            loaders = [
                DataLoader(data, 3, shuffle=True, generator=torch.Generator().manual_seed(epoch))
                for data in (read, tree)
            ]
            assert all(same(a, b) for a, b in zip(*loaders, strict=True))
    record = dataset(whole, **options).record()
    assert record == dataset(root, **options).record()


def test_training_on_tar_files_is_training_on_the_tree(builtin_data, tmp_path):
    export(builtin_data, "train", tmp_path / "packed", DataConfig(), shard_images=5)
    losses = []
    for root in (builtin_data, tmp_path / "packed"):
        config = Config(
            CONFIG,
            DataConfig(root=root),
            LossConfig(),
            TrainConfig(steps=2, batch_size=4, workers=0, warmup=1, log_every=1, precision="no"),
        )
        run = train(config, tmp_path / f"run of {root.name}")
        entries = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
        losses.append([(entry["loss"], entry["gradient_norm"]) for entry in entries])
    assert losses[0] == losses[1]
    assert len(losses[0]) == 2


def test_tar_files_are_in_the_layout_of_webdataset(drawn):
    root, packed = drawn
    rows, found = plain_reading(root), []
    paths = sorted((packed / "train").glob("*.tar"))
    assert [path.name for path in paths] == [f"train-0000{i}.tar" for i in range(3)]
    for path in paths:
        with tarfile.open(path) as tar:
            members = tar.getmembers()
            for image, label in zip(members[::2], members[1::2], strict=True):
                key = f"{len(found):09}"  # files of a sample follow each other and share a name
                assert (image.name, label.name) == (f"{key}.jpg", f"{key}.json")
                files = [tar.extractfile(member) for member in (image, label)]
                found.append([file.read() for file in files if file is not None])
    assert len(found) == len(rows) == 8
    for (image, label), row in zip(found, rows, strict=True):
        assert image == (root / "images" / "train" / row["file_name"].decode()).read_bytes()
        label = json.loads(label)
        assert label["file_name"] == row["file_name"].decode()
        assert [label["width"], label["height"]] == row["size"]
        valid = np.reshape(label["joint_valid"], (2, 21))[:, INTERHAND_TO_JOINTS]
        np.testing.assert_array_equal(valid > 0, row["joint_valid"])
        for name, value in row["view"].items():
            np.testing.assert_allclose(label[name], value, rtol=1e-6)
        joints = np.reshape(label["world_coord"], (2, 21, 3))[:, INTERHAND_TO_JOINTS]
        np.testing.assert_allclose(joints, row["joints"], rtol=1e-5, atol=1e-4)
        for hand, fit in zip(label["mano"].values(), row["fits"], strict=True):
            assert (hand is None) == (fit is None)
            for name in fit or ():
                np.testing.assert_allclose(hand[name], fit[name], rtol=1e-6)


def test_the_same_images_make_the_same_bytes(drawn, tmp_path):
    root, packed = drawn
    export(root, "train", tmp_path / "again", DataConfig(), shard_images=3)
    for path in sorted((packed / "train").glob("*.tar")):
        assert (tmp_path / "again" / "train" / path.name).read_bytes() == path.read_bytes()


def test_images_that_are_not_there_are_left_out_and_named(drawn, tmp_path, caplog):
    root = tmp_path / "tree"
    shutil.copytree(drawn[0], root)
    shutil.rmtree(root / "images" / "train" / "Capture0" / "ROM01" / "cam400010")
    with caplog.at_level(logging.WARNING):
        export(root, "train", tmp_path / "packed", DataConfig())
    assert "dropped 4 of 8 images, which are not there (Capture0/ROM01: 4)" in caplog.text
    tree, packed = dataset(root), dataset(tmp_path / "packed")
    assert len(packed) == len(tree) == 4
    assert all(same(packed[i], tree[i]) for i in range(4))


def test_images_may_be_in_the_folder_that_unpacking_makes(drawn, tmp_path):
    root = tmp_path / "tree"
    shutil.copytree(drawn[0], root)
    (root / "InterHand2.6M_30fps_batch1").mkdir()
    (root / "images").rename(root / "InterHand2.6M_30fps_batch1" / "images")
    assert "images: all there" in "\n".join(check_data(root, None, tmp_path / "check"))
    export(root, "train", tmp_path / "packed", DataConfig())
    assert len(dataset(tmp_path / "packed")) == 8


def test_a_subset_of_an_export_needs_no_tree(drawn, packed):
    human = dataset(packed, annotation="H")
    assert [human.path(i).name for i in range(3)] == ["image0.jpg", "image1.jpg", "image2.jpg"]


def test_a_split_that_was_not_packed_is_named(packed):
    with pytest.raises(InputError, match="has the split train packed, and no test: add it with"):
        InterHand(packed, "test", CONFIG, DataConfig(), augment=False)


def test_an_export_is_checked_as_a_tree_is(packed, tmp_path):
    text = "\n".join(check_data(packed, None, tmp_path / "check"))
    assert "images: all there, in 3 tar files" in text
    assert "usable: 8 images" in text
    assert "NOT AS PUBLISHED for 5 fps: 1,361,062" in text
    assert "NOT AS PUBLISHED for 5 fps: 528,482" in text
    assert (tmp_path / "check" / "train.png").is_file()


def test_what_was_exported_of_what_is_kept_and_said(drawn, tmp_path):
    root = tmp_path / "tree"
    shutil.copytree(drawn[0], root)
    next((root / "images").rglob("image1.jpg")).unlink()
    export(root, "train", tmp_path / "packed", DataConfig(hand_type="SH"))
    record = json.loads((tmp_path / "packed" / "train" / "shards.json").read_text())
    assert (record["listed"], record["missing"], record["images"]) == ([4, 4], 1, 3)
    text = "\n".join(check_data(tmp_path / "packed", None, tmp_path / "check"))
    for said in (
        "listed: 3 images (3 SH + 0 IH); 2 frames in 1 captures, 1 sequences, 2 cameras",
        "exported from: 8 images (4 SH + 4 IH), 1 of them missing; "
        "annotation H+M, hand type SH, every 1",
        "NOT AS PUBLISHED for 5 fps: 1,361,062",
        "MANO: 2 of 2 frames have parameters",
        "0 of 2 hands above 20 mm",
    ):
        assert said in text, said
    assert "NOT AS PUBLISHED for 5 fps: 528,482" not in text  # humans' images of all


def test_fits_belong_to_the_labels_of_an_export(drawn, tmp_path, monkeypatch):
    both = index_module._candidates
    monkeypatch.setattr(index_module, "_candidates", lambda path: both(path)[1:])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))  # survives the export
    for options in ({"hand_type": "SH"}, {"hand_type": "IH"}, {}):
        export(drawn[0], "train", tmp_path / "packed", DataConfig(**options))
        found, expected = dataset(tmp_path / "packed"), dataset(drawn[0], **options)
        np.testing.assert_array_equal(found.fits.present, expected.fits.present[expected.rows])
        shutil.rmtree(tmp_path / "packed")


def test_workers_are_sent_paths_and_no_arrays(packed):
    data = dataset(packed, augment=True)
    assert len(pickle.dumps(data.shards)) < 1500
    assert same(pickle.loads(pickle.dumps(data))[3], data[3])


def test_the_command_line_exports(drawn, tmp_path, capsys):
    line = ["export", str(tmp_path / "out"), "--data", str(drawn[0]), "--hand-type", "SH"]
    assert cli.main([*line, "--shard-images", "3"]) == 0
    assert capsys.readouterr().out.startswith("2 tar files, ")
    assert len(dataset(tmp_path / "out")) == 4


def labels(packed: Path, name: str) -> Path:
    return next((packed / "train").glob(f"labels-*/{name}.npy"))


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda p: (p / "train" / "train-00001.tar").unlink(), r"00001\.tar is missing or not wh"),
        (lambda p: halve(p / "train" / "train-00002.tar"), r"00002\.tar is missing or not whole"),
        (lambda p: halve(labels(p, "pose")), r"labels-\w+ is damaged.*export it again"),
        (lambda p: labels(p, "offset").unlink(), r"labels-\w+ is damaged"),
        (lambda p: halve(p / "train" / "shards.json"), r"shards\.json is not valid JSON"),
        (
            lambda p: (p / "train" / "shards.json").write_text('{"version": 0}'),
            r"exported by another version",
        ),
        (lambda p: (p / "train" / "shards.json").write_text("[]"), r"shards\.json is damaged"),
        (
            lambda p: (p / "train" / "shards.json").write_text(f'{{"version": {module.VERSION}}}'),
            r"shards\.json is damaged",
        ),
    ],
)
def test_damaged_exports_are_named(packed, spoil, words):
    spoil(packed)
    with pytest.raises(InputError, match=words):
        dataset(packed)


def test_a_tar_file_that_vanishes_is_named(packed):
    data = dataset(packed)
    (packed / "train" / "train-00000.tar").unlink()
    with pytest.raises(InputError, match=r"cannot read .*train-00000\.tar"):
        data[0]
    assert data[7]["index"] == 7


def test_nothing_is_overwritten(drawn, packed, tmp_path):
    root = drawn[0]
    with pytest.raises(InputError, match="holds an export already"):
        export(root, "train", packed, DataConfig())
    (packed / "train" / "shards.json").unlink()
    with pytest.raises(InputError, match="unfinished export"):
        export(root, "train", packed, DataConfig())
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(InputError, match="choose another folder"):
        export(root, "train", tmp_path / "mine", DataConfig())


def test_splits_of_other_data_are_not_put_beside_each_other(packed, tmp_path):
    """What made the data is said once, for all of them."""
    other = tmp_path / "other"
    synthesize(other, train=0, test=2, seed=99, workers=1, progress=False)
    with pytest.raises(InputError, match=r"train is of other data than .*other: choose another"):
        export(other, "test", packed, DataConfig())
    assert not (packed / "test").exists()


def content(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and "hands-" not in str(path)
    }


def test_an_interrupted_export_goes_on(drawn, tmp_path, monkeypatch):
    root, packed = drawn
    half, packing = tmp_path / "half", module._pack
    packs = []

    def pack(*arguments):
        packs.append(len(packs))
        if len(packs) == 3:
            raise KeyboardInterrupt
        return packing(*arguments)

    monkeypatch.setattr(module, "_pack", pack)
    with pytest.raises(KeyboardInterrupt):
        export(root, "train", half, DataConfig(), shard_images=3)
    halve(half / "train" / "train-00001.tar")
    before = content(half)
    assert {"train/train-00000.tar", "train/train-00001.tar"} < before.keys()
    for options, images in (({"hand_type": "SH"}, 3), ({}, 2)):
        with pytest.raises(InputError, match=r"unfinished export of other.*repeat its command"):
            export(root, "train", half, DataConfig(**options), shard_images=images)
    assert content(half) == before
    export(root, "train", half, DataConfig(), shard_images=3)
    assert len(packs) == 5  # not the first one again
    assert content(half) == content(packed)


def test_other_pictures_are_not_mixed_into_an_interrupted_export(
    builtin_data, tmp_path, monkeypatch
):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "publish_arrays", interrupt)
    with pytest.raises(KeyboardInterrupt):
        export(builtin_data, "test", tmp_path / "half", DataConfig())
    monkeypatch.undo()
    varied = tmp_path / "varied"
    shutil.copytree(builtin_data, varied)
    recipe = json.loads((varied / "recipe.json").read_text())
    (varied / "recipe.json").write_text(json.dumps({**recipe, "varied": 1}))
    with pytest.raises(InputError, match="unfinished export of other"):
        export(varied, "test", tmp_path / "half", DataConfig())


def test_an_interrupted_export_is_not_read(drawn, tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "publish_arrays", interrupt)
    with pytest.raises(KeyboardInterrupt):
        export(drawn[0], "train", tmp_path / "half", DataConfig())
    with pytest.raises(InputError, match="does not exist"):
        dataset(tmp_path / "half")


def test_what_cannot_be_exported_is_said(drawn, tmp_path, monkeypatch):
    root = tmp_path / "tree"
    shutil.copytree(drawn[0], root)
    with pytest.raises(InputError, match="0 images in a shard"):
        export(root, "train", tmp_path / "out", DataConfig(), shard_images=0)
    (root / "annotations" / "aid_human_annot_train.txt").write_text("99")
    with pytest.raises(InputError, match="no image of train to export"):
        export(root, "train", tmp_path / "out", DataConfig(annotation="H"))
    assert not (tmp_path / "out").exists()
    image = next((root / "images").rglob("image2.jpg"))
    image.unlink()
    image.mkdir()  # there, but no file
    with pytest.raises(InputError, match=r"cannot read image .*image2\.jpg"):
        export(root, "train", tmp_path / "out", DataConfig())
