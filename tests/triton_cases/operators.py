"""Layers on the kernels, in Triton's interpreter, under what training puts around them.

`operators.py FOLDER` prints JSON: for one design a family, largest deviation of the gradients from those of a plain call, and the
paths that ran, under torch.compile (one graph), autocast, activation checkpointing and, in two processes, DDP.
"""

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

os.environ["TRITON_INTERPRET"] = "1"
sys.path.insert(0, str(Path(__file__).parent))
warnings.simplefilter("error")
# Dynamo itself does what torch warns of, where it meets an autograd function.
warnings.filterwarnings("ignore", ".* should not be instantiated", DeprecationWarning)

import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402
from designs import CHANNELS, DELTA, DENSE, LINEAR  # noqa: E402
from torch._dynamo.backends.debugging import aot_eager  # noqa: E402
from torch.nn.parallel import DistributedDataParallel  # noqa: E402
from torch.utils.checkpoint import checkpoint  # noqa: E402

from miras_search import op  # noqa: E402

CASES = {
    "linear": LINEAR["huber norm"],
    "delta": DELTA["gated delta rule"],
    "dense": DENSE["matrix, momentum, ascent"],
    "channels": CHANNELS["gla"],
}


def layer(family, seed=0):
    torch.manual_seed(seed)
    return op.load(CASES[family]).Layer(32, 2)


def rows(rank):
    """Each process has its own."""
    return torch.randn(1, 18, 32, generator=torch.Generator().manual_seed(rank))


def gradients(run, module, x):
    """Of the answers' squares, to the input and all parameters."""
    x = x.clone().requires_grad_()
    module.zero_grad()
    y = run(x)
    y.float().square().mean().backward()
    return y.dtype, [x.grad, *(p.grad.clone() for p in module.parameters())]


def deviation(found, expected):
    """Largest, relative to the largest of all gradients."""
    top = max(float(y.abs().max()) for y in expected)
    return max(float((x - y).abs().max()) for x, y in zip(found, expected, strict=True)) / top


def spied():
    """A backend that traces forward and backward, and the list of our operators in the graphs that it gets."""
    names = []

    def backend(graph, inputs):
        names.extend(str(node.target) for node in graph.graph.nodes if "miras" in str(node.target))
        return aot_eager(graph, inputs)

    return names, backend


def alone(family):
    """One process: compiled, under autocast, checkpointed."""
    module, x = layer(family), rows(0)
    paths = op.load(CASES[family]).PATHS
    before = dict(paths)
    _, plain = gradients(lambda x: module(x)[0], module, x)
    _, again = gradients(lambda x: checkpoint(lambda x: module(x)[0], x, use_reentrant=False), module, x)

    def cast(x):
        with torch.autocast("cpu", torch.float16):
            return module(x)[0]

    dtype, half = gradients(cast, module, x)
    ran = {path: n - before.get(path, 0) for path, n in paths.items()}
    names, backend = spied()
    compiled = torch.compile(module, fullgraph=True, backend=backend)
    _, traced = gradients(lambda x: compiled(x)[0], module, x)
    return {
        "paths": ran,
        "checkpoint": deviation(again, plain),
        "autocast": deviation(half, plain),
        "autocast dtype": str(dtype),
        "compile": deviation(traced, plain),
        "operators": names,
    }


def side(rank, folder):
    """One of two processes: gradients of all families by DDP, against the mean of those of both processes' rows."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    found = {}
    for family in CASES:
        module = layer(family, seed=rank)
        parallel = DistributedDataParallel(module)  # sends the weights of process 0
        _, shared = gradients(lambda x, parallel=parallel: parallel(x)[0], module, rows(rank))
        sides = [gradients(lambda x, module=module: module(x)[0], module, rows(r))[1][1:] for r in (0, 1)]
        expected = [(a + b) / 2 for a, b in zip(*sides, strict=True)]
        found[family] = {"ddp": deviation(shared[1:], expected), "paths": dict(op.load(CASES[family]).PATHS)}
    dist.destroy_process_group()
    return found


def main(folder, rank="0"):
    if rank == "1":
        side(1, folder)
        return
    with subprocess.Popen([sys.executable, __file__, folder, "1"]) as other:
        try:
            parallel = side(0, folder)
        except BaseException:
            other.kill()
            raise
        assert other.wait() == 0
    print(json.dumps({"alone": {family: alone(family) for family in CASES}, "ddp": parallel}))


if __name__ == "__main__":
    main(*sys.argv[1:])
