"""DistilBERT (language models from language models) for potstill."""
