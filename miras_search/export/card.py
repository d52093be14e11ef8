"""The README of an export: what the model is, how to load it, where it comes from, what it is not."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from miras_search import named
from miras_search.candidate import Candidate
from miras_search.design import Design
from miras_search.export.files import modules


def write(candidate: Candidate, known: Mapping[str, Any], *, text: bool) -> str:
    """A model card.

    Args:
        candidate: canonical.
        known: the provenance, as in provenance.json; what is missing is left out.
        text: the model has a tokenizer.
    """
    name = candidate.label or candidate.design.fingerprint
    parts = [
        _header(text),
        f"# {name}\n",
        _summary(candidate, name, known),
        "## Use\n",
        _use(text, len(candidate.memories)),
        "## Design\n",
        *(f"{_where(candidate, design)}```yaml\n{design.to_yaml()}```\n" for design in candidate.memories),
        _source(name),
        "## Provenance\n",
        _provenance(candidate, known),
        "## Limits\n",
        _limits(known, text),
        "## Files\n",
        _FILES,
    ]
    return "\n".join(part for part in parts if part)


def _where(candidate: Candidate, design: Design) -> str:
    """Which layers of a hybrid have this memory."""
    if not candidate.hybrid:
        return ""
    numbers = [str(i) for i, layer in enumerate(candidate.layers) if layer == design]
    return f"{named.label(design) or design.fingerprint}, layer{'s' * (len(numbers) > 1)} {', '.join(numbers)}:\n\n"


def _header(text: bool) -> str:
    tag = "pipeline_tag: text-generation\n" if text else ""
    return f"---\nlibrary_name: transformers\n{tag}tags:\n- miras-search\n- associative-memory\n- custom_code\n---\n"


def _summary(candidate: Candidate, name: str, known: Mapping[str, Any]) -> str:
    size = candidate.backbone
    return (
        f"A causal language model of {known['parameters']:,} parameters whose sequence layers are the memory "
        f"`{name}`: {size.layers} layers, width {size.width}, {size.heads} heads, vocabulary {known['vocab']:,}. "
        f"{_state(candidate)} Searched and trained by miras-search {known['miras_search']}.\n"
    )


def _state(candidate: Candidate) -> str:
    if all(design.memory.parametric or getattr(design.memory, "window", None) for design in candidate.memories):
        return (
            f"Decoding keeps a state of fixed size: {candidate.state_bytes():,} bytes a sequence in float32, and "
            f"{candidate.buffer_bytes():,} bytes of buffers."
        )
    growth = candidate.state_bytes(2**20 + 1) - candidate.state_bytes(2**20)
    return f"Decoding keeps the keys and values of all tokens: {growth:,} bytes a token in float32."


def _use(text: bool, count: int) -> str:
    names = {module: f"Layer{i}" for i, module in enumerate(modules(count), 1)}
    imports = "\n".join(f"from {module} import Layer as {name}" for module, name in names.items())
    if not text:
        return """Tokens are integers, since the task has no text: there is no tokenizer. Its targets are aligned
with its inputs, so its loss is `model(input_ids, labels=targets, shift_labels=targets).loss`.

```python
from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained("FOLDER", trust_remote_code=True)
```
"""
    return """```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("FOLDER", trust_remote_code=True)
model = AutoModelForCausalLM.from_pretrained("FOLDER", trust_remote_code=True)
inputs = tokenizer(["The import statement", "A list"], padding=True, return_tensors="pt")
print(tokenizer.batch_decode(model.generate(**inputs, max_new_tokens=100, do_sample=True, temperature=0.8)))
```

Both need `trust_remote_code=True`, since the code of the model is in this folder, in four short files: read them first.
Nothing else is needed but torch and transformers (tested with 4.57.6 and 5.23), and no network. Without transformers:

```python
import sys; sys.path.insert(0, "FOLDER")
import json, safetensors.torch
from lm_miras import LM
IMPORTS

c = json.load(open("FOLDER/config.json"))
kinds = [KINDS]
layers = [kinds[i](c["hidden_size"], c["num_attention_heads"]) for i in c["memories"]]
model = LM(layers, c["vocab_size"], c["hidden_size"], c["intermediate_size"], c["residual_conv"])
weights = safetensors.torch.load_file("FOLDER/model.safetensors")
model.load_state_dict({name.removeprefix("model."): w for name, w in weights.items()})
```
""".replace("IMPORTS", imports).replace("KINDS", ", ".join(names.values()))


def _source(name: str) -> str:
    entry = named.MODELS.get(name)
    return f"After {entry.paper}. {entry.fidelity}\n" if entry else ""


def _provenance(candidate: Candidate, known: Mapping[str, Any]) -> str:
    trial: Mapping[str, Any] = known.get("trial", {})
    size, rate = candidate.backbone.model_dump(mode="json"), candidate.optimiser.model_dump(mode="json")
    rows = [
        ("Run", known.get("run")),
        ("Trial", trial.get("key")),
        ("Why this one", known.get("reason")),
        ("Design", candidate.design.fingerprint),
        ("Candidate", candidate.fingerprint),
        ("Backbone", _pairs(size)),
        ("Optimiser", _pairs(rate)),
        ("Task", _pairs(known.get("task", {}))),
        ("Budget", f"{known['budget']:,} tokens" if "budget" in known else None),
        ("Trained on", f"{trial['tokens']:,} tokens in {trial['steps']:,} steps" if "tokens" in trial else None),
        ("Seed", trial.get("seed")),
        ("Validation", ", ".join(f"{k} {v:.4g}" for k, v in trial.get("metrics", {}).items())),
        ("Data (sha256)", _pairs(trial.get("hashes", {}))),
        (
            "Training",
            f"{trial['seconds']:.0f} s, {trial['tokens_per_second']:,.0f} tokens/s" if "seconds" in trial else None,
        ),
        ("Path", " ".join(filter(None, (trial.get("path"), trial.get("path_reason"))))),
        ("Environment", _environment(known.get("environment", {}))),
        ("Trained at", trial.get("time")),
        ("Exported at", known.get("exported")),
    ]
    lines = ["| | |", "|---|---|"]
    lines += [f"| {name} | {_cell(value)} |" for name, value in rows if value not in (None, "")]
    return "\n".join(lines) + "\n\nThe same and more, for programs, is in `provenance.json`.\n"


def _cell(value: Any) -> str:
    return " ".join(str(value).replace("|", "\\|").split())


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{k} {v if isinstance(v, (str, int, float)) else json.dumps(v)}" for k, v in values.items())


def _environment(values: Mapping[str, Any]) -> str:
    packages = {name: version for name, version in values.get("packages", {}).items() if version}
    plain = {name: values[name] for name in ("python", "platform", "cpus") if name in values}
    return _pairs(plain | packages)


def _limits(known: Mapping[str, Any], text: bool) -> str:
    context = ""
    if known.get("context"):
        context = f" It was trained on rows of {known['context']:,} tokens; nothing was measured beyond them."
    lines = [
        "- A small model made to compare memories; not to be relied on for what it says." + context,
        "- Metrics are of the validation part, by which the candidate may have been chosen: they are optimistic.",
        "- The state cannot be taken back: transformers refuses assisted and prompt-lookup decoding and "
        "`prefill_chunk_size`. A static cache is ignored, and `torch.compile` unrolls the loop over time.",
        "- The memory runs in float32; bfloat16 keeps its initial state and step in float32 and rounds the rest.",
    ]
    if text:
        lines.append("- The loss is per token: not comparable between tokenizers, as bits per byte are.")
    return "\n".join(lines) + "\n"


_FILES = """- `memory_miras.py`: the memory layer, generated from the design; run it to check it against a plain loop.
- `lm_miras.py`: the model around it, in plain torch.
- `modeling_miras.py`, `configuration_miras.py`: the classes for transformers.
- `model.safetensors`: weights; the output is the embedding.

The code is under the Apache License 2.0.
"""
