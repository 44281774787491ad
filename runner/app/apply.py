"""Sends an algorithm to a cluster: packs its code, uploads it, follows the build until it is a version.

HKube does not report that it has not stored a change, that no build was needed, or that jobs do not use the
new version. Each of these is found by a comparison, and reported.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ...sandbox.shared.limits import format_bytes
from ..cluster.algorithm_payload import changes, not_stored
from ..cluster.algorithm_store import (
    NO_BUILD,
    NOT_LAST_VERSION,
    AlgorithmStore,
    ApplyAnswer,
    Build,
    Version,
)
from ..cluster.byte_progress import show_nothing
from ..errors import ClusterError
from .apply_package import ApplyContent, ApplyRequest
from .local_peaks import LocalPeak

#: Seconds between two requests for the state of a build, or for versions.
POLL_S = 1.0
#: Seconds after which a build that has not started is reported.
PENDING_S = 30.0
#: Longest wait for the version that the api-server makes of an image that was built.
VERSION_S = 60.0
#: Longest wait for the new version to become the current one, where it does so by itself.
CURRENT_S = 5.0


class ApplyOutcome(NamedTuple):
    """What an apply has changed, or would change, and the build and version that it has led to."""

    name: str
    changes: list[str]
    build: Build | None = None
    version: Version | None = None
    is_current: bool = False

    def facts(self) -> dict[str, Any]:
        """Return the fields of --json."""
        build, version = self.build, self.version
        return {
            "algorithm": self.name,
            "changes": self.changes,
            "build": None if build is None else {"id": build.id, "status": build.status},
            "image": version.image if version else None if build is None else build.image,
            "version": None if version is None else {"id": version.id, "semver": version.number},
            "isCurrent": self.is_current,
        }


class Applier:
    """Applies one algorithm, and reports each step."""

    def __init__(
        self,
        store: AlgorithmStore,
        cluster: str,
        request: ApplyRequest,
        *,
        tell: Callable[[str], None],
        show_log: Callable[[str], None],
        progress: Callable[[str], None] = show_nothing,
        peak: LocalPeak | None = None,
        sleep: Callable[[float], object] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`tell` gets each report, `show_log` each line that the build prints, `progress` how much was sent.

        peak: the most memory that a task of the algorithm used on this machine.
        """
        self._peak = peak
        self._store = store
        self._cluster = cluster
        self._request = request
        self._tell = tell
        self._show_log = show_log
        self._progress = progress
        self._sleep = sleep
        self._clock = clock

    def preview(self, prepared: ApplyContent) -> ApplyOutcome:
        """Return what an apply would change."""
        self._tell_package(prepared)
        stored = self._store.find(prepared.name)
        self._tell_limit(stored, prepared.payload)
        return ApplyOutcome(prepared.name, changes(stored, prepared.payload))

    def apply(self, prepared: ApplyContent) -> ApplyOutcome:
        """Apply the algorithm; return once the cluster has its version, or earlier with `no_wait`.

        Raises ClusterError for a build that failed, and for a change that the cluster has not stored.
        """
        name, payload, package = prepared
        stored = self._store.find(name)
        outcome = ApplyOutcome(name, changes(stored, payload))
        self._tell_package(prepared)
        self._tell_changes(name, stored, outcome.changes)
        self._tell_limit(stored, payload)
        known = {one.id for one in self._store.versions(name)} if stored is not None else set()
        applied = self._store.apply(
            payload,
            package=None if package is None else package.path,
            package_name="" if package is None else package.name,
            builds=self._request.force_build,
            progress=self._progress,
        )
        for message in applied.messages:
            self._tell(f"{self._cluster}: {message}")
        if applied.build_id is not None:
            build = self._store.build(applied.build_id)
            if self._request.no_wait:
                return outcome._replace(build=build)
            return self._built(outcome, build)
        earlier = self._store.last_build(name)
        if earlier is not None and not earlier.has_ended:
            return self._after_earlier(outcome, prepared, earlier)
        return self._without_build(outcome, prepared, applied, known, earlier)

    # ---- reports

    def _tell_package(self, prepared: ApplyContent) -> None:
        package = prepared.package
        if package is None:
            image = prepared.payload.get("algorithmImage")
            self._tell(
                f"{prepared.name} → {self._cluster}: {f'the image {image}' if image else 'a Git repository'}"
            )
            return
        self._tell(f"{prepared.name} → {self._cluster}: {format_bytes(package.size)} to upload")
        for line in package.lines():
            self._tell(line)

    def _tell_changes(self, name: str, stored: Mapping[str, Any] | None, found: list[str]) -> None:
        if stored is None:
            self._tell(f"{name} is new in {self._cluster}")
        for line in found if stored is not None else ():
            self._tell(f"changes {line}")

    def _tell_limit(self, stored: Mapping[str, Any] | None, payload: Mapping[str, Any]) -> None:
        """Say that the limit, the one sent or the stored one, is too small for a task that ran here."""
        sent = payload.get("mem") or (None if stored is None else stored.get("mem"))
        sentence = None if self._peak is None else self._peak.exceeds(sent)
        if sentence is not None:
            self._tell(sentence)

    # ---- without a build

    def _after_earlier(self, outcome: ApplyOutcome, prepared: ApplyContent, build: Build) -> ApplyOutcome:
        """Wait for the build of an earlier apply, then apply again what was not stored during it."""
        name = prepared.name
        lost = not_stored(self._store.get(name), prepared.payload)
        if lost:
            self._tell(
                f"{self._cluster} has not stored {', '.join(lost)}: it stores no change during a first build"
            )
        self._tell(f"an earlier build has not ended: {build.id}")
        if self._request.no_wait:
            if lost:
                raise ClusterError(f"{', '.join(lost)} of {name} is not stored: apply again after the build")
            return outcome._replace(build=build)
        done = self._built(outcome, build)
        return self.apply(prepared) if lost else done

    def _without_build(
        self,
        outcome: ApplyOutcome,
        prepared: ApplyContent,
        applied: ApplyAnswer,
        known: set[str],
        earlier: Build | None,
    ) -> ApplyOutcome:
        name = prepared.name
        new = [one for one in self._store.versions(name) if one.id not in known]
        if new:
            return self._current(outcome._replace(version=new[-1]), new[-1])
        stored = self._store.get(name)
        lost = not_stored(stored, prepared.payload)
        if lost:
            raise ClusterError(
                f"{self._cluster} has not stored {', '.join(lost)} of {name}, and does not say why"
            )
        if prepared.package is not None and NO_BUILD in applied.codes:
            if earlier is not None and earlier.status != "completed":
                raise ClusterError(
                    f"the code is that of the build {earlier.id}, which {_ENDED[earlier.status]}; HKube"
                    " builds it again only with --force-build"
                )
            self._tell("the code is the same as that of the last build")
        version = next((one for one in self._store.versions(name) if one.id == stored.get("version")), None)
        return outcome._replace(version=version, is_current=version is not None)

    # ---- a build

    def _built(self, outcome: ApplyOutcome, build: Build) -> ApplyOutcome:
        """Return the outcome when the build has become a version. Raises ClusterError if it failed."""
        try:
            build = self._follow(build)
        except (KeyboardInterrupt, SystemExit):
            self._tell(f"the build {build.id} goes on in {self._cluster}; apply again to follow it")
            raise
        if build.status != "completed":
            reason = f": {_last_line(build.errors)}" if build.errors else ""
            raise ClusterError(f"the build {build.id} of {outcome.name} {_ENDED[build.status]}{reason}")
        version = self._version_of(outcome.name, build)
        return self._current(outcome._replace(build=build, version=version), version)

    def _follow(self, build: Build) -> Build:
        """Return the build when it has ended; meanwhile its output is shown."""
        self._tell(f"build {build.id}")
        began, shown, status = self._clock(), "", ""
        is_warned = False
        while True:
            for line in new_lines(shown, build.output):
                self._show_log(line)
            shown = build.output or shown
            if build.status != status:
                status = build.status
                self._tell(f"build {build.status} ({build.progress} %)")
            if build.has_ended:
                return build
            if status == "pending" and not is_warned and self._clock() - began > PENDING_S:
                is_warned = True
                self._tell(
                    "the build has not started: HKube's algorithm-operator, which starts builds, may be busy"
                    " or down"
                )
            self._sleep(POLL_S)
            build = self._store.build(build.id)

    def _version_of(self, name: str, build: Build) -> Version:
        """Return the version that the cluster makes of the build: only the image tells which it is."""
        until = self._clock() + VERSION_S
        while True:
            found = [one for one in self._store.versions(name) if one.image == build.image]
            if found:
                return found[-1]
            if self._clock() > until:
                raise ClusterError(
                    f"the build {build.id} is completed, but {self._cluster} has made no version of"
                    f" {build.image}"
                )
            self._sleep(POLL_S)

    def _current(self, outcome: ApplyOutcome, version: Version) -> ApplyOutcome:
        """Make the version current if that was asked for, and say whether it is."""
        name = outcome.name
        is_current = self._is_current(name, version)
        if not is_current and self._request.current:
            self._store.make_current(name, version, force=self._request.force)
            is_current = True
        if is_current:
            self._tell(f"{name} {version.number} is the current version")
        else:
            self._tell(
                f"{name} {version.number} is a new version, and jobs go on with the current one: apply with"
                f" --current, or `hkrunner algorithm versions {name} --use {version.number}`"
            )
        return outcome._replace(version=version, is_current=is_current)

    def _is_current(self, name: str, version: Version) -> bool:
        """Whether the version is current, or becomes it in the next seconds."""
        until = self._clock() + CURRENT_S
        while True:
            stored = self._store.get(name)
            if stored.get("version") == version.id:
                return True
            errors = stored.get("errors")
            is_behind = isinstance(errors, list) and NOT_LAST_VERSION in errors
            if is_behind or self._clock() > until:
                return False
            self._sleep(POLL_S)


_ENDED = {"failed": "has failed", "stopped": "was stopped"}


def new_lines(shown: str, output: str) -> list[str]:
    """Return the lines of the output after those shown. The cluster cuts out the middle of a long output."""
    before, after = shown.splitlines(), output.splitlines()
    if after[: len(before)] == before:
        return after[len(before) :]
    # The last lines shown are searched from the end. They are missing if more was printed than is kept.
    tail = before[-3:]
    for end in range(len(after), len(tail) - 1, -1):
        if after[end - len(tail) : end] == tail:
            return after[end:]
    return ["…", *after]


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else text
