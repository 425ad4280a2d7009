"""Where rows come from: a file, a folder, the hub, or a data set in memory, with columns named by their roles."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from datasets import Dataset, DatasetDict
from datasets.exceptions import DatasetsError
from huggingface_hub import HfApi, is_offline_mode

from potstill.data.columns import Columns, Names, as_text, by_role, named_labels, values_of
from potstill.data.files import SUFFIXES, read
from potstill.data.flags import flags_of, joined, spread
from potstill.data.shapes import PLAIN, Shapes, shaped
from potstill.disk import refusal
from potstill.errors import AbsentDataError, DataError, did_you_mean

_BLOCK = 4096
_SPLIT = re.compile(r"train|valid|dev|val|test|eval", re.IGNORECASE)


@dataclass(frozen=True)
class Source:
    """Rows with their columns named by role.

    Attributes:
        dataset: columns "text" and, where asked for, "text_pair" and "label", as their shapes read them.
        fingerprint: a hash of all rows and of the roles.
        path: how errors name the data, such as "data.train = 'a.csv'".
        label_names: the classes' names in their order, where the label column itself has them (`ClassLabel`), or each
            class has a column; the labels are these names then.
        origin: [rows], the row of the data that each one was made of; None where they are the data's own.
        label_columns: whether each class has a column, so that nothing is known of any that has none.
    """

    dataset: Dataset
    fingerprint: str
    path: str
    label_names: tuple[str, ...] | None = None
    origin: npt.NDArray[np.int64] | None = None
    label_columns: bool = False

    def __len__(self) -> int:
        return len(self.dataset)

    def labels(self) -> list[Any]:
        """The raw labels, None where there are none."""
        return values_of(self.dataset, "label") if "label" in self.dataset.column_names else [None] * len(self)


def open_source(
    spec: str | Dataset,
    columns: Mapping[str, Names | None],
    root: Path,
    rows: int | None = None,
    where: str = "data",
    cache: Path | None = None,
    shapes: Shapes = PLAIN,
) -> Source:
    """The rows that a recipe's `data.train`, `data.validation` or `data.test` names.

    Args:
        spec: a .csv, .tsv, .json, .jsonl, .parquet, .txt or .conll file; a folder of such files or of `save_to_disk`;
            a hub id ("ag_news", "nyu-mll/glue:sst2"); folder and hub id may end in "::split". Or a `datasets.Dataset`.
        columns: column names by role ("text", "text_pair", "label"); None or "" where a role is not there. Of "label"
            there may be several, one of 0 and 1 for each class; they become one of `LABELS`.
        root: the folder that paths are relative to.
        rows: only the first so many.
        where: the recipe's key, for errors.
        cache: folder for `datasets`' cache; its own default where None.
        shapes: how the columns are read that are not text or one label, by role.

    Raises: DataError for whatever is missing, empty, or not what it should be.
    """
    wanted = spread(columns)
    flags = flags_of(wanted)
    shapes = {**shapes, **flags}
    path = f"{where} = '{spec}'" if isinstance(spec, str) else f"{where} (a data set in memory)"
    names = list(wanted.values())
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{path}: the column '{twice}' is named for two roles or classes; each needs one of its own.")
    dataset = find_rows(spec, wanted, root, path, cache, shapes)
    with _quiet(), _told(path, _kept(cache)):
        if rows is not None:
            dataset = dataset.select(range(min(rows, len(dataset))))
        if not len(dataset):
            raise DataError(f"{path} holds no rows.")
        dataset = as_text(dataset, wanted, path, shapes)
        label_names, dataset = named_labels(dataset, wanted, path)
        dataset = shaped(dataset, wanted, shapes, path)
        if there := flags.keys() & {*dataset.column_names}:  # a file of texts alone has none
            label_names, dataset = joined(dataset, wanted, path)
        return Source(dataset, fingerprint(dataset), path, label_names, label_columns=bool(there))


def find_rows(
    spec: Any, columns: Columns, root: Path, where: str, cache: Path | None, shapes: Shapes = PLAIN
) -> Dataset:
    """The rows that a recipe names, as they are, their columns named by role; arguments as for `open_source`.

    Raises: DataError for what is missing or cannot be read.
    """
    kept = _kept(cache)
    with _quiet(), _told(where, kept):
        return _found(spec, columns, root, where, None if kept is None else str(kept), shapes)


def _kept(cache: Path | None) -> Path | None:
    return None if cache is None else cache / "datasets"


def _found(spec: Any, columns: Columns, root: Path, where: str, cache: str | None, shapes: Shapes) -> Dataset:
    """The rows of whatever `spec` names, by role."""
    if isinstance(spec, Dataset):
        return by_role(spec.with_format(None), columns, where, shapes)
    if not isinstance(spec, str):
        raise DataError(f"{where} is a {type(spec).__name__}; give a path, a hub id or one datasets.Dataset.")
    name, _, split = spec.partition("::")
    path = root / Path(name).expanduser()
    if path.is_dir():
        return _folder(path, split, columns, where, cache, shapes)
    if path.is_file():
        if path.suffix.lower() not in SUFFIXES:
            raise DataError(f"{where} ends in '{path.suffix}'; files may end in {', '.join(SUFFIXES)}.")
        if split:
            raise DataError(f"{where}: a file has no splits; leave out '::{split}'.")
        return read([path], columns, where, cache, shapes)
    if path.suffix.lower() in SUFFIXES or Path(name).is_absolute() or name.startswith((".", "~")):
        beside = [other.name for other in path.parent.glob("*")] if path.parent.is_dir() else []
        raise AbsentDataError(f"{where}: there is no file or folder {path}.{did_you_mean(path.name, beside)}")
    return by_role(_hub(name, split, root, where, cache), columns, where, shapes)


def _folder(path: Path, split: str, columns: Columns, where: str, cache: str | None, shapes: Shapes) -> Dataset:
    if (path / "state.json").is_file() or (path / "dataset_dict.json").is_file():
        return by_role(_one_split(datasets.load_from_disk(str(path)), split, where), columns, where, shapes)
    files = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES and file.is_file())
    if not files:
        raise AbsentDataError(
            f"{where}: the folder {path} holds no data file; data files end in {', '.join(SUFFIXES)}."
        )
    if split:
        chosen = [file for file in files if re.match(re.escape(split) + r"(?![A-Za-z0-9])", file.stem)]
        if not chosen:
            raise AbsentDataError(f"{where}: no file of '{split}' is among {', '.join(file.name for file in files)}.")
        files = chosen
    splits = {found[0].lower() if (found := _SPLIT.match(file.stem)) else "" for file in files}
    if len(splits) > 1 or len({file.suffix.lower() for file in files}) > 1:
        raise DataError(
            f"{where}: the folder holds {', '.join(file.name for file in files)}, which are not parts of one data set; "
            "name one of the files, or a split as in 'folder::train'."
        )
    return read(files, columns, where, cache, shapes)


def _hub(name: str, split: str, root: Path, where: str, cache: str | None) -> Dataset:
    hub_id, _, config = name.partition(":")
    try:
        if not is_offline_mode():
            HfApi().dataset_info(hub_id, timeout=10)  # at once, where `load_dataset` would try again for half a minute
        loaded = datasets.load_dataset(hub_id, config or None, split=split or None, cache_dir=cache)
    except Exception as problem:
        raise AbsentDataError(
            f"{where} is neither a file or folder below {root.absolute()} nor could it be read from the hub: "
            f"{_reason(problem)}. (HF_HUB_OFFLINE=1 uses a copy that was fetched before.)"
        ) from problem
    return loaded if split else _one_split(loaded, split, where)


def _one_split(loaded: Dataset | DatasetDict, split: str, where: str) -> Dataset:
    if isinstance(loaded, Dataset):
        if split:
            raise DataError(f"{where}: this folder holds one data set without splits; leave out '::{split}'.")
        return loaded
    names = list(loaded)
    chosen = split or (names[0] if len(names) == 1 else "")
    if chosen not in names:
        told = f"has no split '{split}'" if split else "does not say which split"
        raise DataError(f"{where} {told}; append one of {', '.join(f'::{name}' for name in names)}.")
    return loaded[chosen]


def fingerprint(dataset: Dataset) -> str:
    """SHA-256 of the rows, whatever file or cache they come from."""
    digest = hashlib.sha256(repr(sorted(dataset.features.items())).encode())
    ordered = dataset.select_columns(sorted(dataset.column_names)).with_format("arrow")
    for block in ordered.iter(_BLOCK):
        for part in block.replace_schema_metadata(None).combine_chunks().to_batches():
            digest.update(part.serialize())
    return digest.hexdigest()


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the progress bars of `datasets`, which would cut through ours."""
    shown = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()


@contextmanager
def _told(where: str, cache: Path | None) -> Iterator[None]:
    """What goes wrong inside `datasets` as one sentence; our own errors are taken out of its wrapping."""
    try:
        yield
    except DataError:
        raise
    except (DatasetsError, pa.ArrowException, OSError, ValueError, TypeError, NotImplementedError) as problem:
        inner: BaseException | None = problem
        while inner is not None:
            if isinstance(inner, DataError):
                raise inner from None
            inner = inner.__cause__ or inner.__context__
        if refused := refusal(problem, cache):
            raise refused from problem
        raise DataError(f"{where} cannot be read: {_reason(problem)}.") from problem


def _reason(problem: BaseException) -> str:
    while problem.__cause__ is not None:
        problem = problem.__cause__
    lines = str(problem).strip().splitlines()
    return (lines[0] if lines else type(problem).__name__).rstrip(".")
