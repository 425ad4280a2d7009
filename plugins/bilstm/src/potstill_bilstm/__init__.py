"""BiLSTM students with their own character vocabulary for potstill."""
