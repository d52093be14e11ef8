"""Every script of analysis/ draws its figure and prints its numbers from the committed tables alone."""

from __future__ import annotations

import runpy
import sys
import xml.etree.ElementTree as xml
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = sorted(path for path in (ROOT / "analysis").glob("*.py") if path.stem != "arms")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_figures_come_from_the_committed_tables(
    script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [str(script), "--figure", "--to", str(tmp_path)])
    monkeypatch.syspath_prepend(str(script.parent))
    runpy.run_path(str(script), run_name="__main__")
    drawn = tmp_path / f"{script.stem}.svg"
    assert xml.parse(drawn).getroot().tag.endswith("svg")
    committed = script.with_suffix(".svg").read_text(encoding="utf-8")
    assert texts(drawn.read_text(encoding="utf-8")) == texts(committed), (
        "the committed figure is of other data: draw it"
    )
    assert "nan" not in capsys.readouterr().out


def texts(svg: str) -> list[str]:
    """What a figure says, in its order."""
    return ["".join(node.itertext()) for node in xml.fromstring(svg).iter() if node.tag.endswith("}text")]
