"""The self-check of an emitted module: the fast path against a plain loop whose inner gradient is autograd's."""

from collections.abc import Mapping

import torch
from torch import Tensor

from miras_search.codegen.skeletons.cache import memory_cache
from miras_search.codegen.skeletons.chunk import orthogonalise
from miras_search.codegen.skeletons.dense import predict
from miras_search.codegen.skeletons.layer import Layer, key_size, weight_shapes
from miras_search.codegen.skeletons.recurrence import memory
from miras_search.codegen.skeletons.slots import (
    ASCENT,
    CACHE,
    CHUNK,
    DECAY_FIRST,
    DECOUPLED,
    ERASE_CHANNELS,
    FEEDBACK,
    GATE,
    IMPLICIT,
    INPUTS,
    LAST_ONLY,
    LAYERS,
    LEARNED_START,
    LEAST_SQUARES,
    MIRROR,
    MOMENTUM,
    MULTIPLICATIVE,
    NORM,
    ONLINE,
    ORTHOGONAL,
    READ,
    READ_FIRST,
    SHIFTED,
    SPAN,
    STATE_FREE,
    STEPS,
    WINDOW,
    bias_phi,
    retention_feedback,
    retention_initial,
    retention_psi,
    retention_scale,
    retention_update,
)


def slow_memory(q: Tensor, k: Tensor, v: Tensor, gates: Mapping[str, Tensor], initial: Mapping[str, Tensor]) -> Tensor:
    """The definition, token by token: W frozen at the chunk's start, g = dl/dW by autograd, write, then read."""
    batch, time, heads, _ = q.shape
    if SHIFTED:
        v = v - k
    states = [initial[f"state_{i}"].expand(batch, -1, -1, -1) for i in range(LAYERS)]
    if MOMENTUM:
        momenta = [torch.zeros_like(s) for s in states]
    norm = [initial[n][:, None] for n in ("norm_weight", "norm_bias") if n in initial]
    ones = torch.ones(batch, heads, 1, 1, dtype=q.dtype)
    answers = []
    for t in range(time):
        alpha = [ones] * LAYERS
        if GATE == "scalar":
            alpha = [gates["log_alpha"][:, t, :, None, None].exp()] * LAYERS
        if GATE == "channel":
            kept = gates["log_alpha"][:, t].exp()
            alpha = [kept[..., None, :] if i < INPUTS else kept[..., None] for i in range(LAYERS)]
        if GATE == "row":
            alpha = [gates["log_alpha"][:, t, ..., None].exp()]
        if GATE == "outer":
            kept = gates["log_alpha"][:, t].exp()
            columns = q.shape[-1]
            alpha = [kept[..., columns:, None] * kept[..., None, :columns]]
        if ONLINE:
            if DECAY_FIRST:
                frozen = [a * s for a, s in zip(alpha, states, strict=True)]
            else:
                frozen = states
        elif t % CHUNK == 0:
            if MIRROR:
                frozen = [retention_psi(s) for s in states]
            else:
                frozen = states
            if READ == "lagged":
                scales = [retention_scale(s) for s in states]
        frozen = [w if w.requires_grad else w.detach().requires_grad_() for w in frozen]
        near = slice(t, t + 1)
        if SPAN > 1:
            near = slice(max(0, t + 1 - SPAN), t + 1)
        key, value = k[:, near].transpose(1, 2), v[:, near].transpose(1, 2)
        eta = gates["eta"][:, t, :, None, None]
        if IMPLICIT:
            eta = eta / (1.0 + eta * key.square().sum(-1, keepdim=True))
        answer = predict(frozen, key, norm)
        if ERASE_CHANNELS:
            write = -eta * value
        elif DECOUPLED:
            write = gates["erase"][:, t, :, None, None] * answer - eta * value
        else:
            size = eta
            if ORTHOGONAL:
                size = torch.ones_like(eta)
            if SPAN > 1:
                size = size * gates["gamma"][:, near].transpose(1, 2)[..., None]
            delta = gates["delta"][:, near].transpose(1, 2)[..., None] if "delta" in gates else torch.ones_like(eta)
            error = answer - value
            if STATE_FREE:
                error = value
            write = size * bias_phi(error, value, delta)
        if ASCENT:
            write = -write
        grads = torch.autograd.grad(answer, frozen, write, create_graph=True)
        if ERASE_CHANNELS:
            erased = answer.mT @ (gates["erase"][:, t, :, None] * key)
            if ASCENT:
                erased = -erased
            grads = (grads[0] + erased,)
        if READ_FIRST:
            earlier = states
        for i in range(LAYERS):
            if LAST_ONLY:
                still = i < LAYERS - 1
                if still:
                    continue
            before = states[i]
            if FEEDBACK:
                before = retention_feedback(before)
            change = -grads[i]
            if MOMENTUM:
                momenta[i] = gates["log_mu"][:, t, :, None, None].exp() * momenta[i] - grads[i]
                change = momenta[i]
            if ORTHOGONAL:
                change = eta * orthogonalise(momenta[i])
            if MULTIPLICATIVE:
                after = retention_update(before, alpha[i], -change)
            else:
                after = alpha[i] * before + change
            states = [*states[:i], after, *states[i + 1 :]]
        if READ != "stale":
            if READ_FIRST:
                readable = earlier
            else:
                readable = states
        if READ == "stale":
            weights = frozen
        elif READ == "lagged":
            weights = [s * c for s, c in zip(readable, scales, strict=True)]
        elif MIRROR:
            weights = [retention_psi(s) for s in readable]
        else:
            weights = readable
        answers.append(predict(weights, q[:, t, :, None], norm)[:, :, 0])
    return torch.stack(answers, 1)


def slow_least_squares(
    q: Tensor, k: Tensor, v: Tensor, gates: Mapping[str, Tensor], initial: Mapping[str, Tensor]
) -> Tensor:
    """The solution of the regression over all tokens so far, token by token."""
    batch, time, heads, dim = q.shape
    moment = initial["state_0"].expand(batch, -1, -1, -1)
    if SHIFTED:
        v = v - k
    gram = torch.zeros(batch, heads, dim, dim, dtype=q.dtype)
    answers = []
    for t in range(time):
        alpha = gates["log_alpha"][:, t].exp()[..., None, None] if "log_alpha" in gates else 1.0
        weighted = gates["eta"][:, t, :, None] * k[:, t]
        moment = alpha * moment + torch.einsum("bhv,bhk->bhvk", v[:, t], weighted)
        gram = alpha * gram + torch.einsum("bhi,bhk->bhik", k[:, t], weighted)
        x = torch.linalg.solve(gram + torch.diag_embed(initial["ridge"]), q[:, t])
        answers.append(torch.einsum("bhvk,bhk->bhv", moment, x))
    return torch.stack(answers, 1)


def slow_steps(q: Tensor, k: Tensor, v: Tensor, gates: Mapping[str, Tensor], initial: Mapping[str, Tensor]) -> Tensor:
    """Several delta steps a token, one after another."""
    w = initial["state_0"].expand(q.shape[0], -1, -1, -1)
    if SHIFTED:
        v = v - k
    answers = []
    for t in range(q.shape[1]):
        if READ_FIRST:
            answers.append(torch.einsum("bhvk,bhk->bhv", w, q[:, t]))
        if GATE == "scalar":
            w = gates["log_alpha"][:, t].exp()[..., None, None] * w
        if GATE == "channel":
            w = gates["log_alpha"][:, t].exp()[..., None, :] * w
        if GATE == "row":
            w = gates["log_alpha"][:, t].exp()[..., None] * w
        if GATE == "outer":
            kept = gates["log_alpha"][:, t].exp()
            w = kept[..., q.shape[-1] :, None] * w * kept[..., None, : q.shape[-1]]
        for j in range(STEPS):
            r = gates["eta"][:, t, :, j, None] * (torch.einsum("bhvk,bhk->bhv", w, k[:, t, :, j]) - v[:, t, :, j])
            if ASCENT:
                r = -r
            w = w - torch.einsum("bhv,bhk->bhvk", r, k[:, t, :, j])
        if not READ_FIRST:
            answers.append(torch.einsum("bhvk,bhk->bhv", w, q[:, t]))
    return torch.stack(answers, 1)


def slow_cache(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax attention, query by query."""
    answers = []
    for t in range(q.shape[1]):
        past = slice(max(0, t + 1 - WINDOW) if WINDOW > 0 else 0, t + 1)
        weight = torch.einsum("bhd,bshd->bsh", q[:, t], k[:, past]).mul(q.shape[-1] ** -0.5).softmax(1)
        answers.append(torch.einsum("bsh,bshd->bhd", weight, v[:, past]))
    return torch.stack(answers, 1)


def check_inputs(
    batch: int, time: int, heads: int, dim: int
) -> tuple[list[Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """Random q, k, v, gates and initial values in float64, all with gradients."""
    torch.manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64)

    shape, keys = (batch, time, heads), key_size(dim)
    several = [STEPS] if STEPS > 1 else []
    q = torch.nn.functional.normalize(draw(*shape, keys), dim=-1)
    k = torch.nn.functional.normalize(draw(*shape, *several, keys), dim=-1)
    gates = {
        "eta": 0.3 * draw(*shape, *several).sigmoid(),
        "delta": draw(*shape).exp(),
        "erase": 0.3 * draw(*shape, *([keys] if ERASE_CHANNELS else [])).sigmoid(),
    }
    wide = {"channel": [keys], "row": [dim], "outer": [keys + dim]}.get(GATE, [])
    gates["gamma"] = draw(*shape).sigmoid()
    gates["log_mu"] = torch.nn.functional.logsigmoid(draw(*shape))
    gates["log_alpha"] = torch.nn.functional.logsigmoid(2.0 + draw(*shape, *wide))
    initial = {}
    if LEARNED_START:
        initial = {f"state_{i}": retention_initial(draw(heads, *s)) for i, s in enumerate(weight_shapes(dim))}
    else:
        initial = {f"state_{i}": 0.1 * draw(heads, *s) for i, s in enumerate(weight_shapes(dim))}
    if NORM:
        initial |= {"norm_weight": 1.0 + 0.1 * draw(heads, dim), "norm_bias": 0.1 * draw(heads, dim)}
    wanted = {
        "eta": True,
        "delta": "delta" in gates,
        "erase": DECOUPLED,
        "log_mu": MOMENTUM,
        "gamma": SPAN > 1,
        "log_alpha": GATE != "none",
    }
    gates = {name: gate.requires_grad_() for name, gate in gates.items() if wanted[name]}
    if LEAST_SQUARES:
        initial["ridge"] = 0.5 + draw(heads, keys).exp()
    inputs = [x.detach().requires_grad_() for x in (q, k, draw(*shape, *several, dim))]
    return inputs, gates, {name: x.detach().requires_grad_() for name, x in initial.items()}


def deviation(a: Tensor, b: Tensor) -> float:
    """Largest difference, relative to the largest value."""
    return float((a - b).detach().abs().max() / b.detach().abs().max().clamp_min(1e-30))


def self_check() -> bool:
    """Outputs and every gradient against the loop; prefill + steps against the whole; prints what it found."""
    (q, k, v), gates, initial = check_inputs(2, 2 * CHUNK + 5, 2, 8)
    if CACHE:
        fast, _ = memory_cache(q, k, v, {}, {})
        slow = slow_cache(q, k, v)
        leaves = {"q": q, "k": k, "v": v}
    else:
        fast, _ = memory(q, k, v, gates, initial)
        if LEAST_SQUARES:
            slow = slow_least_squares(q, k, v, gates, initial)
        elif STEPS > 1:
            slow = slow_steps(q, k, v, gates, initial)
        else:
            slow = slow_memory(q, k, v, gates, initial)
        leaves = {"q": q, "k": k, "v": v, **gates, **initial}
    found = {"y": deviation(fast, slow)}
    weight = torch.randn(fast.shape, dtype=fast.dtype)
    a = torch.autograd.grad((fast * weight).sum(), list(leaves.values()), allow_unused=True)
    b = torch.autograd.grad((slow * weight).sum(), list(leaves.values()), allow_unused=True)
    # A gradient that is zero but for rounding in both is no deviation.
    floor = 1e-12 * max(float(y.abs().max()) for y in b if y is not None)
    for name, x, y in zip(leaves, a, b, strict=True):
        sizes = [0.0 if g is None else float(g.abs().max()) for g in (x, y)]
        if min(sizes) > floor:
            found[f"d{name}"] = deviation(x, y)
        elif max(sizes) > floor:
            found[f"d{name}"] = float("inf")
    layer = Layer(32, 2).double()
    x = torch.randn(2, CHUNK + 7, 32, dtype=torch.float64)
    with torch.no_grad():
        whole, _ = layer(x)
        parts, state = layer(x[:, : CHUNK + 3])
        outputs = [parts]
        for t in range(CHUNK + 3, CHUNK + 7):
            y, state = layer(x[:, t : t + 1], state)
            outputs.append(y)
    found["prefill + step"] = deviation(torch.cat(outputs, 1), whole)
    for name, value in found.items():
        print(f"{name:16s} {value:.1e}")
    passed = all(value < 1e-9 for value in found.values())
    print("ok: the fast path equals the loop" if passed else "FAILED: a deviation is above 1e-9")
    return passed
