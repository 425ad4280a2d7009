"""A frozen teacher in half precision, and how far its features are then from float32."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from potstill.errors import ModelError
from potstill.features import Feature
from potstill.observe import Observer, Outputs
from potstill.places import first_line

if TYPE_CHECKING:
    from potstill.data.examples import Examples
    from potstill.stage import Stage

CHECKED = 2
"""Micro-batches on which the features are compared."""


@dataclass(frozen=True)
class Difference:
    """How far a feature in half precision is from float32.

    Attributes:
        side: "teacher", or with a name "teacher NAME".
        feature: what is compared.
        share: the largest absolute difference over the largest absolute value in float32; inf where it overflows.
    """

    side: str
    feature: str
    share: float


def convert(module: nn.Module, dtype: torch.dtype) -> None:
    """Converts weights and what else a model is saved with; constants that it computes for itself stay exact.

    Rotary frequencies are such constants: in bfloat16 they would turn by wrong angles.
    """
    saved = module.state_dict().keys()
    constants = [(name, buffer) for name, buffer in module.named_buffers() if name not in saved]
    module.to(dtype)
    for name, buffer in constants:
        owner, _, last = name.rpartition(".")
        setattr(module.get_submodule(owner), last, buffer)


def lowered(stage: Stage, rows: Examples, dtype: torch.dtype) -> Difference | None:
    """Converts every teacher that is looked at; the feature that changes most by it, None without a teacher.

    Raises: ModelError where the device has an operation of a teacher's not in this dtype.
    """
    batches = [batch for group in stage.batches(rows, 0) for batch in group][:CHECKED]
    found = []
    for side in sorted(set(stage.observed) - {"student"}):
        observer = stage.observer(side)
        before = _features(stage, observer, rows, batches)
        convert(observer.module, dtype)
        try:
            after = _features(stage, observer, rows, batches)
        except RuntimeError as error:
            raise ModelError(
                f"The {side}, a {type(observer.module).__name__}, cannot compute in {str(dtype).split('.')[1]} on this "
                f'machine ({first_line(error).split(". ")[0]}); set teacher_dtype = "float32" in [stage.amp].'
            ) from error
        found += [
            Difference(side, getattr(name, "name", str(name)), difference(before[name], after[name])) for name in before
        ]
    everywhere = [one for part in stage.context.ranks.gather(found) for one in part]
    return max(everywhere, key=lambda one: one.share, default=None)


def difference(exact: Sequence[Tensor], rounded: Sequence[Tensor]) -> float:
    """The largest absolute difference as a share of the largest absolute value of `exact`.

    Args:
        exact, rounded: tensors of equal shapes, float32. What is the lowest float32 number in `exact` (the score of
            a masked key) is left out.
    """
    furthest = largest = 0.0
    for one, other in zip(exact, rounded, strict=True):
        seen = one > torch.finfo(one.dtype).min
        if seen.any():
            apart = float((one - other)[seen].abs().max())
            furthest = max(furthest, math.inf if math.isnan(apart) else apart)
            largest = max(largest, float(one[seen].abs().max()))
    return furthest / largest if largest else furthest


def check(found: Difference, dtype: str, tolerance: float) -> None:
    """Raises: ModelError where the difference is above the tolerance."""
    if found.share > tolerance:
        raise ModelError(
            f"In {dtype} {_told(found)}, and teacher_tolerance is {tolerance:g}; set "
            'teacher_dtype = "float32" in [stage.amp], or a larger teacher_tolerance.'
        )


def sentence(found: Difference, dtype: str, tolerance: float) -> str:
    """What the check found."""
    return f"in {dtype} {_told(found)} (teacher_tolerance {tolerance:g})."


def _told(found: Difference) -> str:
    return f"the {found.side} is off float32 by up to {found.share:.2g} of the largest value of {found.feature}"


def _features(stage: Stage, observer: Observer, rows: Examples, batches: Sequence[Any]) -> dict[Feature, list[Tensor]]:
    """Every observed feature, a tensor (three of queries, keys and values) a batch."""
    found: dict[Feature, list[Tensor]] = {feature: [] for feature in observer.features}
    for batch in batches:
        outputs = _outputs(stage, observer, rows.batch(batch).to(stage.context.ranks.device).teacher)
        for feature, values in found.items():
            value = outputs[feature]
            values.extend(value if isinstance(value, tuple) else [value])
    return found


@torch.no_grad()
def _outputs(stage: Stage, observer: Observer, inputs: dict[str, Tensor]) -> Outputs:
    raw, outputs = observer(inputs)
    return stage.with_logits(raw, outputs)
