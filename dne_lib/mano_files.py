"""MANO's files: reading them runs nothing they name, and needs no chumpy.

The licensed files are Python-2 pickles of NumPy arrays, one SciPy matrix and two kinds of chumpy
object. A pickle calls whatever it names, so none of these is given to it: every name on a short
list stands for a `Record`, which keeps what it was called with, and arrays are made of the records
afterwards. Any other name is refused. `.npz` files hold the same arrays under the same names.
"""

import hashlib
import io
import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from scipy.sparse import csc_matrix, csr_matrix

from dne_lib.config import HANDS, VERTICES
from dne_lib.files import InputError, write_bytes

SOURCE = "https://mano.is.tue.mpg.de"
PARENTS = [-1, 0, 1, 2, 0, 4, 5, 0, 7, 8, 0, 10, 11, 0, 13, 14]  # of MANO's 16 joints
FIELDS = {  # what is read of a MANO file, under MANO's names
    "v_template": (778, 3),
    "shapedirs": (778, 3, 10),
    "posedirs": (778, 3, 135),
    "J_regressor": (16, 778),
    "weights": (778, 16),
    "hands_mean": (45,),
    "f": (1538, 3),
    "kintree_table": (2, 16),
}
KEPT = [*FIELDS, "hands_components"]  # in .npz files: smplx reads the last one, too


class Record:
    """What a pickle wanted made: its arguments and its state, neither of them acted upon."""

    arguments: tuple[Any, ...]
    state: Any

    def __new__(cls, *arguments: Any) -> "Record":
        """Keep the arguments; here and not in __init__, because pickles may skip that."""
        record = super().__new__(cls)
        record.arguments, record.state = arguments, None
        return record

    def __setstate__(self, state: Any) -> None:
        """Keep the state."""
        self.state = state


class Array(Record):
    """numpy.ndarray; state: (version, shape, dtype, whether in Fortran's order, data)."""


class BufferedArray(Record):
    """numpy.ndarray in pickles of protocol 5; arguments: (data, dtype, shape, order[, axes])."""


class Dtype(Record):
    """numpy.dtype; arguments: (code such as "f8", …); state: (version, byte order, …)."""


class Csc(Record):
    """scipy.sparse.csc_matrix; state: its attributes."""


class Csr(Record):
    """scipy.sparse.csr_matrix; state: its attributes."""


class Ch(Record):
    """chumpy.ch.Ch, a constant; state: its attributes, of which `x` is the array."""


class Select(Record):
    """chumpy.reordering.Select, entries `idxs` of the flattened `a` in `preferred_shape`.

    MANO's 10 shape directions are such a selection from a constant that holds 20.
    """


def blank(kind: Any, *_: Any) -> Any:
    """In place of copyreg._reconstructor, which makes an instance that gets its state later."""
    return kind()


def latin1(text: str, encoding: str) -> bytes:
    """In place of _codecs.encode, by which Python 3 writes bytes for Python 2."""
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"it encodes as {encoding!r}")
    return text.encode("latin1")


# Old and new homes of each name; Python 2's modules come under their own names here.
KNOWN: dict[tuple[str, str], Any] = {
    (module, name): stands_in
    for modules, name, stands_in in (
        ("copy_reg copyreg", "_reconstructor", blank),
        ("__builtin__ builtins", "object", Record),
        ("__builtin__ builtins", "set", Record),
        ("_codecs", "encode", latin1),
        ("numpy", "ndarray", Array),
        ("numpy", "dtype", Dtype),
        ("numpy.core.multiarray numpy._core.multiarray", "_reconstruct", Array),
        ("numpy.core.multiarray numpy._core.multiarray", "scalar", Record),
        ("numpy.core.numeric numpy._core.numeric", "_frombuffer", BufferedArray),
        ("scipy.sparse.csc scipy.sparse._csc", "csc_matrix", Csc),
        ("scipy.sparse.csr scipy.sparse._csr", "csr_matrix", Csr),
        ("chumpy.ch", "Ch", Ch),
        ("chumpy.reordering", "Select", Select),
    )
    for module in modules.split()
}


class RecordUnpickler(pickle.Unpickler):
    """Finds records for the names a MANO file needs, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        """The record that stands for a name.

        Raises:
            UnpicklingError: the name is not on the list.
        """
        if (module, name) not in KNOWN:
            raise pickle.UnpicklingError(
                f"it names {f'{module}.{name}'!r}, which is no part of MANO; nothing of it was run"
            )
        return KNOWN[module, name]


def to_dtype(record: Dtype) -> np.dtype:
    """Whole and floating-point numbers and booleans; no objects, no text.

    Raises:
        TypeError: it is none of these.
    """
    code = f"{record.state[1]}{record.arguments[0]}"
    if not re.fullmatch(r"[<>=|][biuf][1248]", code):
        raise TypeError(f"an array of {code!r} holds no numbers")
    return np.dtype(code)


def to_array(value: Any) -> np.ndarray:
    """The array that records stand for. What is wrong in them can raise any exception."""
    state: Any = value.state if isinstance(value, Record) else None
    match value:
        case Array():
            shape, dtype, fortran, data = state[-4:]
            data = latin1(data, "latin1") if isinstance(data, str) else data
            return np.frombuffer(data, to_dtype(dtype)).reshape(
                shape, order="F" if fortran else "C"
            )
        case BufferedArray():
            data, dtype, shape, order, *axes = value.arguments
            array = np.frombuffer(data, to_dtype(dtype))
            if axes:
                return array.reshape(shape).transpose(*axes)
            return array.reshape(shape, order=order)
        case Ch():
            return to_array(state["x"])
        case Select():
            selected = to_array(state["a"]).ravel()[to_array(state["idxs"])]
            return selected.reshape(state.get("preferred_shape", selected.shape))
        case Csc() | Csr():
            kind = csc_matrix if isinstance(value, Csc) else csr_matrix
            parts = tuple(to_array(state[name]) for name in ("data", "indices", "indptr"))
            matrix = kind(parts, shape=state["_shape"])
            matrix.check_format(full_check=True)  # toarray writes wherever the indices point
            return matrix.toarray()
    raise TypeError(f"a {type(value).__name__} is no array")


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a `.pkl` or `.npz` in the types they are stored in, under MANO's names.

    Raises:
        InputError: the file cannot be read, lacks a field, or names what MANO does not need.
    """
    try:
        with path.open("rb") as file:
            if path.suffix == ".npz":
                data = np.load(file)
                arrays = {name: data[name] for name in KEPT if name in data}
            else:
                data = RecordUnpickler(file, encoding="latin1").load()
                arrays = {name: to_array(data[name]) for name in KEPT if name in data}
        for name in FIELDS:
            arrays[name].astype(np.float32)
    except Exception as error:  # a damaged file can raise anything
        raise InputError(
            f"{path} cannot be read as a MANO hand ({type(error).__name__}: {error}): "
            f"delete it and download it again from {SOURCE}"
        ) from error
    return arrays


def validated(arrays: dict[str, np.ndarray], path: Path) -> dict[str, np.ndarray]:
    """The fields of a hand, float32.

    Raises:
        InputError: a field is not what MANO's is: its shape, its values.
    """
    hand = {name: np.array(arrays[name], np.float32) for name in FIELDS}
    for name, shape in FIELDS.items():
        if hand[name].shape != shape:
            raise InputError(
                f"{path}: {name} has shape {hand[name].shape}, not {shape}: this is no MANO hand"
            )
        if not np.isfinite(hand[name]).all():
            raise InputError(f"{path}: {name} holds NaN or infinity: download the file again")
    outside = hand["f"].min() < 0 or hand["f"].max() >= VERTICES
    if outside or (hand["kintree_table"][0] != PARENTS)[1:].any():
        raise InputError(f"{path}: f or kintree_table is not MANO's: download the file again")
    return hand


def find_hand(folder: Path, side: Literal["right", "left"]) -> Path:
    """The file to read of one hand: a converted one, else the licensed one, else the built-in.

    Raises:
        InputError: there is none.
    """
    names = [f"MANO_{side.upper()}.npz", f"MANO_{side.upper()}.pkl", f"hand_{side}.npz"]
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise InputError(
        f"{folder} has no {names[1]} or {names[0]}: get MANO's models from {SOURCE} "
        "and put both hands there"
    )


def read_hand(folder: Path, side: Literal["right", "left"]) -> dict[str, np.ndarray]:
    """The arrays of one hand, float32, under MANO's names.

    Raises:
        InputError: no file for this hand in the folder, or it is not a complete MANO hand.
    """
    path = find_hand(folder, side)
    return validated(read_arrays(path), path)


def left_is_unmirrored(right: dict[str, np.ndarray], left: dict[str, np.ndarray]) -> bool:
    """Whether the left hand has the x of its shape directions as the right hand has them.

    A mirrored hand has them negated; the published MANO_LEFT does not.
    """
    x, mirrored = right["shapedirs"][:, 0], left["shapedirs"][:, 0]
    return bool(np.abs(x - mirrored).sum() < np.abs(x + mirrored).sum())


def npz_bytes(arrays: dict[str, Any]) -> bytes:
    """An uncompressed `.npz`, the same bytes for the same arrays."""
    file = io.BytesIO()
    np.savez(file, **arrays)  # dates every member 1980-01-01
    return file.getvalue()


def check_mano(folder: str | Path) -> Iterator[str]:
    """Convert MANO's pickles to `.npz` where that was not done, and say what is in the folder.

    Yields:
        Lines to print, as the work goes on.

    Raises:
        InputError: a hand is missing or damaged, or its `.npz` is not what its `.pkl` holds.
    """
    hands = []
    for side in HANDS:
        path = find_hand(Path(folder), side)
        stored = read_arrays(path)
        hand = validated(stored, path)
        hands.append(hand)
        yield describe(path)
        yield "  " + ", ".join(f"{name} {stored[name].shape}" for name in stored)
        yield "  " + measures(hand)
        pickled, converted = path.with_suffix(".pkl"), path.with_suffix(".npz")
        if path == pickled:
            try:
                write_bytes(converted, npz_bytes(stored))
                yield f"  converted: {describe(converted)}"
            except InputError as error:  # the folder may belong to somebody else
                yield f"  not converted, so that loading takes longer: {error}"
        elif pickled.is_file():
            original = read_arrays(pickled)
            if any(not np.array_equal(stored[name], original[name]) for name in FIELDS):
                raise InputError(
                    f"{converted}, which is used, differs from {pickled}: "
                    "delete the one that is wrong, and check again"
                )
            yield f"  already converted from {describe(pickled)}"
    if left_is_unmirrored(*hands):
        yield "left hand: x of its shape directions is not mirrored (a known bug): fixed on loading"
    else:
        yield "left hand: x of its shape directions is mirrored, as it should be"


def describe(path: Path) -> str:
    """A file's path, size and hash."""
    data = path.read_bytes()
    return f"{path}: {len(data):,} bytes, SHA-256 {hashlib.sha256(data).hexdigest()}"


def measures(hand: dict[str, np.ndarray]) -> str:
    """Whether a hand has a hand's size, and its weights sum to one."""
    joints = hand["J_regressor"] @ hand["v_template"]
    length = np.linalg.norm(joints[4] - joints[0]) * 1000  # 4: base of the middle finger
    off = max(np.abs(hand[name].sum(1) - 1).max() for name in ("weights", "J_regressor"))
    return (
        f"wrist to middle finger {length:.1f} mm (an adult's: about 95); "
        f"weights sum to 1 within {off:.0e}"
    )
