"""What mkdocs calls: adds the generated pages to the site. `mkdocs.yml` names this file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from docs.generate.pages import pages  # noqa: E402 - found only from the checkout's root


def on_files(files: Any, config: Any) -> Any:
    """Adds every generated page beside the written ones."""
    for path, text in pages(ROOT).items():
        files.append(File.generated(config, path, content=text))
    return files
