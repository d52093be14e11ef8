"""Cross-compile the kernels of an emitted module, without a GPU.

`compile.py MODULE [K V CHUNK DTYPE WARPS ARCH [KERNEL...]]` prints JSON, {kernel: {registers, stack, shared}}; `stack`
is bytes a thread, where registers spill to.
"""

import importlib.util
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

TYPED = {"q", "k", "v", "y", "dy", "dq", "dk", "dv"}
KERNELS = [
    "linear_forward_state",
    "linear_forward_read",
    "linear_backward_read",
    "linear_backward_state",
    "linear_backward_write",
]


def load(path):
    spec = importlib.util.spec_from_file_location("emitted", path)
    module = importlib.util.module_from_spec(spec)
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


def measure(module, name, dim_k, dim_v, chunk, dtype, warps, arch):
    kernel = getattr(module, name)
    rows = max(16, triton.next_power_of_2(chunk))
    constants = {"K": dim_k, "V": dim_v, "SPAN": chunk, "ROWS": rows, "PRECISION": "tf32x3"}
    signature = {}
    for argument in kernel.arg_names:
        if argument in constants:
            signature[argument] = "constexpr"
        elif argument == "numbers":
            signature[argument] = ("fp32",) * len(module.BIAS_NUMBERS)
        elif argument in ("T", "H", "N"):
            signature[argument] = "i32"
        else:
            # The read kernel writes its dk and the gradients of states and gates in float32.
            own = argument in TYPED and not (name == "linear_backward_read" and argument == "dk")
            signature[argument] = f"*{dtype}" if own else "*fp32"
    # What a launch finds out about its arguments: pointers are aligned to 16 bytes.
    pointers = [i for i, a in enumerate(kernel.arg_names) if signature[a][0] == "*"]
    attributes = {(i,): [["tt.divisibility", 16]] for i in pointers}
    source = ASTSource(kernel, signature, {(kernel.arg_names.index(c),): x for c, x in constants.items()}, attributes)
    options = {"num_warps": warps, "num_stages": 1, "enable_fp_fusion": True}
    compiled = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)
    return usage(compiled.asm["cubin"]) | {"shared": compiled.metadata.shared}


def main(path, dim_k="64", dim_v="64", chunk="64", dtype="bf16", warps="4", arch="90", *only):
    module = load(path)
    sizes = [int(dim_k), int(dim_v), int(chunk), dtype, int(warps), int(arch)]
    print(json.dumps({name: measure(module, name, *sizes) for name in only or KERNELS}))


if __name__ == "__main__":
    main(*sys.argv[1:])
