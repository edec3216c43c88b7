"""Prompts on the hub of Hugging Face: ``hf://owner/name`` in the place of a folder."""

from pathlib import Path

PREFIX = "hf://"
FILES = ("*.json", "*.safetensors", "adapter_model.bin", "README.md")
"""Files of a prompt's folder; nothing else is downloaded."""


def local_copy(where: str | Path) -> Path:
    """Give the folder that a name stands for; one of the hub is downloaded into its cache.

    Args:
        where: A folder or file, or ``hf://owner/name``, with ``@revision`` behind it for a commit, tag or branch.

    Raises:
        FileNotFoundError: The hub has no such repository, or cannot be reached and the cache does not have it.
    """
    text = str(where)
    if not is_on_hub(text):
        return Path(where)
    import huggingface_hub  # a tenth of a second, and most runs load nothing from there
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    name, _, revision = text.removeprefix(PREFIX).partition("@")
    try:
        found = huggingface_hub.snapshot_download(name, revision=revision or None, allow_patterns=list(FILES))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise FileNotFoundError(
            f"{text}: cannot be loaded ({reason}); give hf://owner/name of the hub, or a folder"
        ) from error
    return Path(found)


def is_on_hub(where: str) -> bool:
    """Tell whether a name is one of the hub."""
    return where.startswith(PREFIX)
