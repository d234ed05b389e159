"""Pickles as Python 2 and chumpy wrote them, and pickles that mean harm."""

import hashlib
import pickle
import struct
import sys
import types

import numpy as np
import pytest
import scipy.sparse
import smplx

from dne_lib import mano_files
from dne_lib.files import InputError
from dne_lib.mano import ASSETS, HandModel
from dne_lib.mano_files import FIELDS, check_mano, read_arrays, read_hand

SIDES = ("right", "left")


class Ch:
    """A chumpy object as it is pickled: its attributes without its caches."""

    def __init__(self, **terms):
        self.__dict__.update(
            _dirty_vars=set(), _itr=None, _depends_on_deps={}, _make_dense=False,
            _make_sparse=False, _status="new", **terms,
        )  # fmt: skip


class Select(Ch):
    pass


Ch.__module__ = "chumpy.ch"
Select.__module__ = "chumpy.reordering"


OLD_NAMES = {
    "builtins": "__builtin__",
    "copyreg": "copy_reg",
    "numpy._core.multiarray": "numpy.core.multiarray",
    "scipy.sparse._csc": "scipy.sparse.csc",
}


class Python2Pickler(pickle._Pickler):
    """Byte strings for all text and data, and the names of Python 2, NumPy 1 and old SciPy."""

    dispatch = pickle._Pickler.dispatch.copy()

    def save_text(self, value):
        data = value if isinstance(value, bytes) else value.encode("latin1")
        self.write(b"T" + struct.pack("<i", len(data)) + data)  # BINSTRING
        self.memoize(value)

    def save_global(self, value, name=None):
        module = OLD_NAMES.get(value.__module__, value.__module__)
        self.write(f"c{module}\n{name or value.__name__}\n".encode())
        self.memoize(value)

    dispatch[str] = dispatch[bytes] = save_text
    dispatch[types.FunctionType] = save_global


def python2(value, protocol, path):
    with path.open("wb") as file:
        Python2Pickler(file, protocol).dump(value)


@pytest.fixture
def built_in():
    return {side: dict(np.load(ASSETS / f"hand_{side}.npz")) for side in SIDES}


def licensed(hand):
    """What MANO's pickle holds in place of plain arrays, for the values of a hand."""
    rng = np.random.default_rng(0)
    twenty = np.concatenate([hand["shapedirs"], rng.normal(size=(778, 3, 10))], -1)
    indices = np.arange(twenty.size).reshape(twenty.shape)[..., :10]
    return hand | {
        "shapedirs": Select(a=Ch(x=twenty), idxs=indices.ravel(), preferred_shape=indices.shape),
        "posedirs": np.asfortranarray(hand["posedirs"].astype(float)),
        "J_regressor": scipy.sparse.csc_matrix(hand["J_regressor"]),
        "v_template": Ch(x=hand["v_template"].astype(">f8")),
        "f": hand["f"].astype(np.uint32),
        "bs_style": "lbs",
        "bs_type": "lrotmin",
    }


def save_licensed(folder, hands, protocol=2):
    for side, hand in hands.items():
        python2(licensed(hand), protocol, folder / f"MANO_{side.upper()}.pkl")
    return folder


@pytest.mark.parametrize("protocol", [0, 1, 2])
def test_licensed_pickles_give_the_arrays_that_were_put_in(tmp_path, built_in, protocol):
    save_licensed(tmp_path, built_in, protocol)
    data = (tmp_path / "MANO_LEFT.pkl").read_bytes()
    for module in ("chumpy.ch", "chumpy.reordering", *set(OLD_NAMES.values()) - {"copy_reg"}):
        assert f"c{module}\n".encode() in data
    assert (b"ccopy_reg\n_reconstructor\n" in data) == (protocol < 2)
    for side in SIDES:
        hand = read_hand(tmp_path, side)
        for name in FIELDS:
            assert hand[name].dtype == np.float32
            expected = built_in[side][name].astype(np.float32)
            np.testing.assert_array_equal(hand[name], expected, name)


@pytest.mark.parametrize("kind", [scipy.sparse.csc_matrix, scipy.sparse.csr_matrix])
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickles_saved_again_by_python_3(tmp_path, built_in, protocol, kind):
    hand = built_in["right"]
    changed = hand | {
        "J_regressor": kind(hand["J_regressor"]),
        "posedirs": hand["posedirs"].copy("F"),
        "shapedirs": hand["shapedirs"].transpose(1, 0, 2).copy().transpose(1, 0, 2),
    }
    path = tmp_path / "MANO_RIGHT.pkl"
    path.write_bytes(pickle.dumps(changed, protocol))
    loaded = read_arrays(path)
    for name in mano_files.KEPT:
        np.testing.assert_array_equal(loaded[name], hand[name], name)


def evil(module, name, argument):
    """A pickle that calls module.name(argument), in opcodes."""
    return f"c{module}\n{name}\n(S{argument!r}\ntR.".encode()


class Call:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


TOUCH = "touch sentinel"
CODE = "open('sentinel', 'w').close()"
HARMFUL = {
    "os.system": evil("os", "system", TOUCH),
    "__builtin__.eval": evil("__builtin__", "eval", CODE),
    "posix.system": b"(S'touch sentinel'\niposix\nsystem\n.",  # INST
    "numpy.savetxt": b"cnumpy\nsavetxt\n(S'sentinel'\n(ltR.",
    "builtins.exec": pickle.dumps({"v_template": Call(set, [Call(exec, CODE)])}),
    "builtins.eval": b"cchumpy.ch\nCh\n)\x81}S'x'\n" + evil("builtins", "eval", CODE)[:-1] + b"sb.",
}


@pytest.mark.parametrize("name", HARMFUL)
def test_harmful_pickles_are_refused_by_name_and_do_nothing(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "MANO_RIGHT.pkl"
    path.write_bytes(HARMFUL[name])
    with pytest.raises(InputError, match=f"MANO_RIGHT.pkl cannot be read .* names '{name}'"):
        read_hand(tmp_path, "right")
    assert list(tmp_path.iterdir()) == [path]
    # Loaded as pickles are, it does its harm: the sentinel would have shown it.
    module = types.ModuleType("chumpy.ch")
    monkeypatch.setattr(module, "Ch", Ch, raising=False)
    monkeypatch.setitem(sys.modules, "chumpy", types.ModuleType("chumpy"))
    monkeypatch.setitem(sys.modules, "chumpy.ch", module)
    pickle.loads(HARMFUL[name])
    assert (tmp_path / "sentinel").exists()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"cchumpy.ch\nChLambda\n.", "names 'chumpy.ch.ChLambda'"),
        (b"\x80\x04\x8c\x05numpy\x8c\x0endarray.tofile\x93.", "names 'numpy.ndarray.tofile'"),
        (b"c_codecs\nencode\n(S'x'\nS'zlib'\ntR.", "encodes as 'zlib'"),
        (b"Psomething\n.", "persistent"),
        (b"(lp0\n.", "MANO_RIGHT.pkl cannot be read"),  # a list
        (b"", "MANO_RIGHT.pkl cannot be read"),
    ],
)
def test_other_pickles_are_no_hand(tmp_path, data, message):
    (tmp_path / "MANO_RIGHT.pkl").write_bytes(data)
    with pytest.raises(InputError, match=message):
        read_hand(tmp_path, "right")


def endless():
    ch = Ch()
    ch.x = ch
    return ch


def outside():
    matrix = scipy.sparse.csc_matrix(np.eye(16, 778))
    matrix.indices[3] = 10**6
    return matrix


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("weights", np.array([[None]]), "O8' holds no numbers"),
        ("weights", np.array(["text"]), "holds no numbers"),
        ("weights", Select(a=Ch(x=np.zeros(3)), idxs=np.array([3])), "out of bounds"),
        ("weights", Ch(), "KeyError: 'x'"),
        ("weights", endless(), "RecursionError"),
        ("weights", "text", "a str is no array"),
        ("weights", np.zeros((2, 2)), r"weights has shape \(2, 2\), not \(778, 16\)"),
        ("J_regressor", outside(), "indices"),
    ],
)
def test_damaged_fields_of_a_licensed_pickle(tmp_path, built_in, field, value, message):
    damaged = licensed(built_in["right"]) | {field: value}
    python2(damaged, 2, tmp_path / "MANO_RIGHT.pkl")
    with pytest.raises(InputError, match=f"MANO_RIGHT.pkl.*{message}"):
        read_hand(tmp_path, "right")


@pytest.mark.parametrize("part", [0.001, 0.5, 0.999])
def test_truncated_licensed_pickle(tmp_path, built_in, part):
    path = save_licensed(tmp_path, built_in) / "MANO_RIGHT.pkl"
    data = path.read_bytes()
    path.write_bytes(data[: int(part * len(data))])
    with pytest.raises(InputError, match=r"MANO_RIGHT.pkl cannot be read .* download it again"):
        read_hand(tmp_path, "right")


@pytest.mark.parametrize("bug", [False, True])
def test_check_converts_once_and_what_it_wrote_is_read(tmp_path, built_in, bug):
    if bug:
        built_in["left"]["shapedirs"][:, 0] *= -1
    save_licensed(tmp_path, built_in)
    from_pickles = HandModel(tmp_path)
    first = "\n".join(check_mano(tmp_path))
    pickles = sorted(tmp_path.glob("*.pkl"))
    written = {path: path.read_bytes() for path in sorted(tmp_path.glob("*.npz"))}
    assert [path.name for path in written] == ["MANO_LEFT.npz", "MANO_RIGHT.npz"]
    for data in [*written.values(), *(path.read_bytes() for path in pickles)]:
        assert hashlib.sha256(data).hexdigest() in first
    assert "posedirs (778, 3, 135)" in first
    joints = built_in["right"]["J_regressor"] @ built_in["right"]["v_template"]
    assert f"{1000 * np.linalg.norm(joints[4] - joints[0]):.1f} mm" in first
    assert ("is not mirrored" in first) == bug
    assert first.count("converted: ") == 2

    # Equal and in the same types as what was in the pickles, the left hand's bug included.
    for side in SIDES:
        with np.load(tmp_path / f"MANO_{side.upper()}.npz") as file:
            assert set(file) == set(mano_files.KEPT)
            assert file["f"].dtype == np.uint32
            assert file["posedirs"].dtype == float
            for name in FIELDS:
                np.testing.assert_array_equal(file[name], built_in[side][name], name)

    second = "\n".join(check_mano(tmp_path))
    assert second.count("already converted") == 2
    assert {path: path.read_bytes() for path in written} == written
    for path in pickles:
        path.write_bytes(b"the pickles are not read any more")
    converted = HandModel(tmp_path)
    for name, values in from_pickles.named_buffers():
        np.testing.assert_array_equal(values, converted.get_buffer(name), name)
    for path in written:
        smplx.MANO(str(tmp_path), is_rhand="RIGHT" in path.name, ext="npz")  # reads them too
    for path in pickles:
        path.unlink()
    assert "converted" not in "\n".join(check_mano(tmp_path))


def test_conversion_does_not_depend_on_the_pickle_but_on_what_it_holds(tmp_path, built_in):
    made = []
    for protocol, order in [(2, 1), (0, -1)]:
        folder = tmp_path / str(protocol)
        folder.mkdir()
        hands = {side: dict([*hand.items()][::order]) for side, hand in built_in.items()}
        list(check_mano(save_licensed(folder, hands, protocol)))
        made.append((folder / "MANO_RIGHT.npz").read_bytes())
    assert made[0] == made[1]


def test_converted_file_that_is_not_its_pickle(tmp_path, built_in):
    list(check_mano(save_licensed(tmp_path, built_in)))
    built_in["left"]["v_template"] = built_in["left"]["v_template"] * 2
    save_licensed(tmp_path, built_in)
    with pytest.raises(InputError, match=r"MANO_LEFT.npz.* differs from .*MANO_LEFT.pkl"):
        list(check_mano(tmp_path))


def test_check_of_a_folder_that_cannot_be_written(tmp_path, built_in):
    (save_licensed(tmp_path, built_in) / "MANO_LEFT.npz").mkdir()  # nobody can put a file there
    text = "\n".join(check_mano(tmp_path))
    assert text.count("  converted: ") == 1
    assert "  not converted, so that loading takes longer: cannot write " in text
    assert "mirrored, as it should be" in text
    HandModel(tmp_path)


def test_check_of_one_hand_reports_it_before_it_asks_for_the_other(tmp_path, built_in):
    lines = check_mano(save_licensed(tmp_path, {"right": built_in["right"]}))
    assert "MANO_RIGHT.pkl" in next(lines)
    with pytest.raises(InputError, match=r"has no MANO_LEFT.pkl"):
        list(lines)
    assert (tmp_path / "MANO_RIGHT.npz").exists()
