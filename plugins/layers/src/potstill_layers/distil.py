"""The loss of the logits: soft targets with a temperature a row, and the label shifted to the top."""

from __future__ import annotations

from typing import TYPE_CHECKING

from potstill.errors import PluginError
from potstill_layers import schedules, soft

if TYPE_CHECKING:
    from torch import Tensor

    from potstill.batch import Batch
    from potstill.tasks import Prediction
    from potstill_layers.options import Options


def logit_loss(options: Options, student: Prediction, teacher: Tensor, batch: Batch) -> Tensor:
    """The distance of a prediction's logits from the teacher's [n, classes], a mean per row (`Prediction.per`).

    Raises: PluginError where an option has no meaning for the prediction.
    """
    if options.probability_shift:
        teacher = soft.probability_shift(teacher, _labels(student, batch))
    if student.kind == "value":  # no classes, so neither temperature nor entropy
        return soft.kd_mse(student.logits, teacher, 1.0)
    temperature = _temperature(options, student, teacher)
    if options.kd == "mse":
        return soft.kd_mse(student.logits, teacher, temperature, t_squared=options.scales, choices=student.choices)
    return soft.kd_ce(student.logits, teacher, temperature, t_squared=options.scales, kind=student.kind)


def _temperature(options: Options, student: Prediction, teacher: Tensor) -> soft.Temperature:
    """T, or one of its own for every row, [n].

    It stays at 1 or above (or at T, where that is below 1): the formula knows no bound, and a row of one batch should
    neither turn the teacher's opinion round nor end a run.
    """
    if options.temperature_schedule == "constant":
        return options.temperature
    if options.temperature_schedule == "flsw":
        weights = schedules.flsw_weights(student.logits, teacher, options.gamma, choices=student.choices)
    elif student.kind == "categorical":
        weights = schedules.cwsm_weights(student.logits)
    else:
        raise PluginError(
            f"temperature_schedule = 'cwsm' reads the highest of a row's probabilities, and '{student.name}' is "
            "several yes/no answers; take 'flsw' or 'constant'."
        )
    lowest = min(1.0, options.temperature) if options.reference is None else None
    return schedules.row_temperatures(options.temperature, weights, options.beta, lowest=lowest)


def _labels(student: Prediction, batch: Batch) -> Tensor:
    """The label of every row of logits, [n]."""
    if student.labels is not None:
        return student.labels
    if student.kind == "categorical" and batch.labels.shape == student.logits.shape[:-1]:
        return batch.labels
    raise PluginError(
        f"probability_shift needs one label for every row of logits, and '{student.name}' has logits "
        f"{list(student.logits.shape)} and labels {list(batch.labels.shape)}; leave it out."
    )
