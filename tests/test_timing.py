"""Timing: one process a model, interleaved rounds, and what goes wrong said in one sentence."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from transformers import BertConfig, BertForSequenceClassification

from potstill.errors import ModelError, PotstillError, UserError
from potstill.progress import Progress
from potstill.timing import Entry, Timing, locate, measure
from potstill.timing.locate import vocabulary_size
from potstill.timing.process import Worker
from potstill.timing.result import percentiles
from potstill.timing.runtimes import OnnxRuntime

VOCABULARY = 50


def lookup(path: Path, work: int = 1, ids: str = "input_ids", batch: str | int = "batch") -> Path:
    """An ONNX file that looks tokens up in a table and multiplies what it finds `work` times by a matrix."""
    table = np.random.default_rng(0).normal(size=(VOCABULARY, 64)).astype(np.float32)
    matrix = np.eye(64, dtype=np.float32)
    nodes = [helper.make_node("Gather", ["table", ids], ["hidden0"])]
    nodes += [helper.make_node("MatMul", [f"hidden{i}", "matrix"], [f"hidden{i + 1}"]) for i in range(work)]
    nodes.append(helper.make_node("ReduceSum", [f"hidden{work}", "axis"], ["logits"], keepdims=0))
    graph = helper.make_graph(
        nodes,
        "lookup",
        [helper.make_tensor_value_info(ids, TensorProto.INT64, [batch, "sequence"])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, 64])],
        [
            numpy_helper.from_array(table, "table"),
            numpy_helper.from_array(matrix, "matrix"),
            numpy_helper.from_array(np.array([1]), "axis"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    model.metadata_props.add(key="potstill.vocab_size", value=str(VOCABULARY))
    onnx.save(model, path)
    return path


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bert")
    config = BertConfig(
        vocab_size=70, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=16,
    )  # fmt: skip
    BertForSequenceClassification(config).save_pretrained(folder)
    return folder


def test_the_larger_model_is_the_slower_one_and_every_run_is_counted(tmp_path: Path) -> None:
    small, large = lookup(tmp_path / "small.onnx"), lookup(tmp_path / "large.onnx", work=60)
    results = measure(
        [Entry("small", small), ("large", large)], lengths=[8, 64], batches=[1, 4], rounds=4, calls=5, warmup=1
    )
    shapes = [(result.batch, result.length, result.name) for result in results]
    assert shapes == [(b, n, name) for b in (1, 4) for n in (8, 64) for name in ("small", "large")]
    assert all(result.runs == 20 and result.rounds == 4 and len(result.round_p50_ms) == 4 for result in results)
    assert all(result.p50_ms <= result.p90_ms <= result.p95_ms <= result.p99_ms for result in results)
    by_name = {result.name: result for result in results if (result.batch, result.length) == (4, 64)}
    assert by_name["large"].p50_ms > 3 * by_name["small"].p50_ms
    assert by_name["large"].cpu_ms_per_row > by_name["small"].cpu_ms_per_row


def test_throughput_and_latency_of_one_result_agree(tmp_path: Path) -> None:
    (result,) = measure([("a", lookup(tmp_path / "a.onnx", work=40))], [64], [8], rounds=5, calls=10)
    mean_ms = 1000 * result.batch / result.rows_per_second
    assert min(result.round_p50_ms) / 2 < mean_ms < 10 * result.p99_ms
    assert result.threads == 1
    assert result.warmup == 3
    assert result.load is None or min(result.load, result.load_after) >= 0
    assert result.peak_bytes > 5_000_000
    assert re.fullmatch(r"onnxruntime \d+\.\d+.*", result.runtime)
    assert json.loads(json.dumps(result.as_dict()))["round_p50_ms"] == list(result.round_p50_ms)


def test_percentiles_are_those_of_all_runs() -> None:
    assert percentiles(list(range(101))) == {"p50_ms": 50, "p90_ms": 90, "p95_ms": 95, "p99_ms": 99}


def test_rounds_are_interleaved_and_each_model_has_a_process_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns: list[tuple[str, int]] = []
    run = Worker.run

    def noted(worker: Worker, calls: int, warmup: int) -> object:
        turns.append((worker.name, worker.pid))
        return run(worker, calls, warmup)

    monkeypatch.setattr(Worker, "run", noted)
    path = lookup(tmp_path / "a.onnx")
    measure([("a", path), ("b", path), ("c", path)], [4], rounds=3, calls=2)
    assert [name for name, _ in turns] == ["a", "b", "c"] * 3
    assert len({pid for _, pid in turns}) == 3
    assert os.getpid() not in {pid for _, pid in turns}


def test_no_worker_is_left_when_measuring_is_done_or_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Worker] = []
    start = Worker.__enter__
    monkeypatch.setattr(Worker, "__enter__", lambda worker: (seen.append(worker), start(worker))[1])
    measure([("a", lookup(tmp_path / "a.onnx"))], [4], rounds=1, calls=1)
    with pytest.raises(ModelError):
        measure([("a", tmp_path / "a.onnx"), ("b", lookup(tmp_path / "b.onnx", batch=3))], [4], rounds=1, calls=1)
    assert len(seen) == 3
    for worker in seen:
        with pytest.raises(ProcessLookupError):
            os.kill(worker.pid, 0)


def test_a_model_folder_runs_in_torch_and_its_exported_neighbour_in_onnx_runtime(bert: Path, tmp_path: Path) -> None:
    lookup(tmp_path / "model.onnx")
    results = measure([("folder", bert), ("exported", tmp_path)], [16], [2], rounds=2, calls=3)
    assert [result.runtime.split()[0] for result in results] == ["torch", "onnxruntime"]
    assert results[0].runtime == f"torch {torch.__version__}"
    with pytest.raises(ModelError, match=r"'folder' cannot be timed: batch 1 × length 40 does not run: .* = 16$"):
        measure([("folder", bert)], [40], rounds=1)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="reads /proc")
def test_a_worker_has_one_runtime_in_its_process_and_never_the_other(bert: Path, tmp_path: Path) -> None:
    libraries = {"torch": b"libtorch", "onnxruntime": b"onnxruntime_pybind11_state"}
    for path, own in ((bert, "torch"), (lookup(tmp_path / "a.onnx"), "onnxruntime")):
        with Worker("a", locate(path), threads=1) as worker:
            worker.prepare(1, 4)
            worker.run(1, 0)
            mapped = Path(f"/proc/{worker.pid}/maps").read_bytes()
        assert [name for name, library in libraries.items() if library in mapped] == [own]


def test_threads_are_pinned_in_the_worker(tmp_path: Path) -> None:
    if not Path("/proc/self/environ").exists():
        pytest.skip("reads /proc")
    with Worker("a", locate(lookup(tmp_path / "a.onnx")), threads=2) as worker:
        environment = Path(f"/proc/{worker.pid}/environ").read_bytes().split(b"\0")
    assert b"OMP_NUM_THREADS=2" in environment
    assert b"MKL_NUM_THREADS=2" in environment


def test_peak_memory_is_the_workers_own_and_not_that_of_the_process_that_started_it(tmp_path: Path) -> None:
    ballast = np.ones(80_000_000, dtype=np.float64)  # 640 MB, every page touched
    (result,) = measure([("a", lookup(tmp_path / "a.onnx"))], [4], rounds=1, calls=1)
    assert ballast[-1] == 1
    assert result.peak_bytes < 400_000_000


def test_a_killed_worker_is_one_sentence_with_its_signal(tmp_path: Path) -> None:
    with Worker("student", locate(lookup(tmp_path / "a.onnx")), threads=1) as worker:
        worker.prepare(1, 4)
        os.kill(worker.pid, signal.SIGKILL)
        with pytest.raises(PotstillError, match=r"The process timing 'student' died \(SIGKILL\); it wrote nothing"):
            worker.run(1, 0)


def test_a_dead_workers_last_words_are_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "onnxruntime.py").write_text(
        "import os, sys\nsys.stderr.write('first\\nout of luck\\n')\nos._exit(7)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(PotstillError, match=r"'a' died \(exit code 7\): out of luck$"):
        measure([("a", lookup(tmp_path / "a.onnx"))], [4])


def test_without_onnx_runtime_the_sentence_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "onnxruntime.py").write_text("raise ImportError('none here')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(UserError, match="pip install potstill-onnx"):
        measure([("a", lookup(tmp_path / "a.onnx"))], [4])


def test_what_a_library_prints_does_not_get_between_the_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text("")
    noisy = "import os, sys\nprint('hello')\nos.write(1, b'more\\n')\nraise ImportError\n"
    (tmp_path / "onnxruntime.py").write_text(noisy)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(UserError, match="pip install potstill-onnx"):
        measure([("a", lookup(tmp_path / "a.onnx"))], [4])


def test_token_ids_stay_below_the_vocabulary_and_every_position_is_attended_to(tmp_path: Path) -> None:
    inputs = OnnxRuntime(lookup(tmp_path / "a.onnx"), 1).inputs(20, 30)
    assert inputs["input_ids"].shape == (20, 30)
    assert set(np.unique(inputs["input_ids"])) == set(range(VOCABULARY))


def test_the_vocabulary_is_read_from_what_lies_beside_the_model(tmp_path: Path, bert: Path) -> None:
    assert vocabulary_size(tmp_path) == 1000
    tokenizer = {"model": {"vocab": {"a": 0, "b": 1}}, "added_tokens": [{"id": 2, "content": "[PAD]"}]}
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert vocabulary_size(tmp_path) == 3
    assert vocabulary_size(bert) == 70


def test_paths_that_cannot_be_timed_say_what_would_be_right(tmp_path: Path) -> None:
    lookup(tmp_path / "student.onnx")
    with pytest.raises(ModelError, match=r"There is no model at .*Did you mean 'student\.onnx'\?"):
        locate(tmp_path / "studnet.onnx")
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(ModelError, match=r"notes\.txt cannot be timed; give an \.onnx file"):
        locate(tmp_path / "notes.txt")
    (tmp_path / "run" / "export").mkdir(parents=True)
    with pytest.raises(ModelError, match=r"neither model\.onnx nor config\.json.*Did you mean .*run/export\?"):
        locate(tmp_path / "run")
    (tmp_path / "broken.onnx").write_bytes(b"not a model")
    with pytest.raises(ModelError, match=r"ONNX Runtime could not load .*broken\.onnx"):
        measure([("broken", tmp_path / "broken.onnx")], [4])


def test_counts_and_names_are_checked_before_a_process_starts(tmp_path: Path) -> None:
    path = lookup(tmp_path / "a.onnx")
    with pytest.raises(UserError, match="both called 'a'"):
        measure([("a", path), ("a", path)], [4])
    with pytest.raises(UserError, match="Timing needs a length of at least 1, not 0"):
        measure([("a", path)], [0, 4])
    with pytest.raises(UserError, match="Timing needs a number of warm-up calls of at least 0, not -1"):
        measure([("a", path)], [4], warmup=-1)
    with pytest.raises(UserError, match="at least one model"):
        measure([], [4])
    with pytest.raises(ModelError, match="its input 'speech' is none of"):
        measure([("odd", lookup(tmp_path / "odd.onnx", ids="speech"))], [4])


def test_progress_is_told_of_every_turn(tmp_path: Path) -> None:
    from contextlib import contextmanager

    from potstill.progress import Bar

    class Counted(Progress):
        total, done = 0, 0

        @contextmanager
        def bar(self, name, total, done=0):
            self.total = total
            outer = self

            class Here(Bar):
                def advance(self, steps=1, **facts):
                    outer.done += steps

            yield Here()

    progress = Counted()
    measure([("a", lookup(tmp_path / "a.onnx"))], [2, 4], [1, 2], rounds=3, calls=1, progress=progress)
    assert progress.total == progress.done == 12


def test_importing_timing_loads_neither_torch_nor_onnx_runtime() -> None:
    code = "import potstill.timing, sys; print(sorted({'torch', 'onnxruntime', 'transformers'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
    assert Timing.__dataclass_params__.frozen  # type: ignore[attr-defined]
