"""Put a trained prompt on the hub of Hugging Face, with its card; ``hf://owner/name`` loads it back."""

import shutil
import tempfile
from pathlib import Path

from huggingface_hub import HfApi

from mpt.artifact import load_prompt
from mpt.artifact.prompt_folder import FILES
from mpt.export.card import write_card
from mpt.run.folder import RunFolder


def push(source: Path, repository: str, *, private: bool = False, api: HfApi | None = None) -> str:
    """Upload the folder of a prompt, and its card as README.md, in one commit.

    Args:
        source: A run folder or a prompt folder of this package.
        repository: ``owner/name``; made where it is not there.
        private: Whether a new repository is.
        api: Client of huggingface_hub; None: one with the token of ``hf auth login``.

    Returns:
        The address of the commit.

    Raises:
        FileNotFoundError: There is no saved prompt.
        ValueError: It is damaged.
        OSError: The hub refuses.
    """
    load_prompt(source)  # what is damaged is not uploaded
    folder = RunFolder(source).prompt if RunFolder(source).prompt.is_dir() else source
    api = HfApi() if api is None else api
    with tempfile.TemporaryDirectory() as name:
        staged = Path(name)
        for file in FILES:
            if (folder / file).is_file():
                shutil.copy(folder / file, staged / file)
        write_card(source, staged / "README.md", repository.rpartition("/")[2])
        api.create_repo(repository, private=private, exist_ok=True)
        commit = api.upload_folder(repo_id=repository, folder_path=staged, commit_message="Upload a multitask prompt")
    return str(commit.commit_url)
