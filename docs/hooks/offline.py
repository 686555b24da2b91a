"""No page loads anything from another server: the site works without a network and tells nobody who reads it."""

import re
from typing import Any

from mkdocs.exceptions import PluginError

LOADED = re.compile(r'<(?:script|img|iframe|source|link)\b[^>]*?\s(?:src|href)="((?:https?:)?//[^"]+)"')


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """Refuse a page that would load something.

    Raises:
      PluginError: names the page and the address.
    """
    if found := LOADED.search(output):
        raise PluginError(f"{page.file.src_uri} loads {found[1]}: put the file under docs/.")
    return output
