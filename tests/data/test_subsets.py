import shutil

import numpy as np
import pytest

from dne_lib.config import DataConfig
from dne_lib.data.index import content_digest, read_index
from dne_lib.data.shards import Shards, export
from dne_lib.data.subsets import (
    by_humans,
    chosen,
    count_types,
    every,
    frame_steps,
    human_list,
    interacting,
    release,
)
from dne_lib.files import InputError
from tests.data.test_interhand import dataset, edit, label_file, write_tree


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    root = tmp_path_factory.mktemp("tree")
    write_tree(root)
    return root


@pytest.fixture
def tree(drawn, tmp_path):
    """A copy to spoil."""
    shutil.copytree(drawn, tmp_path / "tree")
    return tmp_path / "tree"


def number_annotations(value):
    for i, annotation in enumerate(value["annotations"]):
        annotation["id"] = 1000 - i  # not the place in the file, nor the image's number


def test_humans_and_machine_share_the_images_out(tree):
    edit(tree, "data", number_annotations)
    (tree / "annotations" / "aid_human_annot_train.txt").write_text("999\n995\n7\n")
    paths = [dataset(tree).path(i) for i in (1, 5)]
    human, machine = dataset(tree, annotation="H"), dataset(tree, annotation="M")
    assert [human.path(i) for i in range(len(human))] == paths
    both = {data.path(i) for data in (human, machine) for i in range(len(data))}
    assert len(human) + len(machine) == len(both) == 8
    single = dataset(tree, annotation="H", hand_type="SH")
    assert [single.path(i) for i in range(len(single))] == paths[:1]
    assert single.counts == {"listed": 8, "chosen": 1, "usable": 1, "used": 1}


def test_the_list_of_humans_may_lie_in_three_places(tree):
    assert human_list(tree, "train") is None
    for folder in (tree, tree / "annotations", tree / "annotations" / "train"):
        path = folder / "aid_human_annot_train.txt"
        path.write_text("1")
        assert human_list(tree, "train") == path


def test_without_its_list_a_subset_is_refused(tree):
    index = read_index(tree, "train")
    for annotation in ("H", "M"):
        with pytest.raises(InputError, match=r"put aid_human_annot_train\.txt.*InterWild"):
            chosen(index, tree, "train", DataConfig(annotation=annotation))
    assert not by_humans(index, tree, "val").any()  # humans annotated none of it
    (tree / "aid_human_annot_train.txt").write_text(f"{2**70}")
    with pytest.raises(InputError, match="not a list of numbers"):
        by_humans(index, tree, "train")
    (tree / "aid_human_annot_train.txt").write_text("<html>")
    with pytest.raises(InputError, match="not a list of numbers"):
        dataset(tree, annotation="H")
    (tree / "aid_human_annot_train.txt").write_text("")
    with pytest.raises(InputError, match=r"no usable image in train \(annotation H,"):
        dataset(tree, annotation="H")


def test_hand_types(tree):
    index = read_index(tree, "train")
    assert interacting(index).tolist() == [False] * 4 + [True] * 4
    assert count_types(index) == (4, 4)
    assert count_types(index, np.arange(8) < 5) == (4, 1)
    for name, expected in (("SH", 4), ("IH", 4), ("All", 8)):
        assert chosen(index, tree, "train", DataConfig(hand_type=name)).sum() == expected


def sequences(value, frames):
    """More images of the same content: frames of sequences by name."""
    template, annotation = value["images"][0], value["annotations"][0]
    value["images"], value["annotations"] = [], []
    for name, numbers in frames.items():
        for number in numbers:
            for camera in ("400002", "400010"):
                path = f"Capture0/{name}/cam{camera}/image{number}.jpg"
                place = {"id": len(value["images"]), "frame_idx": number, "camera": camera}
                value["images"].append({**template, **place, "file_name": path})
                value["annotations"].append(
                    {**annotation, "id": place["id"], "image_id": place["id"]}
                )


def write_sequences(tree, frames):
    edit(tree, "data", lambda value: sequences(value, frames))
    for name in ("joint_3d", "MANO_NeuralAnnot"):
        numbers = [n for those in frames.values() for n in those]
        edit(tree, name, lambda v, ns=numbers: v["0"].update({str(n): v["0"]["0"] for n in ns}))


FRAMES = {
    "a": [40, 43, 46, 49, 52, 55, 58, 64, 76],  # 61, 67, 70 and 73 failed
    "b": [9, 10, 11, 12, 13, 14, 15, 16],
    "c": [100],
    "d": [200, 237],
}


@pytest.mark.parametrize(
    ("count", "kept"),
    [
        (1, FRAMES),
        (2, {"a": [40, 46, 52, 58, 64, 76], "b": [9, 11, 13, 15], "c": [100], "d": [200]}),
        (6, {"a": [40, 58, 76], "b": [9, 15], "c": [100], "d": [200]}),
    ],
)
def test_every_nth_frame_of_each_sequence(tree, count, kept):
    write_sequences(tree, dict(reversed(FRAMES.items())))
    index = read_index(tree, "train")
    steps = dict(zip(index.sequence_name.tolist(), frame_steps(index).tolist(), strict=True))
    assert steps == {b"Capture0/a": 3, b"Capture0/b": 1, b"Capture0/c": 0, b"Capture0/d": 37}
    found = {}
    names = index.file_name[every(index, count)].tolist()
    for name in sorted(names):
        _, sequence, _, file = name.decode().split("/")
        found.setdefault(sequence, []).append(int(file[5:-4]))
    assert found.keys() == kept.keys()
    for name, frames in kept.items():
        assert sorted(found[name]) == sorted(2 * frames)  # from both cameras


@pytest.mark.parametrize("options", [{"hand_type": "SH"}, {"hand_type": "IH"}, {"every": 2}])
def test_every_nth_frame_of_an_export_is_one_of_the_tree(tree, tmp_path, options):
    def mix(value):
        for i, annotation in enumerate(value["annotations"]):
            annotation["hand_type"] = "interacting" if i // 2 % 3 == 0 else "right"

    write_sequences(tree, FRAMES)
    edit(tree, "data", mix)
    index = read_index(tree, "train")
    for name in index.file_name.tolist():
        path = tree / "images" / "train" / name.decode()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    export(tree, "train", tmp_path / "packed", DataConfig(**options))
    part = Shards(tmp_path / "packed", "train").index
    assert release(tmp_path / "packed", part) == release(tree, index)
    for count in (2, 6):
        both = DataConfig(**{**options, "every": count})
        expected = index.file_name[chosen(index, tree, "train", both)]
        found = part.file_name[chosen(part, tree, "train", DataConfig(every=count))]
        np.testing.assert_array_equal(found, expected)
        assert len(found)


def test_a_step_that_is_none_is_refused(tree):
    with pytest.raises(InputError, match=r"data\.every is 0"):
        dataset(tree, every=0)


def test_the_digest_is_of_the_labels(tree, drawn):
    before = content_digest(read_index(tree, "train"))
    assert before == content_digest(read_index(drawn, "train"))
    path = label_file(tree, "camera")
    path.write_text(path.read_text() + "\n")  # other bytes, the same labels
    assert content_digest(read_index(tree, "train")) == before
    path.write_text(path.read_text().replace("640.0", "640.5"))
    assert content_digest(read_index(tree, "train")) != before


def test_what_was_used_is_recorded(tree):
    record = dataset(tree, every=2).record()
    assert record["release"] == "InterHand2.6M, 30 fps"
    assert record["labels"] == content_digest(read_index(tree, "train"))
    assert (record["split"], record["annotation"], record["every"]) == ("train", "H+M", 2)
    assert record["counts"] == {"listed": 8, "chosen": 4, "usable": 4, "used": 4}
    np.testing.assert_array_equal(dataset(tree, every=2).rows, [0, 1, 4, 5])
