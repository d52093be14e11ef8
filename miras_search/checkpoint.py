"""The checkpoint of a trial: one atomic file.

    checkpoint.safetensors   tensors, and in its header the JSON of everything else: one rename, so never half of it
    checkpoint.json          the same JSON, for people and for tools that read no tensors; never read back

Tensors are named `model.NAME`, `optimiser.SLOT.NAME` and `random.DEVICE`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from miras_search import disk

if TYPE_CHECKING:
    import torch
    from torch import nn
    from torch.optim import Optimizer

WEIGHTS, READABLE = FILES = "checkpoint.safetensors", "checkpoint.json"


class Checkpoint(NamedTuple):
    """What was saved: `tensors` by name; `meta`: step, tokens, rungs, data cursor, candidate, task, seed, vocab."""

    tensors: dict[str, torch.Tensor]
    meta: dict[str, Any]

    def model(self) -> dict[str, torch.Tensor]:
        """Weights and buffers by their names in the model; a tensor used twice is there once."""
        return {name.removeprefix("model."): t for name, t in self.tensors.items() if name.startswith("model.")}


def write(folder: Path, tensors: dict[str, torch.Tensor], meta: dict[str, Any]) -> None:
    """Replace the checkpoint of `folder` in one step; a kill leaves the old one or the new one."""
    from safetensors.torch import save

    text = json.dumps(meta, sort_keys=True)
    folder.mkdir(parents=True, exist_ok=True)
    plain = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    disk.replace(folder / WEIGHTS, save(plain, {"miras_search": text}))
    disk.replace(folder / READABLE, text)


def read(folder: Path, device: str = "cpu") -> Checkpoint | None:
    """The checkpoint of `folder`; None if there is none.

    Raises:
        ValueError: if the file is no checkpoint of this package.
    """
    path = folder / WEIGHTS
    if not path.exists():
        return None
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt", device=device) as file:
            meta = json.loads((file.metadata() or {})["miras_search"])
            return Checkpoint({name: file.get_tensor(name) for name in file.keys()}, meta)  # noqa: SIM118 (no mapping)
    except (SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is no checkpoint of miras-search: {error}") from error


def pack(module: nn.Module, optimiser: Optimizer | None) -> dict[str, torch.Tensor]:
    """Tensors of a model and, to train on, those of its optimiser and the state of torch's random numbers."""
    import torch

    tensors = {f"model.{name}": t for name, t in _own(module).items()}
    if optimiser is not None:
        tensors["random.cpu"] = torch.get_rng_state()
        if any(p.is_cuda for p in module.parameters()):
            tensors["random.cuda"] = torch.cuda.get_rng_state()
        for name, p in module.named_parameters():
            for slot, value in optimiser.state.get(p, {}).items():
                tensors[f"optimiser.{slot}.{name}"] = value
    return tensors


def unpack(tensors: dict[str, torch.Tensor], module: nn.Module, optimiser: Optimizer) -> None:
    """Put back what `pack` took; a checkpoint without optimiser leaves that one alone."""
    import torch

    with torch.no_grad():
        for name, t in _own(module).items():
            t.copy_(tensors[f"model.{name}"])
    slots = {name.split(".", 2)[1] for name in tensors if name.startswith("optimiser.")}
    for name, p in module.named_parameters():
        keys = {slot: f"optimiser.{slot}.{name}" for slot in slots}
        if held := {slot: tensors[key] for slot, key in keys.items() if key in tensors}:
            optimiser.state[p] = held
    if "random.cpu" in tensors:
        torch.set_rng_state(tensors["random.cpu"].cpu())
    if "random.cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["random.cuda"].cpu())


def _own(module: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and saved buffers by name, each tensor once (the output shares the embedding's matrix)."""
    seen: set[int] = set()
    own = {}
    for name, tensor in module.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            own[name] = tensor
    return own


def remove(folder: Path) -> None:
    """Forget the checkpoint, if there is one."""
    for name in FILES:
        (folder / name).unlink(missing_ok=True)
