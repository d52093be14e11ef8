"""From a trained trial to a Hugging Face folder that needs nothing of this package.

`configuration_miras` and `modeling_miras` are the classes for transformers: real modules here, copied into an export
with their imports pointed at the files beside them. `files` makes the other texts of the folder, `card` its README,
`folder` all of it.
"""

from miras_search.export.folder import PROVENANCE, choose, export, export_model, sample, tokenizer

__all__ = ["PROVENANCE", "choose", "export", "export_model", "sample", "tokenizer"]
