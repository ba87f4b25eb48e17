"""Pieces of self-contained HTML pages."""

import base64
from collections.abc import Sequence
from html import escape
from importlib.resources import files


def to_bytes(page: str) -> bytes:
    """Return a page as it is written to a file; of the names of files in it, what is no text is escaped."""
    return page.encode("utf-8", "backslashreplace")


def style() -> str:
    """Return the style sheet of all reports."""
    return files(__package__).joinpath("style.css").read_text("utf-8")


def data_url(png: bytes) -> str:
    """Return a PNG picture as an address that holds it."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def html_table(header: Sequence[str], rows: Sequence[Sequence[str]], marks: Sequence[str] | None = None) -> str:
    """Return a table; `marks` are markup that stands before the first cell of each row."""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = []
    for mark, row in zip(marks or [""] * len(rows), rows, strict=True):
        cells = "</td><td>".join(escape(cell) for cell in row)
        body.append(f"<tr><td>{mark}{cells}</td></tr>")
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"


def swatch(colour: str) -> str:
    """Return the markup of a small square of a colour, a classifier's in the pictures."""
    return f'<span class="swatch" style="background:{colour}"></span>'
