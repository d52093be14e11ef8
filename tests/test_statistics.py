from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from miras_search.errors import RunError
from miras_search.statistics import (
    balanced,
    choice_effects,
    failure_rates,
    mean_interval,
    paired_difference,
    pareto_front,
    solve_rate,
    t_quantile,
    unchosen,
    wilson_interval,
)


@pytest.mark.parametrize(
    ("p", "df", "table"),
    [
        (0.975, 1, 12.7062),
        (0.975, 2, 4.30265),
        (0.975, 3, 3.18245),
        (0.975, 4, 2.77645),
        (0.975, 9, 2.26216),
        (0.95, 30, 1.69726),
        (0.995, 5, 4.03214),
        (0.999, 120, 3.15954),
    ],
)
def test_t_quantile_is_that_of_the_tables(p: float, df: int, table: float) -> None:
    assert t_quantile(p, df) == pytest.approx(table, rel=1e-5)
    assert t_quantile(1 - p, df) == pytest.approx(-table, rel=1e-5)


def test_t_quantile_refuses_what_has_none() -> None:
    for p, df in ((0.0, 3), (1.0, 3), (0.9, 0)):
        with pytest.raises(ValueError, match="no quantile"):
            t_quantile(p, df)


def test_mean_interval_by_hand() -> None:
    found = mean_interval([1.0, 2.0, 3.0])
    half = 4.302653 * 1.0 / math.sqrt(3)
    assert found.estimate == 2.0
    assert (found.low, found.high) == pytest.approx((2 - half, 2 + half), rel=1e-6)
    assert (found.n, found.method) == (3, "t")


def test_one_seed_has_no_interval_and_missing_values_are_left_out() -> None:
    one = mean_interval([0.5, math.nan])
    assert one.estimate == 0.5
    assert one.n == 1
    assert not one.known
    assert not one.excludes_zero
    assert mean_interval([]).n == 0


def test_bounds_cut_the_interval() -> None:
    found = mean_interval([0.9, 1.0], bounds=(0.0, 1.0))
    assert found.high == 1.0
    assert found.low >= 0.0


@pytest.mark.parametrize(("method", "n"), [("t", 4), ("bootstrap", 40)])
def test_intervals_cover_the_truth(method: str, n: int) -> None:
    rng = np.random.default_rng(0)
    samples = rng.normal(3.0, 2.0, (300, n))
    found = [mean_interval(x, method=method, resamples=400) for x in samples]  # type: ignore[arg-type]
    assert np.mean([f.low <= 3.0 <= f.high for f in found]) >= 0.90


def test_pairing_removes_what_seeds_share() -> None:
    seeds = dict(enumerate([0.1, 0.5, 0.9, 0.3]))
    better = {seed: value + 0.05 + 0.001 * seed for seed, value in seeds.items()} | {9: 100.0}
    found = paired_difference(better, seeds)
    assert found.n == 4
    assert found.estimate == pytest.approx(0.0515)
    assert found.excludes_zero
    assert not paired_difference(seeds, {7: 1.0}).n


def test_pairing_refuses_what_cannot_be_paired() -> None:
    with pytest.raises(ValueError, match="cannot be paired"):
        paired_difference([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="stands twice"):
        paired_difference(pd.Series([1.0, 2.0], index=[0, 0]), pd.Series([1.0], index=[0]))


def survey_table(noise: float, seed: int = 0) -> pd.DataFrame:
    """Balanced: bias adds 0, 1, 2; retention nothing."""
    rng = np.random.default_rng(seed)
    rows = []
    for i, bias in enumerate(("dot", "l2", "huber")):
        for retention in ("none", "l2"):
            for k in range(6):
                base = float(i) + rng.normal(0, noise)
                for s in range(2):
                    name = f"{bias}-{retention}-{k}"
                    row = {"memory": "mlp", "bias": bias, "retention": retention, "algorithm": "gd", "seed": s}
                    rows.append(
                        row | {"fingerprint": name, "accuracy": base + rng.normal(0, noise / 4), "status": "ok"}
                    )
    return pd.DataFrame(rows)


def test_effects_are_the_marginal_means() -> None:
    effects = choice_effects(survey_table(0.0), "accuracy").set_index(["choice", "value"])
    assert list(effects.loc["bias"]["mean"]) == [0.0, 2.0, 1.0]  # dot, huber, l2
    assert effects.loc[("retention", "l2"), "mean"] == 1.0
    assert "memory" not in effects.index.get_level_values(0)
    assert effects.loc[("bias", "l2"), ["candidates", "trials"]].tolist() == [12, 24]


def test_effects_cover_the_truth_of_a_balanced_survey() -> None:
    truth = {"dot": 0.0, "l2": 1.0, "huber": 2.0}
    inside = []
    for seed in range(60):
        effects = choice_effects(survey_table(0.5, seed), "accuracy", resamples=400)
        bias = effects[effects["choice"] == "bias"]
        inside += [row.low <= truth[str(row.value)] <= row.high for row in bias.itertuples()]
    assert np.mean(inside) >= 0.85  # percentile bootstrap of twelve values, nominal 0.95


def test_balance_is_seen() -> None:
    table = survey_table(0.1)
    assert balanced(table)
    assert not balanced(table[~((table["bias"] == "dot") & (table["retention"] == "l2"))])


def test_failure_rates_are_counted_by_choice() -> None:
    table = survey_table(0.1)
    table.loc[table["bias"] == "dot", "status"] = "diverged"
    table.loc[table["bias"] == "l2", "status"] = "pruned"
    rates = failure_rates(table).set_index(["choice", "value"])
    assert rates.loc[("bias", "dot"), "rate"] == 1.0
    assert rates.loc[("bias", "l2"), "failed"] == 0
    assert rates.loc[("memory", "mlp"), ["failed", "trials"]].tolist() == [24, 72]


@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=30),
    st.tuples(*[st.sampled_from(["max", "min"])] * 3),
)
def test_front_is_what_no_other_beats(points: list[tuple[int, int, int]], goals: tuple[str, str, str]) -> None:
    signs = [1 if g == "min" else -1 for g in goals]
    cost = [[s * v for s, v in zip(signs, p, strict=True)] for p in points]

    def beats(a: list[int], b: list[int]) -> bool:
        return all(x <= y for x, y in zip(a, b, strict=True)) and a != b

    assert pareto_front(points, goals).tolist() == [not any(beats(b, a) for b in cost) for a in cost]


def test_front_leaves_missing_values_out_and_checks_goals() -> None:
    assert pareto_front([[1.0, math.nan], [0.0, 1.0]], ["max", "min"]).tolist() == [False, True]
    with pytest.raises(ValueError, match="do not go with"):
        pareto_front([[1.0, 2.0]], ["max"])


def test_wilson_by_hand() -> None:
    found = wilson_interval(81, 263)  # Newcombe 1998, table I: 0.2553 to 0.3662
    assert (found.low, found.high) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson_interval(0, 10).low == 0.0
    assert wilson_interval(10, 10).high == 1.0
    assert wilson_interval(0, 0).n == 0
    with pytest.raises(ValueError, match="3 successes of 2"):
        wilson_interval(3, 2)


def test_solve_rate_counts_seeds_that_reach_the_threshold() -> None:
    found = solve_rate([0.99, 0.97, 0.1, math.nan], threshold=0.95)
    assert (found.estimate, found.n) == (pytest.approx(2 / 3), 3)


def test_effects_of_trials_that_an_optimiser_chose_are_refused() -> None:
    table = survey_table(0.1)
    table["how"] = ["tpe" if i % 3 == 0 else "survey" for i in range(len(table))]
    with pytest.raises(RunError, match=r"24 of 72 trials were drawn by tpe, which follows results") as caught:
        choice_effects(table, "accuracy")
    assert "sampler: survey" in str(caught.value)
    assert choice_effects(unchosen(table), "accuracy")["trials"].max() <= 48
