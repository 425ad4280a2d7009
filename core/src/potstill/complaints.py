"""Turns what pydantic finds wrong into one sentence that repeats the input and says what would be right."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from potstill.errors import RecipeError, did_you_mean

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo
    from pydantic_core import ErrorDetails

ModelT = TypeVar("ModelT", bound=BaseModel)
Location = tuple[str | int, ...]
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 60


def validated(model: type[ModelT], data: Mapping[str, Any], place: Callable[[Location], str]) -> ModelT:
    """The model made from `data`.

    Args:
        place: names a table for the reader, from where it stands: `("stage", 1)` → "stage 2 (distil): ".

    Raises: RecipeError, one sentence about the first thing that is wrong.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise RecipeError(_sentence(error, model, place)) from None


def _sentence(error: ValidationError, model: type[BaseModel], place: Callable[[Location], str]) -> str:
    details = error.errors()
    spots = [_spot(model, found["loc"]) for found in details]
    # a value that fits no member of a union is found wrong once for every member
    same = [found for found, spot in zip(details, spots, strict=True) if spot == spots[0]]
    return f"{place(spots[0].table)}{_complaint(same, spots[0])}"


def _complaint(same: list[ErrorDetails], spot: _Spot) -> str:
    first = same[0]
    if first["type"] == "missing":
        key = f"'{spot.table[-1]}'" if spot.key is None and spot.table else spot  # a table is missing as a whole
        return f"the key {key} is missing." if not spot.items else f"{spot} is missing."
    if first["type"] == "extra_forbidden":
        known = known_keys(spot.home)
        return f"unknown key {spot}.{did_you_mean(str(spot.key), known) or _listed(known)}"
    about = "" if spot.key is None else f"{spot} = {_SHORT.repr(first['input'])}"
    if first["type"] == "value_error":
        told = str(first["ctx"]["error"])
        return f"{about}{': ' if about else ''}{told}{'' if told.endswith(('.', '?')) else '.'}"
    told = " or ".join(dict.fromkeys(_expectation(found) for found in same))
    return f"{about} should {told}.{_nearest_choice(first)}".lstrip()


def _listed(known: list[str]) -> str:
    return f" Known keys: {', '.join(known)}." if known else " No key is known here."


def _expectation(found: ErrorDetails) -> str:
    """What the value should do: "be a list", "be less than 1"."""
    if found["type"] in {"model_type", "model_attributes_type", "dict_type"}:
        return "be a table"
    if found["type"] in {"tuple_type", "list_type"}:
        return "be a list"
    return re.sub(r" after validation, not \d+$", "", re.sub(r"^\w+ should ", "", found["msg"]))


def _nearest_choice(found: ErrorDetails) -> str:
    if found["type"] != "literal_error" or not isinstance(found["input"], str):
        return ""
    return did_you_mean(found["input"], re.findall(r"'([^']*)'", found["ctx"]["expected"]))


def known_keys(model: type[BaseModel]) -> list[str]:
    """The keys that a table of this model may have, as they are written in a recipe."""
    return [str(field.validation_alias or name) for name, field in model.model_fields.items() if name != "options"]


@dataclass(frozen=True)
class _Spot:
    """Where a value stands: the table, its model, the key in it (None: the table itself), the places in a list."""

    table: Location
    home: type[BaseModel]
    key: str | None = None
    items: tuple[int, ...] = ()

    def __str__(self) -> str:
        return f"'{self.key}'" + "".join(f", item {item + 1}," for item in self.items).removesuffix(",")


def _spot(model: type[BaseModel], location: Location) -> _Spot:
    home = model
    for depth, part in enumerate(location):
        if isinstance(part, int):
            continue
        field = _field(home, part)
        inner = None if field is None else _model_in(field.annotation)
        if inner is None:
            items = tuple(item for item in location[depth + 1 :] if isinstance(item, int))
            return _Spot(location[:depth], home, part, items)
        home = inner
    return _Spot(location, home)


def _field(model: type[BaseModel], key: str) -> FieldInfo | None:
    by_key = {str(field.validation_alias or name): field for name, field in model.model_fields.items()}
    return by_key.get(key)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((inner for part in get_args(annotation) if (inner := _model_in(part)) is not None), None)
