"""Sending a folder to the Hugging Face hub."""

from pathlib import Path

from huggingface_hub import HfApi, constants
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

from kto_lab import console
from kto_lab.errors import LabError
from kto_lab.hub_errors import TOKEN, first_line, is_of_network

# What an earlier upload may have left that another form of the policy does not replace.
STALE = ["*.safetensors", "*.safetensors.index.json", "adapter_config.json"]


def upload(folder: Path, repo: str, *, private: bool) -> str:
    """Make a repository where there is none, put the files of a folder into it in one commit, and return its address.

    Weights that are in the repository and not in the folder are removed: they are of another policy.

    Args:
        folder: whose files are sent.
        repo: owner/name.
        private: of a new repository; one that exists stays as it is.

    Raises:
        LabError: the hub cannot be reached, or it refuses.
    """
    api = HfApi()
    try:
        api.create_repo(repo, private=private, exist_ok=True)
        if private and not api.repo_info(repo).private:
            console.say(f"    warning: {repo} is there already, and it is public.")
        api.upload_folder(
            repo_id=repo, folder_path=folder, commit_message="The policy of a run of kto-lab", delete_patterns=STALE
        )
    except OfflineModeIsEnabled as error:
        raise LabError("to=hub needs the hub, and HF_HUB_OFFLINE is set. Unset it, or publish to a folder.") from error
    except LocalTokenNotFoundError as error:
        raise LabError(f"The hub wants to know who publishes {repo}: {TOKEN}.") from error
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else None
        if status in (401, 403):
            raise LabError(f"The hub lets nobody but {repo.partition('/')[0]} write to {repo}: {TOKEN}.") from error
        raise LabError(f"The hub refused {repo}: {first_line(error)}. Mend that, or publish to a folder.") from error
    except Exception as error:
        if not is_of_network(error):
            raise
        raise LabError(
            f"{constants.ENDPOINT} cannot be reached ({error}). Publish to a folder, and send that later with "
            f"`hf upload {repo} FOLDER`."
        ) from error
    return f"{constants.ENDPOINT}/{repo}"
