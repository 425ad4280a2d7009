"""NVIDIA apex for potstill, where it is installed."""
