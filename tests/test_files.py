import os
from pathlib import Path

import pytest
from filelock import Timeout

from dne_lib.files import InputError, claim_folder, locked, read_json, write_bytes


def test_what_cannot_be_read_is_named(tmp_path, monkeypatch):
    (tmp_path / "half.json").write_text('{"a": ')
    for name, words in (
        ("none.json", "does not exist"),
        ("half.json", "is not valid JSON"),
        ("", "Is a directory"),
    ):
        with pytest.raises(InputError, match=words) as error:
            read_json(tmp_path / name)
        assert str(tmp_path / name) in str(error.value)

    def refuse(_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(InputError, match=r"cannot read .*Permission denied.*another folder"):
        claim_folder(tmp_path, "check")


def test_what_another_process_is_writing_is_no_other_file(tmp_path):
    (tmp_path / "..dne-check.x1y2").touch()
    claim_folder(tmp_path, "check")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "..dne-run.x1y2").touch()
    with pytest.raises(InputError, match="no check of ours"):
        claim_folder(tmp_path / "other", "check")


def test_an_interrupted_writing_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    write_bytes(tmp_path / "weights", b"old")
    monkeypatch.setattr(Path, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_bytes(tmp_path / "weights", b"new")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]


def test_files_are_as_open_to_others_as_the_user_wants(tmp_path):
    for mask, mode in ((0o077, 0o600), (0o002, 0o664)):
        before = os.umask(mask)
        try:
            write_bytes(tmp_path / "weights", b"new")
        finally:
            os.umask(before)
        assert (tmp_path / "weights").stat().st_mode & 0o777 == mode


def test_names_need_not_be_text(tmp_path):
    name = os.fsdecode(b"caf\xe9.png")
    claim_folder(tmp_path / "of", "prediction", of=name)
    claim_folder(tmp_path / "of", "prediction", of=name)
    with pytest.raises(InputError, match="holds the prediction of"):
        claim_folder(tmp_path / "of", "prediction", of="another.png")


def test_a_lock_that_cannot_be_made_is_explained(tmp_path):
    (tmp_path / "a.lock").mkdir()
    with (
        pytest.raises(InputError, match=r"a\.lock .*: choose another folder"),
        locked(tmp_path / "a.lock"),
    ):
        pass


def test_a_lock_lets_one_in_at_a_time(tmp_path):
    path = tmp_path / "new" / "a.lock"
    with locked(path), pytest.raises(Timeout), locked(path, wait=False):
        pass
    with locked(path, wait=False):
        pass
