"""Publish an exported folder on the Hub: `hyenadna push FOLDER USER/NAME`.

    hyenadna push promoters-hub me/promoters --dry_run        # what would be uploaded; needs no network
    hyenadna push promoters-hub me/promoters                  # a private repository, one commit
    hyenadna push promoters-hub me/promoters --public --revision v1.1
    hyenadna push promoters-hub lab/promoters --pull_request

Log in first with `hf auth login`, or set HF_TOKEN; the token is neither printed nor written. The folder is verified
once more, weights are sent before the commit, and the commit is one: a broken transfer leaves the repository as it was.
"""

import argparse
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

import yaml
from huggingface_hub import CommitOperationAdd, HfApi, ModelCard
from huggingface_hub.errors import HFValidationError, HTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled
from huggingface_hub.utils import validate_repo_id

from hyenadna.safe_pickle import CheckpointError

from .export import verify

_TRIES, _FIRST_WAIT, _LONGEST_WAIT = 3, 5, 120  # the waits in seconds; each try has retries of its own
_PASSING = {408, 425, 429, 500, 502, 503, 504}  # may be over in a moment
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
_TOKEN = re.compile(rb"\bhf_[A-Za-z0-9]{30,}")


class PushError(CheckpointError):
    """The Hub refused an upload, or could not be reached. Nothing was published."""


def files_to_push(folder: str | Path) -> list[Path]:
    """The files of an exported folder, without hidden ones.

    Raises:
        CheckpointError: It is no exported folder, or holds a pickle or an access token.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is not a folder; `hyenadna export SOURCE {folder}` makes one")
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    files = [path for path in files if not any(part.startswith(".") for part in path.relative_to(folder).parts)]
    names = {path.relative_to(folder).as_posix() for path in files}
    is_model = "config.json" in names and "modeling_hyenadna.py" in names
    if "README.md" not in names or not (is_model or "adapter_config.json" in names):
        raise CheckpointError(
            f"{folder} was not made by `hyenadna export`: a model card, or the code of the model, is missing. Run "
            f"`hyenadna export {folder} DEST` and push DEST"
        )
    for path in files:
        if path.suffix in _PICKLES:
            raise CheckpointError(
                f"{path} may be a pickle, which runs code when it is loaded; take it out of the folder"
            )
        if path.suffix != ".safetensors" and _TOKEN.search(path.read_bytes()):
            raise CheckpointError(f"{path} holds what looks like an access token of the Hub; take it out")
    return files


def _card(folder: Path, repo_id: str) -> bytes:
    """README.md with the name of the repository in the place of the folder's."""
    text = (folder / "README.md").read_text()
    try:
        ModelCard(text)
    except (ValueError, yaml.YAMLError) as error:
        raise CheckpointError(f"{folder / 'README.md'} is not a valid model card: {error}") from error
    title = re.search(r"^# (.+)$", text, flags=re.MULTILINE)
    if title:  # as `hyenadna export` writes it
        old, name = title[1].strip(), repo_id.rpartition("/")[2]
        text = text.replace(f"\n# {old}\n", f"\n# {name}\n").replace(f'"{old}"', f'"{repo_id}"')
        text = re.sub(rf"^- name: {re.escape(old)}$", f"- name: {name}", text, flags=re.MULTILINE)
    return text.encode()


def _response(error: BaseException | None):
    """The answer of the Hub that an error, or what caused it, is about."""
    while error is not None:
        if getattr(error, "response", None) is not None:
            return error.response
        error = error.__cause__
    return None


def _explain(error: Exception, repo_id: str) -> str:
    response = _response(error)
    status = None if response is None else response.status_code
    said = getattr(error, "server_message", None) or str(error).strip().replace("\n", " ")[:300] or repr(error)
    said = _TOKEN.sub(b"hf_...", said.encode()).decode()
    why = {
        401: "no valid access token: `hf auth login`, or set HF_TOKEN to one with write access",
        403: f"this access token may not write to {repo_id}: use one with write access, or another name before the `/`",
        404: f"{repo_id}, or the revision, is not there, or hidden from this access token",
        409: "somebody else changed the repository at the same moment: look at what changed, and push again",
        413: "a file is larger than the Hub takes",
        429: "too many requests: wait some minutes and push again",
    }.get(status)
    if isinstance(error, LocalTokenNotFoundError):
        why = "not logged in: `hf auth login`, or set HF_TOKEN"
    elif isinstance(error, OfflineModeIsEnabled):
        why = "HF_HUB_OFFLINE is set, which forbids every connection: unset it"
    elif isinstance(error, ValueError):
        why = "the Hub does not accept the card, or the name"
    elif why is None:
        why = "the connection failed" if status is None else "the Hub has a fault; push again later"
        why = "the Hub refused it" if status is not None and status < 500 and status not in _PASSING else why
    return f"{why} ({said})"


def _with_retries(what: str, repo_id: str, step: Callable):
    """Run `step`, and again after a pause where the failure may pass by itself."""
    for attempt in range(1, _TRIES + 1):
        try:
            return step()
        except (HTTPError, OSError, RuntimeError, ValueError) as error:  # a failed transfer is a RuntimeError
            response = _response(error)
            final = isinstance(error, ValueError | LocalTokenNotFoundError | OfflineModeIsEnabled)
            passing = not final if response is None else response.status_code in _PASSING
            explained = _explain(error, repo_id)
            if not passing or attempt == _TRIES:
                raise PushError(f"{what} failed, and nothing was published: {explained}") from error
            after = "" if response is None else response.headers.get("Retry-After", "")
            wait = min(int(after) if after.isdigit() else _FIRST_WAIT * 4 ** (attempt - 1), _LONGEST_WAIT)
            print(f"{what}: {explained}; try {attempt + 1} of {_TRIES} in {wait:.0f} s", file=sys.stderr)
            time.sleep(wait)


def push(
    folder: str | Path,
    repo_id: str,
    *,
    public: bool = False,
    revision: str | None = None,
    pull_request: bool = False,
    message: str | None = None,
    dry_run: bool = False,
) -> str:
    """Publish an exported folder in one commit, or not at all.

    Args:
        folder: What `hyenadna export` made.
        repo_id: `USER/NAME`, or `NAME` in your own space. Made, private, if it does not exist.
        public: Make it public; also needed to push to a repository that is public already.
        revision: Branch to commit to; made if it does not exist.
        pull_request: Open a pull request in place of a commit to the main branch.
        message: Of the commit.
        dry_run: Only say what would be uploaded.

    Returns:
        A report, with the address of the commit or pull request.

    Raises:
        CheckpointError: `folder` cannot be published as it is.
        PushError: The Hub refused, or cannot be reached; nothing was published.
    """
    folder = Path(folder)
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise CheckpointError(f"{repo_id!r} is no name of a repository: {error}") from error
    if pull_request and revision is not None:
        raise CheckpointError("a pull request is against the main branch: leave out revision, or pull_request")
    files, card = files_to_push(folder), _card(folder, repo_id)
    total = sum(path.stat().st_size for path in files) / 1e6
    lines = [f"  {path.stat().st_size / 1e6:10.3f} MB  {path.relative_to(folder)}" for path in files]
    if dry_run:
        where = (
            f"{repo_id}{f', revision {revision}' if revision else ''}{', as a pull request' if pull_request else ''}"
        )
        state = "public" if public else "private, if it does not exist yet"
        return "\n".join([f"would push to {where} ({state}):", *lines, f"  {total:10.3f} MB  in all"])
    if (folder / "config.json").is_file():
        verify(folder)

    api = HfApi()
    url = _with_retries(
        "creating the repository", repo_id, lambda: api.create_repo(repo_id, private=not public, exist_ok=True)
    )
    repo_id = url.repo_id
    card = _card(folder, repo_id)
    private = _with_retries("looking at the repository", repo_id, lambda: api.model_info(repo_id).private)
    if not private and not public:
        raise PushError(f"{repo_id} is public already; say --public if everyone may see this. Nothing was published")
    if revision is not None:
        _with_retries("making the branch", repo_id, lambda: api.create_branch(repo_id, branch=revision, exist_ok=True))
    operations = [
        CommitOperationAdd(path.relative_to(folder).as_posix(), card if path == folder / "README.md" else path)
        for path in files
    ]
    # Not `upload_folder`: with hf_xet it makes several commits, and a failure between them publishes half a model.
    commit = _with_retries(
        "the upload",
        repo_id,
        lambda: api.create_commit(
            repo_id,
            operations,
            commit_message=message or f"Upload {folder.absolute().name}",
            revision=revision,
            create_pr=pull_request,
        ),
    )
    state = "private" if private else "public"
    address = commit.pr_url if pull_request else commit.commit_url
    return "\n".join([f"pushed to {repo_id} ({state}), {total:.3f} MB in one commit:", *lines, f"see {address}"])


def main(argv: list[str] | None = None) -> None:
    """Run `hyenadna push` with these arguments (default: those of the command line)."""
    parser = argparse.ArgumentParser(prog="hyenadna push", description="Publish an exported folder, in one commit.")
    parser.add_argument("folder", metavar="FOLDER", help="what `hyenadna export` made")
    parser.add_argument("repo_id", metavar="USER/NAME", help="repository; made, private, if it does not exist")
    parser.add_argument("--public", action="store_true", help="make it public, or push to one that is")
    parser.add_argument("--revision", help="branch to commit to; made if it does not exist")
    parser.add_argument("--pull_request", action="store_true", help="open a pull request")
    parser.add_argument("--message", help="of the commit")
    parser.add_argument("--dry_run", "--dry-run", action="store_true", help="only list the files and their sizes")
    print(push(**vars(parser.parse_args(argv))))


if __name__ == "__main__":
    main()
