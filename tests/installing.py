"""Distributions that tests make up, as an installer would lay them out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def install(
    place: Path,
    distribution: str,
    sources: Mapping[str, str],
    entry_points: Mapping[str, Mapping[str, str]],
    summary: str = "made up",
) -> None:
    """Writes a distribution's files and metadata below `place`, which then belongs on sys.path.

    Args:
        sources: contents by path, such as `"noisy/command.py"`.
        entry_points: group → name → "module:attribute".
    """
    for path, text in sources.items():
        file = place / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    info = place / f"{distribution.replace('-', '_')}-1.2.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.2\nSummary: {summary}\n")
    groups = [
        f"[{group}]\n" + "".join(f"{n} = {v}\n" for n, v in names.items()) for group, names in entry_points.items()
    ]
    (info / "entry_points.txt").write_text("\n".join(groups))
