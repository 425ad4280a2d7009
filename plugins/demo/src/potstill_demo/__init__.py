"""potstill demo: a whole distillation on this machine, without network or weights."""
