"""The wiring, through a stand-in with apex's interface (`stand_in.py`); real apex where there is one."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from potstill_accumulate.plugin import Accumulate
from potstill_amp.plugin import Amp
from potstill_apex import found
from potstill_apex.fused import NO_CLIP, exchange
from potstill_apex.plugin import Apex
from potstill_apex.scaled import Scaled
from potstill_bilstm.plugin import BiLSTM
from pydantic import ValidationError
from torch import Tensor, nn

from potstill.engine import Engine
from potstill.errors import ModelError, PluginError
from potstill.features import Hidden
from potstill.optimizer import clip_norm
from potstill.plugin import LossTerm, Plugin, hookimpl
from potstill.stage import Stage
from potstill.step import Step
from potstill.testing import assert_resumes_exactly, engine_of, stage_of, weights
from potstill.testing.tiny import recipe, student_only, write_data

REAL = torch.cuda.is_available() and importlib.util.find_spec("amp_C") is not None
needs_apex = pytest.mark.skipif(not REAL, reason="needs NVIDIA apex and a CUDA device")


def load_stand_in() -> Any:
    spec = importlib.util.spec_from_file_location("stand_in", Path(__file__).with_name("stand_in.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


stand_in = load_stand_in()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture
def apex(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The stand-in, found wherever the plugin looks for apex."""
    made = stand_in.apex()
    monkeypatch.setattr(found, "find", lambda device, parts, opt_level: made)
    return made


class Records(Plugin):
    """Writes the gradients down that are clipped, whether updates were applied, and who is cast where."""

    name = "records"

    def __init__(self) -> None:
        super().__init__(None)
        self.gradients: list[Tensor] = []
        self.order: list[Tensor] = []
        self.applied: list[bool] = []
        self.kinds: set[tuple[str, torch.dtype]] = set()

    @hookimpl
    def setup(self, stage: Stage) -> None:
        stage.claim("clip", self.clip)

    def clip(self, parameters: list[Tensor]) -> Tensor:
        gradients = [value.grad for value in parameters if value.grad is not None]
        self.kinds |= {("clipped", value.dtype) for value in gradients}
        ordered = [value.grad for value in self.order or parameters if value.grad is not None]
        self.gradients.append(torch.cat([value.flatten().clone() for value in ordered]))
        return clip_norm(1.0)(parameters)

    @hookimpl
    def compute_loss(self, step: Step) -> None:
        self.kinds.add(("loss", F.linear(torch.ones(1, 2), torch.ones(2, 2)).dtype))
        self.kinds.add(("logits", step.student().logits.dtype))

    @hookimpl
    def on_update(self, update: Any) -> None:
        self.applied.append(update.applied)


class Spikes(Plugin):
    """A loss whose gradient overflows in float16 in one update."""

    name = "spikes"
    at = 1

    @hookimpl
    def compute_loss(self, step: Step) -> list[LossTerm]:
        logits = step.student().logits
        return [LossTerm("spike", (1e30 if step.update == self.at else 0.0) * (logits - logits.detach()).sum())]


def engine(data: Path, folder: Path, *plugins: Plugin, **options: Any) -> Engine:
    active = [Apex(Apex.Config(**options)), *plugins] if options else list(plugins)
    tables = student_only(updates=4, log_every=1, checkpoint_every=2)
    del tables["stage"][0]["epochs"]
    return engine_of(tables, data, folder, plugins=active)


def trained(*args: Any, **options: Any) -> Engine:
    training = engine(*args, **options)
    with training.stage.exit:
        training.train()
    return training


# optimizers


@pytest.mark.parametrize("kind", ["adam", "lamb"])
def test_the_optimizer_takes_its_numbers_from_the_plan_and_decays_by_group(
    kind: str, apex: Any, data: Path, tmp_path: Path
) -> None:
    optimizer = engine(data, tmp_path, optimizer=kind).optimizer
    assert type(optimizer) is {"adam": stand_in.FusedAdam, "lamb": stand_in.FusedLAMB}[kind]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.01, 0.0]
    assert {group["lr"] for group in optimizer.param_groups} == {1e-3}
    assert {group["eps"] for group in optimizer.param_groups} == {1e-8}
    # the engine clips; LAMB would once more
    assert optimizer.defaults.get("max_grad_norm") == (NO_CLIP if kind == "lamb" else None)


def test_fused_adam_trains_what_adamw_trains(apex: Any, data: Path, tmp_path: Path) -> None:
    fused = trained(data, tmp_path / "fused", optimizer="adam").stage.student.module.state_dict()
    plain = trained(data, tmp_path / "plain").stage.student.module.state_dict()
    for name, value in plain.items():
        torch.testing.assert_close(fused[name], value, rtol=1e-5, atol=1e-6)


# layer norms


def test_layer_norms_are_exchanged_with_their_parameters_and_put_back(apex: Any, data: Path, tmp_path: Path) -> None:
    training = engine(data, tmp_path, optimizer="none", layer_norm=True)
    module = training.stage.student.module
    before = {name: value.detach().clone() for name, value in module.state_dict().items()}
    kinds = [type(part) for part in module.modules()]
    assert stand_in.FusedLayerNorm in kinds
    assert nn.LayerNorm not in kinds
    assert training.stage.explained["apex"]["layer_norms"] == kinds.count(stand_in.FusedLayerNorm) == 3
    # they are trained, and without weight decay
    norm = next(part for part in module.modules() if isinstance(part, stand_in.FusedLayerNorm))
    plain = next(group["params"] for group in training.optimizer.param_groups if group["weight_decay"] == 0)
    assert any(norm.weight is parameter for parameter in plain)
    with training.stage.exit:
        training.train()
    kinds = [type(part) for part in module.modules()]
    assert stand_in.FusedLayerNorm not in kinds
    assert kinds.count(nn.LayerNorm) == 3
    after = module.state_dict()
    assert after.keys() == before.keys()
    name = "bert.embeddings.LayerNorm.weight"
    assert not torch.equal(after[name], before[name])


def test_only_plain_layer_norms_with_weight_and_bias_are_exchanged() -> None:
    class Own(nn.LayerNorm):
        """Of another type."""

    both = nn.LayerNorm(3, eps=0.5).eval()
    module = nn.ModuleDict(
        {"both": both, "none": nn.LayerNorm(3, elementwise_affine=False), "one": nn.LayerNorm(3, bias=False)}
    )
    module["own"] = Own(3)
    assert exchange(module, nn.LayerNorm, stand_in.FusedLayerNorm) == 2
    fused = module["both"]
    assert isinstance(fused, stand_in.FusedLayerNorm)
    assert (fused.weight is both.weight, fused.bias is both.bias, fused.eps, fused.training) == (True, True, 0.5, False)
    assert [type(module[name]) for name in ("one", "own")] == [nn.LayerNorm, Own]
    assert exchange(module, stand_in.FusedLayerNorm, nn.LayerNorm) == 2
    assert module["both"].weight is both.weight


def test_a_student_without_layer_norms_is_refused(apex: Any, data: Path, tmp_path: Path) -> None:
    both = [Apex(Apex.Config(layer_norm=True)), BiLSTM(BiLSTM.Config(vocab="characters.txt", embedding_size=4))]
    (data / "characters.txt").write_text("\n".join(["<PAD>", "<UNK>", *"abcdefghij"]))
    tables = student_only()
    tables["student"] = {"plugin": "bilstm", "vocab": "characters.txt"}
    with pytest.raises(ModelError, match="The student, a BiLSTM.*, has no nn.LayerNorm with weight and bias"):
        stage_of(tables, data, tmp_path, plugins=both)


def test_teachers_are_given_fused_norms_where_asked(apex: Any, data: Path, tmp_path: Path) -> None:
    class Looks(Plugin):
        name = "looks"

        @hookimpl
        def setup(self, stage: Stage) -> None:
            stage.observe(teacher=[Hidden(1)])

    both = [Apex(Apex.Config(optimizer="none", teacher_layer_norm=True)), Looks(None)]
    tables = recipe()
    tables["stage"] = [{"name": "distil", "teacher": "fresh", "updates": 1}]
    stage = stage_of(tables, data, tmp_path, plugins=both)
    kinds = {type(part) for part in stage.teacher.module.modules()}
    assert stand_in.FusedLayerNorm in kinds
    assert nn.LayerNorm not in kinds
    assert nn.LayerNorm in {type(part) for part in stage.student.module.modules()}
    stage.exit.close()
    assert stand_in.FusedLayerNorm not in {type(part) for part in stage.teacher.module.modules()}


# apex.amp


@pytest.mark.parametrize("level", ["O1", "O2"])
def test_all_passes_of_an_update_are_at_one_scale_and_unscaled_once(
    level: str, apex: Any, data: Path, tmp_path: Path
) -> None:
    exact, half = Records(), Records()
    two = Accumulate(Accumulate.Config(batches=2))
    plain = engine(data, tmp_path / "exact", exact, two)
    if level == "O2":  # master weights come in the optimizer's order
        exact.order = [parameter for group in plain.optimizer.param_groups for parameter in group["params"]]
    plain.train()
    trained(data, tmp_path / "half", half, two, opt_level=level)
    for one, other in zip(exact.gradients, half.gradients, strict=True):
        assert F.cosine_similarity(one, other, dim=0) > 0.99
        assert float(other.norm() / one.norm()) == pytest.approx(1, abs=0.05)
    assert not torch.equal(exact.gradients[0], half.gradients[0])
    # gradients and losses are float32, and nobody but the student is cast
    assert half.kinds == {("clipped", torch.float32), ("loss", torch.float32), ("logits", torch.float32)}


@pytest.mark.parametrize("level", ["O1", "O2"])
def test_models_and_functions_are_as_before_when_the_stage_is_over(
    level: str, apex: Any, data: Path, tmp_path: Path
) -> None:
    training = engine(data, tmp_path, opt_level=level, layer_norm=True)
    module = training.stage.student.module
    with training.stage.exit:
        training.train()
        assert {value.dtype for value in module.parameters()} == {torch.float16 if level == "O2" else torch.float32}
    assert {value.dtype for value in module.parameters()} == {torch.float32}
    assert "forward" not in module.__dict__
    assert F.linear is stand_in.LINEAR
    assert stand_in.FusedLayerNorm not in {type(part) for part in module.modules()}


@pytest.mark.parametrize("level", ["O1", "O2"])
def test_an_overflow_skips_one_update_and_the_schedule_waits(level: str, apex: Any, data: Path, tmp_path: Path) -> None:
    records = Records()
    training = trained(data, tmp_path, records, Spikes(None), opt_level=level)
    assert records.applied == [True, False, True, True]
    assert training.at.applied == 3
    assert apex.amp.state_dict()["loss_scaler0"]["loss_scale"] == 2.0**15
    lines = [json.loads(line) for line in training.log.path.read_text().splitlines()]
    rates = [line["learning_rate"] for line in lines if "learning_rate" in line]
    assert rates[1] == rates[2] != rates[3]


@pytest.mark.parametrize("level", ["O1", "O2"])
def test_a_rank_without_rows_unscales_what_the_others_gave_it(level: str, apex: Any) -> None:
    module = nn.Linear(2, 1, bias=False)
    optimizer = stand_in.FusedAdam(module.parameters(), lr=0.1)
    scaled = Scaled(apex.amp, level)
    apex.amp.initialize([module], optimizer, opt_level=level)
    optimizer.zero_grad()
    scaled._optimizer = optimizer
    module.weight.grad = torch.full_like(module.weight, 3 * 2.0**13)
    scaled.unscale(optimizer)
    [clipped] = scaled.clipped(list(module.parameters()))
    assert clipped.grad.tolist() == [[3 / 8, 3 / 8]]  # type: ignore[union-attr]
    if level == "O1":
        apex.amp._amp_state.handle._deactivate()


@pytest.mark.parametrize("level", ["O1", "O2"])
def test_a_run_by_apex_amp_resumes_exactly(level: str, apex: Any, data: Path, tmp_path: Path) -> None:
    apex.amp.window = 2
    options = {"opt_level": level, "layer_norm": True}
    tables = student_only(plugins=["apex"], apex=options, updates=8, checkpoint_every=2)
    del tables["stage"][0]["epochs"]
    assert_resumes_exactly(tables, data=data, folder=tmp_path, stage="plain", after=5)
    assert {value.dtype for value in weights(tmp_path / "whole", "plain").values()} == {torch.float32}


def test_apex_amp_and_the_plugin_amp_are_not_both_to_be_had(apex: Any, data: Path, tmp_path: Path) -> None:
    with pytest.raises(PluginError, match="The plugins 'apex' and 'amp' both want the slot 'precision' in the stage"):
        engine(data, tmp_path, Amp(Amp.Config()), opt_level="O1")
    engine(data, tmp_path, Amp(Amp.Config()), optimizer="adam")


@pytest.mark.parametrize("options", [{"optimizer": "none"}, {"optimizer": "sgd"}, {"opt_level": "O3"}])
def test_options_that_mean_nothing_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Apex.Config(**options)


# the real one


@needs_apex
@pytest.mark.parametrize("options", [{"optimizer": "adam", "layer_norm": True}, {"optimizer": "lamb"}])
def test_real_apex_trains_and_resumes_exactly(options: dict[str, Any], data: Path, tmp_path: Path) -> None:
    tables = student_only(plugins=["apex"], apex=options, checkpoint_every=2)
    assert_resumes_exactly(tables, data=data, folder=tmp_path, stage="plain", after=5)


@needs_apex
def test_real_fused_adam_trains_what_adamw_trains(data: Path, tmp_path: Path) -> None:
    fused = trained(data, tmp_path / "fused", optimizer="adam", layer_norm=True)
    plain = trained(data, tmp_path / "plain").stage.student.module.state_dict()
    for name, value in fused.stage.student.module.state_dict().items():
        torch.testing.assert_close(value, plain[name], rtol=1e-4, atol=1e-5)
