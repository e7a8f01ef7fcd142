import os
import time

import pytest

from gyral.config.sections import Caller
from gyral.errors import ConfigError
from gyral.http import Refused
from gyral.keys import Granted, new_key, write_keys
from gyral.serve.scheduling.quota import Quotas


def caller(name, **limits):
    secret, digest = new_key()
    return b"Bearer " + secret.encode(), Caller(name=name, sha256=digest, **limits)


def allowed(account, now):
    try:
        account.begin(now)
    except Refused as refused:
        assert refused.status == 429 and int(dict(refused.headers)[b"retry-after"]) >= 1
        return False
    return True


def test_without_keys_everybody_may_ask():
    account = Quotas([], 0.0).find(b"", 0.0)
    for _ in range(1000):
        account.begin(0.0)


def test_a_key_that_nobody_has_gets_401():
    key, told = caller("a")
    quotas = Quotas([told], 0.0)
    assert quotas.find(key, 0.0).caller.name == "a"
    for wrong in (b"", b"Bearer", b"Bearer " + told.sha256.encode(), key[:-1], b"Basic" + key[6:], b"\xff" * 100):
        with pytest.raises(Refused) as refused:
            quotas.find(wrong, 0.0)
        assert refused.value.status == 401


def test_in_the_long_run_a_key_gets_its_rate_and_a_burst_at_most():
    key, told = caller("a", requests_per_s=10, burst_s=2)
    account = Quotas([told], 0.0).find(key, 0.0)
    got = sum(allowed(account, tick / 1000) for tick in range(60_000))
    assert 10 * 60 <= got <= 10 * 60 + 20 + 1
    assert sum(allowed(account, 1e6) for _ in range(100)) in (20, 21)


def test_a_clock_that_goes_back_gives_nothing():
    key, told = caller("a", requests_per_s=5)
    account = Quotas([told], 100.0).find(key, 100.0)
    got = sum(allowed(account, now) for _ in range(50) for now in (100.0, 50.0, -1e9))
    assert got in (5, 6)


def test_tokens_may_be_overdrawn_once_and_are_waited_for():
    key, told = caller("a", tokens_per_s=100)
    account = Quotas([told], 0.0).find(key, 0.0)
    account.begin(0.0)
    account.spend(tokens=1000)
    with pytest.raises(Refused) as refused:
        account.begin(0.0)
    assert dict(refused.value.headers)[b"retry-after"] == b"10" and "tokens" in refused.value.what
    assert not allowed(account, 8.9) and allowed(account, 9.1)


def test_requests_under_way_are_counted_and_given_back():
    key, told = caller("a", at_once=2)
    account = Quotas([told], 0.0).find(key, 0.0)
    account.begin(0.0)
    account.begin(0.0)
    assert not allowed(account, 0.0)
    account.end()
    assert allowed(account, 0.0)
    assert account.under_way == 2


def test_a_file_of_keys_is_followed_and_a_broken_one_changes_nothing(tmp_path):
    first, told = caller("a", requests_per_s=1)
    second, other = caller("b")
    path = tmp_path / "keys.toml"
    notes = []

    def write(text):
        path.write_text(text)
        stamp = path.stat().st_mtime_ns + 10_000_000
        os.utime(path, ns=(stamp, stamp))

    lines = '[[keys]]\nname = "{}"\nsha256 = "{}"\n{}\n'
    write(lines.format("a", told.sha256, "requests_per_s = 1.0"))
    quotas = Quotas([], 0.0, file=str(path), note=notes.append)
    assert allowed(quotas.find(first, 0.1), 0.1)
    write(lines.format("a", told.sha256, "requests_per_s = 1.0") + lines.format("b", other.sha256, ""))
    assert quotas.find(second, 2.0).caller.name == "b"
    assert quotas.find(first, 2.0).under_way == 1, "an account that is unchanged is kept"
    write("[[keys]\n")
    assert quotas.find(second, 4.0).caller.name == "b" and len(notes) == 1
    write(lines.format("a", told.sha256, ""))
    with pytest.raises(Refused):
        quotas.find(second, 6.0)
    path.unlink()
    assert quotas.find(first, 8.0).caller.name == "a"


def test_two_callers_of_one_name_are_an_error_and_a_file_that_is_not_there_is_waited_for(tmp_path):
    _, told = caller("a")
    with pytest.raises(ConfigError, match="cannot be used"):
        Quotas([told, told], 0.0)
    path, (key, granted) = tmp_path / "keys.toml", caller("b", models=["shop", "other@2"])
    now = time.monotonic()
    quotas, others = Quotas([], now, file=str(path)), Quotas([], now, file=str(tmp_path / "others.toml"))
    quotas.find(b"", now + 2).begin(now + 2)
    others.find(b"", now + 2)
    (tmp_path / "others.toml").write_text("[[keys]")
    with pytest.raises(Refused, match="wants a key"):  # one that comes broken lets nobody in
        others.find(b"", now + 4)
    others = Quotas([], now, file=str(tmp_path / "third.toml"))
    others.find(b"", now + 2)
    write_keys(tmp_path / "third.toml", [Granted(name="c", sha256="1" * 64, may="see")])
    with pytest.raises(Refused, match="wants a key"):  # whatever the first key is good for
        others.find(b"", now + 4)
    write_keys(path, [Granted(name="b", sha256=granted.sha256, models=granted.models)])
    with pytest.raises(Refused, match="wants a key"):
        quotas.find(b"", now + 4)
    account = quotas.find(key, now + 4)
    assert account.of({"default": "shop@3", "x": "other@1", "y": "other@2", "z": "shop-int8@1"}) == {
        "default": "shop@3", "y": "other@2",
    }  # fmt: skip
    with pytest.raises(Refused, match="`b` may not ask `other@1`") as refused:
        account.check("other@1")
    assert refused.value.status == 403 and "`shop`, `other@2`" in refused.value.hint
    path.unlink()
    with pytest.raises(Refused, match="wants a key"):
        quotas.find(b"", now + 6)
