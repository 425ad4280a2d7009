"""Preparation of running text: tokens a second against the bare tokenizer, and memory over growing input.

    python benchmarks/prepare.py speed SCRATCH VOCABULARY TEXT [--megabytes 64] [--rounds 5]
    python benchmarks/prepare.py memory SCRATCH VOCABULARY TEXT [--megabytes 100 500 2000]

TEXT is a Parquet file with a column `text`, such as books_en/train.parquet; its paragraphs are written over and over,
each with a number so that no two are alike, to a text file of the size asked for. VOCABULARY is a WordPiece
vocabulary, such as that of bert-base-uncased.

speed: for 1 and 2 workers, `tokenizers`' own `encode_batch` and `encode_batch_fast` on as many threads, of lines that
are in memory already, against `potstill prepare`'s work from the file to the finished shards: reading, cleaning,
writing and hashing. In turns, each in a process of its own.

memory: the highest resident memory of a process that prepares, beside what it has when all is imported.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Any

MB = 1_000_000
LENGTH = 128


def text_file(place: Path, source: Path, megabytes: int) -> Path:
    """A file of about that size, made where it is not there."""
    path = place / f"{megabytes}.txt"
    if path.is_file():
        return path
    import pyarrow.parquet as pq

    paragraphs = [" ".join(text.split()) for text in pq.read_table(source).column("text").to_pylist()]
    place.mkdir(parents=True, exist_ok=True)
    written = number = 0
    with path.open("w", encoding="utf-8") as file:
        while written < megabytes * MB:
            line = f"{paragraphs[number % len(paragraphs)]} {number}\n"
            written += file.write(line)
            number += 1
    return path


def bare(path: Path, vocabulary: Path, how: str) -> dict[str, float]:
    """The tokenizer alone; a process has the number of threads that its environment says."""
    from potstill.tokenizers import load_tokenizer

    tokenizer = load_tokenizer(str(vocabulary), None).backend_tokenizer
    lines = path.read_text(encoding="utf-8").splitlines()
    encode = getattr(tokenizer, how)
    started, worked, tokens = perf_counter(), process_time(), 0
    for begin in range(0, len(lines), 1000):  # the encodings of all lines at once would need gigabytes
        tokens += sum(len(found) for found in encode(lines[begin : begin + 1000], add_special_tokens=False))
    return {"seconds": perf_counter() - started, "cpu": process_time() - worked, "tokens": tokens}


def prepared(path: Path, vocabulary: Path, cache: Path, workers: int) -> dict[str, float]:
    """The whole preparation, from the file to shards."""
    from potstill.corpus.running import open_running
    from potstill.progress import Progress
    from potstill.settings import CorpusConfig
    from potstill.tokenizers import load_tokenizer

    tokenizer = load_tokenizer(str(vocabulary), None)
    started, worked, before = perf_counter(), process_time(), _resident()
    text = open_running(str(path), "text", CorpusConfig(workers=workers), None, Path(), "data.train", cache)
    done = text.prepared(tokenizer, LENGTH, Progress())
    seconds, cpu = perf_counter() - started, process_time() - worked
    tokens = int(done.table.lengths.sum()) - 2 * len(done.table)
    return {"seconds": seconds, "cpu": cpu, "tokens": tokens, "before": before, "highest": _resident()}


def _resident() -> float:
    """The highest resident memory so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


def apart(threads: int, *words: str | Path) -> dict[str, float]:
    """A measurement in a process of its own."""
    environment = {**os.environ, "RAYON_NUM_THREADS": str(threads), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, "one", *map(str, words)]
    told = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    found: dict[str, float] = json.loads(told)
    return found


def speed(told: argparse.Namespace) -> Iterator[str]:
    path = text_file(told.scratch, told.text, told.megabytes[0])
    yield f"{path.stat().st_size / MB:.0f} MB of text, {told.rounds} rounds in turns; medians of tokens a second."
    yield ""
    yield "| workers | encode_batch | encode_batch_fast | prepare | of encode_batch | of fast | CPU s of the three |"
    yield "|---|---|---|---|---|---|---|"
    for workers in (1, 2):
        rounds: dict[str, list[dict[str, float]]] = {"encode_batch": [], "encode_batch_fast": [], "prepare": []}
        for _ in range(told.rounds):
            for how in ("encode_batch", "encode_batch_fast"):
                rounds[how].append(apart(workers, "bare", path, told.vocabulary, how))
            cache = told.scratch / "cache"
            shutil.rmtree(cache, ignore_errors=True)
            rounds["prepare"].append(apart(workers, "prepare", path, told.vocabulary, cache, str(workers)))
        rates = {how: [one["tokens"] / one["seconds"] for one in found] for how, found in rounds.items()}
        batch, fast, ours = (median(found) for found in rates.values())
        share = [median(o / b for o, b in zip(rates["prepare"], rates[how], strict=True)) for how in list(rates)[:2]]
        cpu = ", ".join(f"{median(one['cpu'] for one in found):.1f}" for found in rounds.values())
        yield f"| {workers} | {batch:,.0f} | {fast:,.0f} | {ours:,.0f} | {share[0]:.2f} | {share[1]:.2f} | {cpu} |"


def memory(told: argparse.Namespace) -> Iterator[str]:
    yield "| input, MB | sequences' tokens | highest resident MB | before it begins | seconds |"
    yield "|---|---|---|---|---|"
    for megabytes in told.megabytes:
        path, cache = text_file(told.scratch, told.text, megabytes), told.scratch / "cache"
        shutil.rmtree(cache, ignore_errors=True)
        one = apart(2, "prepare", path, told.vocabulary, cache, "2")
        numbers = [f"{one[name]:,.0f}" for name in ("tokens", "highest", "before", "seconds")]
        yield f"| {megabytes} | {' | '.join(numbers)} |"


def one(words: list[Any]) -> None:
    """What `apart` begins."""
    kind, path, vocabulary, *rest = words
    if kind == "bare":
        print(json.dumps(bare(Path(path), Path(vocabulary), rest[0])))
    else:
        print(json.dumps(prepared(Path(path), Path(vocabulary), Path(rest[0]), int(rest[1]))))


def main() -> None:
    if sys.argv[1:2] == ["one"]:
        one(sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("speed", "memory"))
    parser.add_argument("scratch", type=Path)
    parser.add_argument("vocabulary", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("--megabytes", type=int, nargs="+")
    parser.add_argument("--rounds", type=int, default=5)
    told = parser.parse_args()
    told.megabytes = told.megabytes or ([64] if told.what == "speed" else [100, 500, 2000])
    for line in speed(told) if told.what == "speed" else memory(told):
        print(line, flush=True)


if __name__ == "__main__":
    main()
