"""The table of compiled kernels, `tests/triton_compiled.json`: what the compiler made of every distinct kernel.

python tests/triton_cases/table.py            compile what is not in the table for this version of Triton; drop what no design has
python tests/triton_cases/table.py --list     print the keys of all designs as JSON, compile nothing

An entry is a kernel at head dimension 64 in bfloat16 for one architecture, under the hash of all that its code depends on:
its text and that of what it calls, signature, constants, options. Designs whose kernels have one text share it.
"""

import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import triton
from compile import keyed, load, measure
from designs import DESIGNS

from miras_search.codegen.emit import emit

TABLE = Path(__file__).parents[1] / "triton_compiled.json"
ARCHITECTURES = (90, 80)


def entries(folder):
    """Of every design, architecture and launch: design, architecture, and what `keyed` says of the launch."""
    for name, chosen in DESIGNS.items():
        path = Path(folder) / f"{chosen.fingerprint}.py"
        path.write_text(emit(chosen))
        module = load(path)
        for arch in ARCHITECTURES:
            for launch in keyed(module, 64, "bfloat16", arch):
                yield name, arch, launch


def main(*arguments):
    old = json.loads(TABLE.read_text()) if TABLE.exists() else {}
    table = {}
    with tempfile.TemporaryDirectory() as folder:
        for design, arch, (name, key, kernel, description, options) in entries(folder):
            if key not in table:
                table[key] = {
                    "kernel": name,
                    "design": design,
                    "arch": arch,
                    "found": old.get(key, {}).get("found", {}),
                }
            found = table[key]["found"]
            if "--list" not in arguments and triton.__version__ not in found:
                found[triton.__version__] = measure(kernel, description, options, arch)
                print(design, arch, name, found[triton.__version__], flush=True)
    if "--list" in arguments:
        print(json.dumps({key: {n: entry[n] for n in ("kernel", "design", "arch")} for key, entry in table.items()}))
        return
    ordered = sorted(table.items(), key=lambda item: (item[1]["kernel"], item[1]["arch"], item[1]["design"], item[0]))
    lines = [f"{json.dumps(key)}: {json.dumps(entry)}" for key, entry in ordered]
    TABLE.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
