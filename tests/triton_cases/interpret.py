"""The Triton families in Triton's interpreter, in a process of its own: TRITON_INTERPRET counts at import.

`interpret.py FOLDER NAME...` prints JSON: accuracy against the float64 reference by design and quantity, beside that of the
reference in float32; whether the emitted text computes the same bits as the skeletons, neither folded nor linked; and
the answers of the other checks, if `checks` is among the names. Without a name: all of it.
"""

import ast
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
from designs import CHANNELS, DELTA, DENSE, DESIGNS, LINEAR, QUICK, STEPPED, design  # noqa: E402

from miras_search import reference  # noqa: E402
from miras_search.bias import Lp  # noqa: E402
from miras_search.codegen import skeletons  # noqa: E402
from miras_search.codegen.emit import KERNELS, SKELETONS, emit, flags, lower_formulas  # noqa: E402
from miras_search.codegen.triton_dialect import lower_tiles  # noqa: E402
from miras_search.reference import Xp  # noqa: E402

FOLDER = Path(sys.argv[1])
GATES = ("eta", "log_alpha", "delta", "log_mu", "erase")


def load(name, text):
    path = FOLDER / f"{name.translate(str.maketrans(' -.', '___', ','))}.py"
    path.write_text(text)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def alone(text):
    """A skeleton without its imports from the package."""
    lines = text.split("\n")
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module.startswith("miras_search"):
            rest = [""] * (node.end_lineno - node.lineno)
            lines[node.lineno - 1 : node.end_lineno] = [" " * node.col_offset + "pass", *rest]
    return "\n".join(lines)


def unlinked(chosen):
    """The skeletons one after another, unfolded, with the slots of a design."""
    chosen = chosen.canonical()
    folder = Path(skeletons.__file__).parent
    formulas = lower_formulas(chosen)
    tiles, numbers, mapped = lower_tiles(chosen)
    values = flags(chosen) | formulas.numbers | numbers | mapped
    # Under a name of its own, since modules of one structure share an operator.
    values["STRUCTURE"] = f"bare_{chosen.fingerprint}"
    texts = [alone((folder / f"{name}.py").read_text()) for name in ("slots", "triton_slots")]
    texts += [f"{name} = {value!r}" for name, value in values.items()]
    texts += [*formulas.functions.values(), tiles]
    texts += [alone((folder / f"{name}.py").read_text()) for name in (*SKELETONS, *KERNELS)]
    return load(f"unlinked_{chosen.fingerprint}", "\n".join(texts))


def inputs(chosen, time=21, batch=1, heads=1, seed=0):
    """q, k, v, gates and initial values, float32; v and q with strides of their own."""
    draw = torch.Generator().manual_seed(seed)
    key = 16
    value = key if chosen.memory.residual_ or not chosen.memory.linear else 32

    def normal(*shape):
        return torch.randn(*shape, generator=draw)

    q = torch.nn.functional.normalize(normal(batch, heads, time, key), dim=-1).transpose(1, 2)
    k = torch.nn.functional.normalize(normal(batch, time, heads, key), dim=-1)
    v = normal(batch, heads, time, value).transpose(1, 2)
    # Below the step at which the recurrence is chaotic and would amplify rounding by itself.
    step = (0.5 if chosen.memory.linear else 0.1) * (0.2 if chosen.bias.superlinear else 1.0)
    gates = {"eta": step * normal(batch, time, heads).sigmoid()}
    if chosen.retention.gated != "none":
        wide = {"channel": [key], "row": [value], "outer": [key + value]}.get(chosen.retention.gated, [])
        gates["log_alpha"] = torch.nn.functional.logsigmoid(2.0 + normal(batch, time, heads, *wide))
    if chosen.bias.thresholded:
        scale = value**0.5 if chosen.bias.of_norm else 1.0
        gates["delta"] = scale * normal(batch, time, heads).mul(0.5).exp()
    if chosen.algorithm.momentum:
        gates["log_mu"] = torch.nn.functional.logsigmoid(normal(batch, time, heads))
    if chosen.algorithm.decoupled:
        wide = [key] if chosen.algorithm.erases_channels else []
        gates["erase"] = 0.5 * normal(batch, time, heads, *wide).sigmoid()
    shapes = chosen.memory.weights(key, value)
    initial = {f"state_{i}": chosen.retention.initial(Xp, normal(heads, *shape)) for i, shape in enumerate(shapes)}
    if chosen.memory.normalised:
        initial |= {"norm_weight": 1.0 + 0.1 * normal(heads, value), "norm_bias": 0.1 * normal(heads, value)}
    return {"q": q, "k": k, "v": v, **gates, **initial}


def masks(time, batch):
    """Packed and padded rows, the last row silent for a while at its end."""
    draw = torch.Generator().manual_seed(1)
    valid = torch.rand(batch, time, generator=draw) > 0.2
    valid[-1, time // 2 :] = False
    return {"reset": torch.rand(batch, time, generator=draw) < 0.15, "valid": valid}


def outcome(run, leaves, **given):
    """Outputs and gradients of a scalar that uses them all."""
    leaves = {name: x.detach().requires_grad_() for name, x in leaves.items()}
    gates = {name: x for name, x in leaves.items() if name in GATES}
    initial = {name: x for name, x in leaves.items() if name.startswith(("state", "norm"))}
    y, state = run(leaves["q"], leaves["k"], leaves["v"], gates, initial, None, **given)
    found = {"y": y} | {name: x for name, x in state.items() if x.is_floating_point()}
    weights = {n: torch.linspace(-1.0, 2.0, x.numel(), dtype=x.dtype).view(x.shape).cos() for n, x in found.items()}
    total = sum((x * weights[n]).sum() for n, x in found.items())
    grads = torch.autograd.grad(total, list(leaves.values()))
    return {n: x.detach() for n, x in found.items()} | {f"d{n}": g for n, g in zip(leaves, grads, strict=True)}


def deviations(found, exact):
    """Relative deviation (2-norm) of every quantity."""
    assert found.keys() == exact.keys(), (found.keys(), exact.keys())
    return {name: float((found[name].double() - x).norm() / x.norm().clamp_min(1e-30)) for name, x in exact.items()}


def accuracy(chosen, module, given=None, leaves=None, **shape):
    """Deviations of the kernels, and of the reference in float32, from the reference in float64, at the same inputs."""
    chosen, given = chosen.canonical(), given or {}
    leaves = leaves or inputs(chosen, **shape)

    def slow(q, k, v, gates, initial, state, **masks):
        return reference.run(chosen, q, k, v, gates, state, initial=initial, **masks)

    fast = outcome(module.memory, leaves, **given)
    exact = outcome(slow, {name: x.double() for name, x in leaves.items()}, **given)
    return deviations(fast, exact), deviations(outcome(slow, leaves, **given), exact), fast, leaves


def stepped(chosen, module, time=19):
    """Deviations of calls with one token each, at masks, from the reference over all of them; the paths."""
    chosen = chosen.canonical()
    leaves = inputs(chosen, time=time, batch=2)
    gates = {name: x for name, x in leaves.items() if name in GATES}
    initial = {name: x for name, x in leaves.items() if name.startswith(("state", "norm"))}
    marked = masks(time, 2)
    module.PATHS.clear()
    parts, state = [], None
    with torch.no_grad():
        for t in range(time):
            now = slice(t, t + 1)
            given = [leaves[name][:, now] for name in ("q", "k", "v")]
            some = {name: x[:, now] for name, x in marked.items()} if t > 2 else {}
            y, state = module.memory(*given, {n: x[:, now] for n, x in gates.items()}, initial, state, **some)
            parts.append(y)
    for x in marked.values():
        x[:, :3] = False
    marked["valid"][:, :3] = True
    found = {"y": torch.cat(parts, 1)} | {n: x for n, x in state.items() if x.is_floating_point()}

    def slow(kind):
        cast = {name: x.to(kind) for name, x in leaves.items()}
        own = {name: x for name, x in cast.items() if name in GATES}
        y, state = reference.run(chosen, cast["q"], cast["k"], cast["v"], own, None, initial=cast, **marked)
        return {"y": y.detach()} | {n: x.detach() for n, x in state.items() if x.is_floating_point()}

    exact = slow(torch.float64)
    return deviations(found, exact), deviations(slow(torch.float32), exact), dict(module.PATHS)


def study(name):
    """All that is asked of one design: without masks as it stands, with masks in segments of one chunk and small tiles."""
    chosen = DESIGNS[name]
    module = load(name, emit(chosen))
    # Of the delta rule two tiles, which are larger than chunks; of gates of channels some blocks of a tile.
    time = 70 if name in DELTA else 37 if name in CHANNELS or name == "huber norm" else 21
    shape = {"batch": 2, "heads": 2, "time": time} if name == "huber norm" else {"time": time}
    own, plain, fast, leaves = accuracy(chosen, module, **shape)
    out = {"accuracy": own, "float32": plain, "paths": dict(module.PATHS)}
    bare = outcome(unlinked(chosen).memory, leaves)
    out["same bits"] = all(torch.equal(bare[key], x) for key, x in fast.items())
    if (name in STEPPED or name not in QUICK) and chosen.retention.gated not in ("row", "outer"):
        out["steps"], out["steps float32"], out["steps paths"] = stepped(chosen, module)
    module.dense_segment = lambda pairs, chunks: 1
    if not getattr(module, "WHOLE", False):
        module.dense_height = lambda out, inner: 16
        if not getattr(module, "ROWWISE", True):
            module.dense_width = lambda inner: 16
    module.PATHS.clear()
    out["masked"], out["masked float32"], _, _ = accuracy(chosen, module, masks(18, 2), time=18, batch=2, heads=1)
    out["masked paths"] = dict(module.PATHS)
    return out


def refusals(module):
    x = inputs(LINEAR["l2"], time=8)
    q, k, v = x["q"], x["k"], x["v"]
    wide = torch.zeros(1, 8, 2, 24)
    state = {"position": torch.tensor([3])}
    return {
        "nothing": module.triton_refusal(q, k, v, None),
        "boundary": module.triton_refusal(q, k, v, {"position": torch.tensor([0])}),
        "bfloat16": module.triton_refusal(q.bfloat16(), k.bfloat16(), v.bfloat16(), None),
        "float64": module.triton_refusal(q.double(), k.double(), v.double(), None),
        "mixed": module.triton_refusal(q, k, v.half(), None),
        "dimension": module.triton_refusal(wide, wide, v, None),
        "step": module.triton_refusal(q[:, :1], k[:, :1], v[:, :1], None),
        "inside": module.triton_refusal(q, k, v, state),
    }


def continued(chosen, module):
    """Two calls that meet at a chunk's end, and three of which the last starts inside a chunk, against one; by path."""
    x = inputs(chosen, time=37)
    gates = {name: g for name, g in x.items() if name in GATES}
    whole, _ = module.memory(x["q"], x["k"], x["v"], gates, x)
    module.PATHS.clear()
    parts, state = [], None
    for part in (slice(0, 16), slice(16, 35), slice(35, 37)):
        tokens = (x[name][:, part] for name in ("q", "k", "v"))
        y, state = module.memory(*tokens, {n: g[:, part] for n, g in gates.items()}, x, state)
        parts.append(y)
    return {"deviation": float((torch.cat(parts, 1) - whole).norm() / whole.norm()), "paths": dict(module.PATHS)}


def strong(chosen, module, share):
    """At a log decay of -20 on a share of all tokens and channels: a tile's is far below what exp takes."""
    leaves = inputs(chosen, time=30)
    decay = leaves["log_alpha"]
    some = torch.rand(decay.shape, generator=torch.Generator().manual_seed(2)) < share
    leaves["log_alpha"] = torch.where(some, -20.0, decay)
    return accuracy(chosen, module, leaves=leaves)[:2]


def opcheck(module, name, chosen, time=20):
    """An operator on the arguments with which `memory` calls it; that of one token has no gradient."""
    seen = []
    operator = getattr(module, name)

    def spy(*given):
        seen.append(given)
        return operator(*given)

    setattr(module, name, spy)
    x = inputs(chosen.canonical(), time=time)
    if time == 1:
        with torch.no_grad():
            module.memory(x["q"], x["k"], x["v"], x, x)
    else:
        outcome(module.memory, x)
    setattr(module, name, operator)
    if time == 1:
        return torch.library.opcheck(operator, seen[0])

    def leaf(x):
        if isinstance(x, list):
            return [leaf(y) for y in x]
        return x.detach().requires_grad_(x.is_floating_point()) if isinstance(x, torch.Tensor) else x

    return torch.library.opcheck(operator, tuple(leaf(x) for x in seen[0]))


def checks():
    """What need not be asked of every design."""
    out = {}
    # One structure, so one operator, with two values of p: numbers are arguments.
    twins = [design(Lp(p=p, cap="none")) for p in (1.9, 1.5)]
    assert twins[0].structure == twins[1].structure
    modules = [load(f"twin_{i}", emit(twin)) for i, twin in enumerate(twins)]
    out["twins"] = [max(accuracy(twin, module)[0].values()) for twin, module in zip(twins, modules, strict=True)]
    out["refusals"] = refusals(load("refuses", emit(LINEAR["l2"])))
    chosen = DENSE["matrix, softmax of columns"]
    q = torch.zeros(1, 8, 1, 128)
    out["refusals"]["mirror"] = load("refuses_too", emit(chosen)).triton_refusal(q, q, q, None)
    huber, moving = LINEAR["huber norm"], DENSE["matrix, momentum, ascent"]
    module = load("huber", emit(huber))
    gated = DELTA["gated delta rule"]
    modules = {"linear": (huber, module), "delta": (gated, load("gated", emit(gated)))}
    modules["dense"] = (moving, load("moving", emit(moving)))
    names = ("gla", "rwkv7", "decaying-fast-weights")
    faded = [(CHANNELS[name].canonical(), load(f"gated_{i}", emit(CHANNELS[name]))) for i, name in enumerate(names)]
    modules["channels"] = faded[0]
    out["continued"] = {name: continued(*pair) for name, pair in modules.items()}
    out["opcheck"] = {name: opcheck(module, name.upper(), chosen) for name, (chosen, module) in modules.items()}
    out["opcheck"]["token"] = opcheck(modules["dense"][1], "TOKEN", moving, time=1)
    out["opcheck"] |= {
        name: opcheck(faded[i][1], name.upper(), faded[i][0]) for i, name in ((0, "decayed"), (2, "applied"))
    }
    out["strong"] = {
        name: strong(*pair, share) for name, pair, share in zip(names, faded, (1.0, 0.3, 0.3), strict=True)
    }
    return out


def main(*names):
    names = names or (*DESIGNS, "checks")
    studied = {name: study(name) for name in names if name != "checks"}
    print(json.dumps({"studied": studied} | (checks() if "checks" in names else {})))


if __name__ == "__main__":
    main(*sys.argv[2:])
