"""INT8 by dynamic quantization: weights once, activations as they come."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx
import onnxruntime
from onnxruntime.quantization import QuantType, quantize_dynamic

from potstill.errors import PotstillError
from potstill_onnx.convert import files_of


def quantize(source: Path, target: Path, *, per_channel: bool = True) -> list[Path]:
    """Writes an INT8 copy of an ONNX file: weights as signed numbers of 7 bits, activations quantized call by call.

    Products of activations and signed weights are added up in 16 bits on processors without VNNI, where those of 8 bits
    overflow: the same file would answer worse there than where it was proved. Those of 7 bits cannot.

    Args:
        source: fp32.
        target: the new file.
        per_channel: a scale for every output channel instead of one a matrix; as fast, and nearer to fp32.

    Returns: the files written.
    Raises: PotstillError where ONNX Runtime cannot quantize the model.
    """
    apart = len(files_of(source)) > 1
    with TemporaryDirectory(dir=target.parent) as folder, _quiet():
        bare = Path(folder) / "model.onnx"
        prepare(source, bare, apart)
        try:
            quantize_dynamic(
                bare,
                target,
                per_channel=per_channel,
                weight_type=QuantType.QInt8,
                reduce_range=True,
                use_external_data_format=apart,
                # The type of what a fused node puts out, which ONNX's own inference does not know.
                extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
            )
        except Exception as error:
            line = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise PotstillError(f"{source.name} could not be quantized to INT8: {line}") from error
    return files_of(target)


def prepare(source: Path, target: Path, apart: bool = False) -> None:
    """Writes the model as quantization needs it: weights as weights, and no shapes noted down.

    `apart` keeps the weights in a file of their own.

    Weights that the graph itself puts together out of others, as an LSTM's are, would stay in fp32; ONNX Runtime's
    basic optimizations compute them once. Shapes that the exporter noted contradict those of the weights that
    quantization transposes, where it keeps their name.
    """
    model = onnx.load(source if apart else _folded(source, target))
    del model.graph.value_info[:]
    onnx.save(model, target, save_as_external_data=apart)


def _folded(source: Path, target: Path) -> Path:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(target)
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
    return target


@contextmanager
def _quiet() -> Iterator[None]:
    """Without ONNX Runtime's advice to preprocess the model, which is what was just done."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
