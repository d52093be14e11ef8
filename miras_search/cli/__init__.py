"""The command line: `verbs`, what they read (`inputs`), show (`tables`, `overview`), and every way to end (`terminal`)."""

from miras_search.cli.verbs import app, main

__all__ = ["app", "main"]
