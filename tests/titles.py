"""The recipe that the tests of recipes and of changes to them read."""

from __future__ import annotations

import tomllib
from typing import Any

TOML = """
name = "titles"
seed = 7

[data]
train = "train.tsv"
max_length = 40

[teacher.config]
model_type = "bert"
hidden_size = 64

[student]
plugin = "bilstm"
hidden_size = 32
layers = 2

[[stage]]
name = "teacher"
trains = "teacher"
epochs = 2

[[stage]]
name = "distil"
plugins = ["hinton", "accumulate"]
updates = 100
warmup = 10
[stage.hinton]
temperature = 4.0

[export]
plugins = ["onnx"]
[export.onnx]
int8 = true
"""


def tables() -> dict[str, Any]:
    return tomllib.loads(TOML)
