from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import nn

from potstill import ranks
from potstill.ranks import Ranks
from tests.nursery import free_port

SCRIPT = """
import json, os, sys, time
from datetime import timedelta
import torch
from accelerate import PartialState
from potstill import ranks
from potstill.errors import RankLost
from potstill.ranks import Ranks

ranks._BUCKET = 8
PartialState(cpu=True, timeout=timedelta(seconds=1))
me = Ranks()
shapes = [(3, 4), (2,), (5,), (), (2, 2), (6,), (3,)]
kinds = [torch.float32] * 5 + [torch.float64, torch.float32]
parameters = [torch.nn.Parameter(torch.zeros(shape, dtype=kind)) for shape, kind in zip(shapes, kinds)]
mine = {0: [0, 1, 3, 5, 6], 1: [0, 2, 3, 4, 5]}[me.rank]
for number in mine:
    values = torch.arange(parameters[number].numel(), dtype=kinds[number]).reshape(shapes[number])
    parameters[number].grad = (values + 1) * (1 if me.rank == 0 else 100)
parameters[6].grad = None
parameters[4].grad = torch.ones(2, 2).T if me.rank else None
calls = []
reduce = torch.distributed.all_reduce
def counted(tensor, *args, **kwargs):
    calls.append([str(tensor.dtype), tensor.numel()])
    return reduce(tensor, *args, **kwargs)
torch.distributed.all_reduce = counted
me.sum_gradients(parameters)
torch.distributed.all_reduce = reduce
time.sleep(0 if me.rank else 2.5)
started = time.monotonic()
me.wait()
result = {
    "waited": time.monotonic() - started,
    "rank": me.rank, "world": me.world, "main": me.main,
    "gradients": [None if p.grad is None else p.grad.reshape(-1).tolist() for p in parameters],
    "calls": calls,
    "ints": me.sum_ints([me.rank + 1, 2**40]),
    "gather": me.gather({"rank": me.rank, "text": "x" * (me.rank + 1)}),
    "any": [me.any(False), me.any(me.rank == 1), me.any(True)],
}
me.wait()
time.sleep(0 if me.rank else 2.5)
try:
    me.sum_ints([1])
except RankLost as error:
    result["lost"] = str(error)
with open(sys.argv[1] + f"/{me.rank}.json", "w") as file:
    file.write(json.dumps(result))
os._exit(0)  # gloo's threads may abort a process that ends in order after it has lost the other
"""


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What two processes reported."""
    folder = tmp_path_factory.mktemp("ranks")
    (folder / "script.py").write_text(SCRIPT)
    shared = {
        **os.environ,
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "ACCELERATE_USE_CPU": "true",
        "OMP_NUM_THREADS": "1",
    }
    processes = [
        subprocess.Popen(
            [sys.executable, str(folder / "script.py"), str(folder)],
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        errors = [process.communicate(timeout=120)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], errors
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


# alone


def test_alone_everything_is_as_it_is() -> None:
    me = Ranks()
    assert (me.rank, me.world, me.main) == (0, 1, True)
    me.wait()
    assert me.sum_ints([3, 4]) == [3, 4]
    assert me.gather("x") == ["x"]
    layer = nn.Linear(2, 1)
    gradient = torch.ones(1, 2)
    layer.weight.grad = gradient
    me.sum_gradients(list(layer.parameters()))
    assert layer.weight.grad is gradient
    assert layer.bias.grad is None


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([], []),
        ([4, 4, 4], [[4, 4], [4]]),
        ([9, 1], [[9], [1]]),
        ([1, 9, 1], [[1], [9], [1]]),
        ([8, 0, 1], [[8, 0], [1]]),
    ],
)
def test_buckets_hold_so_many_numbers_and_a_large_gradient_stands_alone(
    sizes: list[int], expected: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranks, "_BUCKET", 8)
    buckets = ranks._buckets([torch.zeros(size) for size in sizes])
    assert [[gradient.numel() for gradient in bucket] for bucket in buckets] == expected


def test_a_bucket_holds_one_dtype() -> None:
    gradients = [
        torch.zeros(2),
        torch.zeros(2, dtype=torch.float64),
        torch.zeros(2, dtype=torch.float64),
        torch.zeros(1),
    ]
    assert [[gradient.numel() for gradient in bucket] for bucket in ranks._buckets(gradients)] == [[2], [2, 2], [1]]


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"ACCELERATE_USE_CPU": "True", "MASTER_ADDR": "127.0.0.1"}, True),  # accelerate launch --num_processes 2 --cpu
        ({"ACCELERATE_USE_CPU": "True"}, False),  # accelerate launch --num_processes 1 --cpu
        ({"MASTER_ADDR": "127.0.0.1"}, False),
    ],
)
def test_a_launch_of_several_processes_that_started_one_is_noticed(
    variables: dict[str, str], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ACCELERATE_USE_CPU", "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert ranks.only_one_came() is expected


# two processes


def test_two_processes_know_who_they_are(two: list[dict[str, Any]]) -> None:
    assert [(one["rank"], one["world"], one["main"]) for one in two] == [(0, 2, True), (1, 2, False)]


def test_gradients_are_summed_and_missing_ones_count_as_zero(two: list[dict[str, Any]]) -> None:
    """Rank 0 has 1, 2, 3, ... and rank 1 has 100, 200, 300, ...; the parameters 1 and 2 on one rank only, 6 on none."""
    expected = [
        [101.0 * (i + 1) for i in range(12)],
        [1.0, 2.0],
        [100.0 * (i + 1) for i in range(5)],
        [101.0],
        [1.0] * 4,
        [101.0 * (i + 1) for i in range(6)],
        None,
    ]
    assert two[0]["gradients"] == two[1]["gradients"] == expected


def test_gradients_travel_in_buckets(two: list[dict[str, Any]]) -> None:
    """First which are there (7 numbers); then 12 alone, 2 + 5 + 1, 4, and the doubles by themselves."""
    expected = [
        ["torch.int32", 7],
        ["torch.float32", 12],
        ["torch.float32", 8],
        ["torch.float32", 4],
        ["torch.float64", 6],
    ]
    assert two[0]["calls"] == two[1]["calls"] == expected


def test_sums_and_gathered_values_are_alike_on_every_rank_and_in_the_order_of_ranks(two: list[dict[str, Any]]) -> None:
    for one in two:
        assert one["ints"] == [3, 2**41]
        assert one["gather"] == [{"rank": 0, "text": "x"}, {"rank": 1, "text": "xx"}]


def test_a_flag_on_any_rank_is_known_to_all(two: list[dict[str, Any]]) -> None:
    assert [one["any"] for one in two] == [[False, True, True]] * 2


def test_ranks_wait_for_one_that_works_longer_than_the_time_limit_of_an_update(two: list[dict[str, Any]]) -> None:
    """The limit is 1 s here, and the first rank came 2.5 s after the other."""
    assert two[1]["waited"] > 1.5


def test_a_rank_that_does_not_take_part_is_noticed_after_the_time_limit(two: list[dict[str, Any]]) -> None:
    """Once more the first rank comes 2.5 s late, now for a sum."""
    assert two[1]["lost"].startswith("Another of the 2 processes of this run has ended or does not answer, so this one")
