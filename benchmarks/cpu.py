"""The torch path on a CPU against other implementations of these memories: `python benchmarks/cpu.py`.

    python benchmarks/cpu.py                              all workloads, 5 rounds; minutes on an idle machine
    python benchmarks/cpu.py --quick                      T = 512, 3 rounds
    python benchmarks/cpu.py --workload layer --rows mlp  single rows

Workloads:
    layer     one layer with projections, width 256, 4 heads, batch 4, float32, forward + backward
    core      the memory alone; its useful flops a second as a share of the matmul limit measured in the same run
    lm        one training step: width 128, 2 layers, 2 heads, feed-forward, T = 256, batch 32, AdamW
    decode    one token after another, batch 1, one layer; as they are, and compiled by the same means (its seconds are printed)
    exact     any-mirror exact reads of an MLP, head dimension 64, against a plain checkpointed loop
    trial     a step of the quickstart's recall trial: width 32, one layer, 32 rows of 56 tokens
    length    microseconds a token from T = 512 to 32768
    memory    growth of peak memory a token, T = 2048 to 8192, a process each

Rows of a workload run in one process, in interleaved rounds; medians. `wall` is the clock, `cpu` the processor time of all threads (which
counts on a loaded machine). Before any time counts, a row's outputs and input gradients in float32 are held against itself in
float64; the largest relative 2-norm error stands in the table, and above 0.05 the row is invalid.

Peers: titans-pytorch (`pip install titans-pytorch`, or `pip install 'miras-search[bench]'`), Hugging Face's torch paths of Qwen3-Next's gated
delta rule and of Mamba2 (`[hf]`), torch's attention, and TTT from its formulas (`peers/ttt.py`). A peer that is not installed
is named and left out. Where extras differ: ours has short convolutions, gates and an output norm; TTT has RoPE and a LayerNorm; titans
has RMSNorms, a gate and (unless said) momentum; the bare rules (gated delta, Mamba2, attention) have projections only.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

sys.path.insert(0, str(Path(__file__).resolve().parent))

WIDTH, HEADS, BATCH, DIM = 256, 4, 4, 64
LIMIT = 0.05
"""A row whose float32 error is above this computes something else."""


class Lifted(TorchFunctionMode):
    """Casts to float32 become casts to float64: some peers compute in float32 by their own casts."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.Tensor.float:
            return args[0].double()
        args = tuple(torch.float64 if a is torch.float32 else a for a in args)
        return func(*args, **{k: torch.float64 if v is torch.float32 else v for k, v in kwargs.items()})


def designs() -> dict[str, Any]:
    """Ours, by row name."""
    from miras_search.design import Design
    from miras_search.named import NAMED

    def at(name: str, chunk: int) -> Design:
        design = NAMED[name].design
        return design.model_copy(update={"algorithm": design.algorithm.model_copy(update={"chunk": chunk})})

    linear = Design(memory="matrix", bias="l2", retention="l2", algorithm={"kind": "gradient_descent", "chunk": 64})  # type: ignore[arg-type]
    return {
        "ours mlp c64": at("yaad-r", 64),
        "ours mlp c16": at("yaad-r", 16),
        "ours mlp momentum c64": at("titans-lmm", 64),
        "ours ttt-mlp c16": at("ttt-mlp", 16),
        "ours linear c64": linear,
        "ours ttt-linear c16": at("ttt-linear", 16),
        "ours gated-deltanet": NAMED["gated-deltanet"].design,
        "ours memora c16": at("memora", 16),
        "ours moneta c16": at("moneta", 16),
    }


class Ours(nn.Module):
    """A layer of this project; its state is dropped."""

    def __init__(self, design: Any, width: int, heads: int) -> None:
        super().__init__()
        from miras_search import op

        self.layer = op.layer(design, width, heads)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x)[0]
        return y

    def step(self, x: Tensor, state: Any, t: int) -> tuple[Tensor, Any]:
        y, state = self.layer(x, state)
        return y, state


Build = Callable[[int, int], nn.Module]


def compiled_steps(name: str, build: Build) -> Build:
    """The same layer with compiled steps."""

    def make(width: int, heads: int) -> nn.Module:
        from miras_search.decode import compile_steps

        layer = build(width, heads)
        if name.startswith("TTT"):
            from peers.ttt import Ahead

            return Ahead(layer)
        (step,) = compile_steps(layer)
        print(f"{name}: compiled in {step.seconds:.0f} s")
        return layer

    return make


def builders() -> dict[str, Build]:
    """Every layer that runs here, by row name: width, heads -> layer."""
    from peers.layers import Projected, Titans, attention, gated_delta, mamba2
    from peers.ttt import TTT

    found: dict[str, Build] = {name: (lambda w, h, d=d: Ours(d, w, h)) for name, d in designs().items()}
    found["TTT-MLP"] = lambda w, h: TTT(w, h, 2)
    found["TTT-Linear"] = lambda w, h: TTT(w, h, 1)
    found["attention"] = lambda w, h: Projected(w, h, 0, attention)
    if importlib.util.find_spec("titans_pytorch"):
        for depth in (2, 1):
            for momentum in (True, False):
                name = f"titans depth {depth} c64{'' if momentum else ', no momentum'}"
                found[name] = lambda w, h, d=depth, m=momentum: Titans(w, h, d, m)
    else:
        print("left out: titans-pytorch is not installed (pip install 'miras-search[bench]')")
    if importlib.util.find_spec("transformers"):
        found["Qwen3-Next gated delta"] = lambda w, h: Projected(w, h, 2, gated_delta)
        found["Mamba2"] = lambda w, h: Projected(w, h, 1, mamba2)
    else:
        print("left out: transformers is not installed (pip install 'miras-search[hf]')")
    return found


@dataclass
class Row:
    """What is timed: `run` does the work once and returns the seconds of its forward pass (0: not told apart)."""

    name: str
    run: Callable[[], float]
    error: float | None = None
    note: str = ""


def difference(a: Tensor, b: Tensor) -> float:
    """Relative, by the 2-norm."""
    return float((a.double() - b.double()).norm() / b.double().norm().clamp_min(1e-30))


def accuracy(build: Build, width: int, heads: int, time_: int = 192) -> float:
    """Largest relative error of output and input gradient in float32, against the same layer in float64."""
    torch.manual_seed(0)
    layer = build(width, heads)
    x = torch.randn(2, time_, width)
    grads, outs = [], []
    probe = torch.randn(2, time_, width)
    for kind in (torch.float32, torch.float64):
        layer = layer.to(kind)
        leaf = x.detach().to(kind).requires_grad_()
        if kind is torch.float64:
            torch.set_default_dtype(kind)
        try:
            with Lifted() if kind is torch.float64 else warnings.catch_warnings():
                y = layer(leaf)
                y.backward(probe.to(y.dtype))
        finally:
            torch.set_default_dtype(torch.float32)
        outs.append(y.detach())
        grads.append(leaf.grad)
    return max(difference(*outs), difference(*grads))  # type: ignore[arg-type]


def both_ways(build: Build, batch: int, time_: int) -> Callable[[], float]:
    """Forward and backward of one layer; gives the seconds of the forward pass."""
    torch.manual_seed(0)
    layer = build(WIDTH, HEADS)
    x = torch.randn(batch, time_, WIDTH, requires_grad=True)
    probe = torch.randn(batch, time_, WIDTH)

    def run() -> float:
        start = time.perf_counter()
        y = layer(x)
        forward = time.perf_counter() - start
        y.backward(probe)
        layer.zero_grad()
        x.grad = None
        return forward

    return run


def layer_row(name: str, build: Build, time_: int) -> Row:
    """One layer, its accuracy first."""
    return Row(name, both_ways(build, BATCH, time_), accuracy(build, WIDTH, HEADS))


def core_inputs(design: Any, time_: int, batch: int, heads: int, dim: int) -> tuple[Any, list[Any]]:
    """The emitted module of a design, and random q, k, v, gates and initial values."""
    from miras_search import op

    torch.manual_seed(0)
    module = op.load(design.canonical())
    layer = module.Layer(heads * dim, heads)
    x = torch.randn(batch, time_, heads * dim)
    q, k = (F.normalize(torch.randn(batch, time_, heads, dim), dim=-1).requires_grad_() for _ in range(2))
    v = torch.randn(batch, time_, heads, dim, requires_grad=True)
    with torch.no_grad():
        gates = layer.gates(x)
    gates = {n: g.contiguous().requires_grad_() for n, g in gates.items()}
    initial = {n: s.detach().requires_grad_() for n, s in layer.initial().items()}
    return module, [q, k, v, gates, initial]


def core_row(name: str, design: Any, time_: int, batch: int = BATCH, heads: int = HEADS, dim: int = DIM) -> Row:
    """Forward and backward of the memory alone."""
    module, given = core_inputs(design, time_, batch, heads, dim)
    probe = torch.randn(batch, time_, heads, dim)

    def run() -> float:
        start = time.perf_counter()
        y, _ = module.memory(*given)
        forward = time.perf_counter() - start
        y.backward(probe)
        return forward

    return Row(name, run)


def useful_flops(layers: int, tokens: int, dim: int, chunk: int) -> float:
    """Of a head's chunks, forward + backward without any recomputation: three times the forward's matrix products."""
    if layers == 1:
        squares = 3 * 2 * dim * dim + 2 * 2 * chunk * dim  # W k, W q, outer sums; q k', (q k') g
    else:
        wide = 4 * dim
        squares = 7 * 2 * dim * wide + 2 * 2 * chunk * dim + 2 * 2 * chunk * wide
    return 3.0 * squares * tokens


def lm_row(name: str, build: Build) -> Row:
    """One training step of a small language model."""
    from miras_search.model import LM

    class Adapter(nn.Module):
        def __init__(self, layer: nn.Module) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, x: Tensor, *rest: Any) -> tuple[Tensor, dict[str, Tensor]]:
            return self.layer(x), {}

    torch.manual_seed(0)
    model = LM([Adapter(build(128, 2)) for _ in range(2)], 256, 128, 256)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    tokens = torch.randint(256, (32, 257))

    def run() -> float:
        logits = model(tokens[:, :-1])
        F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).backward()
        optimiser.step()
        optimiser.zero_grad()
        return 0.0

    return Row(name, run, accuracy(build, 128, 2))


def decode_row(name: str, build: Build, count: int) -> Row:
    """Token after token; the steps are held against the whole row first."""
    torch.manual_seed(0)
    layer: Any = build(WIDTH, HEADS).eval()
    x = torch.randn(1, count, WIDTH)

    def steps() -> Tensor:
        state, ys = None, []
        for t in range(count):
            y, state = layer.step(x[:, t : t + 1], state, t)
            ys.append(y)
        return torch.cat(ys, 1)

    def run() -> float:
        with torch.inference_mode():
            steps()
        return 0.0

    with torch.inference_mode():
        error = difference(steps(), layer(x))
    return Row(name, run, error)


def exact_rows(time_: int) -> Iterator[Row]:
    """Memora's and Moneta's exact reads, ours and the plain loop on the same inputs."""
    from peers.exact import plain

    from miras_search.reference import Xp

    for label in ("memora", "moneta"):
        design = designs()[f"ours {label} c16"].canonical()
        # Moneta's l_3 bias stands in the same place as l2 does, and costs nothing beside the maps.
        design = design.model_copy(update={"bias": designs()["ours linear c64"].bias})
        module, given = core_inputs(design, time_, 2, 2, 64)
        q, _, v, _, initial = given
        first = [initial["state_0"], initial["state_1"]]
        norm = (initial["norm_weight"], initial["norm_bias"])
        probe = torch.randn_like(v)
        psi = lambda s, r=design.retention: r.psi(Xp, s)  # noqa: E731

        def naive(given: list[Any], psi: Any = psi, norm: Any = norm, first: Any = first) -> Tensor:
            q, k, v, gates, _ = given
            return plain(psi, 16, q, k, v, gates["log_alpha"], gates["eta"], first, norm)

        def ours(given: list[Any], module: Any = module) -> Tensor:
            y: Tensor = module.memory(*given)[0]
            return y

        (dq,) = torch.autograd.grad(naive(given), q, probe)
        y = ours(given)
        error = max(difference(y, naive(given)), difference(torch.autograd.grad(y, q, probe)[0], dq))
        for name, call in ((f"ours {label} c16", ours), (f"plain loop, {label}", naive)):

            def run(call: Any = call, given: Any = given, probe: Any = probe) -> float:
                start = time.perf_counter()
                y = call(given)
                forward = time.perf_counter() - start
                y.backward(probe)
                return forward

            yield Row(name, run, error)


def trial_rows() -> Iterator[Row]:
    """Steps of trials as the sweep `quickstart` runs them, data and optimiser included."""
    from miras_search.candidate import Backbone, Candidate
    from miras_search.named import NAMED
    from miras_search.tasks import Mqar
    from miras_search.trial import Trainer

    task = Mqar(pairs=8, rewrites=8, keys=32, values=32, batch=32)
    for name in ("yaad", "moneta-r", "memora", "gated-deltanet", "linear-attention", "softmax-attention"):
        candidate = Candidate(design=NAMED[name].design, backbone=Backbone(width=32, layers=1, heads=1, ffn=2))
        trainer = Trainer(candidate, task, 10**6, 0)

        def run(trainer: Any = trainer) -> float:
            trainer.advance(trainer.tokens + trainer.tokens_per_step)
            return 0.0

        yield Row(f"ours {name}", run)


@dataclass
class Result:
    """Medians, in milliseconds."""

    row: Row
    forward: float
    wall: float
    cpu: float


def race(rows: list[Row], rounds: int) -> list[Result]:
    """Interleaved rounds after one to warm up."""
    seen: dict[str, list[tuple[float, float, float]]] = {row.name: [] for row in rows}
    for n in range(rounds + 1):
        for row in rows:
            gc.collect()
            start, cpu = time.perf_counter(), time.process_time()
            forward = row.run()
            found = (forward, time.perf_counter() - start, time.process_time() - cpu)
            if n:
                seen[row.name].append(found)
    return [Result(row, *(1e3 * median(part) for part in zip(*seen[row.name], strict=True))) for row in rows]


def matmul_limit() -> tuple[float, float]:
    """GFLOP/s of large float32 products, the best of six: by the clock, and by processor time (of one thread)."""
    a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)
    best = float("inf")
    by_cpu = float("inf")
    for _ in range(6):
        start, cpu = time.perf_counter(), time.process_time()
        a @ b
        best, by_cpu = min(best, time.perf_counter() - start), min(by_cpu, time.process_time() - cpu)
    return 2 * 2048**3 / best / 1e9, 2 * 2048**3 / by_cpu / 1e9


def table(title: str, results: list[Result], base: str = "", unit: float = 1.0, name: str = "ms") -> None:
    """Markdown; `base`: the row that ratios are taken to."""
    print(f"\n### {title}\n")
    print(f"| row | forward, {name} | wall, {name} | cpu, {name} | wall / ours | float32 error |")
    print("| --- | --- | --- | --- | --- | --- |")
    if not results:
        return
    anchor = next((r.wall for r in results if r.row.name == base), results[0].wall)
    for r in results:
        error = "" if r.row.error is None else f"{r.row.error:.0e}"
        if r.row.error is not None and not r.row.error <= LIMIT:
            print(f"| {r.row.name} | invalid | invalid | invalid | | {error} |")
            continue
        forward = f"{r.forward * unit:.1f}" if r.forward else ""
        print(
            f"| {r.row.name} | {forward} | {r.wall * unit:.1f} | {r.cpu * unit:.1f} | {r.wall / anchor:.2f} | {error} |",
            flush=True,
        )


def peak(name: str, time_: int) -> None:
    """Prints this process's peak memory after one forward and backward."""
    row_layer = builders()[name](WIDTH, HEADS)
    x = torch.randn(BATCH, time_, WIDTH, requires_grad=True)
    row_layer(x).sum().backward()
    # Not ru_maxrss, which a child takes over from its parent.
    (line,) = (x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmHWM"))
    print(f"peak {line.split()[1]}")


def memory_table(names: list[str], low: int, high: int, threads: int) -> None:
    """Growth of peak memory with tokens."""
    print(f"\n### memory: growth of peak memory, T = {low} to {high}\n\n| row | KB a token |\n| --- | --- |")
    for name in names:
        peaks = []
        for t in (low, high):
            command = [sys.executable, __file__, "--peak", name, "--time", str(t), "--threads", str(threads)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            peaks.append(int(done.stdout.split("peak ")[1]))
        print(f"| {name} | {(peaks[1] - peaks[0]) / (BATCH * (high - low)):.1f} |", flush=True)


WORKLOADS = ("layer", "core", "lm", "decode", "exact", "trial", "length", "memory")
EXACT = ("ours memora c16", "ours moneta c16")


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workload", nargs="+", choices=WORKLOADS, default=WORKLOADS)
    parser.add_argument("--rows", nargs="+", default=[""], help="rows whose name contains one of these")
    parser.add_argument("--time", type=int, help="tokens a row; default 2048, quick 512")
    parser.add_argument("--rounds", type=int, help="default 5, quick 3")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    warnings.simplefilter("ignore")
    time_ = given.time or (512 if given.quick else 2048)
    rounds = given.rounds or (3 if given.quick else 5)
    if given.peak:
        peak(given.peak, time_)
        return
    layers = {n: b for n, b in builders().items() if any(part in n for part in given.rows)}
    fast = {n: b for n, b in layers.items() if n not in EXACT}
    limit, by_cpu = matmul_limit()
    print(f"torch {torch.__version__}, {given.threads} threads, {rounds} rounds")
    print(f"float32 matmul limit {limit:.0f} GFLOP/s by the clock, {by_cpu:.0f} a thread by processor time")
    if "layer" in given.workload and fast:
        results = race([layer_row(n, b, time_) for n, b in fast.items()], rounds)
        table(f"layer: T = {time_}, batch {BATCH}, width {WIDTH}, forward + backward", results)
    if "core" in given.workload:
        print(f"\n### core: the memory alone, T = {time_}, forward + backward\n")
        print(
            "| row | wall, ms | cpu, ms | share of the limit | share by processor time |\n| --- | --- | --- | --- | --- |"
        )
        kinds = {n: d.canonical() for n, d in designs().items() if n in layers and n not in EXACT}
        for r in race([core_row(n, d, time_) for n, d in kinds.items()], rounds):
            design = kinds[r.row.name]
            if design.algorithm.online or design.algorithm.momentum:
                continue
            flops = useful_flops(design.memory.depth_, BATCH * HEADS * time_, DIM, design.algorithm.chunk_)
            share, alone = flops / r.wall / 1e6 / limit, flops / r.cpu / 1e6 / by_cpu
            print(f"| {r.row.name} | {r.wall:.1f} | {r.cpu:.1f} | {share:.2f} | {alone:.2f} |", flush=True)
    if "lm" in given.workload and fast:
        table("lm: training step", race([lm_row(n, b) for n, b in fast.items()], rounds))
    if "decode" in given.workload:
        torch.set_num_threads(1)
        count = 96 if given.quick else 256
        kept = {n: b for n, b in fast.items() if n not in ("Qwen3-Next gated delta", "Mamba2")}
        kept |= {f"{n}, compiled": compiled_steps(n, b) for n, b in kept.items() if n.startswith(("ours", "TTT"))}
        results = race([decode_row(n, b, count) for n, b in kept.items()], rounds)
        table("decode: one thread, batch 1", results, unit=1e3 / count, name="us a token")
        torch.set_num_threads(given.threads)
    if "exact" in given.workload:
        rows = [r for r in exact_rows(64 if given.quick else 256) if any(p in r.name for p in given.rows)]
        table("exact reads: batch 2, 2 heads, dimension 64", race(rows, rounds) if rows else [])
    if "trial" in given.workload:
        torch.set_num_threads(1)
        rows = [r for r in trial_rows() if any(p in r.name for p in given.rows)]
        table("trial: a step of 1792 tokens, one thread", race(rows, rounds) if rows else [])
        torch.set_num_threads(given.threads)
    if "length" in given.workload:
        names = [n for n in ("ours mlp c64", "ours linear c64") if n in layers]
        times = (512, 2048) if given.quick else (512, 2048, 8192, 32768)
        print("\n### length: us a token, forward + backward, batch 1\n")
        print("| row | " + " | ".join(f"T = {t}" for t in times) + " |\n| --- |" + " --- |" * len(times))
        for name in names:
            cells = []
            for t in times:
                (r,) = race([core_row(name, designs()[name], t, 1)], 2 if t > 8192 else rounds)
                cells.append(f"{r.wall * 1e3 / t:.1f}")
            print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
    if "memory" in given.workload:
        memory_table(list(fast), *((512, 2048) if given.quick else (2048, 8192)), given.threads)


if __name__ == "__main__":
    main()
