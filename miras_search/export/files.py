"""The text files of an export, by name; made without transformers."""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from miras_search.candidate import Candidate
from miras_search.codegen.linker import link
from miras_search.tasks.tokenizer import ENDS

BESIDE = {
    "miras_search.codegen.skeletons.layer": ".memory_miras",
    "miras_search.export.configuration_miras": ".configuration_miras",
    "miras_search.model": ".lm_miras",
}
"""Where the imports of the classes point in an export."""


def texts(
    candidate: Candidate,
    vocab: int,
    sources: Sequence[str],
    tokenizer_json: str | None,
    *,
    document: int | None = None,
    context: int | None = None,
) -> dict[str, str]:
    """Code and configuration.

    Args:
        candidate: canonical.
        vocab: tokens.
        sources: the emitted modules, one a memory of `candidate.memories`.
        tokenizer_json: a file of `tokenizers`, if the task has text.
        document: the token at which the memory starts afresh.
        context: tokens a row when it was trained.
    """
    ends = special_ids(tokenizer_json)
    found = {
        **{f"{module}.py": source for module, source in zip(modules(len(sources)), sources, strict=True)},
        "lm_miras.py": language_model(),
        "configuration_miras.py": classes("configuration_miras"),
        "modeling_miras.py": classes("modeling_miras", len(sources)),
        "config.json": json_text(config(candidate, vocab, ends, document, context)),
        "generation_config.json": json_text(ends),  # no max_new_tokens: it would win over what a caller asks for
    }
    if tokenizer_json is not None:
        found |= {
            "tokenizer.json": tokenizer_json,
            "tokenizer_config.json": json_text(tokenizer_config(tokenizer_json)),
        }
    return found


def language_model() -> str:
    """`lm_miras.py`: `LM` of `miras_search.model` and what it uses, as it stands there."""
    text = resources.files("miras_search").joinpath("model.py").read_text(encoding="utf-8")
    linked = link([text], ["LM"], {}, {})
    body = "\n\n\n".join(definition.text for definition in linked.definitions)
    lines = [
        '"""The language model around the memory layers of `memory_miras.py`, in plain torch, as it was trained.',
        "",
        "Shape legend: B batch, T time, E width, V vocabulary.",
        '"""',
        "",
        "from __future__ import annotations",
        "",
        *_imports(text, body),
    ]
    return "\n".join(lines) + f"\n\n{body}\n"


def _imports(text: str, body: str) -> list[str]:
    """The import statements of a module that some of its definitions need, as they stand."""
    used = {node.id for node in ast.walk(ast.parse(body)) if isinstance(node, ast.Name)}
    return [
        str(ast.get_source_segment(text, node))
        for node in ast.parse(text).body
        if isinstance(node, (ast.Import, ast.ImportFrom))
        and used & {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
    ]


def memories(candidate: Candidate) -> list[int]:
    """For every layer, which of the different memories it has."""
    order = list(candidate.memories)
    return [order.index(layer) for layer in candidate.layers]


def modules(count: int) -> list[str]:
    """Names of the modules of the memories."""
    return ["memory_miras", *(f"memory_miras_{i}" for i in range(2, count + 1))]


def classes(name: str, count: int = 1) -> str:
    """A module of the classes for transformers, importing the files beside it, those of `count` memories among them."""
    text = resources.files("miras_search.export").joinpath(f"{name}.py").read_text(encoding="utf-8")
    for inside, beside in BESIDE.items():
        text = text.replace(f"from {inside} import", f"from {beside} import")
    if count > 1:
        others = {module: f"Layer{i}" for i, module in enumerate(modules(count)[1:], 2)}
        first = "from .memory_miras import Layer\n"
        text = text.replace(first, first + "".join(f"from .{m} import Layer as {n}\n" for m, n in others.items()))
        text = text.replace("= (Layer,)", f"= ({', '.join(['Layer', *others.values()])})")
    return text


def config(
    candidate: Candidate, vocab: int, ends: Mapping[str, int], document: int | None, context: int | None
) -> dict[str, Any]:
    """config.json."""
    size, design = candidate.backbone, candidate.design
    return {
        "architectures": ["MirasForCausalLM"],
        "auto_map": {
            "AutoConfig": "configuration_miras.MirasConfig",
            "AutoModel": "modeling_miras.MirasModel",
            "AutoModelForCausalLM": "modeling_miras.MirasForCausalLM",
        },
        "model_type": "miras_search",
        "vocab_size": vocab,
        "hidden_size": size.width,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "memories": memories(candidate),
        "intermediate_size": candidate.hidden,
        "residual_conv": design.block.residual_conv,
        "document_token_id": document,
        "tie_word_embeddings": True,
        "use_cache": True,
        "dtype": "float32",
        **ends,
        "trained_context": context,
        "fingerprint": design.fingerprint,
        "design": design.model_dump(mode="json"),
        "pattern": size.model_dump(mode="json")["pattern"],
    }


def tokenizer_config(tokenizer_json: str) -> dict[str, Any]:
    """tokenizer_config.json for transformers 4 and 5: v5 would name a class that v4 lacks, v4 add token_type_ids."""
    special = _special(tokenizer_json)
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_input_names": ["input_ids", "attention_mask"],
        **({f"{use}_token": special[0]["content"] for use in ("bos", "eos", "pad")} if special else {}),
        "padding_side": "left",
        "clean_up_tokenization_spaces": False,
        "model_max_length": 10**30,
    }


def special_ids(tokenizer_json: str | None) -> dict[str, int]:
    """Id of the special token that starts and ends documents and fills rows."""
    special = _special(tokenizer_json)
    return {f"{use}_token_id": special[0]["id"] for use in ("bos", "eos", "pad")} if special else {}


def _special(tokenizer_json: str | None) -> list[dict[str, Any]]:
    """Special tokens, that which ends a document first."""
    added = json.loads(tokenizer_json).get("added_tokens", []) if tokenizer_json else []
    special = [token for token in added if token.get("special")]
    return sorted(special, key=lambda token: ENDS.index(token["content"]) if token["content"] in ENDS else len(ENDS))


def json_text(value: Any) -> str:
    """JSON for people."""
    return json.dumps(value, indent=1) + "\n"
