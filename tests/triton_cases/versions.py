"""Golden modules under several versions of Triton: `versions.py [VERSION...]`, by default those that the docs name.

Each version is installed into a folder of its own, without its dependencies, and put before the environment's; then the files check
themselves, the torch path in float64 and the kernels in Triton's interpreter. A line a file; exit 1 if any fails. Needs
a package index.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

KERNELS = Path(__file__).parents[2] / "kernels"
FILES = ("linear_attention", "gated_deltanet", "rwkv7", "yaad", "moneta")
BESIDE = {"3.6.0": ("numpy<2.4",), "3.7.1": (), "3.9.0": ()}
"""Versions, and what each wants beside it: the interpreter of 3.6.0 makes numbers of arrays as NumPy did before 2.4."""


def install(version, folder):
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", folder]
    subprocess.run([*command, f"triton=={version}", *BESIDE.get(version, ())], check=True)


def main(*versions):
    failed = False
    for version in versions or BESIDE:
        with tempfile.TemporaryDirectory() as folder:
            install(version, folder)
            for name in FILES:
                start = time.monotonic()
                done = subprocess.run(
                    [sys.executable, KERNELS / f"{name}.py"],
                    env={**os.environ, "PYTHONPATH": folder, "TRITON_INTERPRET": "1"},
                    capture_output=True,
                    text=True,
                    check=False,
                )
                failed |= done.returncode != 0
                said = done.stderr if done.returncode and done.stderr else done.stdout
                last = (said.strip().splitlines() or ["nothing said"])[-1]
                print(f"triton {version}, {name}: {last} ({time.monotonic() - start:.0f} s)", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
