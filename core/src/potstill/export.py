"""What an export plugin is given and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from potstill.batch import Batch
    from potstill.data.columns import Names
    from potstill.data.examples import Examples
    from potstill.models import Model
    from potstill.progress import Progress
    from potstill.tasks import Task


@dataclass(frozen=True)
class ExportJob:
    """One finished student to be written in another form.

    Attributes:
        student: module (eval mode, on the CPU) and tokenizer.
        teacher: the model the student learnt from, to be compared with; None where there is none.
        task: turns outputs into metrics (`task.score`).
        folder: where to write; made by the core, empty at the start.
        batches: the validation rows in order, as CPU batches: `batches(batch_size)`. `batch.student` are the
            student's inputs.
        max_length: the longest row in tokens that the run was made for.
        progress: what to tell the user while working.
        rows: the validation rows themselves, which some tasks score with a look at.
        columns: of the data, by role; None or "" where there is none, and for the label maybe several.
        teacher_batches: as `batches`, of a teacher with a tokenizer of its own: `batch.student` are its inputs, and the
            labels stand at its tokens. None where it reads what the student reads.
        teacher_rows: the rows of `teacher_batches`.
    """

    student: Model
    teacher: Model | None
    task: Task
    folder: Path
    batches: Callable[[int], Iterator[Batch]]
    max_length: int
    progress: Progress
    rows: Examples | None = None
    columns: Mapping[str, Names | None] = field(default_factory=dict)
    teacher_batches: Callable[[int], Iterator[Batch]] | None = None
    teacher_rows: Examples | None = None


@dataclass(frozen=True)
class Artifact:
    """What an export plugin wrote.

    Attributes:
        name: the plugin's name for it.
        files: every file written.
        rows: one row a measured model for the run's last table, by the column names of
            `potstill.report.table.COLUMNS`; at least "model".
        facts: anything more, JSON, kept in `export/<name>.json` and shown in the report.
    """

    name: str
    files: tuple[Path, ...]
    rows: tuple[dict[str, Any], ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)
