"""Random numbers of drawn tasks: the same on every machine and numpy version."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Draws:
    """Random numbers of (seed, stream, step), the same on every machine and numpy version.

    Only the raw 64-bit output of PCG64 is used: numpy guarantees that, but not its distributions.
    """

    def __init__(self, seed: int, stream: int, step: int) -> None:
        import numpy as np

        # spawn_key, not a longer entropy list: SeedSequence pads entropy with zeros, so [1] and [1, 0] would be one.
        self._bits = np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(stream, step)))

    def raw(self, *shape: int) -> NDArray[np.uint64]:
        """Uniform 64-bit words."""
        return self._bits.random_raw(math.prod(shape)).reshape(shape)

    def below(self, n: int, *shape: int) -> NDArray[np.int64]:
        """Uniform integers in [0, n), int64; the bias is below n / 2**64."""
        import numpy as np

        words = self.raw(*shape)
        whole = words // np.uint64(n)  # numpy divides several at once, but does not take `%` so
        whole *= np.uint64(n)
        left: NDArray[np.int64] = np.subtract(words, whole, out=whole).view(np.int64)
        return left

    def halves(self, *shape: int) -> NDArray[np.uint32]:
        """Uniform 32-bit words, two of every 64."""
        return self._parts("<u4", shape)

    def octets(self, *shape: int) -> NDArray[np.uint8]:
        """Uniform bytes, eight of every word."""
        return self._parts("<u1", shape)

    def few(self, n: int | NDArray[np.int64], *shape: int) -> NDArray[np.int64]:
        """Uniform integers in [0, n), int64, n < 2**32, at half the words of `below`; the bias is below n / 2**32."""
        import numpy as np

        words = self.halves(*shape).astype(np.uint64)
        words *= np.uint64(n)
        words >>= np.uint64(32)
        numbers: NDArray[np.int64] = words.view(np.int64)
        return numbers

    def thrown(self, balls: int, cells: int, rows: int) -> NDArray[np.int64]:
        """How many of `balls` fall into each of `cells`, every ball alone and uniformly, int64 [rows, cells]."""
        import numpy as np

        if cells > 64 or cells & (cells - 1):
            cell = self.few(cells, rows, balls) + cells * np.arange(rows)[:, None]
            return np.bincount(cell.reshape(-1), minlength=rows * cells).reshape(rows, cells)
        # a bit a ball, 64 to a word, marks those of a cell; a word of random bits halves it
        words = -(-balls // 64)
        there = np.empty((cells, words, rows), dtype=np.uint64)
        there[0] = np.uint64(2**64 - 1)
        there[0, -1] >>= np.uint64(64 * words - balls)
        halvings = cells.bit_length() - 1
        for i, bits in enumerate(self.raw(halvings, words, rows)):
            old, new = there[: 1 << i], there[1 << i : 2 << i]
            np.bitwise_and(old, bits, out=new)
            old ^= new
        counts: NDArray[np.uint32] = np.bitwise_count(there).sum(1, dtype=np.uint32)
        return counts.T.astype(np.int64, order="C")

    def orders(self, rows: int, n: int) -> NDArray[np.int64]:
        """A random permutation of 0 .. n - 1 in every row, int64 [rows, n]."""
        import numpy as np

        return np.argsort(self.raw(rows, n), axis=1).astype(np.int64)

    def distinct(self, n: int, count: int, rows: int) -> NDArray[np.int64]:
        """`count` distinct numbers below n in every row, in random order, int64 [rows, count].

        All are drawn at once, and of equal ones all but the first again, until none are equal. Which is drawn again depends on places
        alone, never on values, so every choice is as likely as any other.
        """
        import numpy as np

        if 4 * count > n:
            return self.orders(rows, n)[:, :count]
        found, some = self.few(n, rows, count), np.arange(rows)
        bits = (count - 1).bit_length()
        kind: type[np.unsignedinteger[Any]] = np.uint32 if n << bits < 1 << 32 else np.uint64
        tagged: NDArray[np.unsignedinteger[Any]] = found.astype(kind)
        while True:
            tagged <<= kind(bits)
            tagged |= np.arange(count, dtype=kind)
            tagged.sort(axis=1)
            flat = tagged.reshape(-1)
            same = flat[1:] ^ flat[:-1] < kind(1 << bits)
            same[count - 1 :: count] = False  # neighbours of two rows
            at = 1 + np.flatnonzero(same)
            if not len(at):
                return found
            row = some[at // count]
            found[row, flat[at] & kind((1 << bits) - 1)] = self.few(n, len(at))
            some = row[np.flatnonzero(np.append(-1, row[:-1]) != row)]
            tagged = found[some].astype(kind)

    def weighted(self, weights: NDArray[np.floating[Any]], count: int, rows: int) -> NDArray[np.int64]:
        """`count` places in every row, one after another in proportion to the weights of what is left: [n] -> int64 [rows, count].

        A race of exponentials E_i / w_i, the first ones to arrive; E has a grain of 2^-32. The logarithm may differ between machines in
        its last bit; only the order counts, so a row differs with a chance of about n^2 2^-52.
        """
        import numpy as np

        n = len(weights)
        time = self.halves(rows, n).astype(np.float64)
        time += 0.5
        time *= 2.0**-32
        np.log(time, out=time)
        time *= -1.0 / weights
        # positive floats are ordered as their bits are, of which the last give way to the place
        tags = (1 << (n - 1).bit_length()) - 1
        order = time.view(np.int64)
        order &= ~tags
        order |= np.arange(n)
        order.sort(axis=1)
        return order[:, :count] & tags

    def _parts(self, kind: str, shape: tuple[int, ...]) -> NDArray[np.unsignedinteger[Any]]:
        import numpy as np

        count, size = math.prod(shape), np.dtype(kind).itemsize
        words = self.raw(-(-count * size // 8)).astype("<u8", copy=False)
        return words.view(kind)[:count].reshape(shape)
