"""What a run leaves for people to read: one table of models, curves, one HTML page."""
