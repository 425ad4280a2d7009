"""Every generated page by its path in the site."""

from __future__ import annotations

import re
from pathlib import Path

from docs.generate import commands, hooks, python, recipes


def pages(root: Path) -> dict[str, str]:
    """Path in the site → Markdown, for the checkout at `root`."""
    return {
        "index.md": front_page(root),
        "recipes.md": recipes.page(),
        "command-line.md": commands.page(),
        "hooks.md": hooks.page(),
        "python.md": python.page(),
        **{f"plugins/{path.parent.name}.md": path.read_text("utf-8") for path in root.glob("plugins/*/README.md")},
    }


def front_page(root: Path) -> str:
    """The README with its links as they are within the site; it is the first page, and not written twice."""
    text = (root / "README.md").read_text("utf-8")
    text = re.sub(r"\]\(plugins/([\w-]+)/README\.md", r"](plugins/\1.md", text)
    return text.replace("](docs/", "](")
