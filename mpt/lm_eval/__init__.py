"""A trained prompt as a model of lm-evaluation-harness: ``python -m mpt.lm_eval`` (extra ``mpt[lm-eval]``)."""
