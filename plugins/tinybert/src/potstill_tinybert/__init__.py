"""TinyBERT (embeddings, hidden states, attention scores, predictions) for potstill."""
