"""Designs of the Triton families: every bias, every mirror map, every read, both depths, with and without momentum."""

from miras_search.algorithm import GradientDescent, Implicit, Momentum
from miras_search.bias import L1, L2, Dot, Huber, Lp, PseudoHuber, Robust
from miras_search.design import Design
from miras_search.memory import Matrix, Mlp
from miras_search.named import NAMED
from miras_search.retention import Bregman, ElasticNet, Kl, L2Retention, Lq, NoRetention

CHUNKS = GradientDescent(chunk=16)


def design(bias, retention=None, algorithm=CHUNKS, memory=None):
    return Design(memory=memory or Matrix(), bias=bias, retention=retention or L2Retention(), algorithm=algorithm)


LINEAR = {
    "dot": design(Dot()),
    "l2": design(L2()),
    "l2 without gate": design(L2(), NoRetention()),
    "l2 in chunks of 12, ascent": design(L2(), algorithm=GradientDescent(chunk=12, sign="ascent")),
    "lp potential": design(Lp(p=1.5, cap="none")),
    "lp potential, cap": design(Lp(p=3.0, cap="norm")),
    "lp surrogate, cap, factor": design(Lp(p=2.5, form="surrogate", factor="paper", cap="norm")),
    "huber coordinate": design(Huber(form="coordinate")),
    "huber norm": design(Huber(form="norm")),
    "huber mixture": design(Huber(form="mixture", nu=1.5)),
    "l1": design(L1()),
    "pseudo-huber norm": design(PseudoHuber()),
    "robust": design(Robust()),
}

ONLINE = GradientDescent(gradient="online")
DELTA = {
    "delta rule": design(L2(), NoRetention(), ONLINE),
    "gated delta rule": design(L2(), algorithm=ONLINE.model_copy(update={"order": "decay_first"})),
    "decoupled, read first": design(
        L2(), algorithm=ONLINE.model_copy(update={"strengths": "decoupled", "read_order": "read_first"})
    ),
    "implicit, ascent": design(L2(), algorithm=Implicit(sign="ascent")),
}

CHANNEL = L2Retention(gate="channel")
ERASING = ONLINE.model_copy(update={"strengths": "channel"})
CHANNELS = {name: NAMED[name].design for name in ("gla", "rwkv7", "decaying-fast-weights")} | {
    "rows, huber norm, read first": design(
        Huber(form="norm"), L2Retention(gate="row"), GradientDescent(chunk=40, read_order="read_first")
    ),
    "outer, l2, ascent": design(L2(), L2Retention(gate="outer"), GradientDescent(chunk=12, sign="ascent")),
    "channels, l2 in chunks of 40": design(L2(), CHANNEL, GradientDescent(chunk=40)),
    "channels, dot, read first": design(Dot(), CHANNEL, GradientDescent(read_order="read_first")),
    "channels, huber norm, ascent": design(Huber(form="norm"), CHANNEL, GradientDescent(chunk=12, sign="ascent")),
    "channels, delta rule": design(L2(), CHANNEL, ONLINE),
    "channels, decay first": design(L2(), CHANNEL, ONLINE.model_copy(update={"order": "decay_first"})),
    "channels, decoupled, read first": design(
        L2(), CHANNEL, ONLINE.model_copy(update={"strengths": "decoupled", "read_order": "read_first"})
    ),
    "channels, implicit": design(L2(), CHANNEL, Implicit()),
    "erasing channels, scalar gate, decay first": design(
        L2(), algorithm=ERASING.model_copy(update={"order": "decay_first", "sign": "ascent"})
    ),
    "erasing channels, no gate": design(L2(), NoRetention(), ERASING),
}

PUBLISHED = ("yaad", "titans-lmm", "moneta", "memora", "moneta-r", "yaad-r", "memora-r", "ttt-linear", "ttt-mlp")
DENSE = {name: NAMED[name].design for name in PUBLISHED} | {
    "one layer, l1.5": design(Lp(p=1.5), memory=Mlp(layers=1)),
    "plain mlp without gate, chunks of 12": design(
        Lp(p=3.0), NoRetention(), GradientDescent(chunk=12), Mlp(norm=False, residual=False, expansion=2)
    ),
    "mlp, dot, mirror of l4, momentum": design(Dot(), Lq(q=4.0, map="mirror"), Momentum(chunk=8), Mlp(expansion=1)),
    "mlp, huber coordinate": design(Huber(form="coordinate"), memory=Mlp(norm=False)),
    "plain mlp, offsets, momentum": design(
        Huber(), algorithm=Momentum(chunk=12), memory=Mlp(norm=False, residual=False, expansion=2, offset=True)
    ),
    "matrix, momentum, ascent": design(L2(), algorithm=Momentum(sign="ascent")),
    "matrix, sigmoid": design(L2(), Bregman(map="sigmoid")),
    "matrix, tanh, momentum": design(L2(), Bregman(), Momentum()),
    "matrix, soft threshold": design(L2(), ElasticNet()),
    "mlp, soft threshold": design(L2(), ElasticNet(), memory=Mlp(expansion=1)),
    "matrix, softmax of columns": design(Huber(), Kl(axis="column")),
    "matrix, softmax": design(Huber(), Kl()),
    "matrix, dot, signed softmax, momentum": design(Dot(), Kl(signed=True, exponent=0.5), Momentum()),
    "matrix, mean of l4": design(L2(), Lq(q=4.0, map="mirror", norm="mean")),
    "matrix, lagged l3, momentum": design(L2(), Lq(q=3.0, norm="mean"), Momentum(read="lagged")),
}
FAMILIES = {"linear": LINEAR, "delta": DELTA, "channels": CHANNELS, "dense": DENSE}
DESIGNS = LINEAR | DELTA | CHANNELS | DENSE
COMPILED = (
    "dot",
    "l2 in chunks of 12, ascent",
    "lp surrogate, cap, factor",
    "huber norm",
    "robust",
    "gated delta rule",
    "decoupled, read first",
    "gla",
    "rwkv7",
    "channels, huber norm, ascent",
    "channels, decay first",
    "outer, l2, ascent",
    "yaad",
    "moneta-r",
    "matrix, softmax",
    "matrix, dot, signed softmax, momentum",
    "matrix, softmax of columns",
    *PUBLISHED,
)
"""Those whose kernels are in the table of compiled ones; the other published designs share them."""
QUICK = (
    *COMPILED[: -len(PUBLISHED)],
    "ttt-mlp",
    "l1",
    "pseudo-huber norm",
    "matrix, sigmoid",
    "matrix, soft threshold",
    "matrix, mean of l4",
    "matrix, lagged l3, momentum",
)
"""Those that the default suite runs: every family, bias and mirror map."""
STEPPED = (
    "huber norm", "decoupled, read first", "gla", "rwkv7", "matrix, softmax", "ttt-mlp", "matrix, lagged l3, momentum",
)  # fmt: skip
"""Those of them that it also runs token by token."""
