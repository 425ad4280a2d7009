"""Kills runs with SIGKILL at random moments, resumes them, and compares with a run left alone.

    python -m tests.kill RECIPE DATA_ROOT SCRATCH [--trials 10] [--seed 0]

Prints a line a trial: when the run was killed, what it had done by then, and whether weights and metrics of
every stage came out bit-identical. Exit code 1 where one did not. Every run is a fork of this process, which
itself only imports, so that a trial costs no start-up.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import time
from pathlib import Path

import potstill.exporting  # noqa: F401 - imported here so that every fork has it
from potstill.engine import Engine  # noqa: F401
from potstill.runner import run


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("data_root", type=Path)
    parser.add_argument("scratch", type=Path)
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    told = parser.parse_args()
    draw = random.Random(told.seed)

    def child(folder: Path) -> int:
        process = os.fork()
        if process == 0:
            try:
                run(told.recipe, folder=folder, data_root=told.data_root)
                os._exit(0)
            except BaseException as error:
                print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
                os._exit(1)
        return process

    def finish(folder: Path) -> float:
        started = time.monotonic()
        _, status = os.waitpid(child(folder), 0)
        if status:
            raise SystemExit(f"the run in {folder} ended with status {status}")
        return time.monotonic() - started

    reference = told.scratch / "left-alone"
    finish(told.scratch / "warm-up")  # fills the cache of tokenized data
    seconds = finish(reference)
    different = 0
    for trial in range(told.trials):
        folder = told.scratch / f"killed-{trial:02d}"
        moment = draw.uniform(0, seconds)
        process = child(folder)
        time.sleep(moment)
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        done = state(folder)
        finish(folder)
        wrong = differences(reference, folder)
        different += bool(wrong)
        print(
            f"killed after {moment:5.2f} s of {seconds:5.2f} s ({done}): {'; '.join(wrong) or 'identical'}", flush=True
        )
    print(f"{told.trials - different} of {told.trials} identical")
    return int(different > 0)


def state(folder: Path) -> str:
    """What a killed run had done."""
    stages = sorted(path.name for path in folder.glob("stages/*"))
    if not stages:
        return "before the first stage"
    finished = len(list(folder.glob("stages/*/result.json")))
    checkpoints = sorted(path.name for path in folder.glob(f"stages/{stages[-1]}/checkpoints/update-*"))
    return f"{finished} stages done, in {stages[-1]}, {checkpoints[-1] if checkpoints else 'no checkpoint'}"


def differences(one: Path, other: Path) -> list[str]:
    """Files of two runs' stages that are not the same, byte by byte."""
    names = sorted(path.relative_to(one) for path in one.glob("stages/*/metrics.jsonl"))
    names += sorted(path.relative_to(one) for path in one.glob("stages/*/best/model.safetensors"))
    names += [Path("model/model.safetensors")]
    return [str(name) for name in names if (one / name).read_bytes() != (other / name).read_bytes()]


if __name__ == "__main__":
    sys.exit(main())
