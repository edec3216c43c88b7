"""A run: what it is called, what it leaves on the disk, what it prints."""
