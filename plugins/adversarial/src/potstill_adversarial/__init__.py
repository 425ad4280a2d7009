"""Adversarial training for potstill: passes over word vectors that are moved against the student."""
