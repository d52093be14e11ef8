"""The published models, each one composition of the four choices, and our recommended forms of the paper's three.

A name keeps its word: `moneta`, `yaad` and `memora` are the paper's, repaired only where the print leaks the future or is
undefined; `-r` marks our forms. What was repaired stands in `fidelity`. Names ending in `-h` are hybrids: a design and
sliding-window attention in turn.
"""

from __future__ import annotations

import difflib
import json
from functools import cache
from importlib import resources
from typing import NamedTuple

from miras_search.algorithm import GradientDescent, Implicit, Momentum, MultiStep, Muon, Newton, Nonparametric
from miras_search.bias import L2, Dot, Huber, Lp
from miras_search.design import Block, Design
from miras_search.errors import DesignError
from miras_search.memory import Cache, Matrix, Mlp
from miras_search.retention import Kl, L2Retention, Lq, NoRetention


class Named(NamedTuple):
    """A design with its source and how far it follows it."""

    design: Design
    paper: str
    fidelity: str


class Hybrid(NamedTuple):
    """A design and the pattern of the layers around it, with its source and how far it follows it."""

    design: Design
    pattern: tuple[str, ...]
    paper: str
    fidelity: str


class Verified(NamedTuple):
    """Code that shares nothing with ours, and the largest deviation of the emitted module from it in float64.

    `outputs` and `gradients` are relative to the largest entry; `exact`: its gradients by autograd, else by differences.
    """

    source: str
    outputs: float
    gradients: float
    exact: bool

    def __str__(self) -> str:
        gradients = f"{self.gradients:.0e}{'' if self.exact else ' (differences)'}"
        return f"{self.source}: outputs {self.outputs:.0e}, gradients {gradients}"


@cache
def verified() -> dict[str, Verified]:
    """What each design was compared with, as `benchmarks/fidelity.py --write` measured it."""
    text = resources.files("miras_search").joinpath("verified.json").read_text(encoding="utf-8")
    return {name: Verified(**entry) for name, entry in json.loads(text).items()}


_DOT = GradientDescent(step_gate="constant")
_DELTA = GradientDescent(gradient="online", step=0.5)

NAMED: dict[str, Named] = {
    "softmax-attention": Named(
        Design(
            memory=Cache(),
            bias=L2(),
            retention=NoRetention(),
            algorithm=Nonparametric(),
            block=Block(qk_norm=False, rope=True),
        ),
        "Vaswani et al. 2017, arXiv 1706.03762; Miras Table 1",
        "Scaled dot-product attention with rotary positions; the short convolution and output gate of the block are ours.",
    ),
    "transformer++": Named(
        Design(
            memory=Cache(),
            bias=L2(),
            retention=NoRetention(),
            algorithm=Nonparametric(),
            block=Block(conv=0, qk_norm=False, rope=True, output_gate=False),
        ),
        "Touvron et al. 2023, arXiv 2302.13971",
        "Attention of the Llama block: rotary positions, no convolution, no gate; with the backbone's RMSNorm and SwiGLU, and an "
        "RMSNorm a head on what is read, which is ours.",
    ),
    "sliding-window-attention": Named(
        Design(
            memory=Cache(window=64),
            bias=L2(),
            retention=NoRetention(),
            algorithm=Nonparametric(),
            block=Block(qk_norm=False, rope=True),
        ),
        "Beltagy et al. 2020, arXiv 2004.05150; Ren et al. 2024, arXiv 2406.07522 (Samba)",
        "Softmax attention over the last 64 tokens, the token itself among them; Samba takes 2,048.",
    ),
    "linear-attention": Named(
        Design(memory=Matrix(), bias=Dot(), retention=NoRetention(), algorithm=_DOT),
        "Katharopoulos et al. 2020, arXiv 2006.16236; Miras Eq 8",
        "Identity feature map on unit q and k, no normaliser, as Miras' Table 1 has it.",
    ),
    "retnet": Named(
        Design(
            memory=Matrix(), bias=Dot(), retention=L2Retention(decay="constant"), algorithm=_DOT, block=Block(rope=True)
        ),
        "Sun et al. 2023, arXiv 2307.08621",
        "Constant decay 1 - 2^(-5 - head) and rotary positions (xPos without its scale).",
    ),
    "lightning-attention": Named(
        Design(
            memory=Matrix(),
            bias=Dot(),
            retention=L2Retention(decay="constant", schedule="alibi"),
            algorithm=_DOT,
            block=Block(qk_norm=False),
        ),
        "Qin et al. 2024, arXiv 2401.04658",
        "Constant decay exp(-2^(-8 (head + 1) / heads)), the same in every layer where the authors' shrinks with depth; SiLU of q "
        "and k by the block's convolution.",
    ),
    "decaying-fast-weights": Named(
        Design(memory=Matrix(), bias=Dot(), retention=L2Retention(gate="outer"), algorithm=_DOT),
        "Mao 2022, arXiv 2210.04243",
        "W = (z f') * W + v k', a predicted decay a value channel and a key channel. Both through one bottleneck of 32 where the "
        "authors have full matrices, sigmoid(w x + 6); unit q and k are the block's.",
    ),
    "gla": Named(
        Design(memory=Matrix(), bias=Dot(), retention=L2Retention(gate="channel"), algorithm=_DOT),
        "Yang et al. 2023, arXiv 2312.06635",
        "Exact recurrence, one decay a key channel through a bottleneck of 32. alpha = sigmoid(w x + 6) where the authors take "
        "sigmoid(w x)^(1/16); unit q and k are the block's.",
    ),
    "mamba2": Named(
        Design(
            memory=Matrix(),
            bias=Dot(),
            retention=L2Retention(bias=4.0),
            algorithm=GradientDescent(step_gate="tied"),
            block=Block(qk_norm=False),
        ),
        "Dao and Gu 2024, arXiv 2405.21060",
        "W = exp(-dt) W + dt v k', dt = softplus(w x - 4). Without A, which multiplies dt in the decay by a number a head, and "
        "without the skip D; q, k and v have a head each where the authors share B and C.",
    ),
    "hgrn2": Named(
        Design(
            memory=Matrix(),
            bias=Dot(),
            retention=L2Retention(gate="channel", bias=4.0),
            algorithm=GradientDescent(step_gate="tied"),
            block=Block(qk_norm=False),
        ),
        "Qin et al. 2024, arXiv 2404.07904",
        "W = W Diag(alpha) + v (1 - alpha)', the key is what the gate forgets. Without the lower bounds that rise with depth; the "
        "gate has a bottleneck of 32 where the authors have a full matrix.",
    ),
    "deltanet": Named(
        Design(memory=Matrix(), bias=L2(), retention=NoRetention(), algorithm=_DELTA),
        "Schlag et al. 2021, arXiv 2102.11174; Yang et al. 2024, arXiv 2406.06484",
        "Exact delta rule, beta = sigmoid(w x), unit q and k.",
    ),
    "gated-deltanet": Named(
        Design(
            memory=Matrix(),
            bias=L2(),
            retention=L2Retention(),
            algorithm=_DELTA.model_copy(update={"order": "decay_first"}),
        ),
        "Yang et al. 2024, arXiv 2412.06464",
        "Exact recurrence, decay first. alpha = sigmoid(w x + 6) where the authors take Mamba2's parametrisation.",
    ),
    "rwkv7": Named(
        Design(
            memory=Matrix(),
            bias=L2(),
            retention=L2Retention(gate="channel"),
            algorithm=GradientDescent(gradient="online", step=0.5, strengths="channel"),
        ),
        "Peng et al. 2025, arXiv 2503.14456",
        "W = W (Diag(w) - k (a * k)') + eta v k', the error read undecayed, w and a a number a channel. The key that is written is "
        "the removed one times a step, where the authors' is their mix by a learned vector; w = sigmoid(w x + 6) where theirs is "
        "exp(-.607 sigmoid(w x)); without token shift, value residual and bonus.",
    ),
    "longhorn": Named(
        Design(memory=Matrix(), bias=L2(), retention=NoRetention(), algorithm=Implicit()),
        "Liu et al. 2024, arXiv 2407.14207",
        "The closed form of the implicit step with the whole k k', as Miras' Table 1 has it; the authors' recurrence keeps its "
        "diagonal, and has a step a channel. The step is 2 sigmoid(w x) where theirs is sigmoid(w x).",
    ),
    "deltaproduct": Named(
        Design(memory=Matrix(), bias=L2(), retention=NoRetention(), algorithm=MultiStep(steps=2)),
        "Siems et al. 2025, arXiv 2502.10297",
        "Two Householder steps a token, beta = 2 sigmoid(w x), a projection and a convolution for each key and value. Without the "
        "decay of their gated form (retention: l2).",
    ),
    "mesanet": Named(
        Design(memory=Matrix(), bias=L2(), retention=L2Retention(), algorithm=Newton(step_gate="data")),
        "von Oswald et al. 2025, arXiv 2506.05233",
        "The decayed least squares themselves, solved by Cholesky where the authors run 30 steps of conjugate gradients; Lambda "
        "a learned number a key channel, at least 0.25.",
    ),
    "ttt-linear": Named(
        Design(
            memory=Mlp(layers=1, offset=True),
            bias=L2(),
            retention=NoRetention(),
            algorithm=GradientDescent(chunk=16),
        ),
        "Sun et al. 2024, arXiv 2407.04620",
        "x + LN(W x + b), target v - k, mini-batch 16. Without their learned 1/(t + 1) token factor; rotary positions off.",
    ),
    "ttt-mlp": Named(
        Design(memory=Mlp(offset=True), bias=L2(), retention=NoRetention(), algorithm=GradientDescent(chunk=16)),
        "Sun et al. 2024, arXiv 2407.04620",
        "As ttt-linear with two layers, expansion 4; gelu by erf where the authors take its tanh approximation.",
    ),
    "titans-lmm": Named(
        Design(memory=Mlp(), bias=L2(), retention=L2Retention(), algorithm=Momentum(chunk=16)),
        "Behrouz et al. 2024, arXiv 2501.00663",
        "Momentum and forget gate on a two-layer memory; residual and LayerNorm are Miras', the chunk is ours.",
    ),
    "omeganet": Named(
        Design(
            memory=Matrix(),
            bias=L2(features="polynomial", window=8),
            retention=L2Retention(),
            algorithm=GradientDescent(chunk=16, step=0.1),
        ),
        "Behrouz et al. 2025, arXiv 2505.23735, Eq 9-10",
        "Omega rule: W = alpha W - eta times the gradient summed over the last 8 tokens, on keys x, x (x) x with learned "
        "coefficients. Linear memory, which the authors allow beside a deep one; gradients frozen for 16 tokens, so that the step "
        "is 0.1; the window is not printed, the features have unit length.",
    ),
    "atlas": Named(
        Design(
            memory=Matrix(),
            bias=L2(features="polynomial", window=8),
            retention=L2Retention(),
            algorithm=Muon(chunk=16),
        ),
        "Behrouz et al. 2025, arXiv 2505.23735, Eq 32-33",
        "omeganet with Muon: S = mu S - g, W = alpha W + eta NS(S), descent as in Eq 33 (their Table 1 has the other sign). NS at "
        "every token where the authors take it of a chunk's momentum. A linear memory where theirs has two layers: the hidden one "
        "would be as wide as the lifted keys, and NS there costs the cube of that.",
    ),
    "moneta": Named(
        Design(
            memory=Mlp(),
            bias=Lp(p=3.0, form="surrogate", nu=10.0, factor="paper", cap="none"),
            retention=Lq(q=4.0, map="printed"),
            algorithm=GradientDescent(chunk=16),
        ),
        "Behrouz et al. 2025, arXiv 2504.13173, Eq 24-25",
        "Printed map and surrogate. Repairs: reads are causal (exact; the printed chunk-end norm leaks the future), the norm has a "
        "floor and is per matrix and head, S_0 is solved so that W_0 is fan-in, nu = 10 is not printed.",
    ),
    "yaad": Named(
        Design(
            memory=Mlp(),
            bias=Huber(form="mixture", nu=1.0),
            retention=L2Retention(),
            algorithm=GradientDescent(chunk=16),
        ),
        "Behrouz et al. 2025, arXiv 2504.13173, Eq 16, 26",
        "Printed mixture. Repairs: delta is a scalar (printed as a vector against a norm), the sign is tanh(nu r) with nu = 1, "
        "which is not printed (with nu = 10 it hardly trains).",
    ),
    "memora": Named(
        Design(memory=Mlp(), bias=L2(), retention=Kl(), algorithm=GradientDescent(chunk=16)),
        "Behrouz et al. 2025, arXiv 2504.13173, Eq 27, 30-32",
        "Simplex rows with c = 1. Repairs: the dual form (printed in-chunk steps on W leave the simplex), reads exact, rows over the "
        "input, S_0 random. Trains slowly.",
    ),
    "moneta-r": Named(
        Design(
            memory=Mlp(),
            bias=Lp(p=3.0, cap="none"),
            retention=Lq(q=3.0, map="printed", norm="mean"),
            algorithm=GradientDescent(chunk=16, read="lagged"),
        ),
        "this project, after arXiv 2504.13173",
        "Smooth potential without the factor p, a scale-free map (q = 3, mean norm), lagged reads.",
    ),
    "yaad-r": Named(
        Design(memory=Mlp(), bias=Huber(form="norm"), retention=L2Retention(), algorithm=GradientDescent(chunk=16)),
        "this project, after arXiv 2504.13173, Eq 15",
        "Norm Huber: continuous at the threshold and with a slope beyond it.",
    ),
    "memora-r": Named(
        Design(
            memory=Mlp(),
            bias=L2(),
            retention=Kl(scale=0.5, exponent=0.5, signed=True, bias=6.0),
            algorithm=GradientDescent(chunk=16),
        ),
        "this project, after arXiv 2504.13173",
        "Signed simplex (exponentiated gradient with both signs), c = sqrt(fan_in) / 2. Trains slowly.",
    ),
}


_SAMBA = ("design", "sliding-window-attention")

HYBRIDS: dict[str, Hybrid] = {
    f"{name}-h": Hybrid(
        NAMED[name].design,
        _SAMBA,
        paper,
        f"`{name}` and sliding-window attention (64 tokens) in turn, a SwiGLU after each, as in Samba. {rest}",
    )
    for name, paper, rest in (
        ("moneta", "Behrouz et al. 2025, arXiv 2504.13173", "The window is not printed."),
        ("yaad", "Behrouz et al. 2025, arXiv 2504.13173", "The window is not printed."),
        ("memora", "Behrouz et al. 2025, arXiv 2504.13173", "The window is not printed."),
        ("gated-deltanet", "Yang et al. 2024, arXiv 2412.06464 (its H1)", "The authors' window is 2,048."),
    )
}


MODELS: dict[str, Named | Hybrid] = {**NAMED, **HYBRIDS}
"""All that has a name and can be trained."""


def get(name: str) -> Design:
    """The design of that name.

    Raises:
        DesignError: if there is none, and says which is nearest; if it names a hybrid, which has two.
    """
    if name in NAMED:
        return NAMED[name].design
    if name in HYBRIDS:
        raise DesignError(
            f"{name} is a model of two designs in turn, not a design",
            hint=f"name one of them: {name.removesuffix('-h')} or {HYBRIDS[name].pattern[1]}",
        )
    near = difflib.get_close_matches(name, MODELS, n=1)
    raise DesignError(
        f"no design is named {name!r}",
        hint=f"did you mean {near[0]!r}?" if near else "see `miras-search designs`",
    )


def composition(name: str) -> tuple[Design, tuple[str, ...]]:
    """Design and pattern of the layers of a model of that name, hybrids included; `design` in it stands for the design.

    Raises:
        DesignError: if there is none.
    """
    return HYBRIDS[name][:2] if name in HYBRIDS else (get(name), ("design",))


def label(design: Design) -> str:
    """The name of the design, if it is a named one up to merging; else the empty string."""
    return _LABELS.get(design.fingerprint, "")


_LABELS = {entry.design.fingerprint: name for name, entry in NAMED.items()}
