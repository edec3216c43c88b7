"""What a trained prompt holds: the words near its virtual tokens, and what P and each task's W carry."""
