"""Compiled steps of decoding on a CPU: a token's whole way through a memory layer, projections included, as one function.

A step is some hundred small operations whose calls cost more than their work. It is compiled ahead of time and kept on disk,
under the hash of the layer's text, its sizes and this machine; layers of one text share one function, since weights are arguments.
Compiling takes seconds, so that nothing compiles by itself: it pays from some forty thousand tokens on, and at once where
it was done before.
"""

from __future__ import annotations

import hashlib
import inspect
import logging
import platform
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from miras_search import op
from miras_search.errors import DesignError, MirasError

LOG = logging.getLogger(__name__)

INDUCTOR = {"cpp.threads": 1, "realize_opcount_threshold": 4}
"""One thread, since a step is too small for more. An activation is computed once: unless it is stored, a product of one vector
computes it anew for every row of the matrix."""

Run = Callable[[list[Tensor]], list[Tensor]]


class CompiledStep:
    """The forward of a layer, whose single tokens run compiled; every other call goes where it went.

    Single tokens go there as well if they belong to another batch size or dtype, if a document starts among them or rows are
    padded, and where gradients or autocast are wanted.

    Attributes:
        path: the compiled function on disk.
        seconds: what compiling took, 0 if it was found there.
        compiled: calls that ran compiled.
        plain: calls that did not.
    """

    def __init__(self, layer: Any, batch: int) -> None:
        self.module = sys.modules[type(layer).__module__]
        if not hasattr(self.module, "memory_step"):
            raise DesignError(
                f"steps of {self.module.NAME} cannot be compiled",
                hint="caches, least squares, windows and several writes a token have no single step; decode without it",
            )
        weights = [*layer.named_parameters(), *layer.named_buffers()]
        found = sorted({t.device.type for _, t in weights})
        if found != ["cpu"]:
            raise MirasError(f"steps are compiled for a CPU, and the layer is on {', '.join(found)}")
        self.forward, self.names = layer.forward, self.module.state_names()
        # Looked up at every call, since a weight may be replaced.
        self.places = [_place(layer, name) for name, _ in weights]
        self.example = torch.zeros(batch, 1, layer.width, dtype=layer.out.weight.dtype)
        with torch.no_grad():
            state = self.forward(self.example.expand(-1, 2, -1))[1]
        self.kept = [name for name in state if name != "position"]
        self.compiled = self.plain = 0
        given = [*(w.detach() for _, w in weights), self.example, *(state[n].contiguous() for n in self.kept)]
        step = _Traced(layer, [n for n, _ in weights], self.kept)
        with torch.no_grad():
            self.moved = step.moved(given)
        self.path, self.seconds = _compiled(step, given, self.module)
        self.run: Run = torch._inductor.aoti_load_package(str(self.path)).loader.boxed_run

    def __call__(
        self,
        x: Tensor,
        state: dict[str, Tensor] | None = None,
        reset: Tensor | None = None,
        valid: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """As the layer's forward."""
        fits = x.shape == self.example.shape and x.dtype == self.example.dtype and not torch.is_autocast_enabled("cpu")
        if not fits or not self.module.steps_alone(1, state, reset, valid):
            self.plain += 1
            y, after = self.forward(x, state, reset, valid)
            return y, after
        assert state is not None
        self.compiled += 1
        out = dict(state)
        if "position" in state:
            out |= zip(self.names, self.module.begun([state[n] for n in self.names], state["position"]), strict=True)
            out["position"] = torch.remainder(state["position"] + 1, self.module.CHUNK)
        given = [*(weights[name] for weights, name in self.places), x, *(out[n] for n in self.kept)]
        y, *new = self.run([t.contiguous() for t in given])
        out |= zip(self.moved, new, strict=True)
        return y, out


class _Traced(nn.Module):
    """A step with everything as arguments, weights included; returns the answer and what it changed of the state."""

    def __init__(self, layer: nn.Module, weights: list[str], kept: list[str]) -> None:
        super().__init__()
        self.layer = [layer]  # in a list, it is no submodule: its weights are arguments
        self.weights, self.kept = weights, kept

    def after(self, given: list[Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The layer's answer and state; the chunk has begun, so that the state has no position."""
        count = len(self.weights)
        weights = dict(zip(self.weights, given[:count], strict=True))
        state = dict(zip(self.kept, given[count + 1 :], strict=True))
        y, out = torch.func.functional_call(self.layer[0], weights, (given[count], state))
        return y, out

    def moved(self, given: list[Tensor]) -> list[str]:
        """Names of what a step changes."""
        before = dict(zip(self.kept, given[len(self.weights) + 1 :], strict=True))
        return [name for name, x in self.after(given)[1].items() if x is not before[name]]

    def forward(self, given: list[Tensor]) -> list[Tensor]:
        """Trace this."""
        before = dict(zip(self.kept, given[len(self.weights) + 1 :], strict=True))
        y, out = self.after(given)
        return [y, *(x for name, x in out.items() if x is not before[name])]


def compile_steps(model: nn.Module, batch: int = 1) -> list[CompiledStep]:
    """Let every memory layer of a model (or a layer) decode by a compiled step; in place, once it is on its device and of its dtype.

    Args:
        model: a layer of `miras_search.layer`, an `LM`, an exported model.
        batch: rows that are decoded together.

    Returns:
        One a layer.

    Raises:
        DesignError: if a layer has no such step, or there is no layer.
        MirasError: if the model is not on a CPU, or there is no C++ compiler.
    """
    layers = [m for m in model.modules() if type(m).__name__ == "Layer" and _emitted(type(m))]
    if not layers:
        raise DesignError("the model has no memory layer", hint="give a model of miras-search, or one of its layers")
    steps = [CompiledStep(layer, batch) for layer in layers]
    for layer, step in zip(layers, steps, strict=True):
        layer.forward = step
    return steps


def _emitted(kind: type) -> bool:
    return hasattr(sys.modules[kind.__module__], "FINGERPRINT")


def _place(layer: nn.Module, name: str) -> tuple[dict[str, Any], str]:
    """Where a module keeps a weight."""
    owner, _, last = name.rpartition(".")
    module = layer.get_submodule(owner)
    return (module._parameters if last in module._parameters else module._buffers), last


def _compiled(step: _Traced, given: list[Tensor], module: ModuleType) -> tuple[Path, float]:
    """The compiled function on disk, and the seconds of compiling it."""
    path = op.cache_folder() / "steps" / f"{_key(given, module)}.pt2"
    if path.exists():
        return path, 0.0
    LOG.warning("compiling a step of %s; it is kept in %s", module.NAME, path)
    start = time.perf_counter()
    path.parent.mkdir(parents=True, exist_ok=True)
    with torch.no_grad(), tempfile.TemporaryDirectory(dir=path.parent) as place, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's compiler warns of its own code
        program = torch.export.export(step, (given,), strict=False)
        try:
            made = torch._inductor.aoti_compile_and_package(
                program, package_path=str(Path(place) / path.name), inductor_configs=dict(INDUCTOR)
            )
        except RuntimeError as error:
            raise MirasError(
                f"a step of {module.NAME} could not be compiled: {str(error).strip().splitlines()[0]}",
                hint="install a C++ compiler (g++), or decode without compile_steps",
            ) from error
        Path(made).replace(path)
    return path, time.perf_counter() - start


def _key(given: list[Tensor], module: ModuleType) -> str:
    """What a compiled function depends on."""
    parts = [inspect.getsource(module), torch.__version__, platform.machine(), torch.backends.cpu.get_cpu_capability()]
    parts += [f"{tuple(t.shape)} {t.stride()} {t.dtype}" for t in given] + [str(INDUCTOR)]
    cpu = Path("/proc/cpuinfo")
    if cpu.exists():
        parts.append(next((line for line in cpu.read_text().splitlines() if line.startswith("flags")), ""))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:24]
