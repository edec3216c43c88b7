"""What can be computed again, and is kept on the disk: answers, tokens, converted backbones, indexes of reports."""

import os
from pathlib import Path

import platformdirs


def cache_folder(kind: str) -> Path:
    """Return where things of a kind are kept: in ``MPT_CACHE``, or else in the user's cache."""
    return Path(os.environ.get("MPT_CACHE") or platformdirs.user_cache_path("mpt")) / kind
