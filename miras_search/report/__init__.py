"""A run as one page: `verdicts` (what won, how sure), `findings` (all that is shown, as data), `wording`, `figures`, `document`."""

from miras_search.report.document import markdown, page, render, render_markdown

__all__ = ["markdown", "page", "render", "render_markdown"]
