"""The application where workers answer: who asks, until when, what was answered before; then the gateway, and the log.

It loads no model. How a model is asked it learns from the workers, whose answers are passed on as they are, with the request's
number before them. `POST` routes are fast handlers that give the server a future, not a task: the way from a request to the
gateway and back is callbacks.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from gyral.config.sections import Serve
from gyral.errors import ServeError
from gyral.event.clock import now_us
from gyral.http import AsgiApp, Receive, Refused, Scope, Send, allow, read_body, reply, routed
from gyral.model.card import made_from
from gyral.serve.about import About, asked_slot, described, no_such, told_by
from gyral.serve.cache import Cache
from gyral.serve.engine import Part
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
from gyral.serve.said import Said
from gyral.serve.scheduling.canary import Arm
from gyral.serve.scheduling.quota import Account
from gyral.serve.slots import DEFAULT
from gyral.serve.standing import gauges, state
from gyral.serve.trial import Trial
from gyral.serve.wire import MODEL, POPULARITY, number_of

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
    trial: Trial | None
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
        self.guard = Guard(config, self.metrics, note)
        self._cache = Cache(config.cache_bytes)
        self._asking: dict[bytes, _Asked] = {}
        self._ids, self._own = RequestIds(), FIRST_OWN_ID
        self._decoder = msgspec.json.Decoder(_Named)
        self._loop = asyncio.get_running_loop()
        self.routes: dict[str, bool] = {}
        self._told: dict[str, About] = {}
        self._models: dict[str, str] = {}
        self._since: dict[str, float] = {}
        self.trial: Trial | None = None
        self._renew()

    async def learn(self) -> None:
        """Ask the workers what they answer with, and how that is asked; once they are ready, and after each swap."""
        models = in_set(self._pool.versions.current)
        told = {}
        for name in models:
            self._own += 1
            told[name] = await told_by(self._pool, self._own, name)
        now, before = time.time(), self._models
        self._since = {each: self._since[each] if before.get(each) == models[each] else now for each in models}
        self._told, self._models = told, models
        self.routes = {path: is_pure for path, (_, is_pure) in self._first.routes.items() if path != MODEL}

    def _renew(self) -> None:
        """Have the trial be of the versions that answer; a model that was stopped is not tried again before it is another."""
        models, config, trial = in_set(self._pool.versions.current), self._config, self.trial
        if not config.canary:
            return
        old, new = next(iter(models.values())), models[f"{SLOT}{CANARY}"]
        if trial is None or trial.canary.new != new or (trial.canary.old != old and not trial.canary.is_stopped):
            self.trial = Trial(old, new, config.canary_share, config.shadow_share, self._note)

    def said(self, feedback: Sequence[Said]) -> None:
        """Count feedback where a model is on trial."""
        if self.trial is not None:
            self.trial.said(feedback)

    async def follow(self) -> None:
        """Have the newest versions answer, for ever."""
        await self._following.follow(self._pool, self._swapped)

    async def _swapped(self, version: str) -> None:
        self._renew()
        await self.learn()
        self._gateway.use(await asyncio.to_thread(self._following.slots, version))

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
            account = self.guard.check(dict(scope["headers"]).get(b"authorization", b""))
            await reply(send, 200, await self._described(asked_slot(scope), account))
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
        account = self.guard.begin(path, header(b"authorization"), len(body), began)
        try:
            return self._begin(path, header, body, account, began)
        except BaseException as error:
            status = error.status if isinstance(error, Refused) else 500
            self.guard.end(account, path, status, began, header(b"traceparent"))
            raise

    def _begin(
        self, path: str, header: Headers, body: bytes, account: Account, began: float
    ) -> Response | asyncio.Future[Response]:
        try:
            named = self._decoder.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise Refused(400, "the body is not a request", why=str(error), hint=f"send {self._example(path)}") from None
        slot, subject = named.model or DEFAULT, named.subject or ""
        if account.caller.models:
            self._permitted(slot, account)
        trial = self.trial if slot == DEFAULT else None
        arm = trial.arm(subject) if trial is not None else None
        if arm is not None and trial is not None and arm.version == trial.canary.new:
            slot = CANARY
        lane = DEFAULT if slot == POPULARITY else slot
        if lane != DEFAULT and f"{SLOT}{lane}" not in self._models:
            raise no_such(slot, self.slots())
        tier = self.guard.tier(header)
        default_s = tier.deadline_s(self._config.deadline_ms / 1e3)
        until = began + number_of(header(b"x-deadline-ms"), 1e3 * default_s, "x-deadline-ms") / 1e3
        floor = number_of(header(b"x-min-quality"), tier.floor(), "x-min-quality")
        caller = account.caller
        client = _Client(self._loop.create_future(), account, path, slot, began, subject, trial, arm, header(b"traceparent"))
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
        if trial is not None and arm is not None and arm.shadow:
            self._shadow(wanted, client, trial)
        return self._wait(asked, client, key)

    def _permitted(self, slot: str, account: Account) -> None:
        slots = self.slots()
        if slot not in slots:
            raise no_such(slot, account.of(slots, self._made_from))
        account.check(slots[slot], self._made_from(slot))

    def _made_from(self, slot: str) -> str:
        """The version that the model of a slot was compressed from; empty: it was not, or there is no such slot."""
        about = self._told.get(self._name(slot))
        return made_from(about.card) if about is not None else ""

    def _name(self, slot: str) -> str:
        """What the model of a slot is called in the set that the workers hold."""
        return next(iter(self._models)) if slot in (DEFAULT, POPULARITY) else f"{SLOT}{slot}"

    def _shadow(self, wanted: Wanted, client: _Client, trial: Trial) -> None:
        """Ask the model on trial as well; both answers are compared when both are there."""
        parts: dict[str, Part] = {}

        def heard(which: str, part: Part) -> None:
            parts[which] = part
            if len(parts) == 2:
                trial.shadowed(parts["old"], parts["new"])

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
            self.guard.end(client.account, client.path, GONE, client.began, client.parent)
            asked.clients.remove(client)
            if not asked.clients:
                if self._asking.get(key) is asked:  # and not what was asked for the same after this one's answer came
                    del self._asking[key]
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
        self.guard.end(client.account, client.path, part.status, client.began, client.parent, model)
        request_id = self._ids.next()
        if client.trial is not None:
            client.trial.answered(request_id, client.subject, part)
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

    @property
    def document(self) -> dict[str, Any]:
        """Of the routes of the model that answers, as its workers told it."""
        return self._first.document

    @property
    def _first(self) -> About:
        return next(iter(self._told.values()))

    async def _described(self, slot: str, account: Account) -> bytes:
        name = self._name(slot)
        if name not in self._told:
            raise no_such(slot, account.of(self.slots(), self._made_from))
        account.check(self._models[name], self._made_from(slot))
        more = {each: value for each, value in self.state().items() if each in ("workers", "chosen", "cascade", "trial")}
        more["variants"] = {each: version for each, version in self._models.items() if not each.startswith(SLOT)}
        card = self._told[name].card
        if LIVE in card:  # how it is changes while it answers
            self._own += 1
            with contextlib.suppress(ServeError, TimeoutError):  # no worker is ready just now: as it was told last
                async with asyncio.timeout(LIVE_S):
                    self._told[name] = await told_by(self._pool, self._own, name)
            card = self._told[name].card
        slots = account.of(self.slots(), self._made_from)
        return described(self._models[name], card, self._since[name], slots, self._impressions, **more)

    def slots(self) -> dict[str, str]:
        """Slot → model."""
        first = next(iter(self._models))
        named = {DEFAULT: self._models[first]}
        named |= {name.removeprefix(SLOT): each for name, each in self._models.items() if name.startswith(SLOT)}
        return named | ({POPULARITY: self._models[first]} if self._first.recommends else {})

    def _example(self, path: str) -> str:
        return self._first.routes[path][0]

    def close(self) -> None:
        """Send what is to be told; may be called twice."""
        self.guard.close()

    def state(self) -> dict[str, Any]:
        """How it is now, for the run's record."""
        trial = self.trial.canary.verdict()._asdict() if self.trial is not None else None
        return {**state(self._pool, self._gateway, self._cache.counts()), "trial": trial}

    def _gauges(self) -> dict[str, Gauge]:
        return gauges(self._pool, self._gateway, self._cache.counts(), self._models)


LIVE = "live"
"""Of the card of a model that learns while it answers: how it is just now."""
LIVE_S = 2.0
"""How long that is waited for."""
_NOT_KEPT = frozenset(("kind", "subject", "object", "country", "version", "worker"))


def _located(body: bytes, path: str) -> bytes:
    """An error of a worker, which does not know where it was asked."""
    told = msgspec.json.decode(body)
    told["error"]["where"] = told["error"]["where"] or path
    return msgspec.json.encode(told)
