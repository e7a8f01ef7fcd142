"""What stands before a server: which pages may ask, TLS, keys, guesses; real servers in processes of their own."""

import json
import re
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gyral.http import Refused
from gyral.http.origins import Origins
from gyral.keys import Granted, new_key, write_keys

from .. import verbs
from .listening import EVENT, certificate


def grants(root):
    """Keys by what they may, in a project of them."""
    root.mkdir()
    secrets = {}
    granted = []
    for may in ("ask", "send", "see"):
        secrets[may], digest = new_key()
        granted.append(Granted(name=f"of-{may}", sha256=digest, may=may))
    write_keys(root / "keys.toml", granted)
    return secrets, granted


def test_a_page_of_another_site_can_neither_post_nor_read(running, tmp_path):
    settings = ("--set", 'listen.origins=["https://shop.example"]', "--set", 'listen.hosts=["gyral.example"]')
    server = running(tmp_path / "shop", "ingest", "--listen", "127.0.0.1:0", *settings)
    here, foreign = f"http://127.0.0.1:{server.port}", "https://evil.example"
    assert server.send() == 200 and server.send(Origin=here) == 200
    assert server.send(Origin=foreign) == 403 and server.send(Origin="null") == 403
    assert server.send(Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="no-cors") == 403
    assert server.send(Host="evil.example") == 403 and server.send(Host=f"localhost:{server.port}") == 200
    assert server.send(Host="gyral.example") == 200
    assert server.ask("GET", "/openapi.json", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="no-cors")[0] == 403
    link = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate"}
    assert server.ask("GET", "/docs", **link)[0] == server.ask("GET", "/docs", **link, Sec_Fetch_Dest="document")[0] == 200
    assert server.ask("GET", "/docs", **link, Sec_Fetch_Dest="iframe")[0] == 403
    assert server.send(Host="router") == 403, "a name of another machine, asked on this one"
    status, headers, _ = server.ask("POST", "/v1/events", json.dumps([EVENT]), Origin="https://shop.example")
    assert (status, headers["access-control-allow-origin"]) == (200, "https://shop.example")
    assert "retry-after" in headers["access-control-expose-headers"]
    asks = {"Origin": "https://shop.example", "Access_Control_Request_Method": "POST"}
    status, headers, _ = server.ask("OPTIONS", "/v1/events", **asks)
    assert status == 204 and "authorization" in headers["access-control-allow-headers"]
    assert server.ask("OPTIONS", "/v1/events", **{**asks, "Origin": foreign})[0] == 403


@given(st.binary(max_size=40), st.binary(max_size=40), st.sampled_from(["GET", "POST", "OPTIONS"]))
def test_no_bytes_of_a_browser_do_anything_but_pass_or_be_refused(host, origin, method):
    origins = Origins(["a.example"], ["https://b.example"])
    try:
        readable = origins.check(method, [(b"host", host), (b"origin", origin)])
    except Refused as refused:
        assert refused.status == 403
    else:
        assert readable.lower() == b"https://b.example" or origin.lower().endswith(b"://" + host.lower())


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:80", "[::1]:80", "10.0.0.7", "gyral", "x.localhost:9", "a.example."])
def test_names_that_nobody_else_can_own_are_taken(host):
    assert Origins(["a.example"]).check("POST", [(b"host", host.encode())]) == b""


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "127.0.0.1.evil.example",
        "a.example.evil.example",
        "evil.example:127",
        "[::1].evil.example",
        "a.example:b",
    ],
)
def test_names_that_somebody_else_may_own_are_not(host):
    with pytest.raises(Refused, match="not asked by that name"):
        Origins(["a.example"]).check("GET", [(b"host", host.encode())])


def test_what_listens_to_this_machine_has_no_names_of_other_machines():
    near = Origins(["127.0.0.1"], is_near=True)
    for host in (b"localhost:80", b"x.localhost", b"127.0.0.1:80", b"[::1]:80", b"10.0.0.7"):
        assert near.check("GET", [(b"host", host)]) == b""
    for host in (b"gyral", b"router:80", b"2130706433"):
        with pytest.raises(Refused, match="not asked by that name"):
            near.check("GET", [(b"host", host)])


@pytest.mark.parametrize("words", [("ingest", "--listen", "0.0.0.0:0"), ("dash", "--host", "0.0.0.0", "--port", "0")])
def test_nothing_listens_beyond_this_machine_without_keys_unless_it_is_said(running, tmp_path, words):
    refused = running(tmp_path / "shop", *words)
    assert refused.process.wait(20) == 2 and refused.told == b""
    refused.log.seek(0)
    assert b"without a key" in (said := refused.log.read()) and b"gyral keys add" in said
    opened = running(tmp_path / "shop", *words, "--set", "listen.open=true")
    assert opened.ask("GET", "/" if words[0] == "dash" else "/healthz")[0] == 200


def test_nobody_has_the_name_of_a_loops_own_key_which_is_no_reason_to_want_keys(running, tmp_path):
    own = f'collect.keys=[{{name="gyral.loop", sha256="{"0" * 64}"}}]'
    refused = running(tmp_path / "shop", "ingest", "--listen", "127.0.0.1:0", "--set", own)
    assert refused.process.wait(20) == 2 and refused.told == b""
    refused.log.seek(0)
    assert b"is the name of a loop's own key" in refused.log.read()


def test_pages_want_a_key_over_tls_and_the_cookie_ends_with_it(running, tmp_path):
    cert, key = certificate(tmp_path)
    secrets, granted = grants(tmp_path / "shop")
    options = ("--tls-cert", str(cert), "--tls-key", str(key), "--host", "0.0.0.0", "--port", "0")
    pages = running(tmp_path / "shop", "dash", *options, trusted=cert)
    status, _, body = pages.ask("GET", "/runs", Accept="text/html")
    assert status == 401 and 'type="password"' in body
    assert pages.ask("GET", "/runs.json")[0] == 401
    for may, expected in (("see", 200), ("ask", 403), ("send", 403)):
        assert pages.ask("GET", "/runs.json", Authorization=f"Bearer {secrets[may]}")[0] == expected
    assert "`of-send` may not see pages" in pages.ask("GET", "/runs.json", Authorization=f"Bearer {secrets['send']}")[2]
    status, _, body = pages.ask("POST", "/login", f"key={secrets['ask']}")
    assert status == 403 and "good for something else" in body
    assert pages.ask("POST", "/login", "key=nobodys")[0] == 401
    status, headers, _ = pages.ask("POST", "/login", f"key={secrets['see']}")
    cookie, _, attributes = headers["set-cookie"].partition(";")
    assert status == 303 and secrets["see"] not in headers["set-cookie"]
    assert {"HttpOnly", "SameSite=Strict", "Secure"} <= {each.strip() for each in attributes.split(";")}
    assert pages.ask("GET", "/runs", Cookie=f"a=b; {cookie}")[0] == 200
    later = re.sub(r"\.(\d+)\.", lambda found: f".{int(found[1]) + 1}.", cookie)
    for forged in (later, cookie[:-1], cookie.partition("=")[0] + "=..", cookie + "é"):
        assert pages.ask("GET", "/runs", Cookie=forged)[0] == 401
    write_keys(tmp_path / "shop" / "keys.toml", granted[:2])
    until = time.monotonic() + 10
    while pages.ask("GET", "/runs", Cookie=cookie)[0] != 401:
        assert time.monotonic() < until, "a revoked key is still good"
        time.sleep(0.2)


def test_a_certificate_that_is_none_is_told(running, tmp_path):
    (tmp_path / "bad.pem").write_text("nothing")
    refused = running(tmp_path / "shop", "dash", "--port", "0", "--tls-cert", str(tmp_path / "bad.pem"))
    assert refused.process.wait(20) == 2
    refused.log.seek(0)
    assert b"cannot be used for HTTPS" in refused.log.read()


@pytest.mark.alone  # counts guesses a second
def test_guesses_are_slowed_and_no_secret_is_written_anywhere(running, tmp_path):
    secrets, _ = grants(tmp_path / "shop")
    server = running(tmp_path / "shop", "ingest", "--listen", "127.0.0.1:0")
    good, bad = f"Bearer {secrets['send']}", "Bearer not-the-key-but-kept-secret"
    assert server.send() == 401 and server.send(Authorization=good) == 200
    statuses = [server.send(Authorization=bad) for _ in range(30)]
    assert statuses[:20] == [401] * 20 and statuses.count(429) >= 5
    assert server.send(Authorization=good) == 429, "a right guess is told apart from wrong ones"
    assert server.send() == 401, "who shows no key guesses none"
    time.sleep(1.2)
    assert server.send(Authorization=good) == 200
    answers = [server.ask("POST", "/v1/events", "[", Authorization=good), server.ask("GET", "/x", Authorization=good)]
    answers += [server.ask("GET", path, Authorization=f"Bearer {secrets['see']}") for path in ("/openapi.json", "/docs", "/")]
    server.stop()
    written = [path for path in Path(tmp_path).rglob("*") if path.is_file()]
    assert len(written) > 5, "nothing was written, so nothing was looked at"
    told = [server.told, str(answers).encode(), *(path.read_bytes() for path in written)]
    for secret in (*secrets.values(), bad.partition(" ")[2]):
        assert not any(secret.encode() in each for each in told)


def test_a_key_is_made_shown_once_listed_and_revoked(tmp_path):
    def keys(*words):
        command = [sys.executable, "-m", "gyral", "keys", *words, "--root", str(tmp_path), "--json"]
        return verbs.run(command, capture_output=True, text=True, timeout=60)

    secret = json.loads(keys("add", "phones", "--may", "send", "--rate", "5").stdout)["key"]
    file = tmp_path / "keys.toml"
    assert len(secret) > 40 and secret not in file.read_text() and file.stat().st_mode & 0o077 == 0
    assert keys("add", "gyral.loop", "--may", "see").returncode == 2, "a loop's own key closes no server"
    again = keys("add", "phones", "--may", "see")
    assert again.returncode == 2 and "there is a key `phones`" in again.stderr
    listed = json.loads(keys("list").stdout)["keys"]
    assert [(each["name"], each["may"], each["per_s"]) for each in listed] == [("phones", "send", 5)]
    assert keys("revoke", "phone").returncode == 1 and keys("revoke", "phones").returncode == 0
    assert json.loads(keys("list").stdout)["keys"] == []
