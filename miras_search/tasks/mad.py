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
from miras_search.tasks.base import IGNORE, Draws, Published
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
        tokens = draws.below(blank, rows, n)
        before = draws.below(n, rows, self.length - 2 * n - 1)  # the token before which each blank falls
        before += n * np.arange(rows)[:, None]
        blanks = np.bincount(before.reshape(-1), minlength=rows * n).reshape(rows, n)
        inputs = np.full((rows, self.length), blank, dtype=np.int64)
        np.put_along_axis(inputs, np.arange(n) + blanks.cumsum(1), tokens, axis=1)
        inputs[:, self.length - n - 1] = copy
        targets = np.full_like(inputs, IGNORE)
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
        import numpy as np

        tokens = draws.below(self.vocabulary - 1, rows, self.length - 1)
        inputs = np.concatenate([tokens, np.full((rows, 1), self.vocabulary - 1)], axis=1)
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
    n = length // (2 if train else most + 1) + 1
    row = np.arange(rows)[:, None]

    def motif(words: NDArray[np.uint64], size: NDArray[np.int64], low: int, count: int) -> NDArray[np.int64]:
        """Distinct tokens of low .. low + count - 1 from hashes, [..., most]; -1 from `size` on."""
        out = np.full((*words.shape, most), -1, dtype=np.int64)
        for i in range(most):
            words = _mixed(words)
            token = (words % np.uint64(count - i)).astype(np.int64)
            earlier = np.sort(out[..., :i], axis=-1)
            for j in range(i):
                token += token >= earlier[..., j]
            out[..., i] = token
        return np.where(np.arange(most) < size[..., None], out + low, -1)

    def key_size(*shape: int) -> NDArray[np.int64]:
        return 1 + draws.below(most, *shape) if train else np.full(shape, most, dtype=np.int64)

    def code(key: NDArray[np.int64]) -> NDArray[np.int64]:
        number: NDArray[np.int64] = ((key + 1) * (keys + 1) ** np.arange(most)).sum(-1)
        return number

    key = motif(draws.raw(rows, n), key_size(rows, n), 0, keys)  # [R, n, most]
    probe = motif(draws.raw(rows, 1), key_size(rows, 1), 0, keys)
    salt = draws.raw(rows, 1)

    def value_of(key: NDArray[np.int64]) -> NDArray[np.int64]:
        words = _mixed(salt ^ _mixed(code(key).astype(np.uint64)))
        return motif(words, 1 + (words % np.uint64(most)).astype(np.int64), keys, pad - keys)

    def size_of(key: NDArray[np.int64], value: NDArray[np.int64]) -> NDArray[np.int64]:
        total: NDArray[np.int64] = (key >= 0).sum(-1) + (value >= 0).sum(-1)
        return total

    asked = value_of(probe)
    probe_size = size_of(probe, asked)
    value = value_of(key)
    size = size_of(key, value)
    # The pair that is asked for comes at the first start from `from_` on, unless it was drawn before that.
    from_ = (draws.raw(rows, 1) % (length - probe_size - 4 * most).astype(np.uint64)).astype(np.int64)
    start = size.cumsum(1) - size
    place = (start >= from_).argmax(1)[:, None]
    drawn = ((code(key) == code(probe)) & (np.arange(n) < place)).any(1)
    put = (np.arange(n) == place) & ~drawn[:, None]
    key, value = (np.where(put[..., None], new, old) for new, old in ((probe, key), (asked, value)))
    size = size_of(key, value)
    start = size.cumsum(1) - size
    kept = start < length - probe_size - 2 * most
    total = np.where(kept, size, 0).sum(1)[:, None]
    key = np.concatenate([key, probe], axis=1)
    value = np.concatenate([value, asked], axis=1)
    start = np.concatenate([start, total], axis=1)
    kept = np.concatenate([kept, np.ones((rows, 1), dtype=bool)], axis=1)
    start = start + length + 1 - total - probe_size  # padding is on the left

    tokens = np.full((rows, length + 1), pad, dtype=np.int64)
    targets = np.full((rows, length + 1), IGNORE, dtype=np.int64)
    again = _again(code(key), ~kept)
    at = start
    for part in (key, value):
        for i in range(most):
            there = kept & (part[..., i] >= 0)
            where = np.broadcast_to(row, there.shape)[there], at[there]
            tokens[where] = part[..., i][there]
            if part is value:
                targets[where] = np.where(again, part[..., i], IGNORE)[there]
            at = at + (part[..., i] >= 0)
    return tokens[:, :-1], (tokens if train else targets)[:, 1:]


def _mixed(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """splitmix64: 64-bit words hashed."""
    import numpy as np

    with np.errstate(over="ignore"):
        words = words + np.uint64(0x9E3779B97F4A7C15)
        words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return words ^ (words >> np.uint64(31))


VARIANTS = register(MadRecall, MadNoisyRecall, MadFuzzyRecall, MadCopying, MadCompression, MadMemorization)
