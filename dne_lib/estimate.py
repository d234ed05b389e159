"""What a training run will take, measured before it starts."""

import dataclasses
import resource
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import NamedTuple

import torch
from torch.utils.data import default_collate

from dne_lib.config import Config
from dne_lib.data.interhand import InterHand
from dne_lib.evaluate import default_device
from dne_lib.files import InputError
from dne_lib.losses import total_loss
from dne_lib.mano import HandModel
from dne_lib.model import DualNoiseNetwork
from dne_lib.train import usable_precision


class Measured(NamedTuple):
    """One training step on a batch of some size; data loading is not in it."""

    images: int
    seconds: float
    gigabytes: float  # the most held so far: of the GPU, or of the process where there is none


class Estimate(NamedTuple):
    """What a run takes in each process."""

    device: str
    parameters: int
    seconds: float  # a step
    hours: float  # all steps
    gigabytes: float


def measure(config: Config, images: int) -> tuple[Measured, str, int]:
    """Time the second training step on a batch with two hands in every image.

    Returns:
        The measurement, the device's name and the number of parameters.

    Raises:
        InputError: the data cannot be read.
    """
    device = default_device()
    modules = 0 if config.train.stage == "coarse" else config.model.modules
    model = dataclasses.replace(config.model, pretrained=False, modules=modules)
    network = DualNoiseNetwork(model, HandModel(config.data.mano)).train().to(device)
    network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    optimizer = torch.optim.AdamW(network.parameters())
    data = InterHand(config.data.root, "train", model, config.data, augment=False)
    samples = data.__getitems__([i % len(data) for i in range(images)])
    batch = {name: values.to(device) for name, values in default_collate(samples).items()}
    batch["present"] = torch.ones_like(batch["present"])
    reduced = usable_precision(config.train.precision) == "bf16"
    seconds = 0.0
    for _ in range(2):
        start = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16, enabled=reduced):
            output = network(batch["image"], batch["present"])
        loss, _ = total_loss(output, batch, config.loss)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()  # waits for the device
        seconds = time.perf_counter() - start
    if device.type == "cuda":
        name, held = torch.cuda.get_device_name(), torch.cuda.max_memory_reserved()
    else:
        unit = 1 if sys.platform == "darwin" else 1024
        name, held = device.type.upper(), unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    count = sum(parameter.numel() for parameter in network.parameters())
    return Measured(images, seconds, held / 1e9), name, count


def extrapolate(small: Measured, large: Measured, images: int) -> tuple[float, float]:
    """Seconds and gigabytes of a batch of any size: a straight line through two others.

    A step is never faster for having more images in it, whatever the clock said.
    """
    share = (images - large.images) / (large.images - small.images)
    slopes = (large.seconds - small.seconds, large.gigabytes - small.gigabytes)
    seconds, gigabytes = (
        value + share * max(slope, 0.0) for value, slope in zip(large[1:], slopes, strict=True)
    )
    return seconds, gigabytes


def estimate(config: Config, processes: int = 1) -> Estimate:
    """Time and memory that `train` will take, from two small batches.

    They run in a process of their own: its memory is given back, its peak is its own, and CUDA is
    not initialised here, after which a notebook could not launch several processes any more.

    Args:
        config: of the run; its data must be there.
        processes: that share the batch, one for each GPU.

    Raises:
        InputError: the data cannot be read; or there are no images left for some process.
    """
    images = config.train.batch_size // processes
    if images < 1:
        raise InputError(
            f"train.batch_size is {config.train.batch_size}, fewer than the {processes} processes "
            "that share it: raise it, or use fewer"
        )
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        (small, device, parameters), (large, _, _) = pool.submit(_both, config).result()
    seconds, gigabytes = extrapolate(small, large, images)
    hours = seconds * config.train.steps / 3600
    return Estimate(device, parameters, seconds, hours, gigabytes)


def _both(config: Config) -> list[tuple[Measured, str, int]]:
    """A small batch before one twice as large: the peak of a process never falls."""
    few = 8 if torch.cuda.is_available() else 1
    return [measure(config, count) for count in (few, 2 * few)]
