"""Finding NVIDIA's apex: every way in which it is not there is one sentence, told from real folders on the path."""

from __future__ import annotations

import re
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from potstill_apex.found import find

from potstill.errors import PluginError


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that is the first on the path; what is imported from it is forgotten afterwards."""
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.split(".")[0] == "apex"]:
        monkeypatch.delitem(sys.modules, name)
    yield tmp_path
    for name in [name for name in sys.modules if name.split(".")[0] == "apex"]:
        del sys.modules[name]


def package(folder: Path, *parts: str, says: str = "") -> None:
    for part in ("", *parts):
        place = folder / "apex" / part
        place.mkdir(parents=True, exist_ok=True)
        (place / "__init__.py").write_text("" if part else says)


def refusal(device: str = "cuda", parts: tuple[str, ...] = ("optimizers",), opt_level: str | None = None) -> str:
    with pytest.raises(PluginError) as caught:
        find(device, parts, opt_level)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.skipif(find_spec("apex") is not None, reason="there is an apex here")
def test_without_apex_it_is_said_how_to_build_it_and_what_torch_has(installed: Path) -> None:
    told = refusal()
    assert told.startswith("The plugin 'apex' needs NVIDIA apex, which is not installed: build NVIDIA's in a clone of")
    for part in ("APEX_CPP_EXT=1 APEX_CUDA_EXT=1 pip install --no-build-isolation .", "on PyPI is another project"):
        assert part in told
    assert told.endswith("torch's fused AdamW is the default anyway, and the plugin 'amp' computes in mixed precision.")


def test_the_login_toolkit_of_the_same_name_is_told_apart_and_not_run(installed: Path) -> None:
    package(installed, "ext", "lib", "scaffolds", says="raise SystemExit('ran')")
    assert re.match(rf"The package 'apex' in {installed}/apex is not NVIDIA's but another project", refusal())


def test_a_device_that_is_no_cuda_one_is_refused(installed: Path) -> None:
    package(installed, "optimizers", "normalization")
    assert refusal("cpu").startswith("NVIDIA apex computes on CUDA devices alone, and this run is on 'cpu'; ")


@pytest.mark.parametrize(("part", "kernels"), [("optimizers", "amp_C"), ("layer norms", "fused_layer_norm_cuda")])
def test_a_build_without_kernels_is_refused(part: str, kernels: str, installed: Path) -> None:
    package(installed, "optimizers", "normalization")
    told = refusal(parts=(part,))
    assert told.startswith(
        f"This NVIDIA apex was built without its fused {part} ({kernels} is missing): build NVIDIA's"
    )


def test_an_apex_whose_amp_was_deleted_is_refused_for_an_opt_level_alone(installed: Path) -> None:
    package(installed, "optimizers", "normalization")
    told = refusal(parts=(), opt_level="O2")
    assert told.startswith("opt_level = 'O2' needs apex.amp, which this NVIDIA apex does not have any more")
    assert told.endswith("add the plugin 'amp' with dtype = 'float16'.")
    assert find("cuda", (), None).optimizers


def test_an_apex_that_cannot_be_imported_is_refused_with_its_own_reason(installed: Path) -> None:
    package(installed, "optimizers", says="raise ImportError('libcudart.so.11: no such file')")
    assert refusal(parts=()).startswith(
        "NVIDIA apex cannot be imported (libcudart.so.11: no such file): build NVIDIA's in"
    )


def test_a_whole_one_is_found_with_the_parts_asked_for(installed: Path) -> None:
    package(installed, "optimizers", "normalization", "amp")
    (installed / "amp_C.py").write_text("")
    apex = find("cuda", ("optimizers",), "O1")
    assert apex.__file__ == str(installed / "apex" / "__init__.py")
    assert apex.amp.__name__ == "apex.amp"
