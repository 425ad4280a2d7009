"""A disk that is full or must not be written: one sentence, nothing half-written, and the same command goes on."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import tomli_w

import potstill.cli
from potstill.disk import refusal
from potstill.files import write_json, write_text
from potstill.testing import assert_same_weights
from potstill.testing.tiny import student_only, write_data
from tests.wrong import JARGON

Heard = Callable[[], str]
Mount = Callable[..., Path]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, a recipe of three epochs and its finished run."""
    root = write_data(tmp_path_factory.mktemp("place"), train=24, validation=12)
    (root / "r.toml").write_text(tomli_w.dumps(student_only(epochs=3, checkpoint_every=2)))
    assert potstill.cli.main(command(root, root / "whole")) == 0
    return root


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Mount]:
    """Mounts a disk of so many kilobytes, or gives the mounted one more."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(kilobytes: int, more: str = "") -> Path:
        again = "remount," if folder.is_mount() else ""
        options = f"{again}size={kilobytes}k{more}"
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", folder], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"no disk can be mounted here: {done.stderr.strip()}")
        return folder

    yield mount
    if folder.is_mount():
        subprocess.run(["umount", folder], check=True)


@pytest.fixture
def heard(capsys: pytest.CaptureFixture[str]) -> Heard:
    """The one sentence on standard error."""

    def hear() -> str:
        said = capsys.readouterr().err.strip()
        assert len(said.splitlines()) == 1, said
        assert not any(word in said for word in JARGON), said
        return said

    return hear


def command(place: Path, folder: Path) -> list[str]:
    return ["run", str(place / "r.toml"), "--folder", str(folder), "--quiet"]


def drafts(folder: Path) -> list[Path]:
    return [*folder.rglob("*.tmp"), *folder.rglob("*.old")]


@pytest.mark.parametrize(
    ("kilobytes", "every", "what"),
    [
        (4, 2, "recipe.toml"),
        (200, 2, "stages/01-plain/checkpoints/update-00000002"),
        (500, 2, "stages/01-plain/checkpoints/update-00000004"),
        (60, 1000, "stages/01-plain/best-weights"),
    ],
)
def test_a_disk_that_fills_during_a_run_is_a_sentence_and_with_more_room_the_run_ends_the_same(
    kilobytes: int, every: int, what: str, place: Path, disk: Mount, heard: Heard
) -> None:
    folder = disk(kilobytes) / "run"
    words = [*command(place, folder), "--set", f"stage.plain.checkpoint_every={every}"]
    assert potstill.cli.main(words) == 2
    said = heard()
    assert said.startswith(f"{folder / what}")
    assert "cannot be written: no space is left on its disk (0." in said
    assert said.endswith(" MB free); make room there and give the same command again.")
    assert not drafts(folder)
    disk(50_000)
    assert potstill.cli.main(words) == 0
    assert_same_weights(place / "whole", folder, "plain")


def test_a_full_disk_at_the_end_of_a_run_keeps_the_trained_stage(place: Path, disk: Mount, heard: Heard) -> None:
    kept = [path for path in (place / "whole").rglob("*") if "stages" in path.parts or path.suffix == ".toml"]
    # Blocks of 4 kB for what is there already and a little more, which the model does not fit into.
    folder = disk(4 * sum(1 + path.stat().st_size // 4096 for path in kept) + 20) / "run"
    shutil.copytree(place / "whole" / "stages", folder / "stages")
    for name in ("recipe.toml", "environment.json"):
        shutil.copy(place / "whole" / name, folder)
    assert potstill.cli.main(command(place, folder)) == 2
    assert f"{folder / 'model'}" in heard()
    assert not (folder / "model").exists()
    assert not drafts(folder)
    disk(50_000)
    assert potstill.cli.main(command(place, folder)) == 0
    assert_same_weights(place / "whole", folder, "plain")


@pytest.mark.parametrize("kilobytes", [16, 28])
def test_a_full_disk_under_the_cache_is_told_with_its_path(
    kilobytes: int, place: Path, tmp_path: Path, disk: Mount, heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = disk(kilobytes) / "cache"
    monkeypatch.setenv("POTSTILL_CACHE", str(cache))
    assert potstill.cli.main(command(place, tmp_path / "run")) == 2
    said = heard()
    assert said.startswith(str(cache))
    assert "no space is left" in said
    assert not drafts(cache)
    disk(50_000)
    assert potstill.cli.main(command(place, tmp_path / "run")) == 0


def test_a_full_disk_under_an_export_keeps_the_earlier_export(place: Path, disk: Mount, heard: Heard) -> None:
    out = disk(40) / "out"
    out.mkdir()
    write_json(out / "onnx.json", {"files": ["model.onnx"], "facts": {}})
    (out / "model.onnx").write_bytes(b"earlier")
    words = ["export", str(place / "whole"), "-p", "onnx:time=false,quantize=false", "--out", str(out), "--quiet"]
    assert potstill.cli.main(words) == 2
    said = heard()
    assert said.startswith(str(out))
    assert "cannot be written: no space is left on its disk" in said
    assert sorted(path.name for path in out.iterdir()) == ["model.onnx", "onnx.json"]
    assert (out / "model.onnx").read_bytes() == b"earlier"
    assert not drafts(out.parent)


def test_a_disk_that_is_read_only_is_a_sentence(place: Path, disk: Mount, heard: Heard) -> None:
    folder = disk(1000)
    here = str(
        shutil.copytree(place / "whole", folder / "whole", ignore=shutil.ignore_patterns("*.safetensors", "*.html"))
    )
    disk(1000, ",ro")
    for words in (
        command(place, folder / "run"),
        [*command(place, place / "r"), "--save-recipe", f"{folder}/s.toml"],
        ["report", here],
        ["compare", str(place / "whole"), here, "--html", f"{folder}/page.html"],
    ):
        assert potstill.cli.main(words) == 2
        assert "cannot be written: its disk is read-only; name another place." in heard()


@contextmanager
def limited(kind: int, value: int) -> Iterator[None]:
    before = resource.getrlimit(kind)
    resource.setrlimit(kind, (value, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(kind, before)


def test_a_file_that_may_not_grow_so_large_is_a_sentence(place: Path, tmp_path: Path, heard: Heard) -> None:
    with limited(resource.RLIMIT_FSIZE, 60_000):
        assert potstill.cli.main(command(place, tmp_path / "run")) == 2
    assert "update-00000002 cannot be written: it would be larger than `ulimit -f`" in heard()
    assert potstill.cli.main(command(place, tmp_path / "run")) == 0
    assert_same_weights(place / "whole", tmp_path / "run", "plain")


def test_too_many_open_files_are_a_sentence(place: Path, tmp_path: Path, heard: Heard) -> None:
    with limited(resource.RLIMIT_NOFILE, len(os.listdir("/proc/self/fd"))):
        code = potstill.cli.main(command(place, tmp_path / "run"))
    assert "too many files are open; raise the limit, as with `ulimit -n 4096`." in heard()
    assert code == 2


def test_a_name_that_is_too_long_is_a_sentence(place: Path, tmp_path: Path, heard: Heard) -> None:
    assert potstill.cli.main(command(place, tmp_path / ("x" * 300))) == 2
    assert "its name is too long; give a shorter one." in heard()


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Takes the superuser's rights from the test."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    yield
    os.seteuid(user)


def test_a_folder_without_the_right_to_write_is_a_sentence_and_stays(nobody: None) -> None:
    with pytest.raises(OSError, match="permission is denied; set its rights or name another place"):
        write_text(Path("/usr/potstill.txt"), "x")


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (RuntimeError("I/O error: No space left on device (os error 28)"), "no space is left"),
        (shutil.Error([("a", "b", "[Errno 122] Disk quota exceeded")]), "quota"),
        (OSError(13, "Permission denied", "x.csv"), "x.csv cannot be written: permission"),
        (OSError(1, "Operation not permitted"), "A file cannot be written: it is not permitted"),
        (FileNotFoundError(2, "No such file"), None),
        (ValueError("[Errno 2] no"), None),
        (json.JSONDecodeError("x", "", 0), None),
    ],
)
def test_what_the_system_refused_is_found_in_what_a_library_says(error: Exception, sentence: str | None) -> None:
    found = refusal(error)
    assert (found is None) if sentence is None else (sentence in str(found))
    wrapped = RuntimeError("wrapped")
    wrapped.__cause__ = error
    assert (refusal(wrapped) is None) == (sentence is None)
