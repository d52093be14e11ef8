"""A trust card: what a design's emitted module computes on this machine, beside the definition of the design.

At random inputs, rounded to the dtype of a run: outputs, final state and the gradient of every input, each against `reference` in
float64 at the same inputs, with the path that ran and why; how ill-conditioned each tensor is; and what Triton's
compiler made of the kernels. Without a GPU the kernels run in Triton's interpreter, in a process of its own.

python -m miras_search.trust FOLDER    that process: runs `emitted.py` on `inputs.pt`, leaves `outcome.pt`
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from miras_search import named, op, reference
from miras_search.codegen import compiled
from miras_search.codegen.emit import emit, source_hash
from miras_search.codegen.triton_dialect import why_no_kernels
from miras_search.design import Design

EXACT = 1e-9
"""Allowed in float64: the same function, summed in another order."""
FACTOR, FLOOR = 4.0, 2e-6
"""Allowed in float32: so many times the worst error of the reference's own loop in float32, and some ten roundings."""
INTERPRETER = "Triton's interpreter"

Leaves = dict[str, Tensor]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Run(_Frozen):
    """One evaluation; errors are relative to the reference in float64 at the same inputs, in the 2-norm."""

    where: str
    """A device, or `INTERPRETER`."""
    dtype: str
    """Of q, k and v; gates and state are float32 where this is shorter."""
    path: str
    """`triton` or `torch`."""
    why: str
    """Why not Triton."""
    errors: dict[str, float]
    """By tensor: `y`, final states, and `dX` the gradient of X."""
    allowed: float | None
    """The largest error that passes; None: reported, and judged by training."""

    @property
    def ok(self) -> bool:
        """No error is above what is allowed, and there are some."""
        return bool(self.errors) and all(x <= (self.allowed or float("inf")) for x in self.errors.values())


class Kernel(_Frozen):
    """A kernel at head dimension 64 in bfloat16: by Triton's version registers, stack (bytes a thread, spills) and shared memory."""

    kernel: str
    arch: int
    found: dict[str, dict[str, int]]
    """Empty: this text is not in the table of compiled kernels."""


class Card(_Frozen):
    """What was found of a design."""

    name: str
    fingerprint: str
    structure: str
    source: str
    """Hash of the emitted text."""
    design: dict[str, Any]
    shape: dict[str, int]
    versions: dict[str, str]
    runs: list[Run]
    float32: dict[str, float]
    """Errors of the reference's own loop in float32."""
    condition: dict[str, float]
    """Relative change of a tensor when the inputs are rounded to float32, over the relative change of the inputs."""
    kernels: list[Kernel]
    no_kernels: str
    """Why the design has none."""

    @property
    def ok(self) -> bool:
        """Every run passed."""
        return all(run.ok for run in self.runs)

    def text(self) -> str:
        """For people."""
        heads = [f"{r.path} {r.dtype}" + (" (interpreter)" if r.where == INTERPRETER else "") for r in self.runs]
        rows = [("error, relative to float64", *heads, "loop float32", "condition")]
        for name, condition in self.condition.items():
            errors = [f"{r.errors[name]:.0e}" if name in r.errors else "none" for r in self.runs]
            rows.append((name, *errors, f"{self.float32[name]:.0e}", f"{condition:.2g}"))
        rows.append(("allowed", *("" if r.allowed is None else f"{r.allowed:.0e}" for r in self.runs), "", ""))
        rows.append(("", *("" if r.allowed is None else "ok" if r.ok else "FAILED" for r in self.runs), "", ""))
        shape = ", ".join(f"{name} {size}" for name, size in self.shape.items())
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        lines = [f"{self.name} ({self.fingerprint}), {versions}; {shape}", "", *_columns(rows), ""]
        for r in self.runs:
            lines.append(f"{r.dtype} on {r.where}: {r.path}" + (f", since {r.why}" if r.why else ""))
        if self.no_kernels:
            lines.append(f"no kernels: {self.no_kernels}")
        if self.kernels:
            lines += ["", *_columns(self._usage())]
        return "\n".join(lines) + "\n"

    def _usage(self) -> list[tuple[str, ...]]:
        heads = ("kernel (head dimension 64, bfloat16)", "for", "triton", "registers", "spilled bytes", "shared bytes")
        rows: list[tuple[str, ...]] = [heads]
        for k in self.kernels:
            # This version's numbers, or the newest there are.
            version = self.versions["triton"]
            if version not in k.found:
                version = max(k.found, default="", key=lambda v: [int(x) for x in v.split(".")])
            usage = k.found.get(version)
            numbers = [str(usage[n]) for n in ("registers", "stack", "shared")] if usage else ["not compiled"]
            rows.append((k.kernel, f"sm_{k.arch}", version, *numbers))
        return rows


def verify(design: Design, source: str = "") -> Card:
    """Measure the module of a design.

    Args:
        design: what it claims to be.
        source: the emitted text; default: what `emit` makes of the design.
    """
    design = design.canonical()
    source = source or emit(design)
    module = op.import_module(op.write_module(source))
    gpu, interpreted = torch.cuda.is_available(), os.environ.get("TRITON_INTERPRET") == "1"
    device = "cuda" if gpu else "cpu"
    shape = {"batch": 1, "time": module.CHUNK + 5, "heads": 1, "dim": 16}
    if gpu:
        shape = {"batch": 2, "time": 2 * module.CHUNK + 5, "heads": 2, "dim": 64}
    leaves, gates = _inputs(module, shape)

    def definition(*given: Any) -> tuple[Tensor, dict[str, Tensor]]:
        q, k, v, found, initial = given
        return reference.run(design, q, k, v, found, initial=initial)

    def exact(given: Leaves) -> Leaves:
        return _outcome(definition, {n: x.double() for n, x in given.items()}, gates)

    single = _rounded(leaves, torch.float32)
    wanted, exactly = exact(single), exact(leaves)
    own = _errors(_outcome(definition, single, gates), wanted)
    moved = _norm(leaves[n] - single[n].double() for n in leaves) / _norm(leaves.values())
    condition = {n: error / moved for n, error in _errors(wanted, exactly).items()}
    allowed = FACTOR * max(own.values()) + FLOOR

    runs = []
    for dtype, limit in ((torch.float64, EXACT), (torch.float32, allowed), (torch.bfloat16, None)):
        given = _rounded(leaves, dtype)
        against = exactly if dtype == torch.float64 else wanted if dtype == torch.float32 else exact(given)
        found, path, why = _run(module, {n: x.to(device) for n, x in given.items()}, gates)
        where = torch.cuda.get_device_name() if gpu else INTERPRETER if path == "triton" else "cpu"
        errors = _errors(found, against)
        runs.append(Run(where=where, dtype=_word(dtype), path=path, why=why, errors=errors, allowed=limit))
    triton = getattr(module, "triton", None)
    if triton is not None and not gpu and not interpreted:
        runs.append(_interpreted(source, single, gates, wanted, allowed))
    return Card(
        name=named.label(design) or design.fingerprint,
        fingerprint=design.fingerprint,
        structure=design.structure,
        source=source_hash(source),
        design=design.model_dump(mode="json"),
        shape=shape,
        versions={"torch": torch.__version__, "triton": "none" if triton is None else triton.__version__},
        runs=runs,
        float32=own,
        condition=condition,
        kernels=_kernels(module) if triton is not None and not interpreted else [],
        no_kernels=why_no_kernels(design),
    )


def _inputs(module: ModuleType, shape: Mapping[str, int]) -> tuple[Leaves, list[str]]:
    """What the module's self-check draws, in float64, and which of them are gates."""
    with torch.random.fork_rng():
        tokens, gates, initial = module.check_inputs(*shape.values())
    # Below the step at which the recurrence is chaotic and would amplify rounding by itself.
    gates["eta"] = 0.3 * gates["eta"]
    named_tokens = dict(zip(("q", "k", "v"), tokens, strict=True))
    return {name: x.detach() for name, x in (named_tokens | gates | initial).items()}, list(gates)


def _rounded(leaves: Leaves, dtype: torch.dtype) -> Leaves:
    """The inputs in a dtype; of half precision only the tokens, as in training."""
    rest = torch.promote_types(dtype, torch.float32)
    return {n: x.to(dtype if n in ("q", "k", "v") else rest) for n, x in leaves.items()}


def _outcome(run: Callable[..., tuple[Tensor, Mapping[str, Tensor]]], leaves: Leaves, gates: list[str]) -> Leaves:
    """Answers, final state, and the gradients of a function of them all, on the CPU."""
    leaves = {n: x.detach().requires_grad_() for n, x in leaves.items()}
    tokens = [leaves[n] for n in ("q", "k", "v")]
    initial = {n: x for n, x in leaves.items() if n not in ("q", "k", "v", *gates)}
    y, state = run(*tokens, {n: leaves[n] for n in gates}, initial)
    found = {"y": y} | {n: x for n, x in state.items() if n.startswith(("state", "momentum"))}
    total = torch.zeros((), dtype=torch.float64, device=y.device)
    for x in found.values():
        weight = torch.linspace(-1.0, 2.0, x.numel(), dtype=torch.float64, device=x.device).view(x.shape).cos()
        total = total + (x.double() * weight).sum()
    grads = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
    found |= {f"d{name}": g for name, g in zip(leaves, grads, strict=True) if g is not None}
    return {n: x.detach().cpu() for n, x in found.items()}


def _norm(parts: Iterable[Tensor]) -> float:
    return math.sqrt(sum(float(x.double().square().sum()) for x in parts))


def _errors(found: Leaves, exact: Leaves) -> dict[str, float]:
    """Relative, in the 2-norm; a gradient below 1e-6 of the largest is held to that: it is zero but for rounding."""
    floor = 1e-6 * max(_norm([x]) for n, x in exact.items() if n.startswith("d"))
    out = {}
    for n in [*exact, *(n for n in found if n not in exact)]:
        # What one of the two does not depend on has a gradient of zero.
        x, y = (side.get(n, torch.zeros(())).double() for side in (exact, found))
        out[n] = _norm([y - x]) / max(_norm([x]), floor if n.startswith("d") else 0.0, 1e-30)
    return out


def _run(module: ModuleType, leaves: Leaves, gates: list[str]) -> tuple[Leaves, str, str]:
    """The module's outcome, the path that it took, and why not Triton."""
    paths: dict[str, int] = getattr(module, "PATHS", {})
    before = dict(paths)
    parametric = hasattr(module, "memory")
    found = _outcome(module.memory if parametric else module.memory_cache, leaves, gates if parametric else [])
    taken = [path for path, count in paths.items() if count > before.get(path, 0)]
    if taken == ["triton"]:
        return found, "triton", ""
    return found, "torch", "; ".join(taken) or "the design has no kernels"


def _interpreted(source: str, leaves: Leaves, gates: list[str], exact: Leaves, allowed: float) -> Run:
    """The kernels in Triton's interpreter: that is chosen when Triton is imported, hence another process."""
    about = {"where": INTERPRETER, "dtype": "float32", "allowed": allowed}
    with tempfile.TemporaryDirectory(prefix="miras-search-") as name:
        folder = Path(name)
        (folder / "emitted.py").write_text(source, encoding="utf-8")
        torch.save((leaves, gates), folder / "inputs.pt")
        command = [sys.executable, "-m", "miras_search.trust", name]
        environment = {**os.environ, "TRITON_INTERPRET": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["it ended without a word"])[-1]
            return Run(path="none", why=f"it failed: {last}", errors={}, **about)
        found, path, why = torch.load(folder / "outcome.pt")
    # In the interpreter the torch path shows nothing new.
    errors = _errors(found, exact) if path == "triton" else {}
    return Run(path=path, why=why, errors=errors, **about)


def _child(folder: Path) -> None:
    """The other process."""
    leaves, gates = torch.load(folder / "inputs.pt")
    torch.save(_run(op.import_module(folder / "emitted.py"), leaves, gates), folder / "outcome.pt")


def _kernels(module: ModuleType) -> list[Kernel]:
    """What the table has of the module's kernels."""
    table, out = compiled.table(), {}
    for arch in compiled.ARCHITECTURES:
        for launch in compiled.launches(module, arch):
            found = table.get(launch.key, {}).get("found", {})
            out[launch.key] = Kernel(kernel=launch.name, arch=arch, found=found)
    return list(out.values())


def _word(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _columns(rows: list[tuple[str, ...]]) -> list[str]:
    """Aligned: the first column to the left, the others to the right."""
    sizes = [max(len(row[i]) for row in rows if i < len(row)) for i in range(len(rows[0]))]
    return [
        "  ".join([row[0].ljust(sizes[0]), *(x.rjust(n) for x, n in zip(row[1:], sizes[1:], strict=False))]).rstrip()
        for row in rows
    ]


if __name__ == "__main__":
    _child(Path(sys.argv[1]))
