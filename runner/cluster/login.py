"""The token of a cluster with Keycloak: got with a name and a password, and renewed before it expires."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from ..errors import ClusterError
from ..settings.cluster_options import PASSWORD_VARIABLE, USERNAME_VARIABLE
from .address import Cluster, can_be_token
from .job_answers import number

#: Renew this long before the token expires, or after half of its time if that is sooner.
MARGIN_S = 10.0


class Login:
    """The token that requests carry, if the cluster wants one: that is known once it answers 401."""

    def __init__(self, cluster: Cluster, clock: Callable[[], float] = time.monotonic) -> None:
        self._cluster = cluster
        self._clock = clock
        self._token = cluster.token
        self.was_accepted = False  #: whether the cluster has accepted the name and the password
        self._renew_at: float | None = None

    @property
    def header(self) -> dict[str, str]:
        """The header of a request."""
        return {} if self._token is None else {"Authorization": f"Bearer {self._token}"}

    @property
    def is_due(self) -> bool:
        """Whether the token has to be renewed before the next request."""
        return self._renew_at is not None and self._clock() >= self._renew_at

    def credentials(self) -> dict[str, str]:
        """Return the body of a login. Raises ClusterError if there is no name or no password."""
        cluster = self._cluster
        if cluster.token is not None:
            raise ClusterError(
                f"{cluster.name} does not accept the token: it is wrong, has expired or lacks a role (HTTP"
                " 401)"
            )
        if not cluster.username or not cluster.password:
            raise ClusterError(
                f"{cluster.name} wants a login: set {USERNAME_VARIABLE} and {PASSWORD_VARIABLE}, or username"
                " and passwordFile in clusters.yml"
            )
        return {"username": cluster.username, "password": cluster.password}

    def accept(self, answer: Any) -> None:
        """Use the token of the answer to a login. Raises ClusterError if it has none."""
        data = answer.get("data") if isinstance(answer, dict) else None
        token = data.get("access_token") if isinstance(data, dict) else None
        if not isinstance(token, str) or not token or not can_be_token(token):
            raise ClusterError(f"{self._cluster.name} answered the login without a token")
        self._token = token
        self.was_accepted = True
        lifetime_s = number(data.get("expires_in")) if isinstance(data, dict) else None
        self._renew_at = None
        if lifetime_s is not None and lifetime_s > 0:
            self._renew_at = self._clock() + max(lifetime_s - MARGIN_S, lifetime_s / 2)
