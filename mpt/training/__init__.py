"""Training: from a checked configuration to a trained, tested and recorded run."""
