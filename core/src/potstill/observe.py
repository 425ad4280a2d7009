"""Looking inside a model without paying for what nobody looks at.

`Observer` runs a model and hands back the features asked for. Hidden states come from a forward hook on
the one layer. Queries, keys and values come from an attention function of ours, registered with
transformers, that notes what passes and calls SDPA. A model whose logits nobody wants stops after the
highest layer observed. A pass may write over what layers put out (`Patch`) and stop early; hooks that only
such a pass needs are on for its time alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from potstill.errors import ModelError
from potstill.features import LOGITS, POOLED, QKV, Attention, Feature, Hidden, Output, Projections, Scores
from potstill.layers import Layers
from potstill.patches import Patch, patched
from potstill.tasks import full_precision

ATTENTION = "potstill"
"""The name of our attention function in transformers' registry."""

_observing: ContextVar[Observer | None] = ContextVar("observing", default=None)


class Outputs:
    """What one forward pass of one model gave; half precision is widened to float32, in which losses are computed.

    Attributes:
        mask: [batch, seq], 1 for tokens, of this model's own inputs.
    """

    def __init__(self, observer: Observer, values: dict[Feature, Any], mask: Tensor, until: int | None = None) -> None:
        self._observer = observer
        self._values = {feature: _widened(value) for feature, value in values.items()}
        self._until = until
        self.mask = mask

    @property
    def logits(self) -> Tensor:
        """The head's output: [batch, classes], [batch, seq, classes] or [batch, seq, 2] for spans."""
        return cast(Tensor, self[LOGITS])

    def with_logits(self, logits: Tensor) -> Outputs:
        """These outputs and the head's."""
        return Outputs(self._observer, {**self._values, LOGITS: logits}, self.mask)

    def __getitem__(self, feature: Feature) -> Any:
        """An observed feature.

        Raises:
            ModelError: nobody asked for it in `setup`, or the pass ended below it.
        """
        exact = self._observer.exact(feature)
        if exact not in self._values:
            if self._until is not None and exact in self._observer.features:
                raise ModelError(
                    f"{feature} of the {self._observer.side} was not computed, since this pass ended after layer "
                    f"{self._until}."
                )
            raise ModelError(
                f"{feature} of the {self._observer.side} is not observed; ask for it in setup: "
                f"stage.observe({self._observer.side}=[{feature}])."
            )
        return self._values[exact]


class Observer:
    """Runs `module` and notes `features` on the way.

    Args:
        module: a transformers model.
        features: what to note.
        side: "teacher" or "student", for errors.

    Raises:
        ModelError: a layer that is not there, or a model that cannot deliver a feature.
    """

    def __init__(self, module: nn.Module, features: Iterable[Feature], side: str) -> None:
        self.module = module
        self.side = side
        self.layers = Layers.of(module)
        self.features = {self.exact(feature) for feature in features}
        self._values: dict[Feature, Any] = {}
        self._layer = 0
        inner = [feature.layer for feature in self.features if not isinstance(feature, Output)]
        self._highest = None if any(isinstance(feature, Output) for feature in self.features) else max(inner, default=0)
        self._stop = self._highest
        self._patches: dict[int, list[Patch]] = {}
        self._inside = False
        self._attention_before: str | None = None
        self._hooks: list[Any] = []
        self._hooked: set[nn.Module] = set()
        try:
            self._install()
        except BaseException:
            self.close()
            raise

    def exact(self, feature: Feature) -> Feature:
        """The feature with its layer counted from the front."""
        if isinstance(feature, Output):
            return feature
        first = 0 if isinstance(feature, Hidden) else 1
        layer = self.layers.exact(feature.layer, first=first, side=self.side)
        return type(feature)(layer)

    def __call__(
        self, inputs: dict[str, Tensor], patches: Sequence[Patch] = (), until: int | None = None
    ) -> tuple[Any, Outputs]:
        """One forward pass: the model's own output (None where it was cut off), and what was observed.

        Args:
            patches: what is written over parts of layers' outputs on the way.
            until: the pass ends after this layer, counted as in `Hidden`; what lies above is not computed.

        Raises:
            ModelError: a layer that is not there, or a model that did not deliver a feature.
            ShapeError: a patch that does not fit.
        """
        with self._one_pass(patches, until):
            try:
                output = self.module(**inputs)
            except _Reached:
                output = None
            values, reached = self._values, self._stop
        self._check(values, reached)
        return output, self.outputs(values, inputs, reached)

    def outputs(self, values: dict[Feature, Any], inputs: dict[str, Tensor], until: int | None = None) -> Outputs:
        """Features of a forward pass over `inputs`, this one's or one that was made before; it ended after `until`."""
        mask = inputs.get("attention_mask")
        return Outputs(self, values, torch.ones_like(inputs["input_ids"]) if mask is None else mask, until)

    @contextmanager
    def _one_pass(self, patches: Sequence[Patch], until: int | None) -> Iterator[None]:
        """Sets up what one pass notes, writes over and stops at; afterwards all is as for an ordinary one."""
        written: dict[int, list[Patch]] = {}
        for patch in patches:
            written.setdefault(self.layers.exact(patch.layer, first=0, side=self.side), []).append(patch)
        stop = self._highest
        if until is not None:
            until = self.layers.exact(until, first=0, side=self.side)
            stop = until if stop is None else min(until, stop)
        self._values, self._patches, self._stop = {}, written, stop
        self._layer, self._inside = 0, False
        extra = self._hook({*written, *(() if until is None else (until,))})
        token = _observing.set(self)
        try:
            yield
        finally:
            _observing.reset(token)
            for hook in extra:
                hook.remove()
            self._values, self._patches, self._stop = {}, {}, self._highest

    def close(self) -> None:
        """Takes every hook off and gives the model its own attention back."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        self._hooked.clear()
        if self._attention_before is not None:
            cast(PreTrainedModel, self.module).set_attn_implementation(self._attention_before)
            self._attention_before = None

    @property
    def _looks_at_attention(self) -> bool:
        return any(isinstance(feature, QKV | Scores | Attention) for feature in self.features)

    def _install(self) -> None:
        if self._looks_at_attention:
            self._replace_attention()
        if POOLED in self.features:
            self._hooks.append(self._pooler().register_forward_hook(self._note_pooled))
        wanted = {feature.layer for feature in self.features if not isinstance(feature, Output)}
        self._hooks += self._hook(wanted)
        self._hooked = set(self.layers.modules_for(wanted))

    def _hook(self, layers: set[int]) -> list[Any]:
        """Hooks on the layers that have none of this observer's yet."""
        hooks: list[Any] = []
        for module in self.layers.modules_for(layers):
            if module not in self._hooked:
                hooks.append(module.register_forward_pre_hook(self._enter, with_kwargs=True))
                hooks.append(module.register_forward_hook(self._leave))
        return hooks

    def _replace_attention(self) -> None:
        _register()
        config = getattr(self.module, "config", None)
        before = getattr(config, "_attn_implementation", None)
        if isinstance(self.module, PreTrainedModel):
            # A model with attention code of its own keeps it, with a warning or a ValueError.
            with suppress(ValueError):
                self.module.set_attn_implementation(ATTENTION)
        if getattr(config, "_attn_implementation", None) != ATTENTION:
            raise ModelError(
                f"The {self.side}, a {type(self.module).__name__}, has its own attention, so its queries, "
                "keys, values and scores cannot be observed; hidden states and logits can."
            )
        self._attention_before = str(before)

    def _pooler(self) -> nn.Module:
        base = getattr(self.module, "base_model", self.module)
        # ALBERT's pooler is a linear layer, its activation a module beside it.
        pooler = getattr(base, "pooler_activation", None) or getattr(base, "pooler", None)
        if not isinstance(pooler, nn.Module):
            raise ModelError(f"The {self.side}, a {type(self.module).__name__}, has no pooler to observe.")
        return pooler

    def _note_pooled(self, module: nn.Module, args: Any, output: Tensor) -> None:
        if _observing.get() is self:
            self._values[POOLED] = output
            if LOGITS not in self.features:
                raise _Reached

    def _enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if _observing.get() is not self:
            return None
        self._layer, self._inside = self.layers.number(module, self._layer), True
        if self._layer == 1:
            embedded = self._passing(0, args[0] if args else kwargs["hidden_states"])
            if 0 in self._patches:
                return ((embedded, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": embedded})
        return None

    def _leave(self, module: nn.Module, args: Any, output: Any) -> Any:
        if _observing.get() is not self:
            return None
        self._inside = False
        hidden = self._passing(self._layer, output[0] if isinstance(output, tuple) else output)
        if self._layer not in self._patches:
            return None
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    def _passing(self, layer: int, hidden: Tensor) -> Tensor:
        """What goes on from a layer: its output, patched, noted where it is observed; the pass may end here."""
        if layer in self._patches:
            hidden = patched(hidden, self._patches[layer], self.side)
        if Hidden(layer) in self.features:
            self._values[Hidden(layer)] = hidden
        if layer == self._stop:
            raise _Reached
        return hidden

    def note_attention(
        self, projections: Projections, scaling: float, mask: Tensor | None, bias: Tensor | None = None
    ) -> None:
        """Called by the attention function for every layer of a model that is being observed."""
        if not self._inside:
            return
        layer = self._layer
        if QKV(layer) in self.features:
            self._values[QKV(layer)] = projections
        if Scores(layer) in self.features or Attention(layer) in self.features:
            scores = attention_scores(projections, scaling, mask, bias)
            if Scores(layer) in self.features:
                self._values[Scores(layer)] = scores
            if Attention(layer) in self.features:
                self._values[Attention(layer)] = scores.softmax(-1)
        if layer == self._stop and Hidden(layer) not in self.features:
            raise _Reached

    def _check(self, values: dict[Feature, Any], reached: int | None) -> None:
        """Everything up to the layer after which the pass ended (None: it went to the end) was noted."""
        due = [
            feature
            for feature in self.features
            if reached is None or (not isinstance(feature, Output) and feature.layer <= reached)
        ]
        missing = [feature for feature in due if feature not in values and feature != LOGITS]
        if missing:
            hidden = isinstance(missing[0], Hidden | Output)
            reason = "that part of it was not run" if hidden else "its attention does not go through transformers' own"
            raise ModelError(
                f"The {self.side}, a {type(self.module).__name__}, did not deliver {missing[0]}, although it ran: "
                f"{reason}."
            )


def _widened(value: Any) -> Any:
    if isinstance(value, Projections):
        return Projections(*map(full_precision, value))
    return full_precision(value)


def probe(module: nn.Module, features: Iterable[Feature], side: str) -> Outputs:
    """Features of a row of two tokens, for whoever wants to know their shapes.

    Raises:
        ModelError: as `Observer`.
    """
    wanted = list(features)
    device = next(module.parameters()).device
    inputs = {name: torch.ones(1, 2, dtype=torch.long, device=device) for name in ("input_ids", "attention_mask")}
    training = module.training
    observer = Observer(module, wanted, side)
    try:
        with torch.no_grad():
            module.eval()
            return observer(inputs)[1]
    finally:
        observer.close()
        module.train(training)


class _Reached(Exception):  # noqa: N818 - no error: the forward pass has gone as far as anybody looks
    pass


def attention_scores(
    projections: Projections, scaling: float, mask: Tensor | None, bias: Tensor | None = None
) -> Tensor:
    """QK^T * scaling + bias + mask, [batch, heads, seq, seq]; a masked key gets the lowest finite number.

    Args:
        mask: broadcasts to the scores: True for keys that are seen, or numbers to add. None: all are seen.
        bias: of relative positions, broadcasts to the scores.
    """
    query, key, _ = projections
    key = repeat_kv(key, query.shape[1] // key.shape[1])
    scores = (query @ key.transpose(-1, -2)) * scaling
    if bias is not None:
        scores = scores + bias
    if mask is None:
        return scores
    if mask.dtype == torch.bool:
        return scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    return scores + mask


def _register() -> None:
    AttentionInterface.register(ATTENTION, _attention)
    AttentionMaskInterface.register(ATTENTION, sdpa_mask)


def _attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    observer = _observing.get()
    if observer is not None:
        scaling = kwargs.get("scaling")
        scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
        mask = _causal_mask(module, query, kwargs) if attention_mask is None else attention_mask
        observer.note_attention(Projections(query, key, value), scaling, mask, kwargs.get("position_bias"))
    return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)


def _causal_mask(module: nn.Module, query: Tensor, kwargs: dict[str, Any]) -> Tensor | None:
    """The mask that SDPA makes for itself where a causal model hands over none; None for an encoder."""
    causal = kwargs.get("is_causal")
    causal = getattr(module, "is_causal", True) if causal is None else causal
    length = query.shape[2]
    return torch.ones(length, length, dtype=torch.bool, device=query.device).tril() if causal else None
