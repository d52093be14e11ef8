"""Configuration of an exported miras-search model."""

from typing import Any, ClassVar

from transformers import PretrainedConfig


class MirasConfig(PretrainedConfig):
    """Sizes of the model around the memory layers; the layers themselves are in `memory_miras*.py`.

    Args:
        vocab_size: tokens.
        hidden_size: width of the model.
        num_hidden_layers: blocks.
        num_attention_heads: memories side by side in a layer.
        memories: for every block, which of the memories it has; None: all the first.
        intermediate_size: hidden width of the SwiGLU; 0: none.
        residual_conv: width of the convolution outside the memory; 0: none.
        document_token_id: a token that starts a document, at which the memory starts afresh; None: no token does.
        use_cache: return the state.
        tie_word_embeddings: the output is the embedding; the architecture has no other.
        kwargs: of every configuration; here also `design`, `fingerprint` and `trained_context`, which are for people.
    """

    model_type = "miras_search"
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["past_key_values"]

    def __init__(
        self,
        vocab_size: int = 257,
        hidden_size: int = 64,
        num_hidden_layers: int = 2,
        num_attention_heads: int = 2,
        memories: list[int] | None = None,
        intermediate_size: int = 128,
        residual_conv: int = 0,
        document_token_id: int | None = None,
        use_cache: bool = True,
        tie_word_embeddings: bool = True,
        **kwargs: Any,
    ) -> None:
        if not tie_word_embeddings:
            raise ValueError("the output of this model is its embedding: tie_word_embeddings cannot be false")
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.memories = memories
        self.intermediate_size = intermediate_size
        self.residual_conv = residual_conv
        self.document_token_id = document_token_id
        self.use_cache = use_cache
        super().__init__(tie_word_embeddings=tie_word_embeddings, **kwargs)
