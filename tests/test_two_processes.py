"""Two processes train what one trains: the same rows an update, exact shares, gradients summed once."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import tomli_w
import torch

import potstill
from potstill.testing import weights
from potstill.testing.tiny import recipe


def test_two_processes_train_the_weights_of_one(data: Path, tmp_path: Path) -> None:
    tables = recipe("hinton", "accumulate")
    calm = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    for model in ("teacher", "student"):
        tables[model]["config"].update(calm)
    for stage in tables["stage"]:
        stage["batch_size"] = 9  # an odd batch is 5 rows here and 4 there, the last one 3 rows
    tables["stage"][1]["accumulate"] = {"batches": 3}
    path = tmp_path / "tiny.toml"
    path.write_text(tomli_w.dumps(tables))
    potstill.run(path, folder=tmp_path / "one", data_root=data)
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
    launch += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    run = ["-m", "potstill", "run", str(path), "--data-root", str(data), "--folder", str(tmp_path / "two")]
    done = subprocess.run([*launch, *run], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    for stage in ("teacher", "distil"):
        theirs = weights(tmp_path / "two", stage)
        for name, value in weights(tmp_path / "one", stage).items():
            torch.testing.assert_close(theirs[name], value, rtol=1e-6, atol=1e-7)
    one, two = (
        [json.loads(line) for line in (tmp_path / side / "stages/02-distil/metrics.jsonl").read_text().splitlines()]
        for side in ("one", "two")
    )
    assert [line["update"] for line in two] == [line["update"] for line in one]
    assert done.stdout.count("report.html") == 1
