"""Answers and their scores: of a run's rows, of a file of inputs, from Python."""
