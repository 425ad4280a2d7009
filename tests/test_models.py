"""Models from configs, recipe tables, folders and teachers' layers: what is loaded, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel

from potstill.errors import ModelError
from potstill.models import (
    Model,
    from_config,
    from_recipe,
    load_model,
    load_trained,
    read_card,
    student_from_layers,
    task_of,
)
from potstill.recipe import ModelConfig, TaskConfig
from potstill.tasks import Task, load_task
from potstill.tokenizers import load_tokenizer
from tests.words import SPECIAL, WORDS, sentence, write

SMALL: dict[str, Any] = {
    "model_type": "bert",
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
}
NARROW = {**SMALL, "embedding_size": 16}
KINDS: dict[str, dict[str, Any]] = {
    "bert": SMALL,
    "roberta": SMALL,
    "electra": NARROW,
    "ernie": SMALL,
    "distilbert": {"dim": 32, "n_layers": 3, "n_heads": 4, "hidden_dim": 48},
    "mobilebert": {**NARROW, "intra_bottleneck_size": 16},
    "qwen2": {**SMALL, "num_key_value_heads": 2},
}


def task(*labels: str) -> Task:
    return load_task(TaskConfig(), list(labels) or ["sea", "town", "wood"])


@pytest.fixture
def vocabulary(tmp_path: Path) -> Path:
    return write(tmp_path / "vocab.txt", WORDS)


def make(vocabulary: Path, kind: str = "bert", **more: Any) -> Model:
    torch.manual_seed(0)
    return from_config({**KINDS[kind], "model_type": kind, **more}, load_tokenizer(str(vocabulary), None), task())


def save(model: Model, folder: Path) -> Path:
    model.module.save_pretrained(folder)  # type: ignore[operator]
    model.tokenizer.save_pretrained(folder)
    return folder


def state(model: Model) -> dict[str, Tensor]:
    return dict(model.module.state_dict())


# from a config


def test_a_config_follows_the_tokenizer_and_the_task(vocabulary: Path) -> None:
    model = make(vocabulary)
    config = model.module.config
    assert (config.vocab_size, config.pad_token_id, config.num_labels) == (10, 0, 3)
    assert config.id2label == {0: "sea", 1: "town", 2: "wood"}
    assert set(model.fresh) == {name for name, _ in model.module.named_parameters()}


def test_a_larger_vocabulary_may_be_asked_for_and_a_smaller_one_not(vocabulary: Path) -> None:
    assert make(vocabulary, vocab_size=16).module.get_input_embeddings().weight.shape == (16, 32)  # type: ignore[operator]
    with pytest.raises(ModelError, match=r"^vocab_size = 9 is smaller than the tokenizer's vocabulary of 10\.$"):
        make(vocabulary, vocab_size=9)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model_type": "brt"}, "There is no model_type 'brt'. Did you mean 'bert'?"),
        ({"hiden_size": 8}, "The config of a 'bert' model has no 'hiden_size'. Did you mean 'hidden_size'?"),
        ({"num_attention_heads": 5}, "The config of a 'bert' model cannot be used: The hidden size (32) is not"),
        (
            {"hidden_size": "abc"},
            "The config of a 'bert' model cannot be used: Validation error for field 'hidden_size'",
        ),
    ],
)
def test_a_config_that_cannot_be_is_one_sentence(vocabulary: Path, change: dict[str, Any], words: str) -> None:
    with pytest.raises(ModelError) as error:
        from_config({**SMALL, **change}, load_tokenizer(str(vocabulary), None), task())
    assert sentence(error).startswith(words)


def test_a_config_needs_model_type(vocabulary: Path) -> None:
    with pytest.raises(ModelError, match="needs model_type"):
        from_config({"hidden_size": 8}, load_tokenizer(str(vocabulary), None), task())


# from a recipe's table


def test_a_table_with_a_config_takes_its_own_tokenizer_or_the_teachers(vocabulary: Path) -> None:
    teacher = make(vocabulary)
    other = write(vocabulary.parent / "other.txt", [*SPECIAL, "x"])
    spec = ModelConfig.model_validate({"config": SMALL})
    assert from_recipe(spec, task(), vocabulary.parent, tokenizer=teacher.tokenizer).tokenizer is teacher.tokenizer
    spec = ModelConfig.model_validate({"config": SMALL, "tokenizer": other.name})
    assert len(from_recipe(spec, task(), vocabulary.parent, tokenizer=teacher.tokenizer).tokenizer) == 6
    with pytest.raises(ModelError, match="needs a tokenizer"):
        from_recipe(ModelConfig.model_validate({"config": SMALL}), task(), vocabulary.parent)


def test_a_table_with_layers_needs_a_teacher(vocabulary: Path) -> None:
    spec = ModelConfig.model_validate({"layers": [1, 3]})
    student = from_recipe(spec, task(), vocabulary.parent, teacher=make(vocabulary))
    assert student.module.config.num_hidden_layers == 2
    with pytest.raises(ModelError, match=r"from the teacher's layers \[1, 3\] needs a teacher"):
        from_recipe(spec, task(), vocabulary.parent)


def test_a_folder_below_the_data_root_comes_before_the_hub(vocabulary: Path) -> None:
    save(make(vocabulary), vocabulary.parent / "bert-base-uncased")
    spec = ModelConfig.model_validate({"model": "bert-base-uncased"})
    assert from_recipe(spec, task(), vocabulary.parent).module.config.hidden_size == 32


# from a folder


def test_a_saved_model_loads_bit_for_bit(vocabulary: Path) -> None:
    model = make(vocabulary)
    loaded = load_model(save(model, vocabulary.parent / "m"), task())
    assert loaded.fresh == ()
    assert state(loaded).keys() == state(model).keys()
    assert all(torch.equal(value, state(model)[name]) for name, value in state(loaded).items())
    assert loaded.tokenizer("the cats sat").input_ids == model.tokenizer("the cats sat").input_ids == [2, 5, 6, 8, 7, 3]


def test_half_precision_weights_are_loaded_in_full_precision(vocabulary: Path) -> None:
    model = make(vocabulary)
    model.module.half()
    loaded = load_model(save(model, vocabulary.parent / "m"), task())
    assert {value.dtype for value in state(loaded).values() if value.is_floating_point()} == {torch.float32}


def test_what_a_task_says_of_heads_is_left_out_where_the_models_config_does_not_know_it(vocabulary: Path) -> None:
    decoder = GPT2LMHeadModel(GPT2Config(vocab_size=10, n_layer=1, n_embd=16, n_head=2, n_positions=48))
    folder = vocabulary.parent / "gpt2"
    decoder.save_pretrained(folder)
    load_tokenizer(str(vocabulary), None).save_pretrained(folder)
    assert "is_decoder" not in json.loads((folder / "config.json").read_text())
    loaded = load_model(folder, load_task(TaskConfig(kind="causal-lm")))
    assert all(torch.equal(value, decoder.state_dict()[name]) for name, value in state(loaded).items())


def test_a_pretrained_body_gets_a_fresh_head_and_says_what_is_fresh(vocabulary: Path) -> None:
    body = BertForMaskedLM(BertConfig(vocab_size=10, **SMALL))
    folder = vocabulary.parent / "mlm"
    body.save_pretrained(folder)
    load_tokenizer(str(vocabulary), None).save_pretrained(folder)
    loaded = load_model(folder, task())
    assert {"classifier.weight", "classifier.bias"} <= set(loaded.fresh)
    assert not any(name.startswith("bert.enc") for name in loaded.fresh)
    name = "bert.encoder.layer.2.output.dense.weight"
    assert torch.equal(state(loaded)[name], body.state_dict()[name])


@pytest.mark.parametrize("labels", [["a", "b"], ["LABEL_0", "LABEL_1"], ["a", "b", "c", "d"]])
def test_a_head_with_another_number_of_labels_is_a_sentence(vocabulary: Path, labels: list[str]) -> None:
    """Also where the folder's config.json leaves the default two names out."""
    words = load_tokenizer(str(vocabulary), None)
    folder = save(from_config(SMALL, words, task(*labels)), vocabulary.parent / "m")
    with pytest.raises(ModelError) as error:
        load_model(folder, task())
    told = f"{len(labels)} labels apart ({', '.join(labels)}), and the task has 3 (sea, town, wood)"
    assert sentence(error) == f"The model in {folder} tells {told}."


def test_a_head_with_the_labels_in_another_order_is_a_sentence(vocabulary: Path) -> None:
    folder = save(make(vocabulary), vocabulary.parent / "m")
    with pytest.raises(ModelError, match="numbers its labels sea, town, wood, and the task wood, sea, town"):
        load_model(folder, task("wood", "sea", "town"))


def test_labels_with_other_names_are_the_tasks(vocabulary: Path) -> None:
    folder = save(make(vocabulary), vocabulary.parent / "m")
    assert load_model(folder, task("x", "y", "z")).module.config.id2label == {0: "x", 1: "y", 2: "z"}


def test_the_task_of_a_folder_comes_from_its_card_or_its_config(vocabulary: Path) -> None:
    folder = save(make(vocabulary), vocabulary.parent / "m")
    assert read_card(folder) == {}
    assert task_of(folder).names == ["sea", "town", "wood"]
    assert load_model(folder).module.config.num_labels == 3
    card = {"task": {"kind": "text-classification", "labels": ["x", "y", "z"]}, "max_length": 9}
    (folder / "potstill.json").write_text(json.dumps(card))
    assert task_of(folder).names == ["x", "y", "z"]
    assert read_card(folder)["max_length"] == 9


def headed(vocabulary: Path, kind: str, labels: tuple[str, ...] = ("sea", "town", "wood"), card: bool = True) -> Path:
    """A folder with a model of that kind of task."""
    words, folder = load_tokenizer(str(vocabulary), None), vocabulary.parent / "headed"
    save(from_config(SMALL, words, load_task(TaskConfig(kind=kind, metric="loss"), list(labels))), folder)
    if card:
        (folder / "potstill.json").write_text(json.dumps({"task": {"kind": kind, "labels": labels}}))
    return folder


@pytest.mark.parametrize("card", [True, False])
@pytest.mark.parametrize(
    ("kind", "wanted"),
    [
        ("text-classification", "multi-label"),
        ("multi-label", "text-classification"),
        ("multi-label", "token-classification"),
        ("text-classification", "token-classification"),
        ("token-classification", "multi-label"),
        ("text-classification", "regression"),
        ("regression", "multi-label"),
    ],
)
def test_a_head_of_another_kind_of_task_is_not_taken_for_the_tasks(
    kind: str, wanted: str, card: bool, vocabulary: Path
) -> None:
    """It has the same name and, here or with other labels, the same shape."""
    folder = headed(vocabulary, kind, card=card)
    names = ["sea", "town", "wood"]
    told = f"The model in {folder} was made for the task '{kind}', and this one is '{wanted}'; name a model that was"
    for labels in (names, [*names, "sky"]):
        with pytest.raises(ModelError) as error:
            load_model(folder, load_task(TaskConfig(kind=wanted, metric="loss"), labels))
        assert sentence(error).startswith(told)


def test_an_encoder_of_another_kind_of_task_begins_with_a_head_of_its_own(vocabulary: Path) -> None:
    folder = headed(vocabulary, "multi-label")
    loaded = load_model(folder, load_task(TaskConfig(kind="question-answering")))
    assert loaded.fresh == ("qa_outputs.bias", "qa_outputs.weight")
    with pytest.raises(ModelError, match="was made for the task 'multi-label', and this one is 'question-answering'"):
        load_trained(folder, load_task(TaskConfig(kind="question-answering")))


def test_a_classifier_that_does_not_say_how_its_labels_were_learnt_is_taken_for_either(vocabulary: Path) -> None:
    folder = headed(vocabulary, "text-classification", card=False)
    config = json.loads((folder / "config.json").read_text())
    del config["problem_type"]
    (folder / "config.json").write_text(json.dumps(config))
    for kind in ("text-classification", "multi-label"):
        assert not load_model(folder, load_task(TaskConfig(kind=kind), ["sea", "town", "wood"])).fresh


def test_labels_of_a_folder_are_ordered_by_number_not_by_text(vocabulary: Path) -> None:
    names = [f"n{number}" for number in range(12)]
    words = load_tokenizer(str(vocabulary), None)
    folder = save(from_config(SMALL, words, task(*names)), vocabulary.parent / "m")
    assert task_of(folder).names == names


def test_a_pickle_checkpoint_is_refused(vocabulary: Path) -> None:
    folder = save(make(vocabulary), vocabulary.parent / "m")
    torch.save(load_model(folder).module.state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"pytorch_model\.bin is a pickle, which can run code when opened"):
        load_model(folder, task())


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: (folder / "config.json").unlink(), "holds no config.json, so it is not a model"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json is not JSON"),
        (lambda folder: (folder / "config.json").write_text("{}"), "Should have a `model_type` key"),
        (lambda folder: (folder / "model.safetensors").unlink(), "holds no model.safetensors"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"\0" * 40), "are cut short or no safetensors"),
        (lambda folder: [path.unlink() for path in folder.glob("tok*")], "There is no tokenizer in"),
        (lambda folder: (folder / "tokenizer.json").write_text("{"), "could not be loaded"),
    ],
)
def test_a_damaged_folder_is_one_sentence(vocabulary: Path, damage: Any, words: str) -> None:
    folder = save(make(vocabulary), vocabulary.parent / "m")
    damage(folder)
    with pytest.raises(ModelError) as error:
        load_model(folder, task())
    assert words in sentence(error)
    assert str(folder) in sentence(error)


def test_a_folder_or_hub_id_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=f"^There is no model folder {tmp_path}/none.$"):
        load_model(tmp_path / "none")
    with pytest.raises(ModelError) as error:
        load_model("no-such/model", task())
    assert sentence(error).startswith("The model 'no-such/model' is neither a folder here nor could it be fetched")


def test_a_tokenizer_larger_than_the_model_is_a_sentence(vocabulary: Path) -> None:
    folder = save(make(vocabulary), vocabulary.parent / "m")
    larger = write(vocabulary.parent / "larger.txt", [*WORDS, "dog"])
    with pytest.raises(ModelError, match=r"vocab_size = 10 is smaller than the tokenizer's vocabulary of 11\."):
        load_model(folder, task(), str(larger))


# students from layers


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layers", [[1, 3], [3], [2, 2, 1], [-1, -3]])
def test_a_student_starts_as_exactly_the_layers_named(vocabulary: Path, kind: str, layers: list[int]) -> None:
    teacher = make(vocabulary, kind)
    student = student_from_layers(teacher, layers, task(), {})
    theirs, mine = state(teacher), state(student)
    pre = next(name for name in theirs if ".0." in name).partition("0.")[0]
    assert student.module.config.num_hidden_layers == len(layers)
    assert len({name[len(pre) :].split(".")[0] for name in mine if name.startswith(pre)}) == len(layers)
    for name, value in mine.items():
        source = name
        if name.startswith(pre):
            number, rest = name[len(pre) :].split(".", 1)
            wanted = layers[int(number)]
            source = f"{pre}{wanted - 1 if wanted > 0 else 3 + wanted}.{rest}"
        assert torch.equal(value, theirs[source]), (name, source)
    assert student.tokenizer is teacher.tokenizer


def test_all_layers_give_the_teacher_again_and_a_copy_of_it(vocabulary: Path) -> None:
    teacher = make(vocabulary)
    teacher.module.eval()
    student = student_from_layers(teacher, [1, 2, 3], task(), {})
    student.module.eval()
    inputs = teacher.tokenizer("the cat sat", return_tensors="pt")
    assert torch.equal(student.module(**inputs).logits, teacher.module(**inputs).logits)
    ours, theirs = (model.module.get_input_embeddings().weight for model in (student, teacher))  # type: ignore[operator]
    assert ours.data_ptr() != theirs.data_ptr()


def test_settings_that_are_not_shapes_may_change(vocabulary: Path) -> None:
    student = student_from_layers(make(vocabulary), [1], task(), {"hidden_dropout_prob": 0.25})
    assert student.module.config.hidden_dropout_prob == 0.25


def test_kinds_of_layers_go_along_with_the_layers(vocabulary: Path) -> None:
    kinds = ["full_attention", "sliding_attention", "full_attention"]
    teacher = make(vocabulary, "qwen2", layer_types=kinds, use_sliding_window=True, sliding_window=4)
    student = student_from_layers(teacher, [2, 3], task(), {})
    assert student.module.config.layer_types == kinds[1:]


@pytest.mark.parametrize("layer", [0, 4, -4])
def test_a_layer_that_the_teacher_has_not_is_a_sentence(vocabulary: Path, layer: int) -> None:
    with pytest.raises(ModelError, match=f"^Layer {layer} of the teacher is asked for, but it has layers 1 to 3.$"):
        student_from_layers(make(vocabulary), [1, layer], task(), {})


def test_other_shapes_are_refused_by_name_and_size(vocabulary: Path) -> None:
    with pytest.raises(ModelError) as error:
        student_from_layers(make(vocabulary), [1], task(), {"hidden_size": 16})
    assert "cannot have another shape: bert.embeddings.word_embeddings.weight is [10, 32] in the teacher" in str(
        error.value
    )


def test_a_misspelt_change_is_a_sentence(vocabulary: Path) -> None:
    with pytest.raises(ModelError, match="has no 'hidden_droput_prob'. Did you mean 'hidden_dropout_prob'?"):
        student_from_layers(make(vocabulary), [1], task(), {"hidden_droput_prob": 0.0})


def test_layers_that_share_their_weights_cannot_be_picked(vocabulary: Path) -> None:
    config = {**NARROW, "model_type": "albert"}
    teacher = from_config(config, load_tokenizer(str(vocabulary), None), task())
    with pytest.raises(ModelError, match="AlbertForSequenceClassification share their weights"):
        student_from_layers(teacher, [1], task(), {})


def test_layers_that_are_not_alike_are_a_sentence(vocabulary: Path) -> None:
    """ModernBERT's first layer has no norm before its attention, so another layer cannot take its place."""
    words = load_tokenizer(str(vocabulary), None)
    special = {"cls_token_id": 2, "bos_token_id": 2, "sep_token_id": 3, "eos_token_id": 3}
    teacher = from_config({**SMALL, "model_type": "modernbert", **special}, words, task())
    student = student_from_layers(teacher, [1, 3], task(), {})
    assert torch.equal(state(student)["model.layers.1.mlp.Wi.weight"], state(teacher)["model.layers.2.mlp.Wi.weight"])
    with pytest.raises(ModelError, match=r"as the teacher's layers \[2, 3\]: model\.layers\.0\.attn_norm\.weight is"):
        student_from_layers(teacher, [2, 3], task(), {})
