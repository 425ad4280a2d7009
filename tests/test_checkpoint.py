from __future__ import annotations

import copy
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from potstill import checkpoint
from potstill.checkpoint import (
    load_newest,
    random_state,
    read_tree,
    save,
    seed_everything,
    set_random_state,
    write_tree,
)
from potstill.errors import PotstillError

DTYPES = [
    torch.float32,
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.uint8,
    torch.bool,
]


def tensors() -> st.SearchStrategy[Tensor]:
    shapes = st.lists(st.integers(0, 3), max_size=3)

    def make(shape: list[int], dtype: torch.dtype, seed: int) -> Tensor:
        bits = torch.randint(-5, 6, shape, generator=torch.Generator().manual_seed(seed))
        return (bits / 3 if dtype.is_floating_point else bits % 4).to(dtype)

    return st.builds(make, shapes, st.sampled_from(DTYPES), st.integers(0, 99))


KEYS = st.text(max_size=4) | st.sampled_from(["$tensor", "$pairs", "$tuple", "a/b", "a", "1"])
PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=6)
TREES = st.recursive(
    PLAIN | tensors(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(KEYS | st.integers(0, 3), inner, max_size=4)
    ),
    max_leaves=10,
)


def same(one: Any, two: Any) -> bool:
    if type(one) is not type(two):
        return False
    if isinstance(one, Tensor):
        return one.dtype == two.dtype and one.shape == two.shape and torch.equal(one, two)
    if isinstance(one, dict):
        return list(one) == list(two) and all(same(one[key], two[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(two) and all(map(same, one, two))
    return bool(one == two)


# trees


@settings(deadline=None, max_examples=120)
@given(tree=st.dictionaries(KEYS | st.integers(0, 3), TREES, max_size=4))
def test_a_tree_comes_back_as_it_was(tmp_path_factory: pytest.TempPathFactory, tree: dict[Any, Any]) -> None:
    folder = tmp_path_factory.getbasetemp() / "tree"
    folder.mkdir(exist_ok=True)
    write_tree(folder, tree)
    assert same(read_tree(folder), tree)
    assert checkpoint.damage(folder) is None


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (0,), (2, 0, 3), (2, 3)])
def test_every_dtype_and_shape_comes_back(tmp_path: Path, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    value = torch.arange(6).resize_(shape).to(dtype)
    write_tree(tmp_path, {"value": value})
    back = read_tree(tmp_path)["value"]
    assert (back.dtype, back.shape) == (dtype, value.shape)
    assert torch.equal(back, value)


def test_tensors_whose_paths_look_alike_stay_apart(tmp_path: Path) -> None:
    tree = {"a/b": torch.tensor(1), "a": {"b": torch.tensor(2)}, "n": {1: torch.tensor(3), "1": torch.tensor(4)}}
    write_tree(tmp_path, tree)
    assert same(read_tree(tmp_path), tree)


def test_tied_and_transposed_tensors_are_written_each_whole(tmp_path: Path) -> None:
    weight = torch.arange(6.0).view(2, 3)
    tree = {"one": weight, "two": weight, "part": weight[1], "across": weight.T}
    write_tree(tmp_path, tree)
    assert same(read_tree(tmp_path), tree)


def test_numbers_that_are_not_finite_come_back(tmp_path: Path) -> None:
    write_tree(tmp_path, {"inf": float("inf"), "nan": float("nan"), "t": torch.tensor([float("nan"), -float("inf")])})
    back = read_tree(tmp_path)
    assert back["inf"] == float("inf")
    assert np.isnan(back["nan"])
    assert back["t"].isnan().tolist() == [True, False]


def test_bits_of_a_float_survive(tmp_path: Path) -> None:
    write_tree(tmp_path, {"x": 0.1 + 0.2, "y": 1e-323})
    assert read_tree(tmp_path) == {"x": 0.1 + 0.2, "y": 1e-323}


@pytest.mark.parametrize("value", [np.int64(3), {1, 2}, nn.Linear, b"x"])
def test_what_is_no_plain_value_is_refused_with_its_path(tmp_path: Path, value: Any) -> None:
    with pytest.raises(TypeError, match="'/plugins/mine' is a"):
        write_tree(tmp_path, {"plugins": {"mine": value}})


def test_a_key_that_json_cannot_give_back_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="'/plugins' has a tuple"):
        write_tree(tmp_path, {"plugins": {(1, 2): 3}})


def test_the_state_of_an_optimizer_comes_back_and_goes_on_alike(tmp_path: Path) -> None:
    def trained(updates: int, load: Path | None = None) -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        model = nn.Linear(3, 2)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
        if load is not None:
            state = read_tree(load)
            model.load_state_dict(state["model"])
            optimizer.load_state_dict(state["optimizer"])
        for _ in range(updates):
            optimizer.zero_grad()
            model(torch.ones(1, 3)).square().sum().backward()
            optimizer.step()
        return model, optimizer

    model, optimizer = trained(3)
    write_tree(tmp_path, {"model": model.state_dict(), "optimizer": optimizer.state_dict()})
    assert torch.equal(trained(2, tmp_path)[0].weight, trained(5)[0].weight)  # type: ignore[arg-type]


# checkpoints


def newest(folder: Path) -> tuple[Any, list[str]]:
    notes: list[str] = []
    state = load_newest(folder, notes.append)
    return state, notes


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def empty_manifest(path: Path) -> None:
    path.write_text("{}")


DAMAGES: dict[str, tuple[str, Callable[[Path], Any], str]] = {
    "a flipped bit in the tensors": ("tensors.safetensors", flip, "tensors.safetensors is not what was written"),
    "a flipped bit in the state": ("state.json", flip, "state.json is not what was written"),
    "tensors cut short": ("tensors.safetensors", cut, "tensors.safetensors is not what was written"),
    "state cut short": ("state.json", cut, "state.json is not what was written"),
    "no tensors": ("tensors.safetensors", Path.unlink, "tensors.safetensors is missing"),
    "no state": ("state.json", Path.unlink, "state.json is missing"),
    "no manifest": ("manifest.json", Path.unlink, "manifest.json is missing or cut short"),
    "manifest cut short": ("manifest.json", cut, "manifest.json is missing or cut short"),
    "manifest without a byte": ("manifest.json", lambda path: path.write_text(""), "manifest.json is missing"),
    "manifest without a name": ("manifest.json", empty_manifest, "manifest.json is missing or cut short"),
    "manifest that is a list": ("manifest.json", lambda path: path.write_text("[]"), "manifest.json is missing"),
    "manifest of noise": ("manifest.json", lambda path: path.write_bytes(b"\xff\xfe"), "manifest.json is missing"),
}


def test_without_a_checkpoint_there_is_none(tmp_path: Path) -> None:
    assert newest(tmp_path / "checkpoints") == (None, [])


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_newest_checkpoint_falls_back_and_says_so(tmp_path: Path, damage: str) -> None:
    for update in (10, 20):
        save(tmp_path, update, {"update": update, "weight": torch.full((4,), float(update))})
    name, harm, reason = DAMAGES[damage]
    harm(tmp_path / "update-00000020" / name)
    state, notes = newest(tmp_path)
    assert state["update"] == 10
    assert state["weight"].tolist() == [10.0] * 4
    assert len(notes) == 1
    assert notes[0].startswith(f"The checkpoint update-00000020 is damaged ({reason}")


def test_when_all_are_damaged_it_is_an_error_and_nothing_is_removed(tmp_path: Path) -> None:
    for update in (10, 20):
        flip(save(tmp_path, update, {"update": update}) / "state.json")
    with pytest.raises(PotstillError, match=f"^Every checkpoint in {tmp_path} is damaged; remove the folder"):
        newest(tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    for update in (5, 10, 9_999, 100_000_000):
        save(tmp_path, update, {"update": update})
    kept = sorted(path.name for path in tmp_path.iterdir())
    assert len(kept) == checkpoint.KEEP
    assert newest(tmp_path)[0] == {"update": 100_000_000}


def test_after_a_fall_back_the_damaged_one_goes_and_the_whole_one_stays(tmp_path: Path) -> None:
    for update in (10, 20):
        save(tmp_path, update, {"update": update})
    flip(tmp_path / "update-00000020" / "state.json")
    assert newest(tmp_path)[0] == {"update": 10}
    save(tmp_path, 15, {"update": 15})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["update-00000010", "update-00000015"]


def test_a_checkpoint_of_the_same_update_is_replaced(tmp_path: Path) -> None:
    save(tmp_path, 10, {"try": 1})
    save(tmp_path, 10, {"try": 2})
    assert newest(tmp_path) == ({"try": 2}, [])
    assert [path.name for path in tmp_path.iterdir()] == ["update-00000010"]


def test_half_written_folders_are_passed_over_and_swept(tmp_path: Path) -> None:
    whole = save(tmp_path, 10, {"update": 10})
    draft = tmp_path / f".update-00000020.{2**30}.tmp"
    shutil.copytree(whole, draft)
    (draft / "state.json").unlink()
    assert newest(tmp_path) == ({"update": 10}, [])
    assert not draft.exists()


def test_a_save_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    save(tmp_path, 10, {"update": 10})
    with pytest.raises(TypeError):
        save(tmp_path, 20, {"update": 20, "bad": object()})
    assert [path.name for path in tmp_path.iterdir()] == ["update-00000010"]


def test_a_checkpoint_holds_json_and_safetensors_and_no_pickle(tmp_path: Path) -> None:
    path = save(tmp_path, 1, {"random": random_state(), "weight": torch.ones(2)})
    assert sorted(file.name for file in path.iterdir()) == ["manifest.json", "state.json", "tensors.safetensors"]
    json.loads((path / "state.json").read_text())
    length = int.from_bytes((path / "tensors.safetensors").read_bytes()[:8], "little")
    json.loads((path / "tensors.safetensors").read_bytes()[8 : 8 + length])
    source = Path(checkpoint.__file__).read_text()
    assert "pickle" not in source
    assert "torch.load" not in source
    assert "torch.save" not in source


# random generators


def draws() -> list[float]:
    return [
        *(random.random() for _ in range(3)),
        random.gauss(0, 1),
        *np.random.rand(3).tolist(),
        float(np.random.randn()),
        *torch.rand(3).tolist(),
        float(torch.randn(())),
    ]


@pytest.mark.parametrize("before", [0, 1, 7])
def test_the_random_generators_go_on_where_a_checkpoint_left_them(tmp_path: Path, before: int) -> None:
    """An odd number of normal draws, so that a kept second Gaussian is part of the state."""
    seed_everything(5)
    for _ in range(before):
        draws()
    save(tmp_path, 1, {"random": random_state()})
    expected = draws()
    seed_everything(6)
    assert draws() != expected
    set_random_state(newest(tmp_path)[0]["random"])
    assert draws() == expected


def test_one_seed_gives_one_sequence_and_another_another() -> None:
    def drawn(seed: int) -> list[float]:
        seed_everything(seed)
        return draws()

    assert drawn(3) == drawn(3)
    assert drawn(3) != drawn(4)
    assert drawn(2**32 - 1) == drawn(2**32 - 1)


def test_taking_the_random_state_changes_nothing() -> None:
    seed_everything(5)
    before = copy.deepcopy(random_state()["python"])
    assert random_state()["python"] == before
