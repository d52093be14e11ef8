"""Write `miras_search/codegen/compiled.json`: what the compiler made of every distinct kernel.

python tests/triton_cases/table.py [SECONDS]    compile what is not in the table for this version of Triton, within the time given;
                                                drop what no design has; say how many are missing
python tests/triton_cases/table.py --print      print what the table would be as JSON, write nothing

An entry is a kernel for one architecture, under the hash of all that its code depends on: its text and that of what it calls,
signature, constants, options. Designs whose kernels have one text share it. Another version of Triton, put first on PYTHONPATH,
adds its own numbers.
"""

import json
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import triton
from designs import COMPILED, DESIGNS

from miras_search import op
from miras_search.codegen import compiled
from miras_search.codegen.emit import emit


def entries(folder):
    """Of every architecture and design: design, and launch."""
    modules = {}
    for name in dict.fromkeys(COMPILED):
        path = Path(folder) / f"{DESIGNS[name].fingerprint}.py"
        path.write_text(emit(DESIGNS[name]))
        modules[name] = op.import_module(path)
    for arch in compiled.ARCHITECTURES:
        for name in modules:
            for launch in compiled.launches(modules[name], arch):
                yield name, launch


def write(table):
    ordered = sorted(table.items(), key=lambda item: (item[1]["kernel"], item[1]["arch"], item[1]["design"], item[0]))
    lines = [f"{json.dumps(key)}: {json.dumps(entry)}" for key, entry in ordered]
    Path(compiled.__file__).with_suffix(".json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


def main(seconds="inf"):
    old, table, missing = compiled.table(), {}, 0
    shown = seconds == "--print"
    end = time.monotonic() + float("inf" if shown else seconds)
    with tempfile.TemporaryDirectory() as folder:
        for design, launch in entries(folder):
            if launch.key in table:
                continue
            found = old.get(launch.key, {}).get("found", {})
            table[launch.key] = {"kernel": launch.name, "design": design, "arch": launch.arch, "found": found}
            if triton.__version__ in found:
                continue
            if time.monotonic() > end:
                missing += 1
                continue
            found[triton.__version__] = launch.measure()
            if not shown:
                print(f"sm_{launch.arch} {design}, {launch.name}: {found[triton.__version__]}", flush=True)
    if shown:
        print(json.dumps(table))
        return
    write(table)
    print(f"{len(table)} kernels, {missing} of them not compiled with triton {triton.__version__}")


if __name__ == "__main__":
    main(*sys.argv[1:])
