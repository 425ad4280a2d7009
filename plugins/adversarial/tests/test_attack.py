"""What an attacked update's gradient is: against autograd by hand, exact under accumulation, gone without a trace."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from potstill_adversarial.attack import TableAttack
from potstill_adversarial.perturbation import TABLE, ascended
from torch import Tensor

from plugins.adversarial.tests.stages import gradients, run_steps, stage_of, steps_of, table_of
from potstill import loader
from potstill.batch import IGNORED, Batch
from potstill.errors import ModelError, PluginError, RecipeError
from potstill.features import Hidden
from potstill.plugin import LossTerm, Plugin, hookimpl
from potstill.progress import Progress
from potstill.stage import Stage
from potstill.step import Step

ROWS = range(2, 12)  # row 9 has no label
HALVES = (range(2, 5), range(5, 12))
ATTACKS: dict[str, dict[str, Any]] = {
    "fgm": {"plugins": ["fgm"], "fgm": {"epsilon": 0.7}},
    "pgd": {"plugins": ["pgd"], "pgd": {"epsilon": 0.5, "alpha": 0.3, "steps": 3}},
}


def stage_with(name: str, attack: str | None, data: Path, folder: Path, *more: str) -> Stage:
    """A stage with one of the two plugins."""
    tables = ATTACKS[name]
    options = tables[name] if attack is None else {**tables[name], "attack": attack}
    return stage_of(data, folder, plugins=[*more, name], **{name: options})


class ByHand:
    """The same student's gradients by plain autograd: losses of word vectors [batch, seq, width]."""

    def __init__(self, stage: Stage) -> None:
        self.stage, self.model, self.table = stage, stage.student.module, table_of(stage).weight
        (step,) = steps_of(stage, ROWS)
        self.batch: Batch = step.batch

    def losses(self, vectors: Tensor) -> Tensor:
        inputs = {name: value for name, value in self.batch.student.items() if name != "input_ids"}
        logits = self.model(inputs_embeds=vectors, **inputs).logits
        return F.cross_entropy(logits, self.batch.labels, ignore_index=IGNORED, reduction="none")

    def loss(self, shift: Tensor | float = 0.0, table_shift: Tensor | float = 0.0) -> Tensor:
        vectors = F.embedding(self.batch.student["input_ids"], self.table + table_shift, padding_idx=0) + shift
        return self.losses(vectors).sum() / (self.batch.labels != IGNORED).sum()

    def total(self, **shift: Tensor) -> dict[str, Tensor]:
        """The gradient of the clean loss plus that of the moved one."""
        named = dict(self.model.named_parameters())
        found = torch.autograd.grad(self.loss() + self.loss(**shift), list(named.values()), allow_unused=True)
        return {name: value for name, value in zip(named, found, strict=True) if value is not None}

    def table_shift(self, name: str) -> Tensor:
        shift = torch.zeros_like(self.table)
        for size, epsilon in self._sizes(name):
            (gradient,) = torch.autograd.grad(self.loss(table_shift=shift), self.table)
            shift = (shift + size * gradient / gradient.norm()).detach()
            shift = shift * min(1.0, epsilon / float(shift.norm()))
        return shift

    def row_shifts(self, name: str) -> Tensor:
        ids, mask = self.batch.student["input_ids"], self.batch.student["attention_mask"]
        shifts = torch.zeros(*ids.shape, self.table.shape[1], dtype=torch.float64)
        for row in range(len(ids)):
            if self.batch.labels[row] == IGNORED:
                continue
            for size, epsilon in self._sizes(name):
                vectors = (F.embedding(ids, self.table) + shifts).detach().requires_grad_()
                (gradient,) = torch.autograd.grad(self.losses(vectors)[row], vectors)
                own = gradient[row] * mask[row, :, None]
                moved = shifts[row] + size * own / own.norm()
                shifts[row] = moved * min(1.0, epsilon / float(moved.norm()))
        return shifts

    def _sizes(self, name: str) -> list[tuple[float, float]]:
        return [(0.7, 0.7)] if name == "fgm" else [(0.3, 0.5)] * 3


def assert_close(got: dict[str, Tensor], want: dict[str, Tensor], rtol: float = 1e-9, atol: float = 1e-12) -> None:
    assert got.keys() == want.keys()
    for name, value in want.items():
        torch.testing.assert_close(
            got[name], value, rtol=rtol, atol=atol, msg=lambda told, name=name: f"{name}: {told}"
        )


@pytest.mark.parametrize("every_row", [False, True])  # as on a GPU
@pytest.mark.parametrize("name", ATTACKS)
def test_moving_the_table_gives_the_gradient_that_autograd_gives_by_hand(
    name: str, every_row: bool, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if every_row:
        monkeypatch.setattr("potstill_adversarial.attack._touched", lambda gradient, shift: torch.arange(len(gradient)))
    stage = stage_with(name, "table", data, tmp_path)
    hand = ByHand(stage)
    assert_close(gradients(stage, ROWS), hand.total(table_shift=hand.table_shift(name)))


@pytest.mark.parametrize("name", ATTACKS)
def test_moving_each_row_s_vectors_gives_the_gradient_that_autograd_gives_row_by_row(
    name: str, data: Path, tmp_path: Path
) -> None:
    stage = stage_with(name, "output", data, tmp_path)
    hand = ByHand(stage)
    assert_close(gradients(stage, ROWS), hand.total(shift=hand.row_shifts(name)))


@pytest.mark.parametrize("name", ATTACKS)
def test_cutting_an_update_changes_nothing_where_rows_are_moved_and_something_where_the_table_is(
    name: str, data: Path, tmp_path: Path
) -> None:
    apart = {}
    for attack in ("output", "table"):
        stage = stage_with(name, attack, data, tmp_path)
        whole, parts = gradients(stage, ROWS), gradients(stage, *HALVES)
        apart[attack] = max(float((whole[key] - parts[key]).abs().max()) for key in whole)
    assert apart["output"] < 1e-12
    assert apart["table"] > 1e-4


def test_a_table_s_rows_may_join_between_steps_and_the_shift_is_that_of_the_whole_table() -> None:
    table = torch.nn.Parameter(torch.randn(9, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))
    clean = table.detach().clone()
    attack, shift, whole = TableAttack(table), None, None
    for rows in ([2, 5], [5, 0, 8], [1]):
        gradient = torch.zeros_like(table)
        gradient[rows] = torch.arange(4 * len(rows), dtype=torch.float64).view(-1, 4) + 1
        whole = ascended(whole, gradient, 0.4, 0.5, TABLE)
        shift = attack.ascended(shift, [gradient], 0.4, 0.5)
        with attack.passing(shift):
            torch.testing.assert_close(table.detach() - clean, whole, rtol=1e-12, atol=1e-15)
        assert torch.equal(table, clean)
    assert shift is not None
    assert shift.numbers.tolist() == [0, 1, 2, 5, 8]


def test_the_default_moves_rows_where_micro_batches_are_accumulated_or_the_table_is_frozen(
    data: Path, tmp_path: Path
) -> None:
    told = {
        (): "table (one batch an update)",
        ("accumulate",): "output (micro-batches are accumulated)",
    }
    for more, words in told.items():
        # `fgm` stands last and first: the other's claim is known either way.
        for order in ((*more, "fgm"), ("fgm", *more)):
            stage = stage_of(data, tmp_path, plugins=list(order))
            assert stage.explained["fgm"] == {"attack": words, "embedding": "bert.embeddings.word_embeddings.weight"}


def test_moving_the_table_under_accumulation_is_told_to_be_inexact(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes: list[str] = []
    monkeypatch.setattr(Progress, "note", lambda self, text: notes.append(text))
    stage_with("fgm", "table", data, tmp_path)
    stage_with("fgm", "output", data, tmp_path, "accumulate")
    assert notes == []
    stage_with("fgm", "table", data, tmp_path, "accumulate")
    assert notes == [
        "plain: fgm moves the table anew for every micro-batch, by its own gradient, so the update is not that of one "
        'large batch; attack = "output" is exact.'
    ]


class Freezes(Plugin):
    """Another plugin, set up after `fgm`."""

    name = "freezes"

    @hookimpl
    def setup(self, stage: Stage) -> None:
        table_of(stage).weight.requires_grad_(False)


def test_a_frozen_table_s_rows_are_moved_and_asking_for_the_table_is_an_error(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = loader.stage_plugins
    free = ByHand(stage_with("fgm", "output", data, tmp_path / "free"))
    monkeypatch.setattr(loader, "stage_plugins", lambda recipe, plan: [*named(recipe, plan), Freezes(None)])
    stage = stage_with("fgm", None, data, tmp_path)
    assert stage.explained["fgm"]["attack"] == "output (the table is frozen)"
    want = free.total(shift=free.row_shifts("fgm"))
    del want["bert.embeddings.word_embeddings.weight"]
    assert_close(gradients(stage, ROWS), want)
    with pytest.raises(RecipeError) as caught:
        stage_with("fgm", "table", data, tmp_path)
    assert str(caught.value) == (
        "stage 'plain': plugin 'fgm': attack = \"table\" needs the gradient of bert.embeddings.word_embeddings.weight, "
        'which is frozen here; take attack = "output".'
    )


class Everywhere(Plugin):
    """A loss on all positions, so that padding has a gradient too."""

    name = "everywhere"

    @hookimpl
    def setup(self, stage: Stage) -> None:
        stage.observe(student=[Hidden(-1)])

    @hookimpl
    def compute_loss(self, step: Step) -> list[LossTerm]:
        return [LossTerm("size", step.student()[Hidden(-1)][..., 0].square().mean())]


def test_padding_is_not_moved_even_where_it_counts_and_every_row_by_epsilon(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = loader.stage_plugins
    monkeypatch.setattr(loader, "stage_plugins", lambda recipe, plan: [*named(recipe, plan), Everywhere(None)])
    stage = stage_with("fgm", "output", data, tmp_path)
    seen: list[Tensor] = []
    hook = table_of(stage).register_forward_hook(lambda module, args, output: seen.append(output))
    (step,) = run_steps(stage, ROWS)
    hook.remove()
    clean, moved = seen
    shift, mask = (moved - clean).detach(), step.batch.student["attention_mask"]
    assert clean.grad is not None
    assert bool(clean.grad[mask == 0].any())
    assert not shift[mask == 0].any()
    torch.testing.assert_close(shift.flatten(1).norm(dim=1), torch.full((10,), 0.7, dtype=torch.float64))


@pytest.mark.parametrize("attack", ["table", "output"])
def test_a_micro_batch_without_a_label_moves_nothing_and_adds_nothing(attack: str, data: Path, tmp_path: Path) -> None:
    stage = stage_with("pgd", attack, data, tmp_path)
    assert_close(gradients(stage, range(2, 8), range(9, 10)), gradients(stage, range(2, 8)))


@pytest.mark.parametrize("number", [1, 3])
@pytest.mark.parametrize("attack", ["table", "output"])
def test_a_pass_that_raises_leaves_the_table_bit_by_bit_and_no_gradient_of_its_own(
    attack: str, number: int, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = stage_with("pgd", attack, data, tmp_path)
    stage.student.module.float()
    weight = table_of(stage).weight
    before, address = weight.detach().clone(), weight.data_ptr()
    passes, terms = iter(range(9)), Step.terms
    moved: list[bool] = []

    def failing(step: Step) -> Any:
        found = terms(step)
        moved.append(not torch.equal(weight, before))
        if next(passes) == number:
            raise RuntimeError("no more")
        return found

    monkeypatch.setattr(Step, "terms", failing)
    with pytest.raises(RuntimeError, match="no more"):
        run_steps(stage, ROWS)
    assert moved == [False, *[attack == "table"] * number]
    assert torch.equal(weight, before)
    assert weight.data_ptr() == address
    assert all(parameter.grad is None for parameter in stage.parameters)
    monkeypatch.setattr(Step, "terms", terms)
    stage.student.module.double()
    assert_close(gradients(stage, ROWS), gradients(stage_with("pgd", attack, data, tmp_path), ROWS))


def test_no_hook_is_left_when_the_stage_is_over(data: Path, tmp_path: Path) -> None:
    stage = stage_with("fgm", "output", data, tmp_path)
    model = stage.student.module
    with stage.exit:
        run_steps(stage, ROWS)
        assert any(part._forward_hooks for part in model.modules())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())


def test_a_table_that_is_not_read_row_by_row_is_an_error(data: Path, tmp_path: Path) -> None:
    options = {"embedding": "position_embeddings", "attack": "output"}
    stage = stage_of(data, tmp_path, plugins=["fgm"], fgm=options)
    with pytest.raises(
        PluginError, match=r"gives \[batch, seq, width\] for a mask \[10, \d+\], and this one gives \[1,"
    ):
        run_steps(stage, ROWS)
    with pytest.raises(ModelError, match="no embedding table of the BertForSequenceClassification has a name with"):
        stage_of(data, tmp_path, plugins=["fgm"], fgm={"embedding": "embedding.weight"})
