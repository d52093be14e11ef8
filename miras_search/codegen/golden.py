"""The golden modules in `kernels/`: one a named design, compared byte for byte with what the generator emits.

python -m miras_search.codegen.golden            write them
python -m miras_search.codegen.golden --check    list those that differ; exit 1 if any does
"""

from __future__ import annotations

import sys
from pathlib import Path

from miras_search import named
from miras_search.codegen.emit import emit


def golden() -> dict[str, str]:
    """File name -> text, for every named design."""
    return {f"{identifier(name)}.py": emit(entry.design, name) for name, entry in named.NAMED.items()}


def identifier(name: str) -> str:
    """A published name as one of Python's: `transformer++` is `transformer_plus_plus`."""
    return name.replace("-", "_").replace("+", "_plus")


def stale(folder: Path) -> list[str]:
    """Files of the folder that are missing, differ from what the generator emits, or have no design any more."""
    wanted = golden()
    found = {path.name: path.read_text(encoding="utf-8") for path in folder.glob("*.py")}
    return sorted(name for name in {**wanted, **found} if wanted.get(name) != found.get(name))


def main(arguments: list[str]) -> int:
    """Write or check the folder `kernels` of the checkout."""
    folder = Path(__file__).resolve().parents[2] / "kernels"
    old = stale(folder)
    if "--check" in arguments:
        print("\n".join(f"kernels/{name} is not what the generator emits: make kernels" for name in old) or "current")
        return 1 if old else 0
    wanted = golden()
    for name in old:
        if name in wanted:
            (folder / name).write_text(wanted[name], encoding="utf-8")
        else:
            (folder / name).unlink()
        print(f"kernels/{name}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
