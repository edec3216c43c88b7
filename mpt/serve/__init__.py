"""Trained prompts behind an interface of OpenAI's shape: ``mpt serve RUN_FOLDER`` (extra ``mpt[serve]``)."""
