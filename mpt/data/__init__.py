"""The order of examples, the k-shot draw, and batches that mix tasks."""
