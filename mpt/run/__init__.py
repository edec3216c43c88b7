"""A run: its name, its folder, its records, and what it prints."""
