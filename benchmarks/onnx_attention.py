"""Plain against fused attention in ONNX Runtime, in fp32 and INT8: latency, CPU time and parity.

    python benchmarks/onnx_attention.py [MODEL …] [--random 6x384] [--cells 1x32,8x128] [--out FILE.md]

MODEL is a model folder or a run folder. With --random, a BERT of that many layers and hidden units with random
weights is measured too (heads of 32, intermediate size 4 × hidden, 30,522 word pieces). Every model is exported by the
plugin's own `convert` and `quantize`, once with each attention, compared with torch on ragged rows of every cell, and
timed by `potstill.timing.measure`: one process a variant, rounds interleaved. Run it on a quiet machine.
"""

from __future__ import annotations

import argparse
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx
import torch
from potstill_onnx.convert import convert, evaluating
from potstill_onnx.exporting import nothing
from potstill_onnx.inputs import made_up, vocabulary_of
from potstill_onnx.parity import agreement, torch_logits
from potstill_onnx.quantize import quantize
from potstill_onnx.session import Session
from torch import nn
from transformers import BertConfig, BertForSequenceClassification

from potstill.cli.display import make_progress
from potstill.files import write_text
from potstill.models import load_model, longest_row, task_of
from potstill.report.table import markdown
from potstill.tasks import Task
from potstill.timing import Timing, conditions, measure, speedup

KINDS = ("plain", "fused")
PRECISIONS = ("fp32", "int8")
VARIANTS = [f"{kind} {precision}" for precision in PRECISIONS for kind in KINDS]

Cell = tuple[int, int]


def main() -> None:
    """Measures every model and writes one Markdown file."""
    arguments = _arguments()
    sections = [_head(arguments)]
    for name, module, task in _models(arguments):
        with TemporaryDirectory() as folder:
            sections.append(_section(name, module, task, Path(folder), arguments))
    text = "\n".join(sections)
    print(text)
    if arguments.out:
        write_text(arguments.out, text)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", type=Path, metavar="MODEL", help="a model folder or a run folder")
    parser.add_argument("--random", default="6x384", metavar="LAYERSxHIDDEN", help="'' for none (default: %(default)s)")
    parser.add_argument("--cells", type=_cells, default=_cells("1x32,1x128,8x128,32x64"), metavar="BATCHxLENGTH,…")
    parser.add_argument("--rounds", type=int, default=12, help="turns of each variant in a cell (default: %(default)s)")
    parser.add_argument("--calls", type=int, default=20, help="measured calls a turn (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="of each variant (default: %(default)s)")
    parser.add_argument("--out", type=Path, metavar="FILE.md", help="where to write the tables")
    return parser.parse_args()


def _cells(text: str) -> list[Cell]:
    return [(int(batch), int(length)) for batch, _, length in (part.partition("x") for part in text.split(","))]


def _models(arguments: argparse.Namespace) -> Iterator[tuple[str, nn.Module, Task]]:
    for path in arguments.models:
        folder = path / "model" if (path / "recipe.toml").is_file() else path
        task = task_of(folder)
        yield folder.parent.name if folder.name == "model" else folder.name, load_model(folder, task).module, task
    if arguments.random:
        layers, hidden = map(int, arguments.random.split("x"))
        yield f"BERT {layers} × {hidden}, random weights", *_random(layers, hidden)


def _random(layers: int, hidden: int) -> tuple[nn.Module, Task]:
    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=hidden // 32, intermediate_size=4 * hidden
    )
    with TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        return BertForSequenceClassification(config), task_of(Path(folder))


def _head(arguments: argparse.Namespace) -> str:
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "onnxruntime", "onnxscript"))
    return (
        f"# {date.today()}: plain and fused attention in ONNX Runtime\n\n"
        f"Machine: {_processor()}, {os.cpu_count()} cores, {platform.system()}, CPython {platform.python_version()}, "
        f"{versions}, potstill {version('potstill')}.\n\n"
        f"{arguments.rounds} rounds of {arguments.calls} calls for each variant and cell, {arguments.threads} "
        "thread(s), one process a variant, rounds interleaved. The speed-up of fused over plain attention is the "
        "median over the rounds, with the sign test's interval (at least 95 % confidence).\n"
    )


def _processor() -> str:
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text().splitlines() if facts.is_file() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def _section(name: str, module: nn.Module, task: Task, folder: Path, arguments: argparse.Namespace) -> str:
    longest = longest_row(module) or 512
    files = _export(module, task, folder, longest)
    parity = [_parity(variant, files[variant], module, task, arguments.cells) for variant in VARIANTS]
    rows, lines = [], []
    for batch, length in arguments.cells:
        timings = measure(
            list(files.items()), [length], [batch], arguments.rounds, arguments.threads, 3,
            make_progress(), calls=arguments.calls,
        )  # fmt: skip
        rows += _rows(timings)
        lines.append(f"- {batch} × {length}: {conditions(timings)}\n")
    return f"## {name}\n\n{markdown(rows, list(rows[0]))}\n{markdown(parity, list(parity[0]))}\n{''.join(lines)}"


def _export(module: nn.Module, task: Task, folder: Path, longest: int) -> dict[str, Path]:
    files = {variant: folder / f"{variant.replace(' ', '.')}.onnx" for variant in VARIANTS}
    for kind in KINDS:
        exact = files[f"{kind} fp32"]
        convert(module, task, nothing(), exact, max_length=longest, attention=kind)
        quantize(exact, files[f"{kind} int8"])
    return files


def _parity(variant: str, file: Path, module: nn.Module, task: Task, cells: Sequence[Cell]) -> dict[str, Any]:
    """How far a variant is from torch on ragged rows of every cell."""
    session, vocabulary = Session(file), vocabulary_of(module)
    made = [made_up(nothing(), *cell, ragged=True, vocabulary=vocabulary) for cell in cells]
    with evaluating(module):
        found = agreement((torch_logits(module, task, part), session.logits(part)) for part in made)
    return {
        "variant": variant,
        "nodes": len(onnx.load(file).graph.node),
        "bytes": file.stat().st_size,
        "rows": found.rows,
        "largest difference of a logit": f"{found.max_difference:.1e}",
        "equal predictions": None if found.equal_predictions is None else f"{found.equal_predictions:.2%}",
    }


def _rows(timings: Sequence[Timing]) -> list[dict[str, Any]]:
    by_name: Mapping[str, Timing] = {timing.name: timing for timing in timings}
    rows = []
    for precision in PRECISIONS:
        plain, fused = (by_name[f"{kind} {precision}"] for kind in KINDS)
        found = speedup(plain.name, plain.round_p50_ms, fused.round_p50_ms)
        rows.append(
            {
                "batch × length": f"{plain.batch} × {plain.length}",
                "precision": precision,
                "plain p50, ms": round(plain.p50_ms, 2),
                "fused p50, ms": round(fused.p50_ms, 2),
                "plain CPU, ms/row": round(plain.cpu_ms_per_row, 2),
                "fused CPU, ms/row": round(fused.cpu_ms_per_row, 2),
                "speedup": found.shown,
                "interval": found.interval,
            }
        )
    return rows


if __name__ == "__main__":
    main()
