"""Running one stage to its end: train, take the best weights, finish the student, score it, save it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

import potstill
from potstill import checkpoint, loader
from potstill.context import Context
from potstill.data.examples import Examples
from potstill.details import Details
from potstill.discovery import PLUGINS, installed
from potstill.engine import Engine
from potstill.errors import PluginError
from potstill.evaluate import Measured, measure, measure_logits
from potstill.files import new_folder, read_json, sweep_drafts, write_json
from potstill.models import CARD
from potstill.named import as_plain, exchanged, naming, with_words
from potstill.outcomes import keep_outcomes
from potstill.plugin import Plugin
from potstill.recall import teacher_logits
from potstill.recipe import StagePlan
from potstill.references import FRESH, references, stage_named, tables_used
from potstill.runfolder import RunFolder, content_key
from potstill.settings import Reference
from potstill.stage import Stage, count_hooks
from potstill.stagemodels import MODULES

DETAILS = "details.json"
"""Beside a stage's result: where its model errs, and a teacher that came trained, by split."""
_TOLD = ("accuracy", "micro_f1", "macro_f1", "pearson", "perplexity", "loss")
"""The metrics that a stage's last line names, beside the one that decides."""


@dataclass(frozen=True)
class StageResult:
    """A finished stage.

    Attributes:
        name: of the stage.
        folder: of the stage; the model handed on is in `folder / "best"`.
        facts: its `result.json`.
    """

    name: str
    folder: Path
    facts: dict[str, Any]

    @property
    def model(self) -> Path:
        """The saved model that later stages go on from."""
        return self.folder / "best"

    @property
    def seconds(self) -> float:
        """Time spent in updates."""
        return float(self.facts["seconds"])


def run_stage(
    context: Context, plan: StagePlan, folder: Path, before: Mapping[str, StageResult], reuse: Sequence[RunFolder]
) -> StageResult:
    """Runs a stage, or takes it as it is where it is finished here or, with the same content, elsewhere."""
    path = folder / "result.json"
    if not path.is_file():
        key = _key(context, plan, before)
        twin = _finished_twin(key, reuse)
        context.ranks.wait()
        if twin is not None:
            if context.ranks.main:
                _copy(twin, folder)
                context.progress.note(f"{plan.name}: taken from {twin}, where the same stage is finished.")
            context.ranks.wait()
            _track(context, plan, folder)
        else:
            _train(context, plan, folder, key)
    else:
        _track(context, plan, folder)
    if context.ranks.main:
        _tidy(folder)
    result = StageResult(plan.name, folder, read_json(path))
    context.handed_on[plan.name] = result.model
    return result


def _track(context: Context, plan: StagePlan, folder: Path) -> None:
    """Sends trackers what they missed of a finished stage, since they are new or it was finished elsewhere."""
    curves = context.tracking.curves(plan.name, folder / "metrics.jsonl")
    curves.catch_up()
    curves.close()


def _train(context: Context, plan: StagePlan, folder: Path, key: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if context.ranks.main:
        sweep_drafts(folder.parent)
        sweep_drafts(folder)
    stage = Stage(context, plan)
    with stage.exit:
        engine = Engine(stage, folder)
        position = engine.train()
        engine.judge.load_best(position)
    _check_hooks(stage)
    finished = stage.hook.finish_student(student=stage.student.module)
    measured = {split: _measured(stage, finished, stage.examples(split)) for split in ("validation", "test")}
    teacher, teacher_measured = _outside_teacher(stage)
    if context.ranks.main:
        if stage.modules:
            with new_folder(folder / MODULES) as draft:
                checkpoint.write_tree(draft, stage.weights()["modules"])
        _save(stage, finished, folder / "best")
        if (answers := measured["validation"]) is not None and (kept := answers.kept) is not None:
            keep_outcomes(folder, *kept)
        details = {"model": _details(measured), "teacher": _details({"validation": teacher_measured})}
        write_json(folder / DETAILS, {whose: found for whose, found in details.items() if found})
        facts = {
            "stage": plan.name,
            "trains": plan.trains,
            "plugins": list(plan.plugins),
            "taught": _taught(stage),
            "explained": stage.explained,
            "key": key,
            "updates": position.update,
            "epochs": position.epoch + 1,
            "rows": len(engine.train_rows),
            "seconds": position.seconds,
            "kept": plan.keep if position.best is not None else "last",
            "metric": plan.metric or stage.task.metric,
            "best": {"update": position.best_update, "value": position.best},
            "metrics": _scores(measured["validation"]),
            "test": _scores(measured["test"]),
            "teacher": teacher,
            "parameters": sum(parameter.numel() for parameter in finished.parameters()),
            "bytes": sum(file.stat().st_size for file in (folder / "best").glob("*.safetensors")),
        }
        write_json(folder / "result.json", facts)
        context.progress.note(f"{plan.name}: {_sentence(facts, stage.task.metric)}")
    context.ranks.wait()


def _save(stage: Stage, finished: Any, folder: Path) -> None:
    """A folder that transformers reads, and beside the model what it was made for."""
    data = stage.recipe.data
    card = {
        "task": task_card(stage.context),
        "max_length": data.max_length,
        "text": data.text,
        "text_pair": data.text_pair,
        "label": data.label,
    }
    with new_folder(folder) as draft:
        finished.save_pretrained(draft)
        stage.student.tokenizer.save_pretrained(draft)
        write_json(draft / CARD, card)


def _tidy(folder: Path) -> None:
    """Drops what only a stage under way needs; a kill may have come between the result and this."""
    for name in ("checkpoints", "best-weights"):
        shutil.rmtree(folder / name, ignore_errors=True)


def _measured(stage: Stage, module: nn.Module, rows: Examples | None) -> Measured | None:
    """What a model answers on a split's rows; None where it has none, or none with a label."""
    if rows is None or not stage.task.labelled(rows.labels):
        return None
    context, size = stage.context, stage.plan.eval_batch_size
    return measure(module, rows, stage.task, context.ranks, batch_size=size, check=context.check_stop)


def _scores(measured: Measured | None) -> dict[str, float] | None:
    return None if measured is None else measured.scores


def _details(measured: Mapping[str, Measured | None]) -> dict[str, Details]:
    """The tables of where a model errs, by split; {} where the task has none."""
    found = {split: answers.details for split, answers in measured.items() if answers is not None}
    return {split: tables for split, tables in found.items() if tables}


def _taught(stage: Stage) -> bool:
    """Whether a teacher has a part in what the stage trains."""
    return stage.looks_at_teacher or any("teacher" in plugin.requires for plugin in stage.plugins)


def _outside_teacher(stage: Stage) -> tuple[dict[str, Any] | None, Measured | None]:
    """Scores and size of a teacher that came trained and so has no stage of its own, and what it answered.

    None for any other.
    """
    if stage.plan.teacher is None or stage_named(stage.plan.teacher) is not None or not stage.looks_at_teacher:
        return None, None
    module = stage.teacher.module
    measured = None if stage.teacher.fresh else _teacher_measured(stage)
    parameters = sum(parameter.numel() for parameter in module.parameters())
    return {"metrics": _scores(measured), "parameters": parameters, "bytes": 4 * parameters}, measured


def _teacher_measured(stage: Stage) -> Measured | None:
    """The teacher on the validation rows, by logits that another run may have computed already."""
    rows = stage.examples("validation")
    known = None if rows is None else teacher_logits(stage, rows)
    if rows is None or known is None:
        return _measured(stage, stage.teacher.module, _as_the_teacher_reads(stage, rows))
    return measure_logits(known, rows, stage.task)


def _as_the_teacher_reads(stage: Stage, rows: Examples | None) -> Examples | None:
    """The validation rows by the teacher's tokenizer alone: with one of its own, labels stand at other tokens."""
    if rows is None or rows.teacher is None:
        return rows
    return stage.context.examples("validation", stage.teacher.tokenizer, None, stage.data)


def _sentence(facts: Mapping[str, Any], metric: str) -> str:
    metrics = facts["metrics"] or {}
    told = ", ".join(f"{name} {value:.4f}" for name, value in metrics.items() if name in (*_TOLD, metric))
    return f"{told or 'done'} after {facts['updates']} updates in {facts['seconds']:.0f} s."


def task_card(context: Context) -> dict[str, Any]:
    """The task as the model's card keeps it: its config, with the label names written out."""
    return {**context.recipe.task.model_dump(exclude_none=True), "labels": context.task.names}


def _check_hooks(stage: Stage) -> None:
    left = count_hooks(stage.student.module) - stage.hooks_before
    if left:
        raise PluginError(
            f"{left} forward hooks are left on the student after the stage '{stage.plan.name}'; put them on stage.exit."
        )


def _key(context: Context, plan: StagePlan, before: Mapping[str, StageResult]) -> str:
    """What decides the stage's outcome: its plan, seed, data, models and plugins, and the stages these come from.

    What is named by a path counts by what it holds, wherever it lies.
    """
    recipe, tables, named = context.recipe, tables_used(context.recipe, plan), dict(references(plan))
    files = context.named.within([*map(naming, tables.values()), *map(naming, named.values()), plan.options])

    def origin(reference: Reference) -> Any:
        name = stage_named(reference)
        return as_plain(exchanged(reference, files)) if name is None else before[name].facts["key"]

    elsewhere = {"teacher", "teachers", "student", "data", "options", "checkpoint_every"}
    return content_key(
        {
            "plan": plan.model_dump(exclude=elsewhere) | {"options": with_words(plan.options, files)},
            "seed": recipe.seed if plan.seed is None else plan.seed,
            "task": recipe.task.model_dump(),
            "labels": context.task.names,
            "data": context.data_of(plan).model_dump(exclude={"corpus": {"workers"}}),
            "rows": context.fingerprint(plan),
            "models": {side: as_plain(exchanged(table, files)) for side, table in tables.items()},
            "given": _given_keys(context, plan),
            "origins": {side: origin(reference) for side, reference in named.items()},
            "versions": _versions(loader.stage_plugins(recipe, plan)),
        }
    )


def _versions(plugins: Sequence[Plugin]) -> dict[str, str | None]:
    known = {found.name: found.version for found in installed(PLUGINS)}
    return {"potstill": potstill.__version__, **{plugin.name: known.get(plugin.name) for plugin in plugins}}


def _given_keys(context: Context, plan: StagePlan) -> dict[str, str]:
    """Hashes of the caller's models that the stage starts from."""
    fresh = {plan.trains} if plan.student == FRESH else set()
    fresh |= {"teacher"} if FRESH in plan.every_teacher.values() else set()
    return {side: key for side, key in context.given_keys().items() if side in fresh}


def _finished_twin(key: str, reuse: Sequence[RunFolder]) -> Path | None:
    for run in reuse:
        for path in run.stages():
            whole = any((path / "best").glob("*.safetensors"))  # its weights may have been thrown away since
            if whole and read_json(path / "result.json").get("key") == key:
                return path
    return None


def _copy(source: Path, target: Path) -> None:
    with new_folder(target) as draft:
        shutil.copytree(source, draft, dirs_exist_ok=True, copy_function=_link)


def _link(source: str, target: str) -> None:
    """Shares weights, which are only ever replaced; a log is written on in its place, so it needs a copy."""
    if source.endswith(".safetensors"):
        with suppress(OSError):  # another disk
            os.link(source, target)
            return
    shutil.copy2(source, target)
