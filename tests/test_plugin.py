"""A user's file adds a variant by one class; what cannot be loaded leaves no trace."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from miras_search import candidate, choice, design, plugin
from miras_search.choice import variants
from miras_search.errors import DesignError, SpaceError
from miras_search.space import Space
from miras_search.space.schema import json_schema

LOG_COSH = '''\
"""A bias between l2 and l1."""

from typing import Any, Literal

from pydantic import Field

from miras_search.bias import Bias
from miras_search.choice import register


class LogCosh(Bias):
    """log cosh r, smooth and linear far out."""

    kind: Literal["log_cosh"] = "log_cosh"
    scale: float = Field(1.0, gt=0.0, le=4.0, description="where it turns linear")

    def phi(self, xp: Any, r: Any, v: Any, delta: Any) -> Any:
        return xp.tanh(self.scale * r)


VARIANTS = register(LogCosh)
'''

SPACE = """\
design: {memory: matrix, bias: {kind: log_cosh, scale: {float: [0.5, 2]}}, retention: l2, algorithm: gradient_descent}
tasks: [mqar]
budget: {tokens: 1e4}
"""


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    before = {role: dict(kinds) for role, kinds in choice._REGISTRY.items()}
    loaded = dict(plugin._loaded)
    yield
    choice._REGISTRY.clear()
    choice._REGISTRY.update(before)
    plugin._loaded.clear()
    plugin._loaded.update(loaded)
    design.rebuild()
    candidate.rebuild()


def write(folder: Path, text: str, name: str = "my_bias.py") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_a_bias_of_ones_own_stands_beside_the_built_in_ones(tmp_path: Path) -> None:
    with pytest.raises(SpaceError, match="unknown bias log_cosh"):
        Space.from_text(SPACE)
    path = write(tmp_path, LOG_COSH)
    module = plugin.load(path)
    assert plugin.load(str(path)) is module
    assert variants("bias")["log_cosh"] is module.LogCosh
    space = Space.from_text(SPACE)
    assert [axis.path for axis in space.axes()] == ["bias.log_cosh.scale"]
    assert (space.size().total, space.size().valid) == (1, 1)
    built = space.candidate({"bias.log_cosh.scale": 1.5})
    assert built.design.bias == module.LogCosh(scale=1.5)
    assert type(built).model_validate(built.model_dump()) == built
    assert json_schema()["$defs"]["bias.log_cosh"]["properties"]["scale"]["description"] == "where it turns linear"
    with pytest.raises(SpaceError, match=r"scale of log_cosh is 9, must be <= 4\.0"):
        Space.from_text(SPACE, overrides=["bias.scale=9"])


def test_rules_of_a_plugin_are_counted(tmp_path: Path) -> None:
    steep = LOG_COSH.replace(
        "    def phi(",
        "    @property\n    def superlinear(self) -> bool:\n        return self.scale > 1.0\n\n    def phi(",
    )
    plugin.load(write(tmp_path, steep))
    size = Space.from_text(SPACE.replace("{float: [0.5, 2]}", "{float: [0.5, 2], step: 0.5}")).size()
    assert (size.total, size.valid) == (4, 2)
    assert size.exclusions[0].code == "lp-runs-away"


def test_a_validator_of_a_plugin_is_counted(tmp_path: Path) -> None:
    odd = LOG_COSH.replace(
        "    def phi(",
        "    @model_validator(mode='after')\n    def _odd(self) -> Any:\n        if self.scale == 1.0:\n"
        "            raise ValueError('scale 1 is dull')\n        return self\n\n    def phi(",
    ).replace("import Field", "import Field, model_validator")
    plugin.load(write(tmp_path, odd.replace("Field(1.0", "Field(2.0")))
    space = Space.from_text(SPACE.replace("{float: [0.5, 2]}", "[0.5, 1, 2]"))
    assert (space.size().total, space.size().valid) == (3, 2)
    assert space.size().exclusions[0].code == "invalid-value"
    with pytest.raises(DesignError, match=r"invalid-value: .*scale 1 is dull"):
        space.candidate({"bias.log_cosh.scale": 1.0})
    with pytest.raises(SpaceError, match="scale 1 is dull"):
        Space.from_text(SPACE, overrides=["bias.scale=1"])


def test_a_task_of_ones_own(tmp_path: Path) -> None:
    text = (
        "from typing import Literal\n\nfrom miras_search.choice import register\n"
        "from miras_search.tasks import Mqar\n\n\n"
        'class Longer(Mqar):\n    """Recall with a longer gap."""\n\n    kind: Literal["longer"] = "longer"\n'
        "    gap: int = 40\n\n\nVARIANTS = register(Longer)\n"
    )
    plugin.load(write(tmp_path, text, "task.py"))
    space = Space.from_text(SPACE.replace("[mqar]", "[longer]"), overrides=["bias=l2"])
    assert space.tasks[0].name == "longer"
    assert space.context == 88
    assert space.objectives[0].metric == "longer.accuracy"


@pytest.mark.parametrize(
    ("text", "where", "message", "hint"),
    [
        ("x = 1\n", "", "the plug-in registers nothing", "VARIANTS = register"),
        ("x = 1\nclass A(:\n", ":2:", "is not Python: ", ""),
        ("x = 1\nimport no_such_module\n", ":2", "ModuleNotFoundError: No module named 'no_such_module'", ""),
        ("def f():\n    return 1 / 0\nf()\n", ":2", "ZeroDivisionError: division by zero", ""),
        (LOG_COSH.replace("log_cosh", "l2"), ":21", "bias 'l2' is already defined by miras_search", "another `kind`"),
        (
            LOG_COSH.replace("class LogCosh(Bias):", "class LogCosh(Choice):\n    role = 'bias'").replace(
                "import register", "import Choice, register"
            ),
            "",
            "bias log_cosh is no Bias",
            "derive it from miras_search.bias.Bias",
        ),
        (
            LOG_COSH.replace("(Bias)", "(Choice)").replace("import register", "import Choice, register"),
            "",
            "LogCosh has role ''",
            "derive it from Memory, Bias, Retention, Algorithm or Task",
        ),
    ],
)
def test_what_cannot_be_loaded_says_why_and_leaves_no_trace(
    tmp_path: Path, text: str, where: str, message: str, hint: str
) -> None:
    path = write(tmp_path, text)
    before = {role: variants(role) for role in ("", "memory", "bias", "retention", "algorithm", "task")}
    with pytest.raises(DesignError) as caught:
        plugin.load(path)
    told = str(caught.value)
    assert told.startswith(f"{path}{where}")
    assert message in told
    assert hint in told
    assert {role: variants(role) for role in before} == before
    path.write_text(LOG_COSH)
    plugin.load(path)


def test_paths_that_are_no_plugin(tmp_path: Path) -> None:
    for path, message in [
        (tmp_path / "none.py", "cannot be read: No such file or directory"),
        (tmp_path, "is a folder, not a plug-in"),
        (write(tmp_path, "x", "x.txt"), r"is not a \.py file"),
    ]:
        with pytest.raises(DesignError, match=message):
            plugin.load(path)
    binary = tmp_path / "b.py"
    binary.write_bytes(b"\xff\xfe")
    with pytest.raises(DesignError, match="is not UTF-8 text"):
        plugin.load(binary)


def test_a_changed_file_needs_a_new_process(tmp_path: Path) -> None:
    path = write(tmp_path, LOG_COSH)
    plugin.load(path)
    path.write_text(LOG_COSH + "# changed\n")
    with pytest.raises(DesignError, match="changed after it was loaded"):
        plugin.load(path)
