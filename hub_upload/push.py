"""Publish an exported folder on the Hub: `hyenadna push FOLDER USER/NAME`.

    hyenadna push promoters-hub me/promoters --dry_run        # what would be uploaded, and deleted
    hyenadna push promoters-hub me/promoters                  # a private repository, one commit
    hyenadna push promoters-hub me/promoters --public --revision v1.1
    hyenadna push promoters-hub lab/promoters --pull_request

Log in first with `hf auth login`, or set HF_TOKEN; the token is neither printed nor written. The folder is verified
once more, weights are sent before the commit, and the commit is one: a broken transfer leaves the repository as it was.
The commit also deletes what an earlier push left behind: weights, configurations, tokenizers and modules of ours.
"""

import argparse
import json
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import yaml
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    ModelCard,
    ModelInfo,
    RepoUrl,
)
from huggingface_hub.errors import (
    HFValidationError,
    HTTPError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoSibling
from huggingface_hub.utils import validate_repo_id
from huggingface_hub.utils.sha import git_hash
from transformers.dynamic_module_utils import get_relative_import_files

from hyenadna.errors import CheckpointError, PushError

from .export import verify

_TRIES, _FIRST_WAIT, _LONGEST_WAIT = 3, 5, 120  # the waits in seconds; each try has retries of its own
_PASSING = {408, 425, 429, 500, 502, 503, 504}  # may be over in a moment
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
_TOKEN = re.compile(rb"\bhf_[A-Za-z0-9]{30,}")
_FAILURES = (HTTPError, OSError, RuntimeError, ValueError)  # a failed transfer is a RuntimeError
# What `hyenadna export` writes and a later push may leave out; the modules of the model's code are found by reading it.
_OURS = re.compile(
    r"(?:adapter_)?model(?:-\d+-of-\d+)?\.safetensors(?:\.index\.json)?"
    r"|(?:(?:adapter_|generation_|tokenizer_)?config|tokenizer)\.json"
)
_CODE = "modeling_hyenadna.py"


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
    is_model = "config.json" in names and _CODE in names
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
    """README.md with the name of the repository in the place of the folder's, where `hyenadna export` wrote that."""
    try:
        card = ModelCard.load(folder / "README.md")
        snippet = re.search(r'^name = (".*")', card.text, flags=re.MULTILINE)
        if snippet:
            old, new = json.loads(snippet[1]), repo_id.rpartition("/")[2]
            card.text = card.text.replace(snippet[0], f"name = {json.dumps(repo_id)}", 1)
            card.text = card.text.replace(f"\n# {old}\n", f"\n# {new}\n", 1)
            if card.data.model_name == old:
                card.data.model_name = new
        ModelCard(str(card))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise CheckpointError(f"{folder / 'README.md'} is not a valid model card: {error}") from error
    return str(card).encode()


def _stale(api: HfApi, repo_id: str, there: ModelInfo, names: Iterable[str]) -> list[str]:
    """The files of an earlier push that this one does not replace. Other files in a repository are its owner's."""
    others = {file.rfilename for file in there.siblings} - set(names)
    stale = {name for name in others if _OURS.fullmatch(name)}
    if any(re.fullmatch(r"\w+\.py", name) for name in others):
        with tempfile.TemporaryDirectory() as scratch:
            api.snapshot_download(repo_id, revision=there.sha, allow_patterns="*.py", local_dir=scratch)
            code = Path(scratch) / _CODE
            try:
                modules = [code, *map(Path, get_relative_import_files(code))]
            except FileNotFoundError:  # no code of ours, or a part of it: then nobody knows whose the others are
                modules = []
            stale |= others & {module.name for module in modules}
    return sorted(stale)


def _is_stored(addition: CommitOperationAdd, file: RepoSibling | None) -> bool:
    """Whether a file in the repository has this content."""
    if file is None:
        return False
    if file.lfs is not None:
        return file.lfs.sha256 == addition.upload_info.sha256.hex()
    with addition.as_file() as content:
        return file.blob_id == git_hash(content.read())


def _stamp(path: Path) -> tuple[int, int] | None:
    return (path.stat().st_size, path.stat().st_mtime_ns) if path.is_file() else None


def _check_unchanged(stamps: dict[Path, tuple[int, int] | None]) -> None:
    changed = [path.name for path, stamp in stamps.items() if _stamp(path) != stamp]
    if changed:
        raise PushError(
            f"{', '.join(changed)} changed or vanished while the folder was pushed, and nothing was published. Push "
            "again when nothing writes to the folder"
        )


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
    moved = "somebody else changed the repository at the same moment: look at what changed, and push again"
    why = {
        401: "no valid access token: `hf auth login`, or set HF_TOKEN to one with write access",
        403: f"this access token may not write to {repo_id}: use one with write access, or another name before the `/`",
        404: f"{repo_id}, or the revision, is not there, or hidden from this access token",
        409: moved,
        412: moved,
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


def _with_retries(what: str, repo_id: str, step: Callable, so_far: str = "nothing was published"):
    """Run `step`, and again after a pause where the failure may pass by itself."""
    for attempt in range(1, _TRIES + 1):
        try:
            return step()
        except PushError:
            raise
        except _FAILURES as error:
            response = _response(error)
            final = isinstance(error, ValueError | LocalTokenNotFoundError | OfflineModeIsEnabled)
            passing = not final if response is None else response.status_code in _PASSING
            explained = _explain(error, repo_id)
            if not passing or attempt == _TRIES:
                raise PushError(f"{what} failed, and {so_far}: {explained}") from error
            after = "" if response is None else response.headers.get("Retry-After", "")
            wait = min(int(after) if after.isdigit() else _FIRST_WAIT * 4 ** (attempt - 1), _LONGEST_WAIT)
            print(f"{what}: {explained}; try {attempt + 1} of {_TRIES} in {wait:.0f} s", file=sys.stderr)
            time.sleep(wait)


def _dry_run(repo_id: str, names: list[str], public: bool, revision: str | None) -> tuple[str, list[str]]:
    """Whether the repository is public, and which files there would be deleted, as far as it can be read."""
    api = HfApi()
    try:
        if "/" not in repo_id:
            repo_id = f"{api.whoami()['name']}/{repo_id}"
        try:
            there = api.model_info(repo_id, revision=revision)
        except RevisionNotFoundError:  # it would be made from the main branch
            there = api.model_info(repo_id)
        stale = _stale(api, repo_id, there, names)
    except _FAILURES as error:
        state = "public" if public else "private, if it does not exist yet"
        return f"{state}; not read, so what would be deleted is not known: {_explain(error, repo_id)}", []
    if there.private:
        return "private now, and public afterwards" if public else "private", stale
    return "public" if public else "public already, so it would be refused without --public", stale


def _commit(
    api: HfApi,
    url: RepoUrl,
    there: ModelInfo,
    additions: list[CommitOperationAdd],
    stale: list[str],
    stamps: dict[Path, tuple[int, int] | None],
    *,
    revision: str | None,
    pull_request: bool,
    message: str,
) -> str | None:
    """Commit on top of `there`; return the address of the commit or pull request, or None if nothing had to change.

    An answer can be lost after the commit was made. So the repository is looked at before another try, and before a
    failure is reported.
    """
    repo_id, tried = url.repo_id, []

    def pull_requests() -> set[str]:
        return {ref.ref for ref in api.list_repo_refs(repo_id, include_pull_requests=True).pull_requests}

    def made() -> str | None:
        for ref in pull_requests() - known if pull_request else [revision]:
            now = api.model_info(repo_id, revision=ref, files_metadata=True)
            files = {file.rfilename: file for file in now.siblings}
            whole = all(_is_stored(addition, files.get(addition.path_in_repo)) for addition in additions)
            if now.sha != there.sha and whole and not files.keys() & set(stale):
                return f"{url}/discussions/{ref.rpartition('/')[2]}" if pull_request else f"{url}/commit/{now.sha}"
        return None

    def step() -> str | None:
        if tried and (address := made()) is not None:
            return address
        tried.append(True)
        try:
            # Not `upload_folder`: with hf_xet it makes several commits, and a failure between them publishes half a
            # model.
            commit = api.create_commit(
                repo_id,
                [*additions, *(CommitOperationDelete(name) for name in stale)],
                commit_message=message,
                revision=revision,
                create_pr=pull_request,
                parent_commit=there.sha,  # what was to be deleted was decided for this state
            )
        except _FAILURES:
            _check_unchanged(stamps)
            raise
        return None if commit.oid == there.sha else commit.pr_url or commit.commit_url

    known = _with_retries("looking at the pull requests", repo_id, pull_requests) if pull_request else set()
    try:
        return _with_retries("the upload", repo_id, step)
    except PushError as error:
        try:
            address = made()
        except _FAILURES:
            why = _explain(error.__cause__ or error, repo_id)
            raise PushError(
                f"the upload failed, and whether it was published is not known: {why}; see {url}"
            ) from error
        if address is None:
            raise
        return address


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

    Weights, configurations, tokenizer files and modules of the model's code that an earlier push left in the
    repository, and that this folder does not hold, are deleted in the same commit; nothing else is.

    Args:
        folder: What `hyenadna export` made.
        repo_id: `USER/NAME`, or `NAME` in your own space. Made, private, if it does not exist.
        public: Make it public, after the commit if it was private; also needed to push to one that is public.
        revision: Branch to commit to; made if it does not exist.
        pull_request: Open a pull request in place of a commit to the main branch.
        message: Of the commit.
        dry_run: Only say what would be uploaded and deleted.

    Returns:
        A report, with the address of the commit or pull request.

    Raises:
        CheckpointError: `folder` cannot be published as it is.
        PushError: The Hub refused, or cannot be reached; nothing was published, if the message says nothing else.
    """
    folder = Path(folder)
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise CheckpointError(f"{repo_id!r} is no name of a repository: {error}") from error
    if pull_request and revision is not None:
        raise CheckpointError("a pull request is against the main branch: leave out revision, or pull_request")
    files = {path.relative_to(folder).as_posix(): path for path in files_to_push(folder)}
    stamps = {path: _stamp(path) for path in files.values()}
    _card(folder, repo_id)  # fails early
    total = sum(path.stat().st_size for path in files.values()) / 1e6
    lines = [f"  {path.stat().st_size / 1e6:10.3f} MB  {name}" for name, path in files.items()]
    if dry_run:
        where = (
            f"{repo_id}{f', revision {revision}' if revision else ''}{', as a pull request' if pull_request else ''}"
        )
        state, stale = _dry_run(repo_id, list(files), public, revision)
        lines += [f"  {total:10.3f} MB  in all", *(f"  to be deleted  {name}" for name in stale)]
        return "\n".join([f"would push to {where} ({state}):", *lines])
    if (folder / "config.json").is_file():
        verify(folder)

    api = HfApi()
    url = _with_retries(
        "creating the repository", repo_id, lambda: api.create_repo(repo_id, private=not public, exist_ok=True)
    )
    repo_id = url.repo_id
    there = _with_retries("looking at the repository", repo_id, lambda: api.model_info(repo_id))
    was_private = there.private
    if not was_private and not public:
        raise PushError(f"{repo_id} is public already; say --public if everyone may see this. Nothing was published")
    if revision is not None:
        _with_retries("making the branch", repo_id, lambda: api.create_branch(repo_id, branch=revision, exist_ok=True))
        there = _with_retries("looking at the branch", repo_id, lambda: api.model_info(repo_id, revision=revision))
    stale = _with_retries("looking at the repository", repo_id, lambda: _stale(api, repo_id, there, files))
    _check_unchanged(stamps)
    contents = files | {"README.md": _card(folder, repo_id)}
    address = _commit(
        api,
        url,
        there,
        [CommitOperationAdd(name, content) for name, content in contents.items()],
        stale,
        stamps,
        revision=revision,
        pull_request=pull_request,
        message=message or f"Upload {folder.absolute().name}",
    )
    state = "public" if public else "private"
    if was_private and public:  # only now: before the commit it would have shown what was there
        _with_retries(
            "making the repository public",
            repo_id,
            lambda: api.update_repo_settings(repo_id, private=False),
            f"the files are there, but only you can see them: {address or url}",
        )
        state = "public now, private until now"
    lines += [f"  deleted        {name}" for name in stale]
    if address is None:
        return "\n".join([f"{repo_id} ({state}) holds this already, so there was nothing to commit:", *lines])
    return "\n".join([f"pushed to {repo_id} ({state}), {total:.3f} MB in one commit:", *lines, f"see {address}"])


def main(argv: list[str] | None = None) -> None:
    """Run `hyenadna push` with these arguments (default: those of the command line)."""
    parser = argparse.ArgumentParser(prog="hyenadna push", description="Publish an exported folder, in one commit.")
    parser.add_argument("folder", metavar="FOLDER", help="what `hyenadna export` made")
    parser.add_argument("repo_id", metavar="USER/NAME", help="repository; made, private, if it does not exist")
    parser.add_argument("--public", action="store_true", help="make it public if it is private, or push to one that is")
    parser.add_argument("--revision", help="branch to commit to; made if it does not exist")
    parser.add_argument("--pull_request", action="store_true", help="open a pull request")
    parser.add_argument("--message", help="of the commit")
    parser.add_argument(
        "--dry_run", "--dry-run", action="store_true", help="only list what would be uploaded and deleted"
    )
    print(push(**vars(parser.parse_args(argv))))


if __name__ == "__main__":
    from hyenadna.training.cli import run_module

    run_module(__spec__.name)
