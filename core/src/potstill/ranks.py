"""The processes of a data-parallel run: who am I, and sums over all of us."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env
from torch import Tensor

_BUCKET = 2**24
"""Numbers per bucket when gradients are summed: 64 MB in fp32."""


class Ranks:
    """This process among all of a run, as `accelerate launch` started it; alone without it."""

    def __init__(self) -> None:
        # accelerate joins processes on CPUs only where it is told that there is nothing else.
        state = PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available())
        self.rank: int = state.process_index
        self.world: int = state.num_processes
        self.device: torch.device = state.device
        self.main: bool = state.is_main_process

    def wait(self) -> None:
        """Returns when every rank has come here."""
        if self.world > 1:
            PartialState().wait_for_everyone()

    def sum_ints(self, numbers: list[int]) -> list[int]:
        """The sums of whole numbers over all ranks."""
        if self.world == 1:
            return numbers
        total = torch.tensor(numbers, device=self.device)
        dist.all_reduce(total)
        return [int(number) for number in total.tolist()]

    def gather(self, value: Any) -> list[Any]:
        """Every rank's value, in the order of ranks, on every rank."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
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
        dist.all_reduce(have)
        present = [parameter for parameter, some in zip(parameters, have.tolist(), strict=True) if some]
        for parameter in present:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        for bucket in _buckets([parameter.grad for parameter in present if parameter.grad is not None]):
            flat = torch.cat([gradient.reshape(-1) for gradient in bucket])
            dist.all_reduce(flat)
            parts = torch.split(flat, [gradient.numel() for gradient in bucket])
            for gradient, part in zip(bucket, parts, strict=True):
                gradient.copy_(part.view_as(gradient))


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
