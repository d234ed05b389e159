import json
import multiprocessing
import os
import pickle
import re
import shutil
import time
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch

from dne_lib import cli
from dne_lib.config import HANDS
from dne_lib.data import index as module
from dne_lib.data.index import HAND_TYPES, Missing, fit_hands, missing_images, read_index
from dne_lib.files import InputError
from dne_lib.mano import INTERHAND_TO_JOINTS, HandModel
from tests.data.test_interhand import edit, label_file, write_tree


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    root = tmp_path_factory.mktemp("tree")
    write_tree(root)
    return root


@pytest.fixture
def tree(drawn, tmp_path):
    """A copy to spoil, without an index."""
    shutil.copytree(drawn, tmp_path / "tree", ignore=shutil.ignore_patterns(".dne-index"))
    return tmp_path / "tree"


@pytest.fixture(scope="module")
def hands():
    return HandModel()


def home(tree: Path) -> Path:
    return tree / "annotations" / "train" / ".dne-index"


def folders(path: Path) -> set[str]:
    return {entry.name for entry in path.iterdir()}


def same(a, b) -> bool:
    names = [field.name for field in fields(a) if field.name != "folder"]
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in names)


def forbid(monkeypatch, *names):
    def refuse(*_):
        raise AssertionError("this was to be read from the index")

    for name in names:
        monkeypatch.setattr(module, name, refuse)


def plain_reading(tree: Path) -> list[dict]:
    """The oracle: what the JSON files say of each annotation, looked up one at a time."""
    data, camera, joints, mano = (
        json.loads(label_file(tree, name).read_text()) for name in module.FILES
    )
    images = {image["id"]: image for image in data["images"]}
    rows = []
    for annotation in data["annotations"]:
        image = images[annotation["image_id"]]
        capture, frame = str(image["capture"]), str(image["frame_idx"])
        view = {name: values[str(image["camera"])] for name, values in camera[capture].items()}
        moment = joints[capture][frame]
        valid = np.array(annotation["joint_valid"]) * np.ravel(moment["joint_valid"])
        valid = valid.reshape(2, 21) * valid.reshape(2, 21)[:, 20:]
        rows.append(
            {
                "file_name": image["file_name"].encode(),
                "size": [image["width"], image["height"]],
                "hand_type": HAND_TYPES.index(annotation["hand_type"]),
                "joint_valid": valid[:, INTERHAND_TO_JOINTS] > 0,
                "view": view,
                "joints": np.reshape(moment["world_coord"], (2, 21, 3))[:, INTERHAND_TO_JOINTS],
                "fits": [mano[capture][frame][hand] for hand in HANDS],
            }
        )
    return rows


def check_against_plain_reading(tree: Path) -> None:
    index, rows = read_index(tree, "train"), plain_reading(tree)
    assert len(index.file_name) == len(rows) == 8
    np.testing.assert_array_equal(index.frame_sequence[index.frame], index.sequence)
    for i, row in enumerate(rows):
        for name in ("file_name", "size", "hand_type", "joint_valid"):
            np.testing.assert_array_equal(getattr(index, name)[i], row[name], err_msg=name)
        camera, frame = index.camera[i], index.frame[i]
        for name, key, unit in (
            ("position", "campos", 1000),
            ("rotation", "camrot", 1),
            ("focal", "focal", 1),
            ("principal", "princpt", 1),
        ):
            expected = np.array(row["view"][key]) / unit
            np.testing.assert_allclose(getattr(index, name)[camera], expected, atol=1e-6)
        for side, fit in enumerate(row["fits"]):
            assert index.fitted[frame, side] == (fit is not None)
            for name, key in (("pose", "pose"), ("betas", "shape"), ("transl", "trans")):
                expected = 0 if fit is None else fit[key]
                np.testing.assert_allclose(getattr(index, name)[frame, side], expected, atol=1e-6)
        known = index.known[frame]
        assert known.all(1).tolist() == [fit is not None for fit in row["fits"]]
        np.testing.assert_allclose(1000 * index.joints[frame][known], row["joints"][known], 1e-5)


def reverse(value):
    return dict(reversed(value.items()))


@pytest.mark.parametrize("block", [37, 1000, 1 << 22])
@pytest.mark.parametrize(
    ("arrange", "indent", "streamed"),
    [
        (dict, None, True),
        (dict, 1, True),
        (reverse, None, True),
        (lambda v: {"info": {"version": [1, 0]}, **v}, None, False),
        (lambda v: {**v, "categories": [{"id": 1}]}, None, False),
        (
            lambda v: {**v, "images": [{**i, "x": [{}, {"y": 1}, {}]} for i in v["images"]]},
            1,
            False,
        ),
        (
            lambda v: {**v, "images": [{**i, "x": '}], "images": [{'} for i in v["images"]]},
            1,
            False,
        ),
    ],
)
def test_arrays_are_what_the_files_say(tree, monkeypatch, arrange, indent, streamed, block):
    path = label_file(tree, "data")
    value = arrange(json.loads(path.read_text()))
    path.write_text(json.dumps(value, indent=indent))
    monkeypatch.setattr(module, "BLOCK", block)
    if streamed:
        forbid(monkeypatch, "_whole")
    check_against_plain_reading(tree)


def test_rows_find_their_images_in_any_order(tree):
    def shuffle(value):
        value["images"].reverse()
        for record in value["images"] + value["annotations"]:
            key = "image_id" if "image_id" in record else "id"
            record[key] = 5_000_000_000 - 7 * record[key]
        value["annotations"].insert(0, value["annotations"].pop(5))
        value["images"].append({**value["images"][0], "id": 12, "frame_idx": 77})  # of nothing

    edit(tree, "data", shuffle)
    check_against_plain_reading(tree)


def test_numbers_may_be_strings_and_the_other_way_round(tree):
    def exchange(value):
        for image in value["images"]:
            image.update(
                capture="0", frame_idx=str(image["frame_idx"]), camera=int(image["camera"])
            )

    before = read_index(tree, "train")
    edit(tree, "data", exchange)
    assert same(read_index(tree, "train"), before)


def test_nothing_is_parsed_twice(tree, hands, monkeypatch):
    first = read_index(tree, "train")
    fits, missing = fit_hands(first, hands), missing_images(first, tree / "images" / "train")
    forbid(monkeypatch, "_parse", "_fit", "_look")
    again = read_index(tree, "train")
    assert same(again, first)
    assert same(fit_hands(again, hands), fits)
    assert missing_images(again, tree / "images" / "train").counts == missing.counts == {}
    assert not again.pose.flags.writeable
    assert isinstance(again.pose.base, np.memmap)


@pytest.mark.parametrize("keep", ["size", "time"])
def test_changed_files_are_noticed_and_old_arrays_removed(tree, keep):
    path = label_file(tree, "camera")
    before, state = read_index(tree, "train"), path.stat()
    text = path.read_text()
    path.write_text(text.replace("620.0", "622.0" if keep == "size" else "622.00"))
    if keep == "time":
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    else:
        assert path.stat().st_size == state.st_size
    after = read_index(tree, "train")
    assert set(before.focal[:, 0]) == {620}  # still readable by who has it open
    assert set(after.focal[:, 0]) == {622}
    assert folders(home(tree)) == {after.folder.name}


def test_arrays_of_another_version_are_made_again(tree, monkeypatch):
    before = read_index(tree, "train").folder
    monkeypatch.setattr(module, "VERSION", module.VERSION + 1)
    assert read_index(tree, "train").folder != before


def truncate(path):
    path.write_bytes(path.read_bytes()[:-4])


@pytest.mark.parametrize("damage", [truncate, Path.unlink, lambda path: path.write_bytes(b"")])
@pytest.mark.parametrize("name", ["file_name", "pose"])
def test_damaged_arrays_are_made_again(tree, hands, damage, name):
    before = read_index(tree, "train")
    expected = pickle.loads(pickle.dumps({name: getattr(before, name).copy()}))
    fits = fit_hands(before, hands)
    damage(before.folder / f"{name}.npy")
    after = read_index(tree, "train")
    np.testing.assert_array_equal(getattr(after, name), expected[name])
    assert after.folder == before.folder
    assert same(fit_hands(after, hands), fits)
    (after.folder / "missing.json").write_text('{"rows": [')
    assert not len(missing_images(after, tree / "images" / "train").rows)
    assert folders(home(tree)) == {after.folder.name}


def test_what_a_killed_process_left_is_ignored_and_later_removed(tree):
    for name, age in (("unfinished-old", 100_000), ("unfinished-new", 100)):
        (home(tree) / name).mkdir(parents=True)
        (home(tree) / name / "pose.npy").write_bytes(b"half")
        os.utime(home(tree) / name, (time.time() - age,) * 2)
    index = read_index(tree, "train")
    assert folders(home(tree)) == {"unfinished-new", index.folder.name}


def build(root, barrier):
    torch.set_num_threads(1)  # forked, it has none of the threads that OpenMP thinks it has
    barrier.wait()
    index = read_index(root, "train")
    assert index.fitted.sum() == 6
    assert fit_hands(index, HandModel()).present.sum() == 12
    assert not len(missing_images(index, root / "images" / "train").rows)


def test_several_processes_may_build_at_once(tree, drawn):
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(4)
    workers = [context.Process(target=build, args=(tree, barrier), daemon=True) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0] * 4
    index = read_index(tree, "train")
    assert same(index, read_index(drawn, "train"))
    assert folders(home(tree)) == {index.folder.name}
    assert not [name for name in folders(index.folder) if name.startswith("unfinished")]


def test_where_the_data_cannot_be_written_the_cache_of_the_user_is(tree, hands, monkeypatch):
    home(tree).write_text("in the way, so that no folder can be made, whoever tries")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tree / "cache"))
    index = read_index(tree, "train")
    assert index.folder.is_relative_to(tree / "cache" / "dne")
    fits = fit_hands(index, hands)
    missing_images(index, tree / "images" / "train")
    with monkeypatch.context() as patch:
        forbid(patch, "_parse", "_fit", "_look")
        again = read_index(tree, "train")
        assert same(again, index)
        assert same(fit_hands(again, hands), fits)
        missing_images(again, tree / "images" / "train")
    (tree / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tree / "file"))
    with pytest.raises(InputError, match=r"cannot write the index.*XDG_CACHE_HOME"):
        read_index(tree, "train")


def test_workers_are_sent_a_path_and_no_arrays(tree, hands):
    index = read_index(tree, "train")
    for arrays in (index, fit_hands(index, hands)):
        sent = pickle.dumps(arrays)
        assert len(sent) < 500
        assert same(pickle.loads(sent), arrays)


def test_fitting_errors_are_of_the_joints_that_smplx_gives(tree, hands):
    def move(value):
        frame = value["0"]["2"]  # two hands; the file's joint 20 is the right wrist
        frame["world_coord"][20] = [
            c + d for c, d in zip(frame["world_coord"][20], (30, 0, 40), strict=True)
        ]
        frame["world_coord"][3] = [1e4, 1e4, 1e4]
        frame["joint_valid"][3] = [0]
        frame["joint_valid"][21:] = [[0]] * 21

    error = fit_hands(read_index(tree, "train"), hands).error
    assert error.shape == (4, 2)
    assert 0 < error.max() < 0.01  # mm
    edit(tree, "joint_3d", move)
    moved = fit_hands(read_index(tree, "train"), hands).error
    np.testing.assert_allclose(moved[2], [50 / 20, 0], atol=0.01)
    np.testing.assert_array_equal(np.delete(moved, 2, 0), np.delete(error, 2, 0))


def test_fitting_errors_belong_to_a_hand_model(tree, hands):
    index = read_index(tree, "train")
    first, other = fit_hands(index, hands), HandModel()
    other.template[:, :, 0] *= 1.2
    second = fit_hands(index, other)
    assert second.folder != first.folder
    assert (second.error[index.fitted] > 5).all()
    assert same(fit_hands(index, hands), first)


def expected_presence(tree) -> np.ndarray:
    """From the joints in the files, which are the MANO joints that smplx gives."""
    rows = []
    for row in plain_reading(tree):
        view = {name: np.array(value) for name, value in row["view"].items()}
        points = (row["joints"] - view["campos"]) @ view["camrot"].T / 1000
        depth = points[..., 2:]
        pixels = (
            points[..., :2] / np.where(depth > 0, depth, np.nan) * view["focal"] + view["princpt"]
        )
        inside = ((pixels > -0.5) & (pixels < np.array(row["size"]) - 0.5)).all(-1).any(-1)
        fitted = [fit is not None for fit in row["fits"]]
        rows.append(fitted & inside & (depth > 0.1).all((1, 2)))
    return np.array(rows)


@pytest.mark.parametrize("change", ["princpt", "campos"])
def test_hands_out_of_view_or_at_the_camera_are_absent(tree, hands, change):
    counts = []
    original = json.loads(label_file(tree, "camera").read_text())["0"][change]
    for step in range(0, 11, 2):

        def move(value, step=step):
            for camera, values in original.items():
                value["0"][change][camera] = (
                    [values[0] + 45 * step, values[1]]  # pixels
                    if change == "princpt"
                    else [v * (1 - step / 10) for v in values]  # towards the hands
                )

        edit(tree, "camera", move)
        present = fit_hands(read_index(tree, "train"), hands).present
        np.testing.assert_array_equal(present, expected_presence(tree))
        counts.append(int(present.sum()))
    assert counts[0] == 12
    assert counts == sorted(counts, reverse=True)
    assert len(set(counts)) >= 3  # truncated ones stay


def test_missing_images_are_found_and_noticed_when_they_come(tree, tmp_path):
    images, index = tree / "images" / "train", read_index(tree, "train")
    first, second = images / "Capture0/ROM01/cam400002", images / "Capture0/ROM01/cam400010"
    for path in (first / "image1.jpg", second, images / "Capture0"):
        path.rename(tmp_path / "aside")
        missing = missing_images(index, images)
        gone = [
            i for i, n in enumerate(index.file_name) if not (images / bytes(n).decode()).exists()
        ]
        assert missing.rows.tolist() == gone
        assert missing.counts == {"Capture0/ROM01": len(gone)}
        (tmp_path / "aside").rename(path)
        assert not len(missing_images(index, images).rows)


def test_images_are_noticed_where_unpacking_sets_times_back(tree, tmp_path):
    images, index = tree / "images" / "train", read_index(tree, "train")
    folder = images / "Capture0" / "ROM01" / "cam400010"
    for path in (folder / "image1.jpg", folder):
        path.rename(tmp_path / "aside")
        above = [path.parent, *path.parent.relative_to(tree).parents]
        times = {tree / p: (tree / p).stat() for p in above}
        assert len(missing_images(index, images).rows)
        (tmp_path / "aside").rename(path)
        for other, state in times.items():
            os.utime(other, ns=(state.st_atime_ns, state.st_mtime_ns))
        assert not len(missing_images(index, images).rows)


def test_what_to_render_is_said_in_a_whole_command(tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"annotations/val does not exist") as error:
        read_index(tmp_path, "val")
    (command,) = re.findall(r"`dne (.*?)`", str(error.value))
    asked = []
    monkeypatch.setattr(
        "dne_lib.synthetic.synthesize.synthesize",
        lambda root, *_, **named: asked.append((root, named)),
    )
    assert cli.main(command.split()) == 0
    ((root, named),) = asked
    assert root != tmp_path
    assert named["val"] > 0


@pytest.mark.parametrize("name", module.FILES)
def test_a_file_that_cannot_be_read_is_named(tree, name):
    path = label_file(tree, name)
    path.unlink()
    path.mkdir()
    with pytest.raises(InputError, match=rf"cannot read .*{path.name} \(Is a directory\)"):
        read_index(tree, "train")


def test_what_is_missing_is_named_briefly():
    rows = np.zeros(0, np.int64)
    assert (
        Missing(rows, {"Capture1/b": 2, "Capture0/a": 1}).where() == "Capture0/a: 1, Capture1/b: 2"
    )
    counts = {f"Capture{c}/{s}": 1 for c in range(3) for s in range(10)}
    assert Missing(rows, counts).where() == "Capture0: 10, Capture1: 10, Capture2: 10"
    assert Missing(rows, counts).where(2) == "Capture0: 10, Capture1: 10 and 1 more"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda v: v.update(images={}), "images is not a list"),
        (lambda v: v.update(images=[]), "image 0, which is not listed"),
        (lambda v: v["images"][1].update(id="one"), "not whole"),
        (lambda v: v["images"][0].update(id=0.5), "not whole"),
        (lambda v: v["images"].__setitem__(1, 3), "an image has no field id"),
        (lambda v: v["annotations"].__setitem__(1, []), "an annotation has no field image_id"),
        (lambda v: v["annotations"][1].pop("image_id"), "annotation 1 has no field image_id"),
        (lambda v: v["images"][1].update(width="wide"), "width and height of images"),
        (lambda v: v["images"][1].update(width=None), "width and height of images holds NaN"),
        (lambda v: v["annotations"][6].update(joint_valid=[2] * 41), "image 6, joint_valid"),
    ],
)
def test_bad_labels_are_named(tree, change, words):
    edit(tree, "data", change)
    with pytest.raises(InputError, match=rf"data\.json.*{words}"):
        read_index(tree, "train")
    assert not home(tree).exists()


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("MANO_NeuralAnnot", lambda v: v.update({"0": [1]}), "capture 0 is no record"),
        ("MANO_NeuralAnnot", lambda v: v["0"].update({"3": [1]}), "capture 0 frame 3 is no record"),
        (
            "joint_3d",
            lambda v: v["0"]["3"].update(world_coord=None),
            "capture 0, frame 3, world_coord is no list",
        ),
        *(
            ("camera", lambda v, part=part, bad=bad: edit_cameras(v, part, bad), "no camera")
            for part, bad in (
                ("focal", [0, 900]),
                ("focal", [-900, 900]),
                ("camrot", [[0] * 3] * 3),
            )
        ),
    ],
)
def test_bad_labels_of_hands_are_named(tree, name, change, words):
    edit(tree, name, change)
    with pytest.raises(InputError, match=rf"{name}\.json.*{words}"):
        read_index(tree, "train")


def edit_cameras(cameras, part, value):
    """The same value for every camera."""
    for capture in cameras.values():
        capture[part] = dict.fromkeys(capture[part], value)


def test_a_capture_without_fits_has_none(tree):
    edit(tree, "MANO_NeuralAnnot", lambda v: v.update({"0": None}))
    assert not read_index(tree, "train").fitted.any()
