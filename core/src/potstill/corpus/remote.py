"""A data set of the hub that is read as it comes, without a copy here: only its tokens are kept."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from potstill.data.columns import check_columns
from potstill.errors import DataError
from potstill.places import first_line


@dataclass(frozen=True)
class Remote:
    """A split of a data set at one revision.

    Attributes:
        name: its hub id; a folder of data files does too.
        config: which of its configurations; None for the only one.
        revision: a commit, so that what was read is known by it; None of a folder.
    """

    name: str
    config: str | None
    split: str
    revision: str | None

    @property
    def key(self) -> str:
        """What its rows follow from."""
        return f"{self.name} {self.config} {self.split} {self.revision} {self.files}"

    @cached_property
    def _stream(self) -> Any:
        import datasets

        return datasets.load_dataset(
            self.name, self.config, split=self.split, revision=self.revision, streaming=True
        ).with_format(None)

    @property
    def files(self) -> int:
        """The files that its rows come from."""
        return int(self._stream.num_shards)

    @property
    def columns(self) -> list[str]:
        """Their names; the first row is read where the hub does not tell."""
        return list(self._stream.column_names or next(iter(self._stream), {}))

    def texts(self, file: int, text: str) -> Iterator[Any]:
        """The column `text` of one of the files, in order."""
        for row in self._stream.shard(self.files, file):
            yield row.get(text)


def on_the_hub(part: str, text: str, told: str) -> Remote:
    """What a recipe calls "id::split" or "id:config::split".

    Raises: DataError where there is no such data set, split or column.
    """
    import datasets
    from huggingface_hub import HfApi

    whole, _, split = part.partition("::")
    name, _, config = whole.partition(":")
    try:
        revision = HfApi().dataset_info(name, timeout=10).sha
        splits = datasets.get_dataset_split_names(name, config or None, revision=revision)
    except Exception as problem:
        raise DataError(
            f"{told} is neither a file or folder here nor could it be read from the hub: {first_line(problem)}. "
            "(HF_HUB_OFFLINE=1 uses a copy that was fetched before.)"
        ) from problem
    split = split or (splits[0] if len(splits) == 1 else "")
    if split not in splits:
        said = f"has no split '{split}'" if split else "does not say which split"
        raise DataError(f"{told} {said}; append one of {', '.join(f'::{name}' for name in splits)}.")
    remote = Remote(name, config or None, split, revision)
    check_columns({"text": text}, remote.columns, told)
    return remote
