"""Equal sizes before a comparison: `match` solves for a target, and says what it reached; `Constraints` only refuse.

Costs are the formulas of `miras_search.candidate`, so that nothing is built or trained.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, get_args

from pydantic import Field, model_validator

from miras_search.candidate import Candidate
from miras_search.choice import Frozen
from miras_search.errors import DesignError, MatchError

Cost = Literal["parameters", "state_bytes", "flops_per_token"]
Knob = Literal["width", "ffn", "heads", "expansion"]

COSTS: tuple[Cost, ...] = get_args(Cost)
WIDEST, MOST_HEADS = 16384, 256
"""The bounds of `Backbone`."""
UNITS: dict[Cost, str] = {
    "parameters": "parameters",
    "state_bytes": "bytes of state",
    "flops_per_token": "FLOPs per token",
}
KNOBS: dict[Cost, tuple[Knob, ...]] = {
    "parameters": ("width", "ffn"),
    "state_bytes": ("width", "heads", "expansion"),
    "flops_per_token": ("width", "ffn", "heads", "expansion"),
}
"""What moves a cost enough to reach a target."""


class Match(Frozen):
    """Bring every candidate to the same cost before they are compared.

    One of `parameters`, `state_bytes`, `flops_per_token` is the target. `by`: what is changed to reach it: the model's
    `width`, its number of `heads` at a given width, the SwiGLU's hidden width (`ffn`), the `expansion` of an MLP memory.
    `tolerance`: relative.
    """

    parameters: int | None = Field(None, gt=0)
    state_bytes: int | None = Field(None, gt=0)
    flops_per_token: int | None = Field(None, gt=0)
    by: Knob = "width"
    tolerance: float = Field(0.02, gt=0.0, lt=1.0)

    @model_validator(mode="after")
    def _one_target(self) -> Match:
        given = [name for name in COSTS if getattr(self, name) is not None]
        if len(given) != 1:
            names = " and ".join(given) or "no target"
            raise ValueError(f"match has {names}; give one of {', '.join(COSTS)}, and several as a list of mappings")
        if self.by not in KNOBS[self.cost]:
            raise ValueError(f"{self.by} does not move {self.cost}; match it by {' or '.join(KNOBS[self.cost])}")
        return self

    @property
    def cost(self) -> Cost:
        """What is matched."""
        return next(name for name in COSTS if getattr(self, name) is not None)

    @property
    def target(self) -> int:
        """Its value."""
        return int(getattr(self, self.cost))

    def __str__(self) -> str:
        return f"{self.target:,} {UNITS[self.cost]} within {self.tolerance:.0%}, by {self.by}"


class Certificate(Frozen):
    """What `match` reached: the cost, by what, and by how much it misses the target."""

    target: int
    reached: int
    by: Knob
    relative_error: float


class Bounds(Frozen):
    """A cost that is allowed: at least `min`, at most `max`."""

    min: int | None = Field(None, ge=0)
    max: int | None = Field(None, ge=0)

    @model_validator(mode="after")
    def _some(self) -> Bounds:
        if self.min is None and self.max is None:
            raise ValueError("a constraint has a min or a max")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min} is above max {self.max}")
        return self


class Constraints(Frozen):
    """Costs outside of which a candidate is refused before it is trained, whichever task it is for."""

    parameters: Bounds | None = None
    state_bytes: Bounds | None = None
    flops_per_token: Bounds | None = None

    def __str__(self) -> str:
        given = [(name, getattr(self, name)) for name in COSTS if getattr(self, name) is not None]
        ends = [
            f"{name} {sign} {end:,}"
            for name, bounds in given
            for sign, end in ((">=", bounds.min), ("<=", bounds.max))
            if end is not None
        ]
        return ", ".join(ends)

    def check(self, candidate: Candidate, vocab: int, context: int) -> None:
        """Refuse a candidate outside the bounds.

        Args:
            candidate: with `match` solved.
            vocab: tokens of the vocabulary.
            context: tokens a row.

        Raises:
            DesignError: naming cost and bound; its code is `constraint-parameters` or the like.
        """
        for name in COSTS:
            bounds: Bounds | None = getattr(self, name)
            if bounds is None:
                continue
            value = cost(candidate, name, vocab, context)
            low, high = bounds.min, bounds.max
            if (low is not None and value < low) or (high is not None and value > high):
                wanted = f"at least {low:,}" if low is not None and value < low else f"at most {high:,}"
                code = f"constraint-{name.replace('_', '-')}"
                raise DesignError(
                    f"{code}: {value:,} {UNITS[name]}, {wanted} are asked for; change constraints: or sizes"
                )


def cost(candidate: Candidate, name: Cost, vocab: int, context: int) -> int:
    """A cost of a candidate on rows of `context` tokens from a vocabulary of `vocab`."""
    if name == "parameters":
        return candidate.parameters(vocab)
    return candidate.state_bytes(context) if name == "state_bytes" else candidate.flops_per_token(context)


def match(
    candidate: Candidate, targets: Match | Sequence[Match], vocab: int, context: int
) -> tuple[Candidate, dict[Cost, Certificate]]:
    """The candidate, resized to the targets one after another.

    Args:
        candidate: whose field `by` is ignored.
        targets: of different costs, by different fields.
        vocab: tokens of the vocabulary.
        context: tokens a row: a cache has no other size, and attention no other cost.

    Returns:
        The candidate, and a certificate for each target.

    Raises:
        MatchError: if no size is within the tolerance; names the nearest one. Also if a later target spoils an earlier.
    """
    targets = [targets] if isinstance(targets, Match) else list(targets)
    for target in targets:
        candidate = _solve(candidate, target, vocab, context)
    found = certify(candidate, targets, vocab, context)
    for target in targets:
        reached = found[target.cost]
        if abs(reached.relative_error) > target.tolerance:
            raise MatchError(
                f"{target.target} {UNITS[target.cost]} were matched by {target.by}, and are {reached.reached} after the "
                f"other targets were",
                hint="match last what depends on most, or by a field that the other cost does not depend on (ffn)",
            )
    return candidate, found


def certify(candidate: Candidate, targets: Sequence[Match], vocab: int, context: int) -> dict[Cost, Certificate]:
    """What a candidate has of each target."""
    found: dict[Cost, Certificate] = {}
    for target in targets:
        reached = cost(candidate, target.cost, vocab, context)
        error = (reached - target.target) / target.target
        found[target.cost] = Certificate(target=target.target, reached=reached, by=target.by, relative_error=error)
    return found


def _solve(candidate: Candidate, target: Match, vocab: int, context: int) -> Candidate:
    def reached(sized: Candidate) -> int:
        return cost(sized, target.cost, vocab, context)

    best = min(_sizes(candidate, target, reached), key=lambda sized: abs(reached(sized) - target.target))
    value = reached(best)
    error = (value - target.target) / target.target
    if abs(error) > target.tolerance:
        backbone, others = best.backbone, [knob for knob in KNOBS[target.cost] if knob != target.by]
        size = f"width {backbone.width}, heads {backbone.heads}, ffn {backbone.ffn:g}"
        raise MatchError(
            f"no {target.by} gives {target.target} {UNITS[target.cost]} within {target.tolerance:.0%}; the nearest is "
            f"{value} ({error:+.1%}) at {size}",
            hint=f"ask for {value}, widen `tolerance`, or match by {' or '.join(others)}",
        )
    return best


def _sizes(candidate: Candidate, target: Match, reached: Callable[[Candidate], int]) -> list[Candidate]:
    """The sizes among which the nearest is: all, or the two on either side of the target where the cost only rises."""
    backbone = candidate.backbone

    def sized(**changes: float) -> Candidate:
        return candidate.model_copy(update={"backbone": backbone.model_copy(update=changes)})

    if target.by == "expansion":
        memory = candidate.design.memory
        field = type(memory).model_fields.get("expansion")
        if field is None:
            return [candidate]
        low, high = (next(getattr(m, end) for m in field.metadata if hasattr(m, end)) for end in ("ge", "le"))
        memories = [memory.model_copy(update={"expansion": n}) for n in range(low, high + 1)]
        return [
            candidate.model_copy(update={"design": candidate.design.model_copy(update={"memory": m})}) for m in memories
        ]
    if target.by == "heads":
        counts = [n for n in range(1, MOST_HEADS + 1) if backbone.width % n == 0 and backbone.width // n > 1]
        return [sized(heads=n) for n in counts]
    low, high = (2, WIDEST // backbone.heads) if target.by == "width" else (1, 16 * backbone.width)

    def at(n: int) -> Candidate:
        return sized(width=n * backbone.heads) if target.by == "width" else sized(ffn=n / backbone.width)

    while high - low > 1:
        middle = (low + high) // 2
        if reached(at(middle)) > target.target:
            high = middle
        else:
            low = middle
    return [at(low), at(high)]
