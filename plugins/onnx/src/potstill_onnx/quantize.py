"""INT8 by dynamic quantization: weights once, activations as they come."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx
from onnxruntime.quantization import QuantType, quantize_dynamic

from potstill.errors import PotstillError
from potstill_onnx.convert import files_of


def quantize(source: Path, target: Path, *, per_channel: bool = True) -> list[Path]:
    """Writes an INT8 copy of an ONNX file: weights as signed bytes, activations quantized call by call.

    Args:
        source: fp32.
        target: the new file.
        per_channel: a scale for every output channel instead of one a matrix; as fast, and nearer to fp32.

    Returns: the files written.
    Raises: PotstillError where ONNX Runtime cannot quantize the model.
    """
    model = onnx.load(source)
    apart = len(files_of(source)) > 1
    # Shapes that the exporter wrote down contradict those of the transposed weights that quantization makes.
    del model.graph.value_info[:]
    with TemporaryDirectory(dir=target.parent) as folder, _quiet():
        bare = Path(folder) / "model.onnx"
        onnx.save(model, bare, save_as_external_data=apart)
        try:
            quantize_dynamic(
                bare,
                target,
                per_channel=per_channel,
                weight_type=QuantType.QInt8,
                use_external_data_format=apart,
                # The type of what a fused node puts out, which ONNX's own inference does not know.
                extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
            )
        except Exception as error:
            line = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise PotstillError(f"{source.name} could not be quantized to INT8: {line}") from error
    return files_of(target)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without ONNX Runtime's advice to preprocess the model, which is what was just done."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
