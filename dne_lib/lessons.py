"""What the notebooks share: a few samples, a stand-in for a coarse prediction, exercises."""

import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from dne_lib.config import HAND_UNIT, DataConfig, ModelConfig
from dne_lib.data.interhand import InterHand
from dne_lib.mano import HandModel, axis_angle_to_matrix, rotation_6d_to_matrix
from dne_lib.synthetic.synthesize import synthesize


class Coarse(NamedTuple):
    """What the first stage of the network would hand to the second."""

    vertices: Float[Tensor, "hand 778 3"]  # wrist-relative, hand units, camera frame
    camera: Float[Tensor, "hand 2 2"]  # rows x, y; columns scale, translation


def few_samples(
    count: int = 8, seed: int = 1, image_size: int = 256, varied: bool = False
) -> list[dict[str, Tensor]]:
    """Render a few built-in images and read them as the network would, about a second for eight.

    Args:
        count: images; about half show two hands.
        seed: of the hands, lights and cameras.
        image_size: side of the crops, pixels; the maps are a quarter of it.
        varied: as photographs are, or a plain studio; the same hands.

    Returns:
        Samples as described in `InterHand`, not augmented.

    Raises:
        InputError: see `synthesize`.
    """
    config = ModelConfig(image_size=image_size, feature_size=image_size // 4)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "lesson"
        synthesize(root, train=count, test=0, seed=seed, workers=1, progress=False, varied=varied)
        data = InterHand(root, "train", config, DataConfig(root=root), augment=False)
        return [data[i] for i in range(len(data))]


def stand_in(
    hands: HandModel, sample: dict[str, Tensor], seed: int = 0, size: float = 1.0
) -> Coarse:
    """The truth, disturbed: what a coarse prediction might be, where no network is needed.

    Every joint is turned by about 9 degrees, the shape and the camera are a little off.

    Args:
        hands: the hand model the sample was made with.
        sample: one image; absent hands come out at rest.
        seed: of the disturbance.
        size: of the disturbance; 0 is the truth itself, as far as an orthographic camera can be.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return size * torch.randn(shape, generator=generator)

    turn = axis_angle_to_matrix(0.09 * normal(2, 16, 3))
    there = sample["present"][:, None, None]
    rest = torch.tensor([1.0, 0, 0, 0, 1, 0])
    rotations = turn @ rotation_6d_to_matrix(torch.where(there, sample["pose"], rest))
    vertices = hands(rotations, sample["betas"] + 0.7 * normal(2, 10)).vertices / HAND_UNIT
    scale, translation = sample["camera"].unbind(-1)
    scale = scale * (1 + 0.04 * normal(2, 1))
    return Coarse(vertices, torch.stack([scale, translation + 0.03 * normal(2, 2)], dim=-1))


def attempt(check: Callable[[Any], None], answer: Any) -> None:
    """Check the answer to an exercise, and say what is wrong or that it is not written yet.

    Args:
        check: raises AssertionError for a wrong answer, with a message where there is more to say
            than the line that does not hold.
        answer: what the reader wrote.
    """
    name = answer.__name__
    try:
        check(answer)
    except NotImplementedError:
        print(f"{name} is yours to write: replace the raise, then run both cells again.")
    except AssertionError as error:
        line = traceback.extract_tb(error.__traceback__)[-1].line
        print(f"{name}: not yet. {str(error) or f'This does not hold: {line}'}")
    else:
        print(f"{name}: correct.")
