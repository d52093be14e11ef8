"""Four probes, one a choice: vectors, no language, seconds each. Each drives one bare memory and knows what could be reached.

At every token a key and a value are written, then a query is read (`miras_search.heads.BareMemory`): the error at position t is
that of a memory which has seen t + 1 pairs. Entries of keys, values and maps are small integers times one power of two or one
correctly rounded number, so that the bytes are the same on every machine; keys have unit length, targets unit variance a
coordinate.

`error`: mean squared error a coordinate, 1 for a memory that answers zero. `excess`: that less the error of the optimum or
baseline that the class names, computed on the same rows; below zero it is beaten.

Shapes: `R` rows, `T` positions, `D` the dimension of keys and values.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from miras_search.choice import register
from miras_search.tasks.base import Metric, Totals
from miras_search.tasks.draws import Draws
from miras_search.tasks.synthetic import Drawn, Split, Synthetic, fixed

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from miras_search.candidate import Candidate
    from miras_search.tasks.synthetic import Rows

    Floats = NDArray[np.float64]


class Probe(Synthetic):
    """What the four share: `dim` of keys and values, a power of two, and `length` pairs a row.

    A probe replaces the candidate's backbone by one memory of one head of dimension `dim`; of the block only `output: zeroed` acts.
    """

    head: ClassVar[Literal["tokens", "autoencoder", "memory"]] = "memory"
    metrics: ClassVar[tuple[Metric, ...]] = (Metric("error", "min"), Metric("excess", "min"))

    dim: Literal[8, 16, 32, 64] = 16
    length: int = Field(64, ge=2, le=65536)
    validation: int = Field(128, ge=1)
    test: int = Field(256, ge=1)

    @property
    def vocab(self) -> int:
        """There are no tokens."""
        return 0

    @property
    def context(self) -> int:
        """Pairs a row."""
        return self.length

    @property
    def longer(self) -> str:
        """How to lengthen the rows."""
        return "raise the task's `length`"

    def trained(self, candidate: Candidate) -> Candidate:
        """One memory of one head."""
        small = {"width": self.dim, "heads": 1, "layers": 1, "ffn": 0.0}
        return candidate.model_copy(update={"backbone": candidate.backbone.model_copy(update=small)})

    @property
    def together(self) -> int:
        """One batch: committed results were trained on these bytes."""
        return 1

    def prepare(self, cache: Path | None = None) -> Probed:
        """Nothing to read."""
        return Probed(self)

    def best(self, q: Floats, k: Floats, v: Floats) -> Floats:
        """Answers of the known optimum or baseline, causal; all [R, T, D].

        By default least squares with a vanishing ridge: what the best matrix could know.
        """
        return filtered(q, k, v, noise=1e-6)

    def baseline(self, q: Floats, k: Floats, v: Floats, targets: Floats) -> float:
        """Error of `best` a coordinate."""
        import numpy as np

        return float(np.square(self.best(q, k, v) - targets).mean())

    def metrics_from(self, totals: Totals) -> dict[str, float]:
        """Error, and how much of it is not the baseline's."""
        floor = math.nan if totals.floor is None else totals.floor
        return {"error": totals.mean_nll, "excess": totals.mean_nll - floor}

    def spell(self, token: int) -> str:
        """Vectors have no names."""
        raise TypeError("a probe has vectors, no tokens")


class Probed(Drawn):
    """Rows of a probe, with the error of its baseline."""

    task: Probe

    @cached_property
    def _floors(self) -> dict[str, float]:
        import numpy as np

        found: dict[str, float] = {}
        splits: tuple[Literal["validation", "test"], ...] = ("validation", "test")
        for split in splits:
            inputs, targets = (x.astype(np.float64) for x in fixed(self.task, split))
            found[split] = self.task.baseline(inputs[:, :, 0], inputs[:, :, 1], inputs[:, :, 2], targets)
        return found

    def floor(self, split: Literal["validation", "test"]) -> float:
        """Error of the optimum or baseline on a split."""
        return self._floors[split]


class Capacity(Probe):
    """Capacity: random pairs without structure, and a read of one of those written so far. Separates the memory.

    Keys and values are independent random signs, so nothing can be inferred and every pair needs room of its own; a bias, gate or
    algorithm cannot make room. Baseline: the best matrix, by recursive least squares: no error up to D pairs, then about 1 - D / t
    on t pairs, whatever the inner loss. More state than D^2 numbers can go below it (`excess` < 0): deep memories, and
    attention, which keeps all pairs. Compare at equal `state_bytes`; `loss_by_position` is the error at a load of t pairs.
    """

    kind: Literal["probe_capacity"] = "probe_capacity"

    def draw(self, draws: Draws, rows: int, split: Split = "train") -> Rows:
        """Pairs of signs; the query is an earlier key or the present one, each alike."""
        import numpy as np

        n, d = self.length, self.dim
        keys, values = signs(draws, rows, n, d), signs(draws, rows, n, d)
        at = (draws.raw(rows, n) % np.arange(1, n + 1, dtype=np.uint64)).astype(np.int64)[:, :, None]
        queries = np.take_along_axis(keys, at, axis=1)
        return _pack(queries, keys, values, d**-0.5), np.take_along_axis(values, at, axis=1).astype(np.float32)


class Outliers(Probe):
    """Outliers: values of a fixed linear map with heavy-tailed errors. Separates the bias.

    v = W k + n, W of random signs, one a row; every coordinate of n is +- `scale` 2^(G // `tail`), G geometric (P(G >= g) = 2^-g), so
    that P(|n| >= scale 2^m) = 2^(-m tail): for `tail` 1 it has no mean, for 2 no variance (cut at 2^12). Queries are
    fresh keys, targets W q. A step of the squared loss is as long as the error, so one outlier undoes many writes; a bias whose
    cotangent is bounded, or grows slowly, moves by a bounded amount. All gates are constant here, so none can tell an outlier.
    Baseline: ridge regression on all pairs so far, its ridge the best in hindsight: the most that the squared loss can do without
    knowing the outliers; it differs much from one set of rows to another, since a few outliers decide it. Compare biases on the same rows.
    """

    kind: Literal["probe_outliers"] = "probe_outliers"
    tail: int = Field(2, ge=1, le=8)
    scale: float = Field(0.25, ge=0.0)

    def draw(self, draws: Draws, rows: int, split: Split = "train") -> Rows:
        """Noisy values of one map a row."""
        import numpy as np

        n, d = self.length, self.dim
        table, keys, queries = signs(draws, rows, d, d), signs(draws, rows, n, d), signs(draws, rows, n, d)
        words = draws.raw(rows, n, d)
        size = np.zeros(words.shape, dtype=np.int64)
        for bit in range(1, 12 * self.tail + 1):  # bit 0 is the sign
            size += (words & np.uint64((1 << (bit + 1)) - 2)) == 0
        noise = (1 - 2 * (words & np.uint64(1)).astype(np.int64)) * 2.0 ** (size // self.tail)
        clean = keys @ table.swapaxes(1, 2) * d**-0.5
        vectors = _pack(queries, keys, clean + self.scale * noise, d**-0.5)
        return vectors, (queries @ table.swapaxes(1, 2) * d**-0.5).astype(np.float32)

    def baseline(self, q: Floats, k: Floats, v: Floats, targets: Floats) -> float:
        """Error of ridge regression, the best of ridges from 4^-3 to 4^8."""
        import numpy as np

        answers = (filtered(q, k, v, noise=4.0**i) for i in range(-3, 9))
        return min(float(np.square(answer - targets).mean()) for answer in answers)


class Drift(Probe):
    """Overwrite and drift: a linear map that changes while it is learned. Separates the retention.

    v = W_t k + n; after every token the whole of W (`change: all`), or each entry by itself (`entries`), is drawn anew with
    probability `rate`; n is +- `noise` a coordinate. Queries are fresh keys, targets W_t q. What was written goes stale at a
    known rate: never forgetting answers with maps that are gone, and forgetting too fast wastes pairs. Optimum: the
    Kalman filter of W_t = (1 - rate) W_(t-1) + process noise, which is the best linear estimator for both kinds of change, since
    their second moments are those of this model; its decay 1 - rate is what a gate should learn. For `change: all` an estimator
    that is not linear, one that notices the change, may go below it.
    """

    kind: Literal["probe_drift"] = "probe_drift"
    rate: float = Field(0.03125, gt=0.0, lt=1.0)
    noise: float = Field(0.25, ge=0.0)
    change: Literal["all", "entries"] = "entries"
    length: int = Field(128, ge=2, le=65536)

    def draw(self, draws: Draws, rows: int, split: Split = "train") -> Rows:
        """Values of a changing map."""
        import numpy as np

        n, d = self.length, self.dim
        keys, queries = signs(draws, rows, n, d), signs(draws, rows, n, d)
        table = signs(draws, rows, d, d)
        limit = np.uint64(int(self.rate * 2.0**64))
        values, targets = np.empty((2, rows, n, d), dtype=np.int64)
        for t in range(n):
            if t:
                shape = (rows, 1, 1) if self.change == "all" else (rows, d, d)
                table = np.where(draws.raw(*shape) < limit, signs(draws, rows, d, d), table)
            values[:, t] = (table @ keys[:, t, :, None])[:, :, 0]
            targets[:, t] = (table @ queries[:, t, :, None])[:, :, 0]
        noisy = values * d**-0.5 + self.noise * signs(draws, rows, n, d)
        return _pack(queries, keys, noisy, d**-0.5), (targets * d**-0.5).astype(np.float32)

    def best(self, q: Floats, k: Floats, v: Floats) -> Floats:
        """The Kalman filter."""
        return filtered(q, k, v, noise=max(1e-6, self.noise**2), decay=1.0 - self.rate)


class IllConditioned(Probe):
    """Ill-conditioned keys: a fixed linear map, seen through keys of very unequal spread. Separates the algorithm.

    k = c H diag(2^(-i s)) x, x random signs, H a Hadamard matrix with rows and signs shuffled anew for every row of the batch, so no
    projection learned outside can whiten the keys; the spread s is such that the condition number of the keys' covariance is
    about `condition`. v = W k without noise; queries are keys, targets W q for a direction of equal spread, so that the small
    directions count. One gradient step a token learns a direction at the rate of its variance: the smallest one takes
    `condition` times longer, whatever bias and gate; updates that use second-order information need not.
    Measured, 60 training steps of the defaults, seed 0: gradient .433, momentum .432 (it does not help on pairs that come one by one),
    `newton` .124. Optimum: recursive least squares, which has no error once it has seen D pairs: .118.
    """

    kind: Literal["probe_ill_conditioned"] = "probe_ill_conditioned"
    condition: float = Field(64.0, ge=1.0, le=2.0**20)

    def draw(self, draws: Draws, rows: int, split: Split = "train") -> Rows:
        """Keys of unequal spread, queries of equal spread in the same directions."""
        import numpy as np

        n, d = self.length, self.dim
        # variances are powers of four from 1 to 4^-steps, in equal groups, so that all is exact
        steps = round(math.log(self.condition, 4))
        spread = 2.0 ** -(np.arange(d) * (steps + 1) // d)
        turn = np.array([[1]], dtype=np.int64)
        while len(turn) < d:
            turn = np.block([[turn, turn], [turn, -turn]])
        frame = turn[draws.orders(rows, d)] * signs(draws, rows, 1, d)  # [R, D, D], rows orthogonal
        table = signs(draws, rows, d, d)
        x, y = signs(draws, rows, n, d), signs(draws, rows, n, d)
        keys, queries = (x * spread) @ frame, y @ frame
        unit = float(np.sqrt(d * np.square(spread).sum()))
        vectors = np.empty((rows, n, 3, d), dtype=np.float32)
        vectors[:, :, 0] = queries / d
        vectors[:, :, 1] = keys / unit
        vectors[:, :, 2] = keys @ table.swapaxes(1, 2) / unit
        return vectors, (queries @ table.swapaxes(1, 2) / d).astype(np.float32)

    def best(self, q: Floats, k: Floats, v: Floats) -> Floats:
        """Recursive least squares; the inputs are float32, hence the ridge."""
        return filtered(q, k, v, noise=1e-9)


def filtered(q: Floats, k: Floats, v: Floats, *, noise: float, decay: float = 1.0) -> Floats:
    """Answers W_t q_t of the Kalman filter of v_t = W_t k_t + n, W_t = decay W_(t-1) + process noise, after the t-th pair.

    The prior of an entry of W has mean 0 and variance 1, and the process noise keeps it: 1 - decay^2. With decay 1 it is recursive
    least squares, that is ridge regression with the ridge `noise`.

    Args:
        q, k, v: [R, T, D].
        noise: variance of a coordinate of n.
        decay: in [0, 1].
    """
    import numpy as np

    rows, _, d = k.shape
    spread = np.broadcast_to(np.eye(d), (rows, d, d))  # covariance of a row of W, the same for all
    weights = np.zeros((rows, v.shape[-1], d))
    out = np.empty_like(v)
    for t, (query, key, value) in enumerate(_steps(q, k, v)):
        if t:
            weights = decay * weights
            spread = decay**2 * spread + (1.0 - decay**2) * np.eye(d)
        seen = spread @ key[:, :, None]  # [R, D, 1]
        gain = seen / (key[:, None, :] @ seen + noise)
        error = value - (weights @ key[:, :, None])[:, :, 0]
        weights = weights + error[:, :, None] * gain.swapaxes(1, 2)
        left = np.eye(d) - gain * key[:, None, :]
        spread = left @ spread @ left.swapaxes(1, 2) + noise * gain * gain.swapaxes(
            1, 2
        )  # stays positive under rounding
        out[:, t] = (weights @ query[:, :, None])[:, :, 0]
    return out


def _steps(*arrays: Any) -> Iterator[Any]:
    return zip(*(x.swapaxes(0, 1) for x in arrays), strict=True)


def signs(draws: Draws, *shape: int) -> NDArray[np.int64]:
    """Random +1 and -1, 64 to a word."""
    import numpy as np

    count = math.prod(shape)
    words = draws.raw(-(-count // 64))
    bits = (words[:, None] >> np.arange(64, dtype=np.uint64)) & np.uint64(1)
    return (1 - 2 * bits.astype(np.int64)).reshape(-1)[:count].reshape(shape)


def _pack(q: NDArray[Any], k: NDArray[Any], v: NDArray[Any], unit: float) -> NDArray[np.float32]:
    """[R, T, 3, D] float32: queries and keys times `unit`, values as they are."""
    import numpy as np

    return np.stack([q * unit, k * unit, v.astype(np.float64)], axis=2).astype(np.float32)


VARIANTS = register(Capacity, Outliers, Drift, IllConditioned)
