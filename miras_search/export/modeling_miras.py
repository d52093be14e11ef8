"""The classes of transformers around an exported miras-search model.

`memory_miras.py` is the generated memory layer, `lm_miras.py` the blocks around it, both as they were trained; here are
padding, cache, loss and loading. Shape legend: B batch, T time, E width, V vocabulary.
"""

from typing import Any, ClassVar

from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedModel
from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.utils import can_return_tuple

from miras_search.codegen.skeletons.layer import Layer
from miras_search.export.configuration_miras import MirasConfig
from miras_search.model import LM, pack, take

LAYERS: tuple[type[nn.Module], ...] = (Layer,)
"""The memories of this model; the configuration says which of them every block has."""


class MirasCache(Cache):
    """The state of every layer, a dict of tensors with batch first.

    Of a parametric memory its size is fixed; softmax attention keeps its keys and values. Positions, also those inside
    a chunk, are in the state for each row, so rows may be padded anywhere.
    """

    is_compileable = False

    def __init__(self) -> None:
        super().__init__(layers=[])
        self.states: list[dict[str, Tensor]] = []
        self.seen = 0

    def store(self, states: list[dict[str, Tensor]], tokens: int) -> None:
        """Replace the state by what follows `tokens` more columns."""
        self.states, self.seen = states, self.seen + tokens

    def _each(self, change: Any) -> None:
        self.states = [{name: change(t) for name, t in state.items()} for state in self.states]

    def __len__(self) -> int:
        return len(self.states)

    def __repr__(self) -> str:
        return f"MirasCache(layers={len(self.states)}, seen={self.seen})"

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Columns seen, padding included: generate() cuts its inputs by it."""
        return self.seen

    def get_max_length(self, layer_idx: int | None = None) -> int:
        """No limit."""
        return -1

    get_max_cache_shape = get_max_length

    def get_mask_sizes(self, query_length: Any, layer_idx: int = 0) -> tuple[int, int]:
        """Length and offset of the attention mask."""
        return self.seen + (query_length if isinstance(query_length, int) else query_length.shape[0]), 0

    def has_previous_state(self, layer_idx: int | None = None, state_idx: int | None = None) -> bool:
        """Something was seen."""
        return self.seen > 0

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Rows of the beams that go on."""
        self.batch_select_indices(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows."""
        self._each(lambda t: t.index_select(0, indices.to(t.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Every row so many times."""
        self._each(lambda t: t.repeat_interleave(repeats, dim=0))

    def reset(self) -> None:
        """Forget everything."""
        self.states, self.seen = [], 0

    def crop(self, *args: Any, **kwargs: Any) -> None:
        """A memory cannot be taken back.

        Raises:
            ValueError: always.
        """
        raise ValueError("the state of this model cannot be cropped: copy the cache before the tokens to be undone")

    @property
    def is_croppable(self) -> bool:
        """It is not."""
        return False

    @property
    def is_initialized(self) -> bool:
        """Something was seen."""
        return self.seen > 0

    @property
    def batch_size(self) -> int:
        """Rows; -1 before the first call."""
        return next((t.shape[0] for state in self.states for t in state.values()), -1)


class MirasPreTrainedModel(PreTrainedModel):
    """Loading and saving."""

    config_class = MirasConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules: ClassVar[list[str]] = ["Block"]
    _skip_keys_device_placement: ClassVar[list[str]] = ["past_key_values"]
    _is_stateful = True

    def post_init(self) -> None:
        """Keep in float32, whatever the model's type, what the memory uses in float32."""
        super().post_init()
        self._keep_in_fp32_modules_strict = {
            "start",
            "step",
            "log_decay",
        }  # here, since v4 refuses names of buffers above

    def get_input_embeddings(self) -> nn.Module:
        """The embedding, which is the output as well."""
        embedding: nn.Module = self.base_model.embedding
        return embedding

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace it."""
        self.base_model.embedding = value

    def _init_weights(self, module: nn.Module) -> None:
        """Modules are initialised where they are built; only rows added to the vocabulary come here for values.

        Raises:
            ValueError: when loading, if the checkpoint lacks something.
        """
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight)
        elif not self.base_model.built and any(True for _ in module.parameters(recurse=False)):
            raise ValueError(f"the checkpoint lacks weights of a {type(module).__name__}: export the model again")


class MirasModel(MirasPreTrainedModel):
    """Embedding, blocks and the last norm."""

    def __init__(self, config: MirasConfig) -> None:
        super().__init__(config)
        kinds = config.memories or [0] * config.num_hidden_layers
        layers: list[nn.Module] = [LAYERS[i](config.hidden_size, config.num_attention_heads) for i in kinds]
        lm = LM(layers, config.vocab_size, config.hidden_size, config.intermediate_size, config.residual_conv)
        self.embedding, self.blocks, self.norm = lm.embedding, lm.blocks, lm.norm
        self.gradient_checkpointing = False
        self.built = not lm.embedding.weight.is_meta
        """False when a checkpoint is to fill the weights."""
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        past_key_values: MirasCache | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """Run over a sequence, or go on from a cache.

        Args:
            input_ids: `[B, T]`, or `inputs_embeds` `[B, T, E]`.
            attention_mask: `[B, T]`, or over everything seen; 0 for padding, anywhere in a row, which nothing sees.
            inputs_embeds: instead of `input_ids`.
            past_key_values: what an earlier call returned; changed in place.
            use_cache: return the state; default: the configuration's, but not when training.
            output_hidden_states: return the inputs of all blocks and the output.
            kwargs: ignored; positions are part of the state.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give either input_ids or inputs_embeds")
        if past_key_values is not None and not isinstance(past_key_values, MirasCache):
            raise ValueError(f"past_key_values is a {type(past_key_values).__name__}, not a MirasCache: leave it out")
        x: Tensor = self.embedding(input_ids) if inputs_embeds is None else inputs_embeds
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        checkpointing = self.gradient_checkpointing and self.training
        if use_cache is None:
            use_cache = self.config.use_cache and not self.training
        use_cache = use_cache and not checkpointing
        document = self.config.document_token_id
        reset = None if document is None or input_ids is None else input_ids == document
        valid = _valid(attention_mask, x)
        x, reset, valid, back = pack(x, reset, valid)
        past = past_key_values.states if past_key_values is not None and past_key_values.seen else None
        states: list[dict[str, Tensor]] = []
        hidden: list[Tensor] = []
        for i, block in enumerate(self.blocks):
            before = None if past is None else past[i]
            if output_hidden_states:
                hidden.append(x)
            if checkpointing:
                x = self._gradient_checkpointing_func(_output, block, x, before, reset, valid)
            else:
                x, state = block(x, before, reset, valid)
                states.append(state)
        hidden.append(self.norm(x))
        hidden = [take(h, back) for h in hidden]
        cache = None
        if use_cache:
            cache = MirasCache() if past_key_values is None else past_key_values
            cache.store(states, x.shape[1])
        return BaseModelOutputWithPast(
            last_hidden_state=hidden[-1],
            past_key_values=cache,
            hidden_states=tuple(hidden) if output_hidden_states else None,
        )


class MirasForCausalLM(MirasPreTrainedModel, GenerationMixin):
    """The language model: logits, loss, generation."""

    _tied_weights_keys: ClassVar[dict[str, str]] = {"lm_head.weight": "model.embedding.weight"}

    def __init__(self, config: MirasConfig) -> None:
        super().__init__(config)
        self.model = MirasModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        """No: a cache of keys and values is not the state of this model; `forward` makes its own."""
        return False

    def get_output_embeddings(self) -> nn.Module:
        """The tied output."""
        return self.lm_head

    def set_output_embeddings(self, value: nn.Linear) -> None:
        """Replace it."""
        self.lm_head = value

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        past_key_values: MirasCache | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Logits `[B, T, V]`, and the loss if there are labels.

        Args:
            input_ids: and what follows: as in `MirasModel`.
            attention_mask: 0 for padding.
            inputs_embeds: instead of `input_ids`.
            past_key_values: the state.
            labels: `[B, T]`, aligned with `input_ids`: the loss shifts them by one; -100 is not scored.
            use_cache: return the state.
            output_hidden_states: return them.
            logits_to_keep: only that many of the last logits, or those at these indices; 0: all.
            kwargs: for the loss.
        """
        out = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            inputs_embeds=inputs_embeds,
            past_key_values=past_key_values,
            use_cache=use_cache,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        keep = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        hidden = out.last_hidden_state[:, keep]
        logits = self.lm_head(hidden * hidden.shape[-1] ** -0.5)
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs)
        return CausalLMOutputWithPast(
            loss=loss, logits=logits, past_key_values=out.past_key_values, hidden_states=out.hidden_states
        )


def _valid(mask: Tensor | None, x: Tensor) -> Tensor | None:
    """`[B, T]` bool, false for padding; None if there is none."""
    if mask is None:
        return None
    if mask.ndim != 2 or mask.shape[1] < x.shape[1]:
        raise ValueError(f"attention_mask must be [batch, time], at least {x.shape[1]} long, not {list(mask.shape)}")
    valid = mask[:, -x.shape[1] :].to(x.device).bool()
    return None if bool(valid.all()) else valid


def _output(block: nn.Module, *args: Any) -> Tensor:
    """What a block gives without its state, which checkpointing drops."""
    out: Tensor = block(*args)[0]
    return out
