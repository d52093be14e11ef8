"""The edits on source text: folding, lowering, linking."""

from __future__ import annotations

import ast
import textwrap
from typing import Any

import pytest

from miras_search.bias import Bias
from miras_search.codegen.fold import fold, static
from miras_search.codegen.linker import definitions, imports, link
from miras_search.codegen.lower import lower
from miras_search.retention import Lq


def folded(text: str, **constants: Any) -> str:
    return fold(textwrap.dedent(text).strip() + "\n", constants)


SWITCH = """
def f(x):
    # before
    if KIND == "a":
        # of a
        y = x + 1  # one
    elif KIND == "b":
        # of b
        y = x + 2

        y = y * 2
    else:
        # of the rest
        y = x
    # after
    return y
"""


def test_fold_keeps_the_branch_and_its_comments() -> None:
    assert folded(SWITCH, KIND="a") == textwrap.dedent(
        """
        def f(x):
            # before
            # of a
            y = x + 1  # one
            # after
            return y
        """
    ).lstrip("\n")


def test_fold_takes_an_elif() -> None:
    text = folded(SWITCH, KIND="b")
    assert "# of b\n    y = x + 2\n\n    y = y * 2\n    # after" in text
    assert "of a" not in text
    assert "of the rest" not in text


def test_fold_takes_the_else() -> None:
    assert "    # before\n    # of the rest\n    y = x\n    # after\n" in folded(SWITCH, KIND="c")


def test_fold_leaves_what_is_decided_at_run_time() -> None:
    text = folded(SWITCH)
    assert text == textwrap.dedent(SWITCH).strip() + "\n"
    assert static(ast.parse("len(A) > 1", mode="eval").body, {"A": [1]}) is None
    assert static(ast.parse("A and b", mode="eval").body, {"A": True}) is None
    assert static(ast.parse("b and A", mode="eval").body, {"A": False}) is None
    assert static(ast.parse("A and b", mode="eval").body, {"A": False}) is False
    assert static(ast.parse("A or b", mode="eval").body, {"A": True}) is True


@pytest.mark.parametrize(("a", "b", "value"), [(1, 0, 2), (0, 1, 3), (0, 0, 4), (1, 1, 2)])
def test_fold_inside_a_run_time_if(a: int, b: int, value: int) -> None:
    """An elif that is decided, after an if that is not; also where nothing or another run-time test is left."""
    text = folded(
        """
        def f(x, y=False):
            z = 0
            if x:
                z = 1
            elif A:
                # of A
                z = 2
            elif B:
                z = 3
            else:
                z = 4
            if x:
                z = z + 10
            elif A:
                z = z + 20
            if x:
                z = z + 100
            elif A:
                z = z + 200
            elif y:
                z = z + 300
            return z
        """,
        A=bool(a),
        B=bool(b),
    )
    space: dict[str, Any] = {}
    exec(text, space)
    assert not any(word in text for word in ("elif A", "elif B", "if A"))
    assert space["f"](True) == 111
    assert space["f"](False) == value + 220 * a
    assert space["f"](False, True) == value + (220 if a else 300)


def test_fold_drops_what_a_return_makes_unreachable() -> None:
    text = """
        def f(x):
            if FLAG:
                return x  # early
            y = g(x)
            return y
        """
    assert folded(text, FLAG=True) == "def f(x):\n    return x  # early\n"
    assert folded(text, FLAG=False) == "def f(x):\n    y = g(x)\n    return y\n"


def test_fold_leaves_a_pass_where_a_block_would_be_empty() -> None:
    text = folded(
        """
        def f(x):
            for i in x:
                if FLAG:
                    print(i)
            return x
        """,
        FLAG=False,
    )
    assert text == "def f(x):\n    for i in x:\n        pass\n    return x\n"


@pytest.mark.parametrize(
    ("text", "flag", "expected"),
    [
        ("y = a if FLAG else b\n", True, "y = a\n"),
        ("y = a if FLAG else b\n", False, "y = b\n"),
        ("y = 2 * (a + 1 if FLAG else b)\n", True, "y = 2 * ((a + 1))\n"),
        ("y = f(a or b if FLAG else c)\n", True, "y = f((a or b))\n"),
        ("y = (a if FLAG else b) if x else c\n", True, "y = (a) if x else c\n"),
        ("y = a if x else b\n", True, "y = a if x else b\n"),
        ("y = 'ä' if FLAG else 'ö'  # ü\n", True, "y = 'ä'  # ü\n"),
    ],
)
def test_fold_of_expressions(text: str, flag: bool, expected: str) -> None:
    assert fold(text, {"FLAG": flag}) == expected


def test_nested_folds_mean_the_same() -> None:
    """Every combination of flags, run before and after."""
    source = textwrap.dedent(
        """
        def f(x):
            if A:
                if B:
                    return x + 1
                x = x * 2
            if not A and B:
                x = x - 3 if C else x + 3
            elif C:
                x = x * 7
            for i in range(3):
                if B:
                    x = x + i
                else:
                    if C:
                        x = x - i
            return x
        """
    ).lstrip("\n")
    for bits in range(8):
        flags = {"A": bool(bits & 1), "B": bool(bits & 2), "C": bool(bits & 4)}
        text = fold(source, flags)
        spaces: list[dict[str, Any]] = [dict(flags), {}]
        exec(source, spaces[0])
        exec(text, spaces[1])
        assert not any(name in text for name in ("A", "B", "C")), text
        assert [spaces[0]["f"](x) for x in range(5)] == [spaces[1]["f"](x) for x in range(5)]


# --- lowering


class _Nested(Bias):
    """Every construct that a formula may use."""

    kind: str = "nested"
    power: float = 3.0
    sharp: bool = True

    def phi(self, xp: Any, r: Any, v: Any, delta: Any) -> Any:
        """Not copied."""
        # the norm, kept
        norm = xp.sqrt(xp.row_sum(xp.power(r * r, self.power / 2.0)) + 1e-6)
        if self.sharp:
            return self.helper(xp, r / norm) * (1.0 if self.power > 2.5 else 2.0)
        return r

    def helper(self, xp: Any, x: Any) -> Any:
        """Not copied either."""
        return xp.minimum(1.0, xp.maximum(x, -x)) * xp.row_size(x * 1.0)


def test_lowering_keeps_comments_names_numbers_and_decides_flags() -> None:
    lowered = lower(_Nested(kind="nested"), "phi")
    assert list(lowered.functions) == ["bias_helper", "bias_phi"]
    assert lowered.numbers == {"BIAS_POWER": 3.0}
    text = lowered.functions["bias_phi"]
    assert "# the norm, kept" in text
    assert "Not copied" not in "".join(lowered.functions.values())
    assert "return r\n" not in text
    assert "self" not in text
    assert "xp." not in text
    assert "torch.sqrt(torch.sum((r * r) ** (BIAS_POWER / 2.0), -1, keepdim=True) + 1e-6)" in text
    assert "torch.clamp(torch.maximum(x, -x), max=1.0) * (x * 1.0).shape[-1]" in lowered.functions["bias_helper"]


def test_lowering_a_flag_the_other_way() -> None:
    lowered = lower(_Nested(kind="nested", sharp=False), "phi")
    assert list(lowered.functions) == ["bias_phi"]
    assert lowered.functions["bias_phi"].rstrip().endswith("return r")


def test_properties_become_numbers() -> None:
    assert lower(Lq(q=4.0), "initial").numbers["RETENTION_START"] == Lq(q=4.0).start


# --- linking


SKELETON = """
import math

import torch

from elsewhere import f, g


# what it is for
@torch.no_grad()
def entry(x):
    if FLAG:
        return used(x) * NUMBER
    return unused(x)


def used(x):
    return math.sqrt(slot(x))


def unused(x):
    return f(x)


class Other:
    pass
"""


def linked(**constants: Any) -> Any:
    return link([SKELETON], ["entry"], {"NUMBER": 2.0} | constants, {"slot": "def slot(x):\n    return x\n"})


def test_link_keeps_what_the_entries_reach_and_no_more() -> None:
    found = linked(FLAG=True)
    assert [d.name for d in found.definitions] == ["slot", "entry", "used"]
    assert found.definitions[1].text.startswith("# what it is for\n@torch.no_grad()\n")
    assert found.imports == ["import math", "import torch"]
    assert found.constants == {"NUMBER": 2.0}
    other = linked(FLAG=False)
    assert [d.name for d in other.definitions] == ["entry", "unused"]
    assert other.imports == ["from elsewhere import f", "import torch"]
    assert other.constants == {}


def test_link_is_deterministic() -> None:
    assert linked(FLAG=True) == linked(FLAG=True)


def test_two_definitions_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="used is defined twice"):
        link([SKELETON, "def used(x):\n    return x\n"], ["entry"], {"FLAG": True, "NUMBER": 1.0}, {})


def test_an_entry_that_is_nowhere_is_refused() -> None:
    with pytest.raises(ValueError, match="missing is used but defined nowhere"):
        link([SKELETON], ["missing"], {"FLAG": True, "NUMBER": 1.0}, {})


def test_definitions_and_imports_of_a_text() -> None:
    assert [d.name for d in definitions(SKELETON)] == ["entry", "used", "unused", "Other"]
    assert imports("from miras_search.codegen.skeletons.slots import CHUNK\nimport torch.nn as nn\n") == {
        "nn": "import torch.nn as nn"
    }
