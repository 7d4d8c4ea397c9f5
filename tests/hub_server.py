"""A Hub of our own on 127.0.0.1: the few calls that `huggingface_hub` makes to publish and to load,
and faults.

It keeps what the real one guarantees and the tests rely on: a commit is whole or not there, an LFS
object counts only if its SHA-256 is right, a private repository does not exist for strangers, and a
branch moves by commits alone.
"""

import base64
import hashlib
import json
import re
import socket
import threading
from fnmatch import fnmatchcase
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

TOKEN = "hf_" + "TestTokenOfNobody" * 2  # as long as a real one
# the connection, half-way through the request, or after it was carried out
CUT, CUT_AFTER = "cut", "cut after"


class Hub:
    """The state of the server: repositories, LFS objects, the requests that came, and the faults
    that are due.
    """

    refusal: str | None = None  # what is said with a status that was asked for

    def __init__(self):
        self.repos: dict[str, dict] = {}
        self.objects: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.unknown: list[str] = []
        self.faults: list[dict] = []
        handler = type("BoundHandler", (Handler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def fail(self, request: str, status: int | str | bytes, times: int = 1, **headers: str) -> None:
        """Answer the next `times` requests that match the pattern with a status, or cut the
        connection.

        Bytes are sent as they are, with status 200, as a proxy may do that never asks the Hub.
        """
        self.faults.append(
            {"request": re.compile(request), "status": status, "times": times, "headers": headers}
        )

    def create(self, repo_id: str, private: bool = False, files: dict[str, bytes] | None = None) -> dict:
        repo = {"private": private, "branches": {"main": []}, "pull_requests": []}
        self.repos[repo_id] = repo
        if files:
            self.commit(repo, "main", files)
        return repo

    def commit(self, repo: dict, revision: str, changes: dict[str, bytes | None]) -> str:
        history = repo["branches"][revision]
        files = {**(history[-1]["files"] if history else {}), **changes}
        files = {path: content for path, content in files.items() if content is not None}
        oid = hashlib.sha1(f"{len(history)}{sorted(files)}{revision}".encode()).hexdigest()
        history.append({"oid": oid, "files": files})
        return oid

    def files(self, repo_id: str, revision: str = "main") -> dict[str, bytes]:
        history = self.repos[repo_id]["branches"][revision]
        return history[-1]["files"] if history else {}


def is_lfs(path: str) -> bool:
    return path.endswith((".safetensors", ".png", ".bin", ".ckpt"))


def blob(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args) -> None:
        pass

    def answer(self, content=b"", status: int = 200, **headers: str) -> None:
        if self.lost:
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
            return
        if not isinstance(content, bytes):
            content = json.dumps(content).encode()
            headers.setdefault("Content_Type", "application/json")
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if "Content_Length" not in headers:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def refuse(self, status: int, code: str, message: str = "", **headers: str) -> None:
        self.answer(
            {"error": message or code}, status, X_Error_Code=code, X_Error_Message=message or code, **headers
        )

    def handle_request(self) -> None:
        parts = urlsplit(self.path)
        path, self.query = unquote(parts.path), parse_qs(parts.query)
        request = f"{self.command} {path}"
        self.hub.requests.append(request)
        length = int(self.headers.get("Content-Length") or 0)
        self.lost = False
        for fault in self.hub.faults:
            if fault["times"] > 0 and fault["request"].search(request):
                fault["times"] -= 1
                if fault["status"] == CUT_AFTER:
                    self.lost = True
                    break
                if fault["status"] == CUT:
                    self.rfile.read(length // 2)
                    self.connection.shutdown(socket.SHUT_RDWR)
                    self.close_connection = True
                    return
                self.rfile.read(length)
                if isinstance(fault["status"], bytes):
                    self.answer(fault["status"], **fault["headers"])
                    return
                message = self.hub.refusal or f"fault {fault['status']}"
                self.refuse(fault["status"], "Fault", message, **fault["headers"])
                return
        self.body = self.rfile.read(length)
        self.user = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        for method, pattern, name in ROUTES:
            match = re.fullmatch(pattern, path)
            if match and self.command in method:
                getattr(self, name)(**match.groupdict())
                return
        self.hub.unknown.append(request)
        self.refuse(404, "EntryNotFound", f"this server does not know {request}")

    do_GET = do_HEAD = do_POST = do_PUT = handle_request

    def find(self, repo: str, revision: str = "main", write: bool = False) -> tuple[dict, dict] | None:
        """The repository and its files at a revision (`oid`, `files`), or None after an error was
        sent.
        """
        found = self.hub.repos.get(repo)
        if (write or (found and found["private"])) and not self.user:
            self.refuse(401, "RepoNotFound", "Invalid username or password.")
        elif found is None:
            self.refuse(404, "RepoNotFound", "Repository not found")
        else:
            for branch, history in found["branches"].items():
                for commit in history[::-1] or [{"oid": "0" * 40, "files": {}}]:
                    if revision in (branch, commit["oid"]):
                        return found, commit
            self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return None

    # ---- the API

    def whoami(self) -> None:
        if not self.user:
            return self.refuse(401, "Unauthorized", "Invalid credentials")
        return self.answer({"name": "me", "type": "user", "orgs": [], "auth": {"type": "access_token"}})

    def harnesses(self) -> None:  # what huggingface_hub asks to learn which program it runs in
        self.answer({})

    def create(self) -> None:
        asked = json.loads(self.body)
        repo = f"{asked.get('organization') or 'me'}/{asked['name']}"
        if not self.user:
            return self.refuse(401, "Unauthorized", "Invalid username or password.")
        if not repo.startswith("me/"):
            return self.refuse(403, "Forbidden", f"You don't have the rights to create a model under {repo}")
        if repo in self.hub.repos:
            return self.answer(
                {"error": "You already created this model repo", "url": f"{self.hub.url}/{repo}"}, 409
            )
        private = asked.get("private") or asked.get("visibility") == "private"
        self.hub.create(repo, private=bool(private))
        return self.answer({"url": f"{self.hub.url}/{repo}", "name": repo, "id": repo})

    def validate(self) -> None:
        text = json.loads(self.body)["content"]
        head = re.match(r"---\n(.*?)\n---", text, re.DOTALL)
        data = yaml.safe_load(head[1]) if head else {}
        wrong = [] if isinstance(data.get("license", ""), str) else ["license must be a string"]
        for entry in data.get("model-index", []):
            wrong += (
                [] if entry.get("name") and "results" in entry else ["model-index needs a name and results"]
            )
        errors = [{"message": message} for message in wrong]
        self.answer({"errors": errors, "warnings": []}, 400 if errors else 200)

    def info(self, repo: str, revision: str | None = None) -> None:
        if found := self.find(repo, revision or "main"):
            siblings = [{"rfilename": path} for path in found[1]["files"]]
            for sibling in siblings if "blobs" in self.query else []:
                content = found[1]["files"][sibling["rfilename"]]
                sibling |= {"blobId": blob(content), "size": len(content)}
                if is_lfs(sibling["rfilename"]):
                    sha = hashlib.sha256(content).hexdigest()
                    sibling |= {"blobId": blob(b"pointer"), "lfs": {"sha256": sha, "size": len(content)}}
                    sibling["lfs"]["pointerSize"] = 100
            answer = {"id": repo, "modelId": repo, "sha": found[1]["oid"], "siblings": siblings, "tags": []}
            self.answer(answer | {"private": found[0]["private"], "downloads": 0, "likes": 0})

    def tree(self, repo: str, revision: str, path: str | None = None) -> None:
        if found := self.find(repo, revision):
            entries = []
            for name, content in found[1]["files"].items():
                if path and not name.startswith(f"{path}/"):
                    continue
                entry = {"type": "file", "path": name, "size": len(content), "oid": blob(content)}
                if is_lfs(name):
                    sha = hashlib.sha256(content).hexdigest()
                    entry["lfs"] = {"oid": sha, "size": len(content), "pointerSize": 100}
                entries.append(entry)
            if path and not entries:
                self.refuse(404, "EntryNotFound", f"{path} does not exist")
            else:
                self.answer(entries)

    def refs(self, repo: str) -> None:
        if found := self.find(repo):
            refs = {"branches": [], "pullRequests": [], "converts": [], "tags": []}
            for name, history in found[0]["branches"].items():
                ref = name if name.startswith("refs/pr/") else f"refs/heads/{name}"
                entry = {
                    "name": name,
                    "ref": ref,
                    "targetCommit": history[-1]["oid"] if history else "0" * 40,
                }
                refs["pullRequests" if ref == name else "branches"].append(entry)
            self.answer(refs)

    def settings(self, repo: str) -> None:
        if found := self.find(repo, write=True):
            found[0]["private"] = json.loads(self.body)["visibility"] == "private"
            self.answer({})

    def branch(self, repo: str, revision: str) -> None:
        if found := self.find(repo, write=True):
            branches = found[0]["branches"]
            if revision in branches:
                self.refuse(409, "Conflict", "Reference already exists")
            else:
                branches[revision] = list(branches["main"])
                self.answer({})

    def preupload(self, repo: str, revision: str) -> None:
        if found := self.find(repo, revision, write=True):
            answer = []
            ignored = found[1]["files"].get(".gitignore", b"").decode().split()
            for file in json.loads(self.body)["files"]:
                path = file["path"]
                content = found[1]["files"].get(path)
                oid = None
                if content is not None:
                    oid = hashlib.sha256(content).hexdigest() if is_lfs(path) else blob(content)
                mode = "lfs" if is_lfs(path) else "regular"
                ignore = any(fnmatchcase(path, pattern) for pattern in ignored)
                answer.append({"path": path, "uploadMode": mode, "shouldIgnore": ignore, "oid": oid})
            self.answer({"files": answer})

    def lfs(self, repo: str) -> None:
        if self.find(repo, write=True):
            objects = []
            for wanted in json.loads(self.body)["objects"]:
                entry = {"oid": wanted["oid"], "size": wanted["size"]}
                if wanted["oid"] not in self.hub.objects:
                    entry["actions"] = {"upload": {"href": f"{self.hub.url}/lfs/{wanted['oid']}"}}
                objects.append(entry)
            content_type = "application/vnd.git-lfs+json"
            self.answer(
                json.dumps({"transfer": "basic", "objects": objects}).encode(), Content_Type=content_type
            )

    def put(self, oid: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != oid:
            return self.refuse(400, "BadRequest", "the content does not have this SHA-256")
        self.hub.objects[oid] = self.body
        return self.answer()

    def commit(self, repo: str, revision: str) -> None:
        if not (found := self.find(repo, revision, write=True)):
            return None
        changes = {}
        for line in self.body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "header" and value.get("parentCommit", found[1]["oid"]) != found[1]["oid"]:
                return self.refuse(412, "PreconditionFailed", "A commit has happened since. Please refresh.")
            if entry["key"] == "file":
                changes[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                if value["oid"] not in self.hub.objects:
                    return self.refuse(422, "UnprocessableEntity", f"{value['path']} was not uploaded")
                changes[value["path"]] = self.hub.objects[value["oid"]]
            elif entry["key"] == "deletedFile":
                if value["path"] not in found[1]["files"]:
                    return self.refuse(404, "EntryNotFound", "A file with this name doesn't exist")
                changes[value["path"]] = None
        if self.query.get("create_pr"):
            number = len(found[0]["pull_requests"]) + 1
            found[0]["pull_requests"].append(changes)
            revision = f"refs/pr/{number}"
            found[0]["branches"][revision] = list(found[0]["branches"]["main"])
        oid = self.hub.commit(found[0], revision, changes)
        address = f"{self.hub.url}/{repo}"
        answer = {"success": True, "commitOid": oid, "commitUrl": f"{address}/commit/{oid}"}
        if self.query.get("create_pr"):
            answer["pullRequestUrl"] = f"{address}/discussions/{number}"
        return self.answer(answer)

    def resolve(self, repo: str, revision: str, path: str) -> None:
        if found := self.find(repo, revision):
            content = found[1]["files"].get(path)
            if content is None:
                self.refuse(404, "EntryNotFound", f"{path} does not exist", X_Repo_Commit=found[1]["oid"])
            else:
                etag = hashlib.sha256(content).hexdigest() if is_lfs(path) else blob(content)
                headers = {"ETag": f'"{etag}"', "X_Repo_Commit": found[1]["oid"], "Accept_Ranges": "bytes"}
                self.answer(content, Content_Length=str(len(content)), **headers)


_REPO = r"(?P<repo>[\w.-]+/[\w.-]+)"
ROUTES = (
    ("GET", r"/api/whoami-v2", "whoami"),
    ("GET", r"/api/agent-harnesses", "harnesses"),
    ("POST", r"/api/repos/create", "create"),
    ("POST", r"/api/validate-yaml", "validate"),
    ("POST", rf"/api/models/{_REPO}/preupload/(?P<revision>.+)", "preupload"),
    ("POST", rf"/api/models/{_REPO}/commit/(?P<revision>.+)", "commit"),
    ("POST", rf"/api/models/{_REPO}/branch/(?P<revision>.+)", "branch"),
    ("GET", rf"/api/models/{_REPO}/tree/(?P<revision>[^/]+)(?:/(?P<path>.+))?", "tree"),
    ("GET", rf"/api/models/{_REPO}/refs", "refs"),
    ("PUT", rf"/api/models/{_REPO}/settings", "settings"),
    ("GET", rf"/api/models/{_REPO}/revision/(?P<revision>.+)", "info"),
    ("GET", rf"/api/models/{_REPO}", "info"),
    ("POST", rf"/{_REPO}\.git/info/lfs/objects/batch", "lfs"),
    ("PUT", r"/lfs/(?P<oid>\w+)", "put"),
    (("GET", "HEAD"), rf"/{_REPO}/resolve/(?P<revision>[^/]+|refs/pr/\d+)/(?P<path>.+)", "resolve"),
)
