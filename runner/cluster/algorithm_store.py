"""The algorithms of a cluster: apply, list, remove; their builds and versions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple
from urllib.parse import quote

from ..errors import ClusterError, EntryNotFound
from ..protocol.messages import printable
from .api import SERVER_OUTAGE, ClusterApi
from .byte_progress import show_nothing
from .form import form_body
from .job_answers import number
from .refusals import RequestRefused

#: How a build ends.
BUILD_ENDS = ("completed", "failed", "stopped")
#: Code of "there was no trigger for build": the same code was built before.
NO_BUILD = 1025
#: Code of an algorithm whose newest version is not the current one.
NOT_LAST_VERSION = 901
#: Characters of each message of the cluster.
_MESSAGE_MAX = 1000


class ApplyAnswer(NamedTuple):
    """The answer to an apply."""

    build_id: str | None
    messages: tuple[str, ...]
    codes: tuple[int, ...]


class Build(NamedTuple):
    """The state of a build."""

    id: str
    status: str
    progress: int
    image: str | None
    output: str  #: what the build has printed; of a long one, the beginning and the end
    errors: str  #: why it failed

    @property
    def has_ended(self) -> bool:
        """Whether it will not go on."""
        return self.status in BUILD_ENDS


class Version(NamedTuple):
    """One version of an algorithm."""

    id: str
    number: str  #: 1.0.0, counted by HKube
    image: str | None
    created_ms: int | None
    algorithm: Mapping[str, Any]


class AlgorithmStore:
    """The algorithms of one cluster."""

    def __init__(self, api: ClusterApi) -> None:
        self._api = api

    def connect(self) -> None:
        """Reach the cluster: its address and the login are right. Raises ClusterError."""
        self._api.connect()

    def all(self) -> list[dict[str, Any]]:
        """Return all algorithms."""
        return _objects(self._api.get("store/algorithms"), self._api)

    def find(self, name: str) -> dict[str, Any] | None:
        """Return the algorithm; None if there is none of this name."""
        try:
            return _object(self._api.get(f"store/algorithms/{_part(name)}"), self._api)
        except EntryNotFound:
            return None

    def get(self, name: str) -> dict[str, Any]:
        """Return the algorithm. Raises EntryNotFound."""
        found = self.find(name)
        if found is None:
            raise EntryNotFound(f"{self._api.cluster.name} has no algorithm {name}")
        return found

    def apply(
        self,
        payload: Mapping[str, Any],
        *,
        package: str | None = None,
        package_name: str = "",
        builds: bool = False,
        progress: Callable[[str], None] = show_nothing,
    ) -> ApplyAnswer:
        """Create or change the algorithm, with the package of its code; `progress` gets how much is sent.

        builds: the code is built even if it is the same. Otherwise a second request after a lost answer does
        no harm: the same code is not built twice.
        """
        values: dict[str, Any] = {"payload": payload}
        if builds:
            values["options"] = {"forceBuild": True}
        body = form_body(values, package, package_name, progress=progress)
        answer = self._api.call("POST", "store/algorithms/apply", body, may_repeat=not builds)
        content = _object(answer, self._api)
        build_id = content.get("buildId")
        return ApplyAnswer(
            build_id if isinstance(build_id, str) and build_id else None,
            tuple(
                printable(str(one), _MESSAGE_MAX) for one in _list(content.get("messages")) if one is not None
            ),
            tuple(one for one in _list(content.get("messagesCode")) if isinstance(one, int)),
        )

    def remove(self, name: str, *, force: bool, keeps_versions: bool) -> str:
        """Remove the algorithm, and return what the cluster says. Raises ClusterError if it is used."""
        query = f"force={_word(force)}&keepOldVersions={_word(keeps_versions)}"
        self.get(name)
        content = self._api.call("DELETE", f"store/algorithms/{quote(name)}?{query}")
        return str(content.get("message") if isinstance(content, dict) else content)

    # ---- builds

    def build(self, build_id: str) -> Build:
        """Return the state of the build."""
        answer = self._api.get(f"builds/status/{build_id}", is_outage=SERVER_OUTAGE)
        return _build(_object(answer, self._api))

    def last_build(self, name: str) -> Build | None:
        """Return the latest build of the algorithm, None if it had none."""
        found = _objects(self._api.get(f"builds/list/{_part(name)}", sort="desc", limit=1), self._api)
        return _build(found[0]) if found else None

    # ---- versions

    def versions(self, name: str) -> list[Version]:
        """Return the versions, the oldest first."""
        found = []
        for one in _objects(self._api.get(f"versions/algorithms/{_part(name)}"), self._api):
            algorithm = _mapping(one.get("algorithm"))
            created = number(one.get("created"))
            found.append(
                Version(
                    str(one.get("version")),
                    str(one.get("semver") or ""),
                    _word_of(algorithm.get("algorithmImage")),
                    None if created is None else int(created),
                    algorithm,
                )
            )
        return sorted(found, key=lambda one: one.created_ms or 0)

    def make_current(self, name: str, version: Version, *, force: bool) -> None:
        """Make the version the current one. Raises ClusterError while jobs run, unless forced."""
        value = {"name": name, "version": version.id, "force": force}
        try:
            self._api.post("versions/algorithms/apply", value, may_repeat=True)
        except RequestRefused as error:
            if error.status == 400 and not force:
                raise ClusterError(
                    f"{self._api.cluster.name} keeps the version of {name} while its jobs run: {error.text};"
                    " --force changes it nevertheless"
                ) from None
            raise


def _part(name: str) -> str:
    """Return the name, which is one part of a path. Raises EntryNotFound for one that is not."""
    if "/" in name or name in ("", ".", ".."):
        raise EntryNotFound(f"{name!r} is not the name of an algorithm")
    return name


def _build(content: Mapping[str, Any]) -> Build:
    result = _mapping(content.get("result"))
    errors = [result.get("errors"), content.get("error")]
    texts = dict.fromkeys(_text(one) for one in errors if one)
    return Build(
        str(content.get("buildId")),
        str(content.get("status")),
        int(number(content.get("progress")) or 0),
        _word_of(content.get("algorithmImage")),
        _text(result.get("data")),
        "\n".join(texts),
    )


def _text(value: Any) -> str:
    if isinstance(value, list):
        return "\n".join(map(str, value))
    return "" if value is None else str(value)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _word_of(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _word(flag: bool) -> str:
    return "true" if flag else "false"


def _object(answer: Any, api: ClusterApi) -> dict[str, Any]:
    if not isinstance(answer, dict):
        raise ClusterError(f"{api.cluster.name} answered with something else than an object; is this HKube?")
    return answer


def _objects(answer: Any, api: ClusterApi) -> list[dict[str, Any]]:
    if not isinstance(answer, list):
        raise ClusterError(f"{api.cluster.name} answered with something else than a list; is this HKube?")
    return [one for one in answer if isinstance(one, dict)]
