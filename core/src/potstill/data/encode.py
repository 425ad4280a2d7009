"""From texts to a `TokenTable`, in batches, through a cache that is addressed by content."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

import potstill
from potstill.data.table import CHUNK, ORIGIN, TokenTable, record, schema
from potstill.errors import DataError
from potstill.files import file_hash, new_folder, read_json, text_hash, write_json

if TYPE_CHECKING:
    from potstill.data.source import Source
    from potstill.progress import Progress
    from potstill.tasks import Task

Encoded = dict[str, list[Any]]
"""By name of an input or a mark, a list of numbers a row; "origin" is one number a row."""
_TABLE, _MANIFEST = "tokens.arrow", "manifest.json"


def encode(source: Source, task: Task, tokenizer: Any, max_length: int, cache: Path, progress: Progress) -> TokenTable:
    """Every row's tokens, memory-mapped from the cache, which is filled first where it does not hold them.

    An entry is a folder below `cache`, named by a hash of the rows, the tokenizer, `max_length`, the task, what the
    task says decides its tokens, and potstill's version. It appears whole or not at all; a damaged one is noticed by
    its hash and made again.

    Raises: DataError where `max_length` leaves no room for text.
    """
    folder = cache / _key(source, task, tokenizer, max_length)
    found = _opened(folder, len(source))
    if found is not None:
        return found
    if folder.exists():
        progress.note(f"The tokens of {source.path} in {folder} are damaged and are made again.")
    try:
        with new_folder(folder) as draft:
            _write(draft / _TABLE, source, task, tokenizer, max_length, progress)
            write_json(draft / _MANIFEST, {"rows": len(source), "sha256": file_hash(draft / _TABLE)})
    except OSError:
        # Another process may have been faster, and its entry is as good.
        found = _opened(folder, len(source))
        if found is None:
            raise
        return found
    return TokenTable.open(folder / _TABLE, folder.name)


def tokenize(texts: list[str], pairs: list[str] | None, tokenizer: Any, max_length: int) -> Encoded:
    """ "input_ids" of each text or pair and, where the tokenizer gives them, "token_type_ids"; nothing is padded.

    Of a pair that is too long the longer text is cut, token by token. A text that has no token at all becomes one
    unknown token, since no model reads an empty row. The tokenizer's own truncation and padding stay as they were.

    Raises: DataError where `max_length` leaves no room for text beside the special tokens.
    """
    special = tokenizer.num_special_tokens_to_add(pair=pairs is not None)
    if max_length <= special:
        raise DataError(
            f"max_length = {max_length} leaves no room for text: {special} tokens of a row are special ones."
        )
    if not texts:
        return {"input_ids": [], **({"token_type_ids": []} if _has_types(tokenizer) else {})}
    columns, _ = called(tokenizer, texts, pairs, truncation="longest_first", max_length=max_length)
    _fill_empty(columns, tokenizer)
    return columns


def called(tokenizer: Any, texts: list[str], pairs: list[str] | None, **options: Any) -> tuple[Encoded, Any]:
    """The inputs that a tokenizer makes of texts, and all that it gives; its own settings stay as they were."""
    with _settings_kept(tokenizer):
        encoded = tokenizer(
            texts,
            pairs,
            padding=False,
            return_attention_mask=False,
            return_token_type_ids=_has_types(tokenizer),
            verbose=False,
            **options,
        )
    return {name: encoded[name] for name in ("input_ids", "token_type_ids") if name in encoded}, encoded


def tokenizer_key(tokenizer: Any) -> str:
    """A hash of everything that decides which tokens a text becomes."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        state = json.loads(backend.to_str())
        state.update(truncation=None, padding=None)  # set anew by every call
    else:
        state = {"vocabulary": tokenizer.get_vocab(), "settings": tokenizer.init_kwargs}
    kind = type(tokenizer)
    facts = [f"{kind.__module__}.{kind.__qualname__}", state, tokenizer.special_tokens_map]
    facts += [list(tokenizer.model_input_names), tokenizer.truncation_side]
    return text_hash(json.dumps(facts, sort_keys=True, default=str))


def _has_types(tokenizer: Any) -> bool:
    return "token_type_ids" in tokenizer.model_input_names


def _fill_empty(columns: dict[str, list[list[int]]], tokenizer: Any) -> None:
    unknown = tokenizer.unk_token_id if tokenizer.unk_token_id is not None else tokenizer.pad_token_id
    for row, ids in enumerate(columns["input_ids"]):
        if not ids:
            for name, rows in columns.items():
                rows[row] = [unknown or 0] if name == "input_ids" else [0]


@contextmanager
def _settings_kept(tokenizer: Any) -> Iterator[None]:
    # A call leaves its truncation in the tokenizer, which `save_pretrained` would write: a run that finds its tokens
    # in the cache would then save another tokenizer.json than the run before it.
    backend = getattr(tokenizer, "backend_tokenizer", None)
    truncation, padding = (None, None) if backend is None else (backend.truncation, backend.padding)
    try:
        yield
    finally:
        if backend is not None:
            backend.no_truncation() if truncation is None else backend.enable_truncation(**truncation)
            backend.no_padding() if padding is None else backend.enable_padding(**padding)


def _key(source: Source, task: Task, tokenizer: Any, max_length: int) -> str:
    facts = [potstill.__version__, source.fingerprint, task.name, tokenizer_key(tokenizer), max_length, task.tokens_key]
    return text_hash(json.dumps(facts))[:32]


def _opened(folder: Path, rows: int) -> TokenTable | None:
    """The entry's table; None where there is no entry or it is damaged."""
    try:
        manifest = read_json(folder / _MANIFEST)
        if manifest["rows"] != rows or manifest["sha256"] != file_hash(folder / _TABLE):
            return None
        return TokenTable.open(folder / _TABLE, folder.name)
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException):
        return None


def _write(path: Path, source: Source, task: Task, tokenizer: Any, max_length: int, progress: Progress) -> None:
    texts = [name for name in ("text", "text_pair") if name in source.dataset.column_names]
    dataset = source.dataset.select_columns(texts)
    with progress.bar(f"tokens of {source.path}", len(source)) as bar, ExitStack() as open_files:
        out: pa.RecordBatchFileWriter | None = None
        for start in range(0, len(dataset), CHUNK):
            rows = dataset[start : start + CHUNK]
            columns = task.encode(rows, tokenizer, max_length)
            if ORIGIN in columns:
                columns[ORIGIN] = [start + row for row in columns[ORIGIN]]
            if out is None:
                names = tuple(columns)
                sink = open_files.enter_context(pa.OSFile(str(path), "wb"))
                out = open_files.enter_context(pa.ipc.new_file(sink, schema(names)))
            out.write_batch(record(names, columns))
            bar.advance(len(rows[texts[0]]))
