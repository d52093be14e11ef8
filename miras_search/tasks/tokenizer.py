"""Tokenizers that an export can carry: bytes, a BPE trained on the spot, or the file of a Hugging Face model.

Our own are byte-level and have one special token, `<|endoftext|>` with id 0, which stands before every document and decodes to no
bytes. Of others, the token of that name or its like does. Where the text spells it, that is ordinary text. Every tokenizer
must give the text back byte for byte, or bits per byte would be of another text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from miras_search.errors import TaskError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

END_TEXT = "<|endoftext|>"
END = 0
"""Id of `<|endoftext|>`: begins a document, and ends the one before."""

BYTES_VOCAB = 257
"""Ids of the byte tokenizer: `<|endoftext|>` and the 256 bytes."""

ENDS = (END_TEXT, "</s>", "<eos>", "<|end_of_text|>", "<|im_end|>", "[SEP]")
"""Tokens that end a document, in the tokenizers of others."""

TRAINING_BYTES = 1 << 26
"""Of a longer text, a BPE is trained on the first 64 MiB."""

_BYTE = re.compile(r"<0x[0-9A-F]{2}>")


class Tokenizer:
    """A Hugging Face `tokenizers` file and fast paths around it.

    Args:
        json: the text of a `tokenizer.json`.

    Attributes:
        end: id of the token that stands before a document.
    """

    def __init__(self, json: str) -> None:
        from tokenizers import Tokenizer as Fast

        self.json = json
        self._fast: Any = Fast.from_str(json)
        self._fast.encode_special_tokens = True  # text that spells `<|endoftext|>` is text
        self._fast.no_padding()
        self._fast.no_truncation()
        vocab = self._fast.get_vocab()
        self.vocab = 1 + max(vocab.values())
        end = next((vocab[token] for token in ENDS if token in vocab), None)
        if end is None:
            raise TaskError("the tokenizer has no token that ends a document", hint=f"give it one of {', '.join(ENDS)}")
        self.end = int(end)
        self._bytes = self.vocab == BYTES_VOCAB and '"merges":[]' in json

    @cached_property
    def table(self) -> list[bytes]:
        """The bytes of every token; none for special ones."""
        byte_of = {char: byte for byte, char in enumerate(_alphabet())}
        special = {index for index, token in self._fast.get_added_tokens_decoder().items() if token.special}
        byte_level = '"ByteLevel"' in self.json
        table = [b""] * self.vocab
        for token, index in self._fast.get_vocab().items():
            if index in special or index == self.end:
                continue
            if byte_level and all(char in byte_of for char in token):
                table[index] = bytes(byte_of[char] for char in token)
            elif _BYTE.fullmatch(token):  # byte fallback of SentencePiece
                table[index] = bytes([int(token[3:5], 16)])
            else:
                table[index] = token.replace("\u2581", " ").encode()
        return table

    def check(self, text: bytes, ids: NDArray[np.uint32]) -> None:
        """Refuse a tokenizer that changes the text; one a token a byte cannot.

        Raises:
            TaskError: naming the first difference.
        """
        if self._bytes:
            return
        back = b"".join(map(self.table.__getitem__, ids.tolist()))
        if back != text:
            at = next(
                (i for i, (a, b) in enumerate(zip(back, text, strict=False)) if a != b), min(len(back), len(text))
            )
            shown, found = (part[max(0, at - 8) : at + 12].decode(errors="replace") for part in (text, back))
            raise TaskError(
                f"the tokenizer changes the text: {shown!r} comes back as {found!r}",
                hint="use one that is byte-level (as those of GPT-2 or Llama 3), or tokenizer: bytes or bpe",
            )

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """How many bytes every token decodes to, int64 [vocab]."""
        import numpy as np

        return np.array([len(token) for token in self.table], dtype=np.int64)

    @cached_property
    def _id_of_byte(self) -> NDArray[np.uint16]:
        import numpy as np

        ids = np.zeros(256, dtype=np.uint16)
        for index, token in enumerate(self.table):
            if len(token) == 1:
                ids[token[0]] = index
        return ids

    def encode(self, text: bytes) -> NDArray[np.uint32]:
        """UTF-8 text as ids, uint32 [tokens]."""
        import numpy as np

        if self._bytes:
            return self._id_of_byte[np.frombuffer(text, dtype=np.uint8)].astype(np.uint32)
        return np.array(self._fast.encode_batch_fast([text.decode()], add_special_tokens=False)[0].ids, dtype=np.uint32)

    def decode(self, ids: Sequence[int]) -> str:
        """Ids as text; `<|endoftext|>` is left out, broken UTF-8 shows as U+FFFD."""
        return b"".join(self.table[i] for i in ids).decode("utf-8", errors="replace")


def read_tokenizer(folder: str) -> Tokenizer:
    """The `tokenizer.json` in a folder, or named itself.

    Raises:
        TaskError: if there is none, or it cannot be read.
    """
    path = Path(folder).expanduser()
    path = path / "tokenizer.json" if path.is_dir() else path
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TaskError(
            f"tokenizer: cannot be read: {getattr(error, 'strerror', None) or 'is not UTF-8'}",
            where=str(path),
            hint="use bytes, bpe, or a folder with a tokenizer.json; a slow tokenizer is saved as one by "
            "transformers' PreTrainedTokenizerFast.save_pretrained",
        ) from error
    try:
        return Tokenizer(text)
    except TaskError as error:
        raise TaskError(error.message, where=str(path), hint=error.hint) from None
    except Exception as error:  # the library raises bare Exception
        raise TaskError(f"is no tokenizer: {error}", where=str(path), hint="name a tokenizer.json") from error


def byte_tokenizer() -> Tokenizer:
    """A token a byte: a BPE without merges. Ids follow the byte-level alphabet, not the byte's value."""
    from tokenizers import Tokenizer as Fast
    from tokenizers import decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    fast = Fast(models.BPE(vocab={END_TEXT: END} | {char: 1 + i for i, char in enumerate(alphabet)}, merges=[]))
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    fast.decoder = decoders.ByteLevel()
    fast.add_special_tokens([END_TEXT])
    return Tokenizer(fast.to_str())


def train_bpe(texts: Iterable[bytes], vocab: int) -> Tokenizer:
    """A byte-level BPE with the pre-tokenisation of GPT-2.

    Args:
        texts: UTF-8; only the first `TRAINING_BYTES` are read.
        vocab: ids, `<|endoftext|>` and the 256 bytes included.

    Raises:
        TaskError: if the text is too short to learn that many.
    """
    from tokenizers import Tokenizer as Fast
    from tokenizers import decoders, models, pre_tokenizers, trainers

    fast = Fast(models.BPE())
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=[END_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    fast.train_from_iterator(_head(texts), trainer)
    if (got := fast.get_vocab_size()) < vocab:
        raise TaskError(
            f"the training text is too short for a BPE of {vocab} tokens: it has only {got}",
            hint=f"use bpe_vocab: {got} or less, a longer text, or tokenizer: bytes",
        )
    return Tokenizer(fast.to_str())


def _head(texts: Iterable[bytes]) -> Iterator[str]:
    left = TRAINING_BYTES
    for text in texts:
        yield text.decode()
        left -= len(text)
        if left <= 0:
            return


def _alphabet() -> list[str]:
    """The character that stands for each byte in a byte-level vocabulary (GPT-2's table)."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]
