"""emit(design) -> the source of one self-contained module: the memory, its layer and a self-check; it imports torch alone."""

from __future__ import annotations

import itertools
import pprint
import textwrap
from functools import lru_cache
from importlib import resources
from typing import Any

from miras_search import named
from miras_search.codegen.linker import GUARD, Definition, Linked, link
from miras_search.codegen.lower import Lowered, lower
from miras_search.codegen.triton_dialect import has_kernels, lower_tiles
from miras_search.design import Design, digest
from miras_search.memory import Memory

SKELETONS = (
    "layout",
    "decay",
    "dense",
    "chunk",
    "tiled",
    "derived",
    "scan",
    "walk",
    "step",
    "recurrence",
    "cache",
    "convolution",
    "layer",
    "check",
)
KERNELS = (
    "triton_tiles",
    "triton_linear",
    "triton_dense_offset",
    "triton_dense_read",
    "triton_dense_scan",
    "triton_dense_state",
    "triton_dense_state_back",
    "triton_dense",
    "triton_delta",
    "triton_decay",
    "triton_channels_tokens",
    "triton_channels",
    "triton_step",
    "triton_token",
    "triton_paths",
    "triton_check",
)


def emit(design: Design, name: str = "") -> str:
    """The module of a design, in its canonical form.

    Args:
        design: what to emit.
        name: how to call it in the header; default: its published name, or its fingerprint.
    """
    design = design.canonical()
    name = name or named.label(design) or design.fingerprint
    formulas = lower_formulas(design)
    constants = flags(design) | formulas.numbers
    sources = [_skeleton(s) for s in SKELETONS]
    entries = ["Layer", "self_check", "memory_cache" if not design.memory.parametric else "memory"]
    if constants["TRITON"]:
        tiles, numbers, mapped = lower_tiles(design)
        constants |= numbers | mapped
        sources += [tiles, *(_skeleton(s) for s in KERNELS)]
        entries += ["triton_check", "interpret_without_gpu"]
    linked = link(sources, entries, constants, formulas.functions)
    return _arrange(design, name, linked)


def lower_formulas(design: Design) -> Lowered:
    """The formulas this design's code calls."""
    out = Lowered()
    if not design.memory.parametric:
        return out
    lower(design.bias, "phi", into=out)
    if derived(design):
        lower(design.bias, "phi_vjp", into=out)
    if design.memory.depth_ > 1:
        lower(design.memory, "activate", into=out)
        lower(design.memory, "activate_grad", into=out)
        if derived(design):
            lower(design.memory, "activate_curve", into=out)
    lower(design.retention, "initial", into=out)
    if not design.retention.linear:
        lower(design.retention, "psi", into=out)
        if derived(design):
            lower(design.retention, "psi_vjp", into=out)
            for formula in _parts(design):
                lower(design.retention, formula, into=out)
    if design.algorithm.read_ == "lagged":
        lower(design.retention, "scale", into=out)
    if design.retention.klass == "feedback":
        lower(design.retention, "feedback", into=out)
    if design.retention.klass == "multiplicative":
        lower(design.retention, "update", into=out)
    return out


def _parts(design: Design) -> tuple[str, ...]:
    """The formulas of a map that is a number times something simpler, which exact reads take apart."""
    if design.retention.scaling:
        return ("power_sum", "scale_of", "scale_vjp")
    return ("mass", "share", "share_vjp") if design.retention.sharing else ()


def _one_matrix(memory: Memory) -> bool:
    return memory.linear and not memory.diagonal


def scanned(design: Design) -> bool:
    """Reads need the weights of every token, formed one after another."""
    retention, algorithm = design.retention, design.algorithm
    return (
        (not retention.linear and algorithm.read_ == "exact")
        or retention.klass != "dual"
        or algorithm.orthogonal
        or (
            retention.gated not in ("none", "scalar")
            and (not _one_matrix(design.memory) or algorithm.momentum or design.bias.window > 1)
        )
    )


def derived(design: Design) -> bool:
    """The backward of a chunk is written out: the dual form with one gate a token, and the scan of a dual state."""
    memory, retention, algorithm = design.memory, design.retention, design.algorithm
    if not memory.parametric or retention.klass != "dual":
        return False
    if algorithm.online or algorithm.least_squares:
        return False
    if algorithm.read_first or algorithm.last_only or algorithm.orthogonal or design.bias.window > 1:
        return False
    gates = ("none", "scalar", "channel") if scanned(design) else ("none", "scalar")
    if retention.gated not in gates or (scanned(design) and algorithm.read_ == "stale"):
        return False
    if memory.diagonal or memory.inputs_ > 1:
        return False
    return memory.depth_ == 1 or hasattr(memory, "activate_curve")


def stepped(design: Design) -> bool:
    """Single tokens take a path of their own: a token's write is one product of two vectors a weight, to the state itself."""
    memory, algorithm = design.memory, design.algorithm
    if not memory.parametric or algorithm.least_squares or design.bias.window > 1 or algorithm.steps_ > 1:
        return False
    return not (algorithm.online and memory.diagonal)


def tiled(design: Design) -> bool:
    """The writes of a tile are affine in the state at its start: the online delta rule, or gates of channels and no state seen."""
    memory, retention, algorithm = design.memory, design.retention, design.algorithm
    if not memory.parametric or scanned(design) or algorithm.least_squares:
        return False
    return algorithm.online or (retention.gated not in ("none", "scalar") and not design.chunked)


def tile(design: Design) -> int:
    """Tokens that the torch path takes at once: the chunk where it is part of the design, else what is fastest on a CPU.

    Least squares and scans hold a matrix a token, so that small tiles serve them best.
    """
    if not design.memory.parametric:
        return 1
    if design.chunked:
        return design.algorithm.chunk_
    steps = design.algorithm.steps_
    return 16 if design.algorithm.least_squares or scanned(design) else max(1, 32 // steps)


def flags(design: Design) -> dict[str, Any]:
    """The values of `skeletons.slots` for a canonical design: what decides its code, and its numbers."""
    memory, bias, retention, algorithm, block = (
        design.memory,
        design.bias,
        design.retention,
        design.algorithm,
        design.block,
    )
    return {
        "CHUNK": tile(design),
        "CHUNKED": design.chunked,
        "TRITON": bool(has_kernels(design)),
        "KERNELS": has_kernels(design),
        "STRUCTURE": design.structure,
        "DERIVED": derived(design),
        "STEPPED": stepped(design),
        "TILED": tiled(design),
        "TILE": 131072,
        "ACTIVATION": memory.activation_,
        "LAYERS": memory.depth_,
        "INPUTS": memory.inputs_,
        "DIAGONAL": memory.diagonal,
        "NORM": memory.normalised,
        "RESIDUAL": memory.residual_,
        "OFFSET": memory.offset_,
        "EXPANSION": getattr(memory, "expansion", 1),
        "CACHE": not memory.parametric,
        "WINDOW": getattr(memory, "window", None) or 0,
        "STATE_FREE": design.state_free,
        "SPAN": bias.window,
        "SHIFTED": bias.target == "v-k",
        "FEATURES": bias.features,
        "THRESHOLDED": bias.thresholded,
        "THRESHOLD": bias.threshold_,
        "DELTA_START": bias.delta_,
        "DELTA_NORM": bias.of_norm,
        "GATE": retention.gated,
        "ROW_GATE": retention.gated in ("row", "outer"),
        "DECAY": retention.decay_,
        "SCHEDULE": retention.schedule_,
        "MIRROR": not retention.linear,
        "SCALING": retention.scaling,
        "SHARING": retention.sharing,
        "FEEDBACK": retention.klass == "feedback",
        "MULTIPLICATIVE": retention.klass == "multiplicative",
        "LEARNED_START": memory.parametric and memory.initial_ == "learned",
        "ALPHA_START": getattr(retention, "bias", 4.0),
        "MOMENTUM": algorithm.momentum,
        "MU_START": getattr(algorithm, "bias", 0.0),
        "ONLINE": algorithm.online,
        "DECAY_FIRST": algorithm.decay_first,
        "DECOUPLED": algorithm.decoupled,
        "ERASE_CHANNELS": algorithm.erases_channels,
        "IMPLICIT": algorithm.implicit,
        "STEPS": algorithm.steps_,
        "LEAST_SQUARES": algorithm.least_squares,
        "RIDGE_START": getattr(algorithm, "ridge", 1.0),
        "ORTHOGONAL": algorithm.orthogonal,
        "ASCENT": algorithm.ascent,
        "LAST_ONLY": algorithm.last_only,
        "READ": algorithm.read_,
        "READ_FIRST": algorithm.read_first,
        "SCAN": scanned(design),
        "STEP": getattr(algorithm, "step", 1.0),
        "STEP_TIED": algorithm.tied and retention.gated == "scalar",
        "KEY_TIED": algorithm.tied and retention.gated == "channel",
        "REACH": getattr(algorithm, "reach", 2.0),
        "STEP_GATED": getattr(algorithm, "step_gate", "data") == "data",
        "CONV": block.conv,
        "QK_NORM": block.qk_norm,
        "ROPE": block.rope,
        "OUTPUT_GATE": block.output_gate,
        "ZEROED": block.output == "zeroed",
        "SHUFFLED": block.values == "shuffled",
    }


@lru_cache
def _skeleton(name: str) -> str:
    return resources.files("miras_search.codegen.skeletons").joinpath(f"{name}.py").read_text()


def _arrange(design: Design, name: str, linked: Linked) -> str:
    known = named.NAMED.get(name)
    lines = [f'"""{name}: a memory layer generated by miras-search from the design', ""]
    for line in design.to_yaml().splitlines():
        lines += textwrap.wrap(line, 112, initial_indent="    ", subsequent_indent="        ")
    lines += ["", equations(design), ""]
    if design.memory.parametric:
        for c in (design.memory, design.bias, design.retention, design.algorithm):
            lines += textwrap.wrap(f"{c.role}: {type(c).summary()}", 130)
        lines.append("")
    if known is not None:
        lines += textwrap.wrap(f"Paper: {known.paper}.", 116) + textwrap.wrap(f"Fidelity: {known.fidelity}", 116) + [""]
    lines += [
        "Use `Layer(width, heads)` in any model, or `memory` by itself. Run this file to check it against a plain loop.",
        f"Fingerprint {design.fingerprint}. Needs torch alone. Do not edit: change the design and emit again.",
        '"""',
        "",
    ]
    imports = linked.imports
    plain = sorted(i for i in imports if i.startswith("import "))
    others = sorted(i for i in imports if i.startswith("from "))
    standard = [i for i in plain + others if not i.split()[1].startswith("torch")]
    torch_lines = [i for i in plain + others if i.split()[1].startswith("torch")]
    guarded_lines = [i for i in imports if i.startswith("try:")]
    if guarded_lines:
        torch_lines += ["", *guarded_lines]
    lines += [*standard, "", *torch_lines, "", f'NAME = "{name}"', f'FINGERPRINT = "{design.fingerprint}"']
    lines.append(f"DESIGN = {pprint.pformat(design.model_dump(mode='json'), width=116, sort_dicts=False)}")
    lines += [f"{key} = {value!r}" for key, value in linked.constants.items()]
    body = "\n".join(lines) + "\n\n\n" + "\n\n\n".join(_sections(linked.definitions))
    check = "self_check()"
    if has_kernels(design):
        check = "self_check() and triton_check()"
        body += '\n\n\nif __name__ == "__main__":\n    interpret_without_gpu()'
    else:
        body += '\n\n\nif __name__ == "__main__":'
    return f"{body}\n    raise SystemExit(0 if {check} else 1)\n"


def _sections(definitions: list[Definition]) -> list[str]:
    """The texts; neighbours that need Triton stand under one guard."""
    sections: list[str] = []
    for guarded, group in itertools.groupby(definitions, lambda d: d.guarded):
        texts = [d.text.strip("\n") for d in group]
        sections += [f"if {GUARD}:\n\n" + textwrap.indent("\n\n".join(texts), "    ")] if guarded else texts
    return sections


def equations(design: Design) -> str:
    """The recurrence of a canonical design in words and symbols."""
    if not design.memory.parametric:
        window = getattr(design.memory, "window", None)
        seen = f"last {window} tokens" if window else "tokens stored so far"
        return f"y_t = sum_i softmax_i(q_t'k_i / sqrt(d)) v_i over the {seen}"
    algorithm, retention = design.algorithm, design.retention
    gate = "" if retention.gated == "none" else "alpha_t "
    channels = {
        "channel": "W_t-1 Diag(alpha_t)",
        "row": "Diag(alpha_t) W_t-1",
        "outer": "Diag(beta_t) W_t-1 Diag(alpha_t)",
    }
    kept = channels.get(retention.gated, f"{gate}W_t-1")
    psi = "S_t" if retention.linear else "psi(S_t)"
    start = "S_t'" if retention.linear else "psi(S_t')"
    plus, minus = ("-", "+") if algorithm.ascent else ("+", "-")
    read_at = "t-1" if algorithm.read_first else "t"
    lines = []
    if design.bias.features != "identity":
        lines.append(f"q_t, k_t <- {'elu(x) + 1' if design.bias.features == 'elu' else '[a_1 x, a_2 x (x) x]'} of them")
    if design.bias.target == "v-k":
        lines.append("v_t <- v_t - k_t")
    if algorithm.implicit:
        lines.append("eta_t <- eta_t / (1 + eta_t ||k_t||^2)")
    if algorithm.least_squares:
        lines.append(f"H_t = {gate}H_t-1 + eta_t k_t k_t',   C_t = {gate}C_t-1 + eta_t v_t k_t'")
        lines.append("y_t = C_t (H_t + diag(ridge))^-1 q_t")
    elif algorithm.steps_ > 1:
        lines.append(
            f"W <- {kept};  for j = 1 ... {algorithm.steps_}:  W <- W {minus} eta_tj (W k_tj - v_tj) k_tj';  W_t = W"
        )
        lines.append(f"y_t = W_{read_at} q_t")
    elif algorithm.online:
        seen = kept if algorithm.decay_first else "W_t-1"
        erase = f"erase_t ({seen} k_t) k_t'" if algorithm.decoupled else f"eta_t ({seen} k_t) k_t'"
        if algorithm.erases_channels:
            erase = f"({seen} k_t) (erase_t * k_t)'"
        lines.append(f"W_t = {kept} {minus} {erase} {plus} eta_t v_t k_t',   y_t = W_{read_at} q_t")
    elif design.state_free and not algorithm.momentum and retention.linear and algorithm.read_ == "exact":
        key = "(1 - alpha_t)" if algorithm.tied and retention.gated == "channel" else "k_t"
        lines.append(f"W_t = {kept} {plus} eta_t v_t {key}',   y_t = W_{read_at} q_t")
    else:
        where = "" if design.state_free else f"   W = {start}, t' the start of the chunk of {algorithm.chunk_} tokens"
        if design.bias.window > 1:
            lines.append(f"g_t = sum of gamma_i d l(M(W, k_i), v_i) / dW, i = t-{design.bias.window - 1} ... t{where}")
        else:
            lines.append(f"g_t = d l(M(W, k_t), v_t) / dW{where}")
        momentum, move = "", f"{minus} eta_t g_t"
        if algorithm.orthogonal:
            momentum, move = "N_t = mu_t N_t-1 - g_t,   ", f"{plus} eta_t NS(N_t)"
        elif algorithm.momentum:
            momentum, move = f"N_t = mu_t N_t-1 {minus} eta_t g_t,   ", "+ N_t"
        if retention.klass == "multiplicative":
            write = move.removeprefix("- ") if move.startswith("- ") else f"-{move.removeprefix('+ ')}"
            lines.append(f"{momentum}S_t = update(S_t-1, {gate.strip() or '1'}, {write})")
        else:
            kept = "feedback(S_t-1)" if retention.klass == "feedback" else "S_t-1"
            lines.append(f"{momentum}S_t = {gate}{kept} {move}")
        if algorithm.last_only:
            lines.append("for the last weight matrix; the others keep their initial value")
        psi = psi.replace("S_t", f"S_{read_at}")
        reads = {"exact": psi, "lagged": f"S_{read_at} scale(S_t')", "stale": start}
        lines.append(f"y_t = M({reads[algorithm.read_]}, q_t)")
    return "\n".join(lines)


def recurrence(design: Design) -> str:
    """The recurrence in one line."""
    return "; ".join(" ".join(line.split()) for line in equations(design.canonical()).splitlines())


def source_hash(source: str) -> str:
    """12 hex digits of an emitted text."""
    return digest(source)
