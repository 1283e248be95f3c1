"""Upload an exported folder to the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from blair_rec.errors import ConfigError, OutputError


def check_name(name: str) -> None:
    """Check that this is a valid name of a repository on the hub.

    Raises:
        ConfigError: it is not.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise ConfigError(
            f"--push {name!r} is not a valid repository name on the hub: {error}; use owner/name"
        ) from error


def check_account(name: str) -> None:
    """Check before the work that there is a token, and that the hub can be reached and takes it.

    Raises:
        OutputError: one of this is not so.
    """
    from huggingface_hub import HfApi

    with _in_words(name, "nothing was written"):
        HfApi().whoami()


def push(folder: Path, name: str) -> str:
    """Upload every file of a folder to the model repository `name`, created if needed; return its address.

    A name without an owner means a repository of the token's own user. Other files in the repository are not changed.

    Raises:
        OutputError: the hub refuses, or can't be reached.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    with _in_words(name, f"the folder {folder} is whole, and the same command tries again"):
        address = api.create_repo(name, exist_ok=True)
        api.upload_folder(repo_id=address.repo_id, folder_path=folder, commit_message="Exported by blair_rec")
    return str(address)


@contextmanager
def _in_words(name: str, state: str) -> Iterator[None]:
    """Turn the errors of the hub into OutputError, which ends with `state`."""
    from huggingface_hub.errors import HfHubHTTPError, HTTPError, LocalTokenNotFoundError  # type: ignore[attr-defined]

    try:
        yield
    except LocalTokenNotFoundError as error:
        raise OutputError(f"{name} can't be pushed without a token: `hf auth login`, or HF_TOKEN; {state}") from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        log_in = "; log in with `hf auth login`, or check whose name it is" if status in (401, 403, 404) else ""
        raise OutputError(f"the hub does not take {name} (status {status}){log_in}; {state}") from error
    except (HTTPError, OSError) as error:  # by release of huggingface_hub
        reason = " ".join(str(error).split()) or type(error).__name__
        raise OutputError(f"{name} can't be pushed: {reason}; {state}") from error
