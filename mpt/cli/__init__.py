"""The command line: what is typed, checked, and refused in the user's words."""
