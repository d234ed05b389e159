"""Training: one loop for both stages, on CPU, GPUs or several machines (through accelerate)."""

import contextlib
import ctypes
import dataclasses
import json
import logging
import math
import os
import pickle
import shutil
import signal
import threading
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import (
    DataLoaderConfiguration,
    ProjectConfiguration,
    gather_object,
    parse_flag_from_env,
    set_seed,
)
from filelock import Timeout
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from dne_lib.config import (
    Config,
    LossConfig,
    TrainConfig,
    check_fields,
    config_from_dict,
    config_to_dict,
    differences,
)
from dne_lib.data.augment import check_data_config
from dne_lib.data.interhand import InterHand
from dne_lib.data.targets import check_sample
from dne_lib.files import (
    InputError,
    claim_folder,
    locked,
    message_of,
    read_json,
    write_bytes,
    write_json,
)
from dne_lib.losses import Batch, masked_mean, total_loss
from dne_lib.mano import HandModel
from dne_lib.metrics import mpvpe
from dne_lib.model import DualNoiseNetwork, Output
from dne_lib.model.network import check_model_config
from dne_lib.weights import (
    WEIGHTS,
    find_weights,
    load_weights,
    read_calibration,
    read_weights,
    save_network,
)

logger = logging.getLogger(__name__)

# What reading a file that is missing, cut or something else may raise.
DAMAGED = (
    OSError, RuntimeError, ValueError, KeyError, EOFError, SafetensorError, pickle.UnpicklingError
)  # fmt: skip
# What may change in a run: to be done sooner or later, or to get past a loss that is no number.
FREE = ("steps", "workers", "save_every", "learning_rate", "precision")
Loss = Callable[[Output, Batch, LossConfig], tuple[Tensor, dict[str, Tensor]]]
SEEDS = 2**32  # numpy has no more
APART = 2654435761  # golden section of SEEDS: its multiples stay far from each other


def learning_rate(step: int, config: TrainConfig, steps_per_epoch: int) -> float:
    """The rate at a step: the paper's halving each epoch down to 1e-6, or warm-up and cosine."""
    if config.schedule == "paper":
        halved = config.learning_rate * 0.5 ** (step // steps_per_epoch)
        return max(halved, min(1e-6, config.learning_rate))
    if step < config.warmup:
        return config.learning_rate * (step + 1) / config.warmup
    progress = (step - config.warmup) / max(config.steps - config.warmup, 1)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def noise_seed(seed: int, place: int) -> int:
    """Of the noise of one step: torch's generator on a CPU reads no more than 32 bits.

    Args:
        seed: of the run.
        place: number of the step, counted through all processes.
    """
    return (seed * APART + place) % SEEDS


def usable_precision(wanted: str) -> str:
    """bf16 only where the device computes in it; emulated, it is slower than float32."""
    if wanted != "bf16":
        return "no"
    if parse_flag_from_env("ACCELERATE_USE_CPU"):
        return _cpu_precision()
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "no"
    if torch.backends.mps.is_available():
        return "no"
    return _cpu_precision()


def _cpu_precision() -> str:
    capable = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
    return "bf16" if capable else "no"


# ---------------------------------------------------------------------------- the loop


def train(
    config: Config,
    output: str | Path,
    resume: bool = False,
    until: int | None = None,
    same: Collection[str] = (),
    dataset: Any = None,
    loss: Loss = total_loss,
) -> Path:
    """Train one stage and leave a run folder.

    The folder holds config.json, data.json (which labels and hand model, wherever they lie),
    log.jsonl (a line every `log_every` steps and at each checkpoint), tensorboard/, checkpoint/
    (all that resuming needs) and model.safetensors (for evaluation and prediction).

    Of several processes each has its share of every batch and its own `workers`. Batch
    normalisation and the means over hands are those of a share; the log's errors are of the first.

    Args:
        config: see `config.py`. `train.stage` "coarse" trains with no modules, whatever
            `model.modules` says.
        output: the run folder.
        resume: go on from its checkpoint, or from the start if it was stopped before the first.
        until: stop after this step with a checkpoint; the schedule stays that of `train.steps`.
        same: fields ("train.initial") that resuming may find said in another way.
        dataset: a map-style data set to train on instead of the split train of `data.root`. Its
            samples have the keys of those of `InterHand` (but for `triangulated` and `crop`;
            `data.targets.targets` makes all but the image), and it has `set_epoch(number)`, which
            is called before each pass. If it has `identity()`, a dictionary of text, resuming asks
            for the same.
        loss: what is made as small as possible: of the network's output, a batch and `config.loss`
            the sum and, to be logged, its terms.

    Returns:
        The run folder.

    Raises:
        InputError: the folder holds something else or a run of another configuration, there is
            nothing to resume, `until` or another setting makes no sense, the weights to start from
            do not fit, the data cannot be read or the network not trained on it, or the loss
            stopped being a number.
        KeyboardInterrupt: at Ctrl-C, after the step at hand and a checkpoint; at a second one, or
            where several processes share the work, at once.
    """
    if until is not None and until < 1:
        raise InputError(f"until is {until}: train for one step at least, or leave it out")
    output, config = Path(output), dataclasses.replace(config)
    _bound_memory()
    last = min(config.train.steps, until or config.train.steps)
    if config.train.stage == "coarse":
        config.model = dataclasses.replace(config.model, modules=0)
    # A notebook may train twice, at another precision.
    AcceleratorState._reset_state()
    accelerator = Accelerator(
        mixed_precision=usable_precision(config.train.precision),
        dataloader_config=DataLoaderConfiguration(use_seedable_sampler=True, non_blocking=True),
        project_config=ProjectConfiguration(project_dir=str(output)),
        log_with="tensorboard",
    )
    if accelerator.num_processes > 1 and accelerator.device.type == "cuda":
        # A notebook's launcher forks: OpenMP's threads stay behind, and a child waits for them.
        torch.set_num_threads(1)
    check_config(config, resume)
    check_train_config(config.train, accelerator.num_processes)
    set_seed(config.train.seed)
    network, rates, loaded = _build(config, _checkpoint(output) if resume else None)
    network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    groups = [
        {"params": params, "rate": rate, "lr": 0.0} for rate, params in rates.items() if params
    ]
    optimizer = torch.optim.AdamW(groups, weight_decay=config.train.weight_decay)
    identity, images = {}, "the data set"
    if dataset is not None:
        check_sample(dataset[0], config.model)
        identity = dataset.identity() if hasattr(dataset, "identity") else {"given": "to train"}
    else:
        images = config.data.root
        seed = config.train.seed
        dataset = InterHand(config.data.root, "train", config.model, config.data, True, seed)
        dataset.require_fit()
        if accelerator.is_main_process:
            identity = dataset.identity()
    batch_size = config.train.batch_size // accelerator.num_processes
    if len(dataset) < config.train.batch_size:
        raise InputError(
            f"{images} has {len(dataset)} training images, fewer than one batch of "
            f"{config.train.batch_size}: make more or lower train.batch_size"
        )
    loader = DataLoader(
        dataset,
        batch_size=batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=config.train.workers,
        worker_init_fn=_ignore_interrupts,
        persistent_workers=config.train.workers > 0,
        pin_memory=accelerator.device.type == "cuda",
    )
    network, optimizer, loader = accelerator.prepare(network, optimizer, loader)
    network.train()
    noise = torch.Generator(accelerator.device)
    single = accelerator.num_processes == 1
    step = first = 0

    def keep() -> bool:
        """Save what was learned before a batch that cannot be loaded; tell if there was any."""
        # Saving is a matter of all processes, and the others wait for what this one cannot load.
        if kept := single and step > first:
            _save(accelerator, network, config, output, step, loaded)
        return kept

    with (
        _alone(output, resume, accelerator.is_main_process),
        _closing_trackers(accelerator),
        _enough_memory(config.train),
        _interruptible(single) as interrupted,
        contextlib.ExitStack() as closed,
    ):
        # Only now, so that a mistake in what was given leaves no run.
        if accelerator.is_main_process:
            _open_run(config, output, resume, same, identity)
            logger.info("training in %s", output)
        accelerator.wait_for_everyone()
        accelerator.init_trackers("tensorboard")
        step = first = _restore(accelerator, output) if resume else 0
        start = time.monotonic()
        shown = accelerator.is_main_process
        bar = closed.enter_context(tqdm(total=config.train.steps, initial=step, disable=not shown))
        for batch in _batches(accelerator, loader, dataset, step, last, keep):
            rate = learning_rate(step, config.train, len(loader))
            for group in optimizer.param_groups:
                group["lr"] = rate * group["rate"]
            # Seeded by the step, so that a resumed run draws what it would have drawn.
            place = step * accelerator.num_processes + accelerator.process_index
            noise.manual_seed(noise_seed(config.train.seed, place))
            predicted = network(batch["image"], batch["present"], generator=noise)
            total, terms = loss(predicted, batch, config.loss)
            optimizer.zero_grad()
            accelerator.backward(total)
            norm = accelerator.clip_grad_norm_(network.parameters(), config.train.clip)
            assert norm is not None
            # Only now, when the processes have shared their gradients: all of them stop, or none.
            _check_finite(step + 1, {"loss": total, **terms, "gradient_norm": norm})
            optimizer.step()
            step += 1
            bar.update()
            asked = interrupted.is_set()  # once: it may be set while this step is logged
            stop = step == last or asked
            save = step % config.train.save_every == 0 or stop
            if step % config.train.log_every == 0 or save:
                speed = (step - first) * config.train.batch_size / (time.monotonic() - start)
                entry = {
                    "step": step,
                    "loss": total.item(),
                    **{name: value.item() for name, value in terms.items()},
                    **training_error(predicted, batch),
                    "parts_accuracy": parts_accuracy(predicted, batch),
                    "gradient_norm": norm.item(),
                    "learning_rate": rate,
                    "images_per_second": speed,
                }
                _log(accelerator, entry, output)
                bar.set_postfix(loss=f"{entry['loss']:.2f}", mm=f"{entry['mpvpe_last']:.1f}")
            if save:
                _save(accelerator, network, config, output, step, loaded)
            if asked:
                raise KeyboardInterrupt
    _return_memory()
    return output


def check_config(config: Config, resume: bool = False) -> None:
    """What can be told of a configuration before anything is read but the names of files.

    Args:
        resume: a checkpoint is gone on with: where it started from may be gone.

    Raises:
        InputError: a setting cannot be built or trained with, or there are no weights to start
            from where `train.initial` says.
    """
    check_model_config(config.model)
    check_data_config(config.data)
    check_train_config(config.train)
    check_fields(config.loss, "loss")
    for name, weight in dataclasses.asdict(config.loss).items():
        if weight < 0:
            raise InputError(f"loss.{name} is {weight}: it must be 0 or more")
    if config.train.initial is not None and not resume:
        find_weights(config.train.initial)


def check_train_config(config: TrainConfig, processes: int = 1) -> None:
    """Reject settings that cannot be trained with.

    Args:
        processes: that share every batch.

    Raises:
        InputError: names the field, its value and what it may be.
    """
    check_fields(config, "train")
    for name in ("steps", "batch_size", "log_every", "save_every"):
        if getattr(config, name) < 1:
            raise InputError(f"train.{name} is {getattr(config, name)}: it must be at least 1")
    for name in ("workers", "warmup", "learning_rate", "weight_decay", "initial_rate"):
        if not getattr(config, name) >= 0:
            raise InputError(f"train.{name} is {getattr(config, name)}: it must be 0 or more")
    if not config.clip > 0:
        raise InputError(f"train.clip is {config.clip}: it must be above 0")
    if not 0 <= config.seed < SEEDS:
        raise InputError(f"train.seed is {config.seed}: it must be from 0 to {SEEDS - 1}")
    if config.batch_size % processes:
        raise InputError(
            f"train.batch_size is {config.batch_size}, which {processes} processes cannot share: "
            f"make it a multiple of {processes}"
        )


@contextlib.contextmanager
def _interruptible(gently: bool) -> Iterator[threading.Event]:
    """Make the first Ctrl-C set an event; the second one is as always.

    A step that is cut in two could not be gone on with: half of the weights would have moved.
    """
    asked = threading.Event()
    if not gently or threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def ask(number: int, frame: object) -> None:
        asked.set()
        signal.signal(signal.SIGINT, before)
        logger.info("stopping after this step, with a checkpoint; once more: at once, without")

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def _closing_trackers(accelerator: Accelerator) -> Iterator[None]:
    """Not end_training, which takes the process group with it: another stage may follow."""
    try:
        yield
    finally:
        for tracker in accelerator.trackers:
            tracker.finish()


@contextlib.contextmanager
def _enough_memory(config: TrainConfig) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise InputError(
            f"a batch of {config.batch_size} images does not fit into the GPU's memory: begin a "
            "run with a smaller train.batch_size, from the weights there are (train.initial: the "
            "folder of this run or of the leg before), or use more GPUs, which share the batch"
        ) from error


@contextlib.contextmanager
def _alone(output: Path, resume: bool, main: bool) -> Iterator[None]:
    """Keep a second training out of a run's folder, where both would overwrite each other.

    Args:
        main: whether this process is the one that writes.
    """
    if not main or (resume and not (output / "config.json").exists()):  # left to `_open_run`
        yield
        return
    claim_folder(output, "run")
    try:
        with locked(output / ".lock", wait=False):
            yield
    except Timeout:
        raise InputError(
            f"another process is training in {output}: wait for it, or choose another folder"
        ) from None


def _ignore_interrupts(worker: int) -> None:
    """Ctrl-C reaches every process of a terminal; it is for the one that trains."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _bound_memory() -> None:
    """Keep fewer convolutions of past steps at hand.

    The number of hands changes from batch to batch, and oneDNN keeps a kernel with its buffers for
    each of the last 1024 shapes: memory that grows from step to step, for no speed. It reads the
    variable when it first computes, so this is without effect after a prediction.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "32")


def _return_memory() -> None:
    """Give what was freed back to the system: glibc keeps it, and evaluation would come on top."""
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def training_error(output: Output, batch: dict[str, Tensor]) -> dict[str, float]:
    """MPVPE in mm of the batch at hand (protocol wrist), for the coarse mesh and the last one."""
    errors = {}
    for name, stage in (("mpvpe_coarse", output.stages[0]), ("mpvpe_last", output.stages[-1])):
        error = mpvpe(stage.vertices, stage.joints, batch["vertices"], batch["joints"])
        errors[name] = masked_mean(error, batch["present"]).item()
    return errors


def parts_accuracy(output: Output, batch: dict[str, Tensor]) -> float:
    """Share of the hands' pixels whose part is named right."""
    on_hand = batch["parts"] > 0
    right = output.auxiliary.parts.argmax(dim=1) == batch["parts"]
    return (right & on_hand).sum().item() / max(on_hand.sum().item(), 1)


def check_free(output: Path) -> None:
    """Refuse a folder in which a run has begun; one that failed before its first step has not.

    Raises:
        InputError: it has.
    """
    if any((output / name).exists() for name in ("log.jsonl", WEIGHTS, "checkpoint")):
        raise InputError(f"{output} already holds a run: resume it or choose another folder")


def _open_run(
    config: Config, output: Path, resume: bool, same: Collection[str], identity: dict[str, str]
) -> None:
    """Write the configuration into a folder of ours, or check it against the one that is there.

    The same labels and the same hand model may have moved, or been packed by `dne export`.
    """
    path, data = output / "config.json", output / "data.json"
    if resume and not path.exists():
        raise InputError(f"{output} has nothing to resume: train without resuming")
    if not resume:
        check_free(output)
    values = config_to_dict(config)
    if resume and (checkpoint := _checkpoint(output)):
        step = _state(checkpoint)["step"]
        if step > config.train.steps:
            raise InputError(
                f"{output} stands at step {step}: resume with train.steps of {step} or more"
            )
        free = [*same, *(f"train.{name}" for name in FREE)]
        if data.exists():
            before = read_json(data)
            both = before.keys() & identity.keys()  # an earlier version wrote fewer
            differ = sorted(key for key in both if before[key] != identity[key])
            if differ or not both:
                other = ", ".join(differ) or "another kind of data set"
                raise InputError(f"{output} was trained on other data ({other}): resume with those")
            free += ["data.root", "data.mano"]
        begun = config_to_dict(config_from_dict(read_json(path), path))
        if differ := differences(begun, values, free):
            raise InputError(
                f"{output} was started with another configuration ({', '.join(differ)} differ): "
                "resume with the same, or start a new run from its weights with train.initial"
            )
        if step < config.train.steps and read_calibration(output / WEIGHTS):
            logger.warning("%s was calibrated as it stood: calibrate it again afterwards", output)
        if checkpoint.name == "checkpoint.new":  # the next save would begin by deleting it
            checkpoint.rename(output / "checkpoint")
    elif resume and (output / WEIGHTS).exists():
        raise InputError(
            f"{output} has weights but no checkpoint: start a new run from them with train.initial"
        )
    write_json(path, values)
    write_json(data, identity)


def _build(
    config: Config, checkpoint: Path | None
) -> tuple[DualNoiseNetwork, dict[float, list[nn.Parameter]], set[str]]:
    """The network, with its starting weights, and its parameters by relative learning rate.

    Args:
        checkpoint: will be loaded, and remembers which parameters began with `train.initial`:
            that may be gone, or others by now.

    Returns:
        Also their names.
    """
    train = config.train
    known = None if checkpoint is None else _state(checkpoint).get("loaded")
    fresh = train.initial is None and checkpoint is None
    model = dataclasses.replace(config.model, pretrained=config.model.pretrained and fresh)
    network = DualNoiseNetwork(model, HandModel(config.data.mano))
    loaded: set[str] = set(known or ())
    if train.initial is not None and known is None:
        state, _ = read_weights(train.initial)
        loaded = set(load_weights(network, state, train.initial))
    rates: dict[float, list[nn.Parameter]] = {1.0: [], train.initial_rate: []}
    for name, parameter in network.named_parameters():
        rates[train.initial_rate if name in loaded else 1.0].append(parameter)
    return network, rates, loaded


def _batches(
    accelerator: Accelerator,
    loader: DataLoader,
    dataset: Any,
    step: int,
    steps: int,
    keep: Callable[[], bool],
) -> Iterator[dict[str, Tensor]]:
    """Batches from a step on, so that a resumed run sees what it would have seen.

    Args:
        keep: saves the run, if there is anything to save, before a bad image ends it after hours.

    Raises:
        InputError: one of the images cannot be used.
    """
    while step < steps:
        epoch, done = divmod(step, len(loader))
        dataset.set_epoch(epoch)
        rest = accelerator.skip_first_batches(loader, done) if done else loader
        rest.set_epoch(epoch)  # pyright: ignore[reportAttributeAccessIssue]
        try:
            for batch in rest:
                yield batch  # pyright: ignore[reportReturnType]
                step += 1
                if step == steps:
                    return
        except InputError as error:
            message = message_of(error)
            if keep():
                message += " (the run is kept as it stood: with that mended, resume it)"
            raise InputError(message) from error


def _log(accelerator: Accelerator, entry: dict[str, int | float], output: Path) -> None:
    """A line in log.jsonl, and TensorBoard's."""
    try:
        accelerator.log(entry, int(entry["step"]))
        if accelerator.is_main_process:
            with (output / "log.jsonl").open("a") as file:
                file.write(json.dumps(entry) + "\n")
    except OSError as error:
        raise InputError(
            f"cannot write the log of step {entry['step']} to {output} ({error}): free space and "
            "resume; the last whole checkpoint is unchanged"
        ) from error


def _save(
    accelerator: Accelerator,
    network: nn.Module,
    config: Config,
    output: Path,
    step: int,
    loaded: Collection[str],
) -> None:
    """Checkpoint into a new folder, then swap: an interrupted save leaves the old one whole.

    Args:
        loaded: see `_build`.
    """
    new, final, old = output / "checkpoint.new", output / "checkpoint", output / "checkpoint.old"
    if accelerator.is_main_process:
        shutil.rmtree(new, ignore_errors=True)
    accelerator.wait_for_everyone()
    try:
        accelerator.save_state(str(new))
    except (OSError, RuntimeError, SafetensorError) as error:
        if accelerator.is_main_process:
            shutil.rmtree(new, ignore_errors=True)  # the disk may be full
        raise InputError(
            f"cannot write the checkpoint of step {step} to {new} ({error}): free space and "
            "resume; the last whole checkpoint is unchanged"
        ) from error
    accelerator.wait_for_everyone()  # each process saves its own random state
    if accelerator.is_main_process:
        state = {"step": step, "processes": accelerator.num_processes, "loaded": sorted(loaded)}
        write_json(new / "step.json", state)
        save_network(accelerator.unwrap_model(network), config, output / WEIGHTS)
        if final.exists():  # otherwise the old one is all there is
            shutil.rmtree(old, ignore_errors=True)
            final.rename(old)
        new.rename(final)
        shutil.rmtree(old, ignore_errors=True)
    accelerator.wait_for_everyone()


def _checkpoint(output: Path) -> Path | None:
    """The last whole one of a run, if there is one yet."""
    # The new one is all there is of a run killed between its first weights and their checkpoint.
    folders = (output / f"checkpoint{end}" for end in ("", ".old", ".new"))
    return next((folder for folder in folders if (folder / "step.json").exists()), None)


def _state(checkpoint: Path) -> dict[str, Any]:
    """What a checkpoint says of itself.

    Raises:
        InputError: it does not say at which step it stands.
    """
    path = checkpoint / "step.json"
    state = read_json(path)
    if not isinstance(state, dict) or not isinstance(state.get("step"), int):
        raise InputError(f"{path} names no step: copy the run again, or start a new one")
    return state


def _restore(accelerator: Accelerator, output: Path) -> int:
    """Load the last whole checkpoint, if there is one, and tell its step."""
    folder = _checkpoint(output)
    state = {"step": 0} if folder is None else _state(folder)
    if len(set(gather_object([state["step"]]))) > 1:
        raise InputError(
            f"not every process finds the checkpoint of {output}: put the run on a disk that all "
            "machines share"
        )
    if folder is None:
        logger.info("%s was stopped before its first checkpoint: from the start", output)
    else:
        processes = state.get("processes", accelerator.num_processes)
        if processes != (here := accelerator.num_processes):
            raise InputError(
                f"{output} was trained by {processes} processes, this is {here}: resume with "
                f"{processes}, or start a new run from its weights (train.initial)"
            )
        try:
            accelerator.load_state(str(folder))
        except DAMAGED as error:
            raise InputError(
                f"the checkpoint {folder} is damaged ({error}): copy it again, or start a new run "
                "from the weights there are (train.initial)"
            ) from error
    if accelerator.is_main_process:
        _cut_log(output / "log.jsonl", state["step"])
    return state["step"]


def _cut_log(path: Path, step: int) -> None:
    """Leave out the steps after a checkpoint, which are about to be done again."""

    def whole(line: bytes) -> bool:
        try:
            return line.endswith(b"\n") and json.loads(line)["step"] <= step
        except (ValueError, KeyError, TypeError):  # damaged: it would hide the others
            return False

    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    kept = [line for line in lines if whole(line)]
    if len(kept) < len(lines):
        write_bytes(path, b"".join(kept))


def _check_finite(step: int, values: dict[str, Tensor]) -> None:
    """Before the weights move: with ones that are no numbers even reading F may fail."""
    if torch.stack(list(values.values())).isfinite().all():
        return
    bad = [name for name, value in values.items() if not value.isfinite()]
    raise InputError(
        f"step {step}: {', '.join(bad)} is no longer a number; resume from the last checkpoint "
        "with a lower train.learning_rate, or with train.precision no"
    )
