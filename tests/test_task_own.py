"""The task that the documentation writes, put to use."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from potstill.batch import IGNORED
from potstill.errors import RecipeError
from potstill.settings import TaskConfig

PAGE = Path(__file__).parents[1] / "docs" / "writing-a-plugin.md"


def stars(**options: Any) -> Any:
    [block] = (
        found for found in re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL) if "Stars" in found
    )
    names: dict[str, Any] = {}
    exec(compile(block, "stars", "exec"), names)
    return names["Stars"](TaskConfig(kind="stars", **options), ["1", "2", "3", "4", "5"])


def test_the_documented_task_scores_as_it_says() -> None:
    logits, labels = np.eye(5)[[0, 1, 4, 2]], np.array([0, 0, 1, IGNORED])
    assert stars().score(logits, labels)["near"] == pytest.approx(2 / 3)
    assert stars(tolerance=0).score([logits[:2], logits[2:]], labels)["near"] == pytest.approx(1 / 3)
    assert stars(tolerance=3).score(logits, labels)["accuracy"] == pytest.approx(1 / 3)
    assert stars().metric == "near"
    assert stars().score(logits, np.full(4, IGNORED)) == {}


def test_its_options_are_checked() -> None:
    with pytest.raises(
        RecipeError, match=r"\[task\]: unknown key 'tolerence' for the task 'stars'\. Did you mean 'tol"
    ):
        stars(tolerence=2)
    with pytest.raises(RecipeError, match=r"\[task\]: 'tolerance' = -1 should be greater than or equal to 0"):
        stars(tolerance=-1)
