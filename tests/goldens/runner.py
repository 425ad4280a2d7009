"""Running cases and telling how they went."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from tests.goldens.case import Case, read_cases
from tests.goldens.registry import CHECKS

FAMILIES = (
    "adversarial",
    "bilstm",
    "corpus",
    "diito",
    "distilbert",
    "engine",
    "hinton",
    "layers",
    "minilm",
    "pp_minilm",
    "theseus",
    "tinybert",
    "tinybert_augmentation",
)
"""The modules whose import registers the checks."""
for family in FAMILIES:
    import_module(f"tests.goldens.{family}")


@dataclass(frozen=True)
class Outcome:
    """How a case went.

    Attributes:
        status: "ok", "FAIL" or "not built".
        error: the largest error over tolerance.
        note: what went wrong, or the output that is farthest off.
    """

    status: str
    error: float = 0.0
    note: str = ""


def run(case: Case) -> Outcome:
    """Computes every output of a case and compares."""
    if case.kind not in CHECKS:
        return Outcome("not built")
    try:
        errors = _errors(case)
    except Exception as problem:  # a case that cannot even be computed is one line too, and the others still run
        return Outcome("FAIL", float("inf"), f"{type(problem).__name__}: {problem}")
    missing = [name for name in case.outputs if name not in errors]
    if missing:
        return Outcome("FAIL", float("inf"), f"not computed: {', '.join(missing)}")
    worst = max(errors, key=lambda name: errors[name])
    return Outcome("ok" if errors[worst] <= 1 else "FAIL", errors[worst], worst)


def _errors(case: Case) -> dict[str, float]:
    errors: dict[str, float] = {}
    for name, got in CHECKS[case.kind](case):
        if name in case.outputs:
            errors[name] = max(errors.get(name, 0.0), case.error(name, got))
    return errors


def main(folder: Path) -> int:
    """Runs every case of a folder, one printed line each and a total; 1 where one failed, 2 without an index."""
    try:
        cases = list(read_cases(folder))
    except FileNotFoundError:
        print(f"There is no index.json in {folder}.")
        return 2
    counts: Counter[str] = Counter()
    for case in cases:
        outcome = run(case)
        counts[outcome.status] += 1
        number = "-" if outcome.status == "not built" else f"{outcome.error:.2g}"
        note = f"  {outcome.note}" if outcome.status == "FAIL" else ""
        print(f"{outcome.status:<9}  {case.kind:<30}  {case.id:<40}  {number}{note}", flush=True)
    print(f"{len(cases)} cases: {counts['ok']} ok, {counts['FAIL']} failed, {counts['not built']} not built")
    return 1 if counts["FAIL"] else 0
