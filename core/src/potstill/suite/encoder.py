"""An encoder without a head: what every task of a suite starts from."""

from __future__ import annotations

from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoModel

from potstill.errors import ModelError, UserError
from potstill.files import new_folder, path_hash, read_json, write_json
from potstill.models import check_folder, why_not
from potstill.quiet import quiet_libraries
from potstill.tokenizers import load_tokenizer

_SOURCE = "source.json"


def save_encoder(model: str, folder: Path) -> None:
    """Writes a model's encoder and tokenizer into `folder`, its head left out, so that no task starts from it.

    A part that the model has no weights for (the pooler of a masked language model) is left out too, and so each run
    draws its own. The same call again finds it done.

    Args:
        model: a model folder or a hub id.

    Raises: ModelError where the model cannot be read, or `folder` holds the encoder of another one.
    """
    source = {"model": model, "hash": path_hash(Path(model)) if Path(model).is_dir() else None}
    place = next((path for path in (folder, *folder.parents) if path.exists()), Path())
    if not place.is_dir():
        raise UserError(f"The suite's folder {folder.parent} cannot be made, for {place} is a file; give another.")
    if folder.is_dir():
        known = read_json(folder / _SOURCE)
        if known["hash"] != source["hash"] or (source["hash"] is None and known["model"] != model):
            raise ModelError(
                f"The suite in {folder.parent} began with another model ({known['model']}, or what it was then) than "
                f"{model}; give another --folder."
            )
        return
    if Path(model).is_dir():
        check_folder(Path(model))
    with quiet_libraries():
        _write(model, folder, source)


def _write(model: str, folder: Path, source: dict[str, str | None]) -> None:
    try:
        module, info = AutoModel.from_pretrained(
            model, use_safetensors=True, output_loading_info=True, dtype=torch.float32
        )
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError, StrictDataclassError) as error:
        raise ModelError(why_not(model, error)) from error
    tokenizer = load_tokenizer(model, None)
    drawn = set(info["missing_keys"])
    weights = {name: value for name, value in module.state_dict().items() if name not in drawn}
    with new_folder(folder) as draft:
        module.save_pretrained(draft, state_dict=weights)
        tokenizer.save_pretrained(draft)
        write_json(draft / _SOURCE, source)
