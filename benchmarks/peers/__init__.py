"""Implementations by others' formulas, to be raced against; see `benchmarks/cpu.py`."""
