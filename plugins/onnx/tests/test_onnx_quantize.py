"""INT8 models: near to FP32, smaller, and quantized where the graph makes that hard."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnxruntime.quantization import quantize_dynamic
from potstill_onnx.convert import convert
from potstill_onnx.quantize import quantize
from potstill_onnx.session import Session

from plugins.onnx.tests.jobs import LONGEST, Bag, inputs, task_of
from potstill.export import Artifact, ExportJob


@pytest.mark.parametrize("kind", ["exported", "fused"])
def test_int8_of_either_attention_is_near_fp32_and_smaller(kind: str, request: pytest.FixtureRequest) -> None:
    job, artifact = request.getfixturevalue(kind)
    made = inputs(20, 12)
    exact, int8 = (Session(job.folder / name).logits(made) for name in ("model.onnx", "model.int8.onnx"))
    assert 0 < np.abs(int8 - exact).max() < 0.2 * exact.std()
    operators = {node.op_type for node in onnx.load(job.folder / "model.int8.onnx").graph.node}
    assert operators & {"MatMulInteger", "DynamicQuantizeMatMul"}
    assert artifact.facts["parity"]["student (onnx int8)"]["rows"] == 9


def test_quantizing_does_not_trip_over_the_shapes_that_a_file_states(
    exported: tuple[ExportJob, Artifact], tmp_path: Path
) -> None:
    """The trap: what an exporter wrote down about inner values contradicts what quantization infers."""
    model = onnx.load(exported[0].folder / "model.onnx")
    output = next(node.output[0] for node in model.graph.node if node.op_type == "MatMul")
    del model.graph.value_info[:]
    model.graph.value_info.append(onnx.helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, [7, 7, 7, 7]))
    onnx.save(model, tmp_path / "a.onnx")
    with pytest.raises(Exception, match=r"(?i)infer|shape|rank"):
        quantize_dynamic(tmp_path / "a.onnx", tmp_path / "b.onnx")
    quantize(tmp_path / "a.onnx", tmp_path / "c.onnx")
    made = inputs(4, 5)
    found, expected = Session(tmp_path / "c.onnx"), Session(exported[0].folder / "model.int8.onnx")
    np.testing.assert_array_equal(found.logits(made), expected.logits(made))


def test_weights_that_the_graph_puts_together_are_quantized_too(tmp_path: Path) -> None:
    """As those of an LSTM, whose gates ONNX has in another order than torch."""

    class Shuffled(Bag):
        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> dict[str, torch.Tensor]:
            first, second = self.inner.weight.chunk(2)
            weight = torch.cat((second, first))
            return {"logits": self.head((self.table(input_ids) @ weight.T).amax(1))}

    convert(Shuffled(), task_of(), inputs(2, 4), tmp_path / "a.onnx", max_length=LONGEST)
    assert {node.op_type for node in onnx.load(tmp_path / "a.onnx").graph.node} & {"Split", "Concat"}
    quantize(tmp_path / "a.onnx", tmp_path / "b.onnx")
    operators = [node.op_type for node in onnx.load(tmp_path / "b.onnx").graph.node]
    assert operators.count("MatMulInteger") == 2
    assert not {"MatMul", "Split", "Concat"} & set(operators)


def test_a_scale_for_each_channel_is_nearer_to_fp32_than_one_a_matrix(tmp_path: Path) -> None:
    module = Bag().eval()
    with torch.no_grad():  # one channel much larger than the others
        module.inner.weight[3] *= 30
    convert(module, task_of(), inputs(2, 4), tmp_path / "a.onnx", max_length=LONGEST)
    made = inputs(40, 12)
    exact = Session(tmp_path / "a.onnx").logits(made)
    error = {}
    for per_channel in (False, True):
        quantize(tmp_path / "a.onnx", tmp_path / "b.onnx", per_channel=per_channel)
        error[per_channel] = np.abs(Session(tmp_path / "b.onnx").logits(made) - exact).mean()
    assert error[True] < 0.9 * error[False]
