from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import nn

from potstill import ranks
from potstill.ranks import Ranks

SCRIPT = """
import json, sys
import torch
from potstill import ranks
from potstill.ranks import Ranks

ranks._BUCKET = 8
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
me.wait()
result = {
    "rank": me.rank, "world": me.world, "main": me.main,
    "gradients": [None if p.grad is None else p.grad.reshape(-1).tolist() for p in parameters],
    "calls": calls,
    "ints": me.sum_ints([me.rank + 1, 2**40]),
    "gather": me.gather({"rank": me.rank, "text": "x" * (me.rank + 1)}),
}
open(sys.argv[1] + f"/{me.rank}.json", "w").write(json.dumps(result))
torch.distributed.destroy_process_group()
"""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


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
        # Where a machine has nothing but CPUs, nobody need say so.
        **({"ACCELERATE_USE_CPU": "true"} if torch.accelerator.is_available() else {}),
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
