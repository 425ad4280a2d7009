"""The plugin `tinybert`'s augmentation against huawei-noah's data_augmentation.py, with Python's own random draws."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

from potstill_tinybert.augmentation import Augmenter, variants
from potstill_tinybert.config import AugmentationConfig
from potstill_tinybert.masked_lm import Expectations
from potstill_tinybert.neighbours import Neighbours
from torch import Tensor
from transformers import BertConfig, BertForMaskedLM

from potstill.models import Model
from potstill.tokenizers import load_tokenizer
from tests.goldens.case import Case
from tests.goldens.registry import check


@check("tinybert_data_augmentation")
def augmentation(case: Case) -> Iterator[tuple[str, Tensor]]:
    """Candidates and sentences are text, which stands in the index and not in a tensor: they must be the very same."""
    params = case.params
    config = AugmentationConfig(passes=params["N"], candidates=params["M"], probability=params["p"])
    neighbours = Neighbours(params["glove_words"], case["glove_vectors"], config.candidates)
    augmenter = Augmenter(config, Expectations(masked_lm(case), config.candidates, special=True), neighbours)
    expected = params["expected"]
    found = augmenter.candidates([wanted["sentence"] for wanted in expected])
    for wanted, (words, candidates) in zip(expected, found, strict=True):
        places = [str(wanted["sentence"][: word.start].count(" ")) for word in words]
        assert dict(zip(places, candidates, strict=True)) == wanted["candidates"]
        draws = random.Random(wanted["python_random_seed"])
        some = variants(wanted["sentence"], words, candidates, draws, config.passes, config.probability)
        assert [wanted["sentence"], *some] == wanted["augmented"]
    yield "out.glove_normalised", neighbours.vectors


def masked_lm(case: Case) -> Model:
    vocabulary = case.params["vocab"]
    module = BertForMaskedLM(BertConfig(vocab_size=len(vocabulary), **case.params["mlm_config"])).double().eval()
    weights = {name.removeprefix("mlm."): value for name, value in case.tensors.items() if name.startswith("mlm.")}
    missing, unknown = module.load_state_dict(weights, strict=False)
    assert not [name for name in missing if "position_ids" not in name and "decoder.bias" not in name], missing
    assert all(name.startswith("bert.pooler") for name in unknown), unknown
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vocab.txt"
        path.write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
        return Model(module, load_tokenizer(str(path), None))
