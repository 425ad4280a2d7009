"""Why the plugin does what it does: what the libraries beneath it do otherwise, seen failing."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from onnx import numpy_helper, shape_inference
from onnxruntime.transformers.optimizer import optimize_model
from potstill_onnx.quantize import prepare

from plugins.onnx.tests.jobs import CLASSES, NAMES, bert, inputs
from potstill.export import Artifact, ExportJob


@pytest.fixture(scope="module")
def sdpa(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What torch writes of the tests' BERT if nobody minds its attention, and all that it notes down."""
    path = tmp_path_factory.mktemp("sdpa") / "model.onnx"
    module = bert().eval()
    assert module.config._attn_implementation == "sdpa"
    made = inputs(3, 7)
    axes = {0: "batch", 1: "sequence"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module,
            kwargs=made,
            dynamo=True,
            dynamic_shapes=dict.fromkeys(NAMES, axes),
            opset_version=20,
            verbose=False,
        )
    assert program is not None
    program.save(path)
    return path


def fused_by_onnx_runtime(path: Path) -> int:
    """How many attentions ONNX Runtime's optimizer for BERT makes one node of."""
    found = optimize_model(str(path), model_type="bert", num_heads=2, hidden_size=32).get_fused_operator_statistics()
    return int(found["Attention"] + found["MultiHeadAttention"])


def test_onnx_runtimes_optimizer_for_bert_fuses_no_attention_of_an_sdpa_export(
    sdpa: Path, exported: tuple[ExportJob, Artifact], fused: tuple[ExportJob, Artifact]
) -> None:
    """Nor of the plain graph; so the node is written by the exporter itself."""
    assert fused_by_onnx_runtime(sdpa) == 0
    assert fused_by_onnx_runtime(exported[0].folder / "model.onnx") == 0
    assert fused_by_onnx_runtime(fused[0].folder / "model.onnx") == 2


def test_the_plain_graph_has_fewer_nodes_than_sdpas(sdpa: Path, exported: tuple[ExportJob, Artifact]) -> None:
    plain = exported[0].folder / "model.onnx"
    assert len(onnx.load(plain).graph.node) < len(onnx.load(sdpa).graph.node) - 20


def test_the_shapes_that_the_exporter_notes_contradict_weights_that_quantization_transposes(sdpa: Path) -> None:
    """Under their own name, as `quantize_dynamic` of older ONNX Runtimes does, which fails then."""
    model = onnx.load(sdpa)
    head = [node for node in model.graph.node if node.op_type == "Gemm" and attribute(node, "transB")][-1]
    weight = next(item for item in model.graph.initializer if item.name == head.input[1])
    assert list(weight.dims) == [CLASSES, 32]
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight).T.copy(), weight.name))
    attribute(head, "transB").i = 0
    with pytest.raises(shape_inference.InferenceError, match="Inferred shape and existing shape differ"):
        shape_inference.infer_shapes(model, strict_mode=True)
    del model.graph.value_info[:]
    shape_inference.infer_shapes(model, strict_mode=True)


def test_what_is_quantized_notes_no_shapes(sdpa: Path, tmp_path: Path) -> None:
    assert onnx.load(sdpa).graph.value_info
    prepare(sdpa, tmp_path / "a.onnx")
    assert not onnx.load(tmp_path / "a.onnx").graph.value_info


def attribute(node: onnx.NodeProto, name: str) -> Any:
    return next((item for item in node.attribute if item.name == name), None)
