"""The linear Triton family in Triton's interpreter, in a process of its own: TRITON_INTERPRET counts at import.

`interpret.py FOLDER` prints JSON: accuracy against the float64 reference by design and quantity, whether the emitted
text computes the same bits as the skeleton with its slots filled, and the answers of the other checks.
"""

import importlib.util
import json
import os
import sys
import warnings
from pathlib import Path

os.environ["TRITON_INTERPRET"] = "1"
sys.path.insert(0, str(Path(__file__).parent))
warnings.simplefilter("error")

import torch  # noqa: E402
from designs import DESIGNS, design  # noqa: E402

from miras_search import reference  # noqa: E402
from miras_search.bias import Lp  # noqa: E402
from miras_search.codegen.emit import emit, flags  # noqa: E402
from miras_search.codegen.skeletons import triton_linear  # noqa: E402
from miras_search.codegen.triton_dialect import lower_bias  # noqa: E402

FOLDER = Path(sys.argv[1])
K, V = 16, 32


def load(name, text):
    path = FOLDER / f"{name.replace(' ', '_').replace(',', '')}.py"
    path.write_text(text)
    return load_file(path)


def load_file(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def skeleton(chosen):
    """The library's kernels with the slots of a design."""
    chosen = chosen.canonical()
    # Under a name of its own, since modules of one structure share an operator.
    text = Path(triton_linear.__file__).read_text()
    module = load(f"skeleton_{chosen.fingerprint}", text.replace("miras_{STRUCTURE}", f"miras_{chosen.fingerprint}"))
    values = flags(chosen)
    tiles, numbers = lower_bias(chosen.bias)
    header = "import triton\nimport triton.language as tl\n" + "".join(f"{n} = {x!r}\n" for n, x in numbers.items())
    slots = load(f"slots_{chosen.fingerprint}", header + tiles)
    for name in ("CHUNK", "CHUNKED", "STATE_FREE", "THRESHOLDED"):
        setattr(module, name, values[name])
    for name in ("bias_phi_tile", "bias_phi_vjp_tile", "BIAS_NUMBERS"):
        setattr(module, name, getattr(slots, name))
    return module


def inputs(chosen, time=37, batch=1, heads=1, seed=0):
    """q, k, v, gates and the initial state, float32; v and q with strides of their own."""
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=draw)

    q = torch.nn.functional.normalize(normal(batch, heads, time, K), dim=-1).transpose(1, 2)
    k = torch.nn.functional.normalize(normal(batch, time, heads, K), dim=-1)
    v = normal(batch, heads, time, V).transpose(1, 2)
    gates = {"eta": 0.5 * normal(batch, time, heads).sigmoid()}
    if chosen.retention.gated != "none":
        gates["log_alpha"] = torch.nn.functional.logsigmoid(2.0 + normal(batch, time, heads))
    if chosen.bias.thresholded:
        scale = V**0.5 if chosen.bias.of_norm else 1.0
        gates["delta"] = scale * normal(batch, time, heads).mul(0.5).exp()
    return {"q": q, "k": k, "v": v, **gates, "state_0": 0.3 * normal(heads, V, K)}


def outcome(run, leaves):
    """Outputs and gradients of a scalar that uses them all."""
    leaves = {name: x.detach().requires_grad_() for name, x in leaves.items()}
    gates = {name: x for name, x in leaves.items() if name in ("eta", "log_alpha", "delta")}
    y, state = run(leaves["q"], leaves["k"], leaves["v"], gates, {"state_0": leaves["state_0"]})
    found = {"y": y, "final": state["state_0"]}
    if "frozen_0" in state:
        found["frozen"] = state["frozen_0"]
    weights = {n: torch.linspace(-1.0, 2.0, x.numel(), dtype=x.dtype).view(x.shape).cos() for n, x in found.items()}
    total = sum((x * weights[n]).sum() for n, x in found.items())
    grads = torch.autograd.grad(total, list(leaves.values()))
    return {n: x.detach() for n, x in found.items()} | {f"d{n}": g for n, g in zip(leaves, grads, strict=True)}


def accuracy(chosen, module, **shape):
    """Relative deviation (2-norm) of every quantity from the reference in float64, at the same float32 inputs."""
    leaves = inputs(chosen, **shape)
    fast = outcome(module.memory, leaves)
    exact = {name: x.double() for name, x in leaves.items()}
    slow = outcome(lambda q, k, v, gates, initial: reference.run(chosen, q, k, v, gates, initial=initial), exact)
    assert fast.keys() == slow.keys()
    return {name: float((fast[name].double() - x).norm() / x.norm()) for name, x in slow.items()}, fast, leaves


def same_bits(chosen, fast, leaves):
    filled = skeleton(chosen)
    slow = outcome(lambda q, k, v, gates, initial: filled.triton_linear(q, k, v, gates, initial), leaves)
    return all(torch.equal(slow[name], x) for name, x in fast.items())


def refusals(module):
    x = inputs(DESIGNS["l2"], time=8)
    q, k, v = x["q"], x["k"], x["v"]
    rows = torch.zeros(1, 8, dtype=torch.bool)
    wide = torch.zeros(1, 8, 2, 24)
    state = {"position": torch.tensor([3])}
    return {
        "nothing": module.triton_refusal(q, k, v, None, None, None),
        "boundary": module.triton_refusal(q, k, v, {"position": torch.tensor([0])}, None, None),
        "bfloat16": module.triton_refusal(q.bfloat16(), k.bfloat16(), v.bfloat16(), None, None, None),
        "float64": module.triton_refusal(q.double(), k.double(), v.double(), None, None, None),
        "mixed": module.triton_refusal(q, k, v.half(), None, None, None),
        "dimension": module.triton_refusal(wide, wide, v, None, None, None),
        "step": module.triton_refusal(q[:, :1], k[:, :1], v[:, :1], None, None, None),
        "reset": module.triton_refusal(q, k, v, None, rows, None),
        "valid": module.triton_refusal(q, k, v, None, None, ~rows),
        "inside": module.triton_refusal(q, k, v, state, None, None),
    }


def continued(chosen, module):
    """Two calls that meet at a chunk's end, and three of which the last starts inside a chunk, against one; by path."""
    x = inputs(chosen, time=37)
    gates = {name: g for name, g in x.items() if name in ("eta", "log_alpha", "delta")}
    whole, _ = module.memory(x["q"], x["k"], x["v"], gates, {"state_0": x["state_0"]})
    module.PATHS.clear()
    parts, state = [], None
    for part in (slice(0, 16), slice(16, 35), slice(35, 37)):
        tokens = (x[name][:, part] for name in ("q", "k", "v"))
        y, state = module.memory(*tokens, {n: g[:, part] for n, g in gates.items()}, {"state_0": x["state_0"]}, state)
        parts.append(y)
    return {"deviation": float((torch.cat(parts, 1) - whole).norm() / whole.norm()), "paths": dict(module.PATHS)}


def opcheck(module):
    x = inputs(DESIGNS["huber norm"], time=20)
    flat = [x[name].requires_grad_() for name in ("q", "k", "v", "log_alpha", "eta", "delta")]
    start = x["state_0"][None].clone().requires_grad_()
    return torch.library.opcheck(module.LINEAR, (*flat, start, list(module.BIAS_NUMBERS)))


def main():
    out = {"accuracy": {}, "same bits": {}, "paths": {}}
    modules = {}
    for name, chosen in DESIGNS.items():
        modules[name] = module = load(name, emit(chosen))
        shape = {"batch": 2, "heads": 2} if name == "huber norm" else {}
        out["accuracy"][name], fast, leaves = accuracy(chosen, module, **shape)
        out["paths"][name] = dict(module.PATHS)
        out["same bits"][name] = same_bits(chosen, fast, leaves)
    # One structure, so one operator, with two values of p: numbers are arguments.
    other = design(Lp(p=1.9, cap="none"))
    assert other.structure == DESIGNS["lp potential"].structure
    twin = load("lp_potential_twin", emit(other))
    out["twins"] = [
        max(accuracy(chosen, module)[0].values())
        for chosen, module in ((other, twin), (DESIGNS["lp potential"], modules["lp potential"]))
    ]
    out["refusals"] = refusals(modules["l2"])
    out["continued"] = continued(DESIGNS["huber norm"], modules["huber norm"])
    out["opcheck"] = opcheck(modules["huber norm"])
    print(json.dumps(out))


if __name__ == "__main__":
    main()
