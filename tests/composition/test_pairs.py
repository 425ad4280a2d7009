"""Every pair of plugins in one stage: it trains, resumes exactly, leaves nothing behind, and its student exports."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

import potstill
from potstill.discovery import PLUGINS, installed
from potstill.errors import UserError
from potstill.exporting import export_folder
from potstill.plugin_checks import hook_names
from potstill.testing import assert_resumes_exactly
from tests.composition.plugins import LANGUAGE, OPTIONS, PAIRS, REFUSED, together


@pytest.mark.parametrize("pair", [pair for pair in PAIRS if frozenset(pair) not in REFUSED], ids=" + ".join)
def test_a_pair_trains_resumes_exactly_and_exports_with_parity(
    pair: tuple[str, str], place: Path, tmp_path: Path
) -> None:
    after = random.Random(" ".join(pair)).randint(1, 4)
    tables = together(pair, "teacher")
    result = assert_resumes_exactly(tables, data=place, folder=tmp_path, stage="distil", after=after)
    assert result.stages["distil"]["updates"] == 5
    onnx = {"quantize": False, "time": False, "teacher": False}
    [artifact] = export_folder(tmp_path / "whole/model", {"onnx": onnx}, tmp_path / "export", data_root=place)
    [parity] = artifact.facts["parity"].values()
    assert parity["max_difference"] < 1e-5
    assert parity["onnx"]["accuracy"] == pytest.approx(result.metrics["accuracy"])


@pytest.mark.parametrize("pair", [tuple(sorted(pair)) for pair in REFUSED], ids=" + ".join)
def test_a_pair_that_makes_no_sense_is_refused_in_a_sentence(
    pair: tuple[str, str], place: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=REFUSED[frozenset(pair)]):
        potstill.run(together(pair, "teacher"), folder=tmp_path / "run", data_root=place)


def test_every_plugin_of_a_stage_is_among_the_pairs() -> None:
    classes = {found.name: found.load() for found in installed(PLUGINS)}
    ours = {name for name, cls in classes.items() if hook_names(cls) != {"export"}}
    alone = {"distilbert_student", "apex"}  # one makes a student, the other needs CUDA
    assert ours - {"core"} <= {*OPTIONS, *LANGUAGE, *alone}
