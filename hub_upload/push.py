"""Publish an exported folder on the Hub: `hyenadna push FOLDER USER/NAME`.

    hyenadna push promoters-hub me/promoters --dry_run        # what would be uploaded, and deleted
    hyenadna push promoters-hub me/promoters                  # a private repository, one commit
    hyenadna push promoters-hub me/promoters --public --revision v1.1
    hyenadna push promoters-hub lab/promoters --pull_request

Log in first with `hf auth login`, or set HF_TOKEN. The token is neither printed nor written.

- The folder is verified once more. If it holds Python that is not this package's own, that needs
  `--trust_code`, because verifying runs it.
- Only file types that a model repository holds are sent. Others are listed; `--include` sends them.
- Weights are sent first, then everything becomes one commit. A broken transfer leaves the
  repository as it was.
- The same commit deletes weights, configurations, tokenizers and modules of ours that an earlier
  push left there.
- After the commit the repository is compared with the folder.
"""

import json
import re
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import yaml
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, ModelCard, ModelInfo
from huggingface_hub.errors import HFValidationError, RevisionNotFoundError
from huggingface_hub.hf_api import RepoSibling
from huggingface_hub.utils import validate_repo_id
from huggingface_hub.utils.sha import git_hash
from transformers.dynamic_module_utils import get_relative_import_files

from hyenadna.errors import CheckpointError, PushError
from hyenadna.flags import CommandParser

from .access_tokens import hide_secrets, shown_cause
from .contents import CODE, Contents, contents_to_push, foreign_code
from .export import verify
from .hub import FAILURES, explain, with_retries
from .model_card import plain

# Files that `hyenadna export` writes, so a push may delete old ones. Modules of the model's code
# are not listed here: they are found by reading the code (`_stale`).
_OURS = re.compile(
    r"(?:adapter_)?model(?:-\d+-of-\d+)?\.safetensors(?:\.index\.json)?"
    r"|(?:(?:adapter_|generation_|tokenizer_)?config|tokenizer)\.json"
)


# --------------------------------------------------------------------------------------- the folder


def _card(folder: Path, repo_id: str) -> bytes:
    """Return README.md, with the name of the folder replaced by that of the repository."""
    # Only in the snippet, the title and the metadata. A user may have edited the rest.
    try:
        card = ModelCard.load(folder / "README.md")
        snippet = re.search(r'^name = (".*")', card.text, flags=re.MULTILINE)
        if snippet:
            old = json.loads(snippet[1])
            new = repo_id.rpartition("/")[2]
            card.text = card.text.replace(snippet[0], f"name = {json.dumps(repo_id)}", 1)
            card.text = card.text.replace(f"\n# {plain(old)}\n", f"\n# {plain(new)}\n", 1)
            if card.data.model_name == old:
                card.data.model_name = new
        ModelCard(str(card))
    except (OSError, ValueError, TypeError, RecursionError, yaml.YAMLError) as error:
        raise CheckpointError(f"{folder / 'README.md'} is not a valid model card: {error}") from error
    return str(card).encode()


def _stamp(path: Path) -> tuple | None:
    """Return what changes if a file is written to, or replaced by another or by a link."""
    if not path.is_file():
        return None
    state = path.stat()
    return state.st_size, state.st_mtime_ns, state.st_ino, path.is_symlink()


def _check_unchanged(stamps: dict[Path, tuple | None]) -> None:
    changed = [path.name for path, stamp in stamps.items() if _stamp(path) != stamp]
    if changed:
        raise PushError(
            f"{', '.join(changed)} changed or vanished while the folder was pushed, and nothing "
            "was published. Push again when nothing writes to the folder"
        )


def _verify(folder: Path, contents: Contents, trust_code: bool) -> None:
    """Load the folder as its users will. That runs its Python, which may not be ours."""
    foreign = foreign_code(contents.files)
    if foreign and not trust_code:
        raise CheckpointError(
            f"{folder} holds Python that is not this package's own: {', '.join(foreign)}. To "
            "verify the folder, a push runs it. Read it, and push with --trust_code if you trust it; "
            "or export the model again. Nothing was run"
        )
    if "config.json" in contents.files:
        verify(folder)


# ----------------------------------------------------------------------------------- the repository


def _look(api: HfApi, repo_id: str, revision: str | None = None, files_metadata: bool = False) -> ModelInfo:
    """Return the state of a repository, with its commit and its list of files."""
    info = api.model_info(repo_id, revision=revision, files_metadata=files_metadata)
    if info.siblings is None or not isinstance(info.sha, str):
        raise TypeError(f"{repo_id}: no list of files, or no commit, in the answer")
    return info


def _stale(api: HfApi, repo_id: str, there: ModelInfo, names: Iterable[str]) -> list[str]:
    """Return the files that an earlier push left and this one does not replace, in order.

    Any other file was put there by the owner and stays.
    """
    others = {file.rfilename for file in there.siblings} - set(names)
    stale = {name for name in others if _OURS.fullmatch(name)}
    # Which modules are ours, only the model's own file in the repository can say: read its imports.
    if any(re.fullmatch(r"\w+\.py", name) for name in others):
        with tempfile.TemporaryDirectory() as scratch:
            api.snapshot_download(repo_id, revision=there.sha, allow_patterns="*.py", local_dir=scratch)
            code = Path(scratch) / CODE.name
            try:
                modules = [code, *map(Path, get_relative_import_files(code))]
            except (FileNotFoundError, UnicodeDecodeError):
                # Our code is not there, or incomplete. Then any .py may be the owner's.
                modules = []
            stale |= others & {module.name for module in modules}
    return sorted(stale)


def _is_stored(addition: CommitOperationAdd, file: RepoSibling | None) -> bool:
    """Return whether a file in the repository has this content."""
    if file is None:
        return False
    # The Hub identifies large files by SHA-256, and small ones by their git hash.
    if file.lfs is not None:
        return file.lfs.sha256 == addition.upload_info.sha256.hex()
    with addition.as_file() as content:
        return file.blob_id == git_hash(content.read())


@dataclass
class _Upload:
    """One commit on top of the state `there` of a repository.

    Attributes:
        address: The address of the repository.
        there: The state that the commit is made on top of.
        additions: The files to write.
        stale: The files to delete.
        stamps: The files of the folder, to notice a change; see `_stamp`.
        revision: The branch, or None for the main one.
    """

    api: HfApi
    repo_id: str
    address: str
    there: ModelInfo
    additions: list[CommitOperationAdd]
    stale: list[str]
    stamps: dict[Path, tuple | None]
    revision: str | None
    pull_request: bool
    message: str

    def run(self) -> str | None:
        """Commit, and return the address of the commit or pull request; None if nothing changed.

        The answer may be lost after the commit was made. So before another try, and before a
        failure is reported, the repository is searched for the commit.

        Raises:
            PushError: There is no commit, or that is not known, or it is not what was sent. The
                message says which.
        """
        self.tried = False
        self.known = set()
        if self.pull_request:
            self.known = with_retries("looking at the pull requests", self.repo_id, self.pull_requests)
        try:
            address, to_compare = with_retries("the upload", self.repo_id, self.step)
        except PushError as error:
            try:
                address = self.find()
            except FAILURES as failure:
                why = explain(failure, self.repo_id)
                raise PushError(
                    f"the upload failed, and whether it was published is not known: {why}; see {self.address}"
                ) from shown_cause(failure)
            if address is None:
                raise error
            return address
        if to_compare is not None:
            self.check(to_compare, address or self.address)
        return address

    def step(self) -> tuple[str | None, str | None]:
        """Try once. Return the address, and the revision to compare with the folder."""
        if self.tried and (address := self.find()) is not None:
            # An earlier try did succeed. `find` has compared it already.
            return address, None
        self.tried = True
        try:
            # Not `upload_folder`: with hf_xet it makes several commits, and a failure between them
            # publishes half a model.
            commit = self.api.create_commit(
                self.repo_id,
                [*self.additions, *(CommitOperationDelete(name) for name in self.stale)],
                commit_message=self.message,
                revision=self.revision,
                create_pr=self.pull_request,
                # The deletions were decided for this state. If somebody else commits first, the Hub
                # refuses ours instead of deleting something new.
                parent_commit=self.there.sha,
            )
        except FAILURES:
            # A file that changed under way is the likelier reason, and trying again cannot help.
            _check_unchanged(self.stamps)
            raise
        if commit.oid == self.there.sha:
            return None, commit.oid
        return commit.pr_url or commit.commit_url, commit.pr_revision or commit.oid

    def check(self, revision: str, address: str) -> None:
        """Compare the repository with the folder. The Hub silently drops what .gitignore names."""
        now = with_retries(
            "comparing the repository with the folder",
            self.repo_id,
            lambda: _look(self.api, self.repo_id, revision, files_metadata=True),
            f"whether the commit holds every file is not known: look at {address}",
        )
        wrong = self.differences(now)
        if wrong:
            raise PushError(
                f"the Hub did not take {', '.join(wrong)}, so {address} is not what was sent. "
                "Usually a .gitignore in the repository names such files: correct or delete it "
                "there, and push again"
            )

    def differences(self, now: ModelInfo) -> list[str]:
        """Return the files that are missing or differ, and those that should have been deleted."""
        files = {file.rfilename: file for file in now.siblings}
        names = [a.path_in_repo for a in self.additions if not _is_stored(a, files.get(a.path_in_repo))]
        return names + [f"the deletion of {name}" for name in self.stale if name in files]

    def pull_requests(self) -> set[str]:
        refs = self.api.list_repo_refs(self.repo_id, include_pull_requests=True)
        return {ref.ref for ref in refs.pull_requests}

    def find(self) -> str | None:
        """Return the address of a commit or pull request whose answer was lost, or None."""
        # A pull request that was not there before, or the branch itself, with all of our files.
        places = [self.revision]
        if self.pull_request:
            places = sorted(self.pull_requests() - self.known)
        for place in places:
            now = _look(self.api, self.repo_id, place, files_metadata=True)
            if now.sha == self.there.sha or self.differences(now):
                continue
            if self.pull_request:
                return f"{self.address}/discussions/{place.rpartition('/')[2]}"
            return f"{self.address}/commit/{now.sha}"
        return None


def _dry_run(repo_id: str, names: list[str], public: bool, revision: str | None) -> tuple[str, list[str]]:
    """Return in words whether the repository is public, and which files would be deleted."""
    api = HfApi()
    try:
        if "/" not in repo_id:
            repo_id = f"{api.whoami()['name']}/{repo_id}"
        try:
            there = _look(api, repo_id, revision)
        except RevisionNotFoundError:
            # The branch does not exist yet. It would start from the main one.
            there = _look(api, repo_id)
        stale = _stale(api, repo_id, there, names)
    except FAILURES as error:
        state = "public" if public else "private, if it does not exist yet"
        return (
            f"{state}; not read, so what would be deleted is not known: {explain(error, repo_id)}",
            [],
        )
    if there.private:
        return "private now, and public afterwards" if public else "private", stale
    return "public" if public else "public already, so it would be refused without --public", stale


# ----------------------------------------------------------------------------------------- the push


def push(
    folder: str | Path,
    repo_id: str,
    *,
    public: bool = False,
    revision: str | None = None,
    pull_request: bool = False,
    message: str | None = None,
    include: Iterable[str] = (),
    trust_code: bool = False,
    dry_run: bool = False,
) -> str:
    """Publish an exported folder in one commit, or not at all.

    The same commit deletes the weights, configurations, tokenizer files and modules of the model's
    code that an earlier push left and this folder no longer has. It deletes nothing else.

    Args:
        folder: What `hyenadna export` made.
        repo_id: `USER/NAME`, or `NAME` in your own space. If it does not exist, a private
            repository is made.
        public: Make the repository public, after the commit. Also needed to push to a public one.
        revision: The branch to commit to; made if it does not exist.
        pull_request: Open a pull request instead of committing to the main branch.
        message: The commit message.
        include: Names or patterns of files to send although a model repository usually has no such.
        trust_code: Run Python of the folder that is not this package's own, to verify the folder.
        dry_run: Only say what would be uploaded and deleted.

    Returns:
        A report, with the address of the commit or pull request.

    Raises:
        CheckpointError: `folder` cannot be published as it is.
        PushError: The Hub refused or cannot be reached. Unless the message says otherwise, nothing
            was published.

    >>> print(push("promoters-hub", "me/promoters", dry_run=True))          # doctest: +SKIP
    """
    folder = Path(folder)
    _check_place(repo_id, revision, pull_request)

    # Find everything that can be wrong with the folder before the first call to the Hub.
    contents = contents_to_push(folder, include)
    stamps = {path: _stamp(path) for path in contents.files.values()}
    _card(folder, repo_id)
    if dry_run:
        return _report_dry_run(contents, repo_id, public, revision, pull_request)
    _verify(folder, contents, trust_code)

    # From here on the Hub changes. After a failure, an empty repository or branch may be left.
    api = HfApi()
    repo_id, address, was_private = _repository(api, repo_id, public)
    there = _state_to_change(api, repo_id, revision)
    stale = with_retries(
        "looking at the repository", repo_id, lambda: _stale(api, repo_id, there, contents.files)
    )
    _check_unchanged(stamps)
    # The card in the folder has the name of the folder; the published one that of the repository.
    sent = contents.files | {"README.md": _card(folder, repo_id)}
    upload = _Upload(
        api,
        repo_id,
        address,
        there,
        [CommitOperationAdd(name, content) for name, content in sent.items()],
        stale,
        stamps,
        revision=revision,
        pull_request=pull_request,
        message=message or f"Upload {folder.absolute().name}",
    )
    made = upload.run()
    state = "public" if public else "private"
    if was_private and public:
        state = _make_public(api, repo_id, made or address)
    return _report(contents, stale, f"{repo_id} ({state})", made)


def _check_place(repo_id: str, revision: str | None, pull_request: bool) -> None:
    """Refuse an impossible name, and a pull request against a branch."""
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise CheckpointError(f"{repo_id!r} is no name of a repository: {error}") from error
    if pull_request and revision is not None:
        raise CheckpointError(
            "a pull request is against the main branch: leave out revision, or pull_request"
        )


def _repository(api: HfApi, repo_id: str, public: bool) -> tuple[str, str, bool]:
    """Make the repository if needed. Return its full name, its address, whether it is private."""
    url = with_retries(
        "creating the repository",
        repo_id,
        lambda: api.create_repo(repo_id, private=not public, exist_ok=True),
    )
    repo_id = url.repo_id
    there = with_retries("looking at the repository", repo_id, lambda: _look(api, repo_id))
    if not there.private and not public:
        raise PushError(
            f"{repo_id} is public already; say --public if everyone may see this. Nothing was published"
        )
    return repo_id, str(url), bool(there.private)


def _state_to_change(api: HfApi, repo_id: str, revision: str | None) -> ModelInfo:
    """Return the state to commit on top of. A branch that does not exist is made."""
    if revision is None:
        return with_retries("looking at the repository", repo_id, lambda: _look(api, repo_id))
    with_retries(
        "making the branch",
        repo_id,
        lambda: api.create_branch(repo_id, branch=revision, exist_ok=True),
    )
    return with_retries("looking at the branch", repo_id, lambda: _look(api, repo_id, revision))


def _make_public(api: HfApi, repo_id: str, address: str) -> str:
    """Show a private repository to everyone."""
    # Only after the commit: before, it would have shown what was there until now.
    with_retries(
        "making the repository public",
        repo_id,
        lambda: api.update_repo_settings(repo_id, private=False),
        f"the files are there, but only you can see them: {address}",
    )
    return "public now, private until now"


# --------------------------------------------------------------------------------------- the report


def _lines(contents: Contents) -> tuple[list[str], float]:
    """Return a line for each file, sent or left out, and the megabytes that are sent."""
    sizes = {name: path.stat().st_size / 1e6 for name, path in contents.files.items()}
    lines = [f"  {size:10.3f} MB  {name}" for name, size in sizes.items()]
    for name, why in contents.left_out.items():
        lines.append(f"  left out       {name}: {why}")
    if any(why != "hidden" for why in contents.left_out.values()):
        lines.append("                 (--include NAME sends a file of another kind as well)")
    return [hide_secrets(line) for line in lines], sum(sizes.values())


def _report_dry_run(
    contents: Contents, repo_id: str, public: bool, revision: str | None, pull_request: bool
) -> str:
    where = repo_id
    if revision:
        where += f", revision {revision}"
    if pull_request:
        where += ", as a pull request"
    state, stale = _dry_run(repo_id, list(contents.files), public, revision)
    lines, total = _lines(contents)
    lines.append(f"  {total:10.3f} MB  in all")
    lines += [f"  to be deleted  {name}" for name in stale]
    foreign = foreign_code(contents.files)
    if foreign:
        lines.append(
            f"it would be refused without --trust_code: not this package's own are {', '.join(foreign)}"
        )
    return "\n".join([f"would push to {where} ({state}):", *lines])


def _report(contents: Contents, stale: list[str], repository: str, made: str | None) -> str:
    lines, total = _lines(contents)
    lines += [f"  deleted        {name}" for name in stale]
    if made is None:
        return "\n".join([f"{repository} holds this already, so there was nothing to commit:", *lines])
    return "\n".join([f"pushed to {repository}, {total:.3f} MB in one commit:", *lines, f"see {made}"])


def main(argv: list[str] | None = None) -> None:
    """Run `hyenadna push` with these arguments (default: those of the command line)."""
    parser = CommandParser(
        "push",
        "Publish an exported folder, in one commit.",
        example="hyenadna push promoters-hub me/promoters --dry_run",
    )
    parser.add_argument("folder", metavar="FOLDER", help="what `hyenadna export` made")
    parser.add_argument(
        "repo_id", metavar="USER/NAME", help="repository; made, private, if it does not exist"
    )
    parser.add_argument(
        "--public",
        action="store_true",
        help="make it public if it is private, or push to one that is",
    )
    parser.add_argument("--revision", help="branch to commit to; made if it does not exist")
    parser.add_argument("--pull_request", action="store_true", help="open a pull request")
    parser.add_argument("--message", help="of the commit")
    parser.add_argument(
        "--include",
        metavar="NAME",
        action="append",
        default=[],
        help=(
            "send this file (or pattern) too, although a model repository holds no such kind; may be repeated"
        ),
    )
    parser.add_argument(
        "--trust_code",
        action="store_true",
        help="run Python of the folder that is not this package's own, to verify the folder",
    )
    parser.add_argument(
        "--dry_run",
        action="store_true",
        help="only list what would be uploaded and deleted",
    )
    print(push(**vars(parser.parse_args(argv))))


if __name__ == "__main__":
    from hyenadna.training.cli import run_module

    run_module(__spec__.name)
