"""ONNX export for potstill, with parity, INT8 and latency."""
