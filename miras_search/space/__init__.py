"""What is searched: a space, read from YAML, counted, drawn from.

In the order of the import: `marks` (YAML with the place of everything), `domain` (what is open, as a tree), `fields`,
`settings`, `grammar` (how a field's alternatives are written), `counting`, `shipped`, `reader`, `schema`, `space`.
"""

from miras_search.space.space import OPERATION, Space, refusal_code

__all__ = ["OPERATION", "Space", "refusal_code"]
