from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import pytest

from potstill.errors import DiskError
from potstill.files import file_hash, new_folder, read_json, sweep_drafts, text_hash, write_json, write_text
from potstill.records import JsonLines, Sums, means_over_ranks

not_as_root = pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write anywhere")


GONE = 2**30
"""The number of a process that cannot be."""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_made_with_its_folders_and_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "note.txt"
    write_text(path, "eins\n")
    write_text(path, "zwei, 二\n")
    assert path.read_text(encoding="utf-8") == "zwei, 二\n"
    assert names(path.parent) == ["note.txt"]


def test_json_comes_back_and_keeps_its_signs(tmp_path: Path) -> None:
    value = {"name": "海", "numbers": [1, 2.5, None, True]}
    write_json(tmp_path / "x.json", value)
    assert read_json(tmp_path / "x.json") == value
    assert "海" in (tmp_path / "x.json").read_text(encoding="utf-8")


def test_a_text_that_cannot_be_written_leaves_the_old_file_and_no_draft(tmp_path: Path) -> None:
    path = tmp_path / "note.txt"
    write_text(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "\ud800")
    with pytest.raises(TypeError):
        write_json(path, object())
    assert (path.read_text(), names(tmp_path)) == ("old", ["note.txt"])


def test_a_disk_that_fails_leaves_the_old_file_and_no_draft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "note.txt"
    write_text(path, "old")

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskError, match=r"note\.txt cannot be written: no space is left on its disk"):
        write_text(path, "new")
    with (
        pytest.raises(DiskError, match=r"folder cannot be written: no space is left"),
        new_folder(tmp_path / "folder") as draft,
    ):
        (draft / "file").write_text("new")
    assert (path.read_text(), names(tmp_path)) == ("old", ["note.txt"])


def test_a_folder_has_its_name_only_when_its_block_is_over(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "model"
    with new_folder(path) as draft:
        (draft / "part").mkdir()
        (draft / "part" / "weights").write_text("w")
        assert not path.exists()
    assert (path / "part" / "weights").read_text() == "w"
    assert names(path.parent) == ["model"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("there", [False, True])
def test_a_block_that_raises_changes_nothing(tmp_path: Path, error: type[BaseException], there: bool) -> None:
    path = tmp_path / "model"
    if there:
        with new_folder(path) as draft:
            (draft / "weights").write_text("old")

    def broken() -> None:
        with new_folder(path) as draft:
            (draft / "weights").write_text("new")
            raise error

    with pytest.raises(error):
        broken()
    assert names(tmp_path) == (["model"] if there else [])
    if there:
        assert (path / "weights").read_text() == "old"


def test_replacing_a_folder_leaves_nothing_of_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "model"
    for name in ("old", "new"):
        with new_folder(path) as draft:
            (draft / name).write_text(name)
    assert names(path) == ["new"]
    assert names(tmp_path) == ["model"]


def test_what_a_killed_process_left_is_swept(tmp_path: Path) -> None:
    (tmp_path / f".model.{GONE}.tmp").mkdir()
    (tmp_path / f".model.{GONE}.tmp" / "weights").write_text("half")
    (tmp_path / f".note.txt.{GONE}.tmp").write_text("half")
    (tmp_path / f".model.{GONE}.old").mkdir()
    others = [".hidden", ".notes.old", ".notes.tmp", "model", "other.tmp"]
    for name in others:
        (tmp_path / name).mkdir()
    sweep_drafts(tmp_path)
    assert names(tmp_path) == others


def test_a_folder_that_cannot_take_its_place_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model"
    with new_folder(path) as draft:
        (draft / "weights").write_text("old")
    rename = Path.rename

    def stopped(self: Path, target: Path) -> Path:
        if self.suffix == ".tmp":
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", stopped)
    with pytest.raises(KeyboardInterrupt), new_folder(path) as draft:
        (draft / "weights").write_text("new")
    assert names(tmp_path) == ["model"]
    assert (path / "weights").read_text() == "old"


def test_a_kill_between_moving_aside_and_replacing_gives_the_old_folder_back(tmp_path: Path) -> None:
    path = tmp_path / "update-00000010"
    with new_folder(path) as draft:
        (draft / "weights").write_text("old")
    path.rename(tmp_path / f".update-00000010.{GONE}.old")
    (tmp_path / f".update-00000010.{GONE}.tmp").mkdir()
    sweep_drafts(tmp_path)
    assert names(tmp_path) == ["update-00000010"]
    assert (path / "weights").read_text() == "old"


def test_what_a_process_is_still_writing_is_left_to_it(tmp_path: Path) -> None:
    writing = [f".model.{os.getppid()}.{end}" for end in ("old", "tmp")]
    for name in writing:
        (tmp_path / name).mkdir()
    sweep_drafts(tmp_path)
    assert names(tmp_path) == writing


def test_what_another_machine_writes_into_a_shared_folder_is_left_to_it_for_a_day(tmp_path: Path) -> None:
    young, forgotten = (tmp_path / f".{name}.00c0ffee-{GONE}.tmp" for name in ("young", "forgotten"))
    for draft in (young, forgotten):
        draft.mkdir()
        (draft / "weights").write_text("half")
    for path in (forgotten / "weights", forgotten):
        os.utime(path, (time.time() - 90_000,) * 2)
    (tmp_path / f".moved-aside.00c0ffee-{GONE}.old").mkdir()
    sweep_drafts(tmp_path)
    assert names(tmp_path) == [young.name, "moved-aside"]


def test_sweeping_where_nothing_is_does_nothing(tmp_path: Path) -> None:
    sweep_drafts(tmp_path / "none")
    assert not (tmp_path / "none").exists()


@not_as_root
def test_a_folder_that_may_not_be_written_is_an_error_and_stays(tmp_path: Path) -> None:
    write_text(tmp_path / "note.txt", "old")
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(DiskError, match="permission is denied"):
            write_text(tmp_path / "note.txt", "new")
        with pytest.raises(DiskError, match="permission is denied"), new_folder(tmp_path / "model"):
            pass
        assert (tmp_path / "note.txt").read_text() == "old"
    finally:
        tmp_path.chmod(0o700)


def test_a_file_in_place_of_a_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("file")
    with pytest.raises((FileExistsError, NotADirectoryError)):
        write_text(tmp_path / "a" / "note.txt", "new")
    with pytest.raises((FileExistsError, NotADirectoryError)), new_folder(tmp_path / "a" / "model"):
        pass
    assert names(tmp_path) == ["a"]


def test_hashes_are_sha_256(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes("海\n".encode())
    expected = hashlib.sha256("海\n".encode()).hexdigest()
    assert file_hash(tmp_path / "x") == text_hash("海\n") == expected


# records


def test_lines_after_a_checkpoint_are_taken_back(tmp_path: Path) -> None:
    log = JsonLines(tmp_path / "metrics.jsonl")
    assert log.size == 0
    log.add({"update": 1, "name": "海"})
    size = log.size
    log.add({"update": 2})
    log.cut(size)
    assert log.path.read_text(encoding="utf-8") == '{"update": 1, "name": "海"}\n'
    assert log.size == size


def test_a_log_that_was_lost_is_not_filled_up_with_zeros(tmp_path: Path) -> None:
    log = JsonLines(tmp_path / "metrics.jsonl")
    log.cut(100)
    assert log.path.read_bytes() == b""


def test_a_rank_that_does_not_write_leaves_no_file(tmp_path: Path) -> None:
    log = JsonLines(tmp_path / "metrics.jsonl", active=False)
    log.add({"update": 1})
    log.cut(0)
    assert log.size == 0
    assert names(tmp_path) == []


def test_sums_are_means_over_the_updates_that_had_the_term() -> None:
    sums = Sums()
    sums.add({"soft": 1.0, "hard": 5.0})
    sums.add({"soft": 2.0})
    again = Sums()
    again.load_state_dict(sums.state_dict())
    again.add({"soft": 6.0})
    assert means_over_ranks([again.take()]) == {"soft": 3.0, "hard": 5.0}
    assert means_over_ranks([again.take()]) == {}
    assert means_over_ranks([sums.take()]) == {"soft": 1.5, "hard": 5.0}
