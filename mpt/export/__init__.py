"""Trained prompts for other programs and other people: plain soft prompts, embeddings, banks, cards, the hub."""
