import dataclasses
import json
import math
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from torch.utils.data import default_collate

import dne_lib.train as module
from dne_lib.ablate import _Job, _measure
from dne_lib.config import Config, DataConfig, LossConfig, ModelConfig, TrainConfig, config_to_dict
from dne_lib.data import interhand
from dne_lib.data.augment import Augmentation
from dne_lib.data.interhand import InterHand
from dne_lib.data.targets import targets
from dne_lib.evaluate import report
from dne_lib.files import InputError
from dne_lib.losses import total_loss
from dne_lib.model import DualNoiseNetwork, encoder
from dne_lib.model.refine import ESTIMATORS
from dne_lib.plans import Variant
from dne_lib.train import (
    check_config,
    check_train_config,
    learning_rate,
    noise_seed,
    train,
    usable_precision,
)
from dne_lib.uncertainty import calibrate
from dne_lib.weights import WEIGHTS, load_network, read_weights, save_network

MODEL = ModelConfig(
    backbone="resnet18",
    stages=2,
    pretrained=False,
    image_size=32,
    feature_size=8,
    channels=8,
    modules=1,
    samples=2,
)

SMALL = """
    --upright-steps 1 --coarse-steps 1 --train.steps 2 --train.batch-size 4 --train.workers 0
    --train.warmup 1 --model.stages 2 --model.image-size 32 --model.feature-size 8
    --model.channels 8 --model.modules 1 --model.vertex-embedding 4 --model.samples 1
"""


@pytest.fixture
def config(builtin_data):
    steps = TrainConfig(
        steps=4, batch_size=4, schedule="cosine", warmup=2, precision="no", workers=0,
        save_every=2, log_every=1, learning_rate=1e-3,
    )  # fmt: skip
    data = DataConfig(root=builtin_data)
    return Config(model=dataclasses.replace(MODEL), data=data, train=steps)


def changed(config, **changes):
    return dataclasses.replace(config, train=dataclasses.replace(config.train, **changes))


def weights(run):
    return read_weights(run)[0]


def saved_step(run):
    return json.loads((run / "checkpoint" / "step.json").read_text())["step"]


def test_paper_schedule_halves_every_epoch_down_to_a_floor():
    config = TrainConfig(schedule="paper", learning_rate=1e-3)
    rates = [learning_rate(epoch * 10 + 5, config, 10) for epoch in range(12)]
    assert rates[:3] == [1e-3, 5e-4, 2.5e-4]
    assert rates[9] == pytest.approx(1e-3 / 512)
    assert rates[10:] == [1e-6, 1e-6]
    low = TrainConfig(schedule="paper", learning_rate=1e-7)  # the floor raises nothing
    assert learning_rate(0, low, 10) == 1e-7


def test_cosine_schedule_warms_up_and_ends_at_zero():
    config = TrainConfig(schedule="cosine", learning_rate=1.0, warmup=10, steps=110)
    rates = [learning_rate(step, config, 7) for step in range(111)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[10] == pytest.approx(1.0)
    assert rates[60] == pytest.approx(0.5)
    assert rates[110] == pytest.approx(0.0)
    assert rates[10:] == sorted(rates[10:], reverse=True)


@pytest.mark.parametrize(
    ("cuda", "capable", "mps", "avx512", "expected"),
    [
        (True, True, False, False, "bf16"),
        (True, False, False, True, "no"),
        (False, True, True, True, "no"),
        (False, True, False, True, "bf16"),
        (False, True, False, False, "no"),
    ],
)
def test_bf16_only_where_the_device_computes_in_it(
    cuda, capable, mps, avx512, expected, monkeypatch
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: capable)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512, raising=False)
    assert usable_precision("bf16") == expected
    assert usable_precision("no") == "no"
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")  # then no other device is asked
    assert usable_precision("bf16") == ("bf16" if avx512 else "no")


def test_runs_and_steps_draw_noise_of_their_own():
    places = [(0, 7), (0, 8), (1, 7), (77, 7), (2**32 - 1, 7)]
    seeds = [torch.Generator().manual_seed(noise_seed(*place)) for place in places]
    assert len({float(torch.randn((), generator=seed)) for seed in seeds}) == len(places)


def test_a_run_leaves_all_that_is_promised(config, tmp_path):
    run = train(config, tmp_path / "run")
    assert json.loads((run / "config.json").read_text()) == json.loads(
        json.dumps(config_to_dict(config))
    )
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in log] == [1, 2, 3, 4]
    assert all(entry["mpvpe_last"] > 0 for entry in log)
    assert (run / "checkpoint" / "step.json").exists()
    assert list((run / "tensorboard").rglob("events*"))
    assert load_network(run)[1].model.modules == 1


def test_a_resumed_run_ends_like_an_uninterrupted_one(config, tmp_path):
    whole = train(config, tmp_path / "whole")
    part = train(changed(config, steps=2), tmp_path / "part")
    # The schedule depends on the number of steps: only what it was made with may differ.
    straight = weights(train(changed(config, schedule="paper"), tmp_path / "straight"))
    half = train(changed(config, schedule="paper", steps=2), tmp_path / "half")
    resumed = weights(train(changed(config, schedule="paper"), half, resume=True))
    for name, value in straight.items():
        torch.testing.assert_close(resumed[name], value, atol=0, rtol=0)
    assert any(not torch.equal(weights(whole)[n], weights(part)[n]) for n in straight)


def test_a_run_stopped_early_keeps_its_schedule(config, tmp_path):
    whole = weights(train(config, tmp_path / "whole"))
    run = train(config, tmp_path / "run", until=2)
    log = (run / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in log] == [1, 2]
    train(config, run, resume=True)
    for name, value in weights(run).items():
        torch.testing.assert_close(value, whole[name], atol=0, rtol=0)
    with pytest.raises(InputError, match="until is 0"):
        train(config, tmp_path / "none", until=0)


def test_the_coarse_stage_feeds_the_full_one(config, tmp_path):
    coarse = train(changed(config, stage="coarse"), tmp_path / "coarse")
    assert read_weights(coarse)[1].model.modules == 0
    start = changed(config, initial=str(coarse), learning_rate=0.0)
    full = train(start, tmp_path / "full")
    before, after = weights(coarse), weights(full)
    learned = [n for n in before if not n.endswith(("running_mean", "running_var", "tracked"))]
    assert set(before) < set(after)
    for name in learned:
        assert torch.equal(before[name], after[name])


def test_loaded_parts_can_learn_more_slowly(config, tmp_path):
    coarse = train(changed(config, stage="coarse"), tmp_path / "coarse")
    full = train(changed(config, initial=str(coarse), initial_rate=0.0), tmp_path / "full")
    before, after = weights(coarse), weights(full)
    assert torch.equal(before["coarse.maps.weight"], after["coarse.maps.weight"])
    assert after["refiners.0.varphi.last.weight"].any()


def listening():
    """A loss that keeps the batches of every step, and where it keeps them."""
    batches = []

    def listens(predicted, batch, config):
        batches.append(batch)
        return total_loss(predicted, batch, config)

    return listens, batches


@pytest.mark.parametrize("processes", [1, 2])
def test_training_images_are_changed_anew_in_every_epoch(config, tmp_path, monkeypatch, processes):
    loss, batches = listening()
    monkeypatch.setattr(Accelerator, "num_processes", processes)
    train(changed(config, seed=5), tmp_path / "run", loss=loss)
    data = InterHand(config.data.root, "train", config.model, config.data, augment=True, seed=5)
    for epoch, batch in ((0, batches[0]), (1, batches[3])):  # three batches are an epoch
        data.set_epoch(epoch)
        expected = default_collate(data.__getitems__(batch["index"].tolist()))
        for name in ("image", "crop", "vertices"):
            torch.testing.assert_close(batch[name], expected[name])


def test_images_that_are_measured_are_left_as_they_are(config, tmp_path, monkeypatch):
    asked = []

    def listens(root, split, model, data, augment, seed=0):
        asked.append((split, augment))
        raise LookupError  # enough is known

    network, run = DualNoiseNetwork(config.model), tmp_path / "run"
    run.mkdir()
    save_network(network, config, run / WEIGHTS)
    job = _Job(0, Variant("any"), config, run, None, None)
    for place, measure in (
        ("evaluate", lambda: report(network, config, tmp_path / "out")),
        ("ablate", lambda: _measure(job)),
        ("uncertainty", lambda: calibrate(network, config)),
    ):
        monkeypatch.setattr(f"dne_lib.{place}.InterHand", listens)
        with pytest.raises(LookupError):
            measure()
    assert asked == [("test", False), ("test", False), ("val", False)]


def test_the_optimiser_is_told_of_decay_and_the_largest_gradient(config, tmp_path):
    config = changed(config, steps=1, weight_decay=0.25, clip=1e-3)
    run = train(config, tmp_path / "run")
    assert json.loads((run / "log.jsonl").read_text())["gradient_norm"] > 1e-3
    optimizer = torch.load(run / "checkpoint" / "optimizer.bin")
    assert [group["weight_decay"] for group in optimizer["param_groups"]] == [0.25]
    # After one step Adam's first moment is a tenth of the gradient that it was given.
    moments = [state["exp_avg"].flatten() for state in optimizer["state"].values()]
    assert torch.cat(moments).norm().item() == pytest.approx(0.1 * 1e-3, rel=1e-3)


def test_one_batch_is_overfitted(builtin_data):
    torch.manual_seed(0)
    model = dataclasses.replace(
        MODEL, stages=3, image_size=64, feature_size=16, channels=32, modules=2
    )
    dataset = InterHand(builtin_data, "train", model, DataConfig(), augment=False)
    batch = torch.utils.data.default_collate(dataset.__getitems__([0, 1, 2, 3]))
    network = DualNoiseNetwork(model).train()
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    steps = 300
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * (1 - step / steps)
        loss, _ = total_loss(network(batch["image"], batch["present"]), batch, LossConfig())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    # Batch statistics, as in training; the means of the noise, as in evaluation.
    output = network(batch["image"], batch["present"], samples=0)
    error = module.training_error(output, batch)
    assert error["mpvpe_last"] < 2.0


def test_a_run_is_never_overwritten(config, tmp_path):
    run = train(changed(config, steps=1), tmp_path / "run")
    with pytest.raises(InputError, match="already holds a run"):
        train(config, run)
    with pytest.raises(InputError, match=r"train\.batch_size"):
        train(changed(config, batch_size=2), run, resume=True)
    longer = train(changed(config, steps=2), run, resume=True)
    with pytest.raises(InputError, match=r"stands at step 2: resume with train\.steps of 2"):
        train(changed(config, steps=1), longer, resume=True)
    with pytest.raises(InputError, match="nothing to resume"):
        train(config, tmp_path / "new", resume=True)
    assert not (tmp_path / "new").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(InputError, match="holds files"):
        train(config, tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "precious"


def test_a_run_whose_data_have_moved_goes_on(config, tmp_path, builtin_data):
    run = train(changed(config, steps=1), tmp_path / "run")
    moved = tmp_path / "moved"
    shutil.copytree(builtin_data, moved)
    config.data = dataclasses.replace(config.data, root=moved)
    train(changed(config, steps=2), run, resume=True)
    assert saved_step(run) == 2
    assert json.loads((run / "config.json").read_text())["data"]["root"] == str(moved)
    # Other labels are other data, and older runs do not say which theirs were.
    path = moved / "annotations" / "train" / "InterHand2.6M_train_MANO_NeuralAnnot.json"
    labels = path.read_text()
    fits = json.loads(labels)
    capture = next(iter(fits.values()))
    next(hand for frame in capture.values() for hand in frame.values() if hand)["shape"][0] += 0.5
    path.write_text(json.dumps(fits))
    with pytest.raises(InputError, match=r"other data \(labels\)"):
        train(changed(config, steps=3), run, resume=True)
    path.write_text(labels)
    (run / "data.json").unlink()
    with pytest.raises(InputError, match=r"\(data\.root differ\)"):
        train(changed(config, steps=3), _with_root(run, "elsewhere"), resume=True)


def _with_root(run, root):
    path = run / "config.json"
    values = json.loads(path.read_text())
    values["data"]["root"] = root
    path.write_text(json.dumps(values))
    return run


def test_labels_of_another_hand_model_are_refused(config, tmp_path, monkeypatch):
    monkeypatch.setattr(interhand, "POOR", -1.0)
    with pytest.raises(InputError, match=r"the built-in hand the joints are 0 mm .* data\.mano"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_estimator_and_a_data_set_of_ones_own(config, tmp_path, monkeypatch):
    class Linear(torch.nn.Module):
        def __init__(self, inputs, outputs):
            super().__init__()
            self.layers = torch.nn.ModuleList(torch.nn.Linear(n, outputs) for n in inputs)

        def forward(self, parts):
            return sum(layer(x) for layer, x in zip(self.layers, parts, strict=True)).float()

    class Own(torch.utils.data.Dataset):
        def __init__(self):
            self.tree = InterHand(config.data.root, "train", MODEL, DataConfig(), augment=False)
            self.epochs = []

        def set_epoch(self, number):
            self.epochs.append(number)

        def __len__(self):
            return 4

        def __getitem__(self, index):
            return {k: v for k, v in self.tree[index].items() if k not in ("triangulated", "crop")}

    monkeypatch.setitem(ESTIMATORS, "linear", lambda inputs, outputs, *_: Linear(inputs, outputs))
    config.model = dataclasses.replace(config.model, estimator="linear")
    own = Own()
    run = train(changed(config, steps=2), tmp_path / "run", dataset=own)
    assert set(own.epochs) == {0, 1}
    network, _ = load_network(run)
    assert isinstance(network.refiners[0].phi, Linear)
    monkeypatch.delitem(ESTIMATORS, "linear")
    with pytest.raises(InputError, match="estimator is 'linear': use mlp or graph"):
        load_network(run)


def test_a_run_of_an_earlier_version_goes_on(config, tmp_path):
    config = changed(config, steps=1)
    run = train(config, tmp_path / "run")
    values = json.loads((run / "config.json").read_text())
    del values["data"]["every"], values["loss"]  # as if they had come later
    (run / "config.json").write_text(json.dumps(values))
    config.data = dataclasses.replace(config.data, every=2)
    with pytest.raises(InputError, match=r"\(data\.every differ\)"):
        train(config, run, resume=True)
    config.data = dataclasses.replace(config.data, every=1)
    train(config, run, resume=True)
    assert json.loads((run / "config.json").read_text())["data"]["every"] == 1


def test_a_run_goes_on_without_the_weights_it_started_from(config, tmp_path):
    coarse = train(changed(config, stage="coarse"), tmp_path / "coarse")
    full = changed(config, initial=str(coarse), initial_rate=0.5)
    straight = weights(train(full, tmp_path / "straight"))
    run = train(full, tmp_path / "run", until=2)
    shutil.rmtree(coarse)
    check_config(full, resume=True)
    with pytest.raises(InputError, match="no weights at"):
        check_config(full)
    for name, value in weights(train(full, run, resume=True)).items():
        torch.testing.assert_close(value, straight[name], atol=0, rtol=0)


def test_a_run_goes_on_without_the_weights_of_imagenet(config, tmp_path, monkeypatch):
    config.model = dataclasses.replace(config.model, pretrained=True)
    build, asked = encoder.resnet, []

    def without_network(name, pretrained):
        asked.append(pretrained)
        return build(name, pretrained=False)

    monkeypatch.setattr(encoder, "resnet", without_network)
    run = train(config, tmp_path / "run", until=2)
    train(config, run, resume=True)
    assert asked == [True, False]
    assert saved_step(run) == config.train.steps


def test_too_few_images_for_a_batch(config, tmp_path):
    with pytest.raises(InputError, match="fewer than one batch of 99"):
        train(changed(config, batch_size=99), tmp_path / "run")


def test_a_loss_that_is_no_number_stops_training(config, tmp_path):
    def breaks(*arguments):
        total, terms = total_loss(*arguments)
        return total, {**terms, "vertices_0": terms["vertices_0"] * math.nan}

    with pytest.raises(InputError, match=r"step 1: vertices_0 is no longer a number"):
        train(config, tmp_path / "run", loss=breaks)


def test_a_full_disk_keeps_the_last_checkpoint(config, tmp_path, monkeypatch):
    save, calls = Accelerator.save_state, []

    def fails_later(self, folder):
        calls.append(folder)
        if len(calls) > 1:
            raise OSError(28, "No space left on device")
        save(self, folder)

    monkeypatch.setattr(Accelerator, "save_state", fails_later)
    with pytest.raises(InputError, match="cannot write the checkpoint of step 4"):
        train(config, tmp_path / "run")
    monkeypatch.undo()
    assert saved_step(tmp_path / "run") == 2
    train(config, tmp_path / "run", resume=True)


def test_a_log_that_cannot_be_written_is_explained(config, tmp_path, monkeypatch):
    log, calls = Accelerator.log, []

    def fails_later(self, *arguments):
        calls.append(arguments)
        if len(calls) > 3:
            raise OSError(28, "No space left on device")
        log(self, *arguments)

    monkeypatch.setattr(Accelerator, "log", fails_later)
    with pytest.raises(InputError, match=r"cannot write the log of step 4 .*: free space"):
        train(config, tmp_path / "run")
    monkeypatch.undo()
    assert saved_step(tmp_path / "run") == 2
    train(config, tmp_path / "run", resume=True)


def test_a_batch_too_large_for_the_gpu_is_explained(config, tmp_path):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(InputError, match=r"4 images does not fit .* smaller train\.batch_size"):
        train(config, tmp_path / "run", loss=full)


def test_a_run_killed_twice_while_saving_is_not_lost(config, tmp_path, monkeypatch):
    run, rename = train(changed(config, steps=2), tmp_path / "run"), Path.rename
    (run / "checkpoint").rename(run / "checkpoint.old")  # as the first time left it

    def killed(self, target):
        if self.name == "checkpoint.new":
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", killed)
    with pytest.raises(KeyboardInterrupt):
        train(config, run, resume=True)
    monkeypatch.undo()
    train(config, run, resume=True)
    assert saved_step(run) == config.train.steps
    log = (run / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in log] == [*range(1, config.train.steps + 1)]


def test_weights_without_a_checkpoint_are_not_trained_over(config, tmp_path):
    run = train(changed(config, steps=2), tmp_path / "run")
    shutil.rmtree(run / "checkpoint")
    before = (run / WEIGHTS).read_bytes(), (run / "log.jsonl").read_bytes()
    with pytest.raises(InputError, match=r"no checkpoint: start a new run .* train\.initial"):
        train(config, run, resume=True)
    assert ((run / WEIGHTS).read_bytes(), (run / "log.jsonl").read_bytes()) == before


def test_a_run_killed_at_its_first_checkpoint_goes_on_from_it(config, tmp_path):
    run = train(config, tmp_path / "run", until=2)
    (run / "checkpoint").rename(run / "checkpoint.new")
    train(config, run, resume=True, until=2)
    assert saved_step(run) == 2


def test_a_run_that_some_machines_cannot_see_is_not_gone_on_with(config, tmp_path, monkeypatch):
    run = train(changed(config, steps=2), tmp_path / "run")
    monkeypatch.setattr(module, "gather_object", lambda steps: [*steps, 0])
    with pytest.raises(InputError, match="a disk that all machines share"):
        train(config, run, resume=True)


def test_a_loss_that_is_no_number_is_never_saved(config, tmp_path):
    calls = []

    def breaks(*arguments):
        calls.append(arguments)
        total, terms = total_loss(*arguments)
        return total * (float("nan") if len(calls) == 3 else 1), terms

    config = changed(config, log_every=100)
    with pytest.raises(
        InputError,
        match=r"step 3: loss, gradient_norm is no longer a number; resume .* lower train",
    ):
        train(config, tmp_path / "run", loss=breaks)
    assert saved_step(tmp_path / "run") == 2
    lower = changed(config, learning_rate=1e-4)
    assert all(w.isfinite().all() for w in weights(train(lower, tmp_path / "run", True)).values())


@pytest.mark.parametrize("resume", [False, True])
def test_a_run_stopped_before_its_first_step_begins_again(config, tmp_path, resume):
    straight = weights(train(config, tmp_path / "straight"))

    def breaks(*_):
        raise MemoryError

    with pytest.raises(MemoryError):
        train(changed(config, batch_size=8), tmp_path / "run", loss=breaks)
    resumed = weights(train(config, tmp_path / "run", resume))
    for name, value in straight.items():
        torch.testing.assert_close(resumed[name], value, atol=0, rtol=0)


def test_a_mistake_leaves_no_run(config, tmp_path):
    wrong = dataclasses.replace(config, data=DataConfig(root=tmp_path / "nowhere"))
    for bad in (wrong, changed(config, initial="nowhere"), changed(config, log_every=0)):
        with pytest.raises(InputError, match=r"nowhere|log_every is 0"):
            train(bad, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("field", "bad", "good"),
    [
        ("steps", 0, 1),
        ("workers", -1, 0),
        ("warmup", -1, 0),
        ("initial_rate", -0.1, 0.0),
        ("learning_rate", -1e-3, 0.0),
        ("learning_rate", float("nan"), 1e-6),
        ("clip", 0.0, 0.1),
        ("seed", -1, 0),
        ("seed", 2**32, 2**32 - 1),
    ],
)
def test_numbers_that_cannot_be_trained_with(field, bad, good):
    check_train_config(TrainConfig(**{field: good}))
    words = "give a number that is finite" if math.isnan(bad) else "it must be"
    with pytest.raises(InputError, match=rf"train\.{field} is {bad}: {words}"):
        check_train_config(TrainConfig(**{field: bad}))


def test_a_batch_that_cannot_be_shared():
    check_train_config(TrainConfig(batch_size=12), 4)
    with pytest.raises(InputError, match=r"train\.batch_size is 12, which 5 processes cannot"):
        check_train_config(TrainConfig(batch_size=12), 5)


def test_a_run_goes_on_with_as_many_processes(config, tmp_path):
    run = train(config, tmp_path / "run", until=2)
    path = run / "checkpoint" / "step.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "processes": 8}))
    with pytest.raises(InputError, match="trained by 8 processes, this is 1: resume with 8"):
        train(config, run, resume=True)


def test_the_log_has_every_step_once(config, tmp_path):
    run = train(config, tmp_path / "run", until=2)
    with (run / "log.jsonl").open("a") as file:  # killed while it wrote
        file.write(json.dumps({"step": 3, "loss": 1.0}) + '\n{"step": 4, "lo')
    train(config, run, resume=True)
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in log] == [1, 2, 3, 4]
    assert all("mpvpe_last" in entry for entry in log)


def test_an_interrupted_run_goes_on_where_it_was(config, tmp_path):
    straight = weights(train(changed(config, schedule="paper"), tmp_path / "straight"))
    calls = []

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            signal.raise_signal(signal.SIGINT)
        return total_loss(*arguments)

    config = changed(config, schedule="paper", save_every=100)
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "run", loss=interrupted)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert saved_step(tmp_path / "run") == 3
    resumed = weights(train(config, tmp_path / "run", resume=True))
    for name, value in straight.items():
        torch.testing.assert_close(resumed[name], value, atol=0, rtol=0)


def test_an_interrupt_while_a_step_is_logged_waits_for_the_next_one(config, tmp_path, monkeypatch):
    log = module._log

    def interrupted(accelerator, entry, output):
        log(accelerator, entry, output)
        if entry["step"] == 1:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(module, "_log", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(changed(config, log_every=1, save_every=100), tmp_path / "run")
    assert saved_step(tmp_path / "run") == 2


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_image_keeps_what_was_learned_before_it(config, tmp_path, workers):
    class Broken(InterHand):
        broken = True

        def __getitems__(self, indices):
            if self.broken and self.epoch == 1:
                raise InputError("image.jpg is cut off: download it again")
            return super().__getitems__(indices)

    data = [Broken(config.data.root, "train", MODEL, config.data, True) for _ in range(3)]
    steps = len(data[0]) // config.train.batch_size  # of an epoch
    config = changed(config, steps=steps + 1, save_every=100, workers=workers)
    straight, bad, mended = data
    straight.broken = mended.broken = False
    expected = weights(train(config, tmp_path / "straight", dataset=straight))
    with pytest.raises(InputError, match=r"^image\.jpg is cut off.*mended, resume it\)$"):
        train(config, tmp_path / "run", dataset=bad)
    assert saved_step(tmp_path / "run") == steps
    resumed = weights(train(config, tmp_path / "run", resume=True, dataset=mended))
    for name, value in expected.items():
        torch.testing.assert_close(resumed[name], value, atol=0, rtol=0)


def test_a_bad_image_at_the_start_leaves_the_folder_free(config, tmp_path, monkeypatch):
    def cut_off(*_):
        raise InputError("image.jpg is cut off")

    monkeypatch.setattr(InterHand, "__getitems__", cut_off)
    with pytest.raises(InputError, match=r"^image\.jpg is cut off$"):
        train(config, tmp_path / "run")
    monkeypatch.undo()
    train(config, tmp_path / "run")


def test_a_run_is_trained_by_one_at_a_time(config, tmp_path):
    def another(*arguments):
        for resume in (False, True):
            with pytest.raises(InputError, match=r"another process is training in .*run"):
                train(config, tmp_path / "run", resume)
        return total_loss(*arguments)

    train(config, tmp_path / "run", loss=another)


def test_the_second_interrupt_stops_at_once(config, tmp_path):
    def impatient(*_):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "run", loss=impatient)
    assert not (tmp_path / "run" / "checkpoint").exists()


def test_two_processes_see_each_image_once_an_epoch_and_go_on_in_the_same_order(
    config, tmp_path, monkeypatch
):
    """Each of them alone: nothing but the order of the images is looked at."""
    loss, batches = listening()
    monkeypatch.setattr(Accelerator, "num_processes", 2)
    config = changed(config, stage="coarse", steps=6, save_every=100, log_every=100)
    orders = []
    for process in range(2):
        monkeypatch.setattr(Accelerator, "process_index", process)
        train(config, tmp_path / f"whole{process}", loss=loss)
        whole = [batch["index"].tolist() for batch in batches]
        batches.clear()
        run = train(config, tmp_path / f"part{process}", until=4, loss=loss)
        train(config, run, resume=True, loss=loss)
        assert [batch["index"].tolist() for batch in batches] == whole
        batches.clear()
        orders.append(whole)
    first, second = ([order[epoch] for order in orders] for epoch in (slice(3), slice(3, 6)))
    for epoch in (first, second):
        assert sorted(i for order in epoch for batch in order for i in batch) == [*range(12)]
    assert first != second


def test_two_processes_train_one_stage_after_the_other(builtin_data, tmp_path):
    """Without sampling: what a process leaves out of its loss, the other would wait for."""
    run = tmp_path / "run" / "full"
    options = ["--data.root", str(builtin_data), "--output", str(run.parent), *SMALL.split()]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    launch += ["--nproc_per_node", "2", "-m", "dne_lib", "train", "--from-scratch"]
    packages = {"PYTHONPATH": str(Path(__file__).parents[1])}
    on_cpu = {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(
        [*launch, *options], cwd=tmp_path, capture_output=True, text=True, check=False,
        env={**os.environ, **packages, **on_cpu},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("shipped network, module 3") == 1
    assert json.loads((run / "checkpoint" / "step.json").read_text())["processes"] == 2
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in log] == [2]


class Given:
    """Somebody's own data set: what `targets` makes of labels, and a grey image."""

    def __init__(self, builtin, config, name=""):
        self.data = InterHand(builtin, "train", config.model, config.data, augment=False)
        self.name, self.epochs = name, []

    def __len__(self):
        return len(self.data)

    def set_epoch(self, number):
        self.epochs.append(number)

    def identity(self):
        return {"name": self.name}

    def __getitem__(self, index):
        model, labels = self.data.config, self.data._labels(self.data.rows[[index]])
        made = targets(labels, self.data.hands, model, 1.25, [Augmentation()])
        image = torch.full((3, model.image_size, model.image_size), 0.5)
        return {name: values[0] for name, values in made.items()} | {"image": image}


def test_a_data_set_of_ones_own_has_the_targets_of_ours(config, builtin_data):
    own = Given(builtin_data, config)
    for name, value in own[3].items():
        if name != "image":
            torch.testing.assert_close(value, own.data[3][name])


def test_a_run_on_a_data_set_of_ones_own_goes_on_with_that_alone(config, builtin_data, tmp_path):
    own = Given(builtin_data, config, "a")
    config.data.root = tmp_path / "nowhere"
    run = train(config, tmp_path / "run", until=2, dataset=own)
    assert set(own.epochs) == {0}
    for other in (None, Given(builtin_data, config, "b")):
        config.data.root = builtin_data if other is None else tmp_path / "elsewhere"
        with pytest.raises(InputError, match=r"other data \((another kind of data set|name)\)"):
            train(config, run, resume=True, dataset=other)
    train(config, run, resume=True, dataset=own)
    assert saved_step(run) == config.train.steps


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("heatmaps", None, "has no heatmaps"),
        ("pose", torch.zeros(2, 16, 9), r"pose is .*\[2, 16, 9\]: give .*\[2, 16, 6\]"),
        ("betas", torch.zeros(2, 10).double(), "betas is torch.float64"),
        ("camera", torch.full((2, 2, 2), math.nan), "camera holds what is no number"),
        ("image", torch.full((3, 32, 32), 255.0), "divide by 255"),
    ],
)
def test_what_is_wrong_with_a_sample_is_said_before_training(
    config, builtin_data, tmp_path, name, value, message
):
    own = Given(builtin_data, config)
    sample = {**own[0], name: value}
    if value is None:
        del sample[name]
    own.__class__ = type("Wrong", (Given,), {"__getitem__": lambda *_: sample})
    with pytest.raises(InputError, match=message):
        train(config, tmp_path / "run", dataset=own)
    assert not (tmp_path / "run").exists()


def test_another_loss_is_what_is_trained_on(config, tmp_path):
    def only_shape(predicted, batch, _):
        error = (predicted.parameters.betas - batch["betas"]).square().mean()
        return error, {"shape": error}

    run = train(config, tmp_path / "run", loss=only_shape)
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert all(entry["loss"] == entry["shape"] and "pose" not in entry for entry in log)


def test_a_setting_that_is_misspelt_or_wrong_is_refused(config, tmp_path):
    with pytest.raises(AttributeError, match="batchsize"):
        config.train.batchsize = 3
    config.loss.vertices = -1.0
    with pytest.raises(InputError, match=r"loss\.vertices is -1"):
        train(config, tmp_path / "run")


def truncated(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("optimizer.bin", truncated, "damaged"),
        ("optimizer.bin", Path.unlink, "damaged"),
        ("model.safetensors", truncated, "damaged"),
        ("step.json", lambda path: path.write_text("{}"), "names no step"),
        ("step.json", lambda path: path.write_text("[]"), "names no step"),
        ("../config.json", lambda path: path.write_text('{"model": []}'), "no configuration"),
    ],
)
def test_a_damaged_checkpoint_is_not_gone_on_with(config, tmp_path, name, damage, message):
    run = train(config, tmp_path / "run", until=2)
    damage(run / "checkpoint" / name)
    with pytest.raises(InputError, match=message):
        train(config, run, resume=True)


def test_a_damaged_line_of_the_log_hides_no_other(config, tmp_path):
    run = train(config, tmp_path / "run", until=2)
    with (run / "log.jsonl").open("a") as log:
        log.write('{"step": 2, "lo\n')
    train(config, run, resume=True)
    steps = [json.loads(line)["step"] for line in (run / "log.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4]


def test_other_pictures_with_the_same_labels_are_other_data(config, builtin_data, tmp_path):
    run = train(config, tmp_path / "run", until=2)
    copy = shutil.copytree(builtin_data, tmp_path / "moved")
    config.data.root = copy
    train(config, run, resume=True, until=3)
    recipe = json.loads((copy / "recipe.json").read_text())
    (copy / "recipe.json").write_text(json.dumps({**recipe, "varied": 1}))
    with pytest.raises(InputError, match=r"other data \(pictures\)"):
        train(config, run, resume=True)


def test_noise_that_would_kill_the_process_is_refused(config, tmp_path):
    config.model.gamma = 1e38
    with pytest.raises(InputError, match=r"model\.gamma is 1e\+38: give 1000 at most"):
        train(config, tmp_path / "run")
