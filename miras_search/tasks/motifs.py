"""Motifs: short sequences of distinct tokens, many at once, from random words or from hashes."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Motifs(NamedTuple):
    """Motifs: `tokens` a list of planes [R, n], of which the first `size` count; int64 [R, n]; `code`, equal for equal motifs."""

    tokens: list[NDArray[np.int64]]
    size: NDArray[np.int64]
    code: NDArray[np.int64]

    def where(self, there: NDArray[np.bool_], other: Motifs) -> Motifs:
        """These, and others `there`."""
        import numpy as np

        planes = [np.where(there, new, old) for new, old in zip(other.tokens, self.tokens, strict=True)]
        return Motifs(planes, np.where(there, other.size, self.size), np.where(there, other.code, self.code))


def spelt(words: NDArray[np.uint64], size: NDArray[np.int64], most: int, low: int, count: int) -> Motifs:
    """Motifs of `size` distinct tokens of low .. low + count - 1, from random words: each token a digit of its word."""
    import numpy as np

    tokens: list[NDArray[np.int64]] = []
    sorted_: list[NDArray[np.int64]] = []
    code = np.zeros_like(size)
    for i in range(most):
        rest = words // np.uint64(count - i)
        token = (words - rest * np.uint64(count - i)).view(np.int64)
        words = rest
        for earlier in sorted_:  # the tokens that are left are counted
            token += token >= earlier
        tokens.append(token + low)
        code += np.where(i < size, token + 1, 0) * (count + 1) ** i
        for j, earlier in enumerate(sorted_):
            sorted_[j], token = np.minimum(earlier, token), np.maximum(earlier, token)
        sorted_.append(token)
    return Motifs(tokens, size, code)


def mixed(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """splitmix64: 64-bit words hashed."""
    import numpy as np

    with np.errstate(over="ignore"):
        words = words + np.uint64(0x9E3779B97F4A7C15)
        words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return words ^ (words >> np.uint64(31))
