"""From a data file to batches: sources, tokenizing, the memory-mapped table, bucketing, row-keyed randomness."""
