"""One offline page: its style, a table, images with a text below each."""

import re
from collections.abc import Sequence
from html import escape
from pathlib import Path

from reprojax.saving.files import write_file


def write_page(
    path: Path, title: str, sections: Sequence[str], style: str = ""
) -> None:
    """HTML as one file, atomically: a reader sees the old one or the new one.

    Args:
        style: CSS of this page, behind that of all pages.
    """
    style = Path(__file__).with_name("page.css").read_text() + style
    body = "\n".join(part for part in sections if part)
    page = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )
    write_file(path, page.encode())


def verdict_box(sentences: Sequence[str], use: str) -> str:
    """What to take and why, with the command line that uses it."""
    whole = [
        sentence.replace(" ± ", "\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}")
        for sentence in sentences
    ]
    flag = r'<span class="flag">\g<0></span>'
    text = "\n".join(f"<p>{re.sub('--[a-z-]+', flag, escape(s))}</p>" for s in whole)
    command = f"\n{command_line(use)}" if use else ""
    return f'<div class="verdict">\n{text}{command}\n</div>'


def command_line(line: str) -> str:
    """A line that wraps between its words, and not at the hyphens of its flags."""
    words = "".join(f"<span>{escape(part)}</span> " for part in line.split(" "))
    return f'<pre class="command">{words.rstrip()}</pre>'


def results(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    notes: Sequence[str] = (),
    title: str = "Result",
) -> str:
    """The table, its first row above the others, and sentences below it."""
    head, (own, *rest) = _lines(header, rows)
    controls = "\n".join(rest)
    controls = f'\n<tbody class="controls">\n{controls}\n</tbody>' if rest else ""
    below = "".join(f"\n<p>{escape(note)}</p>" for note in notes)
    return (
        f"<h2>{escape(title)}</h2>\n"
        '<div class="scroll"><table class="results scores">\n'
        f"<thead>{head}</thead>\n"
        f'<tbody class="program">{own}</tbody>{controls}\n</table></div>{below}'
    )


def plain_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of equal rows."""
    head, lines = _lines(header, rows)
    body = "\n".join(lines)
    return (
        f'<div class="scroll"><table class="results">\n<thead>{head}</thead>\n'
        f'<tbody class="controls">\n{body}\n</tbody>\n</table></div>'
    )


def _lines(
    header: Sequence[str], rows: Sequence[Sequence[str]]
) -> tuple[str, list[str]]:
    """The head and the rows; a column of numbers is set to the right."""
    columns = zip(*rows, strict=True)
    kinds = [' class="number"' if _is_number(cells) else "" for cells in columns]

    def line(cells: Sequence[str], tag: str) -> str:
        found = zip(cells, kinds, strict=True)
        inner = (f"<{tag}{kind}>{escape(c)}</{tag}>" for c, kind in found)
        return f"<tr>{''.join(inner)}</tr>"

    return line(header, "th"), [line(row, "td") for row in rows]


def _is_number(cells: Sequence[str]) -> bool:
    return all(c[:1] in "+-.0123456789" for c in cells)  # or empty


def captioned(pairs: Sequence[tuple[str, str]]) -> str:
    """Images with a text below each."""
    return "\n".join(
        f"<figure>{image}<figcaption>{escape(caption)}</figcaption></figure>"
        for image, caption in pairs
    )
