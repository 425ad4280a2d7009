"""A wish to stop while a run tokenizes or exports: nothing half-written, and the same call goes on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import potstill
from potstill.context import Context
from potstill.errors import Interrupted
from potstill.progress import Bar, Progress
from potstill.testing import assert_same_weights
from potstill.testing.tiny import student_only, write_data


class Asking(Progress):
    """Asks for a stop as soon as a bar of this name begins; its notes are kept."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        self.asked = False
        self._name = name
        self._context: Context | None = None
        begin = Context.__init__

        def noted(context: Context, *words: object, **named: object) -> None:
            begin(context, *words, **named)  # type: ignore[arg-type]
            self._context = context

        monkeypatch.setattr(Context, "__init__", noted)

    @contextmanager
    def bar(self, name: str, total: int | None, done: int = 0) -> Iterator[Bar]:
        if name.startswith(self._name) and not self.asked:
            assert self._context is not None
            self.asked = self._context.stop.requested = True
        yield Bar()


@pytest.mark.parametrize("bar", ["tokens of data.train", "student (onnx)"])
def test_a_stop_breaks_long_work_off_and_the_same_call_goes_on(
    bar: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POTSTILL_CACHE", str(tmp_path / "cache"))
    data = write_data(tmp_path, train=24, validation=12)
    tables = {**student_only(), "export": {"plugins": ["onnx"], "onnx": {"time": False, "quantize": False}}}
    asking = Asking(monkeypatch, bar)
    with pytest.raises(Interrupted, match="the same command goes on"):
        potstill.run(tables, folder=tmp_path / "run", data_root=data, progress=asking)
    assert asking.asked
    assert not (tmp_path / "run/export").exists()
    assert not (tmp_path / "run/result.json").exists()
    assert not [path for path in tmp_path.rglob("*.tmp") if "datasets" not in str(path)]
    monkeypatch.undo()
    monkeypatch.setenv("POTSTILL_CACHE", str(tmp_path / "cache"))
    potstill.run(tables, folder=tmp_path / "run", data_root=data)
    assert (tmp_path / "run/export/model.onnx").is_file()
    potstill.run(tables, folder=tmp_path / "whole", data_root=data)
    assert_same_weights(tmp_path / "whole", tmp_path / "run", "plain")
