"""Exact gradient accumulation for potstill."""
