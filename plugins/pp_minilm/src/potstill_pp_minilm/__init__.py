"""PP-MiniLM (relations of tokens, heads and samples) for potstill."""
