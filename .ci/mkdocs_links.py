"""A hook of MkDocs: links from `docs/` to other files of the repository.

On a code host such a link works as it is. On the site it leads to the repository's page if `repo_url` is known, and is
plain text otherwise. A link to a file that does not exist is a warning, which `--strict` makes an error.
"""

import logging
import posixpath
import re
from pathlib import Path
from typing import Any

log = logging.getLogger("mkdocs.hooks.links")
LINK = re.compile(r"(!?)\[([^\]]*)\]\((\.\./[^)#\s]*)(#[^)\s]*)?\)")


def on_page_markdown(markdown: str, page: Any, config: Any, **_: Any) -> str:
    """Return the page with links that lead out of the documentation replaced."""
    root = Path(config.config_file_path).parent
    docs = Path(config.docs_dir).relative_to(root).as_posix()
    folder = posixpath.join(docs, posixpath.dirname(page.file.src_uri))

    def replace(match: re.Match[str]) -> str:
        image, text, target, anchor = match.groups()
        path = posixpath.normpath(posixpath.join(folder, target))
        if path.startswith(f"{docs}/"):
            return match[0]
        if image or not (root / path).exists():
            log.warning("%s: %s is not a file of the repository that a page can link to", page.file.src_uri, target)
            return match[0]
        url = f"{config.repo_url.rstrip('/')}/blob/main/{path}{anchor or ''}" if config.repo_url else ""
        return f"[{text}]({url})" if url else text

    return LINK.sub(replace, markdown)
