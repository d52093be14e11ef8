"""The table of compiled kernels, `tests/triton_compiled.json`: what the compiler made of every distinct kernel.

python tests/triton_cases/table.py [SECONDS]    compile what is not in the table for this version of Triton, within the time given;
                                                drop what no design has; say how many are missing
python tests/triton_cases/table.py --print      print what the table would be as JSON, write nothing

An entry is a kernel at head dimension 64 in bfloat16 for one architecture, under the hash of all that its code depends on:
its text and that of what it calls, signature, constants, options. Designs whose kernels have one text share it.
"""

import json
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import triton
from compile import keyed, load, measure
from designs import DESIGNS, PUBLISHED, QUICK

from miras_search.codegen.emit import emit

TABLE = Path(__file__).parents[1] / "triton_compiled.json"
COMPILED = {90: (*QUICK, *PUBLISHED), 80: ("huber norm", "gated delta rule", "yaad")}
"""Designs by architecture."""


def entries(folder):
    """Of every design, architecture and launch: design, architecture, and what `keyed` says of the launch."""
    modules = {}
    for arch, names in COMPILED.items():
        for name in dict.fromkeys(names):
            if name not in modules:
                path = Path(folder) / f"{DESIGNS[name].fingerprint}.py"
                path.write_text(emit(DESIGNS[name]))
                modules[name] = load(path)
            for launch in keyed(modules[name], 64, "bfloat16", arch):
                yield name, arch, launch


def read():
    return json.loads(TABLE.read_text()) if TABLE.exists() else {}


def write(table):
    ordered = sorted(table.items(), key=lambda item: (item[1]["kernel"], item[1]["arch"], item[1]["design"], item[0]))
    lines = [f"{json.dumps(key)}: {json.dumps(entry)}" for key, entry in ordered]
    TABLE.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def main(seconds="inf"):
    old, table, missing = read(), {}, 0
    shown = seconds == "--print"
    end = time.monotonic() + float("inf" if shown else seconds)
    with tempfile.TemporaryDirectory() as folder:
        for design, arch, (name, key, kernel, description, options) in entries(folder):
            if key not in table:
                found = old.get(key, {}).get("found", {})
                table[key] = {"kernel": name, "design": design, "arch": arch, "found": found}
                if triton.__version__ in found:
                    continue
                if time.monotonic() > end:
                    missing += 1
                    continue
                found[triton.__version__] = measure(kernel, description, options, arch)
                if not shown:
                    print(f"sm_{arch} {design}, {name}: {found[triton.__version__]}", flush=True)
    if shown:
        print(json.dumps(table))
        return
    write(table)
    print(f"{len(table)} kernels, {missing} of them not compiled with triton {triton.__version__}")


if __name__ == "__main__":
    main(*sys.argv[1:])
