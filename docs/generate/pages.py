"""Every generated page by its path in the site."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from docs.generate import commands, hooks, python, recipes

_LINK = re.compile(r"\[([^\]]+)\]\(([^)#:]+)(#[^)]*)?\)")


def pages(root: Path) -> dict[str, str]:
    """Path in the site → Markdown, for the checkout at `root`."""
    return {
        "index.md": _page(root / "README.md", root, "index.md"),
        "recipes.md": recipes.page(),
        "command-line.md": commands.page(),
        "hooks.md": hooks.page(),
        "python.md": python.page(),
        **{path: _page(file, root, path) for path, file in _plugin_pages(root).items()},
    }


def _plugin_pages(root: Path) -> dict[str, Path]:
    return {f"plugins/{file.parent.name}.md": file for file in sorted(root.glob("plugins/*/README.md"))}


def _page(file: Path, root: Path, page: str) -> str:
    return within_site(file.read_text("utf-8"), file, root, page)


def within_site(text: str, file: Path, root: Path, page: str) -> str:
    """The text of `file` with links as the page `page` needs them; links to files outside the site become paths."""
    homes = {source: path for path, source in _plugin_pages(root).items()} | {root / "README.md": "index.md"}

    def link(found: re.Match[str]) -> str:
        target = (file.parent / found[2]).resolve()
        if target in homes:
            path = homes[target]
        elif target.is_relative_to(root / "docs"):
            path = target.relative_to(root / "docs").as_posix()
        else:
            return f"{found[1]} (`{target.relative_to(root).as_posix()}`)"
        return f"[{found[1]}]({posixpath.relpath(path, posixpath.dirname(page) or '.')}{found[3] or ''})"

    return _LINK.sub(link, text)
