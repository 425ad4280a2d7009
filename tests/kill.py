"""Kills runs with SIGKILL at random moments, resumes them, and compares with runs left alone.

    python -m tests.kill SCRATCH [--trials 50 | --pairs 20] [--seed 0] [--rows 300]

Without --pairs, seven recipes in turn: one supervised stage; a BERT teacher and a BiLSTM student with tokenizers of
their own, soft targets and accumulation; a stage that trains the teacher, one for the student, and an ONNX export; the
same with a training that becomes two, with an assistant in between, on tags and on answers. With it, so many pairs of
plugins, drawn at random. Every run has a cache of its own, so that moments fall into tokenizing too; some are killed
once more while they go on. Prints a line a trial: when the run was killed, what it had done by then, and whether all
that it left came out bit-identical. Exit code 1 where something did not. Every run is a fork of this process, which
itself only imports, so that a trial costs no start-up.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from potstill.testing.tiny import bert, recipe, student_only, write_data
from potstill.testing.words import asking, tagging, write_questions, write_tags
from tests.composition.plugins import CHARACTERS, PAIRS, REFUSED, together
from tests.nursery import import_all

AGAIN = 0.4
"""How often a run is killed once more while it goes on."""


def plain() -> dict[str, Any]:
    """One supervised stage, with dropout."""
    tables = student_only(epochs=3, checkpoint_every=20, log_every=5, evaluate_every=60)
    return {**tables, "student": {"config": bert(1), "tokenizer": "vocab.txt"}}


def two_tokenizers() -> dict[str, Any]:
    """A trained BERT teacher that reads words, a BiLSTM student that reads characters, accumulation."""
    tables = recipe("hinton", "accumulate")
    student = {"plugin": "bilstm", "vocab": "characters.txt", "embedding_size": 16, "hidden_size": 16}
    stage = {**tables["stage"][1], "accumulate": {"batches": 3}, "epochs": 3, "checkpoint_every": 7, "log_every": 3}
    data = {**tables["data"], "max_length": 32}
    return {**tables, "data": data, "teacher": {"model": "teacher"}, "student": student, "stage": [stage]}


def teacher_and_student() -> dict[str, Any]:
    """Two stages and an export."""
    tables = recipe("hinton")
    for stage in tables["stage"]:
        stage.update(checkpoint_every=15, epochs=2)
    return {**tables, "export": {"plugins": ["onnx"], "onnx": {"time": False, "teacher": False}}}


def inner_layers() -> dict[str, Any]:
    """A training that becomes two of its own, with soft targets in the second, projections and accumulation."""
    tables = recipe("tinybert", "hinton", "accumulate", student={"config": bert(1, 16)})
    tables["stage"][1].update(
        tinybert={"intermediate": {"epochs": 2}}, accumulate={"batches": 3}, checkpoint_every=7, log_every=3
    )
    return {**tables, "export": {"plugins": ["onnx"], "onnx": {"time": False, "teacher": False}}}


def relations_in_hops() -> dict[str, Any]:
    """An assistant between teacher and student, on attention relations and micro-batches, and an export."""
    tables = recipe("minilm", "accumulate", "assistant", student={"config": bert(1, 16)})
    tables["stage"][1].update(
        assistant={"hops": [{"config": bert(2, 16)}]}, accumulate={"batches": 2}, checkpoint_every=7, log_every=3
    )
    return {**tables, "export": {"plugins": ["onnx"], "onnx": {"time": False, "teacher": False}}}


def tags() -> dict[str, Any]:
    """Soft targets for the tags of words."""
    return at_tokens(tagging("hinton", "accumulate"))


def answers() -> dict[str, Any]:
    """Soft targets for the windows of questions."""
    return at_tokens(asking("hinton", "accumulate"))


def at_tokens(tables: dict[str, Any]) -> dict[str, Any]:
    tables["stage"][1].update(accumulate={"batches": 2}, checkpoint_every=7, log_every=3)
    return {**tables, "export": {"plugins": ["onnx"], "onnx": {"time": False, "teacher": False}}}


RECIPES: dict[str, Callable[[], dict[str, Any]]] = {
    "two stages": teacher_and_student,
    "two tokenizers": two_tokenizers,
    "plain": plain,
    "inner layers": inner_layers,
    "relations in hops": relations_in_hops,
    "tags": tags,
    "answers": answers,
}


class Trials:
    """Runs of one recipe, killed and left alone."""

    def __init__(self, name: str, tables: dict[str, Any], data: Path, scratch: Path) -> None:
        self._tables, self._data, self._scratch = tables, data, scratch / name.replace(" ", "-")
        self.reference = self._scratch / "left-alone"
        self.seconds = self.finish(self.reference)

    def killed(self, number: int, draw: random.Random) -> tuple[str, list[str]]:
        """One trial: what is told of its kills, and what came out different."""
        folder = self._scratch / f"killed-{number:02d}"
        while not (told := self._kill(folder, draw)):  # it was faster than the one left alone
            shutil.rmtree(folder)
            shutil.rmtree(self._cache(folder))
        if draw.random() < AGAIN:
            told += f" and {self._kill(folder, draw) or 'not again, since it was done'}"
        self.finish(folder)
        wrong = [*differences(self.reference, folder), *left_over(folder), *left_over(self._cache(folder))]
        shutil.rmtree(self._cache(folder))
        return told, wrong

    def _kill(self, folder: Path, draw: random.Random) -> str:
        """Kills a run at a random moment, and tells when that was; "" where it had ended by then."""
        moment = draw.uniform(0, self.seconds)
        process = self._fork(folder)
        time.sleep(moment)
        os.kill(process, signal.SIGKILL)
        _, status = os.waitpid(process, 0)
        half = [path.name[1:].rsplit(".", 2)[0] for place in (folder, self._cache(folder)) for path in drafts(place)]
        told = f"{state(folder)}{', amid the writing of ' if half else ''}{' and '.join(half)}"
        return f"{moment:5.2f} s ({told})" if status else ""

    def finish(self, folder: Path) -> float:
        """Runs to the end; how many seconds that took."""
        started = time.monotonic()
        _, status = os.waitpid(self._fork(folder), 0)
        if status:
            raise SystemExit(f"the run in {folder} ended with status {status}")
        return time.monotonic() - started

    def _cache(self, folder: Path) -> Path:
        return folder.with_name(f"{folder.name}-cache")

    def _fork(self, folder: Path) -> int:
        process = os.fork()
        if process == 0:
            from potstill.runner import run

            os.environ["POTSTILL_CACHE"] = str(self._cache(folder))
            try:
                run(self._tables, folder=folder, data_root=self._data)
                os._exit(0)
            except BaseException as error:
                print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
                os._exit(1)
        return process


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scratch", type=Path, help="an empty or new folder")
    parser.add_argument("--trials", type=int, default=50, help="over the seven recipes")
    parser.add_argument("--pairs", type=int, default=0, help="instead, a trial each of so many pairs of plugins")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--rows", type=int, default=300, help="training rows, so many as make a run last some seconds")
    told = parser.parse_args()
    import_all()
    draw = random.Random(told.seed)
    data = prepared(told.scratch, told.rows)
    done = different = 0
    for name, tables, count in pairs(told.pairs, draw) if told.pairs else recipes(told.trials):
        trials = Trials(name, tables, data, told.scratch)
        for _ in range(count):
            kills, wrong = trials.killed(done, draw)
            done, different = done + 1, different + bool(wrong)
            print(
                f"{name}: killed after {kills} of {trials.seconds:5.2f} s: {'; '.join(wrong) or 'identical'}",
                flush=True,
            )
    print(f"{done - different} of {done} identical")
    return int(different > 0)


def recipes(trials: int) -> Iterator[tuple[str, dict[str, Any], int]]:
    """Each of the recipes with its share of the trials."""
    for place, name in enumerate(RECIPES):
        if count := len(range(place, trials, len(RECIPES))):
            yield name, RECIPES[name](), count


def pairs(trials: int, draw: random.Random) -> Iterator[tuple[str, dict[str, Any], int]]:
    """So many pairs of plugins, a trial each."""
    for pair in draw.sample([pair for pair in PAIRS if frozenset(pair) not in REFUSED], trials):
        tables = together(pair, "teacher", updates=60, checkpoint_every=7, log_every=3)
        yield " + ".join(pair), tables, 1


def prepared(scratch: Path, rows: int) -> Path:
    """Data, vocabularies and a trained teacher."""
    data = scratch / "data"
    data.mkdir(parents=True)
    write_data(data, train=rows, validation=rows // 4)
    write_tags(data, train=rows, validation=rows // 4)
    write_questions(data, train=rows, validation=rows // 4)
    (data / "characters.txt").write_text("\n".join(CHARACTERS) + "\n", encoding="utf-8")
    tables = recipe(teacher={"config": bert(4), "tokenizer": "vocab.txt"})
    trained = Trials("teacher", {**tables, "stage": tables["stage"][:1]}, data, scratch)
    shutil.copytree(trained.reference / "model", data / "teacher")
    return data


def state(folder: Path) -> str:
    """What a killed run had done."""
    stages = sorted(path.name for path in folder.glob("stages/*"))
    if not stages:
        return "before the first stage"
    if (folder / "result.json").is_file():
        return "before the report" if not (folder / "report.html").is_file() else "at its very end"
    finished = len(list(folder.glob("stages/*/result.json")))
    if finished == len(stages):
        return f"{finished} stages done, {'exporting' if (folder / 'model').is_dir() else 'publishing'}"
    checkpoints = sorted(path.name for path in folder.glob(f"stages/{stages[-1]}/checkpoints/update-*"))
    return f"in {stages[-1]}, {checkpoints[-1] if checkpoints else 'no checkpoint'}"


def differences(one: Path, other: Path) -> list[str]:
    """Files of two runs that are not the same: byte by byte, the results but for their seconds."""
    names = {
        name: [path.relative_to(run) for path in run.rglob("*") if path.is_file()]
        for name, run in (("alone", one), ("killed", other))
    }
    wrong = [f"{path} is there once only" for path in sorted({*names["alone"]} ^ {*names["killed"]})]
    for path in sorted({*names["alone"]} & {*names["killed"]}):
        if path.name in ("environment.json", "report.html", "lock"):
            continue
        if content(one / path) != content(other / path):
            wrong.append(f"{path} differs")
    return wrong


def content(path: Path) -> Any:
    """A file's bytes; of a result all but the seconds it took."""
    if path.name == "result.json":
        return {key: value for key, value in json.loads(path.read_text()).items() if key != "seconds"}
    return path.read_bytes()


def left_over(folder: Path) -> list[str]:
    """What a kill left half-written and nobody swept up."""
    return [f"{path.relative_to(folder)} is left over" for path in drafts(folder)]


def drafts(folder: Path) -> list[Path]:
    """Files and folders that have not taken their name yet, or are about to be replaced."""
    return [path for pattern in (".*.tmp", ".*.old") for path in folder.rglob(pattern)]


if __name__ == "__main__":
    sys.exit(main())
