"""The processes of a data-parallel run: who am I, and sums over all of us."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import cache
from time import monotonic, sleep
from typing import Any

import torch
import torch.distributed as dist
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env
from torch import Tensor

from potstill.errors import RankLost

_BUCKET = 2**24
"""Numbers per bucket when gradients are summed: 64 MB in fp32."""
_PATIENCE = timedelta(days=7)
"""How long ranks wait for one that tokenizes or exports; of one that is gone they hear at once."""
_FAREWELL = 3.0
"""Seconds that the first rank, which may keep the store, stays so that the others can ask who failed first."""


class Ranks:
    """This process among all of a run, as `accelerate launch` or `torchrun` started it; alone without them."""

    def __init__(self) -> None:
        # accelerate joins processes on CPUs only where it is told that there is nothing else.
        state = PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available())
        self.rank: int = state.process_index
        self.world: int = state.num_processes
        self.device: torch.device = state.device
        self.main: bool = state.is_main_process
        if self.world > 1:
            _patient_group()  # made by all of them together

    def wait(self) -> None:
        """Returns when every rank has come here, however long one of them works before."""
        if self.world > 1:
            with self._together():
                dist.barrier(group=_patient_group())

    def sum_ints(self, numbers: list[int]) -> list[int]:
        """The sums of whole numbers over all ranks."""
        if self.world == 1:
            return numbers
        total = torch.tensor(numbers, device=self.device)
        self._add_up(total)
        return [int(number) for number in total.tolist()]

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any rank."""
        return self.sum_ints([int(flag)])[0] > 0

    def gather(self, value: Any) -> list[Any]:
        """Every rank's value, in the order of ranks, on every rank."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        with self._together():
            dist.all_gather_object(values, value)
        return values

    def sum_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Sums `.grad` over all ranks, in buckets, once an update.

        A parameter that got a gradient on one rank only counts as zero on the others; one without a
        gradient on any rank stays without.
        """
        if self.world == 1:
            return
        have = torch.tensor(
            [parameter.grad is not None for parameter in parameters], device=self.device, dtype=torch.int
        )
        self._add_up(have)
        present = [parameter for parameter, some in zip(parameters, have.tolist(), strict=True) if some]
        for parameter in present:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        for bucket in _buckets([parameter.grad for parameter in present if parameter.grad is not None]):
            flat = torch.cat([gradient.reshape(-1) for gradient in bucket])
            self._add_up(flat)
            parts = torch.split(flat, [gradient.numel() for gradient in bucket])
            for gradient, part in zip(bucket, parts, strict=True):
                gradient.copy_(part.view_as(gradient))

    def _add_up(self, tensor: Tensor) -> None:
        with self._together():
            dist.all_reduce(tensor)

    @contextmanager
    def _together(self) -> Iterator[None]:
        """What fails within the block fails since another rank does not take part.

        Raises:
            RankLost: then.
        """
        try:
            yield
        except RuntimeError as error:
            raise RankLost(
                f"Another of the {self.world} processes of this run has ended or does not answer, so this one ends "
                "too; the same command goes on from the last checkpoint."
            ) from error


@cache
def _patient_group() -> Any:
    """All ranks, on the CPU, without the time limit that tells an update in which one hangs."""
    return dist.new_group(backend="gloo", timeout=_PATIENCE)


def end_together(code: int, say: Callable[[], None]) -> int:
    """Ends this process's part in a run that goes wrong, and returns the exit code for all.

    The first rank that comes here speaks, since the others fail for its sake; before they joined, the first of
    every machine.

    Args:
        code: this rank's own exit code.
        say: tells what went wrong.
    """
    if not dist.is_initialized():
        if os.environ.get("LOCAL_RANK", os.environ.get("RANK", "0")) == "0":
            say()
        return code
    rank, world = dist.get_rank(), dist.get_world_size()
    store = dist.distributed_c10d._get_default_store()
    try:
        first, told = (int(part) for part in store.compare_set("first", "", f"{rank} {code}").split())
    except RuntimeError:  # the store's keeper is gone
        say()
        return code
    if first == rank:
        say()
    _patient_group.cache_clear()
    dist.destroy_process_group()  # now the others hear of it
    with suppress(RuntimeError):
        here, deadline = store.add("ended", 1), monotonic() + _FAREWELL
        while rank == 0 and here < world and monotonic() < deadline:
            sleep(0.05)
            here = store.add("ended", 0)
    return told


def only_one_came() -> bool:
    """Whether `accelerate launch` was asked for several processes and started this one alone, as it does on CPUs."""
    return "ACCELERATE_USE_CPU" in os.environ and "MASTER_ADDR" in os.environ and not dist.is_initialized()


def _buckets(gradients: Sequence[Tensor]) -> list[list[Tensor]]:
    """Gradients in runs of one dtype and at most `_BUCKET` numbers (a larger one stands alone)."""
    buckets: list[list[Tensor]] = []
    size = 0
    for gradient in gradients:
        fits = buckets and buckets[-1][0].dtype == gradient.dtype and size + gradient.numel() <= _BUCKET
        if not fits:
            buckets.append([])
            size = 0
        buckets[-1].append(gradient)
        size += gradient.numel()
    return buckets
