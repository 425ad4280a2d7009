"""The plugin `bilstm`: a small student of another architecture, with a vocabulary of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from potstill.errors import ModelError
from potstill.plugin import Plugin, PluginConfig, hookimpl

if TYPE_CHECKING:
    from potstill.models import Model
    from potstill.stage import Stage


class BiLSTM(Plugin):
    """A bidirectional LSTM over characters as the student: `[student] plugin = "bilstm"`."""

    name = "bilstm"

    class Config(PluginConfig):
        vocab: str
        """A file with one character a line, after `<PAD>` and `<UNK>`; relative to the data root."""
        embedding_size: int = Field(300, ge=1)
        """Columns of the character embedding."""
        hidden_size: int = Field(256, ge=1)
        """LSTM units per direction."""
        layers: int = Field(1, ge=1)
        """LSTM layers."""
        dropout: float = Field(0.2, ge=0, lt=1)
        """On the pooled features, and between layers."""
        pooling: Literal["real", "reference"] = "real"
        """Maximum over a row's own positions, or over the batch's padding too as the reference does."""

    config: Config

    @hookimpl
    def build_student(self, stage: Stage) -> Model:
        # Here, because listing plugins must not cost the import of transformers.
        from potstill.models import Model
        from potstill_bilstm.modeling import BiLSTMConfig, BiLSTMForSequenceClassification
        from potstill_bilstm.tokenizer import character_tokenizer, read_vocabulary

        if stage.task.auto_class != "AutoModelForSequenceClassification":
            raise ModelError(
                f"A BiLSTM of this plugin has one answer a row, and the task '{stage.task.name}' asks for one a token; "
                "take a transformer, as in [student] config or layers."
            )
        tokenizer = character_tokenizer(read_vocabulary(stage.path(self.config.vocab)))
        config = BiLSTMConfig(
            vocab_size=len(tokenizer),
            pad_token_id=tokenizer.pad_token_id,
            embedding_size=self.config.embedding_size,
            hidden_size=self.config.hidden_size,
            num_hidden_layers=self.config.layers,
            dropout=self.config.dropout,
            pooling=self.config.pooling,
            **stage.task.head(),
        )
        return Model(BiLSTMForSequenceClassification(config), tokenizer)
