"""Publish files as one commit: all of them become visible at once, or none.

look        is there such a repository, whose, and what is in it
create      private unless it is to be public; empty
upload      large files go to the hub's store, where nobody sees them; what is there already is not sent again
commit      one, on the commit that was looked at
look again  the repository holds these files and no others
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import harness
from harness.core.errors import ConfigurationError
from harness.hub.asking import HubError, ask, discreet_logs, server_code, status_of, token
from harness.hub.names import Kind, Repository, target
from harness.hub.outgoing import OutgoingFile, outgoing_files, refuse_secret

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd, HfApi

_OF_THE_HUB = {".gitattributes"}  # what a fresh repository holds
_GO_ON = "Nothing of it is visible; run the same command again: what was uploaded is not sent again."


@dataclass(frozen=True)
class Published:
    """What `publish` did.

    Attributes:
        url: The repository's page.
        commit: The commit that holds the files.
        changed: Whether there was anything to do.
    """

    url: str
    commit: str
    changed: bool


def publish(
    staging: Path,
    files: Sequence[str],
    repo: str,
    kind: Kind,
    *,
    private: bool = True,
    update: bool = False,
    message: str = "",
) -> Published:
    """Publish the named files of a folder, as one commit.

    The token comes from the environment (`HF_TOKEN`) or the hub's own login.

    Args:
        staging: The folder.
        files: Names in it, relative; only these leave. README.md, the card, is among them.
        repo: `ORG/NAME`.
        kind: "dataset" or "model".
        private: Whether only its owner sees it.
        update: Whether a repository that holds other files may be given these instead.
        message: The commit's first line.

    Raises:
        ConfigurationError: The id is none, a name leads out of the folder, or there is no token.
        HubError: The hub or the way to it fails. The repository then shows what it showed before.
    """
    where = target(repo, kind)
    outgoing = outgoing_files(staging, files)
    secret = token()
    if secret is None:
        raise ConfigurationError(
            "there is no token for the Hugging Face Hub.",
            "Set HF_TOKEN to a token with write access, or run `hf auth login`.",
        )
    refuse_secret(outgoing, secret)

    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi(token=True, library_name="palimpsest", library_version=harness.__version__)
    additions = [CommitOperationAdd(file.name, str(file.path)) for file in outgoing]
    with discreet_logs():
        publication = _Publication(api, where, additions, outgoing, private, update)
        return publication.run(message or f"Publish with palimpsest {harness.__version__}")


@dataclass(frozen=True)
class _Publication:
    api: HfApi
    repo: Repository
    additions: list[CommitOperationAdd]
    files: list[OutgoingFile]
    private: bool
    update: bool

    def run(self, message: str) -> Published:
        before = ask(self.repo, f"Looking at the {self.repo}", self._look)
        if before is None:
            before = ask(self.repo, f"Making the {self.repo}", self._create)
        url = f"{self.api.endpoint}/{'datasets/' if self.repo.kind == 'dataset' else ''}{self.repo.id}"
        self._check_visibility(before)
        if self._holds(before):
            return Published(url, before.sha, changed=False)
        foreign = {sibling.rfilename for sibling in before.siblings} - _OF_THE_HUB
        if foreign and not self.update:
            raise HubError(
                f"the name {self.repo.id} is taken already: a {self.repo.kind} with other files has it.",
                "Give another name, or --update to put these files in place of its own.",
            )
        own = {file.name for file in self.files}
        upload = f"The upload to the {self.repo}"
        ask(self.repo, upload, self._upload, after=_GO_ON)
        ask(self.repo, upload, lambda: self._commit(before.sha, foreign - own, message), after=_GO_ON)
        after = ask(self.repo, f"Looking at the {self.repo}", self._look)
        if after is None or not self._holds(after):
            raise HubError(
                f"the {self.repo} does not hold what was sent after the upload.",
                "Look at it on the hub: somebody else may have changed it, or a .gitignore left files out.",
            )
        return Published(url, after.sha, changed=True)

    def _look(self) -> Any:
        """What the hub says of the repository; None where it shows none."""
        from huggingface_hub.errors import RepositoryNotFoundError

        try:
            return self.api.repo_info(self.repo.id, repo_type=self.repo.kind, files_metadata=True)
        except RepositoryNotFoundError as error:
            if server_code(error) == "RepoNotFound" or status_of(error) == 404:
                return None
            raise

    def _create(self) -> Any:
        from huggingface_hub.errors import HfHubHTTPError

        try:
            self.api.create_repo(self.repo.id, repo_type=self.repo.kind, private=self.private)
        except HfHubHTTPError as error:
            if status_of(error) != 409:
                raise
        # Either ours now, perhaps of a try whose answer was lost, or somebody else's that cannot be seen.
        found = self._look()
        if found is None:
            raise HubError(
                f"the name {self.repo.id} is taken already, by a repository that your token may not see.",
                "Give another name.",
            )
        return found

    def _check_visibility(self, found: Any) -> None:
        if found.private is False and self.private:
            raise HubError(
                f"the {self.repo} is public, and these files are to be private.",
                "Say --public, or give another name.",
            )
        if found.private is True and not self.private:
            raise HubError(
                f"the {self.repo} is private, and these files are to be public.",
                "Leave out --public, and make it public in its settings on the hub when it is as it should be.",
            )

    def _upload(self) -> None:
        self.api.preupload_lfs_files(
            self.repo.id, self.additions, repo_type=self.repo.kind, revision="main", free_memory=False
        )

    def _commit(self, parent: str, gone: set[str], message: str) -> None:
        from huggingface_hub import CommitOperationDelete

        now = self._look()
        if now is not None and self._holds(now):
            return  # a try whose answer was lost
        if now is None or now.sha != parent:
            raise HubError(
                f"the {self.repo} was changed by somebody else meanwhile, so nothing was published.",
                "Look at it, then run the same command again.",
            )
        deletions = [CommitOperationDelete(name, is_folder=False) for name in sorted(gone)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they repeat what the server says, whatever that is
            self.api.create_commit(
                self.repo.id,
                [*self.additions, *deletions],
                commit_message=message,
                repo_type=self.repo.kind,
                revision="main",
                parent_commit=parent,
            )

    def _holds(self, found: Any) -> bool:
        """Whether the repository holds these files and, but for the hub's own, no others."""
        siblings = {sibling.rfilename: sibling for sibling in found.siblings}
        if set(siblings) - _OF_THE_HUB != {file.name for file in self.files}:
            return False
        return all(_same(addition, siblings[addition.path_in_repo]) for addition in self.additions)


def _same(addition: CommitOperationAdd, sibling: Any) -> bool:
    from huggingface_hub.utils.sha import git_hash

    if sibling.lfs is not None:
        return bool(sibling.lfs.sha256 == addition.upload_info.sha256.hex())
    if sibling.size != addition.upload_info.size:
        return False
    with addition.as_file() as handle:
        return bool(sibling.blob_id == git_hash(handle.read()))
