"""The application of the pages, at the name a caller looks for: `gyral.dash.app.app`."""

from gyral.dash.pages import app

__all__ = ["app"]
