"""Forward and backward of the memories on a GPU: `python benchmarks/gpu.py [--quick]`.

A row a design and length: milliseconds of the kernels, of the emitted torch path in eager mode, and of an implementation by
others where one has the point (flash-linear-attention, torch's attention); bfloat16, 16 heads of dimension 64, 32768 tokens
a batch. Then tokens a second of whole layers at 8192. A line that cannot run says why. Needs a CUDA device; it has not been run yet.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from miras_search import named, op

HEADS, DIM, TOKENS = 16, 64, 32768
DESIGNS = ("retnet", "deltanet", "gated-deltanet", "yaad", "titans-lmm", "moneta-r", "moneta", "memora-r", "memora")


def milliseconds(run: Callable[[], None], repeats: int) -> float:
    """Median of some calls, after two that compile and warm up."""
    for _ in range(2):
        run()
    times = []
    for _ in range(repeats):
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        stop.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(stop))
    return sorted(times)[len(times) // 2]


def inputs(module: Any, time: int) -> tuple[list[Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """Leaves of a call: q, k, v in bfloat16, gates and initial values in float32."""
    batch = TOKENS // time
    shape = (batch, time, HEADS)

    def draw(*sizes: int) -> Tensor:
        return torch.randn(*sizes, device="cuda")

    q, k = (torch.nn.functional.normalize(draw(*shape, DIM), dim=-1).bfloat16() for _ in range(2))
    gates = {
        "eta": 0.1 * draw(*shape).sigmoid(),
        "log_alpha": torch.nn.functional.logsigmoid(4.0 + draw(*shape)),
        "log_mu": torch.nn.functional.logsigmoid(draw(*shape)),
        "delta": DIM**0.5 * draw(*shape).exp(),
    }
    shapes = module.weight_shapes(DIM)
    initial = {f"state_{i}": draw(HEADS, *size) * size[-1] ** -0.5 for i, size in enumerate(shapes)}
    initial |= {
        "norm_weight": torch.ones(HEADS, DIM, device="cuda"),
        "norm_bias": torch.zeros(HEADS, DIM, device="cuda"),
    }
    if not module.DESIGN["memory"].get("norm"):
        initial = {name: x for name, x in initial.items() if name.startswith("state")}
    tokens = [x.detach().requires_grad_() for x in (q, k, draw(*shape, DIM).bfloat16())]
    gates = {name: x.detach().requires_grad_() for name, x in gates.items()}
    return tokens, gates, {name: x.detach().requires_grad_() for name, x in initial.items()}


def both_ways(run: Callable[..., Any]) -> Callable[[], None]:
    """A call and its backward."""

    def call() -> None:
        y = run()
        y = y[0] if isinstance(y, tuple) else y
        y.backward(torch.ones_like(y))

    return call


def attempt(run: Callable[[], None], repeats: int) -> str:
    """Milliseconds, or why there are none."""
    try:
        return f"{milliseconds(run, repeats):9.2f}"
    except (torch.cuda.OutOfMemoryError, RuntimeError, ImportError) as error:
        torch.cuda.empty_cache()
        return f"{type(error).__name__}: {str(error).splitlines()[0][:40]}"


def torch_path(module: Any) -> Callable[..., Any]:
    """The emitted module with its kernels switched off."""

    def run(*arguments: Any) -> Any:
        takes = module.triton_takes
        module.triton_takes = lambda *_: False
        try:
            return module.memory(*arguments)
        finally:
            module.triton_takes = takes

    return run


def others(name: str, q: Tensor, k: Tensor, v: Tensor, gates: dict[str, Tensor]) -> Callable[[], Any] | None:
    """The same function by others, if they have it."""
    beta, alpha = gates["eta"].bfloat16(), gates["log_alpha"]
    if name == "deltanet":
        from fla.ops.delta_rule import chunk_delta_rule

        return lambda: chunk_delta_rule(q, k, v, beta)
    if name == "gated-deltanet":
        from fla.ops.gated_delta_rule import chunk_gated_delta_rule

        return lambda: chunk_gated_delta_rule(q, k, v, alpha, beta)
    if name == "retnet":
        from fla.ops.simple_gla import chunk_simple_gla

        return lambda: chunk_simple_gla(q, k, v, alpha)
    return None


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """torch's causal attention, in our layout."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)


def memories(lengths: list[int], repeats: int) -> None:
    print(f"{'design':16s} {'length':>7s} {'kernels':>9s} {'eager':>9s} {'others':>9s}   path")
    for name in DESIGNS:
        module = op.load(named.get(name))
        for time in lengths:
            tokens, gates, initial = inputs(module, time)
            module.PATHS.clear()
            module.PATHS["triton"] = 0
            ours = attempt(both_ways(lambda m=module, a=(*tokens, gates, initial): m.memory(*a)), repeats)
            path = "; ".join(reason for reason, count in module.PATHS.items() if count)
            plain = torch_path(module)
            eager = attempt(both_ways(lambda r=plain, a=(*tokens, gates, initial): r(*a)), 1)
            theirs = "-"
            try:
                run = others(name, *tokens, gates)
            except ImportError as error:
                run, theirs = None, str(error)
            if run is not None:
                theirs = attempt(both_ways(run), repeats)
            print(f"{name:16s} {time:7d} {ours:>9s} {eager:>9s} {theirs:>9s}   {path}", flush=True)
    module = op.load(named.get("yaad"))
    for time in lengths:
        tokens, _, _ = inputs(module, time)
        print(
            f"{'attention':16s} {time:7d} {attempt(both_ways(lambda a=tokens: attention(*a)), repeats):>9s}", flush=True
        )


def layers(repeats: int) -> None:
    print(f"\n{'layer':16s} tokens a second, width {HEADS * DIM}, length 8192")
    x = torch.randn(TOKENS // 8192, 8192, HEADS * DIM, device="cuda")
    for name in DESIGNS:
        layer = op.layer(name, HEADS * DIM, HEADS).cuda()

        def run(layer: torch.nn.Module = layer) -> None:
            with torch.autocast("cuda", torch.bfloat16):
                y, _ = layer(x)
            y.float().sum().backward()

        spent = attempt(run, repeats)
        rate = f"{TOKENS / float(spent) * 1e3:12.0f}" if spent.strip()[:1].isdigit() else spent
        print(f"{name:16s} {rate}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one length, three calls")
    quick = parser.parse_args().quick
    if not torch.cuda.is_available():
        print("no CUDA device: nothing to measure")
        return 1
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    repeats = 3 if quick else 10
    memories([2048] if quick else [2048, 8192, 32768], repeats)
    layers(repeats)
    return 0


if __name__ == "__main__":
    sys.exit(main())
