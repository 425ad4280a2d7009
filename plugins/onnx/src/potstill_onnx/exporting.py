"""The models of one export, each with its files, its scores and the proof that it is what it was in torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from potstill.batch import Batch
from potstill.errors import PotstillError
from potstill.export import ExportJob
from potstill_onnx.config import Kind, OnnxConfig
from potstill_onnx.convert import convert, evaluating
from potstill_onnx.inputs import vocabulary_of
from potstill_onnx.parity import Agreement, Logits, agreement, grid, scores, torch_logits
from potstill_onnx.quantize import quantize
from potstill_onnx.session import Session

if TYPE_CHECKING:
    from potstill.data.examples import Examples

TEACHER, STUDENT, INT8 = "teacher (onnx)", "student (onnx)", "student (onnx int8)"
ROWS = 64  # of a validation batch

Outcome = tuple[Logits, Logits]


@dataclass(frozen=True)
class Side:
    """The student or the teacher, and the validation rows as it reads them (`ExportJob`)."""

    module: nn.Module
    batches: Callable[[int], Iterator[Batch]]
    rows: Examples | None

    @cached_property
    def like(self) -> dict[str, Tensor]:
        """The inputs of the first batch."""
        first = next(iter(self.batches(ROWS)), None)
        return first.student if first is not None else nothing()


@dataclass
class Exported:
    """One model in ONNX.

    Attributes:
        name: as in the run's table.
        files: the ONNX file, then that of its weights where it is apart.
        attention: how it is written.
        parameters: of the model in torch.
        scores: the task's metrics on the validation rows.
        parity: how far it is from the model in torch, JSON.
    """

    name: str
    files: list[Path]
    attention: Kind
    parameters: int
    scores: dict[str, float] = field(default_factory=dict)
    parity: dict[str, Any] = field(default_factory=dict)


class Exporter:
    """Exports a job's student, its INT8 copy and its teacher."""

    def __init__(self, job: ExportJob, config: OnnxConfig) -> None:
        self.job, self.config = job, config
        self.student = Side(job.student.module, job.batches, job.rows)

    def models(self) -> list[Exported]:
        """The teacher where there is one and it can be exported, the student, its INT8 copy.

        Raises: PotstillError where the student cannot be exported, or is off by more than the tolerance.
        """
        student = self._proved(self.student, "model.onnx", STUDENT)
        models = [student]
        if self.config.quantize:
            models.append(self._int8(student))
        teacher = self._teacher() if self.config.teacher else None
        return [teacher, *models] if teacher else models

    def _teacher(self) -> Exported | None:
        job = self.job
        if job.teacher is None:
            return None
        own = (job.batches, job.rows) if job.teacher_batches is None else (job.teacher_batches, job.teacher_rows)
        try:
            return self._proved(Side(job.teacher.module, *own), "teacher.onnx", TEACHER)
        except PotstillError as error:
            # The teacher is only there to be compared with; the student is not lost for it.
            self.job.progress.note(f"The teacher is not compared in ONNX: {error}")
            return None

    def _int8(self, student: Exported) -> Exported:
        path = self.job.folder / "model.int8.onnx"
        files = quantize(student.files[0], path, per_channel=self.config.per_channel)
        exported = Exported(INT8, files, student.attention, student.parameters)
        found, _, exported.scores = self._compared(exported, self.student)
        exported.parity = {**asdict(found), "per_channel": self.config.per_channel}
        if found.equal_predictions is not None:
            self.job.progress.note(f"{INT8} predicts as torch's student on {found.equal_predictions:.2%} of the rows")
        return exported

    def _proved(self, side: Side, name: str, row: str) -> Exported:
        """A model in fp32 whose logits are torch's on the grid and on every validation row."""
        exported = self._converted(side.module, side.like, name, row)
        found, in_torch, exported.scores = self._compared(exported, side)
        exported.parity |= {**asdict(found), "torch": in_torch, "onnx": exported.scores}
        self._refuse(exported, found.max_difference, f"{found.rows} validation rows")
        whose = f"torch's {row.split()[0]}"
        self.job.progress.note(f"{row} is {whose} to {_worst(exported):.1e} on {found.rows} rows and the grid")
        return exported

    def _converted(self, module: nn.Module, like: Mapping[str, Tensor], name: str, row: str) -> Exported:
        job, config = self.job, self.config
        longest, wanted = job.max_length, config.attention
        written = convert(
            module, job.task, like, job.folder / name, max_length=longest, opset=config.opset, attention=wanted
        )
        if wanted == "auto" and written.attention == "plain":
            job.progress.note(
                f"{row}: a {type(module).__name__} has no attention that can be fused; its graph is plain"
            )
        parameters = sum(parameter.numel() for parameter in module.parameters())
        exported = Exported(row, written.files, written.attention, parameters)
        with evaluating(module):
            cases = grid(module, job.task, Session(written.files[0]), like, longest, vocabulary_of(module))
        exported.parity["grid"] = cases
        for case in cases:
            shape = f"batch {case['batch']} × length {case['length']}, {case['case']}"
            self._refuse(exported, case["max_difference"], shape)
        return exported

    def _refuse(self, exported: Exported, difference: float, where: str) -> None:
        if difference <= self.config.tolerance:  # NaN is not
            return
        for file in exported.files:
            file.unlink()
        hint = "; attention = 'plain' may be nearer" if exported.attention == "fused" else ""
        raise PotstillError(
            f"{exported.files[0].name} answers otherwise than torch: a logit is off by {difference:.2e} ({where}), "
            f"more than tolerance = {self.config.tolerance:g}; the file was removed{hint}."
        )

    def _compared(self, exported: Exported, side: Side) -> tuple[Agreement, dict[str, float], dict[str, float]]:
        """A model in ONNX against one in torch on every validation row, and the scores of torch's and of its own."""
        task, session = self.job.task, Session(exported.files[0])
        kept: tuple[list[Outcome], list[Outcome]] = ([], [])

        def answers() -> Iterator[tuple[Logits, Logits]]:
            with self.job.progress.bar(exported.name, None) as bar, evaluating(side.module):
                for batch in side.batches(ROWS):
                    both = torch_logits(side.module, task, batch.student), session.logits(batch.student)
                    for logits, part in zip(both, kept, strict=True):
                        part.append(task.outcome(torch.from_numpy(logits), batch))
                    bar.advance(len(batch))
                    yield both

        found = agreement(answers(), task.choice_axis)
        return found, scores(task, kept[0], side.rows), scores(task, kept[1], side.rows)


def _worst(exported: Exported) -> float:
    return max(float(part["max_difference"]) for part in (exported.parity, *exported.parity["grid"]))


def nothing() -> dict[str, Tensor]:
    """The inputs of a job without rows."""
    return {name: torch.zeros(1, 1, dtype=torch.long) for name in ("input_ids", "attention_mask", "token_type_ids")}
