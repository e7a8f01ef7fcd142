"""The application where workers answer: who asks, until when, what was answered before; then the gateway, and the log.

It loads no model. How a model is asked it learns from the workers, whose answers are passed on as they are, with the request's
number before them. `POST` routes are fast handlers that give the server a future, not a task: the way from a request to the
gateway and back is callbacks.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple
from urllib.parse import parse_qs

import msgspec

from gyral.config.sections import Serve
from gyral.errors import GyralError, ServeError
from gyral.event.clock import now_us
from gyral.http import AsgiApp, Receive, Refused, Scope, Send, allow, read_body, reply, routed
from gyral.serve.cache import Cache
from gyral.serve.engine import Ask, Part
from gyral.serve.feedback import Impressions, Logged, RequestIds
from gyral.serve.following import CANARY, SLOT, Following
from gyral.serve.gateway import Gateway, Wanted
from gyral.serve.guard import GONE, Guard
from gyral.serve.http1.answer import Response
from gyral.serve.http1.request import Request
from gyral.serve.http1.request import Route as Hot
from gyral.serve.job import in_set
from gyral.serve.metrics import Gauge, Metrics
from gyral.serve.mounts import Mounts
from gyral.serve.pool import Pool
from gyral.serve.scheduling.canary import Arm
from gyral.serve.scheduling.quota import Account
from gyral.serve.slots import DEFAULT, POLL_S
from gyral.serve.trial import Trial
from gyral.serve.wire import MODEL, POPULARITY

ASK_S = 60.0
FIRST_OWN_ID = 1 << 60
"""Of asks that are not clients'."""
Headers = Callable[[bytes], bytes]


class _Named(msgspec.Struct):
    """What a gateway reads of a body: the slot, and whose request it is."""

    model: str | None = None
    subject: str | None = None


class _Client(NamedTuple):
    """Somebody who waits for an answer."""

    answer: asyncio.Future[Response]
    account: Account
    path: str
    slot: str
    began: float
    subject: str
    arm: Arm | None
    parent: bytes


class _Asked:
    """What the workers were asked, and who waits for it: more than one where an answer is told again."""

    __slots__ = ("clients", "id")

    def __init__(self) -> None:
        self.id = 0
        self.clients: list[_Client] = []


class Front:
    """The application of one server with workers.

    Parameters
    ----------
    pool : ready, and made with `on_room` of the gateway.
    mounts : path prefix → ASGI application for all other paths.
    note : told of versions that answer, and of those that cannot.
    """

    def __init__(
        self, pool: Pool, gateway: Gateway, following: Following, config: Serve, impressions: Impressions | None = None,
        mounts: Mapping[str, AsgiApp] | None = None, note: Callable[[str], None] = print,
    ) -> None:  # fmt: skip
        self._pool, self._gateway, self._following, self._config, self._note = pool, gateway, following, config, note
        self._impressions = impressions
        self.metrics = Metrics(self._gauges)
        self._mounts = Mounts({**(mounts or {}), "/metrics": self.metrics})
        self._guard = Guard(config, self.metrics, note)
        self._cache = Cache(config.cache_bytes)
        self._asking: dict[bytes, _Asked] = {}
        self._ids, self._own = RequestIds(), FIRST_OWN_ID
        self._decoder, self._encoder = msgspec.json.Decoder(_Named), msgspec.json.Encoder()
        self._loop = asyncio.get_running_loop()
        self.routes: dict[str, bool] = {}
        self._told: dict[str, dict[str, Any]] = {}
        self._models: dict[str, str] = {}
        self._since = time.time()
        self.trial: Trial | None = None
        if config.canary:
            models = in_set(pool.versions.current)
            old, new = next(iter(models.values())), models[f"{SLOT}{CANARY}"]
            self.trial = Trial(old, new, config.canary_share, config.shadow_share, note)

    async def learn(self) -> None:
        """Ask the workers what they answer with, and how that is asked; once they are ready, and after each swap."""
        models = in_set(self._pool.versions.current)
        told = {}
        for name in models:
            self._own += 1
            part = await self._pool.answer(Ask(self._own, MODEL, b"{}", ASK_S, variant=name))
            if part.status != 200:
                raise ServeError("the workers do not say what they answer with", why=part.body.decode("utf-8", "replace")[:500])
            told[name] = msgspec.json.decode(part.body)
        self._told, self._models, self._since = told, models, time.time()
        self.routes = {path: is_pure for path, (_, is_pure) in next(iter(told.values()))["routes"].items() if path != MODEL}

    async def follow(self) -> None:
        """Have the newest versions answer, for ever."""
        while True:
            await asyncio.sleep(POLL_S)
            try:
                for version in await asyncio.to_thread(self._following.sets, self._pool.versions.current):
                    try:
                        await self._pool.swap(version)
                    except GyralError as error:
                        self._following.refuse(version, error)
                        continue
                    await self.learn()
                    self._gateway.use(await asyncio.to_thread(self._following.slots, version))
                    break
            except Exception as error:  # the folder cannot be listed just now: what is loaded goes on answering
                self._note(f"serve    versions cannot be followed: {error}")
                await asyncio.sleep(1)

    def hot(self) -> dict[str, Hot]:
        """The fast handlers, by path; the application answers these paths as well."""

        def handler(path: str) -> Callable[[Request], Response | asyncio.Future[Response]]:
            return lambda request: self.begin(path, request.header, request.body)

        return {path: Hot(handler(path), ("POST",), self._config.max_body_bytes) for path in self.routes}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await routed(self._route, scope, receive, send)

    async def _route(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        if path in self.routes:
            allow(scope, "POST")
            headers = dict(scope["headers"])
            body = await read_body(scope, receive, self._config.max_body_bytes)
            begun = self.begin(path, lambda name: headers.get(name, b""), body)
            told = begun if isinstance(begun, Response) else await begun
            await reply(send, told.status, told.body, *told.headers)
        elif path == MODEL:
            allow(scope, "GET")
            self._guard.check(dict(scope["headers"]).get(b"authorization", b""))
            await reply(send, 200, self._encoder.encode(self._describe(scope)))
        else:
            routes = ", ".join(f"POST {each}" for each in self.routes)
            await self._mounts.find(path, f"{routes}, GET {MODEL}, GET /metrics, GET /healthz")(scope, receive, send)

    def begin(self, path: str, header: Headers, body: bytes) -> Response | asyncio.Future[Response]:
        """An answer that is there, or will be.

        Raises
        ------
        Refused : the request is not answered.
        """
        began = time.monotonic()
        account = self._guard.begin(path, header(b"authorization"), len(body), began)
        try:
            return self._begin(path, header, body, account, began)
        except BaseException as error:
            status = error.status if isinstance(error, Refused) else 500
            self._guard.end(account, path, status, began, header(b"traceparent"))
            raise

    def _begin(
        self, path: str, header: Headers, body: bytes, account: Account, began: float
    ) -> Response | asyncio.Future[Response]:
        try:
            named = self._decoder.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise Refused(400, "the body is not a request", why=str(error), hint=f"send {self._example(path)}") from None
        slot, subject = named.model or DEFAULT, named.subject or ""
        arm = self.trial.arm(subject) if self.trial is not None and slot == DEFAULT else None
        if arm is not None and arm.version == self.trial.canary.new:  # type: ignore[union-attr]
            slot = CANARY
        lane = DEFAULT if slot == POPULARITY else slot
        if lane != DEFAULT and f"{SLOT}{lane}" not in self._models:
            listed = ", ".join(f"`{name}`" for name in self._slots())
            raise Refused(404, f"there is no model `{slot[:200]}` here", hint=f"leave `model` out, or use one of {listed}")
        tier = self._guard.tier(header)
        default_s = tier.deadline_s(self._config.deadline_ms / 1e3)
        until = began + _number(header(b"x-deadline-ms"), 1e3 * default_s, "x-deadline-ms") / 1e3
        floor = _number(header(b"x-min-quality"), tier.floor(), "x-min-quality")
        caller = account.caller
        client = _Client(self._loop.create_future(), account, path, slot, began, subject, arm, header(b"traceparent"))
        key = b""
        if self._config.cache_bytes and self.routes.get(path):
            key = self._cache.key(path, f"{self._pool.versions.current} {slot} {floor}", body)
            kept = self._cache.get(key)
            if kept is not None:
                told, props = msgspec.msgpack.decode(kept)
                return self._answer(client, Part(0, 200, told, True, props))
            asked = self._asking.get(key)
            if asked is not None:
                return self._wait(asked, client, key)
        asked = _Asked()
        wanted = Wanted(path, body, lane, until, caller.name, caller.priority, caller.weight, floor)
        asked.id = self._gateway.ask(wanted, lambda part: self._heard(asked, key, part))
        if key:
            self._asking[key] = asked
        if arm is not None and arm.shadow:
            self._shadow(wanted, client)
        return self._wait(asked, client, key)

    def _shadow(self, wanted: Wanted, client: _Client) -> None:
        """Ask the model on trial as well; both answers are compared when both are there."""
        parts: dict[str, Part] = {}

        def heard(which: str, part: Part) -> None:
            parts[which] = part
            if len(parts) == 2 and self.trial is not None:
                self.trial.shadowed(parts["old"], parts["new"])

        def told(answer: asyncio.Future[Response]) -> None:
            if not answer.cancelled():
                heard("old", Part(0, answer.result().status, b""))

        with contextlib.suppress(Refused):  # nobody waits for it: where there is no room, it is not asked
            self._gateway.ask(wanted._replace(slot=CANARY, priority=2, weight=0.01), lambda part: heard("new", part))
            client.answer.add_done_callback(told)

    def _wait(self, asked: _Asked, client: _Client, key: bytes) -> asyncio.Future[Response]:
        asked.clients.append(client)

        def gone(answer: asyncio.Future[Response]) -> None:
            if not answer.cancelled():
                return
            self._guard.end(client.account, client.path, GONE, client.began, client.parent)
            asked.clients.remove(client)
            if not asked.clients:
                self._asking.pop(key, None)
                self._gateway.cancel(asked.id)

        client.answer.add_done_callback(gone)
        return client.answer

    def _heard(self, asked: _Asked, key: bytes, part: Part) -> None:
        if key:
            self._asking.pop(key, None)
            if part.status == 200:
                self._cache.put(key, msgspec.msgpack.encode((part.body, part.props)))
        for client in asked.clients:
            if not client.answer.done():
                client.answer.set_result(self._answer(client, part))

    def _answer(self, client: _Client, part: Part) -> Response:
        """One client's answer: logged, counted, with a number of its own."""
        model = str(part.props.get("model", ""))
        self._guard.end(client.account, client.path, part.status, client.began, client.parent, model)
        request_id = self._ids.next()
        if self.trial is not None and client.arm is not None:
            self.trial.answered(request_id, client.subject, part)
        if part.status != 200:
            headers = ((b"retry-after", b"1"),) if part.status == 503 else ()
            return Response(_located(part.body, client.path), part.status, headers)
        props = part.props
        if self._impressions is not None:
            kind, subject, shown = props.get("kind", "answer"), props.get("subject"), props.get("object")
            kept = {name: value for name, value in props.items() if name not in _NOT_KEPT}
            kept["slot"] = client.slot
            if client.arm is not None:
                kept["propensity"] = client.arm.propensity
            self._impressions.add(Logged(request_id, now_us(), kind, subject, shown, props.get("country"), kept))
        version = model.rpartition("@")[2].encode()
        body = b'{"request_id":"%b",%b' % (request_id.encode(), part.body[1:])
        more = ((b"x-gyral-cascade", props["cascade"].encode()),) if "cascade" in props else ()
        return Response(body, headers=((b"x-model-version", version), *more))

    def _describe(self, scope: Scope) -> dict[str, Any]:
        slot = parse_qs(scope.get("query_string", b"").decode("latin-1")).get("slot", [DEFAULT])[0]
        name = next(iter(self._models)) if slot in (DEFAULT, POPULARITY) else f"{SLOT}{slot}"
        if name not in self._told:
            raise Refused(404, f"there is no model `{slot[:200]}` here", hint=f"one of {', '.join(self._slots())}")
        told, impressions = self._told[name], self._impressions
        loaded_at = datetime.fromtimestamp(self._since, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        return {
            "model": self._models[name],
            "family": told["family"],
            "learned_until": told["learned_until"],
            "loaded_at": loaded_at,
            "slots": self._slots(),
            "variants": {each: self._models[each] for each in self._models if not each.startswith(SLOT)},
            **{name: value for name, value in self.state().items() if name in ("workers", "chosen", "cascade", "trial")},
            "impressions": {"appended": impressions.appended, "dropped": impressions.dropped} if impressions else None,
            "card": told["card"],
        }

    def _slots(self) -> dict[str, str]:
        first = next(iter(self._models))
        named = {DEFAULT: self._models[first]}
        named |= {name.removeprefix(SLOT): each for name, each in self._models.items() if name.startswith(SLOT)}
        return named | ({POPULARITY: self._models[first]} if self._told[first]["recommends"] else {})

    def _example(self, path: str) -> str:
        return str(next(iter(self._told.values()))["routes"][path][0])

    def close(self) -> None:
        """Send what is to be told; may be called twice."""
        self._guard.close()

    def state(self) -> dict[str, Any]:
        """How it is now, for the run's record."""
        cache, gateway = self._cache.counts(), self._gateway
        return {
            "waiting": gateway.waiting,
            "in_flight": gateway.in_flight,
            "not_answered": gateway.not_answered(),
            "cache": {"hits": cache.hits + cache.shared, "misses": cache.misses, "bytes": cache.num_bytes},
            "workers": [each._asdict() for each in self._pool.loads()],
            "chosen": {each: choice.explain() for each, choice in gateway.choices().items()},
            "cascade": {each: {"told": first.explain(), **first.counts} for each, first in gateway.cascades().items()},
            "trial": self.trial.canary.verdict()._asdict() if self.trial is not None else None,
        }

    def _gauges(self) -> dict[str, Gauge]:
        loads, cache, gateway = self._pool.loads(), self._cache.counts(), self._gateway
        versions = {name: float(each.rpartition("@")[2]) for name, each in self._models.items()}

        firsts = gateway.cascades().values()
        asked_first = {how: sum(each.counts[how] for each in firsts) for how in ("kept", "escalated", "late") if firsts}

        def of_workers(field: str) -> dict[str, float]:
            return {str(each.number): getattr(each, field) for each in loads}

        return {
            "gyral_waiting": Gauge("requests that wait for a worker", "", {"": gateway.waiting}),
            "gyral_in_flight": Gauge("requests that have no answer yet", "", {"": gateway.in_flight}),
            "gyral_not_answered": Gauge("refused or given up, by why", "why", gateway.not_answered(), True),
            "gyral_worker_resident_bytes": Gauge("memory", "worker", of_workers("resident_bytes")),
            "gyral_worker_busy": Gauge("share of the time that it computes", "worker", of_workers("busy")),
            "gyral_worker_deaths": Gauge("how often it was replaced", "worker", of_workers("deaths"), True),
            "gyral_cache_hits": Gauge("answers that were told again", "", {"": cache.hits}, True),
            "gyral_cache_misses": Gauge("answers that were not kept", "", {"": cache.misses}, True),
            "gyral_cache_bytes": Gauge("of answers that are kept", "", {"": cache.num_bytes}),
            "gyral_cascade": Gauge("answers where a small variant was asked first, by how it went", "how", asked_first, True),
            "gyral_model_version": Gauge("of the models that answer", "model", versions),
        }


_NOT_KEPT = frozenset(("kind", "subject", "object", "country", "version"))


def _number(value: bytes, default: float, name: str) -> float:
    """A positive number of a header.

    Raises
    ------
    Refused : 400.
    """
    if not value:
        return default or math.inf
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise Refused(400, f"`{name}` is `{value[:50].decode('latin-1')}`", hint="a number above 0")
    return number


def _located(body: bytes, path: str) -> bytes:
    """An error of a worker, which does not know where it was asked."""
    told = msgspec.json.decode(body)
    told["error"]["where"] = told["error"]["where"] or path
    return msgspec.json.encode(told)
