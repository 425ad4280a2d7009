"""The model: pooling, packing, saving, and the plugin that makes it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from potstill_bilstm.modeling import BiLSTMConfig, BiLSTMForSequenceClassification
from potstill_bilstm.plugin import BiLSTM
from pydantic import ValidationError
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from potstill.errors import ModelError


def model(**options: object) -> BiLSTMForSequenceClassification:
    torch.manual_seed(0)
    settings: dict[str, object] = {"vocab_size": 30, "embedding_size": 7, "hidden_size": 5, "num_labels": 4}
    return BiLSTMForSequenceClassification(BiLSTMConfig(**{**settings, **options})).double().eval()


def ragged(lengths: list[int], width: int | None = None, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    width = max(lengths) if width is None else width
    mask = (torch.arange(width) < torch.tensor(lengths)[:, None]).long()
    return torch.randint(1, 30, (len(lengths), width), generator=generator) * mask, mask


def by_hand(module: BiLSTMForSequenceClassification, ids: Tensor) -> Tensor:
    """One row's logits by the LSTM's equations, position by position, without torch's LSTM."""
    states = [module.embedding.weight[number] for number in ids]
    for layer in range(module.config.num_hidden_layers):
        forth = _one_way(module, states, f"l{layer}")
        back = _one_way(module, states[::-1], f"l{layer}_reverse")[::-1]
        states = [torch.cat(pair) for pair in zip(forth, back, strict=True)]
    return module.classifier(torch.stack(states).amax(0))


def _one_way(module: BiLSTMForSequenceClassification, inputs: list[Tensor], suffix: str) -> list[Tensor]:
    w, u, a, b = (getattr(module.encoder, f"{n}_{suffix}") for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
    hidden = cell = torch.zeros(module.config.hidden_size, dtype=torch.float64)
    outputs = []
    for x in inputs:
        i, f, g, o = (w @ x + a + u @ hidden + b).chunk(4)
        cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
        hidden = o.sigmoid() * cell.tanh()
        outputs.append(hidden)
    return outputs


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_logits_are_those_of_the_lstm_equations_row_by_row(layers: int) -> None:
    module = model(num_hidden_layers=layers)
    ids, mask = ragged([6, 1, 4])
    logits = module(ids, mask).logits
    for row, length in enumerate([6, 1, 4]):
        torch.testing.assert_close(logits[row], by_hand(module, ids[row, :length]), rtol=1e-12, atol=1e-12)


def test_a_row_s_logits_do_not_depend_on_its_batch_mates_or_on_more_padding() -> None:
    module = model()
    ids, mask = ragged([3, 9, 1], width=14)
    together = module(ids, mask).logits
    for row, length in enumerate([3, 9, 1]):
        alone = module(ids[row : row + 1, :length], mask[row : row + 1, :length]).logits
        torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-12, atol=1e-12)


def test_reference_pooling_floors_the_features_of_shorter_rows_at_zero() -> None:
    module = model(pooling="reference")
    real = model(pooling="real")
    ids, mask = ragged([2, 6], width=9)
    features, own = (each._features(ids, mask.bool()) for each in (module, real))
    torch.testing.assert_close(features[0], own[0].clamp(min=0), rtol=0, atol=0)
    torch.testing.assert_close(features[1], own[1], rtol=0, atol=0)
    assert (own[0] < 0).any()


def test_without_a_mask_the_padding_token_marks_the_padding() -> None:
    module = model()
    ids, mask = ragged([2, 5])
    torch.testing.assert_close(module(ids).logits, module(ids, mask).logits, rtol=0, atol=0)


@pytest.mark.parametrize("pooling", ["real", "reference"])
def test_a_row_of_length_zero_has_the_head_s_bias_as_logits_and_leaves_the_others_alone(pooling: str) -> None:
    module = model(pooling=pooling)
    ids, mask = ragged([4, 0, 2])
    logits = module(ids, mask).logits
    torch.testing.assert_close(logits[1], module.classifier.bias, rtol=0, atol=0)
    others = module(ids[[0, 2]], mask[[0, 2]]).logits
    torch.testing.assert_close(logits[[0, 2]], others, rtol=1e-12, atol=1e-12)
    logits.sum().backward()
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in module.parameters())


@pytest.mark.parametrize("shape", [(0, 5), (0, 0), (3, 0)])
def test_a_batch_without_rows_or_columns_gives_logits_that_gradients_flow_from(shape: tuple[int, int]) -> None:
    module = model()
    empty = torch.zeros(shape, dtype=torch.long)
    logits = module(empty, empty).logits
    assert logits.shape == (shape[0], 4)
    logits.sum().backward()


def test_saving_and_loading_through_the_auto_classes_keeps_every_bit(tmp_path: Path) -> None:
    module = model(num_hidden_layers=2, id2label={0: "a", 1: "b", 2: "c", 3: "d"}).float()
    module.save_pretrained(tmp_path)
    loaded, info = AutoModelForSequenceClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert type(loaded) is BiLSTMForSequenceClassification
    assert loaded.config.id2label == {0: "a", 1: "b", 2: "c", 3: "d"}
    for name, value in module.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[name])
    ids, mask = ragged([4, 2])
    assert torch.equal(module(ids, mask).logits, loaded.eval()(ids, mask).logits)


def test_a_fresh_model_starts_from_torch_s_own_initial_values() -> None:
    torch.manual_seed(3)
    module = BiLSTMForSequenceClassification(
        BiLSTMConfig(vocab_size=2000, embedding_size=50, hidden_size=64, num_labels=3)
    )
    assert not module.embedding.weight[0].any()
    assert module.embedding.weight[1:].std().item() == pytest.approx(1.0, rel=0.02)
    bound = 1 / 64**0.5
    for parameter in module.encoder.parameters():
        assert 0.95 * bound < parameter.abs().max().item() <= bound
    torch.manual_seed(3)
    again = BiLSTMForSequenceClassification(module.config)
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), again.parameters(), strict=True))


def test_dropout_acts_on_the_pooled_features_in_training_alone() -> None:
    module = model(dropout=0.5)
    ids, mask = ragged([4, 4])
    assert torch.equal(module(ids, mask).logits, module(ids, mask).logits)
    module.train()
    assert not torch.equal(module(ids, mask).logits, module(ids, mask).logits)


def test_labels_give_the_cross_entropy_as_transformers_models_do() -> None:
    module = model(problem_type="single_label_classification")
    ids, mask = ragged([4, 2])
    output = module(ids, mask, labels=torch.tensor([1, 3]))
    wanted = torch.nn.functional.cross_entropy(output.logits, torch.tensor([1, 3]))
    assert output.loss.item() == pytest.approx(wanted.item(), rel=1e-6)


def stage(folder: Path) -> SimpleNamespace:
    head = {"num_labels": 2, "id2label": {0: "no", 1: "yes"}, "label2id": {"no": 0, "yes": 1}}
    task = SimpleNamespace(head=lambda: head, auto_class="AutoModelForSequenceClassification")
    return SimpleNamespace(path=folder.joinpath, task=task)


def test_the_plugin_builds_a_student_with_the_file_s_vocabulary_and_the_task_s_head(tmp_path: Path) -> None:
    (tmp_path / "characters.txt").write_text("<PAD>\n<UNK>\n \n的\n", encoding="utf-8")
    options = {"vocab": "characters.txt", "embedding_size": 6, "hidden_size": 3, "layers": 2, "dropout": 0.1}
    made = BiLSTM(BiLSTM.Config(**options)).build_student(stage(tmp_path))  # type: ignore[arg-type]
    assert made.module.embedding.weight.shape == (4, 6)
    assert made.module.encoder.num_layers == 2
    assert made.module.config.label2id == {"no": 0, "yes": 1}
    assert made.module(**made.tokenizer(["的 ", "龘"], padding=True, return_tensors="pt")).logits.shape == (2, 2)

    made.module.save_pretrained(tmp_path / "student")
    made.tokenizer.save_pretrained(tmp_path / "student")
    assert AutoTokenizer.from_pretrained(tmp_path / "student")("的 ")["input_ids"] == [3, 2]


def test_a_vocabulary_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="vocab"):
        BiLSTM.Config()  # type: ignore[call-arg]
    with pytest.raises(ModelError, match=r"no vocabulary file .*none\.txt"):
        BiLSTM(BiLSTM.Config(vocab="none.txt")).build_student(stage(tmp_path))  # type: ignore[arg-type]
