"""The end of a run: the student's own folder with its card, and its exports."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from potstill import loader
from potstill.batch import Batch
from potstill.context import Context, cache_folder, same_tokenizer
from potstill.data.batching import in_order
from potstill.data.examples import Examples
from potstill.errors import FileError, UserError
from potstill.export import Artifact, ExportJob
from potstill.files import new_folder, read_json, write_json, write_text
from potstill.models import Model, check_length, load_model, load_trained, read_card
from potstill.progress import Progress
from potstill.recipe import StagePlan
from potstill.references import FRESH
from potstill.saved import Saved, open_saved

if TYPE_CHECKING:
    from potstill.training import StageResult


def publish(context: Context, last: StageResult, folder: Path) -> None:
    """Copies the finished student to its own folder, with a model card."""
    with new_folder(folder) as draft:
        shutil.copytree(last.model, draft, dirs_exist_ok=True)
        write_text(draft / "README.md", _card(context, last))


def _card(context: Context, last: StageResult) -> str:
    metrics = "\n".join(f"| {name} | {value:.4f} |" for name, value in (last.facts["metrics"] or {}).items())
    plugins = ", ".join(last.facts["plugins"]) or "none (the task's own loss)"
    return (
        f"---\nlibrary_name: transformers\ntags: [potstill, distillation]\n---\n\n# {context.recipe.name}\n\n"
        f"A student for {context.task.name} with {last.facts['parameters']:,} parameters, made by potstill "
        f"(stage '{last.name}', plugins: {plugins}, "
        f"{last.facts['updates']} updates over {last.facts['rows']:,} rows).\n\n"
        f"| metric (validation) | value |\n|---|---|\n{metrics}\n"
    )


def export_student(context: Context, last: StageResult, run: Path) -> list[Artifact]:
    """Runs the recipe's export plugins on the finished student; the teacher it learnt from is there to compare."""
    assert context.recipe.export is not None
    plan = next(plan for plan in context.recipe.stages if plan.name == last.name)
    student = load_model(run / "model", context.task)
    teacher = _teacher(context, plan, last)
    data = context.recipe.data
    rows = context.examples_alone("validation", student.tokenizer, None, data)
    assert rows is not None, "the context has seen that they are named"
    others = None
    if teacher is not None and not same_tokenizer(student.tokenizer, teacher.tokenizer):
        others = context.examples_alone("validation", teacher.tokenizer, None, data)

    def job(folder: Path) -> ExportJob:
        return ExportJob(
            student,
            teacher,
            context.task,
            folder,
            batches_of(rows),
            data.max_length,
            context.stoppable,
            rows,
            {"text": data.text, "text_pair": data.text_pair, "label": data.label},
            None if others is None else batches_of(others),
            others,
        )

    return write_exports(context.recipe.export.tables(), job, run / "export")


def _teacher(context: Context, plan: StagePlan, last: StageResult) -> Model | None:
    """The stage's teacher; the recipe's own one only where the stage looked at it."""
    if plan.teacher is None:
        return None
    if isinstance(plan.teacher, str) and plan.teacher != FRESH:
        found = load_model(context.find(plan.teacher), context.task)
        return None if found.fresh else found
    if not last.facts.get("teacher"):
        return None
    from potstill.stage import Stage

    stage = Stage(context, plan)
    with stage.exit:
        stage.teacher.module.cpu()
        return None if stage.teacher.fresh else stage.teacher


def write_exports(
    options: Mapping[str, Mapping[str, Any]], job: Callable[[Path], ExportJob], folder: Path
) -> list[Artifact]:
    """Runs export plugins into a folder that appears only when all of them are done, each with its facts as JSON."""
    manager = loader.manager(loader.export_plugins(options))
    with new_folder(folder) as draft:
        artifacts = [artifact for artifact in manager.hook.export(job=job(draft)) if artifact is not None]
        if not artifacts:
            raise UserError(f"None of the plugins {', '.join(options)} exports anything.")
        for artifact in artifacts:
            files = [str(file.relative_to(draft)) for file in artifact.files]
            facts = {"name": artifact.name, "files": files, "rows": list(artifact.rows), "facts": artifact.facts}
            write_json(draft / f"{artifact.name}.json", facts)
    return [_moved(artifact, draft, folder) for artifact in artifacts]


def _moved(artifact: Artifact, draft: Path, folder: Path) -> Artifact:
    files = tuple(folder / file.relative_to(draft) for file in artifact.files)
    return Artifact(artifact.name, files, artifact.rows, artifact.facts)


def batches_of(rows: Examples) -> Callable[[int], Iterator[Batch]]:
    """Rows as CPU batches, in an order of like lengths; `batch.index` tells which rows they are."""
    return lambda size: (rows.asked(indices) for indices in in_order(rows.lengths, size))


def export_folder(
    model: Path,
    plugins: Mapping[str, Mapping[str, Any]],
    out: Path,
    validation: str | None = None,
    teacher: Path | None = None,
    *,
    data_root: Path | None = None,
    progress: Progress | None = None,
) -> list[Artifact]:
    """Exports a saved model.

    Args:
        model: a folder that potstill saved, or any fine-tuned model's folder.
        plugins: options of each export plugin.
        out: where to write.
        validation: rows to prove it on; the run's own where the model lies in a run folder.
        teacher: a model folder to compare with.
    """
    if (stranger := _stranger(out)) is not None:
        raise UserError(f"'{stranger}' is no earlier export's, so '{out}' is not replaced; name another folder.")
    saved = open_saved(model)
    if validation is None:
        validation, data_root = _rows_of_run(model, data_root)
    root = data_root or Path.cwd()
    compared = _compared(teacher, saved) if teacher is not None else None
    rows, others = saved.examples(validation, root, cache_folder()), None
    if compared is not None and not same_tokenizer(saved.model.tokenizer, compared.model.tokenizer):
        others = compared.examples(validation, root, cache_folder())
    told = progress or Progress()

    def job(folder: Path) -> ExportJob:
        return ExportJob(
            saved.model,
            None if compared is None else compared.model,
            saved.task,
            folder,
            batches_of(rows),
            saved.max_length,
            told,
            rows,
            saved.columns,
            None if others is None else batches_of(others),
            others,
        )

    return write_exports(plugins, job, out)


def _compared(teacher: Path, saved: Saved) -> Saved:
    """The teacher in the place of a saved model; with a tokenizer of its own it reads as long rows as it was made for,
    since a number of tokens is another length of text then."""
    model, length = load_trained(teacher, saved.task), saved.max_length
    if not same_tokenizer(saved.model.tokenizer, model.tokenizer):
        length = read_card(teacher).get("max_length") or length
    check_length(model.module, length, "teacher")
    return replace(saved, model=model, max_length=length)


def _stranger(out: Path) -> Path | None:
    """The first file in the way of a folder that no export wrote; None where nothing would be lost."""
    if not out.is_dir():
        return out if out.exists() else None
    known = _exported(out)
    return next((path for path in sorted(out.rglob("*")) if not path.is_dir() and path not in known), None)


def _exported(out: Path) -> set[Path]:
    """What the exports in a folder wrote, by the facts that they left."""
    files: set[Path] = set()
    for path in out.glob("*.json"):
        with suppress(FileError):
            facts = read_json(path)
            if isinstance(facts, dict) and "facts" in facts:
                files |= {path, *(out / name for name in facts["files"])}
    return files


def _rows_of_run(model: Path, data_root: Path | None) -> tuple[str, Path]:
    recorded = model.parent / "environment.json"
    if not read_card(model) or not recorded.is_file():
        raise UserError(f"An export of {model} needs rows to prove it on: give --validation FILE.")
    from potstill.recipe import load

    validation = load(model.parent / "recipe.toml").data.validation
    if validation is None:
        raise UserError(f"The run in {model.parent} had no validation rows; give --validation FILE.")
    return validation, data_root or Path(read_json(recorded)["data_root"])
