"""Hooks of the documentation site.

Links into the repository lead to its host. Lists and tables need no blank line above them, as on GitHub. Nothing is
loaded from elsewhere.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError

LINK = re.compile(r"(\]\()(?!\w+:|#|/)([^)\s#]+)")
"""The target of a relative link, without its anchor."""
BLOCK = re.compile(r"- |\d+\. |\|")
"""The start of a list or a table."""
LOADED = re.compile(
    r"""<(?:script|img|iframe|source)\b[^>]*\bsrc=["']?(?:https?:)?//"""
    r"""|<link\b(?=[^>]*\brel=["']?(?:stylesheet|pre))[^>]*\bhref=["']?(?:https?:)?//"""
    r"""|\burl\(["']?(?:https?:)?//""",
    re.IGNORECASE,
)
"""Code that makes a browser load a file from another host."""


def on_page_markdown(markdown: str, page: Any, config: Any, **_: Any) -> str:
    """Pages link to files of the repository, such as ../README.md. The site doesn't contain these files."""
    folder = posixpath.dirname(posixpath.join("docs", page.file.src_uri))

    def outside(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(folder, match[2]))
        if target.startswith("docs/"):
            return match[0]
        return f"{match[1]}{config.extra['repository']}/blob/main/{target}"

    return LINK.sub(outside, set_apart(markdown))


def set_apart(markdown: str) -> str:
    """The page with a blank line above lists and tables. Without it MkDocs takes them for a part of the paragraph."""
    lines: list[str] = []
    in_code = in_block = False
    for line in markdown.split("\n"):
        starts = not in_code and BLOCK.match(line) is not None
        if starts and not in_block and lines and lines[-1].strip():
            lines.append("")
        if line.startswith("```"):
            in_code, in_block = not in_code, False
        elif not in_code:
            in_block = starts or (in_block and line.strip() != "")
        lines.append(line)
    return "\n".join(lines)


def on_post_build(config: Any, **_: Any) -> None:
    """Raise PluginError if a page loads a script, a style, a font or a picture from another host."""
    site = Path(config.site_dir)
    for page in [*site.rglob("*.html"), *site.rglob("*.css")]:
        if found := LOADED.search(page.read_text("utf-8")):
            raise PluginError(f"{page}: loads a file from another host: {found.group()}")
