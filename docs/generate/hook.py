"""What mkdocs calls: adds the generated pages to the site. `mkdocs.yml` names this file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from docs.generate.pages import pages, within_site  # noqa: E402 - found only from the checkout's root


def on_files(files: Any, config: Any) -> Any:
    """Adds every generated page beside the written ones."""
    for path, text in pages(ROOT).items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Lets written pages link to files of the checkout, such as a plugin's README."""
    if page.file.generated_by is not None:
        return markdown
    return within_site(markdown, Path(page.file.abs_src_path), ROOT, page.file.src_uri)
