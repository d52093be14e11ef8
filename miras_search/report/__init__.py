"""A run as one page: `verdicts` (what won, how sure), `controls`, `advice`, `findings`
(all that is shown, as data), `figures`, `wording`, `tables`, `document`."""

from miras_search.report.document import markdown, page, render, render_markdown, save_figures

__all__ = ["markdown", "page", "render", "render_markdown", "save_figures"]
