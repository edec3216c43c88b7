"""Results over runs: gathered, estimated with intervals, compared in pairs, as tables, figures and a page."""
