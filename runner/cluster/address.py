"""Finds the cluster that --on names, by its URL or its name, in the configuration files."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

from ..errors import SettingsError
from ..protocol.yaml_errors import yaml_fault
from ..settings.cluster_options import PASSWORD_VARIABLE, TOKEN_VARIABLE, USERNAME_VARIABLE

#: Clusters by name, below $XDG_CONFIG_HOME or ~/.config.
FILE = "hkrunner/clusters.yml"
#: The configuration file of hkubectl, and the name by which --on selects the cluster in it.
HKUBECTL_FILE = ".hkube/.hkuberc"
HKUBECTL = "hkubectl"
_TRUTH = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_KEYS = frozenset(("url", "username", "password", "passwordFile", "token", "ca", "verify"))


class Cluster(NamedTuple):
    """How to reach a cluster's API server."""

    name: str  #: as it was asked for; messages name the cluster so
    url: str  #: without a slash at its end; without a path, the usual ones are tried
    username: str | None = None
    password: str | None = None
    token: str | None = None  #: sent as it is, instead of a login
    ca: str | None = None  #: file with the certificates to trust; None: those of the system
    verify: bool = True  #: whether the server's certificate is checked

    def __repr__(self) -> str:
        """Return the name and the URL: a debugger or a log has no use for a password."""
        return f"Cluster({self.name!r}, {self.url!r})"


def cluster_of(name: str, environ: Mapping[str, str], cwd: str) -> Cluster:
    """Return the cluster of this URL or name. Raises SettingsError."""
    file = config_file(environ)
    if "://" in name:
        found = _named_by_url(name, file)
    elif name == HKUBECTL:
        found = _of_hkubectl(environ, cwd)
    else:
        entries = _entries(file)
        if name not in entries:
            known = f"it has {', '.join(entries)}" if entries else "it has none"
            raise SettingsError(
                f"--on {name}: {file} has no such cluster ({known}); give a URL, or add one"
                if file.exists()
                else f"--on {name}: there is no file {file} with clusters by name; give a URL, or make it"
            )
        found = _of_entry(name, entries[name], file)
    # A password in the environment comes before a token in the file, which would be sent instead of a login.
    in_file = None if environ.get(PASSWORD_VARIABLE) else found.token
    token = (environ.get(TOKEN_VARIABLE) or in_file or "").strip()
    if not can_be_token(token):
        source = TOKEN_VARIABLE if environ.get(TOKEN_VARIABLE) else f"{file}: {found.name}: token"
        raise SettingsError(f"{source}: a token is one line of ASCII, without spaces within")
    return found._replace(
        username=environ.get(USERNAME_VARIABLE) or found.username,
        password=environ.get(PASSWORD_VARIABLE) or found.password,
        token=token or None,
    )


def can_be_token(text: str) -> bool:
    """Whether the text can be in a header; http.client would show it in the error for one that cannot."""
    return text.isascii() and text.isprintable() and " " not in text


def config_file(environ: Mapping[str, str]) -> Path:
    """Return the path of the file with clusters by name."""
    base = environ.get("XDG_CONFIG_HOME") or os.path.join(_home(environ), ".config")
    return Path(base, FILE)


def _home(environ: Mapping[str, str]) -> str:
    return environ.get("HOME") or os.path.expanduser("~")


def _named_by_url(url: str, file: Path) -> Cluster:
    """Return the cluster with this URL; what the file says about the same URL holds for it as well."""
    checked = _checked_url(url, "--on")
    for name, entry in _entries(file).items():
        if isinstance(entry, dict) and str(entry.get("url")).rstrip("/") == checked:
            return _of_entry(name, entry, file)
    return Cluster(checked, checked)


def _entries(file: Path) -> dict[str, Any]:
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{file} cannot be read: {_reason(error)}") from None
    import yaml

    class TextLoader(yaml.SafeLoader):
        """Reads what YAML takes for a number, a date or a truth value as the text that is written there.

        A cluster may be called 12 or yes, and a password may be 0123.
        """

    def as_written(loader: TextLoader, node: yaml.ScalarNode) -> object:
        return loader.construct_scalar(node)

    for kind in ("int", "float", "timestamp", "bool"):
        TextLoader.add_constructor(f"tag:yaml.org,2002:{kind}", as_written)
    try:
        content = yaml.load(text, TextLoader)
    except yaml.YAMLError as error:
        line, fault = yaml_fault(error, text)
        raise SettingsError(f"{file}:{line}: it is not YAML: {fault}") from None
    except RecursionError:
        raise SettingsError(f"{file} is not YAML: nested too deeply") from None
    except ValueError as error:
        raise SettingsError(f"{file} is not YAML: {' '.join(str(error).split())}") from None
    entries = content.get("clusters") if isinstance(content, dict) else None
    if not isinstance(entries, dict):
        raise SettingsError(f"{file} has no mapping 'clusters' of names to clusters")
    return {str(name): entry for name, entry in entries.items()}


def _of_entry(name: str, entry: Any, file: Path) -> Cluster:
    at = f"{file}: {name}"
    if not isinstance(entry, dict) or not isinstance(entry.get("url"), str):
        raise SettingsError(f"{at} has no url")
    unknown = sorted(str(key) for key in entry.keys() - _KEYS)
    if unknown:
        raise SettingsError(
            f"{at} has unknown keys: {', '.join(unknown)}; known are {', '.join(sorted(_KEYS))}"
        )
    for key in sorted(_KEYS & entry.keys()):
        if not isinstance(entry[key], str) or "\0" in entry[key]:
            raise SettingsError(f"{at}: {key} is not a text")
    verify = _TRUTH.get(entry.get("verify", "true").lower())
    if verify is None:
        raise SettingsError(f"{at}: verify is neither true nor false")
    password = entry.get("password")
    if "passwordFile" in entry:
        password = _first_line(_path(entry["passwordFile"], file), f"{at}: passwordFile")
    return Cluster(
        name,
        _checked_url(entry["url"], at),
        username=entry.get("username"),
        password=password,
        token=entry.get("token"),
        ca=_path(entry["ca"], file) if "ca" in entry else None,
        verify=verify,
    )


def _of_hkubectl(environ: Mapping[str, str], cwd: str) -> Cluster:
    """Return the cluster of hkubectl's file, which is searched as hkubectl does."""
    folders = [Path(cwd), *Path(cwd).parents, Path(_home(environ))]
    files = (folder / HKUBECTL_FILE for folder in folders)
    # Not is_file(): it raises an error for a folder that may not be searched, such as another user's home.
    file = next((one for one in files if os.path.isfile(one)), None)
    if file is None:
        raise SettingsError(
            f"--on {HKUBECTL}: no {HKUBECTL_FILE} in this folder, above it or in {_home(environ)}"
        )
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise SettingsError(f"{file} cannot be read: {_reason(error)}") from None
    for key in ("username", "password"):
        if isinstance(content, dict) and not isinstance(content.get(key) or "", str):
            raise SettingsError(f"{file}: {key} is not a text")
    endpoint = content.get("endpoint") if isinstance(content, dict) else None
    if not isinstance(endpoint, str):
        raise SettingsError(f"{file} has no endpoint")
    path = str(content.get("pathPrefix") or "").strip("/")
    url = f"{endpoint.rstrip('/')}/{path}" if path else endpoint
    return Cluster(
        HKUBECTL,
        _checked_url(url, str(file)),
        username=content.get("username") or None,
        password=content.get("password") or None,
        verify=content.get("rejectUnauthorized") is not False,
    )


def _checked_url(url: str, source: str) -> str:
    """Return the URL without /api/v1 and without a slash at its end. Raises SettingsError."""
    if "@" in url:
        raise SettingsError(
            f"{source}: a URL is shown in messages; instead of a password in it, set {USERNAME_VARIABLE} and"
            f" {PASSWORD_VARIABLE}"
        )
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise SettingsError(f"{source}: {url!r} is no URL: {error}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise SettingsError(f"{source}: a cluster's URL looks like https://hkube.example.org, not {url!r}")
    if not parts.netloc.isprintable() or " " in parts.netloc:
        raise SettingsError(f"{source}: {url!r} is no URL: there is no such host")
    path = quote(parts.path, safe="/%:@!$&'()*+,;=~-._")  # a request line has no room for others
    plain = parts._replace(path=path).geturl()
    return plain.rstrip("/").removesuffix("/api/v1").rstrip("/")


def _path(name: str, file: Path) -> str:
    """Return the path; a relative one starts at the folder of the configuration file."""
    return os.path.join(file.parent, os.path.expanduser(name))


def _first_line(path: str, what: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.readline().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{what}: cannot read {path}: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    """Return why a file could not be read, without its name."""
    return getattr(error, "strerror", None) or str(error)
