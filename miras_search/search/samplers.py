"""The samplers, by name. Another one is one class in one file, listed in `SAMPLERS`.

`survey` is for what matters; the others are for what is best. Those that look at results are `adaptive`.
"""

from __future__ import annotations

import difflib

from miras_search.errors import SpaceError
from miras_search.search.chance import GridSampler, RandomSampler
from miras_search.search.draws import FAULTLESS, Ask, Dice, Draw, Sampler, enumerate_space, inside
from miras_search.search.evolution import EvolutionSampler
from miras_search.search.nsga2 import Nsga2Sampler
from miras_search.search.survey import SurveySampler
from miras_search.search.tpe import TpeSampler, locate

__all__ = [
    "FAULTLESS",
    "SAMPLERS",
    "Ask",
    "Dice",
    "Draw",
    "RandomSampler",
    "Sampler",
    "enumerate_space",
    "get",
    "inside",
    "locate",
]

SAMPLERS: dict[str, Sampler] = {
    sampler.name: sampler
    for sampler in (RandomSampler(), GridSampler(), SurveySampler(), TpeSampler(), EvolutionSampler(), Nsga2Sampler())
}
"""By the word in YAML (`search: {sampler: tpe}`)."""


def get(name: str) -> Sampler:
    """A sampler of that name, which keeps for itself what it has counted.

    Raises:
        SpaceError: if there is none; says which is nearest.
    """
    if name in SAMPLERS:
        return type(SAMPLERS[name])()
    near = difflib.get_close_matches(name, SAMPLERS, n=1)
    hint = f"did you mean {near[0]}?" if near else f"one of {', '.join(SAMPLERS)}"
    raise SpaceError(f"unknown sampler {name}", hint=hint)
