from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pandas as pd
import pytest
from synthetic import PUBLISHED, record, survey, write_run

from miras_search import named
from miras_search.errors import DesignError, RunError
from miras_search.results import (
    DATA_DICTIONARY,
    design_of,
    frames,
    load_results,
    load_steps,
    metrics_of,
    query,
    write_parquet,
)
from miras_search.runs import RunFolder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "first", survey(), steps=True)


@pytest.fixture(scope="module")
def frame(folder: Path) -> pd.DataFrame:
    return load_results(folder)


def test_a_row_a_trial_with_choices_and_parameters_as_columns(frame: pd.DataFrame) -> None:
    assert len(frame) == len(survey())
    assert frame["key"].is_unique
    row = frame[(frame["label"] == "moneta") & (frame["seed"] == 1)].iloc[0]
    assert (row["memory"], row["bias"], row["retention"], row["algorithm"]) == ("mlp", "lp", "lq", "gradient_descent")
    assert row["bias.p"] == 3.0
    assert row["retention.q"] == 4.0
    assert row["algorithm.chunk"] == 16
    assert row["backbone.width"] == 64
    assert row["optimiser.lr"] == 0.01
    assert row["run"] == "first"
    assert metrics_of(frame) == ["accuracy", "nll", "solved"]
    assert pd.isna(frame.loc[frame["bias"] == "dot", "bias.p"]).all()


def test_columns_are_typed(frame: pd.DataFrame) -> None:
    for name in ("n", "seed", "parameters", "state_bytes", "tokens", "algorithm.chunk", "backbone.layers"):
        assert frame[name].dtype == "Int64", name
    for name in ("accuracy", "seconds", "bias.p", "optimiser.lr"):
        assert frame[name].dtype == "float64", name
    assert frame["block.rope"].dtype == "boolean"
    assert str(frame["time"].dtype) == "datetime64[us, UTC]"
    assert not any(frame[c].dtype == object for c in frame)


def test_every_column_is_in_the_dictionary(frame: pd.DataFrame, folder: Path) -> None:
    for name in [*frame.columns, *load_steps(folder).columns, "bits_per_byte", "perplexity"]:
        assert name in DATA_DICTIONARY or f"{name.split('.')[0]}.*" in DATA_DICTIONARY or name == "seconds", name


def test_the_slow_way_gives_the_same(frame: pd.DataFrame, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "_arrow", lambda data: None)
    pd.testing.assert_frame_equal(frame, load_results(folder))


def test_parquet_gives_the_same_and_keeps_space_and_environment(frame: pd.DataFrame, tmp_path: Path) -> None:
    again = load_results(write_parquet(frame, tmp_path / "deep" / "first.parquet"))
    pd.testing.assert_frame_equal(frame, again)
    assert again.attrs == frame.attrs
    assert "recall-survey" in again.attrs["runs"]["first"]["space"]
    assert again.attrs["runs"]["first"]["environment"]["command"].startswith("miras-search sweep")
    assert again.attrs["runs"]["first"]["axes"] == ["bias", "optimiser.lr"]


def test_the_table_beside_a_ledger_is_read_while_it_is_of_that_ledger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_run(tmp_path / "run", [record(named.get("retnet"), 0, s, 0.4) for s in range(2)])
    whole = load_results(folder)
    frames.keep_results(folder)
    with monkeypatch.context() as parser:
        parser.setattr(frames, "_arrow", lambda data: pytest.fail("the ledger was parsed"))
        again = load_results(folder)
    pd.testing.assert_frame_equal(again, whole)
    assert again.attrs == whole.attrs
    with RunFolder.open(folder).lock():
        RunFolder.open(folder).ledger.append(record(named.get("retnet"), 0, 2, 0.4))
    assert len(load_results(folder)) == 3
    (folder / frames.RESULTS).write_bytes(b"PAR1 torn")
    assert len(load_results(folder)) == 3


def test_several_runs_are_one_table(frame: pd.DataFrame, folder: Path, tmp_path: Path) -> None:
    other = write_run(tmp_path / "second", [record(named.get("retnet"), 0, 0, 0.4, task="text")])
    both = load_results(folder, other)
    assert len(both) == len(frame) + 1
    assert set(both.attrs["runs"]) == {"first", "second"}
    assert both["algorithm.chunk"].dtype == "Int64"


def test_names_are_found_under_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run(tmp_path / "runs" / "first", [record(named.get("retnet"), 0, 0, 0.4)])
    monkeypatch.chdir(tmp_path)
    assert len(load_results("first")) == 1
    with pytest.raises(RunError) as error:
        load_results("frist")
    assert "did you mean 'first'?" in str(error.value)


def test_a_torn_line_waits_and_the_last_of_a_key_counts(tmp_path: Path) -> None:
    rows = [record(named.get("retnet"), 0, 0, None), record(named.get("retnet"), 0, 0, 0.5)]
    folder = write_run(tmp_path / "run", rows)
    with (folder / "ledger.jsonl").open("a") as file:
        file.write('{"schema_version":1,"key":"abc')
    frame = load_results(folder)
    assert frame["status"].tolist() == ["ok"]
    assert frame["cause"].tolist() == [""]


def test_numbers_that_are_not_finite_are_read(tmp_path: Path) -> None:
    rows = [record(named.get("retnet"), 0, s, 0.5, metrics={"nll": v}) for s, v in enumerate((float("nan"), 1.5))]
    frame = load_results(write_run(tmp_path / "nan", rows))
    assert frame["nll"].isna().tolist() == [True, False]
    rows.append(record(named.get("retnet"), 0, 3, 0.5, metrics={"nll": float("inf")}))
    assert load_results(write_run(tmp_path / "inf", rows))["nll"].iloc[2] == float("inf")


def test_what_is_no_run_is_refused_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "ledger.jsonl").write_text('{"key": 1}\n')
    (tmp_path / "torn.parquet").write_bytes(b"PAR1 not really")
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "other.parquet")
    cases = {
        "nowhere": "there is no run",
        "empty": "holds no ledger.jsonl",
        "bad": "bad/ledger.jsonl:1",
        "torn.parquet": "is no Parquet file",
        "other.parquet": "no column 'key'",
    }
    for name, text in cases.items():
        with pytest.raises(RunError) as error:
            load_results(tmp_path / name)
        assert text in str(error.value)
        assert error.value.hint
    with pytest.raises(RunError, match="has no finished trial yet"):
        load_results(write_run(tmp_path / "new", []))
    with pytest.raises(RunError, match="no run is named"):
        load_results()


def test_steps_join_their_trials(frame: pd.DataFrame, folder: Path, tmp_path: Path) -> None:
    steps = load_steps(folder)
    assert set(steps["key"]) <= set(frame["key"])
    assert {"run", "key", "step", "tokens", "loss", "lr", "grad_norm"} <= set(steps)
    one = steps[steps["key"] == frame.loc[frame["status"] == "ok", "key"].iloc[0]]
    assert one["step"].tolist() == list(range(2, 391, 2))
    file = write_parquet(frame, tmp_path / "x.parquet")
    assert load_steps(file).empty
    write_parquet(steps, tmp_path / "x.steps.parquet")
    assert len(load_steps(file)) == len(steps)


def test_steps_of_a_growing_file(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", [record(named.get("retnet"), 0, 0, 0.5)])
    trial = folder / "trials" / "0123456789abcdef"
    trial.mkdir()
    line = json.dumps({"step": 1, "tokens": 512, "loss": 2.0})
    (trial / "steps.jsonl").write_text(f'{line}\n{{"st\n{line}\n{{"step": 3')
    assert load_steps(folder)["loss"].tolist() == [2.0, 2.0]


def test_design_of_gives_the_design_back(frame: pd.DataFrame, folder: Path) -> None:
    for name in PUBLISHED:
        fingerprint = frame.loc[frame["label"] == name, "fingerprint"].iloc[0]
        assert design_of(frame, fingerprint[:10]).fingerprint == named.get(name).fingerprint
    assert design_of(folder, fingerprint).fingerprint == named.get(name).fingerprint
    with pytest.raises(DesignError, match="did you mean"):
        design_of(frame, fingerprint[:-1] + "x")
    with pytest.raises(DesignError, match="give more digits"):
        design_of(frame, "")


def test_query_filters_sorts_and_picks(frame: pd.DataFrame) -> None:
    found = query(frame, "bias == 'huber' and accuracy > 0.9", sort="-accuracy", columns=["label", "bias", "accuracy"])
    plain = frame[(frame["bias"] == "huber") & (frame["accuracy"] > 0.9)]
    assert list(found.columns) == ["label", "bias", "accuracy"]
    assert found["accuracy"].tolist() == sorted(plain["accuracy"], reverse=True)


@pytest.mark.parametrize(
    ("expr", "expected"),
    [
        ("bias.p == 3", lambda f: f["bias.p"] == 3),
        ("bias.p is None", lambda f: f["bias.p"].isna()),
        ("bias.p is not None and bias.p != 2", lambda f: f["bias.p"].notna() & (f["bias.p"] != 2)),
        ("not label", lambda f: f["label"] == ""),
        ("block.rope", lambda f: f["block.rope"]),
        (
            "bias in ('l2', 'dot') or retention not in ['none']",
            lambda f: f["bias"].isin(["l2", "dot"]) | (f["retention"] != "none"),
        ),
        ("0.8 < accuracy <= 0.9", lambda f: (f["accuracy"] > 0.8) & (f["accuracy"] <= 0.9)),
        ("optimiser.lr * backbone.width < 0.5", lambda f: f["optimiser.lr"] * 64 < 0.5),
        ("`optimiser.lr` > -1", lambda f: f["optimiser.lr"] > -1),
        ("(accuracy > 0.9) == True", lambda f: f["accuracy"] > 0.9),
        ("algorithm.chunk >= 16", lambda f: (f["algorithm.chunk"] >= 16).fillna(False)),
        ("not (accuracy > 0.5)", lambda f: ~(f["accuracy"] > 0.5)),
        ("time > '2020-01-01'", lambda f: f["seed"] >= 0),
        ("", lambda f: f["seed"] >= 0),
    ],
)
def test_expressions(frame: pd.DataFrame, expr: str, expected: object) -> None:
    want = frame[expected(frame).astype(bool)]  # type: ignore[operator]
    assert query(frame, expr)["key"].tolist() == want["key"].tolist()


@pytest.mark.parametrize(
    ("expr", "said"),
    [
        ("acuracy > 0.9", "did you mean 'accuracy'?"),
        ("bias.q > 1", "there is no column 'bias.q'"),
        ("bias = 'l2'", "equality is `==`"),
        ("bias == ", "cannot be read"),
        ("bias > 3", "column 'bias' holds text, 3 is a number"),
        ("accuracy == 'high'", "column 'accuracy' holds numbers, 'high' is text"),
        ("__import__('os').system('true')", "is not understood"),
        ("bias + 1 > 2", "`bias` is no number"),
        ("bias in 'l2'", "is no list"),
        ("bias is 'l2'", "asks for empty cells only"),
        ("bias < accuracy", "cannot be compared"),
        ("[x for x in bias]", "is not understood"),
    ],
)
def test_expressions_that_are_wrong_say_so(frame: pd.DataFrame, expr: str, said: str) -> None:
    with pytest.raises(RunError) as error:
        query(frame, expr)
    assert said in str(error.value)
    assert expr in str(error.value)
    assert error.value.hint


def test_wrong_columns_say_so(frame: pd.DataFrame) -> None:
    for call in ({"sort": "-acuracy"}, {"columns": ["acuracy"]}):
        with pytest.raises(RunError, match="there is no column 'acuracy'"):
            query(frame, **call)  # type: ignore[arg-type]


def test_a_parquet_file_that_cannot_be_written(frame: pd.DataFrame, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be written"):
        write_parquet(frame, tmp_path / "file" / "x.parquet")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """The address of a folder on this machine."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path))) as served:
        Thread(target=served.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{served.server_port}"
        served.shutdown()


def test_a_table_is_read_from_a_url(frame: pd.DataFrame, tmp_path: Path, server: str) -> None:
    """A file, or the folder of a run by the table that its sweep leaves there; steps stay where they are."""
    write_parquet(frame, tmp_path / "first" / frames.RESULTS)
    for url in (f"{server}/first", f"{server}/first/{frames.RESULTS}"):
        pd.testing.assert_frame_equal(frame, load_results(url))
    assert load_steps(f"{server}/first").empty
    with pytest.raises(RunError, match="404"):
        load_results(f"{server}/second")
    with pytest.raises(RunError, match="cannot be read: Protocol not known: nowhere"):
        load_results("nowhere://second")
