"""Formulas between dollars become MathML when the site is built: browsers draw it, no script and no font is loaded."""

import html
import re
from typing import Any

from latex2mathml.converter import convert

FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)


def on_page_content(text: str, **_: Any) -> str:
    """Put MathML in the place of every formula that Markdown has marked."""
    return FORMULA.sub(_drawn, text)


def _drawn(match: re.Match[str]) -> str:
    display = "block" if match[1] == "div" else "inline"
    return f'<{match[1]} class="formula">{convert(html.unescape(match[2]), display=display)}</{match[1]}>'
