"""What stands before everything that a server is asked: TLS, which web pages may ask, and a key to see pages."""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from gyral.config.sections import Listen
from gyral.errors import ConfigError
from gyral.http import AsgiApp
from gyral.http.origins import Origins
from gyral.keys import FILE_NAME, KeysFile
from gyral.serve.login import Login


class Entrance(NamedTuple):
    """The way into one server.

    Attributes
    ----------
    login : asks for a key as soon as pages want one.
    """

    tls: ssl.SSLContext | None = None
    origins: Origins | None = None
    login: Login | None = None

    @classmethod
    def of(cls, root: Path, listen: Listen, host: str, note: Callable[[str], None], *, is_child: bool = False) -> Entrance:
        """As the settings and the project's keys have it.

        Parameters
        ----------
        host : that is listened on; it may be asked by that name.
        is_child : of a loop, which asks it on 127.0.0.1 and has no certificate.

        Raises
        ------
        ConfigError : the certificate or the keys cannot be read.
        """
        origins = Origins([*listen.hosts, host], listen.origins, is_near=is_of_this_machine(host))
        tls = None if is_child else tls_of(listen)
        return cls(tls, origins, Login(KeysFile(root / FILE_NAME, "see", note), is_secure=tls is not None))

    @property
    def wants_keys(self) -> bool:
        """Whether pages are seen with a key only."""
        return self.login is not None and self.login.is_wanted

    def before(self, app: AsgiApp) -> AsgiApp:
        """An application behind it."""
        return app if self.login is None else self.login.before(app)


def tls_of(listen: Listen) -> ssl.SSLContext | None:
    """TLS 1.2 or later with the certificate that is set; None: there is none.

    Raises
    ------
    ConfigError : it cannot be used.
    """
    if not listen.tls_cert:
        if listen.tls_key:
            raise ConfigError("a key without its certificate", where="listen.tls_key", hint="set `listen.tls_cert`")
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(listen.tls_cert, listen.tls_key or None, password=lambda: "")  # or OpenSSL asks the terminal
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        hint = "PEM files of a certificate and its key, which has no password"
        raise ConfigError(
            f"`{listen.tls_cert}` cannot be used for HTTPS", why=why, where="listen.tls_cert", hint=hint
        ) from None
    return context


def is_of_this_machine(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
