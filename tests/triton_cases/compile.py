"""Cross-compile the kernels of an emitted module, without a GPU.

`compile.py ARCH DIM DTYPE MODULE` runs the module's forward and backward on tensors of the CPU, with launches recorded in
place of run, and compiles each for that architecture as the launch would. Prints JSON, {kernel: {key, registers, stack,
shared}}; `stack` is bytes a thread, where registers spill to.
"""

import ast
import hashlib
import importlib.util
import json
import re
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction, mangle_type

OPTIONS = ("num_warps", "num_stages", "enable_fp_fusion")


def load(path):
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def usage(cubin):
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        text = subprocess.check_output([tool, "--dump-resource-usage", file.name], text=True)
    found = dict(re.findall(r"(REG|STACK|SHARED|LOCAL):(\d+)", text))
    return {"registers": int(found["REG"]), "stack": int(found["STACK"]) + int(found["LOCAL"])}


def launches(module, dim, dtype):
    """What forward and backward of a module would launch: kernel, arguments, options."""
    seen = []

    def record(self, *arguments, grid, warmup, **options):
        seen.append((self, arguments, options))

    design = module.DESIGN
    heads, chunks = 2, 2
    time = chunks * min(64, module.CHUNK)
    q, k, v = (torch.zeros(1, time, heads, dim, dtype=dtype, requires_grad=True) for _ in range(3))
    names = {"eta", "delta", "log_alpha", "log_mu", "erase"}
    gates = {name: torch.zeros(1, time, heads, requires_grad=True) for name in names}
    initial = {}
    for i, (out, inner) in enumerate(module.weight_shapes(dim)):
        initial[f"state_{i}"] = torch.zeros(heads, out, inner, requires_grad=True)
    if design["memory"].get("norm"):
        initial |= {name: torch.zeros(heads, dim, requires_grad=True) for name in ("norm_weight", "norm_bias")}
    run, JITFunction.run = JITFunction.run, record
    try:
        family = next(n for n in ("triton_linear", "triton_dense", "triton_delta") if hasattr(module, n))
        y, _ = getattr(module, family)(q, k, v, gates, initial)
        y.float().sum().backward()
    finally:
        JITFunction.run = run
    return seen


def source_of(kernel, module):
    """The text of a kernel and of all jit functions that it calls."""
    texts, waiting = {}, [kernel.fn.__name__]
    while waiting:
        name = waiting.pop()
        function = getattr(module, name, None)
        if name in texts or not isinstance(function, JITFunction):
            continue
        texts[name] = function.src
        waiting += [n.id for n in ast.walk(ast.parse(textwrap.dedent(function.src))) if isinstance(n, ast.Name)]
    return "\n".join(texts[name] for name in sorted(texts))


def describe(kernel, arguments, options):
    """Signature, constants and attributes, as a launch finds them."""
    signature, constants, attributes = {}, {}, {}
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


def measure(kernel, description, options, arch):
    signature, constants, attributes = description
    source = ASTSource(kernel, signature, constants, attributes)
    chosen = {name: options[name] for name in OPTIONS if name in options}
    compiled = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=chosen)
    return usage(compiled.asm["cubin"]) | {"shared": compiled.metadata.shared}


def keyed(module, dim, dtype, arch):
    """The launches of a module, each with a name and a key for everything that its code depends on."""
    out = []
    for kernel, arguments, options in launches(module, dim, getattr(torch, dtype)):
        description = describe(kernel, arguments, options)
        chosen = [(name, options.get(name)) for name in OPTIONS]
        whole = repr((source_of(kernel, module), [str(x) for x in description], chosen, arch))
        layer = f" {options['IN']} to {options['OUT']}" if "IN" in options else ""
        name = f"{kernel.fn.__name__}{layer}"
        out.append((name, hashlib.sha256(whole.encode()).hexdigest()[:16], kernel, description, options))
    return out


def main(arch, dim, dtype, path):
    module = load(path)
    found = {}
    for name, key, kernel, description, options in keyed(module, int(dim), dtype, int(arch)):
        found[name] = {"key": key} | measure(kernel, description, options, int(arch))
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
