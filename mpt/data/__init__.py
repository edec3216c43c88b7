"""Which example comes next, and batches that mix tasks."""
