"""Run by test_export in a process of its own, without this package: load exports and say how they behave, as JSON.

    python -I -S export_probe.py SITE_PACKAGES all|quick FOLDER...

A folder holds an export and `expected.pt`: tokens [B, T], logits of the model that was exported, and `reset`.
"""

import copy
import importlib.machinery
import importlib.util
import json
import sys
import warnings
from pathlib import Path

PATHS, EXTENT, FOLDERS = sys.argv[1].split(":"), sys.argv[2], sys.argv[3:]
sys.path[:0] = PATHS


class Without(importlib.machinery.PathFinder):
    """The import system of a machine that has neither this package nor triton."""

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name.split(".")[0] in ("miras_search", "triton"):
            return None
        return super().find_spec(name, path, target)


sys.meta_path[sys.meta_path.index(importlib.machinery.PathFinder)] = Without

import torch  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer  # noqa: E402

torch.set_num_threads(1)
TRUST = {"trust_remote_code": True}


def gap(a, b):
    return float((a.float() - b.float()).abs().max())


def generated(model, ids, **how):
    torch.manual_seed(0)
    how.setdefault("attention_mask", torch.ones_like(ids))  # else transformers takes a document's start for padding
    how = {"max_new_tokens": 7, "do_sample": False, "eos_token_id": None, "pad_token_id": 0} | how
    return model.generate(ids, **how)


def check(folder):
    out = {}
    given = torch.load(folder / "expected.pt")
    tokens, logits = given["tokens"], given["logits"]
    model = AutoModelForCausalLM.from_pretrained(folder, **TRUST).eval()
    out["dtype"] = str(model.dtype)
    out["tied"] = model.lm_head.weight is model.model.embedding.weight
    out["keys"] = sorted(load_file(folder / "model.safetensors"))
    with torch.no_grad():
        full = model(tokens, use_cache=True)
        out["full"] = gap(full.logits, logits)
        hidden = model(tokens, output_hidden_states=True).hidden_states
        out["hidden"] = [len(hidden), gap(model.lm_head(hidden[-1] * hidden[-1].shape[-1] ** -0.5), logits)]
        out["base"] = gap(AutoModel.from_pretrained(folder, **TRUST)(tokens).last_hidden_state, hidden[-1])
        out["keep"] = gap(model(tokens, logits_to_keep=2).logits, logits[:, -2:])
        out["tuple"] = gap(model(tokens, return_dict=False)[0], logits)
        if not given["reset"]:
            embeds = model.get_input_embeddings()(tokens)
            out["embeds"] = gap(model(inputs_embeds=embeds).logits, logits)
        # a prompt, a piece inside a chunk, then token by token
        cache, parts, at = None, [], 0
        for size in [19, 6] + [1] * (tokens.shape[1] - 25):
            step = model(tokens[:, at : at + size], past_key_values=cache, use_cache=True)
            cache, at = step.past_key_values, at + size
            parts.append(step.logits)
        out["steps"] = gap(torch.cat(parts, 1), logits)
        out["cache"] = [type(cache).__name__, cache.get_seq_length(), cache.batch_size]
        # padding to the left, to the right, and in the middle of rows
        pads = {"left": lambda m, n: m[:, :n], "right": lambda m, n: m[:, -n:], "middle": lambda m, n: m[:, 5 : 5 + n]}
        for name, where in pads.items():
            mask = torch.ones(2, tokens.shape[1] + 7, dtype=torch.long)
            where(mask[:1], 7)[:] = 0
            mask[1, -7:] = 0
            padded = torch.zeros_like(mask)
            for row in range(2):
                padded[row, mask[row].bool()] = tokens[row]
            seen = model(padded, attention_mask=mask).logits
            out[f"pad {name}"] = max(gap(seen[row, mask[row].bool()], logits[row]) for row in range(2))
        # generation
        prompt = tokens[:, :27]
        greedy = generated(model, prompt)
        out["cache equals none"] = torch.equal(greedy, generated(model, prompt, use_cache=False))
        beams = [generated(model, prompt, num_beams=3, use_cache=use) for use in (True, False)]
        out["beams"] = torch.equal(*beams)
        several = generated(model, prompt, do_sample=True, num_return_sequences=3)
        none = generated(model, prompt, do_sample=True, num_return_sequences=3, use_cache=False)
        out["sampling"] = [list(several.shape), torch.equal(several, none)]
        ragged = torch.cat([torch.cat([torch.zeros(1, 5, dtype=torch.long), prompt[:1, :22]], 1), prompt[1:]])
        mask = torch.ones_like(ragged)
        mask[0, :5] = 0
        batch = generated(model, ragged, attention_mask=mask)
        alone = [generated(model, prompt[:1, :22]), generated(model, prompt[1:])]
        out["left padding"] = torch.equal(batch[0, 5:], alone[0][0]) and torch.equal(batch[1:], alone[1])
        first = generated(model, prompt, max_new_tokens=3, return_dict_in_generate=True)
        kept = copy.deepcopy(first.past_key_values)
        for cache in (first.past_key_values, kept):
            more = generated(model, first.sequences, max_new_tokens=4, past_key_values=cache)
            out["continued"] = out.get("continued", True) and torch.equal(more, greedy)
        try:
            generated(model, prompt[:1], prompt_lookup_num_tokens=3)
            out["assisted"] = "ran"
        except ValueError as error:
            out["assisted"] = str(error)
        try:
            first.past_key_values.crop(1)
        except ValueError as error:
            out["crop"] = str(error)
    # training
    model.train()
    grads = []
    for how in (None, {"use_reentrant": False}, {"use_reentrant": True}):
        if how is not None:
            getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)(how)
        model.zero_grad()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loss = model(tokens, labels=tokens).loss
        loss.backward()
        grads.append([p.grad.clone() for p in model.parameters()])
    plain = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
    out["loss"] = gap(loss.detach(), plain)
    with torch.no_grad():
        aligned = model(tokens, labels=tokens, shift_labels=tokens).loss
    out["aligned loss"] = gap(aligned, torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens.flatten()))
    out["checkpointing"] = max(gap(a, b) for other in grads[1:] for a, b in zip(grads[0], other, strict=True))
    model.eval()
    # round trip, and a type of half the size
    again = folder.parent / f"{folder.name}-again.v1"
    model.save_pretrained(again)
    out["files again"] = sorted(p.name for p in again.iterdir())
    with torch.no_grad():
        out["again"] = gap(AutoModelForCausalLM.from_pretrained(again, **TRUST)(tokens).logits, logits)
        half = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, **TRUST)
        kinds = {
            name.split(".")[-1]: str(t.dtype) for name, t in half.state_dict().items() if t.ndim < 1 or "start" in name
        }
        out["half"] = [str(half.dtype), gap(half(tokens).logits, logits), sorted(set(kinds.values()))]
        out["half state"] = sorted(
            {
                str(t.dtype)
                for s in half(tokens, use_cache=True).past_key_values.states
                for n, t in s.items()
                if "state_" in n
            }
        )
        out["half generates"] = list(generated(half, prompt, max_new_tokens=3).shape)
        # from a configuration alone: initialised as the layers are
        torch.manual_seed(0)
        fresh = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder, **TRUST), **TRUST)
        scratch = fresh.state_dict().items()
        out["fresh"] = {
            gate: [t.unique().tolist() for n, t in scratch if f"{gate}.bias" in n] for gate in ("alpha", "eta")
        }
        fresh.resize_token_embeddings(model.config.vocab_size + 3)
        out["resized"] = [list(fresh(tokens).logits.shape[2:]), fresh.lm_head.weight is fresh.model.embedding.weight]
    weights = load_file(folder / "model.safetensors")
    del weights["model.norm.weight"]
    try:
        type(model).from_pretrained(None, config=model.config, state_dict=weights)
        out["incomplete"] = "loaded"
    except (ValueError, RuntimeError) as error:
        out["incomplete"] = str(error)
    if (folder / "tokenizer.json").exists():
        out["text"] = text(folder, model)
    return out


def text(folder, model):
    tokenizer = AutoTokenizer.from_pretrained(folder, **TRUST)
    words = ["héllo 🙂  x ", "a"]
    batch = tokenizer(words, padding=True, return_tensors="pt")
    said = "a b"
    if EXTENT == "all":
        from transformers import pipeline  # seconds

        write = pipeline("text-generation", model=model, tokenizer=tokenizer)
        said = write("a b", max_new_tokens=4, do_sample=False)[0]["generated_text"]
    return {
        "class": type(tokenizer).__name__,
        "names": list(batch),
        "ids": [len(tokenizer(word)["input_ids"]) for word in words],
        "bytes": [len(word.encode()) for word in words],
        "round trip": [tokenizer.decode(tokenizer(word)["input_ids"]) for word in words] == words,
        "left": batch["attention_mask"][1].tolist()[0] == 0,
        "pad": [tokenizer.pad_token, tokenizer.eos_token, tokenizer.pad_token_id],
        "generates": list(model.generate(**batch, max_new_tokens=3, min_new_tokens=3).shape),
        "pipeline": said.startswith("a b"),
        "stops": model.generation_config.eos_token_id,
    }


def plain_torch(folder):
    """Without transformers, as the card says."""
    card = (folder / "README.md").read_text()
    code = card.split("```python")[2].split("```")[0].replace("FOLDER", str(folder))
    scope = {}
    exec(code, scope)
    given = torch.load(folder / "expected.pt")
    reset = given["tokens"] == 0 if given["reset"] else None
    with torch.no_grad():
        return gap(scope["model"](given["tokens"], reset=reset), given["logits"])


results = {"absent": [importlib.util.find_spec(name) is None for name in ("miras_search", "triton")], "folders": {}}
for name in FOLDERS:
    results["folders"][Path(name).name] = check(Path(name))
results["plain torch"] = plain_torch(Path(FOLDERS[0]))
results["loaded"] = sorted(name for name in sys.modules if name.split(".")[0] in ("miras_search", "triton"))
print("RESULT" + json.dumps(results))
