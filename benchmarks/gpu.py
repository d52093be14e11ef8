"""Forward and backward of the memories on a GPU: `python benchmarks/gpu.py [--quick] [-o FILE.md]`.

A row a design and length, at 16 heads of dimension 64 and 32768 tokens a batch, in bfloat16: milliseconds of forward and
backward of the kernels; of the emitted torch path in eager mode, and with the body of a chunk compiled; of an implementation by
others where one has the point (flash-linear-attention; for ttt-mlp ThunderKittens, in chunks of 64, forward alone and beside our
forward), and the ratio of each to the kernels. `roofline` is the least time that bytes and products need, by this card's own
bandwidth and matrix products, over the kernels' time. Then whole layers at 8192 tokens beside flash-linear-attention's DeltaNet. Then
one token of 64 sequences, as in decoding, without gradients. What cannot run says why.

`--dry` runs all of it at sizes that mean nothing, to see that it runs: on a CPU under TRITON_INTERPRET=1.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from miras_search import named, op
from miras_search.candidate import layer_flops

DESIGNS = (
    "linear-attention", "retnet", "mamba2", "deltanet", "gated-deltanet", "longhorn", "gla", "rwkv7",
    "ttt-linear", "ttt-mlp", "yaad", "titans-lmm", "moneta-r", "moneta", "memora-r", "memora",
)  # fmt: skip
BODIES = ("forward_chunk", "backward_chunk", "run_chunk")
"""Functions of an emitted module that do the work of a chunk, as far as it has them."""


@dataclass(frozen=True)
class Setting:
    """Sizes, and where and how often they run."""

    device: str
    dtype: torch.dtype
    heads: int
    dim: int
    tokens: int
    lengths: tuple[int, ...]
    layer_length: int
    repeats: int
    backend: str = "inductor"


FULL = Setting("cuda", torch.bfloat16, 16, 64, 32768, (2048, 8192, 32768), 8192, 10)
QUICK = Setting("cuda", torch.bfloat16, 16, 64, 32768, (2048,), 8192, 3)


def dry() -> Setting:
    """On a CPU half precision that the interpreter computes rightly, and no C++ compiler."""
    if torch.cuda.is_available():
        return Setting("cuda", torch.bfloat16, 2, 16, 48, (24,), 24, 1)
    return Setting("cpu", torch.float16, 2, 16, 48, (24,), 24, 1, "aot_eager")


def milliseconds(run: Callable[[], Any], setting: Setting, repeats: int) -> float:
    """Median of some calls, after two that compile and warm up."""
    for _ in range(2 if repeats > 1 else 1):
        run()
    times = []
    for _ in range(repeats):
        if setting.device == "cpu":
            begun = time.perf_counter()
            run()
            times.append(1e3 * (time.perf_counter() - begun))
            continue
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        stop.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(stop))
    return sorted(times)[len(times) // 2]


@dataclass(frozen=True)
class Timed:
    """Milliseconds, or why there are none."""

    spent: float | None
    why: str = ""

    def __str__(self) -> str:
        return self.why if self.spent is None else f"{self.spent:.2f}"

    def over(self, other: Timed) -> str:
        """Ratio to another."""
        return "" if self.spent is None or not other.spent else f"{self.spent / other.spent:.2f}"


NONE = Timed(None, "")


def attempt(run: Callable[[], Any], setting: Setting, repeats: int | None = None) -> Timed:
    """A kernel that does not fit, memory that is short: a line of the table, not its end."""
    try:
        return Timed(milliseconds(run, setting, repeats or setting.repeats))
    except Exception as error:
        if setting.device == "cuda":
            torch.cuda.empty_cache()
        first = (str(error).strip().splitlines() or [""])[0]
        return Timed(None, f"{type(error).__name__}: {first[:60]}")


def inputs(module: Any, length: int, s: Setting) -> tuple[list[Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """Leaves of a call: q, k, v in half precision, gates and initial values in float32."""
    shape = (s.tokens // length, length, s.heads)
    source = torch.Generator(s.device).manual_seed(0)

    def draw(*sizes: int) -> Tensor:
        return torch.randn(*sizes, device=s.device, generator=source)

    q, k = (F.normalize(draw(*shape, s.dim), dim=-1) for _ in range(2))
    # As many numbers a token as the design has: one, or one a key channel.
    kinds = (module.DESIGN["retention"].get("gate"), module.DESIGN["algorithm"].get("strengths"))
    decays, erases = ([s.dim] if kind == "channel" else [] for kind in kinds)
    gates = {
        "eta": 0.1 * draw(*shape).sigmoid(),
        "log_alpha": F.logsigmoid(4.0 + draw(*shape, *decays)),
        "erase": draw(*shape, *erases).sigmoid(),
        "log_mu": F.logsigmoid(draw(*shape)),
        "delta": s.dim**0.5 * draw(*shape).exp(),
    }
    shapes = module.weight_shapes(s.dim)
    initial = {f"state_{i}": draw(s.heads, *size) * size[-1] ** -0.5 for i, size in enumerate(shapes)}
    if module.DESIGN["memory"].get("norm"):
        initial["norm_weight"] = torch.ones(s.heads, s.dim, device=s.device)
        initial["norm_bias"] = torch.zeros(s.heads, s.dim, device=s.device)

    def leaf(x: Tensor) -> Tensor:
        return x.detach().requires_grad_()

    tokens = [leaf(x.to(s.dtype)) for x in (q, k, draw(*shape, s.dim))]
    return tokens, {n: leaf(x) for n, x in gates.items()}, {n: leaf(x) for n, x in initial.items()}


def forward(run: Callable[[], Any]) -> Callable[[], None]:
    """A call whose graph is kept, as in training."""

    def call() -> None:
        run()

    return call


def both_ways(run: Callable[[], Any]) -> Callable[[], None]:
    """A call and its backward."""

    def call() -> None:
        y = run()
        y = y[0] if isinstance(y, tuple) else y
        y.backward(torch.ones_like(y))

    return call


@contextmanager
def in_torch(module: Any, backend: str = "") -> Iterator[None]:
    """The emitted module with its kernels switched off, the work of a chunk compiled by a backend or not."""
    changed = {"triton_takes": lambda *_: False} if hasattr(module, "triton_takes") else {}
    if backend:
        changed |= {n: torch.compile(getattr(module, n), backend=backend) for n in BODIES if hasattr(module, n)}
    kept = {n: getattr(module, n) for n in changed}
    vars(module).update(changed)
    try:
        yield
    finally:
        vars(module).update(kept)


def others(
    name: str, tokens: list[Tensor], gates: dict[str, Tensor], length: int, s: Setting
) -> Callable[[], Any] | None:
    """The same function by others, if they have it."""
    q, k, v = tokens
    if name == "ttt-mlp":
        return thunder(length, s)
    beta = gates["eta"].detach().to(q.dtype).requires_grad_()
    alpha = gates["log_alpha"].detach().requires_grad_()
    if name == "linear-attention":
        from fla.ops.linear_attn import chunk_linear_attn

        return lambda: chunk_linear_attn(q, k, v, normalize=False)
    if name in ("retnet", "mamba2"):
        from fla.ops.simple_gla import chunk_simple_gla

        return lambda: chunk_simple_gla(q, k, v, alpha)
    if name in ("deltanet", "longhorn"):
        from fla.ops.delta_rule import chunk_delta_rule

        return lambda: chunk_delta_rule(q, k, v, beta)
    if name == "gated-deltanet":
        from fla.ops.gated_delta_rule import chunk_gated_delta_rule

        return lambda: chunk_gated_delta_rule(q, k, v, alpha, beta)
    if name == "gla":
        from fla.ops.gla import chunk_gla

        return lambda: chunk_gla(q, k, v, alpha)
    if name == "rwkv7":
        from fla.ops.generalized_delta_rule import chunk_dplr_delta_rule

        # S <- S Diag(alpha) + (S a) b' + v k': a is what the error is read at, b where it is written.
        erase = gates["erase"].detach().to(q.dtype).requires_grad_()
        return lambda: chunk_dplr_delta_rule(q, beta[..., None] * k, v, -k, erase * k, alpha.to(q.dtype))
    return None


def thunder(length: int, s: Setting) -> Callable[[], Any]:
    """ThunderKittens' TTT-MLP (github.com/test-time-training/ttt-tk): forward, chunks of 64, not causal inside one."""
    import test_time_training

    batch, chunks, group = s.tokens // length, length // 64, 4

    def draw(*sizes: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return 0.02 * torch.randn(*sizes, device=s.device, dtype=dtype)

    head = (batch, s.heads)
    tokens = [draw(*head, chunks, 64, s.dim, dtype=torch.bfloat16) for _ in range(3)]
    eta = draw(*head, chunks, 64, dtype=torch.bfloat16)
    norm = [draw(1, s.heads, 1, s.dim) for _ in range(2)]
    shapes = [(s.dim, 4 * s.dim), (1, 4 * s.dim), (4 * s.dim, s.dim), (1, s.dim)]
    weights = [draw(*head, *shape) for shape in shapes]
    kept = [draw(*head, -(-chunks // group), *shape) for shape in shapes]
    out = torch.empty_like(tokens[0])
    return lambda: test_time_training.ttt_forward(*tokens, eta, *norm, *weights, *kept, out, group)


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """torch's causal attention, in our layout."""
    return F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v)), is_causal=True)


def limits(s: Setting) -> tuple[float, float]:
    """Of this card: bytes and operations a millisecond, by a copy and by a matrix product."""
    size = 8192 if s.device == "cuda" else 128
    x = torch.randn(size, size, device=s.device, dtype=s.dtype)
    y = torch.empty_like(x)
    copied = milliseconds(lambda: y.copy_(x), s, 5)
    multiplied = milliseconds(lambda: torch.mm(x, x, out=y), s, 5)
    return 2 * x.numel() * x.element_size() / copied, 2 * size**3 / multiplied


def least(name: str, length: int, s: Setting, card: tuple[float, float]) -> float:
    """Milliseconds below which forward and backward cannot be.

    Bytes: q, k, v, y, their gradients, and q, k, v again in the backward. Operations: write and read of every token, and
    twice as many in the backward.
    """
    chosen, width = named.get(name), s.heads * s.dim
    projections = layer_flops(named.get("softmax-attention"), width, s.heads, 0)
    operations = 3 * max(0, layer_flops(chosen, width, s.heads, length) - projections) * s.tokens
    moved = 11 * s.tokens * width * torch.finfo(s.dtype).bits // 8
    return max(moved / card[0], operations / card[1])


def row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def memories(designs: tuple[str, ...], s: Setting, say: Callable[[str], None]) -> None:
    """The first table."""
    card = limits(s)
    say(f"{card[0] / 1e6:.0f} GB/s copied, {card[1] / 1e9:.0f} Tflop/s multiplied\n")
    heads = ["design", "length", "forward", "both", "eager", "compiled", "others", "roofline"]
    say(
        row(
            [
                *heads[:5],
                "eager / kernels",
                heads[5],
                "compiled / kernels",
                heads[6],
                "others / kernels",
                heads[7],
                "path",
            ]
        )
    )
    say(row(["---"] * 12))
    for name in designs:
        module = op.load(named.get(name).canonical())
        for length in s.lengths:
            tokens, gates, initial = inputs(module, length, s)

            def ours(m: Any = module, a: Any = (*tokens, gates, initial)) -> Any:
                return m.memory(*a)

            before = dict(module.PATHS)
            once, kernels = attempt(forward(ours), s), attempt(both_ways(ours), s)
            ran = [path for path, n in module.PATHS.items() if n > before.get(path, 0)]
            with in_torch(module):
                eager = attempt(both_ways(ours), s, 1)
            with in_torch(module, s.backend):
                compiled = attempt(both_ways(ours), s, 1)
            theirs = NONE
            try:
                run = others(name, tokens, gates, length, s)
                way = forward if name == "ttt-mlp" else both_ways
                theirs = NONE if run is None else attempt(way(run), s)
            except Exception as error:
                theirs = Timed(None, f"{type(error).__name__}: {error}"[:60])
            share = f"{least(name, length, s, card) / kernels.spent:.0%}" if kernels.spent else ""
            cells = [name, str(length), str(once), str(kernels), str(eager), eager.over(kernels), str(compiled)]
            cells += [
                compiled.over(kernels),
                str(theirs),
                theirs.over(once if name == "ttt-mlp" else kernels),
                share,
                "; ".join(ran),
            ]
            say(row(cells))
    module = op.load(named.get("yaad").canonical())
    for length in s.lengths:
        tokens, _, _ = inputs(module, length, s)
        once = attempt(forward(lambda a=tokens: attention(*a)), s)
        both = attempt(both_ways(lambda a=tokens: attention(*a)), s)
        say(row(["attention (torch)", str(length), str(once), str(both), *[""] * 8]))


def layers(designs: tuple[str, ...], s: Setting, say: Callable[[str], None]) -> None:
    """The second table."""
    width = s.heads * s.dim
    say(
        f"\n| layer, width {width}, length {s.layer_length} | tokens a second | of DeltaNet by others | path |\n"
        + row(["---"] * 4)
    )
    x = torch.randn(s.tokens // s.layer_length, s.layer_length, width, device=s.device)

    def measure(layer: torch.nn.Module) -> Timed:
        def run() -> None:
            with torch.autocast(s.device, s.dtype):
                y = layer(x)[0]
            y.float().sum().backward()

        return attempt(run, s)

    try:
        from fla.layers import DeltaNet

        base = measure(DeltaNet(hidden_size=width, num_heads=s.heads).to(s.device))
    except Exception as error:
        base = Timed(None, f"{type(error).__name__}: {error}"[:60])

    def line(name: str, spent: Timed, path: str) -> None:
        rate = str(spent) if spent.spent is None else f"{1e3 * s.tokens / spent.spent:,.0f}"
        say(row([name, rate, base.over(spent), path]))

    line("DeltaNet (flash-linear-attention)", base, "")
    for name in designs:
        chosen = named.get(name)
        before = op.calls(chosen)
        spent = measure(op.layer(name, width, s.heads).to(s.device))
        line(name, spent, ": ".join(filter(None, op.path_taken(chosen, since=before))))


def steps(designs: tuple[str, ...], s: Setting, say: Callable[[str], None]) -> None:
    """The third table."""
    rows = 64 if s.repeats > 1 else 2
    say(f"\n| one token of {rows} sequences | kernel | eager | eager / kernel | path |\n" + row(["---"] * 5))
    for name in designs:
        module = op.load(named.get(name).canonical())
        tokens, gates, initial = inputs(module, 1, replace(s, tokens=rows))
        with torch.no_grad():
            _, state = module.memory(*tokens, gates, initial)

            def ours(m: Any = module, a: Any = (*tokens, gates, initial, state)) -> Any:
                return m.memory(*a)

            before = dict(module.PATHS)
            kernel = attempt(ours, s)
            ran = [path for path, n in module.PATHS.items() if n > before.get(path, 0)]
            with in_torch(module):
                eager = attempt(ours, s)
        say(row([name, str(kernel), str(eager), eager.over(kernel), "; ".join(ran)]))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one length, three calls")
    parser.add_argument("--dry", action="store_true", help="tiny, to see that it runs")
    parser.add_argument("--designs", nargs="+", choices=DESIGNS, default=DESIGNS, metavar="NAME", help="default: all")
    parser.add_argument("-o", "--out", type=Path, help="write the tables here as well")
    given = parser.parse_args()
    setting = dry() if given.dry else QUICK if given.quick else FULL
    if setting.device == "cuda" and not torch.cuda.is_available():
        print("no CUDA device: nothing to measure")
        return 1
    lines: list[str] = []

    def say(text: str) -> None:
        print(text, flush=True)
        lines.append(text)
        if given.out is not None:
            given.out.write_text("\n".join(lines) + "\n", encoding="utf-8")

    device = torch.cuda.get_device_name() if setting.device == "cuda" else "a CPU"
    triton = getattr(op.load(named.get("yaad").canonical()), "triton", None)
    say(f"{device}, torch {torch.__version__}, triton {getattr(triton, '__version__', 'none')}; milliseconds\n")
    torch.set_float32_matmul_precision("high")  # the torch path multiplies in float32; as anyone would train
    memories(tuple(given.designs), setting, say)
    layers(tuple(given.designs), setting, say)
    steps(tuple(given.designs), setting, say)
    return 0


if __name__ == "__main__":
    sys.exit(main())
