"""Mixed precision for potstill."""
