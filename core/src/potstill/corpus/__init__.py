"""Running text at scale: from files to memory-mapped shards of token sequences, prepared once and kept by content."""
