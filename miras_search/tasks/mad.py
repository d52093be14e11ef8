"""The six tasks of MAD (mechanistic architecture design), in its distribution.

Shapes: `R` rows, `n` pairs of a row, `K` keys. Rows come out one token shorter than `length` where the task predicts the
next token. The publication varies one factor at a time from the baseline, 66 settings in all, best of six (learning rate,
weight decay) each: 396 runs an architecture.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, model_validator

from miras_search.choice import register
from miras_search.tasks.base import IGNORE, Published
from miras_search.tasks.draws import Draws
from miras_search.tasks.motifs import Motifs, mixed, spelt
from miras_search.tasks.synthetic import Split, Synthetic, pick

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from miras_search.tasks.synthetic import Rows

_SOURCE = "Poli et al. 2024, arXiv 2403.17844; github.com/athms/mad-lab, mad/data/instances.py"
_GRID: Mapping[str, tuple[float, ...]] = {"lr": (1e-4, 5e-4, 1e-3), "weight_decay": (0.0, 0.1)}


def _published(*scores: str) -> Published:
    models = ("Transformer", "Hyena", "multi-head Hyena", "Mamba", "GLA", "DeltaNet")
    said = ", ".join(f"{model} {score}" for model, score in zip(models, scores, strict=True))
    where = "% of macro accuracy, mean over the settings, dim 128, two blocks, 200 epochs"
    return Published(_SOURCE, "macro_accuracy", f"{said} ({where}; secondary sources)", _GRID)


class Mad(Synthetic):
    """What the six share: 12,800 training rows, rows of 128, tests of 1,280."""

    length: int = Field(128, ge=8, le=65536)
    vocabulary: int = Field(16, ge=8, le=65536)
    batch: int = Field(128, ge=1, le=65536)
    train: int = Field(12800, ge=0)
    validation: int = Field(1280, ge=1)
    test: int = Field(1280, ge=1)

    @property
    def vocab(self) -> int:
        """As the publication counts it, special tokens included."""
        return self.vocabulary

    @property
    def context(self) -> int:
        """Tokens a row: the last one is only predicted."""
        return self.length - 1

    @property
    def longer(self) -> str:
        """How to lengthen the rows."""
        return "raise the task's `length`"

    @property
    def together(self) -> int:
        """As elsewhere, but fewer for a large vocabulary: a row has a table of its keys."""
        return max(1, min(super().together, (1 << 22) // (self.batch * self.vocabulary)))


class MadRecall(Mad):
    """In-context recall of MAD: key-value pairs in a row, keys come again; their value must be predicted.

    `length / 2` pairs, keys drawn with replacement from the lower half of the vocabulary, each with one value of the upper half
    throughout the row; the last pair's key has occurred. Training predicts every next token, evaluation counts the values of keys
    that have occurred alone. `vocabulary` 16 (32, 64, 128), `length` 128 (256, 512, 1024), `train` 12,800 (6,400, 3,200, 1,600, 800).
    """

    kind: Literal["mad_recall"] = "mad_recall"
    published: ClassVar[Published | None] = _published("94.1", "81.7", "99.0", "90.4", "80.8", "100")

    def draw(self, draws: Draws, rows: int, split: Split = "train") -> Rows:
        """Rows of pairs."""
        return _pairs(draws, rows, self.length // 2, self.vocabulary, 0, 0.0, train=split == "train")

    @model_validator(mode="after")
    def _even(self) -> MadRecall:
        _check_even(self.length)
        return self


class MadNoisyRecall(Mad):
    """Noisy in-context recall of MAD: in-context recall, a share `noise` of whose pairs are two tokens of noise.

    Keys and values share `vocabulary` - `noise_vocabulary` ids. At least one pair is no noise (the original lets the protected one
    be the last, appended pair in 1 of 64 rows, and fails if all others are noise). `vocabulary` 32 (48, 80, 144), `noise` .2 (.4, .6, .8).
    """

    kind: Literal["mad_noisy_recall"] = "mad_noisy_recall"
    published: ClassVar[Published | None] = _published("86.8", "78.8", "98.6", "90.1", "81.6", "100")
    vocabulary: int = Field(32, ge=8, le=65536)
    noise_vocabulary: int = Field(16, ge=1, le=65536)
    noise: float = Field(0.2, ge=0.0, lt=1.0)

    def draw(self, draws: Draws, rows: int, split: Split = "train") -> Rows:
        """Rows of pairs, some of them noise."""
        pairs, noisy = self.length // 2, self.noise_vocabulary
        return _pairs(draws, rows, pairs, self.vocabulary - noisy, noisy, self.noise, train=split == "train")

    @model_validator(mode="after")
    def _room(self) -> MadNoisyRecall:
        if self.vocabulary - self.noise_vocabulary < 4:
            raise ValueError(
                f"vocabulary: {self.vocabulary} leaves {self.vocabulary - self.noise_vocabulary} ids for keys and "
                f"values beside noise_vocabulary: {self.noise_vocabulary}; raise vocabulary"
            )
        _check_even(self.length)
        return self


class MadFuzzyRecall(Mad):
    """Fuzzy in-context recall of MAD: keys and values are motifs of one to `motif` tokens.

    A motif is an ordered choice of distinct tokens. A row repeats pairs until it is nearly full, then asks for one that has
    occurred; it is padded on the left. Evaluation has keys of `motif` tokens only and counts the value tokens of keys that have
    occurred. The value of a key is a hash of the row and the key, so any number of motifs costs nothing. Repair: in the original a
    pair that is asked for late may not have been written; here it always is.
    """

    kind: Literal["mad_fuzzy_recall"] = "mad_fuzzy_recall"
    published: ClassVar[Published | None] = _published("29.8", "7.9", "14.4", "6.7", "6.9", "35.7")
    motif: int = Field(3, ge=1, le=4)
    length: int = Field(128, ge=32, le=65536)

    @property
    def context(self) -> int:
        """Tokens a row."""
        return self.length

    def draw(self, draws: Draws, rows: int, split: Split = "train") -> Rows:
        """Rows of motifs."""
        return _motifs(self, draws, rows, train=split == "train")

    def spell(self, token: int) -> str:
        """Padding as `_`."""
        return "_" if token == self.vocabulary - 1 else str(token)

    @model_validator(mode="after")
    def _room(self) -> MadFuzzyRecall:
        if (self.vocabulary - 1) // 2 < self.motif:
            raise ValueError(
                f"vocabulary: {self.vocabulary} has too few keys for motif: {self.motif}; raise vocabulary"
            )
        return self


class MadCopying(Mad):
    """Selective copying of MAD: `copy_tokens` tokens among blanks, to be written in order after a copy token.

    Blanks fall before a random one of the tokens, never after the last; then the copy token and as many blanks as there are tokens,
    at which they are scored. `length` 256 (512, 1024), `copy_tokens` 16 (32, 64, 96).
    """

    kind: Literal["mad_selective_copying"] = "mad_selective_copying"
    published: ClassVar[Published | None] = _published("99.6", "93.1", "93.0", "86.3", "88.6", "100")
    length: int = Field(256, ge=8, le=65536)
    copy_tokens: int = Field(16, ge=1, le=16384)

    @property
    def context(self) -> int:
        """Tokens a row."""
        return self.length

    def draw(self, draws: Draws, rows: int, split: Split = "train") -> Rows:
        """Tokens spread among blanks."""
        import numpy as np

        n, blank, copy = self.copy_tokens, self.vocabulary - 2, self.vocabulary - 1
        tokens = draws.few(blank, rows, n)
        blanks = draws.thrown(self.length - 2 * n - 1, n, rows)  # before each token
        at = blanks.cumsum(1)
        at += np.arange(n) + self.length * np.arange(rows)[:, None]
        inputs = np.full((rows, self.length), blank)
        inputs.reshape(-1)[at] = tokens
        inputs[:, self.length - n - 1] = copy
        targets = np.full((rows, self.length), IGNORE)
        targets[:, self.length - n :] = tokens
        return inputs, targets

    def spell(self, token: int) -> str:
        """Blank `_`, copy token `copy`."""
        return {self.vocabulary - 2: "_", self.vocabulary - 1: "copy"}.get(token, str(token))

    @model_validator(mode="after")
    def _room(self) -> MadCopying:
        if self.length <= 2 * self.copy_tokens + 1:
            raise ValueError(
                f"length: {self.length} has no room for copy_tokens: {self.copy_tokens} twice; raise length above "
                f"{2 * self.copy_tokens + 1}"
            )
        return self


class MadCompression(Mad):
    """Compression of MAD: random tokens through one vector, from which a decoder recovers them all.

    `length` - 1 tokens and a compression token, whose output plus a position goes through an MLP (`miras_search.heads`). Every
    token is scored, the compression token as well. `length` 32 (64, 128, 256).
    """

    kind: Literal["mad_compression"] = "mad_compression"
    head: ClassVar[Literal["tokens", "autoencoder", "memory"]] = "autoencoder"
    published: ClassVar[Published | None] = _published("51.6", "45.2", "44.8", "52.7", "38.8", "42.2")
    length: int = Field(32, ge=2, le=65536)

    @property
    def context(self) -> int:
        """Tokens a row."""
        return self.length

    def draw(self, draws: Draws, rows: int, split: Split = "train") -> Rows:
        """Uniform tokens."""
        inputs = draws.few(self.vocabulary - 1, rows, self.length)
        inputs[:, -1] = self.vocabulary - 1
        return inputs, inputs.copy()


class MadMemorization(Mad):
    """Memorization of MAD: a fixed map of keys to values, learned by the weights; no context is of use.

    Each key is followed by an insert token, at which its value is scored. Half of the ids are keys, so 256 rows of 16 keys show
    all of `vocabulary` 256 (512 .. 8192) many times, and less as it grows.
    """

    kind: Literal["mad_memorization"] = "mad_memorization"
    published: ClassVar[Published | None] = _published("85.2", "89.5", "89.4", "89.5", "63.3", "52.8")
    length: int = Field(32, ge=2, le=65536)
    vocabulary: int = Field(256, ge=8, le=65536)
    train: int = Field(256, ge=0)

    @property
    def context(self) -> int:
        """Tokens a row."""
        return self.length // 2 * 2

    def draw(self, draws: Draws, rows: int, split: Split = "train") -> Rows:
        """Keys of the map, the same in every split."""
        import numpy as np

        keys = (self.vocabulary - 1) // 2
        value = keys + Draws(12345, 4, 0).orders(1, self.vocabulary - 1 - keys)[0]
        asked = draws.below(keys, rows, self.length // 2)
        inputs = np.full((rows, self.context), self.vocabulary - 1, dtype=np.int64)
        targets = np.full_like(inputs, IGNORE)
        inputs[:, ::2] = asked
        targets[:, 1::2] = value[asked]
        return inputs, targets


def _check_even(length: int) -> None:
    if length % 2:
        raise ValueError(f"length: {length} is not a number of pairs; make it even")


def _pairs(draws: Draws, rows: int, n: int, ids: int, noisy: int, share: float, *, train: bool) -> Rows:
    """`n` pairs a row of `ids` keys and values, then `noisy` ids of noise; the last key has occurred before."""
    import numpy as np

    keys = ids // 2
    value_of = keys + draws.below(ids - keys, rows, keys)  # [R, K]
    key = draws.below(keys, rows, n - 1)
    noise = np.zeros((rows, n - 1), dtype=bool)
    if share > 0:
        noise = draws.raw(rows, n - 1) < np.uint64(int(share * 2.0**64))
        np.put_along_axis(noise, draws.below(n - 1, rows, 1), False, axis=1)
    shown = np.zeros((rows, keys), dtype=bool)
    np.logical_or.at(shown, (np.arange(rows)[:, None], key), ~noise)
    last = np.where(shown, draws.raw(rows, keys) >> np.uint64(1), 0).argmax(axis=1)[:, None]
    key = np.concatenate([key, last], axis=1)
    noise = np.concatenate([noise, np.zeros((rows, 1), dtype=bool)], axis=1)
    value = pick(value_of, key)

    tokens = np.stack([key, value], axis=2)
    if share > 0:
        tokens = np.where(noise[:, :, None], ids + draws.below(noisy, rows, n, 2), tokens)
    tokens = tokens.reshape(rows, 2 * n)
    targets = tokens.copy()
    if not train:
        targets[:, ::2] = IGNORE
        targets[:, 1::2] = np.where(_again(key, noise), value, IGNORE)
    return tokens[:, :-1], targets[:, 1:]


def _again(key: NDArray[np.int64], without: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Whether a key has occurred earlier in its row, [R, n]; those `without` count as absent."""
    import numpy as np

    n = key.shape[1]
    marked = np.where(without, -1 - np.arange(n), key)
    order = np.argsort(marked, axis=1, kind="stable")
    ordered = pick(marked, order)
    same = np.zeros(key.shape, dtype=bool)
    same[:, 1:] = ordered[:, 1:] == ordered[:, :-1]
    out = np.empty_like(same)
    np.put_along_axis(out, order, same, axis=1)
    return out


def _motifs(task: MadFuzzyRecall, draws: Draws, rows: int, *, train: bool) -> Rows:
    import numpy as np

    most, length, pad = task.motif, task.length, task.vocabulary - 1
    keys = pad // 2

    def key_of(n: int) -> Motifs:
        size = 1 + draws.few(most, rows, n) if train else np.full((rows, n), most)
        return spelt(draws.raw(rows, n), size, most, 0, keys)

    def value_of(key: Motifs) -> Motifs:
        words = mixed(salt ^ mixed(key.code.view(np.uint64)))
        rest = words // np.uint64(most)
        size = 1 + (words - rest * np.uint64(most)).view(np.int64)
        return spelt(rest, size, most, keys, pad - keys)

    n = length // (2 if train else most + 1) + 1
    key, probe, salt = key_of(n), key_of(1), draws.raw(rows, 1)
    value, asked = value_of(key), value_of(probe)
    probe_size = probe.size + asked.size
    # The pair that is asked for comes at the first start from `from_` on, unless it was drawn before that.
    from_ = draws.few(length - probe_size - 4 * most, rows, 1)
    size = key.size + value.size
    place = (size.cumsum(1) - size >= from_).argmax(1)[:, None]
    number = np.arange(n)
    drawn = ((key.code == probe.code) & (number < place)).any(1)[:, None]
    put = (number == place) & ~drawn
    key, value = key.where(put, probe), value.where(put, asked)
    size = key.size + value.size
    kept = size.cumsum(1) - size < length - probe_size - 2 * most
    total = (size * kept).sum(1)[:, None] + probe_size

    # a row is what counts of its pairs, the one that is asked for last, behind padding
    kept = np.append(kept, np.ones((rows, 1), dtype=bool), axis=1)
    pairs = np.empty((rows, n + 1, 2, most), dtype=np.int32)
    counts = np.empty(pairs.shape, dtype=bool)
    for part, (all_, last) in enumerate(((key, probe), (value, asked))):
        for i in range(most):
            pairs[:, :-1, part, i], pairs[:, -1:, part, i] = all_.tokens[i], last.tokens[i]
            counts[:, :-1, part, i], counts[:, -1:, part, i] = i < all_.size, i < last.size
    counts &= kept[:, :, None, None]
    inside = np.arange(length + 1) > length - total
    tokens = np.full((rows, length + 1), pad)
    tokens[inside] = pairs[counts]
    if train:
        return tokens[:, :-1], tokens[:, 1:]
    pairs[:, :, 0] = IGNORE
    pairs[~_again(np.append(key.code, probe.code, axis=1), ~kept)] = IGNORE
    targets = np.full((rows, length + 1), IGNORE)
    targets[inside] = pairs[counts]
    return tokens[:, :-1], targets[:, 1:]


VARIANTS = register(MadRecall, MadNoisyRecall, MadFuzzyRecall, MadCopying, MadCompression, MadMemorization)
