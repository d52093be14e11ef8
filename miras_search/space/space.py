"""A search space: read from YAML, drawn from, counted. What is open becomes a flat assignment, and that a candidate.

    space = Space.load("quickstart", overrides=["budget.tokens=1e5"])
    assignment = space.draw(suggest)          {"memory": "mlp", "bias": "lp", "bias[1].lp.p": 2.5, "optimiser.lr": 0.01}
    candidate = space.candidate(assignment)

`docs/space.md` describes the YAML; `miras_search.space.domain` how parameters are named. A design of `start_with` is the
assignment `{"design": "yaad-r", ...}` with the remaining axes at their first alternative or the middle of their range.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from io import StringIO
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from ruamel.yaml import YAML

from miras_search import named
from miras_search.candidate import Backbone, Candidate, Optimiser
from miras_search.design import Design, digest
from miras_search.errors import DesignError, MirasError, SpaceError
from miras_search.match import Certificate, Constraints, Cost, Match, certify, match
from miras_search.space.counting import Size, count_backbones, count_designs, options, too_long
from miras_search.space.domain import Assignment, Axis, Domain, Grid, Middle, Replay, Struct, Suggest
from miras_search.space.marks import Problems, Source, nearest
from miras_search.space.reader import Reading, read_space
from miras_search.space.settings import Budget, Checkpoints, Finalists, Halving, Loggers, LrSearch, Objective, Search
from miras_search.space.shipped import find, read_text
from miras_search.tasks import Task

OPERATION = ("timeout_s", "checkpoints", "loggers")
"""How a run is operated; may change from session to session."""
_CODE = re.compile(r"([a-z][a-z0-9-]*): ")


@dataclass(frozen=True)
class Space:
    """What is searched, on what, for how long. Made by `load` and `from_text`.

    `design`: a structure of the four choices and the block, or names of published designs. `match`: sizes that every
    candidate is brought to. `constraints`: what it may cost. `seeds`: how many each candidate is trained with.
    `timeout_s`: seconds a trial may take. `checkpoints`: which weights stay. `loggers`: where else results go.
    """

    name: str
    description: str
    design: Domain
    backbone: Domain
    optimiser: Domain
    start_with: tuple[str, ...]
    match: tuple[Match, ...]
    constraints: Constraints | None
    tasks: tuple[Task, ...]
    budget: Budget
    seeds: int
    objectives: tuple[Objective, ...]
    search: Search
    lr_search: LrSearch | None
    halving: Halving | None
    finalists: Finalists | None
    timeout_s: float | None
    checkpoints: Checkpoints
    loggers: Loggers

    @classmethod
    def load(cls, path: str | Path, overrides: Sequence[str] = ()) -> Space:
        """Read a file, or a shipped space by its name.

        Args:
            path: `my/space.yaml`, or `quickstart`.
            overrides: `PATH=VALUE` each, with a YAML value: `budget.tokens=1e5`, `tasks[0].pairs=4`, `bias[1].lp.p=3`.

        Raises:
            SpaceError: for anything that is wrong, with file:line:column, the line and a remedy; up to ten at once.
        """
        where = find(path)
        return cls.from_text(read_text(where), str(where), overrides)

    @classmethod
    def from_text(cls, text: str, source: str = "<text>", overrides: Sequence[str] = ()) -> Space:
        """Read YAML.

        Args:
            text: the YAML.
            source: what errors call it; its stem is the space's name where the text gives none.
            overrides: as in `load`.

        Raises:
            SpaceError: likewise.
        """
        reading = read_space(Source(source, text), overrides)
        space = cls(**reading.fields)
        _check(space, reading)
        return space

    def axes(self) -> list[Axis]:
        """All open parameters, each after those that it depends on."""
        return [axis for path, domain in self._parts() for axis in domain.axes(path)]

    def _parts(self) -> Iterator[tuple[str, Domain]]:
        yield ("" if isinstance(self.design, Struct) else "design"), self.design
        yield "backbone", self.backbone
        yield "optimiser", self.optimiser

    @property
    def context(self) -> int:
        """Tokens a row of the shortest task."""
        return min(task.context for task in self.tasks)

    @property
    def rows(self) -> int:
        """Ledger rows that one suggestion expands to: tasks x seeds."""
        return len(self.tasks) * self.seeds

    @property
    def final_rows(self) -> int:
        """Ledger rows that the finalists add."""
        return self.finalists.count * self.finalists.seeds * len(self.tasks) if self.finalists else 0

    @cached_property
    def _size(self) -> Size:
        if isinstance(self.design, Struct):
            size = count_designs(self.design, self.context)
        else:
            size = Size(n := self.design.points(), n, n, n)
        backbones, whole = count_backbones(self.backbone)
        if {"width", "heads"} & self._solved:
            whole = backbones
        others = self.optimiser.points()
        return replace(
            size,
            total=size.designs * backbones * others,
            valid=None if size.valid_designs is None else size.valid_designs * whole * others,
            continuous=tuple(axis.path for axis in self.axes() if axis.count is None),
        )

    @property
    def _solved(self) -> set[str]:
        """Fields that `match` sets."""
        return {target.by for target in self.match}

    def size(self) -> Size:
        """Exact number of discrete points and of valid ones, what is excluded and why. `match` is not solved here."""
        return self._size

    def draw(self, suggest: Suggest) -> Assignment:
        """Ask for everything that is open, define-by-run: only parameters that the draw has are asked for."""
        out: Assignment = {}
        for path, domain in self._parts():
            domain.walk(path, suggest, out)
        return out

    def grid(self) -> Iterator[Assignment]:
        """All points of a discrete space in a fixed order, those that are no models included.

        Raises:
            SpaceError: if a parameter is continuous.
        """
        grid = Grid()
        while grid.more:
            yield self.draw(grid)
            grid.next()

    def assignment_of(self, name: str) -> Assignment:
        """A named design inside this space: the rest at its first alternative or the middle of its range.

        Raises:
            DesignError: if no design has that name.
        """
        named.composition(name)
        out: Assignment = {"design": name}
        self.backbone.walk("backbone", Middle(), out)
        self.optimiser.walk("optimiser", Middle(), out)
        return out

    def starts(self) -> list[Assignment]:
        """The assignments of `start_with`, in its order."""
        return [self.assignment_of(name) for name in self.start_with]

    def candidate(self, assignment: Mapping[str, Any], vocab: int | None = None) -> Candidate:
        """Build what an assignment describes, and bring it to the size of `match`.

        Args:
            assignment: from `draw`, `grid`, `starts` or a ledger.
            vocab: tokens of the vocabulary, for `match`; by default the first task's.

        Raises:
            DesignError: if the choices do not go together, or a constraint is broken; `refusal_code` gives the reason
                to count by.
            MatchError: if the size cannot be reached.
            SpaceError: if the assignment is not one of this space.
        """
        used: Assignment = {}
        replay = Replay(assignment)
        plain: dict[str, Any] = {}
        for path, domain in self._parts():
            part = path or "design"
            if part == "design" and "design" in assignment:
                plain[part] = used[part] = assignment[part]
            else:
                plain[part] = domain.walk(path, replay, used)
        strange = sorted(set(assignment) - set(used))
        if strange:
            raise SpaceError(f"{strange[0]} is no parameter of this draw", hint=nearest(strange[0], used))
        if isinstance(plain["design"], str):
            design, pattern = named.composition(plain["design"])
            if plain["design"] in named.HYBRIDS:
                plain["backbone"]["pattern"] = pattern
        else:
            design = _build(Design, plain["design"])
        width, heads = (plain["backbone"].get(n, Backbone.model_fields[n].default) for n in ("width", "heads"))
        if "heads" in self._solved:
            plain["backbone"]["heads"] = heads = 1  # any divisor will do: match replaces it
        if "width" in self._solved:
            plain["backbone"]["width"] = 2 * heads  # and any multiple
        elif width % heads:
            raise DesignError(f"heads-width: heads {heads} does not divide width {width}; use heads that do")
        if self.lr_search is not None:  # any will do: every trial searches its own
            plain["optimiser"]["lr"] = self.lr_search.grid[len(self.lr_search.grid) // 2]
        backbone, optimiser = _build(Backbone, plain["backbone"]), _build(Optimiser, plain["optimiser"])
        candidate = Candidate(design=design, backbone=backbone, optimiser=optimiser)
        for memory in candidate.memories:
            long = too_long(memory.memory, memory.bias, memory.retention, memory.algorithm, self.context)
            if long is not None:
                raise DesignError(str(long))
        if self.match:
            candidate, _ = match(candidate, self.match, *self._matched_on(vocab))
        if self.constraints is not None:
            for task in self.tasks:
                self.constraints.check(candidate, task.vocab, task.context)
        return candidate

    def certificates(self, candidate: Candidate, vocab: int | None = None) -> dict[Cost, Certificate]:
        """What a candidate of this space has of every size in `match`; empty without one."""
        return certify(candidate, self.match, *self._matched_on(vocab))

    def _matched_on(self, vocab: int | None) -> tuple[int, int]:
        first = self.tasks[0]
        return first.vocab if vocab is None else vocab, first.context

    def plain(self) -> dict[str, Any]:
        """The space as plain data, overrides and defaults of the settings filled in."""
        out: dict[str, Any] = {"name": self.name}
        if self.description:
            out["description"] = self.description
        out["design"] = self.design.plain()
        if self.start_with:
            out["start_with"] = list(self.start_with)
        for part in ("backbone", "optimiser"):
            inner = getattr(self, part).plain()
            if inner:
                out[part] = inner
        if self.match:
            targets = [target.model_dump(mode="json", exclude_none=True) for target in self.match]
            out["match"] = targets[0] if len(targets) == 1 else targets
        if self.constraints is not None:
            out["constraints"] = self.constraints.model_dump(mode="json", exclude_none=True)
        out["tasks"] = [task.model_dump(mode="json") for task in self.tasks]
        out["budget"] = self.budget.model_dump(mode="json")
        out["seeds"] = self.seeds
        out["objectives"] = [objective.model_dump(mode="json") for objective in self.objectives]
        out["search"] = self.search.model_dump(mode="json")
        if self.lr_search is not None:
            out["lr_search"] = self.lr_search.model_dump(mode="json")
        if self.halving is not None:
            out["halving"] = self.halving.model_dump(mode="json", exclude_none=True)
        if self.finalists is not None:
            out["finalists"] = self.finalists.model_dump(mode="json")
        if self.timeout_s is not None:
            out["timeout_s"] = self.timeout_s
        if kept := self.checkpoints.model_dump(mode="json", exclude_none=True):
            out["checkpoints"] = kept
        if self.loggers.to:
            out["loggers"] = list(self.loggers.to)
        return out

    def to_yaml(self) -> str:
        """YAML that reads back as the same space."""
        yaml = YAML(typ="safe", pure=True)
        yaml.default_flow_style = None
        yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
        yaml.width = 120
        out = StringIO()
        yaml.dump(self.plain(), out)
        return out.getvalue()

    @cached_property
    def digest(self) -> str:
        """12 hex digits of all that decides which trials a run makes: not of name, number of trials, limits or loggers."""
        plain = self.plain()
        for key in ("name", "description", *OPERATION):
            plain.pop(key, None)
        plain["search"] = {k: v for k, v in plain["search"].items() if k != "trials"}
        return digest(plain)


def _check(space: Space, reading: Reading) -> None:
    """What no single key shows: conflicts, and a space that excludes everything."""
    keys, problems, size = reading.keys, Problems(), space.size()
    structs = options(space.backbone)
    if isinstance(space.design, Struct):
        structs = [*structs, *options(space.design.fields["memory"])]
    for solved in space._solved:
        for struct in structs:
            if solved in struct.fields:
                at = struct.fields[solved].mark
                problems.add(at, f"{solved} is solved by match:", f"leave {solved} out, or match by: another field")
    if space.search.sampler == "grid" and size.continuous:
        at = keys["search"].at(("sampler",)).mark
        what = f"sampler: grid, but {size.continuous[0]} is continuous"
        problems.add(at, what, "give it a step:, or use sampler: random or tpe")
    if space.lr_search is not None:
        for struct in options(space.optimiser):
            if "lr" in struct.fields:
                problems.add(struct.fields["lr"].mark, "lr is searched by lr_search:", "leave lr out of optimiser:")
        if any(getattr(task, "protocol", "") == "paper" for task in space.tasks):
            what = "protocol: paper has learning rates of its own, compared on the test set"
            problems.add(keys["lr_search"].name_mark, what, "leave lr_search: out, or use protocol: sound")
        if space.halving is not None and space.halving.rungs[0] < space.lr_search.rungs[-1]:
            what = (
                f"a design may be stopped at {space.halving.rungs[0]:g} of the budget, while its rate is still searched"
            )
            hint = f"let its rungs begin at {space.lr_search.rungs[-1]:g}, the last one of lr_search:"
            problems.add(keys["halving"].at(("rungs",)).mark, what, hint)
    if space.search.sampler == "survey" and space.halving is not None:
        what = "a survey has no early stopping: what is stopped says nothing of what matters"
        problems.add(keys["halving"].name_mark, what, "leave halving: out, or use another sampler")
    if size.valid_designs == 0:
        first = size.exclusions[0]
        reasons = ", ".join(f"{e.code} {e.designs:,}" for e in size.exclusions)
        what = f"no design is left, all {size.designs:,} are refused: {reasons}"
        problems.add(keys["design"].name_mark, what, f"{first.message}: {first.remedy}")
    elif size.valid == 0:
        node = keys["backbone"]
        struct = options(space.backbone)[0]
        values = {name: field.default for name, field in Backbone.model_fields.items()}
        heads, width = ({**values, **struct.plain()}[name] for name in ("heads", "width"))
        at = node.at(("heads",)).mark
        problems.add(at, f"heads {heads} does not divide width {width}", "use heads that divide the width")
    problems.check()


def _build(model: Any, plain: Any) -> Any:
    try:
        return model.model_validate_json(json.dumps(plain))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        text = str(first.get("ctx", {}).get("error", first["msg"]))
        if not _CODE.match(text):
            where = ".".join(map(str, first["loc"]))
            text = f"invalid-value: {where + ': ' if where else ''}{text}"
        raise DesignError(text) from None


def refusal_code(error: MirasError) -> str:
    """The word under which a refused draw is counted: `lp-runs-away` of `lp-runs-away: ...`; else `match`, `design`."""
    found = _CODE.match(error.message)
    return found[1] if found else type(error).__name__.removesuffix("Error").lower()
