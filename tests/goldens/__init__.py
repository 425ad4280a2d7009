"""Reference numbers against the plugins' public functions: `python -m tests.goldens [DIR]`."""
