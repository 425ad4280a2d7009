"""Every golden case that ships with the tests, and that the runner can fail."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.goldens.case import HERE, Case, read_cases
from tests.goldens.registry import CHECKS
from tests.goldens.runner import main, run

CASES = list(read_cases(HERE))


@pytest.mark.parametrize("case", CASES, ids=[f"{case.kind}-{case.id}" for case in CASES])
def test_the_case_s_outputs_are_the_reference_s(case: Case) -> None:
    outcome = run(case)
    if outcome.status == "not built":
        pytest.skip(f"no check for the kind {case.kind} yet")
    assert outcome.status == "ok", f"{outcome.note}: {outcome.error:.3g} times the tolerance"


def test_every_check_has_a_case() -> None:
    assert set(CHECKS) <= {case.kind for case in CASES}


def folder_of(kind: str, folder: Path) -> tuple[Path, Case]:
    """A folder of its own with the first case of a kind."""
    case = next(case for case in CASES if case.kind == kind)
    for file in (case.entry["file"], *case.entry.get("extra_files", ())):
        shutil.copy(HERE / file, folder)
    (folder / "index.json").write_text(json.dumps({"cases": [case.entry]}))
    return folder, case


BUILT = sorted(CHECKS)


@pytest.mark.parametrize("kind", BUILT)
def test_a_case_fails_when_any_of_its_outputs_is_off_by_more_than_the_tolerance(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, case = folder_of(kind, tmp_path)
    path = folder / case.entry["file"]
    tensors = load_file(path)
    assert main(folder) == 0
    for name in case.outputs:
        off = {**tensors, name: tensors[name].clone()}
        last = off[name].view(-1)[-1:]
        rtol, atol = case.tolerance(name)
        beyond = max(1e-6, 2 * atol) + max(1e-6, 2 * rtol) * last.abs()
        last += beyond if last.is_floating_point() else 1
        save_file(off, path)
        capsys.readouterr()
        assert main(folder) == 1, name
        assert capsys.readouterr().out.startswith(f"FAIL       {kind}")


def test_an_output_that_is_not_computed_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, case = folder_of("kd_span_squad", tmp_path)
    tensors = {**load_file(folder / case.entry["file"]), "loss_new": torch.zeros(())}
    save_file(tensors, folder / case.entry["file"])
    entry = {**case.entry, "tensors": {**case.entry["tensors"], "loss_new": {"role": "output"}}}
    (folder / "index.json").write_text(json.dumps({"cases": [entry]}))
    assert main(folder) == 1
    assert "not computed: loss_new" in capsys.readouterr().out


def test_an_unknown_kind_is_not_built_and_does_not_fail(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    entry = {"id": "x", "kind": "of_tomorrow", "file": "none.safetensors", "tensors": {}}
    (tmp_path / "index.json").write_text(json.dumps({"cases": [entry]}))
    assert main(tmp_path) == 0
    assert capsys.readouterr().out.splitlines()[0].split() == ["not", "built", "of_tomorrow", "x", "-"]


def test_a_missing_file_fails_its_own_case_and_a_folder_without_index_says_so(tmp_path: Path) -> None:
    assert main(tmp_path) == 2
    folder, case = folder_of("hinton_kd_grid", tmp_path)
    (folder / case.entry["file"]).unlink()
    assert main(folder) == 1
