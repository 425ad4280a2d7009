"""MiniLM and MiniLMv2 (self-attention relations) for potstill."""
