"""Every plugin of a stage at its smallest, any of them together in one recipe."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from itertools import combinations
from typing import Any

from potstill.testing.tiny import bert, recipe

CALM = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "accumulate": {"batches": 2},
    "amp": {"dtype": "bfloat16", "teacher_tolerance": 0.5},
    "assistant": {"hops": [{"config": bert(2, 16)}]},
    "bilstm": {},
    "diito": {},
    "fgm": {},
    "hinton": {"temperature": 2.0},
    "layers": {"map": "uniform", "hidden": {"hidden_mse": 1.0}},
    "minilm": {},
    "pgd": {"steps": 2},
    "pp_minilm": {},
    "theseus": {"schedule": "constant", "tune": False},
    "tinybert": {"intermediate": {"updates": 5}},
}
"""The plugins and their options here."""
REFUSED: Mapping[frozenset[str], str] = {
    frozenset({"bilstm", "diito"}): "must share a tokenizer",
    frozenset({"bilstm", "layers"}): "the student has no list of layers",
    frozenset({"bilstm", "minilm"}): "must share a tokenizer",
    frozenset({"bilstm", "pp_minilm"}): "must share a tokenizer",
    frozenset({"bilstm", "tinybert"}): "must share a tokenizer",
    frozenset({"bilstm", "theseus"}): "build_student",
    frozenset({"fgm", "pgd"}): "conflict",
}
"""Pairs that make no sense, and words of the sentence that says so."""
PAIRS = list(combinations(OPTIONS, 2))
LANGUAGE: Mapping[str, Mapping[str, Any]] = {"distilbert": {"cos": 0.0}}
"""Plugins that distil language models alone, and their options here."""
BILSTM = {"plugin": "bilstm", "vocab": "characters.txt", "embedding_size": 8, "hidden_size": 8}
CHARACTERS = ["<PAD>", "<UNK>", " ", *"abcdefghijklmnopqrstuvwxyz"]


def together(names: Collection[str], teacher: str, *, calm: bool = False, **stage: Any) -> dict[str, Any]:
    """A recipe with one stage, "distil", whose plugins these are, in this order.

    Args:
        teacher: a trained model's folder.
        calm: without dropout.
        stage: more keys of the stage.
    """
    tables = recipe()
    tables["teacher"] = {"model": teacher}
    tables["student"] = {"config": bert(1, 16, **(CALM if calm else {}))}
    if "bilstm" in names:
        tables["student"] = BILSTM
    elif "theseus" in names:
        del tables["student"]  # it is half of the teacher
    own = [name for name in names if name != "bilstm"]
    known = {**OPTIONS, **LANGUAGE}
    options = {name: {**known[name], **_beside(name, names)} for name in own}
    tables["stage"] = [
        {
            "name": "distil",
            "plugins": own,
            "updates": 5,
            "batch_size": 8,
            "learning_rate": 1e-3,
            "log_every": 1,
            "checkpoint_every": 1,
            **options,
            **stage,
        }
    ]
    return tables


def _beside(name: str, others: Collection[str]) -> dict[str, Any]:
    """What a plugin's options are in company."""
    if name == "amp" and "bilstm" in others:
        return {"dtype": "float32"}  # not every processor has an LSTM in half precision
    if name == "assistant" and "theseus" in others:
        return {"hops": [{"layers": [1, 2]}]}  # half of the teacher, of which the student is half
    return {}
