"""The reference pages, written from the code they describe. Nothing here imports torch or transformers."""
