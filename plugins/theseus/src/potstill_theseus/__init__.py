"""BERT-of-Theseus (progressive module replacing) for potstill."""
