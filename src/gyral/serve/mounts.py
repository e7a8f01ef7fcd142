"""Applications by path prefix, the longest first."""

from __future__ import annotations

from collections.abc import Mapping

from gyral.http import AsgiApp, Refused


class Mounts:
    """What answers the paths that a server has no route of its own for.

    Parameters
    ----------
    apps : path prefix → ASGI application, which sees the whole path.
    """

    def __init__(self, apps: Mapping[str, AsgiApp]) -> None:
        self._apps = sorted(((prefix.rstrip("/"), app) for prefix, app in apps.items()), key=lambda pair: -len(pair[0]))

    def find(self, path: str, routes: str) -> AsgiApp:
        """The application of a path.

        Parameters
        ----------
        routes : what there is, for whoever asks for something else.

        Raises
        ------
        Refused : 404.
        """
        is_asked = path.startswith("/v1/")  # a program's, which gets no page
        for prefix, app in self._apps:
            if (path == prefix or path.startswith(prefix + "/")) and (prefix or not is_asked):
                return app
        raise Refused(404, f"there is nothing at `{path[:200]}`", hint=routes)
