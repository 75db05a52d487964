"""A report for people: sections of text, at most 80 columns wide, or Markdown."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field

__all__ = ["WIDTH", "Section", "as_markdown", "as_text"]

WIDTH = 80
_GAP = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """A table: the first column is text, the others numbers. Without a header: facts, a name and
    a sentence each."""

    title: str = ""
    header: Sequence[str] = ()
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = field(default=())


def as_text(sections: Sequence[Section]) -> str:
    return "\n\n".join("\n".join(_text_lines(section)) for section in sections)


def as_markdown(sections: Sequence[Section]) -> str:
    return "\n\n".join("\n".join(_markdown_lines(section)) for section in sections)


def _text_lines(section: Section) -> list[str]:
    lines = [section.title] if section.title else []
    if section.header:
        rows = [section.header, *section.rows]
        widths = [max(len(row[i]) for row in rows) for i in range(len(section.header))]
        spare = WIDTH - sum(widths[1:]) - _GAP * (len(widths) - 1)
        widths[0] = min(widths[0], spare)
        for row in rows:
            # A name that is too long for its column stands above its numbers.
            name = row[0]
            if len(name) > widths[0]:
                lines += textwrap.wrap(name, WIDTH, break_long_words=True)
                name = ""
            numbers = (cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))
            lines.append((" " * _GAP).join((name.ljust(widths[0]), *numbers)).rstrip())
    else:
        first = max((len(row[0]) for row in section.rows), default=0) + _GAP
        for name, text in section.rows:
            lines += textwrap.wrap(
                text,
                WIDTH,
                initial_indent=name.ljust(first),
                subsequent_indent=" " * first,
                break_on_hyphens=False,
            )
    for note in section.notes:
        lines += textwrap.wrap(note, WIDTH, initial_indent="  ", subsequent_indent="  ")
    return lines


def _markdown_lines(section: Section) -> list[str]:
    lines = [f"**{section.title}**", ""] if section.title else []
    columns = len(section.header) or 2
    lines.append("| " + " | ".join(section.header or ("", "")) + " |")
    lines.append("|---" + ("|---:" if section.header else "|---") * (columns - 1) + "|")
    lines += [
        "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in section.rows
    ]
    for note in section.notes:
        lines += ["", note]
    return lines
