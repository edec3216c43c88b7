"""Several runs in one training: each an ordinary run, but for the backbone, which computes for all of them at once."""
