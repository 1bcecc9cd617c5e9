"""What a page begins with, when its writer knows more than the trace."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

from vmthaw.trace.report._tables import table


@dataclass(frozen=True)
class Preface:
    """A section before all others: a heading, a sentence, a table (the first column is a name, the others figures),
    and paragraphs that say what it means."""

    heading: str
    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    meaning: Sequence[str] = ()

    def to_html(self) -> Iterator[str]:
        """Its parts; all texts are escaped."""
        yield f"<h2>{escape(self.heading)}</h2><p>{escape(self.caption)}.</p>"
        yield table(self.columns, self.rows, 1)
        yield from (f"<p>{escape(text)}</p>" for text in self.meaning)
