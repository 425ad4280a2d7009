"""A run folder made by hand, in the format that runs leave, with numbers that tests can check."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RECIPE = """\
name = "birds"
seed = 7

[task]
kind = "text-classification"
metric = "accuracy"

[data]
train = "train.csv"
validation = "dev.csv"

[teacher]
model = "bert-base-uncased"

[student]
layers = [2, 4]

[[stage]]
name = "teacher"
trains = "teacher"
epochs = 2.0

[[stage]]
name = "distil"
plugins = ["hinton"]
epochs = 2.0

[stage.hinton]
temperature = 4.0
"""
TEACHER = {"accuracy": 0.9312, "macro_f1": 0.9204, "precision": 0.93, "recall": 0.92, "loss": 0.211}
STUDENT = {"accuracy": 0.9041, "macro_f1": 0.8933, "precision": 0.9, "recall": 0.89, "loss": 0.305}
EXPORTS: list[dict[str, Any]] = [
    {"model": "teacher.onnx", "accuracy": 0.9312, "bytes": 44_000_000, "p50_ms": 12.5, "p95_ms": 14.0, "speedup": 1.0},
    {"model": "distil.onnx", "accuracy": 0.9041, "bytes": 11_000_000, "p50_ms": 2.5, "p95_ms": 2.9, "speedup": 5.0},
    {
        "model": "distil.int8.onnx",
        "accuracy": 0.9022,
        "bytes": 2_900_000,
        "p50_ms": 1.25,
        "p95_ms": 1.6,
        "speedup": 10.0,
    },
]


DETAILS: dict[str, Any] = {
    "classes": [
        {"class": "wren", "precision": 0.5, "recall": 0.8, "f1": 0.615, "support": 100},
        {"class": "<b>owl</b>", "precision": 0.95, "recall": 0.9, "f1": 0.924, "support": 300},
        {"class": "gull", "precision": 1.0, "recall": 0.96, "f1": 0.98, "support": 600},
    ],
    "mistakes": [
        {"label": "<b>owl</b>", "predicted": "wren", "count": 30},
        {"label": "gull", "predicted": "wren", "count": 24},
        {"label": "wren", "predicted": "<b>owl</b>", "count": 20},
    ],
    "lengths": [
        {"from": 3, "to": 9, "rows": 510, "accuracy": 0.95, "low": 0.93, "high": 0.97},
        {"from": 10, "to": 40, "rows": 490, "accuracy": 0.85, "low": 0.82, "high": 0.88},
    ],
    "intervals": [
        {"metric": "accuracy", "value": 0.9041, "low": 0.885, "high": 0.921, "rows": 1000, "how": "Wilson, 95 %"}
    ],
    "constant": [{"metric": "accuracy", "value": 0.6}],
}


def make_run(folder: Path, name: str = "birds", temperature: float = 4.0, seed: int = 7, better: float = 0.0) -> Path:
    """A finished run of a teacher and a distilled student with three exported models.

    Args:
        better: added to the student's accuracy.
    """
    folder.mkdir(parents=True)
    recipe = RECIPE.replace('"birds"', f'"{name}"').replace("temperature = 4.0", f"temperature = {temperature}")
    (folder / "recipe.toml").write_text(recipe.replace("seed = 7", f"seed = {seed}"))
    _json(folder / "environment.json", {"versions": {"torch": "2.13.0"}, "device": "cpu", "threads": 2})
    _stage(folder / "stages" / "01-teacher", "teacher", "teacher", [], TEACHER, 11_000_000, ["supervised"])
    _stage(
        folder / "stages" / "02-distil",
        "distil",
        "student",
        ["hinton"],
        {**STUDENT, "accuracy": STUDENT["accuracy"] + better},
        2_750_000,
        ["hinton.soft", "hinton.hard"],
    )
    result = {"name": name, "seconds": 200.4, "stages": ["teacher", "distil"], "export": EXPORTS, "model": "model"}
    _json(folder / "result.json", result)
    facts = {"parity": {"rows": 500, "same_label": 1.0, "largest_difference": 3.1e-6}, "tolerance": 1e-3}
    _json(folder / "export" / "onnx.json", {"name": "onnx", "files": ["model.onnx"], "rows": EXPORTS, "facts": facts})
    return folder


def _stage(
    folder: Path,
    name: str,
    trains: str,
    plugins: list[str],
    metrics: dict[str, float],
    parameters: int,
    terms: list[str],
) -> None:
    folder.mkdir(parents=True)
    lines: list[dict[str, Any]] = []
    for update in range(50, 501, 50):
        values = {term: (2 + 3 * i) / (1 + update / 100) for i, term in enumerate(terms)}
        lines.append({"update": update, "epoch": update // 251, "loss": sum(values.values()), "terms": values})
        if update % 250 == 0:
            share = update / 500
            lines.append(
                {"update": update, "evaluation": {key: value * (0.8 + 0.2 * share) for key, value in metrics.items()}}
            )
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    _json(
        folder / "result.json",
        {
            "stage": name,
            "trains": trains,
            "plugins": plugins,
            "updates": 500,
            "epochs": 2,
            "rows": 8000,
            "seconds": 100.2,
            "best": {"update": 500, "value": metrics["accuracy"]},
            "metrics": metrics,
            "test": {"accuracy": metrics["accuracy"] - 0.01},
            "parameters": parameters,
            "bytes": 4 * parameters,
            "kept": "best",
        },
    )
    _json(folder / "details.json", {"model": {"validation": DETAILS, "test": DETAILS}})


def _json(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
