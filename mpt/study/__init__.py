"""A study: a question, and the runs, the statistics and the page that answer it, from one file by one command."""
