"""Suites: one encoder, fine-tuned and measured on a list of tasks; and whether one encoder is better than another."""
