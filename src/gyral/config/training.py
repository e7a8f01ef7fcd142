"""The sections of `train`: what is trained, how long, by how many; the optimizer; and each family's model."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from gyral.config.sections import Section


class Optim(Section, frozen=True):
    """How gradients become updates: `[train.optim]`."""

    name: Annotated[
        Literal["adamw", "muon"], Meta(description="the optimizer; `muon`: of the matrices inside blocks, `adamw` of the rest")
    ] = "adamw"
    tables: Annotated[
        Literal["adamw", "rowwise_adagrad"],
        Meta(description="of embedding tables; `rowwise_adagrad`: a step costs the rows it touches, one number a row is kept"),
    ] = "adamw"
    table_rate: Annotated[float, Meta(ge=0, description="largest learning rate of `rowwise_adagrad`; 0: `rate`")] = 0.0
    rate: Annotated[float, Meta(gt=0, description="largest learning rate")] = 1e-3
    weight_decay: Annotated[float, Meta(ge=0, description="of matrices; vectors do not decay")] = 0.1
    beta1: Annotated[float, Meta(ge=0, lt=1, description="decay of the mean of gradients")] = 0.9
    beta2: Annotated[float, Meta(ge=0, lt=1, description="decay of the mean of their squares")] = 0.95
    eps: Annotated[float, Meta(gt=0, description="added to the root of the latter")] = 1e-8
    schedule: Annotated[Literal["wsd", "cosine", "constant"], Meta(description="of the rate, after the warm-up")] = "wsd"
    warmup: Annotated[int, Meta(ge=0, description="steps over which the rate rises")] = 10
    decay: Annotated[float, Meta(gt=0, le=1, description="share of all steps over which `wsd` falls")] = 0.3
    final: Annotated[float, Meta(ge=0, le=1, description="share of the rate at the end")] = 0.0
    clip: Annotated[float, Meta(ge=0, description="largest norm of the whole gradient; 0: no limit")] = 1.0
    base_width: Annotated[
        int,
        Meta(
            ge=0, description="width of the stream at which `rate` was chosen; rates follow the width from it; 0: they do not"
        ),
    ] = 0
    spike: Annotated[
        float, Meta(ge=0, description="a loss so many robust deviations above the last ones is not learned from; 0: any is")
    ] = 0.0
    snapshot_every: Annotated[
        int, Meta(ge=1, description="steps between copies in memory to which a run goes back after several spikes in a row")
    ] = 50


class Elastic(Section, frozen=True):
    """Members that come and go, with `--parallel elastic=N`: `[train.elastic]`."""

    membership: Annotated[
        Literal["own", "torchft"],
        Meta(description="who says which members there are: the own coordinator, or torchft's lighthouse"),
    ] = "own"
    leaves: Annotated[
        int,
        Meta(ge=0, description="fixed parts of a batch, added in a fixed order: same bits for any members; 0: one a member"),
    ] = 0
    heartbeat_s: Annotated[float, Meta(ge=0.05, le=60, description="of silence, after which a member is left out")] = 1.0
    timeout_s: Annotated[float, Meta(gt=0, description="longest wait for one who lives")] = 120.0
    start_s: Annotated[float, Meta(gt=0, description="wait for all members before a run begins with fewer")] = 60.0
    restarts: Annotated[int, Meta(ge=0, description="of one member, before the run is given up")] = 10


class Outer(Section, frozen=True):
    """Ranks of `data` that meet every few steps instead of each: `[train.outer]`."""

    every: Annotated[int, Meta(ge=0, description="steps between two meetings; 0: gradients are added in each step")] = 0
    rate: Annotated[float, Meta(gt=0, le=2, description="of the outer step; 1 without momentum: averaging")] = 0.7
    momentum: Annotated[float, Meta(ge=0, lt=1, description="of the outer step (Nesterov)")] = 0.9
    ramp: Annotated[int, Meta(ge=0, description="meetings over which both grow from averaging to what is asked")] = 100
    wire: Annotated[Literal["f32", "bf16", "int8"], Meta(description="how what has moved is sent")] = "int8"
    fragments: Annotated[int, Meta(ge=1, description="parts of the parameters that meet one after the other")] = 4


class Server(Section, frozen=True):
    """The parameter server of a training, with `--sync bsp|ssp:4|async`: `[train.server]`."""

    at: Annotated[
        str,
        Meta(
            description="`proc://2` starts shards, of this machine or of the cluster of `--on`; `tcp://host:port,…` are there; "
            "`local://1`: one worker"
        ),
    ] = "proc://1"
    secret: Annotated[str, Meta(description="file with the secret of shards behind `tcp://`")] = ""
    wire: Annotated[Literal["f32", "bf16", "int8"], Meta(description="how rows travel over `tcp://`")] = "f32"
    dense: Annotated[
        Literal["server", "allreduce"],
        Meta(
            description="where parameters that are no tables are: with the tables, or (`bsp`) in each worker, summed among them"
        ),
    ] = "server"
    rate: Annotated[
        float,
        Meta(ge=0, description="of a worker's dense pushes, by `train.optim.rate`, where it does not wait; 0: 1 / √workers"),
    ] = 0.0
    momentum_correction: Annotated[
        bool, Meta(description="`beta1` less the momentum that workers who do not wait add by themselves")
    ] = True
    compensation: Annotated[
        float, Meta(ge=0, description="of delay, of dense gradients where workers do not wait (DC-ASGD); 0: none")
    ] = 0.0
    lease_s: Annotated[float, Meta(gt=0, description="of silence, after which nobody waits for a worker (`ssp`, `async`)")] = (
        15.0
    )
    cut_s: Annotated[float, Meta(gt=0, description="between two cuts of a shard to its disk; pushes are kept until then")] = (
        10.0
    )


class Stream(Section, frozen=True):
    """Documents that come into the lake while they are learned from, with `gyral train lake:NAME`: `[train.stream]`."""

    begin: Annotated[
        Literal["all", "new"], Meta(description="with what the lake has already, or with what comes from now on")
    ] = "all"
    idle_s: Annotated[float, Meta(gt=0, description="without new documents, after which the stream has ended")] = 30.0
    documents: Annotated[
        int, Meta(ge=1, description="of a range, about: read at once, held in memory, and trained on in a mixed order")
    ] = 2_048


class Tier(Section, frozen=True):
    """A class of simulated devices: `[train.federated.tiers.NAME]`."""

    share: Annotated[float, Meta(gt=0, le=1, description="of all devices")]
    memory_mb: Annotated[float, Meta(gt=0, description="for training; a model with its gradient and a copy must fit")] = 1_000.0
    targets_per_s: Annotated[float, Meta(gt=0, description="events it learns from in a second")] = 1_000.0
    down_mbit: Annotated[float, Meta(gt=0, description="of its link, a second, down")] = 50.0
    up_mbit: Annotated[float, Meta(gt=0, description="the same, up")] = 10.0
    available: Annotated[float, Meta(gt=0, le=1, description="how probable it is idle, charging and online when asked")] = 1.0
    dropout: Annotated[float, Meta(ge=0, lt=1, description="how probable it is gone before it has answered")] = 0.0


class Federated(Section, frozen=True):
    """Devices that keep their data and send what they learned, with `--sync federated`: `[train.federated]`."""

    rounds: Annotated[int, Meta(ge=1, description="updates of the server")] = 100
    cohort: Annotated[int, Meta(ge=1, le=65_536, description="devices that are to answer in a round")] = 200
    over: Annotated[float, Meta(ge=1, le=4, description="how many times so many are asked, for those that will not")] = 1.0
    local_steps: Annotated[int, Meta(ge=1, description="gradient steps of a device, each over all of its history")] = 2
    local_rate: Annotated[float, Meta(gt=0, description="of these steps")] = 3.0
    server: Annotated[
        Literal["adam", "adagrad", "yogi", "average"],
        Meta(description="how the mean of updates is taken up; `average`: FedAvg, with `momentum`"),
    ] = "adam"
    rate: Annotated[float, Meta(ge=0, description="of the server; 0: one that suits it")] = 0.0
    decay: Annotated[float, Meta(ge=0, lt=1, description="share of matrices that is taken off them in a round")] = 0.02
    momentum: Annotated[float, Meta(ge=0, lt=1, description="of the server's steps")] = 0.9
    clip: Annotated[float, Meta(ge=0, description="largest norm of what a device sends; 0: no limit")] = 0.0
    wire: Annotated[Literal["f32", "int8"], Meta(description="how updates are sent; `int8`: rotated, rounded without bias")] = (
        "f32"
    )
    secure_sum: Annotated[
        bool, Meta(description="updates are masked, so that the server learns sums over groups only (`int8`)")
    ] = False
    group: Annotated[int, Meta(ge=3, le=256, description="devices that mask each other")] = 32
    noise: Annotated[
        float, Meta(ge=0, description="standard deviation of the noise on a sum, in limits of one device; 0: none, no privacy")
    ] = 0.0
    epsilon: Annotated[float, Meta(ge=0, description="the privacy loss allowed in all: sets `noise`; 0: not asked")] = 0.0
    delta: Annotated[float, Meta(gt=0, lt=1, description="how probable a larger loss may be")] = 1e-5
    fleet: Annotated[
        Literal["mixed", "ideal"], Meta(description="`mixed`: `tiers`, or phones of three kinds; `ideal`: all answer at once")
    ] = "mixed"
    tiers: Annotated[dict[str, Tier], Meta(description="classes of devices instead of the three built in")] = {}
    deadline_s: Annotated[float, Meta(gt=0, description="of a round, by the simulated clock")] = 60.0
    late: Annotated[
        Literal["drop", "next"],
        Meta(description="what becomes of answers after it; `next`: they count in a later round, the less the staler"),
    ] = "drop"


class Train(Section, frozen=True):
    """Dataset → Model."""

    family: Annotated[str, Meta(min_length=1, description="kind of model")] = "recommender"
    task: Annotated[str, Meta(description="what a neural model is to learn; empty: the family's own way")] = ""
    budget: Annotated[str, Meta(description="time (`90s`, `3m`, `1h`) or work (`1e12flop`)")] = "3m"
    seed: Annotated[int, Meta(ge=0, description="same data, config and seed: same bytes")] = 0
    start: Annotated[
        str, Meta(description="where training begins: a model of this project, a folder of transformers (`lm`); empty: anew")
    ] = ""
    steps: Annotated[int, Meta(ge=0, description="updates; 0: as many as the budget pays by a nominal rate")] = 0
    batch: Annotated[int, Meta(ge=1, description="examples a step, all ranks together")] = 32
    microbatch: Annotated[int, Meta(ge=0, description="examples computed at once; 0: all of a rank's")] = 0
    parallel: Annotated[str, Meta(description="mesh axes: `data=2`, `data=2,tensor=2`, `pipeline=2,shard=2`, …")] = ""
    sync: Annotated[
        str,
        Meta(
            pattern=r"^(allreduce|bsp|async|ssp:[0-9]+|federated)$",
            description="how `data=N` workers agree: `allreduce`, or by a parameter server `bsp`, `ssp:4` (a bound), `async`; "
            "`federated`: simulated devices, one a subject",
        ),
    ] = "allreduce"
    precision: Annotated[
        Literal["auto", "f32", "bf16"], Meta(description="of matrix products; `auto`: bf16 where it is fast")
    ] = "f32"
    wire: Annotated[Literal["f32", "bf16", "int8"], Meta(description="how ranks of `data` send gradients")] = "f32"
    sharding: Annotated[
        Literal["weights", "states"],
        Meta(description="what ranks of `shard` hold apart: `weights` too (least memory), or `states` (fewest bytes)"),
    ] = "weights"
    schedule: Annotated[
        Literal["1f1b", "gpipe", "interleaved", "zero-bubble", "zbv"],
        Meta(description="of micro-batches through the ranks of `pipeline`"),
    ] = "1f1b"
    tables: Annotated[
        Literal["replicate", "row", "column", "table"],
        Meta(description="how embedding tables lie on the ranks of `data` and `shard`: each has all, or parts of them"),
    ] = "replicate"
    recompute: Annotated[bool, Meta(description="blocks run again in the backward pass: less memory, a third more work")] = (
        False
    )
    evaluate_every: Annotated[int, Meta(ge=0, description="steps; 0: at the end only")] = 0
    checkpoint_every: Annotated[int, Meta(ge=0, description="steps; 0: about once a minute, by a nominal rate")] = 0
    keep_checkpoints: Annotated[int, Meta(ge=1, description="how many are left of those made")] = 2
    distill: Annotated[str, Meta(description="a model of this project that teaches the new one; empty: none")] = ""
    distill_weight: Annotated[float, Meta(ge=0, le=1, description="share of the loss that the teacher has")] = 0.5
    distill_temperature: Annotated[float, Meta(gt=0, description="by which both divide their logits")] = 1.0
    keep: Annotated[
        Literal["best", "last"], Meta(description="which weights are published: the best of those evaluated, or the last")
    ] = "best"
    ema: Annotated[
        float,
        Meta(ge=0, lt=1, description="decay of a moving average of the weights, which is evaluated and published; 0: none"),
    ] = 0.0
    compile: Annotated[bool, Meta(description="compile each block; pays after some ten minutes of training")] = False
    profile: Annotated[int, Meta(ge=0, description="steps to record for `chrome://tracing` in the run's folder; 0: none")] = 0
    optim: Optim = Optim()
    outer: Outer = Outer()
    elastic: Elastic = Elastic()
    server: Server = Server()
    stream: Stream = Stream()
    federated: Federated = Federated()


class Params(Section, frozen=True):
    """Tables of a parameter server, and the live recommender that learns in them."""

    at: Annotated[str, Meta(description="where shards are: `local://1` (in the learner), `proc://2`, `tcp://HOST:PORT,…`")] = (
        "local://1"
    )
    dim: Annotated[int, Meta(ge=1, le=1024, description="numbers a row of an object or a subject has")] = 32
    rate: Annotated[float, Meta(gt=0, description="of the tables' Adagrad")] = 0.1
    sample: Annotated[int, Meta(ge=1, description="objects a softmax draws where there are more than 20,000")] = 4_096
    step_s: Annotated[float, Meta(gt=0, le=60, description="between two steps: how long an event may wait for others")] = 0.05
    cut_s: Annotated[float, Meta(gt=0, le=3600, description="between two cuts, which make pushes durable and visible")] = 0.1
    admit_count: Annotated[int, Meta(ge=1, description="meetings that let an object in")] = 1
    max_objects: Annotated[int, Meta(ge=0, description="objects at most; 0: no limit")] = 1_000_000
    gate_loss: Annotated[
        float, Meta(gt=0, description="nats a visit that a version may be worse than the published one, to be published")
    ] = 0.2
    gate_patience: Annotated[int, Meta(ge=1, description="refusals in a row after which the tables go back")] = 4
    keep_s: Annotated[float, Meta(ge=0, description="that cuts stay after a base holds them")] = 30.0


class Lm(Section, frozen=True):
    """The family `lm`: a decoder in the Llama layout."""

    depth: Annotated[int, Meta(ge=1, description="blocks; the one dial from which the rest follows where it is 0")] = 4
    width: Annotated[int, Meta(ge=0, description="of the stream; 0: 64 a block")] = 0
    heads: Annotated[int, Meta(ge=0, description="of queries; 0: one for each 64 of the width")] = 0
    kv_heads: Annotated[int, Meta(ge=0, description="of keys and values; 0: as many as of queries")] = 0
    hidden: Annotated[int, Meta(ge=0, description="width inside the feed-forward part; 0: 8/3 of the width")] = 0
    length: Annotated[int, Meta(ge=2, description="tokens of a sequence")] = 256
    tied: Annotated[bool, Meta(description="the output matrix is the embedding")] = True
    layout: Annotated[Literal["llama", "gpt2"], Meta(description="`gpt2`: learned positions, LayerNorm, GELU")] = "llama"
    tokens: Annotated[
        Literal["auto", "bytes", "shards"],
        Meta(description="of the text; `auto`: those that `curate` wrote (`tokens.write`), else bytes"),
    ] = "auto"
    mask: Annotated[
        Literal["documents", "causal"],
        Meta(description="whether documents of one sequence are hidden from each other, or just follow one another"),
    ] = "documents"
    held_out: Annotated[float, Meta(gt=0, lt=1, description="share of documents that is measured on, by their digests")] = 0.1
    held_out_bytes: Annotated[int, Meta(ge=1, description="of text measured on at most; the rest is not trained on")] = 200_000
    experts: Annotated[int, Meta(ge=0, description="of each feed-forward part; 0: it is dense")] = 0
    experts_used: Annotated[int, Meta(ge=1, description="by each token")] = 2


class Vision(Section, frozen=True):
    """The family `vision`: a vision transformer, alone or with a tower of captions."""

    side: Annotated[int, Meta(ge=4, le=1024, description="pixels of a picture's side")] = 32
    patch: Annotated[int, Meta(ge=1, description="pixels of a patch's side")] = 4
    channels: Annotated[Literal[1, 3], Meta(description="3: colour, 1: grey")] = 3
    depth: Annotated[int, Meta(ge=1, description="blocks of the tower of pictures")] = 4
    width: Annotated[int, Meta(ge=4, description="of its stream; divisible by `heads` and by 4")] = 128
    heads: Annotated[int, Meta(ge=1, description="of attention, in both towers")] = 4
    positions: Annotated[Literal["sine", "learned"], Meta(description="where a patch is")] = "sine"
    concept: Annotated[
        Literal["picture", "name"],
        Meta(description="what pictures of a concept share: pixels, or the name of their file without folder and ending"),
    ] = "picture"
    loss: Annotated[Literal["siglip", "clip"], Meta(description="of `contrastive`")] = "siglip"
    captions: Annotated[int, Meta(ge=1, description="drawn for each picture of a batch")] = 4
    alike: Annotated[
        float,
        Meta(ge=0, description="weight of two pictures of a concept that meet each other in `contrastive`; 0: it draws one"),
    ] = 1.0
    pooling: Annotated[
        Literal["mean", "joined"], Meta(description="what a vector of `contrastive` is made of: the mean of patches, or all")
    ] = "joined"
    embed: Annotated[int, Meta(ge=2, description="numbers of a vector of the space where captions meet pictures")] = 128
    caption_width: Annotated[int, Meta(ge=4, description="of the tower of captions")] = 128
    caption_depth: Annotated[int, Meta(ge=0, description="its blocks")] = 1
    buckets: Annotated[int, Meta(ge=2, description="rows that n-grams of captions are hashed to")] = 16_384
    crop: Annotated[float, Meta(gt=0, le=1, description="smallest share of its area that a crop of a picture keeps")] = 0.6
    flip: Annotated[float, Meta(ge=0, le=1, description="how probable a mirror image is; captions may say left or right")] = 0.0
    jitter: Annotated[float, Meta(ge=0, le=1, description="how probable changed colours are")] = 0.5
    hidden: Annotated[float, Meta(gt=0, lt=1, description="share of patches that `masked` hides")] = 0.75
    decoder_width: Annotated[int, Meta(ge=4, description="of what paints them; divisible by 4")] = 64
    decoder_depth: Annotated[int, Meta(ge=1, description="its blocks")] = 1
    prototypes: Annotated[int, Meta(ge=2, description="of `self_distilled`: answers that a teacher chooses from")] = 1024
    parts: Annotated[int, Meta(ge=0, description="its small views of each picture")] = 4
    momentum: Annotated[float, Meta(ge=0, lt=1, description="what its teacher keeps of itself in a step")] = 0.99


class Recommend(Section, frozen=True):
    """The family `recommender`, where it learns by gradients."""

    candidate: Annotated[
        Literal["auto", "never"], Meta(description="a sequence model competes with the closed forms where the budget pays it")
    ] = "auto"
    ranker: Annotated[
        Literal["auto", "never"],
        Meta(description="a ranking net competes too, where the budget pays it: it sorts the closed form's best 100"),
    ] = "never"
    net: Annotated[Literal["hstu", "sasrec"], Meta(description="layers of the task `sequence`")] = "hstu"
    width: Annotated[int, Meta(ge=1, description="of the stream, and of the vectors of both towers")] = 64
    depth: Annotated[int, Meta(ge=1, description="layers")] = 2
    heads: Annotated[int, Meta(ge=1, description="of attention")] = 2
    hidden: Annotated[int, Meta(ge=0, description="width inside feed-forward parts; 0: four times the width")] = 0
    length: Annotated[int, Meta(ge=2, description="events of a subject that are looked at, the last ones")] = 100
    dropout: Annotated[float, Meta(ge=0, lt=1, description="share of elements dropped")] = 0.3
    negatives: Annotated[int, Meta(ge=0, description="objects a row is compared with; 0: all (`sequence`)")] = 0
    closed: Annotated[float, Meta(ge=0, description="weight of the closed form beside the net; 0: the net alone")] = 0.0
    hold_out: Annotated[Literal["time", "last"], Meta(description="the last part of all events, or of each subject's one")] = (
        "time"
    )
    temperature: Annotated[float, Meta(gt=0, description="of the softmax over a batch (`two_tower`)")] = 0.1
    history_width: Annotated[
        int, Meta(ge=0, description="of vectors beside counts (`history`); 0: only what is met at all, and met again")
    ] = 0
    fresh_days: Annotated[float, Meta(gt=0, description="after which a target weighs half (`history`)")] = 20.0
    interaction: Annotated[Literal["dcn", "dlrm"], Meta(description="how features meet (`ranking`)")] = "dcn"
    crosses: Annotated[int, Meta(ge=1, description="cross layers of `dcn`")] = 2
    table_width: Annotated[int, Meta(ge=1, description="of embeddings (`ranking`)")] = 16
    words: Annotated[
        int,
        Meta(ge=0, description="rows that words of `curate.features` are hashed to; 0: its columns are not read (`ranking`)"),
    ] = 4_096
    drawn: Annotated[
        int, Meta(ge=1, description="objects drawn beside each one met, as examples of not meeting (`ranking`)")
    ] = 4


class Ablate(Section, frozen=True):
    """The models of `gyral curate --ablate`: one a variant and a seed, all alike."""

    steps: Annotated[int, Meta(ge=1, description="updates of each")] = 200
    seeds: Annotated[int, Meta(ge=1, description="models of each variant; their mean counts")] = 2
    depth: Annotated[int, Meta(ge=1, description="blocks")] = 2
    width: Annotated[int, Meta(ge=32, multiple_of=32, description="of the stream")] = 64
    length: Annotated[int, Meta(ge=2, description="bytes of a sequence")] = 128
    batch: Annotated[int, Meta(ge=1, description="sequences a step")] = 32
    held_out_bytes: Annotated[
        int, Meta(ge=1, description="of the result that is kept aside, where `curate.probe` names no clean text")
    ] = 100_000
