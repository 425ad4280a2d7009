"""A bidirectional LSTM with max-pooling, as a transformers model."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from transformers import AutoConfig, AutoModelForSequenceClassification, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

POOLINGS = ("real", "reference")
_WEIGHTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


class BiLSTMConfig(PretrainedConfig):
    """The sizes of a `BiLSTMForSequenceClassification`.

    Attributes:
        vocab_size: rows of the embedding table.
        embedding_size: its columns.
        hidden_size: LSTM units per direction; the pooled features are twice as many.
        num_hidden_layers: LSTM layers on top of each other.
        dropout: between layers, and on the pooled features.
        pooling: "real" takes the maximum over a row's own positions; "reference" also over the zeros at padded
            positions, up to the longest row of the batch, as taishan1994/pytorch_knowledge_distillation does.
    """

    model_type = "potstill-bilstm"

    vocab_size: int = 5001
    embedding_size: int = 300
    hidden_size: int = 256
    num_hidden_layers: int = 1
    dropout: float = 0.2
    pooling: str = "real"
    pad_token_id: int | None = 0


class BiLSTMForSequenceClassification(PreTrainedModel):
    """Embedding, LSTM layers in both directions, maximum over positions, dropout, linear head.

    With the pooling "real" a row's logits do not depend on the rows beside it. Rows are padded on the right.
    """

    config_class = BiLSTMConfig
    main_input_name = "input_ids"

    def __init__(self, config: BiLSTMConfig) -> None:
        super().__init__(config)
        if config.pooling not in POOLINGS:
            raise ValueError(f"pooling = '{config.pooling}' is not one of {', '.join(POOLINGS)}")
        self.num_labels = config.num_labels
        self.embedding = nn.Embedding(config.vocab_size, config.embedding_size, padding_idx=config.pad_token_id)
        self.encoder = nn.LSTM(
            config.embedding_size,
            config.hidden_size,
            num_layers=config.num_hidden_layers,
            batch_first=True,
            bidirectional=True,
            dropout=config.dropout if config.num_hidden_layers > 1 else 0.0,
        )
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(2 * config.hidden_size, config.num_labels)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Torch's own initial values, not the small ones that transformers has for attention models."""
        if isinstance(module, nn.Embedding | nn.LSTM | nn.Linear):
            module.reset_parameters()

    def get_input_embeddings(self) -> nn.Embedding:
        return self.embedding

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.embedding = value

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        return_dict: bool | None = None,
    ) -> SequenceClassifierOutput | tuple[Tensor, ...]:
        """Logits [batch, labels] of token ids [batch, seq].

        Args:
            input_ids: [batch, seq].
            attention_mask: [batch, seq], 1 for tokens and 0 for the padding on the right; where there is none,
                whatever is not the padding token. A row without a token gets the features 0.
            labels: [batch], for the loss of `problem_type`.
        """
        mask = input_ids != self.config.pad_token_id if attention_mask is None else attention_mask != 0
        logits = self.classifier(self.dropout(self._features(input_ids, mask)))
        loss = None if labels is None else self.loss_function(labels, logits, self.config)
        if return_dict is False:
            return (logits,) if loss is None else (loss, logits)
        return SequenceClassifierOutput(loss=loss, logits=logits)

    def _features(self, input_ids: Tensor, mask: Tensor) -> Tensor:
        """[batch, 2 * hidden]: the maximum over positions of both directions' outputs."""
        exporting = torch.compiler.is_exporting() and torch.onnx.is_in_onnx_export()
        if not exporting and input_ids.numel() == 0:
            return self.embedding.weight.new_zeros(len(input_ids), 2 * self.config.hidden_size)
        lengths = mask.sum(1)
        encode = self._encode_for_onnx if exporting else self._encode_packed
        outputs = encode(self.embedding(input_ids), lengths)
        if self.config.pooling == "reference":
            # The authors' padding ends with the batch's longest row, and holds the zeros that unpacking writes.
            outputs = outputs.masked_fill(~mask[:, :, None], 0.0)
            mask = _positions(mask) < lengths.max()
        pooled = outputs.masked_fill(~mask[:, :, None], -torch.inf).amax(1)
        return pooled.masked_fill(lengths[:, None] == 0, 0.0)

    def _encode_packed(self, embedded: Tensor, lengths: Tensor) -> Tensor:
        """[batch, seq, 2 * hidden] of [batch, seq, embedding]; values at padded positions are of no account."""
        # A wait for the device: packing needs the lengths on the host. Rows of length 0 cannot be packed.
        lengths = lengths.clamp(min=1).cpu()
        packed = pack_padded_sequence(embedded, lengths, batch_first=True, enforce_sorted=False)
        return pad_packed_sequence(self.encoder(packed)[0], batch_first=True, total_length=embedded.shape[1])[0]

    def _encode_for_onnx(self, embedded: Tensor, lengths: Tensor) -> Tensor:
        """The same as ONNX's own LSTM operator, which takes the rows' lengths: packing has no counterpart there.

        For inference only: there is no dropout between layers.
        """
        batch, seq, _ = embedded.shape
        lengths = lengths.clamp(min=1).int()
        states = embedded.transpose(0, 1)  # ONNX puts the sequence first.
        for layer in range(self.config.num_hidden_layers):
            outputs = torch.onnx.ops.symbolic(
                "LSTM",
                (states, *self._onnx_weights(layer), lengths),
                {"hidden_size": self.config.hidden_size, "direction": "bidirectional"},
                dtype=embedded.dtype,
                shape=(seq, 2, batch, self.config.hidden_size),
            )
            states = outputs.transpose(1, 2).flatten(2)  # [seq, batch, 2 * hidden]
        return states.transpose(0, 1)

    def _onnx_weights(self, layer: int) -> tuple[Tensor, Tensor, Tensor]:
        """A layer, both directions: W [2, 4 * hidden, input], R [2, 4 * hidden, hidden], B [2, 8 * hidden]."""
        directions = []
        for suffix in (f"l{layer}", f"l{layer}_reverse"):
            gates = [_onnx_gates(getattr(self.encoder, f"{name}_{suffix}")) for name in _WEIGHTS]
            directions.append((gates[0], gates[1], torch.cat(gates[2:])))
        w, r, b = (torch.stack(parts) for parts in zip(*directions, strict=True))
        return w, r, b


def _onnx_gates(weights: Tensor) -> Tensor:
    """Torch's rows input, forget, cell, output in ONNX's order: input, output, forget, cell."""
    i, f, c, o = weights.chunk(4)
    return torch.cat((i, o, f, c))


def _positions(rows: Tensor) -> Tensor:
    """[1, seq]: the numbers of the columns of [batch, seq]."""
    return torch.arange(rows.shape[1], device=rows.device)[None]


AutoConfig.register(BiLSTMConfig.model_type, BiLSTMConfig, exist_ok=True)
AutoModelForSequenceClassification.register(BiLSTMConfig, BiLSTMForSequenceClassification, exist_ok=True)
