"""What Triton's compiler makes of an emitted module's kernels, without a GPU.

Forward, backward and a step run on tensors of the CPU with launches recorded in place of run, and every launch is compiled as it
would be. `compiled.json` keeps the outcome of the published designs' kernels at head dimension 64 in bfloat16, under the
hash of all that a kernel's code depends on; `tests/triton_cases/table.py` writes it.
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
import subprocess
import tempfile
import textwrap
from functools import cache
from importlib import resources
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch

OPTIONS = ("num_warps", "num_stages", "enable_fp_fusion")
"""What a launch may say to the compiler."""
DIM, DTYPE = 64, torch.bfloat16
"""At which the table's kernels are compiled."""
ARCHITECTURES = (90, 80)
GATES = ("eta", "delta", "log_alpha", "log_mu", "erase")


class Launch(NamedTuple):
    """A kernel as a module launches it; `key` names everything that its code depends on."""

    name: str
    key: str
    kernel: Any
    description: tuple[dict[str, Any], dict[Any, Any], dict[Any, Any]]
    options: dict[str, Any]
    arch: int

    def measure(self) -> dict[str, int]:
        """Compile it: registers a thread, stack in bytes a thread (where registers spill to), shared memory in bytes."""
        import triton
        from triton.backends.compiler import GPUTarget
        from triton.compiler import ASTSource

        source = ASTSource(self.kernel, *self.description)
        chosen = {name: self.options[name] for name in OPTIONS if name in self.options}
        compiled = triton.compile(source, target=GPUTarget("cuda", self.arch, 32), options=chosen)
        return _usage(compiled.asm["cubin"]) | {"shared": int(compiled.metadata.shared)}


@cache
def table() -> dict[str, dict[str, Any]]:
    """Key of a launch -> `kernel`, `design`, `arch`, and by Triton's version what `Launch.measure` found."""
    text = resources.files("miras_search.codegen").joinpath("compiled.json").read_text(encoding="utf-8")
    found: dict[str, dict[str, Any]] = json.loads(text)
    return found


def launches(module: ModuleType, arch: int) -> list[Launch]:
    """What forward, backward and a step of an emitted module with kernels would launch; not in Triton's interpreter."""
    out = []
    for kernel, arguments, options in _recorded(module, arch):
        description = _describe(kernel, arguments, options)
        chosen = [(name, options.get(name)) for name in OPTIONS]
        whole = repr((_source(kernel, module), [str(x) for x in description], chosen, arch))
        layer = f" {options['IN']} to {options['OUT']}" if "IN" in options else ""
        key = hashlib.sha256(whole.encode()).hexdigest()[:16]
        out.append(Launch(f"{kernel.fn.__name__}{layer}", key, kernel, description, options, arch))
    return out


def _recorded(module: ModuleType, arch: int) -> list[tuple[Any, tuple[Any, ...], dict[str, Any]]]:
    """Kernel, arguments and options of every launch."""
    from triton.runtime.jit import JITFunction

    seen: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = []

    def record(self: Any, *arguments: Any, grid: Any, warmup: bool, **options: Any) -> None:
        seen.append((self, arguments, options))

    heads, time = 2, 128
    q, k, v = (torch.zeros(1, time, heads, DIM, dtype=DTYPE, requires_grad=True) for _ in range(3))
    channels = {"channel": [DIM], "row": [DIM], "outer": [2 * DIM]}
    kinds = {"log_alpha": module.DESIGN["retention"].get("gate"), "erase": module.DESIGN["algorithm"].get("strengths")}
    gates = {
        name: torch.zeros(1, time, heads, *channels.get(kinds.get(name, ""), []), requires_grad=True) for name in GATES
    }
    initial = {
        f"state_{i}": torch.zeros(heads, out, inner, requires_grad=True)
        for i, (out, inner) in enumerate(module.weight_shapes(DIM))
    }
    if module.DESIGN["memory"].get("norm"):
        initial |= {name: torch.zeros(heads, DIM, requires_grad=True) for name in ("norm_weight", "norm_bias")}
    family = next(n for n in ("triton_linear", "triton_dense", "triton_delta", "triton_channels") if hasattr(module, n))
    major: Any = getattr(module, "device_major", None)
    run, JITFunction.run = JITFunction.run, record
    vars(module)["device_major"] = lambda _: arch // 10
    try:
        y, _ = getattr(module, family)(q, k, v, gates, initial)
        y.float().sum().backward()
        with torch.no_grad():
            if module.DESIGN["retention"].get("gate") in ("row", "outer"):
                return seen
            one = {name: x[:, :1] for name, x in gates.items()}
            module.triton_step(q[:, :1], k[:, :1], v[:, :1], one, initial)
    finally:
        JITFunction.run = run
        vars(module)["device_major"] = major
    return seen


def _source(kernel: Any, module: ModuleType) -> str:
    """The text of a kernel and of all jit functions that it calls."""
    texts: dict[str, str] = {}
    waiting = [kernel.fn.__name__]
    while waiting:
        name = waiting.pop()
        function = getattr(module, name, None)
        if name in texts or not isinstance(function, type(kernel)):
            continue
        texts[name] = function.src
        waiting += [n.id for n in ast.walk(ast.parse(textwrap.dedent(function.src))) if isinstance(n, ast.Name)]
    return "\n".join(texts[name] for name in sorted(texts))


def _describe(
    kernel: Any, arguments: tuple[Any, ...], options: dict[str, Any]
) -> tuple[dict[str, Any], dict[Any, Any], dict[Any, Any]]:
    """Signature, constants and attributes, as a launch finds them."""
    from triton.runtime.jit import mangle_type

    signature: dict[str, Any] = {}
    constants: dict[Any, Any] = {}
    attributes: dict[Any, Any] = {}
    values = dict(zip(kernel.arg_names, arguments, strict=False)) | {
        n: options[n] for n in kernel.arg_names if n in options
    }
    for i, parameter in enumerate(kernel.params):
        value = values[parameter.name]
        if parameter.is_constexpr:
            signature[parameter.name] = "constexpr"
            constants[(i,)] = value
        elif isinstance(value, tuple):
            signature[parameter.name] = ("fp32",) * len(value)
        elif isinstance(value, torch.Tensor):
            signature[parameter.name] = mangle_type(value)
            attributes[(i,)] = [["tt.divisibility", 16]]
        else:
            signature[parameter.name] = "i32"
    return signature, constants, attributes


def _usage(cubin: bytes) -> dict[str, int]:
    """Registers and stack of a binary."""
    import triton

    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        text = subprocess.check_output([tool, "--dump-resource-usage", file.name], text=True)
    found = dict(re.findall(r"(REG|STACK|LOCAL):(\d+)", text))
    return {"registers": int(found["REG"]), "stack": int(found["STACK"]) + int(found["LOCAL"])}
