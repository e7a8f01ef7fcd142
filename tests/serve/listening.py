"""Servers and collectors in processes of their own, and a certificate for them."""

import datetime
import http.client
import ipaddress
import json
import signal
import ssl
import subprocess
import sys

import pytest

from .. import verbs

EVENT = {"event_id": "e-1", "event_time": "2026-01-05T10:00:00Z", "kind": "view", "subject": "u1", "object": "p1"}


def certificate(folder):
    """A certificate of 127.0.0.1 that signs itself."""
    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "gyral")])
    now = datetime.datetime.now(datetime.UTC)
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    begun = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    made = begun.not_valid_before(now - datetime.timedelta(1)).not_valid_after(now + datetime.timedelta(1))
    signed = made.add_extension(names, False).sign(key, hashes.SHA256())
    (folder / "cert.pem").write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "key.pem").write_bytes(key.private_bytes(*form))
    return folder / "cert.pem", folder / "key.pem"


class Running:
    """One command that listens."""

    def __init__(self, root, *words, trusted=None):
        root.mkdir(exist_ok=True)
        self.root, self.log = root, open(root.parent / f"{root.name}-{words[0]}.log", "w+b")  # noqa: SIM115
        command = [sys.executable, "-m", "gyral", *words, "--root", str(root), "--json"]
        self.process = verbs.popen(command, stdout=subprocess.PIPE, stderr=self.log)
        self.told = self.process.stdout.readline()
        self.port = int(json.loads(self.told)["url"].rpartition(":")[2]) if self.told else 0
        self.tls = ssl.create_default_context(cafile=trusted) if trusted else None

    def ask(self, method, path, body=None, **headers):
        """Status, headers and text of an answer."""
        make = http.client.HTTPSConnection if self.tls else http.client.HTTPConnection
        connection = make("127.0.0.1", self.port, timeout=20, **({"context": self.tls} if self.tls else {}))
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, named)
        answer = connection.getresponse()
        try:
            return answer.status, dict(answer.getheaders()), answer.read().decode()
        finally:
            connection.close()

    def send(self, **headers):
        return self.ask("POST", "/v1/events", json.dumps([EVENT]), **headers)[0]

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(20)
        self.told += self.process.stdout.read()
        self.process.stdout.close()
        self.log.close()
