"""`python -m miras_search.cli` is `miras-search`."""

from miras_search.cli.verbs import main

main()
