"""Distributions, versions, entry points, the nine rules that a machine can check."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from importlib.metadata import entry_points
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECTS = [ROOT / "core", *sorted(path.parent for path in (ROOT / "plugins").glob("*/pyproject.toml"))]
ALGORITHMS = re.compile(
    r"\b(tiny_?bert|distilbert|mini_?lm|pp_?minilm|theseus|diito|hinton|fgm|pgd|bilstm)\b", re.IGNORECASE
)


def project(folder: Path) -> dict:
    return tomllib.loads((folder / "pyproject.toml").read_text())["project"]


def test_all_distributions_have_one_version() -> None:
    versions = {project(folder)["name"]: project(folder)["version"] for folder in [ROOT, *PROJECTS]}
    assert len(set(versions.values())) == 1, versions


def test_the_bundle_names_every_distribution() -> None:
    named = {line.split(">")[0] for line in project(ROOT)["dependencies"]}
    assert named == {project(folder)["name"] for folder in PROJECTS}


@pytest.mark.parametrize("folder", PROJECTS[1:], ids=lambda path: path.name)
def test_a_plugin_is_named_after_its_folder_and_requires_the_core(folder: Path) -> None:
    told = project(folder)
    assert told["name"] == f"potstill-{folder.name}"
    assert "potstill>=0.1,<0.2" in told["dependencies"]
    assert (folder / f"src/potstill_{folder.name}/__init__.py").is_file()
    assert (folder / "README.md").read_text().startswith(f"# potstill-{folder.name}")


def test_no_project_file_asks_for_apex() -> None:
    for folder in [ROOT, *PROJECTS]:
        told = project(folder)
        wanted = [
            *told["dependencies"],
            *(line for part in told.get("optional-dependencies", {}).values() for line in part),
        ]
        assert not [line for line in wanted if re.match(r"apex\b", line)]


def test_every_declared_entry_point_is_installed() -> None:
    for folder in PROJECTS:
        for group, names in project(folder).get("entry-points", {}).items():
            assert set(names) <= {point.name for point in entry_points(group=group)}


def test_the_core_names_no_algorithm_in_its_code() -> None:
    import io
    import tokenize

    found = []
    for path in sorted((ROOT / "core/src").rglob("*.py")):
        for token in tokenize.generate_tokens(io.StringIO(path.read_text()).readline):
            code = token.type == tokenize.NAME or (
                token.type == tokenize.STRING and not token.string.startswith(('"""', 'r"""'))
            )
            if code and ALGORITHMS.search(token.string):
                found.append(f"{path.relative_to(ROOT)}:{token.start[0]}: {token.string}")
    # examples in help texts may name a plugin, nothing else may
    assert [line for line in found if "/cli/" not in line] == []


def test_importing_the_package_loads_neither_torch_nor_transformers() -> None:
    code = (
        "import sys, potstill, potstill.recipe, potstill.loader, potstill.plugin, potstill.cli;"
        "print([name for name in ('torch', 'transformers', 'datasets') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_no_file_is_longer_than_400_lines() -> None:
    long = {
        str(path.relative_to(ROOT)): lines
        for folder in ("core", "plugins", "tests", "benchmarks")
        for path in (ROOT / folder).rglob("*.py")
        if (lines := len(path.read_text().splitlines())) > 400
    }
    assert long == {}
