"""Keeping other libraries' progress bars and chatter out of a run; their errors still come through."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import datasets
import transformers


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Silences transformers' and datasets' bars and warnings within the block."""
    level = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity(logging.ERROR)
    transformers.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    had_bars = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"transformers|datasets|torch\.distributed")
            yield
    finally:
        transformers.logging.set_verbosity(level)
        transformers.logging.enable_progress_bar()  # type: ignore[no-untyped-call]
        if had_bars:
            datasets.enable_progress_bars()
