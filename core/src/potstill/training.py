"""Running one stage to its end: train, take the best weights, finish the student, score it, save it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from potstill.context import Context
from potstill.engine import Engine
from potstill.errors import PluginError
from potstill.evaluate import evaluate
from potstill.files import new_folder, read_json, write_json
from potstill.models import CARD
from potstill.recipe import StagePlan
from potstill.runfolder import RunFolder, content_key
from potstill.stage import Stage


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
        else:
            _train(context, plan, folder, key)
    result = StageResult(plan.name, folder, read_json(path))
    context.handed_on[plan.name] = result.model
    return result


def _train(context: Context, plan: StagePlan, folder: Path, key: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    stage = Stage(context, plan)
    with stage.exit:
        engine = Engine(stage, folder)
        position = engine.train()
        engine.load_best()
    _check_hooks(stage.student.module, plan)
    finished: Any = stage.hook.finish_student(student=stage.student.module)
    scores = {split: _scores(stage, finished, split) for split in ("validation", "test")}
    if context.ranks.main:
        card = {"task": task_card(context), "max_length": context.recipe.data.max_length, **_columns(context)}
        with new_folder(folder / "best") as draft:
            finished.save_pretrained(draft)
            stage.student.tokenizer.save_pretrained(draft)
            write_json(draft / CARD, card)
        facts = {
            "stage": plan.name,
            "trains": plan.trains,
            "plugins": list(plan.plugins),
            "key": key,
            "updates": position.update,
            "epochs": position.epoch + 1,
            "rows": len(engine.train_rows),
            "seconds": position.seconds,
            "kept": plan.keep if position.best is not None else "last",
            "best": {"update": position.best_update, "value": position.best},
            "metrics": scores["validation"],
            "test": scores["test"],
            "parameters": sum(parameter.numel() for parameter in finished.parameters()),
            "bytes": sum(file.stat().st_size for file in (folder / "best").glob("*.safetensors")),
        }
        write_json(folder / "result.json", facts)
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        shutil.rmtree(engine.best_weights, ignore_errors=True)
        context.progress.note(f"{plan.name}: {_sentence(facts)}")
    context.ranks.wait()


def _scores(stage: Stage, module: nn.Module, split: str) -> dict[str, float] | None:
    rows = stage.examples(split)
    if rows is None:
        return None
    context = stage.context
    return evaluate(
        module, rows, stage.task, context.ranks, batch_size=stage.plan.eval_batch_size, check=context.stop.check
    )


def _sentence(facts: Mapping[str, Any]) -> str:
    metrics = facts["metrics"] or {}
    told = ", ".join(
        f"{name} {value:.4f}" for name, value in metrics.items() if name in ("accuracy", "macro_f1", "pearson", "loss")
    )
    return f"{told or 'done'} after {facts['updates']} updates in {facts['seconds']:.0f} s."


def task_card(context: Context) -> dict[str, Any]:
    """The task as the model's card keeps it: its config, with the label names written out."""
    return {**context.recipe.task.model_dump(exclude_none=True), "labels": context.task.names}


def _columns(context: Context) -> dict[str, Any]:
    data = context.recipe.data
    return {"text": data.text, "text_pair": data.text_pair, "label": data.label}


def _check_hooks(module: nn.Module, plan: StagePlan) -> None:
    left = count_hooks(module)
    if left:
        raise PluginError(
            f"{left} forward hooks are left on the student after the stage '{plan.name}'; put them on stage.exit."
        )


def count_hooks(module: nn.Module) -> int:
    """Forward hooks on a module and all below it."""
    return sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in module.modules())


def _key(context: Context, plan: StagePlan, before: Mapping[str, StageResult]) -> str:
    """What decides the stage's outcome: its plan, seed, data and models, and the stages these come from."""
    references = (plan.teacher, plan.student)
    origins = [
        before[name].facts["key"] for ref in references if ref and (name := ref.removeprefix("stage:")) in before
    ]
    recipe = context.recipe
    tables = {"teacher": recipe.teacher, "student": recipe.student}
    used = {side: tables[side] for side in _tables_used(plan)}
    return content_key(
        {
            "plan": plan.model_dump(exclude={"teacher", "student"}),
            "seed": recipe.seed if plan.seed is None else plan.seed,
            "task": recipe.task.model_dump(),
            "data": recipe.data.model_dump(),
            "rows": context.fingerprint(),
            "models": {side: table.model_dump() if table else None for side, table in used.items()},
            "origins": origins,
            "references": [ref for ref in references if ref and not ref.startswith("stage:")],
        }
    )


def _tables_used(plan: StagePlan) -> set[str]:
    if plan.trains == "teacher":
        return {"teacher"}
    fresh_teacher = {"teacher"} if plan.teacher == "fresh" else set()
    return fresh_teacher | {"student"}


def _finished_twin(key: str, reuse: Sequence[RunFolder]) -> Path | None:
    for run in reuse:
        for path in run.stages():
            if read_json(path / "result.json").get("key") == key:
                return path
    return None


def _copy(source: Path, target: Path) -> None:
    with new_folder(target) as draft:
        shutil.copytree(source, draft, dirs_exist_ok=True, copy_function=_link)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
