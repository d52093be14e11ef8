from __future__ import annotations

import re
import time
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pandas as pd
import pytest
from synthetic import SPACE, drawn_survey, record, survey, write_run

from miras_search import named, report
from miras_search.errors import RunError
from miras_search.report import wording
from miras_search.report.findings import findings
from miras_search.report.numbers import bounds, estimate, number, percent
from miras_search.results import load_results, load_steps, write_parquet
from miras_search.statistics import choice_effects, mean_interval, paired_difference, shares


class Page(HTMLParser):
    """Text, tables (label -> rows of (text, exact value)), ids and what the page would load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: dict[str, list[list[tuple[str, float | None]]]] = {}
        self.ids: list[str] = []
        self.loads: list[str] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self._value: float | None = None
        self._cell: str | None = None
        self._table = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.ids += [given["id"]] if given.get("id") else []
        self.loads += [str(given[a]) for a in ("src", "href", "xlink:href") if given.get(a)]
        if tag == "table":
            self._table = str(given["aria-label"])
            self.tables[self._table] = []
        elif tag == "tr":
            self.tables[self._table].append([])
        elif tag == "td":
            self._cell, self._value = "", float(str(given["data-value"])) if "data-value" in given else None
        if tag not in ("meta", "br", "path", "use", "image", "rect"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.ids += [given["id"]] if given.get("id") else []
        self.loads += [str(given[a]) for a in ("src", "href", "xlink:href") if given.get(a)]

    def handle_endtag(self, tag: str) -> None:
        if tag == "td":
            self.tables[self._table][-1].append((str(self._cell), self._value))
            self._cell = None
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_data(self, data: str) -> None:
        self.texts.append(data)
        if self._cell is not None:
            self._cell += data

    @property
    def text(self) -> str:
        return "".join(self.texts)

    def table(self, start: str) -> list[list[tuple[str, float | None]]]:
        return next(rows[1:] for label, rows in self.tables.items() if label.startswith(start))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "first", survey(), steps=True)


@pytest.fixture(scope="module")
def html(folder: Path) -> str:
    return report.render(folder, folder.parent / "deep" / "report.html").read_text()


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def test_the_page_stands_alone_and_is_small(html: str, page: Page) -> None:
    assert len(html.encode()) < 2_000_000
    assert all(target.startswith("#") for target in page.loads)
    assert not re.search(r"<script|@import|url\((?!#)|\bon\w+=\"", html)
    assert {target[1:] for target in page.loads} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))
    assert page.open == []


def test_figures_are_well_formed_and_say_what_they_show(html: str) -> None:
    drawn = re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL)
    assert len(drawn) == 3
    for svg in drawn:
        root = ElementTree.fromstring(svg)
        assert root.attrib["role"] == "img"
        assert root.attrib["aria-label"]
        assert "width" not in root.attrib
        assert "viewBox" in root.attrib


def test_the_same_data_give_the_same_page(folder: Path, html: str) -> None:
    assert report.page(load_results(folder), load_steps(folder)) == html


def test_numbers_of_the_best_table_are_the_librarys(folder: Path, page: Page) -> None:
    frame = load_results(folder)
    done = frame[frame["status"] == "ok"]
    means = done.groupby("fingerprint")["accuracy"].mean().sort_values(ascending=False)
    rows = page.table("Best candidates on mqar.accuracy")
    assert [row[-1][0] for row in rows[:15]] == means.index[:15].tolist()
    for row in rows:
        interval = mean_interval(done.loc[done["fingerprint"] == row[-1][0], "accuracy"], bounds=(0.0, 1.0))
        assert row[3] == (estimate(interval), pytest.approx(interval.estimate, abs=1e-12))
        assert row[4][0] == bounds(interval)
        assert row[5] == ("3", 3.0)


def test_numbers_of_the_effects_are_the_librarys(folder: Path, page: Page) -> None:
    frame = load_results(folder)
    effects = choice_effects(frame[frame["status"] == "ok"], "accuracy")
    shown = [(row[0][0], row[1][0], row[2][1]) for row in page.table("Mean accuracy on mqar by choice")]
    assert shown == [(e.choice, e.value, e.mean) for e in effects.itertuples()]


def test_the_first_screen_says_what_won_by_how_much_and_what_failed(folder: Path, page: Page) -> None:
    frame = load_results(folder)
    done = frame[frame["status"] == "ok"]
    best, second = done.groupby("fingerprint")["accuracy"].mean().sort_values(ascending=False).index[:2]

    def seeds(fingerprint: str) -> pd.Series:  # type: ignore[type-arg]
        return done[done["fingerprint"] == fingerprint].set_index("seed")["accuracy"]

    ahead = paired_difference(seeds(best), seeds(second))
    text = page.text.split("Best candidates on")[0]
    assert "softmax-attention leads on mqar, within seed noise" in text
    assert f"accuracy {estimate(mean_interval(seeds(best)))}" in text
    assert f"ahead by {estimate(ahead)} (95\u00a0% interval {bounds(ahead)}, 3 paired seeds" in text
    assert "not separated" in text
    assert "gated-deltanet" in text
    failed = int((frame["status"] == "diverged").sum())
    assert f"{failed} of {len(frame)} trials failed" in text
    assert f"{failed} of the" in text
    assert "bias lp failed" in text
    assert "picked by these very seeds: on fresh ones expect about" in text
    assert "What to try next" in text


@pytest.fixture(scope="module")
def surveyed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    space = SPACE.replace("sampler: random", "sampler: survey")
    return write_run(tmp_path_factory.mktemp("surveyed") / "survey", drawn_survey(), space=space)


def test_shares_controls_and_advice_are_the_librarys(surveyed: Path) -> None:
    frame = load_results(surveyed)
    page = Page(report.render(surveyed, surveyed.parent / "survey.html").read_text())
    drawn = frame[(frame["how"] == "survey") & (frame["status"] == "ok")]
    found = shares(drawn, "accuracy")
    rows = page.table("Shares of the variance between")
    assert [(r[0][0], r[2][1], r[4][1]) for r in rows[: len(found.groups)]] == [
        (r.group, r.first, r.total) for r in found.groups.itertuples()
    ]
    assert rows[-1][2][1] == found.beyond.estimate
    assert f"bias {percent(found.groups['total'].iloc[0])}" in page.text
    assert "On average bias huber did best" in page.text
    zeroed = frame[frame["block.output"] == "zeroed"]
    change = paired_difference(
        zeroed.set_index("seed")["accuracy"],
        frame[(frame["label"] == "deltanet") & (frame["block.output"] == "memory")].set_index("seed")["accuracy"],
    )
    (row,) = page.table("Controls:")
    assert row[:2] == [("memory answers zero", None), ("deltanet", None)]
    assert row[3][1] == pytest.approx(change.estimate, abs=1e-12)
    assert "memory answers zero costs 0.8" in page.text
    assert zeroed["fingerprint"].iloc[0] not in {r[-1][0] for r in page.table("Best candidates")}
    assert re.match("Fix .*`retention`", findings(frame).next[-1])


def test_what_an_optimiser_chose_shows_no_effects(tmp_path: Path) -> None:
    rows = [r.model_copy(update={"how": "tpe"}) for r in drawn_survey(candidates=12)]
    page = Page(report.render(write_run(tmp_path / "tpe", rows), tmp_path / "tpe.html").read_text())
    assert "What each choice did" not in page.text
    assert "26 of 26 trials were chosen by an optimiser" in page.text
    assert "cannot be said from these trials" in page.text
    assert "Run a survey" in page.text


def test_figures_are_files_of_any_kind(surveyed: Path, tmp_path: Path) -> None:
    written = report.save_figures(surveyed, tmp_path / "figures", ("svg", "pdf", "png"))
    assert {p.name for p in written} == {
        f"mqar-accuracy-{n}.{k}" for n in ("effects", "state") for k in ("svg", "pdf", "png")
    }
    heads = {".svg": b"<?xml", ".pdf": b"%PDF", ".png": b"\x89PNG"}
    assert all(p.read_bytes().startswith(heads[p.suffix]) for p in written)
    with pytest.raises(RunError, match="cannot be written as gif"):
        report.save_figures(surveyed, tmp_path, ("gif",))


@pytest.mark.slow
def test_a_thousand_trials_take_less_than_ten_seconds(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "large", drawn_survey(candidates=500), steps=True)
    start = time.process_time()
    text = report.render(folder, tmp_path / "large.html").read_text()
    assert time.process_time() - start < 10
    assert len(text.encode()) < 2_000_000


def test_one_seed_gives_no_interval(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "one", survey(seeds=1))
    text = Page(report.render(folder, tmp_path / "one.html").read_text()).text
    assert "on one seed" in text
    assert "one seed: no interval" in text
    assert "95\u00a0% interval 0" not in text.split("What each choice did")[0].split("Failure rates")[0]


def test_a_clear_winner_is_called_one(tmp_path: Path) -> None:
    rows = [record(named.get("yaad-r"), 0, s, 0.95 + 0.001 * s) for s in range(3)]
    rows += [record(named.get("deltanet"), 1, s, 0.80 + 0.001 * s) for s in range(3)]
    found = findings(load_results(write_run(tmp_path / "clear", rows)))
    verdict = found.verdicts[0]
    assert wording.title(found) == "yaad-r is best on mqar"
    assert verdict.published is verdict.runner_up
    assert verdict.ahead is not None
    assert verdict.ahead.estimate == pytest.approx(0.15)
    lines = wording.verdict_lines(verdict)
    assert len(lines) == 2
    assert lines[1].startswith("Over the runner-up and the best published design, **deltanet**: ahead by **0.150**")


def test_less_may_be_better(tmp_path: Path) -> None:
    space = SPACE.replace("mqar.accuracy, goal: max", "mqar.nll, goal: min")
    rows = [record(named.get(n), i, 0, a) for i, (n, a) in enumerate((("retnet", 0.4), ("deltanet", 0.9)))]
    verdict = findings(load_results(write_run(tmp_path / "run", rows, space=space))).verdicts[0]
    assert verdict.objective.name == "mqar.nll"
    assert verdict.best.name == "deltanet"
    assert verdict.ahead is not None
    assert verdict.ahead.estimate == pytest.approx(1.25)


def test_without_a_space_every_task_has_a_verdict(tmp_path: Path) -> None:
    rows = [record(named.get("retnet"), 0, 0, 0.4), record(named.get("retnet"), 0, 0, 0.5, task="other")]
    found = findings(load_results(write_run(tmp_path / "run", rows, space="name: bare\n")))
    assert [v.objective.name for v in found.verdicts] == ["mqar.accuracy", "other.accuracy"]
    assert found.verdicts[0].runner_up is None
    report.render(tmp_path / "run", tmp_path / "out.html")


def test_less_training_is_not_ranked(tmp_path: Path) -> None:
    rows = [record(named.get("retnet"), 0, 0, 0.4), record(named.get("deltanet"), 1, 0, 0.9, tokens=50_000)]
    found = findings(load_results(write_run(tmp_path / "run", rows)))
    assert [e.name for e in found.verdicts[0].ranked] == ["retnet"]
    assert "1 finished trial of a smaller budget" in found.notes[0]


def test_a_run_in_which_all_failed_has_a_report(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "bad", [record(named.get("retnet"), 0, s, None) for s in range(3)])
    text = Page(report.render(folder, tmp_path / "bad.html").read_text()).text
    assert "nothing to rank" in text
    assert "3 of 3 trials failed: 3 diverged" in text
    assert len(findings(load_results(folder)).failures) == 1  # causes differ in numbers alone


def test_provenance_is_in_the_page(page: Page, html: str) -> None:
    assert "miras-search sweep recall-survey --name first" in page.text
    assert page.table("Data: digests") == [[("mqar: validation", None), ("0f3a9c1be2d4", None)]]
    assert "The space of first" in page.text
    assert "sampler: random" in page.text


def test_text_of_others_is_escaped(tmp_path: Path) -> None:
    cause = "<script>alert('x')</script> | `a` **b**"
    folder = write_run(tmp_path / "run", [record(named.get("retnet"), 0, 0, None, cause=cause)])
    html = report.render(folder, tmp_path / "x.html").read_text()
    assert "<script" not in html
    assert "&lt;script&gt;" in html
    table = report.render_markdown(folder, tmp_path / "x.md").read_text()
    assert "\\|" in table


def test_a_parquet_file_gives_the_report_without_curves(folder: Path, html: str, tmp_path: Path) -> None:
    write_parquet(load_results(folder), tmp_path / "first.parquet")
    again = report.render(tmp_path / "first.parquet", tmp_path / "out.html").read_text()
    assert Page(again).table("Best candidates") == Page(html).table("Best candidates")
    assert "Learning curves" not in again


def test_markdown_holds_the_same_tables(folder: Path, page: Page, tmp_path: Path) -> None:
    text = report.render_markdown([folder], tmp_path / "report.md").read_text()
    first = page.table("Best candidates")[0]
    line = next(line for line in text.splitlines() if line.startswith("| 1 |"))
    assert [cell.strip(" `*") for cell in line.strip("|").split("|")] == [cell[0] for cell in first]
    assert text.startswith("# softmax-attention leads on mqar")


def test_what_cannot_be_written_or_read_is_said(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be written"):
        report.render(folder, tmp_path / "file" / "x.html")
    with pytest.raises(RunError, match="there is no run"):
        report.render("nowhere", tmp_path / "x.html")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.95333, "0.953"),
        (3, "3"),
        (12_345, "12,345"),
        (1e-3, "0.001"),
        (2e-7, "2e-7"),
        (float("nan"), "–"),
        (True, "true"),
        ("a", "a"),
    ],
)
def test_numbers_read_as_people_write_them(value: object, text: str) -> None:
    assert number(value) == text


def test_a_budget_may_differ_from_task_to_task(tmp_path: Path) -> None:
    space = SPACE.replace("tokens: 200000", "tokens: {mqar: 200000, text: 100000}")
    found = findings(load_results(write_run(tmp_path / "run", survey(seeds=1), space=space)))
    assert found.budgets == [100_000, 200_000]
