"""Find access tokens and keys in files, and hide them in messages."""

import os
import re

from huggingface_hub import get_token

# What is found -> its pattern. Long enough not to occur by accident in weights or text.
_FORMS = {
    "an access token of the Hub": rb"\b(?:hf|hf_oauth)_[A-Za-z0-9]{30,}|\bapi_org_[A-Za-z0-9]{30,}",
    "a web token (JWT)": rb"\beyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}",
    "an access token of GitHub": rb"\bgh[oprsu]_[A-Za-z0-9]{36,}|\bgithub_pat_[A-Za-z0-9_]{40,}",
    "an access token of GitLab": rb"\bglpat-[A-Za-z0-9_-]{20,}",
    "an access key of AWS": rb"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b",
    "an access key of Google": rb"\bAIza[A-Za-z0-9_-]{35}",
    "an access token of Slack": rb"\bxox[abeoprs]-[A-Za-z0-9-]{20,}",
    "an API key": rb"\bsk-[A-Za-z0-9_-]{32,}",
    "a private key": rb"-----BEGIN [A-Z ]*PRIVATE KEY-----",
}
_PATTERNS = {kind: re.compile(form) for kind, form in _FORMS.items()}
_SECRET_NAME = re.compile(r"TOKEN|SECRET|PASSWORD|API_?KEY", re.IGNORECASE)
# The shortest secret in the environment, in characters. `TOKENIZERS_PARALLELISM=false` is none.
_SHORTEST = 16


def own_secrets() -> set[str]:
    """Return the user's secrets: the Hub client's token, and those in the environment."""
    secrets = {value.strip() for name, value in os.environ.items() if _SECRET_NAME.search(name)}
    # A path says where a secret is (HF_TOKEN_PATH), and is not one.
    secrets = {value for value in secrets if len(value) >= _SHORTEST and "/" not in value}
    token = get_token()
    if token:
        secrets.add(token)
    return secrets


def secret_in(content: bytes) -> str | None:
    """Return in words what kind of secret `content` holds, or None."""
    # ASCII text in UTF-16 or UTF-32 has zeros between the letters: search once more without them.
    for text in {content, content.replace(b"\0", b"")}:
        for kind, pattern in _PATTERNS.items():
            if pattern.search(text):
                return kind
        if any(secret.encode() in text for secret in own_secrets()):
            return "an access token of yours"
    return None


def hide_secrets(text: str) -> str:
    """Return the text with every secret replaced by `...`."""
    # The longest first: one secret may be the beginning of another.
    for secret in sorted(own_secrets(), key=len, reverse=True):
        text = text.replace(secret, "...")
    content = text.encode(errors="replace")
    for pattern in _PATTERNS.values():
        content = pattern.sub(b"...", content)
    return content.decode(errors="replace")


def shown_cause(error: BaseException) -> BaseException | None:
    """Return the error for `raise ... from`, or None if a message in its chain holds a secret.

    A traceback prints the whole chain of causes, so all of them are searched.
    """
    seen = error
    while seen is not None:
        if hide_secrets(str(seen)) != str(seen):
            return None
        seen = seen.__cause__ or seen.__context__
    return error
