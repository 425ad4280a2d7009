"""The end of a run: the student's own folder with its card, and its exports."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from potstill import loader
from potstill.batch import Batch
from potstill.context import Context, cache_folder
from potstill.data.batching import in_order
from potstill.data.examples import Examples
from potstill.errors import UserError
from potstill.evaluate import evaluate
from potstill.export import Artifact, ExportJob
from potstill.files import new_folder, read_json, write_json, write_text
from potstill.models import load_model, read_card
from potstill.progress import Progress
from potstill.saved import open_saved

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


def outside_teacher(context: Context, results: Mapping[str, StageResult]) -> dict[str, Any] | None:
    """Scores of a teacher that came from outside and so has no stage of its own; None where there is none."""
    fresh = [plan for plan in context.recipe.stages if plan.teacher == "fresh" and plan.plugins]
    if not fresh or any(plan.trains == "teacher" for plan in context.recipe.stages):
        return None
    from potstill.stage import Stage

    stage = Stage(context, fresh[-1])
    with stage.exit:
        if not stage.looks_at_teacher:
            return None
        rows = stage.examples("validation")
        module = stage.teacher.module
        scores = None
        if rows is not None and not stage.teacher.fresh:
            scores = evaluate(module, rows, context.task, context.ranks, teacher_inputs=True)
        parameters = sum(parameter.numel() for parameter in module.parameters())
        return {"metrics": scores, "parameters": parameters, "bytes": 4 * parameters}


def export_student(context: Context, last: StageResult, run: Path) -> list[Artifact]:
    """Runs the recipe's export plugins on the finished student; the teacher it learnt from is there to compare."""
    assert context.recipe.export is not None
    plan = next(plan for plan in context.recipe.stages if plan.name == last.name)
    student = load_model(run / "model", context.task)
    teacher = load_model(context.find(plan.teacher), context.task) if plan.teacher and plan.teacher != "fresh" else None
    if plan.teacher == "fresh":
        teacher = _fresh_teacher(context, plan.name)
    rows = context.examples("validation", student.tokenizer, teacher.tokenizer if teacher else None)
    if rows is None:
        raise UserError("An export is proven on validation rows, and the recipe names no data.validation.")

    def job(folder: Path) -> ExportJob:
        return ExportJob(
            student, teacher, context.task, folder, batches_of(rows), context.recipe.data.max_length, context.progress
        )

    options = {name: context.recipe.export.options_of(name) for name in context.recipe.export.plugins}
    return write_exports(options, job, run / "export")


def _fresh_teacher(context: Context, name: str) -> Any:
    """The recipe's own teacher, where a stage looked at it."""
    from potstill.stage import Stage

    stage = Stage(context, next(plan for plan in context.recipe.stages if plan.name == name))
    with stage.exit:
        return stage.teacher if stage.looks_at_teacher and not stage.teacher.fresh else None


def write_exports(
    options: Mapping[str, Mapping[str, Any]], job: Callable[[Path], ExportJob], folder: Path
) -> list[Artifact]:
    """Runs export plugins into a folder that appears only when all of them are done, each with its facts as JSON."""
    plugins = loader.make_plugins(list(options), {name: dict(table) for name, table in options.items()})
    manager = loader.manager(plugins)
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
    return lambda size: (rows.batch(indices) for indices in in_order(rows.lengths, size))


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
    saved = open_saved(model)
    if validation is None:
        validation, data_root = _rows_of_run(model, data_root)
    compared = load_model(teacher) if teacher is not None else None
    rows = saved.examples(
        validation, data_root or Path.cwd(), cache_folder(), teacher=compared.tokenizer if compared else None
    )
    told = progress or Progress()

    def job(folder: Path) -> ExportJob:
        return ExportJob(saved.model, compared, saved.task, folder, batches_of(rows), saved.max_length, told)

    return write_exports(plugins, job, out)


def _rows_of_run(model: Path, data_root: Path | None) -> tuple[str, Path]:
    recorded = model.parent / "environment.json"
    if not read_card(model) or not recorded.is_file():
        raise UserError(f"An export of {model} needs rows to prove it on: give --validation FILE.")
    from potstill.recipe import load

    validation = load(model.parent / "recipe.toml").data.validation
    if validation is None:
        raise UserError(f"The run in {model.parent} had no validation rows; give --validation FILE.")
    return validation, data_root or Path(read_json(recorded)["data_root"])
