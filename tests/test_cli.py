import inspect
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import tyro

import dne_lib
from dne_lib import cli
from dne_lib.config import Config, check_fields, preset
from dne_lib.data.index import FILES
from dne_lib.files import InputError, write_json
from dne_lib.mano import ASSETS
from dne_lib.weights import SHIPPED, load_network, save_network

SMALL = """
    --model.stages 2 --model.image-size 64 --model.feature-size 16 --model.channels 8
    --model.modules 1 --model.vertex-embedding 4 --train.batch-size 4 --train.workers 0
    --train.warmup 1
"""


@pytest.fixture
def calls(monkeypatch):
    """Commands are parsed but not run."""
    made = []
    kinds = (cli.Synthesize, cli.Train, cli.Evaluate, cli.Calibrate, cli.Predict, cli.Ablate)
    for kind in (*kinds, cli.Check):
        monkeypatch.setattr(kind, "run", lambda command: made.append(command))
    return made


def test_the_preset_decides_defaults_and_every_field_can_be_changed(calls):
    assert cli.main(["train"]) == 0
    assert cli.main(["train", "--model.modules", "1", "--preset", "paper"]) == 0
    assert cli.main(["train", "--preset=tiny", "--train.steps", "7", "--data.mano", "m"]) == 0
    plain, paper, tiny = calls
    assert plain.model == preset("tiny").model
    assert plain.loss == preset("tiny").loss
    assert not plain.two_stages
    assert paper.model.modules == 1
    assert paper.model.backbone == "resnet50"
    assert paper.train == preset("paper").train
    assert paper.two_stages
    assert tiny.train.steps == 7
    assert tiny.data.mano.name == "m"


@pytest.mark.parametrize(
    "line",
    ["", "fly", "train --preset large", "train --train.steps many", "evaluate", "synthesize x"],
)
def test_bad_command_lines_exit_with_2(calls, capsys, line):
    with pytest.raises(SystemExit) as stopped:
        cli.main(line.split())
    assert stopped.value.code == 2
    assert not calls


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("predict missing.jpg --box 1,2,3", "four numbers"),
        ("predict missing.jpg --network nowhere", "no weights at nowhere"),
        ("evaluate nowhere", "no weights at nowhere"),
        ("ablate nowhere.yaml", "cannot read the plan nowhere.yaml"),
        ("evaluate nowhere --limit 0", "at least one image"),
        ("calibrate nowhere", "no weights at nowhere"),
        ("calibrate nowhere --limit 0", "at least one image"),
        ("calibrate shipped", "shipped is part of the package"),
        ("train --data.root nowhere --output run --train.initial nothing", "no weights at nothing"),
        ("check", "give a data folder as --data"),
        ("check --data nowhere", "nowhere holds no annotations/train, val or test"),
        ("check --mano nowhere", "nowhere has no MANO_RIGHT.pkl"),
        ("train --resume", "no run runs/tiny to resume"),
        ("train --from-scratch --data.root nowhere", "nowhere"),
        ("train --model.modules -1", "modules and model.vertex_embedding cannot be negative"),
        ("train --data.rotation nan", "data.rotation is nan"),
        ("train --train.clip inf", "train.clip is inf: give a number that is finite"),
        ("train --data.max-fit-error nan", "data.max_fit_error is nan"),
        ("train --loss.depth -1", "loss.depth is -1.0: it must be 0 or more"),
        ("train --from-scratch --coarse-steps -1", "--coarse-steps is -1"),
        ("train --from-scratch --train.initial shipped", "leave --train.initial out"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(line, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("dne_lib.synthetic.synthesize.synthesize", lambda *_, **__: None)
    if line == "train --resume":
        monkeypatch.setattr("dne_lib.data.interhand.InterHand", lambda *_, **__: [])
    assert cli.main(line.split()) == 2
    (written,) = capsys.readouterr().err.strip().splitlines()
    assert written.startswith("dne: error: ")
    assert message in written


def test_an_evaluation_of_something_else_is_not_replaced(tmp_path, monkeypatch):
    monkeypatch.setattr(cli, "network_for", lambda *_: (None, preset("tiny")))
    monkeypatch.setattr(
        "dne_lib.evaluate.report", lambda *_, **__: pytest.fail("it would be replaced")
    )
    kept = {"network": "shipped", "limit": 4, "images_of": {"annotation": "H+M", "every": 1}}
    write_json(tmp_path / "metrics.json", {**kept, "split": "test"})
    for line, words in (
        ("shipped-coarse --limit 4", "of network shipped, not shipped-coarse"),
        ("shipped --limit 2", "of limit 4, not 2"),
        ("shipped --limit 4 --every 2", "of every 1, not 2"),
    ):
        command = tyro.cli(cli.Evaluate, args=[*line.split(), "--output", str(tmp_path)])
        with pytest.raises(InputError, match=f"holds an evaluation {words}: give another folder"):
            command.run()


def test_names_of_files_need_not_be_text(capsysbinary, monkeypatch):
    monkeypatch.setattr(cli.Predict, "run", lambda command: print(*command.images))
    assert cli.main(["predict", os.fsdecode(b"caf\xe9.png")]) == 0
    assert capsysbinary.readouterr().out == b"caf\xe9.png\n"


def test_a_preset_that_there_is_not_is_refused():
    with pytest.raises(InputError, match="preset 'Paper': use tiny or small or paper"):
        inspect.unwrap(preset)("Paper")


@pytest.mark.parametrize(
    ("value", "words"),
    [("8", "'8': give a whole number"), (8.0, "8.0: give a whole"), (True, "True: give a whole")],
)
def test_settings_of_another_type_are_refused(value, words):
    model = preset("tiny").model
    check_fields(model, "model")
    model.channels = value
    with pytest.raises(InputError, match=rf"model\.channels is {words}"):
        check_fields(model, "model")


def test_it_says_its_version(capsys):
    with pytest.raises(SystemExit, match=r"^0$"):
        cli.main(["--version"])
    assert capsys.readouterr().out == f"dne {dne_lib.__version__}\n"


def test_a_reader_who_leaves_early_is_no_error():
    command = [sys.executable, "-m", "dne_lib", "train", "--help"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


@pytest.mark.parametrize(
    ("redirected", "code", "said"),
    [
        (">&-", 0, ""),
        (">/dev/full", 2, "dne: error: the disk is full: free space, or write elsewhere\n"),
    ],
)
def test_output_that_cannot_be_written_is_no_traceback(redirected, code, said):
    command = f"{sys.executable} -m dne_lib train --help {redirected}"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (code, said)


def test_letters_that_there_are_not_do_no_harm():
    command = [sys.executable, "-m", "dne_lib", "--help"]
    ascii_only = {**os.environ, "PYTHONIOENCODING": "ascii"}
    subprocess.run(command, env=ascii_only, capture_output=True, check=True)


def test_a_preset_without_a_name_is_one_clear_error(capsys):
    with pytest.raises(SystemExit):
        cli.main(["train", "--preset"])
    assert "__main__" not in capsys.readouterr().err


def test_the_built_in_data_is_rendered_once_and_only_in_its_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = []
    monkeypatch.setattr(
        "dne_lib.synthetic.synthesize.synthesize", lambda root, *_, **__: made.append(root)
    )
    root = preset("tiny").data.root
    cli.render_missing(root)
    cli.render_missing(tmp_path / "mine")
    assert made == [root]
    for split in ("train", "test"):
        folder = root / "annotations" / split
        folder.mkdir(parents=True)
        for name in FILES:
            (folder / f"InterHand2.6M_{split}_{name}.json").touch()
    cli.render_missing(root)
    assert made == [root]


@pytest.mark.parametrize(
    ("option", "expected"),
    [([], (False, 0)), (["--varied"], (True, 0)), (["--val", "3"], (False, 3))],
)
def test_data_are_made_as_asked_for(option, expected, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "dne_lib.synthetic.synthesize.synthesize",
        lambda *_, **named: asked.append((named["varied"], named["val"])),
    )
    line = ["synthesize", str(tmp_path), "--train", "1", "--test", "1", *option]
    assert cli.main(line) == 0
    assert asked == [expected]


def test_check_prints_what_it_finds_and_converts(tmp_path, capsys):
    for side in ("right", "left"):
        hand = dict(np.load(ASSETS / f"hand_{side}.npz"))
        (tmp_path / f"MANO_{side.upper()}.pkl").write_bytes(pickle.dumps(hand, protocol=2))
    assert cli.main(["check", "--mano", str(tmp_path)]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith(f"{tmp_path / 'MANO_RIGHT.pkl'}: ")
    assert "as it should be" in printed[-1]
    assert len(list(tmp_path.glob("MANO_*.npz"))) == 2


def test_run_folders_are_never_taken_twice(tmp_path):
    assert cli.run_folder(tmp_path, "tiny", resume=False) == tmp_path / "tiny"
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny-2").mkdir()
    assert cli.run_folder(tmp_path, "tiny", resume=False) == tmp_path / "tiny-3"
    assert cli.run_folder(tmp_path, "tiny", resume=True) == tmp_path / "tiny-2"
    (tmp_path / "tiny").rmdir()
    (tmp_path / "tiny-old").mkdir()
    assert cli.run_folder(tmp_path, "tiny", resume=False) == tmp_path / "tiny-3"
    assert cli.run_folder(tmp_path, "tiny", resume=True) == tmp_path / "tiny-2"
    with pytest.raises(InputError, match="without --resume"):
        cli.run_folder(tmp_path, "paper", resume=True)


def test_a_mistake_in_a_loading_process_is_one_line_too(monkeypatch, capsys):
    class Broken(torch.utils.data.Dataset):
        def __len__(self):
            return 1

        def __getitem__(self, index):
            raise InputError("image.jpg is cut short: copy it again")

    loader = torch.utils.data.DataLoader(Broken(), num_workers=1)
    monkeypatch.setattr(cli.Check, "run", lambda _: next(iter(loader)))
    assert cli.main(["check"]) == 2
    assert capsys.readouterr().err == "dne: error: image.jpg is cut short: copy it again\n"


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ("", "evaluation-test"),
        ("--split val --limit 1", "evaluation-val-limit-1"),
        ("--data a/more --every 6", "evaluation-test-more-every-6"),
        ("--annotation H --max-fit-error 10", "evaluation-test-annotation-H-max_fit_error-10.0"),
    ],
)
def test_an_evaluation_of_other_images_has_a_folder_of_its_own(options, name, calls):
    assert cli.main(["evaluate", "shipped", *options.split()]) == 0
    assert calls[0].name == name


def test_evaluations_lie_by_the_run_or_in_a_folder_of_their_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    network, config = load_network("shipped-coarse")
    for folder in ("runs/mine", "elsewhere"):
        save_network(network, config, Path(folder) / "model.safetensors")
    write_json(Path("runs/mine/config.json"), {})
    for source in ("runs/mine", "runs/mine/model.safetensors"):
        assert cli.evaluations(source) == Path("runs/mine")
    assert cli.evaluations("shipped") == Path("runs/shipped")
    assert cli.evaluations("elsewhere/model.safetensors") == Path("runs/model")
    assert cli.evaluations("elsewhere/model.safetensors") == Path("runs/model")
    save_network(network, config, Path("third/model.safetensors"))
    with pytest.raises(InputError, match=r"holds the evaluations of .*elsewhere/model"):
        cli.evaluations("third/model.safetensors")


def test_a_run_to_resume_must_be_there(builtin_data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    line = ["train", "--from-scratch", "--data.root", str(builtin_data), "--output", "typo"]
    assert cli.main([*line, "--resume"]) == 2
    assert "no run typo to resume" in capsys.readouterr().err
    assert not (tmp_path / "typo").exists()


def test_the_folder_of_a_run_is_looked_at_before_images_are_drawn(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "render_missing", lambda root: pytest.fail("images are drawn"))
    run = tmp_path / "run"
    write_json(run / "config.json", {"data": {"root": "elsewhere"}})
    assert cli.main(["train", "--resume", "--output", "run"]) == 2
    assert "run was trained on elsewhere, and there is no data/builtin" in capsys.readouterr().err
    (run / "log.jsonl").touch()
    assert cli.main(["train", "--output", "run"]) == 2
    assert "run already holds a run" in capsys.readouterr().err
    (tmp_path / "long" / "upright").mkdir(parents=True)
    (tmp_path / "long" / "upright" / "log.jsonl").touch()
    assert cli.main(["train", "--from-scratch", "--output", "long"]) == 2
    assert "long/upright already holds a run" in capsys.readouterr().err


def test_several_images_are_predicted_and_those_that_fail_are_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "network_for", lambda *_: (None, Config()))
    monkeypatch.setattr("dne_lib.predict.certainty", lambda found: f"sure of {found}")

    def predict(network, config, image, box):
        if image.stem == "bad":
            raise InputError("no hand found")
        return image

    monkeypatch.setattr("dne_lib.predict.predict", predict)
    monkeypatch.setattr("dne_lib.predict.save", lambda found, output, of: [output / "overlay.png"])
    assert cli.main(["predict", "a.jpg", "bad.jpg", "b.png", "--output", "out"]) == 2
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        "out/a/overlay.png",
        "sure of a.jpg",
        "out/b/overlay.png",
        "sure of b.png",
    ]
    assert "1 of 3 images failed" in err
    assert cli.main(["predict", "a.jpg"]) == 0
    assert "predictions/a/overlay.png" in capsys.readouterr().out
    for line, words in (("a.jpg a.png", "called a"), ("a.jpg b.jpg --box 1,2,3,4", "of one image")):
        assert cli.main(["predict", *line.split()]) == 2
        assert words in capsys.readouterr().err


def test_what_is_measured_is_never_a_subset(monkeypatch):
    trained = preset("tiny")
    trained.data.every, trained.data.hand_type, trained.data.max_fit_error = 6, "IH", 10.0
    network, _ = load_network("shipped")
    monkeypatch.setattr("dne_lib.weights.load_network", lambda *_: (network, trained))
    _, config = cli.network_for("run")
    assert config.data == preset("tiny").data
    trained.data.root = Path("elsewhere")
    roots = [cli.network_for(name)[1].data.root for name in ("run", "shipped", "shipped-varied")]
    assert roots == [Path("elsewhere"), Path("data/builtin"), Path("data/varied")]


def test_stages_and_where_they_start(calls, tmp_path, monkeypatch):
    trained, turns, losses = [], [], []

    def train(config, output, resume=False):
        trained.append((output.name, config.train.stage, config.train.initial, resume))
        turns.append(config.data.rotation)
        losses.append(config.loss)
        output.mkdir(parents=True, exist_ok=True)
        return output

    monkeypatch.setattr("dne_lib.train.train", train)
    cli.main(["train"])
    cli.main(["train", "--train.stage", "coarse", "--from-scratch"])
    cli.main(["train", "--preset", "paper", "--train.initial", "weights"])
    for command, expected in zip(
        calls,
        [("run", "full", "shipped-coarse"), ("run", "coarse", None), ("run", "full", "weights")],
        strict=True,
    ):
        assert not command.two_stages
        command.one(cli.Config(train=command.train), tmp_path / "run")
        assert trained.pop() == (*expected, False)

    cli.main(["train", "--from-scratch", "--resume"])
    output = tmp_path / "long"
    (output / "upright").mkdir(parents=True)
    (output / "upright" / "config.json").touch()
    assert calls[-1].two_stages
    calls[-1].both(cli.Config(train=calls[-1].train), output)
    upright, coarse = str(output / "upright"), str(output / "coarse")
    assert trained == [
        ("upright", "coarse", None, True),
        ("coarse", "coarse", upright, False),
        ("full", "full", coarse, False),
    ]
    assert turns[-3:] == [10, 90, 90]
    assert [loss.vertices > loss.densepose for loss in losses[-3:]] == [False, True, True]

    cli.main(["train", "--preset", "paper"])
    calls[-1].both(cli.preset("paper"), tmp_path / "paper")
    assert [leg[:3] for leg in trained[3:]] == [
        ("coarse", "coarse", None),
        ("full", "full", str(tmp_path / "paper" / "coarse")),
    ]


@pytest.mark.parametrize(("recipe", "name"), [({}, "shipped"), ({"varied": 1}, "shipped-varied")])
def test_a_run_is_held_against_what_was_trained_on_such_images(tmp_path, monkeypatch, recipe, name):
    write_json(tmp_path / "recipe.json", recipe)
    asked = []
    monkeypatch.setattr(cli, "network_for", lambda source: asked.append(source) or (None, Config()))
    monkeypatch.setattr("dne_lib.evaluate.report", lambda *_, **named: asked.append(named["name"]))
    for function in ("table_rows", "floor_row", "format_table", "counted"):
        monkeypatch.setattr(f"dne_lib.evaluate.{function}", lambda *_, **__: "\n\n")
    config = Config()
    config.data.root = tmp_path
    cli.comparison({}, config, tmp_path)
    assert asked == [name, name]


def test_from_data_to_prediction(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "TRAIN_IMAGES", 8)
    monkeypatch.setattr(cli, "TEST_IMAGES", 4)
    # This network is the shipped one, too, once it is there.
    run = tmp_path / "runs" / "tiny" / "full"
    monkeypatch.setitem(SHIPPED, "shipped", run / "model.safetensors")
    long_road = ["train", "--from-scratch", "--train.steps", "2"]
    long_road += ["--upright-steps", "1", "--coarse-steps", "1"]
    long_road += SMALL.split()
    assert cli.main(long_road) == 0
    table = capsys.readouterr().out
    rows = [line for line in table.splitlines() if "module 1" in line]
    # The coarse network is the run's own; the shipped row repeats the last module's numbers.
    assert len(rows) == 2
    assert rows[0].split()[-9:] == rows[1].split()[-9:]
    assert rows[1].startswith("shipped network, module 1")
    assert json.loads((run / "config.json").read_bytes())["train"]["initial"] == str(
        (tmp_path / "runs" / "tiny" / "coarse").relative_to(tmp_path)
    )

    of_all = (run / "evaluation-test" / "metrics.json").read_bytes()
    assert cli.main(["evaluate", str(run), "--limit", "2"]) == 0
    assert "procrustes" in capsys.readouterr().out
    monkeypatch.setattr(cli, "EVALUATED", 2)
    assert cli.main([*long_road, "--resume"]) == 0
    assert (run / "evaluation-test" / "metrics.json").read_bytes() == of_all
    metrics = json.loads((run / "evaluation-test-limit-2" / "metrics.json").read_bytes())
    assert metrics["images"]["All"] == 2
    assert metrics["images_of"]["counts"] == {"listed": 4, "chosen": 4, "usable": 4, "used": 4}
    cameras = metrics["breakdown"]["cameras"].values()
    assert sum(camera["floor"]["hands"] for camera in cameras) == metrics["hands"]["All"]
    assert cli.main(["evaluate", str(run), "--annotation", "H"]) == 2
    assert "aid_human_annot_test.txt" in capsys.readouterr().err

    image = next((tmp_path / "data" / "builtin" / "images" / "test").rglob("*.jpg"))
    # Two steps teach no part map: every pixel counts as a hand, whatever the network says.
    monkeypatch.setattr("dne_lib.predict.hands_present", lambda *_: np.array([True, False]))
    line = [
        "predict",
        str(image),
        "--box",
        "200,100,150,150",
        "--network",
        str(run),
        "--output",
        "out",
    ]
    assert cli.main(line) == 0
    other = tmp_path / "other" / image.name
    other.parent.mkdir()
    other.write_bytes(image.read_bytes())
    assert cli.main([line[0], str(other), *line[2:]]) == 2
    assert f"out holds the prediction of {image}" in capsys.readouterr().err
    assert cli.main(line) == 0
    made = {path.name for path in (tmp_path / "out").iterdir()}
    assert made >= {"overlay.png", "hands.glb", "spread.png"}
    assert "never held against errors" in capsys.readouterr().out

    assert cli.main(["synthesize", "val", "--train", "0", "--test", "0", "--val", "4"]) == 0
    calibrate = ["calibrate", str(run), "--data", "val"]
    assert cli.main(calibrate) == 2
    assert "too few to calibrate on" in capsys.readouterr().err
    monkeypatch.setattr("dne_lib.uncertainty.FEWEST", 2)
    assert cli.main(calibrate) == 0
    assert f"kept in {run / 'model.safetensors'}" in capsys.readouterr().out
    assert cli.main(line) == 0
    told = capsys.readouterr().out
    assert "nine in ten within" in told
    assert "never held" not in told


@pytest.mark.parametrize("resume", [False, True])
def test_only_a_new_run_needs_the_weights_that_it_begins_with(resume, monkeypatch):
    asked = []

    def check(config, resume):
        asked.append(resume)
        raise InputError("enough")

    monkeypatch.setattr("dne_lib.train.check_config", check)
    assert cli.main(["train", *["--resume"] * resume]) == 2
    assert asked == [resume]
