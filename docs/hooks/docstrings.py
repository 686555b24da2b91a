"""Docstrings are plain text with `code`, lists and tables; this makes Markdown of them that reads the same.

Formulas keep their stars, underscores and brackets; examples and other indented blocks become code. A Griffe extension:
the reference applies it to every docstring before it is parsed into sections.
"""

import re
import textwrap
from typing import Any

import griffe

SECTIONS = "Args", "Attributes", "Example", "Examples", "Note", "Raises", "Returns", "Yields"
CODE = re.compile(r"(`+)(?!`).+?(?<!`)\1(?!`)", re.DOTALL)
ITEM = re.compile(r"^\s+\**\w+(?: \([^)]*\))?:", re.MULTILINE)  # a name in a section: it is looked up, so it stays
NAME = re.compile(r"^(\w+(?:, \w+)*):(?= )")
MARKS = re.compile(r"(?<!\*)\*(?![\s*])|(?<=\S)(?<!\*)\*(?!\*)|[_\[\]$]")


class Plain(griffe.Extension):
    """Turns the docstrings of all objects into Markdown."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite one docstring."""
        if obj.docstring:
            obj.docstring.value = markdown(obj.docstring.value)


def markdown(text: str) -> str:
    """Markdown of a docstring, in the order and words of the text."""
    return "\n".join("\n".join(WRITTEN[kind](lines)) for kind, lines in blocks(text))


def blocks(text: str) -> list[tuple[str, list[str]]]:
    """Runs of lines, each with what it is: prose, an example, or an indented block."""
    found: list[tuple[str, list[str]]] = []
    kind, head = "", ""  # of the run; the last line at the margin, which says what an indented one belongs to
    for line in text.split("\n"):
        now = _kind(line, kind, head)
        head = line if line.strip() and not line.startswith(" ") else head
        if now != kind or not found:
            found.append((now, []))
        found[-1][1].append(line)
        kind = now
    return found


def _kind(line: str, kind: str, head: str) -> str:
    """What a line is: prose, an example with its output, or an indented block outside the known sections."""
    if line.lstrip().startswith(">>>") or (kind == "example" and line.strip()):
        return "example"
    if not line.startswith("  "):
        return "block" if kind == "block" and not line.strip() else "prose"
    in_section = head.rstrip().rstrip(":") in SECTIONS and head.rstrip().endswith(":")
    return "prose" if in_section or re.match(r"[-|\d]", head) else "block"


def _example(lines: list[str]) -> list[str]:
    """Doctest lines as code."""
    margin = " " * (len(lines[0]) - len(lines[0].lstrip()))
    return ["", f"{margin}```pycon", *lines, f"{margin}```"]


def _block(lines: list[str]) -> list[str]:
    """An indented block at the margin: lists and tables as such, names as a list, anything else as code."""
    plain = textwrap.dedent("\n".join(lines)).rstrip().split("\n")
    names = NAME.match(plain[0]) and not any("   " in line.strip() for line in plain)
    if names:
        plain = [NAME.sub(r"- `\1`:", line) for line in plain]
    if names or plain[0].startswith(("- ", "|")):
        return ["", *prose(plain), ""]
    return ["", "```text", *plain, "```", ""]


def prose(lines: list[str]) -> list[str]:
    """Text whose marks outside `code` are taken literally; **bold** stays."""
    pieces, end, text = [], 0, "\n".join(lines)
    for match in CODE.finditer(text):
        pieces += [_literal(text[end : match.start()]), match[0].replace("||", "‖")]
        end = match.end()
    return "".join([*pieces, _literal(text[end:])]).split("\n")


def _literal(text: str) -> str:
    pieces, end = [], 0
    for match in ITEM.finditer(text):
        pieces += [_escaped(text[end : match.start()]), match[0]]
        end = match.end()
    return "".join([*pieces, _escaped(text[end:])])


def _escaped(text: str) -> str:
    return MARKS.sub(lambda mark: "\\" + mark[0], text.replace("||", "‖")).replace("<", "&lt;")


WRITTEN = {"prose": prose, "example": _example, "block": _block}
