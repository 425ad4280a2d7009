"""Hinton's knowledge distillation (soft targets) for potstill."""
