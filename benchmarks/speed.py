"""Ratios of two things timed in one run: `make bench`.

Absolute times depend on the machine; that one way is several times faster than another does not.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from embreex.mesh_construction import TriangleMesh
from embreex.rtcore_scene import EmbreeScene
from torch.utils.data import default_collate

from dne_lib import DualNoiseNetwork, HandModel, InterHand, preset, synthesize, total_loss
from dne_lib.model.refine import three_views
from dne_lib.rasterize import rasterize
from dne_lib.train import usable_precision

GRID, HANDS, CHANNELS = 16, 16, 64


def median_seconds(work: Callable[[], object], repeats: int = 7) -> float:
    """Median time of a call, after one to warm up."""
    work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def dense_views(features: torch.Tensor, vertices: torch.Tensor) -> list[torch.Tensor]:
    """Fig. 2 as drawn: a volume of GRID^3 voxels, max-pooled along each axis."""
    low = vertices.amin(dim=1, keepdim=True)
    side = (vertices.amax(dim=1, keepdim=True) - low).amax(dim=2, keepdim=True)
    x, y, z = ((vertices - low) / side * GRID).long().clamp(max=GRID - 1).unbind(-1)
    n = torch.arange(len(features))[:, None].expand_as(x)
    cell = (((n * GRID + x) * GRID + y) * GRID + z).flatten()
    index = cell[:, None].expand(-1, features.shape[-1])
    volume = torch.zeros(len(features) * GRID**3, features.shape[-1])
    volume = volume.scatter_reduce(0, index, features.flatten(0, 1), "amax", include_self=False)
    volume = volume.view(len(features), GRID, GRID, GRID, -1)
    front, lateral, top = (volume.amax(axis) for axis in (3, 1, 2))
    return [front[n, x, y], lateral[n, y, z], top[n, x, z]]


def views() -> tuple[float, float]:
    """Seconds of the dense volume and of the scatter onto three planes, backward included."""
    vertices = HandModel().template[0].expand(HANDS, -1, -1)
    features = torch.randn(HANDS, 778, CHANNELS, requires_grad=True)

    def run(pool: Callable[[], list[torch.Tensor]]) -> None:
        torch.stack(pool()).sum().backward()

    dense = median_seconds(lambda: run(lambda: dense_views(features, vertices)))
    return dense, median_seconds(lambda: run(lambda: three_views(features, vertices, GRID)))


def rasterisers(size: int = 64) -> tuple[float, float]:
    """Seconds of Embree and of the NumPy rasteriser for the faces that a map sees."""
    hand = HandModel()
    vertices = hand.template[0].numpy() + np.array([0, 0, 0.6], np.float32)
    faces = hand.faces[0]
    points = vertices[:, :2] / vertices[:, 2:] * 3 * size + size / 2
    columns, rows = np.meshgrid(np.arange(size), np.arange(size))
    rays = np.stack([columns - size / 2, rows - size / 2, np.full_like(rows, 3 * size)], -1)
    rays = np.ascontiguousarray(rays.reshape(-1, 3), np.float32)

    def embree() -> object:
        scene = EmbreeScene()
        TriangleMesh(scene, vertices, faces.astype(np.int32))
        return scene.run(np.zeros_like(rays), rays, output=True)

    depth = vertices[:, 2]
    ours = median_seconds(lambda: rasterize(points, depth, faces, size, size))
    return median_seconds(embree), ours


def training(root: Path) -> dict[str, float]:
    """Seconds an image: loading it on one core, and a training step without and with modules."""
    config = preset("tiny")
    dataset = InterHand(root, "train", config.model, config.data, augment=True)
    indices = list(range(len(dataset)))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    times = {"load": median_seconds(lambda: dataset.__getitems__(indices), 3) / len(dataset)}
    torch.set_num_threads(threads)
    batch = default_collate(dataset.__getitems__(indices))
    bf16 = usable_precision("bf16") == "bf16"
    for modules in (0, config.model.modules):
        config.model.modules = modules
        network = DualNoiseNetwork(config.model).train()
        network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

        def step(network: DualNoiseNetwork = network) -> None:
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                output = network(batch["image"], batch["present"])
            total_loss(output, batch, config.loss)[0].backward()

        times[f"step, M = {modules}"] = median_seconds(step, 3) / len(dataset)
    return times


def main() -> None:
    """Print every ratio with the two times it is made of."""
    dense, scatter = views()
    print(f"three views: dense volume / scatter = {dense / scatter:.1f}", end="")
    print(f" ({dense * 1e3:.1f} / {scatter * 1e3:.1f} ms for {HANDS} hands)")
    embree, ours = rasterisers()
    print(f"faces of a 64 x 64 map: Embree / NumPy = {embree / ours:.2f}", end="")
    print(f" ({embree * 1e3:.1f} / {ours * 1e3:.1f} ms)")
    with tempfile.TemporaryDirectory() as folder:
        synthesize(Path(folder), train=32, test=0, seed=0, progress=False)
        times = training(Path(folder))
    base = times["step, M = 0"]
    for name, seconds in times.items():
        print(f"{name}: {seconds * 1e3:.1f} ms an image, {seconds / base:.2f} x the coarse step")


if __name__ == "__main__":
    main()
