"""What goes wrong with text, shards and disks: told, and nothing half-written or damaged taken for whole."""

from __future__ import annotations

import errno
import gc
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from potstill.corpus import reading, shards, sources, words
from potstill.errors import DataError, DiskError
from potstill.files import read_json, write_json
from potstill.testing.tiny import write_data
from tests.corpora import Notes, made, prepared, sequences, texts, write_text
from tests.kill import left_over


def cut_short(folder: Path) -> None:
    table = folder / "tokens.arrow"
    table.write_bytes(table.read_bytes()[:-100])


def flip(folder: Path) -> None:
    table = bytearray((folder / "tokens.arrow").read_bytes())
    table[len(table) // 2] ^= 1
    (folder / "tokens.arrow").write_bytes(table)


def lie(folder: Path) -> None:
    manifest = read_json(folder / "manifest.json")
    write_json(folder / "manifest.json", {**manifest, "rows": manifest["rows"] + 1})


def swap(folder: Path) -> None:
    """An index of other rows, with its right hash."""
    np.save(folder / "lengths.npy", np.full(3, 5, np.int32))
    manifest = read_json(folder / "manifest.json")
    hashes = {**manifest["sha256"], "lengths.npy": shards.file_hash(folder / "lengths.npy")}
    write_json(folder / "manifest.json", {**manifest, "sha256": hashes})


DAMAGE: dict[str, Callable[[Path], object]] = {
    "a table cut short": cut_short,
    "a flipped bit": flip,
    "no table": lambda folder: (folder / "tokens.arrow").unlink(),
    "no index": lambda folder: (folder / "lengths.npy").unlink(),
    "no counts": lambda folder: (folder / "counts.npy").unlink(),
    "no manifest": lambda folder: (folder / "manifest.json").unlink(),
    "half a manifest": lambda folder: (folder / "manifest.json").write_text('{"rows": 3, '),
    "a manifest that is a list": lambda folder: (folder / "manifest.json").write_text("[]"),
    "a manifest that lies": lie,
    "another index": swap,
    "an empty folder": lambda folder: [path.unlink() for path in folder.iterdir()],
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_shard_is_told_and_made_again(damage: str, tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt"):
        write_text(tmp_path / name, [*texts(9, seed=len(name + damage)), name])
    whole = sequences(prepared("a.txt + b.txt", tmp_path))
    [first, second] = [shard.folder for shard in prepared("a.txt + b.txt", tmp_path).shards]
    untouched = (second / "tokens.arrow").stat().st_mtime_ns
    DAMAGE[damage](first)
    notes = Notes()
    assert sequences(prepared("a.txt + b.txt", tmp_path, progress=notes)) == whole
    assert any(f"1 damaged shards were made again, such as {first}" in told for told in notes.told)
    assert (second / "tokens.arrow").stat().st_mtime_ns == untouched


def test_a_file_that_changes_while_it_is_prepared_is_refused_and_leaves_no_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "_CHARACTERS", 1)
    path = write_text(tmp_path / "a.txt", texts(5))
    found = words.Words.ids

    def meanwhile(self: words.Words, given: list[str]) -> object:
        with path.open("a") as file:
            file.write("one more\n")
        return found(self, given)

    monkeypatch.setattr(words.Words, "ids", meanwhile)
    with pytest.raises(DataError, match=f"{path} was changed while it was prepared; run again when it is finished."):
        prepared("a.txt", tmp_path)
    assert made(tmp_path / "cache") == {}
    monkeypatch.undo()
    assert sequences(prepared("a.txt", tmp_path))[-1][1:-1] == [1, 1]  # "one more", both unknown


def test_a_file_that_goes_away_while_it_is_prepared_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_text(tmp_path / "a.txt", texts(5))
    found = words.Words.ids
    monkeypatch.setattr(words.Words, "ids", lambda self, given: (path.unlink(), found(self, given))[1])
    with pytest.raises(DataError, match="a.txt went away while it was prepared; run again"):
        prepared("a.txt", tmp_path)


def test_a_damaged_row_is_refused_with_its_line_even_in_a_later_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "PART", 200)
    lines = [text.encode() for text in texts(40)]
    lines[31] = b"\xff\xfe wave"
    (tmp_path / "a.txt").write_bytes(b"\n".join(lines))
    with pytest.raises(DataError) as refused:
        prepared("a.txt", tmp_path)
    assert str(refused.value) == (
        f"{tmp_path}/a.txt, line 32: byte 0 of the line (0xff) is not UTF-8; save it as UTF-8 "
        '(data.corpus.bad_rows = "skip" leaves such rows out and counts them).'
    )
    notes = Notes()
    done = prepared("a.txt", tmp_path, bad_rows="skip", progress=notes)
    assert done.total("bad") == 1
    assert "1 damaged rows left out, such as" in notes.told[-1]
    # Prepared before by a recipe that skips, and asked for by one that does not.
    with pytest.raises(DataError, match="a.txt, line 32: byte 0"):
        prepared("a.txt", tmp_path)
    (tmp_path / "a.txt").rename(tmp_path / "b.txt")
    with pytest.raises(DataError, match="b.txt, line 32: byte 0"):
        prepared("b.txt", tmp_path)


def test_a_line_of_many_megabytes_is_one_document(tmp_path: Path) -> None:
    write_data(tmp_path)
    (tmp_path / "long.txt").write_text("wave tide " * 1_200_000)
    done = prepared("long.txt", tmp_path, length=32)
    assert done.total("documents") == 1
    assert int(done.table.lengths.sum()) - 2 * len(done.table) == 2_400_000
    assert {row[1] for row in sequences(done)[::1000]} <= set(sequences(done)[0])


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to mount a disk")
def test_a_full_disk_is_told_leaves_no_shard_and_the_same_call_goes_on(tmp_path: Path) -> None:
    cache = tmp_path / "disk"
    cache.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=200k", "none", str(cache)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no disk can be mounted here")
    try:
        write_text(tmp_path / "a.txt", texts(9000))
        with pytest.raises(DiskError, match="cannot be written: no space is left on its disk"):
            prepared("a.txt", tmp_path, cache=cache)
        assert made(cache) == {}
        assert left_over(cache) == []
        subprocess.run(["mount", "-o", "remount,size=20m", str(cache)], check=True)
        whole = sequences(prepared("a.txt", tmp_path, cache=cache))
        subprocess.run(["mount", "-o", "remount,ro", str(cache)], check=True)
        assert sequences(prepared("a.txt", tmp_path, cache=cache)) == whole  # reading needs no room
        write_text(tmp_path / "b.txt", texts(9))
        with pytest.raises(DiskError, match="its disk is read-only; name another place"):
            prepared("b.txt", tmp_path, cache=cache)
    finally:
        gc.collect()  # mapped files hold the disk
        subprocess.run(["umount", str(cache)], check=True)


def test_a_passing_trouble_of_the_disk_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_text(tmp_path / "a.txt", texts(20))
    opened = reading._opened

    class Failing:
        def __init__(self, file: Any) -> None:
            self._file, self._lines = file, 0

        def __enter__(self) -> Failing:
            return self

        def __exit__(self, *_: object) -> None:
            self._file.close()

        def readline(self, size: int) -> bytes:
            self._lines += 1
            if self._lines > 5:
                raise OSError(errno.EIO, "Input/output error")
            return self._file.readline(size)

    monkeypatch.setattr(reading, "_opened", lambda path, packed: Failing(opened(path, packed)))
    for bad_rows in ("refuse", "skip"):
        with pytest.raises(DataError, match="a.txt cannot be read on: Input/output error; the same command goes on"):
            prepared("a.txt", tmp_path, bad_rows=bad_rows)
    assert made(tmp_path / "cache") == {}
    monkeypatch.undo()
    assert prepared("a.txt", tmp_path, bad_rows="skip").total("documents") == 20
