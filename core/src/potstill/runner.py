"""A run: a folder, its stages in order, the finished student, its exports and its report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from potstill import loader
from potstill.context import Context
from potstill.errors import RecipeError, UserError
from potstill.exporting import export_student, publish
from potstill.files import read_json, write_json
from potstill.models import Model, load_model
from potstill.named import NamedFiles, by_side
from potstill.progress import Progress
from potstill.quiet import quiet_libraries
from potstill.ranks import Ranks, only_one_came
from potstill.recipe import Recipe, load, parse, resolve_references
from potstill.runfolder import RunFolder
from potstill.tasks.columns import with_columns
from potstill.tracking import Tracking, check_trackers
from potstill.training import StageResult, run_stage

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class Result:
    """What a run leaves.

    Attributes:
        folder: the run folder.
        metrics: of the finished student on the validation rows.
        stages: by name, each stage's `result.json`.
        exports: one row a measured exported model.
        test: the student's metrics on the test rows; None where there are none.
    """

    folder: Path
    metrics: dict[str, float]
    stages: dict[str, dict[str, Any]]
    exports: list[dict[str, Any]] = field(default_factory=list)
    test: dict[str, float] | None = None

    @property
    def model(self) -> Path:
        """The folder of the finished student; `AutoModel…from_pretrained` reads it."""
        return self.folder / "model"

    @property
    def report(self) -> Path:
        """The report, one HTML page."""
        return self.folder / "report.html"

    def student(self) -> Model:
        """The finished student, loaded."""
        return load_model(self.model)


def run(
    recipe: Recipe | Mapping[str, Any] | str | Path,
    *,
    folder: str | Path | None = None,
    data_root: str | Path | None = None,
    progress: Progress | None = None,
    reuse: Sequence[str | Path] = (),
    track: Sequence[str] = (),
    teacher: PreTrainedModel | None = None,
    student: PreTrainedModel | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    student_tokenizer: PreTrainedTokenizerBase | None = None,
    train: Dataset | None = None,
    validation: Dataset | None = None,
    test: Dataset | None = None,
) -> Result:
    """Runs a recipe, or goes on with a run that was interrupted.

    Args:
        recipe: a path, a dict of TOML's shape, or a `Recipe`.
        folder: the run folder; `runs/<name>` where it is left out.
        data_root: where the recipe's paths stand; the recipe file's folder, else the current one.
        progress: who is told how it goes; nobody where it is left out.
        track: "tensorboard", "wandb", "trackio": who shows live curves, beside metrics.jsonl.
        reuse: other run folders; a finished stage there of the same content is copied instead of trained.
        teacher, student: models that the caller holds, in place of the recipe's tables. The run works on copies
            and leaves them as they are; the trained student is `Result.student()`.
        tokenizer: of the given teacher, and of the given student unless `student_tokenizer` is there.
        train, validation, test: data sets that the caller holds, in place of the recipe's files.

    Raises:
        UserError: something in the recipe or its inputs cannot be; one sentence.
        TrainingError: training cannot go on.
        Interrupted: the run was asked to stop; the same call goes on.
    """
    check_trackers(track)
    plan = as_recipe(recipe)
    root = Path(data_root) if data_root is not None else recipe_folder(recipe)
    given = _given(teacher, student, tokenizer, student_tokenizer)
    tables = {
        name: table
        for name, table in (("train", train), ("validation", validation), ("test", test))
        if table is not None
    }
    place = RunFolder(Path(folder) if folder is not None else Path("runs") / plan.name)
    plan = expanded(plan, teacher_given=teacher is not None)
    ranks = Ranks()
    progress = progress if progress is not None and ranks.main else Progress()
    if only_one_came():
        progress.note(
            "accelerate launch started one process only, as it does on CPUs; "
            "torchrun --nproc-per-node N -m potstill … starts N."
        )
    with place.locked(), quiet_libraries():
        named = NamedFiles(root)
        files = by_side(plan, named)
        if ranks.main:
            place.begin(plan, root, files)
        tracking = Tracking(track if ranks.main else (), place.path, plan.name, progress)
        context = Context(
            plan, place.path, root, progress=progress, given=given, tables=tables, tracking=tracking, named=named
        )
        ranks.wait()  # the first rank has written by then what the others read
        place.check_inputs(context.fingerprint(), context.given_keys(), files, root)
        with context.stop.listening():
            return _run(context, place, [RunFolder(Path(path)) for path in reuse])


def _run(context: Context, place: RunFolder, reuse: Sequence[RunFolder]) -> Result:
    started = perf_counter()
    results: dict[str, StageResult] = {}
    for number, plan in enumerate(context.recipe.stages, start=1):
        folder = place.stage_folder(number, plan.name)
        was_finished = (folder / "result.json").is_file()
        results[plan.name] = run_stage(context, plan, folder, results, reuse)
        if was_finished:
            started -= results[plan.name].seconds  # spent by an earlier call
    students = [results[plan.name] for plan in context.recipe.stages if plan.trains == "student"]
    last = students[-1] if students else list(results.values())[-1]
    if context.ranks.main:
        if not place.finished:
            _finish(context, place, last, results, started)
        if not (place.path / "report.html").is_file():
            _write_report(place)
    context.ranks.wait()
    return _result(place)


def _finish(
    context: Context, place: RunFolder, last: StageResult, results: Mapping[str, StageResult], started: float
) -> None:
    """The student's own folder, its exports, and last of all the run's result. On one rank, so nothing here waits."""
    publish(context, last, place.path / "model")
    artifacts = export_student(context, last, place.path) if context.recipe.export else []
    teachers = [result.facts["teacher"] for result in results.values() if result.facts.get("teacher")]
    write_json(
        place.path / "result.json",
        {
            "name": context.recipe.name,
            "seconds": perf_counter() - started,
            "stages": list(results),
            "student": last.name,
            "teacher": teachers[-1] if teachers else None,
            "export": [row for artifact in artifacts for row in artifact.rows],
            "model": "model",
        },
    )


def _result(place: RunFolder) -> Result:
    facts = read_json(place.path / "result.json")
    stages = {result["stage"]: result for result in (read_json(path / "result.json") for path in place.stages())}
    student = stages[facts["student"]]
    return Result(place.path, student["metrics"] or {}, stages, facts["export"], student["test"])


def _write_report(place: RunFolder) -> None:
    from potstill.report.html import write_report

    write_report(place.path)


def as_recipe(recipe: Recipe | Mapping[str, Any] | str | Path) -> Recipe:
    """A recipe from whatever the caller has."""
    if isinstance(recipe, Recipe):
        return recipe
    return parse(dict(recipe)) if isinstance(recipe, Mapping) else load(recipe)


def recipe_folder(recipe: Recipe | Mapping[str, Any] | str | Path) -> Path:
    """Where a recipe's paths stand if nobody says otherwise."""
    return Path(recipe).resolve().parent if isinstance(recipe, str | Path) else Path.cwd()


def expanded(recipe: Recipe, *, teacher_given: bool = False) -> Recipe:
    """The recipe with references filled in, columns named, and stages expanded by their plugins.

    Args:
        teacher_given: the caller holds a teacher.

    Raises:
        RecipeError: there is nothing to do.
    """
    if not recipe.stages:
        raise RecipeError(f"The recipe '{recipe.name}' has no [[stage]], so there is nothing to train.")
    if recipe.export is not None:
        loader.export_plugins(recipe.export.tables())
    recipe = resolve_references(with_columns(recipe), teacher_given=teacher_given)
    return resolve_references(recipe.model_copy(update={"stages": loader.expand(recipe)}))


def _given(
    teacher: PreTrainedModel | None,
    student: PreTrainedModel | None,
    tokenizer: PreTrainedTokenizerBase | None,
    student_tokenizer: PreTrainedTokenizerBase | None,
) -> dict[str, Model]:
    given: dict[str, Model] = {}
    for side, module, words in (("teacher", teacher, tokenizer), ("student", student, student_tokenizer or tokenizer)):
        if module is None:
            continue
        if words is None:
            raise UserError(f"A {side} object needs its tokenizer: run(..., {side}=model, tokenizer=tokenizer).")
        given[side] = Model(module, words)
    return given
