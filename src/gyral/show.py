"""`gyral show`: any noun in plain text, and the same as data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from gyral import config as configs
from gyral import run as runs
from gyral.config import Config
from gyral.errors import NotFound, UsageError, did_you_mean
from gyral.files import versions
from gyral.lake import dataset as datasets
from gyral.lake import documents
from gyral.lake.export import export
from gyral.lake.table import Lake
from gyral.progress import Meter, duration, fixed, number

LAST_RUNS = 20
LANGUAGES = 20


def show(root: Path, what: str | None, why: str | None, config: Config) -> tuple[dict[str, Any], str]:
    """Look at a noun.

    Returns
    -------
    data : what `--json` prints.
    text : what a person reads.

    Raises
    ------
    NotFound : there is nothing of this name; the hint lists what there is.
    """
    if why is not None:
        if what is None:
            raise UsageError("`--why` needs a dataset", hint="gyral show DATASET --why ID")
        return _why(root, Lake.of(root, config), what, why)
    if what is None:
        return _project(root, Lake.of(root, config))
    if what == "lake":
        return _lake(Lake.of(root, config))
    if what.partition(".")[0] == "config":
        rows = _settings(configs.public(config), what.partition(".")[2])
        data = {key: msgspec.to_builtins(value) for key, value, _ in rows}
        return data, table(["setting", "value", "meaning"], [[key, str(data[key]), meaning] for key, _, meaning in rows])
    if what.isdigit():
        return _run(root, int(what))
    kind, _, name = what.rpartition("/")
    base = name.partition("@")[0]
    is_model = kind in ("", "models") and bool(versions(root / "models", base))
    if kind in ("", datasets.FOLDER) and versions(root / datasets.FOLDER, base):
        manifest = msgspec.to_builtins(datasets.find(root, name).manifest)
        also = f"\n\nthe model of this name: gyral show models/{name}" if is_model else ""
        return manifest, _dataset(manifest) + also
    if is_model:
        return _model(root, name)
    if kind == "models":
        raise NotFound(f"there is no model `{name}`", where="models", hint=did_you_mean(name, _published(root / "models")))
    known = ["lake", "config", *_published(root / datasets.FOLDER), *_published(root / "models")]
    raise NotFound(f"there is nothing called `{what}` here", where=str(root.absolute()), hint=did_you_mean(what, known))


def _settings(config: Config, section: str) -> list[tuple[str, Any, str]]:
    """The settings of a section, `serve` or `train.optim`, or all."""
    rows = configs.describe(config)
    found = [row for row in rows if not section or f"{row[0]}.".startswith(f"{section}.")]
    if not found:
        sections = {".".join(key.split(".")[:depth]) for key, _, _ in rows for depth in range(1, key.count(".") + 1)}
        raise NotFound(f"`{section}` is no section of the configuration", hint=did_you_mean(section, sections))
    return found


def export_noun(
    root: Path, what: str | None, folder: Path | None, where: str | None, config: Config, meter: Callable[[], Meter]
) -> tuple[dict[str, Any], str]:
    """Write the events of the lake as Parquet files, a language model as a folder that transformers loads, a run's curves.

    Raises
    ------
    UsageError : it is neither, or it is not said whereto.
    """
    if what == "lake" and folder is not None:
        rows = export(Lake.of(root, config).snapshot("events"), folder, where, meter())
        return {"rows": rows, "folder": str(folder)}, f"{rows:,} rows in {folder}"
    if what and what.isdigit() and folder is not None and where is None:
        from gyral.train.export import export as export_run

        num = export_run(root, int(what), str(folder))
        return {"scalars": num, "place": str(folder)}, f"{num:,} scalars to {folder}"
    if what is None or folder is None or where is not None or not versions(root / "models", what.partition("@")[0]):
        hint = (
            "gyral show lake --export DIR [--where SQL], gyral show MODEL --export DIR, gyral show RUN --export tensorboard:DIR"
        )
        raise UsageError("only the lake, language models and runs can be exported", hint=hint)
    from gyral.model import card as cards
    from gyral.model import decoder, hf

    found = cards.find(root, what)
    hf.write(decoder.read(found), folder)
    return {"model": found.name, "folder": str(folder)}, f"{found.name} in {folder}, for `AutoModelForCausalLM.from_pretrained`"


def turn_table(result: dict[str, Any]) -> str:
    """The closing table of a loop: what each turn's model was worth, and what closing the loop gained."""
    if result["turns"][-1].get("metric", "ndcg_at_10") != "ndcg_at_10":
        return _score_table(result)
    rows = []
    for row in result["turns"]:
        every, known = row["ndcg_at_10"], row["known"]["ndcg_at_10"]
        rows.append(
            [
                str(row["turn"]),
                f"{row['events']:,}",
                *(fixed(every[name], 3) for name in ("looped", "frozen", "popularity")),
                *(fixed(known[name], 3) for name in ("looped", "frozen", "popularity")),
                fixed(row["hit_at_10"]["looped"], 3),
                "–" if row["freshness_s"] is None else f"{row['freshness_s']:.1f} s",
                "–" if row["p99_ms"] is None else f"{row['p99_ms']:.1f} ms",
            ]
        )
    heads = ["turn", "events", "looped", "frozen", "popular", "looped", "frozen", "popular", "hit@10", "fresh", "p99"]
    text = table(heads, rows, right=True)
    group = f"{'':>{text.index('looped')}}NDCG@10, all customers        known customers"
    last = result["turns"][-1]["ndcg_at_10"]
    looped, frozen, popularity = (fixed(last[name], 3) for name in ("looped", "frozen", "popularity"))
    gain = f" ({100 * (last['looped'] / last['frozen'] - 1):+.0f} %)" if last["frozen"] else ""
    closing = f"closing the loop: {looped} against {frozen} frozen after turn 1{gain}, {popularity} by popularity"
    return f"{group}\n{text}\n\n{closing}; model {result['model']}"


def _score_table(result: dict[str, Any]) -> str:
    """The same for families that are asked one number."""
    last = result["turns"][-1]
    metric, names = last["metric"], list(last["scores"])
    rows = [
        [
            str(row["turn"]),
            f"{row['events']:,}",
            f"{row['num_asked']:,}",
            *(fixed(row["scores"][name], 3) for name in names),
            "–" if row["freshness_s"] is None else f"{row['freshness_s']:.1f} s",
            "–" if row["p99_ms"] is None else f"{row['p99_ms']:.1f} ms",
        ]
        for row in result["turns"]
    ]
    text = table(["turn", "events", "asked", *names, "fresh", "p99"], rows, right=True)
    told = {name: fixed(value, 3) for name, value in last["scores"].items()}
    by = last["baseline"]
    shown = metric.replace("_at_", "@").replace("_", " ")
    closing = f"closing the loop: {shown} {told['looped']} against {told['frozen']} frozen after turn 1, {told[by]} by {by}"
    return f"{text}\n\n{closing}; model {result['model']}"


def eval_table(result: dict[str, Any]) -> str:
    """What `gyral eval` measured: the model against popularity, everybody and those it knew."""
    metrics = [name for name in result if name.endswith("_at_10") and not name.startswith("known_")]
    rows = [
        [
            name.replace("_at_", "@"),
            *(fixed(result[key][which]) for key in (name, f"known_{name}") for which in ("model", "popularity")),
        ]
        for name in metrics
    ]
    return table(
        ["", f"all {result['subjects']:,}", "popularity", f"known {result['known']:,}", "popularity"], rows, right=True
    )


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], *, right: bool = False) -> str:
    """Columns as wide as their content; the last one is not padded."""
    every = [list(heads), *map(list, rows)]
    widths = [max(len(row[column]) for row in every) for column in range(len(heads))]
    if right:
        return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in every)
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in every)


def _project(root: Path, lake: Lake) -> tuple[dict[str, Any], str]:
    lineages = [_lineage(root, each) for each in runs.numbers(root)[-LAST_RUNS:]]
    known = [each for each in lineages if each is not None]
    data = {
        "lake": sorted(lake.overview()["tables"]),
        "datasets": _published(root / datasets.FOLDER),
        "models": _published(root / "models"),
        "runs": [msgspec.to_builtins(each) for each in known],
    }
    if not any(data.values()):
        return data, f"nothing here yet ({root.absolute()})\n\nhint: gyral loop --source FILE"
    rows = [
        [str(each.run), each.verb, each.status, duration(each.elapsed_s), ", ".join(made.name for made in each.outputs)]
        for each in known
    ]
    first = known[0].run if known else 1
    earlier = f"\n\nearlier: `gyral show RUN`, from 1 to {first - 1}" if first > 1 else ""
    nouns = "\n".join(f"{noun:<9} {', '.join(data[noun]) or '—'}" for noun in ("lake", "datasets", "models"))
    return data, f"{nouns}\n\n{table(['run', 'verb', 'status', 'took', 'made'], rows)}{earlier}"


def _lake(lake: Lake) -> tuple[dict[str, Any], str]:
    data = lake.overview()
    lines = []
    for name, facts in data["tables"].items():
        lines.append(f"{name}: {facts['rows']:,} rows, version {facts['version']}, {facts['bytes']:,} bytes")
        for label in ("kinds", "apps", "countries", "languages", "schemas", "reasons"):
            if facts.get(label):
                top = list(facts[label].items())
                more = f", and {len(top) - 8} more" if len(top) > 8 else ""
                lines.append(f"  {label}: " + ", ".join(f"{key} {count:,}" for key, count in top[:8]) + more)
        if facts.get("first_event"):
            lines.append(f"  events from {facts['first_event']} to {facts['last_event']}")
        for device, told in facts.get("devices", {}).items():
            shares = {name if name == "later" else f"within {name}": count for name, count in told["late"].items()}
            late = ", ".join(f"{count:,} {name}" for name, count in shares.items() if count)
            wrong = "".join(f"; clock {which} {told[which]:,}" for which in ("ahead", "behind") if told[which])
            lines.append(f"  device {device}: newest {told['newest'] or '—'}; came in: {late or '—'}{wrong}")
        if len(facts.get("days", {})) > 1:
            lines.append("  by day: " + ", ".join(f"{day} {count:,}" for day, count in list(facts["days"].items())[-7:]))
        for column, told in facts.get("drift", {}).items():
            lines.append(f"  drift of {column}: {100 * told['distance']:.1f} % of the newest day, most of it `{told['value']}`")
        for schema_id, fields in facts.get("fields", {}).items():
            lines.append(f"  {schema_id}: " + ", ".join(f"{field} → {column}" for field, column in fields.items()))
    lines += [f"log {name}: {facts['bytes']:,} bytes" for name, facts in data["log"]["partitions"].items()]
    return data, "\n".join(lines) or "the lake is empty\n\nhint: gyral ingest --source FILE"


def _run(root: Path, run: int) -> tuple[dict[str, Any], str]:
    lineage = runs.read_lineage(root, run)
    data = msgspec.to_builtins(lineage)
    data["turns"] = [line for line in runs.read_metrics(root, run) if line["type"] == "turn"]
    lines = [f"run {run}: {lineage.verb}, {lineage.status}, {duration(lineage.elapsed_s)}, started {lineage.started}"]
    for label, references in (("read", lineage.inputs), ("made", lineage.outputs)):
        lines += [f"  {label} {each.kind} {each.name} {each.version}".rstrip() for each in references]
    lines += [f"  {key}: {_short(value)}" for key, value in lineage.summary.items() if key != "turns"]
    if lineage.error:
        lines.append(f"  error: {lineage.error['what']}")
    if data["turns"]:
        lines += ["", turn_table({"turns": data["turns"], "model": data["turns"][-1]["model"]})]
    return data, "\n".join(lines)


def _dataset(manifest: dict[str, Any]) -> str:
    if manifest["source"]:
        return _documents(manifest)
    lines = [
        f"{manifest['dataset']}: {manifest['rows_kept']:,} of {manifest['rows_in']:,} rows kept, "
        f"{manifest['subjects']:,} subjects, {manifest['objects']:,} objects",
        f"  from lake/events version {manifest['lake']['events']['version']}, "
        f"{manifest['first_event']} to {manifest['last_event']}",
        f"  objects repeat: {'yes' if manifest['repeats'] else 'no'} ({manifest['repeats_from']})",
    ]
    lines += [f"  dropped {reason}: {count:,}" for reason, count in manifest["dropped"].items()]
    for fact, told in manifest["facts"].items():
        every = told.items() if isinstance(told, dict) else [("", told)]
        lines += [f"  {' '.join(filter(None, (fact, name)))}: {_short(value)}" for name, value in every]
    return "\n".join(lines)


def _documents(manifest: dict[str, Any]) -> str:
    report = manifest["report"]
    lines = [
        f"{manifest['dataset']}: {manifest['rows_kept']:,} of {manifest['rows_in']:,} documents kept, "
        f"{report['bytes_kept']:,} of {report['bytes']:,} bytes",
        f"  {manifest['kind']} from {manifest['source']}, through {', '.join(manifest['stages'])}",
    ]
    lines += [f"  dropped {reason}: {count:,}" for reason, count in manifest["dropped"].items()]
    for rule, told in report["edits"].items():
        lines.append(f"  cut by {rule}: {told['ranges']:,} ranges of {told['documents']:,} documents, {told['bytes']:,} bytes")
    rows = [
        [name or "unknown", f"{each['documents']:,}", f"{each['kept']:,}", f"{each['bytes_kept']:,}"]
        for name, each in list(report["languages"].items())[:LANGUAGES]
    ]
    if len(rows) > 1 or (rows and rows[0][0] != "unknown"):
        lines += ["", table(["language", "documents", "kept", "bytes kept"], rows, right=True)]
        if len(report["languages"]) > LANGUAGES:
            lines.append(f"and {len(report['languages']) - LANGUAGES} more")
    return "\n".join(lines)


def _model(root: Path, name: str) -> tuple[dict[str, Any], str]:
    from gyral.model import card as cards
    from gyral.model import exported

    folder = cards.find(root, name)
    card = msgspec.to_builtins(cards.read_card(folder))
    learned = f"{card['num_interactions']:,} documents"
    if card["learned_until"]:
        learned = (
            f"{card['num_interactions']:,} interactions of {card['num_subjects']:,} subjects with {card['num_objects']:,} "
        )
        learned += f"objects until {card['learned_until']}"
    lines = [
        f"{card['model']}: {card['family']}, learned {learned}",
        f"  made of {card['dataset']} by run {card['run']}, seed {card['seed']}, {card['size_bytes']:,} bytes",
        f"  {card['metric']} measured on {card['measured_on']}:",
    ]
    lines += [
        f"    {'→' if each['chosen'] else ' '} {each['name']:<18} {each[card['metric']]:.4f}" for each in card["candidates"]
    ]
    if card["compression"]:
        made = card["compression"]
        lines.append(
            f"  {made['to']} of {made['from']}: {made['metric_before']:.4f} → {made['metric_after']:.4f}, "
            f"{made['bytes_before']:,} → {made['bytes_after']:,} bytes"
        )
    if card["variants"]:
        lines += ["", variants_table(card), "", "*: nothing tried is as good, as small and as fast, and better in one of these"]
    for each in exported.all_of(folder):
        worst = f"outputs differ by {each.compared.max_abs_diff:.2g} at most"
        lines.append(f"  {each.format} in {folder / exported.FOLDER / each.format}: {each.size_bytes:,} bytes, {worst}")
        card.setdefault("exports", []).append(exported.plain(each))
    return card, "\n".join(lines)


def told_compression(card: dict[str, Any]) -> tuple[dict[str, Any], Callable[[], str] | None]:
    """What `gyral compress` prints: of a variant what it cost; of tiers what was tried, and for whom; of an export all."""
    if "export" in card:
        return card, None
    if card["compression"]:
        return {"model": card["model"], "compression": card["compression"]}, None
    variants = card["variants"]
    chosen = {tier: each["model"] for each in variants for tier in each.get("tiers", ())}
    data = {"model": card["model"], "metric": card["metric"], "tiers": chosen, "variants": variants}
    return data, lambda: "\n".join([variants_table(card), "", *(f"{tier}: {name}" for tier, name in chosen.items())])


def variants_table(card: dict[str, Any]) -> str:
    """All that was tried of a model; `*`: on the Pareto front of quality, bytes on disk and time."""
    rows = []
    for each in sorted(card["variants"], key=lambda one: -one.get("size_bytes", 0)):
        lost = f"{100 * each.get('relative_loss', 0):.2f} %"
        told = [", ".join(each.get("tiers", ())) or each.get("why", "")]
        if "p50_ms" not in each:
            rows.append([" ", each["to"], *["—"] * 7, *told])
            continue
        times = [f"{each['p50_ms'][size]:.2f} / {each['p99_ms'][size]:.2f}" for size in ("1", "8")]
        sizes = [f"{each[key] / 1e6:.2f}" for key in ("size_bytes", "memory_bytes")]
        mark = "*" if each.get("is_front") else " "
        work = f"{each['per_s']:,.0f} {each['unit']}"
        rows.append([mark, each["to"] or "as it is", fixed(each["quality"]), lost, *sizes, *times, work, *told])
    heads = ["", "variant", card["metric"], "lost", "MB", "MB in memory", "ms for 1: p50 / p99", "for 8", "a CPU-second", "for"]
    firsts = [(each["to"], each["cascade"]) for each in card["variants"] if each.get("cascade")]
    return "\n".join([table(heads, rows), *(asked_first(to, cascade) for to, cascade in firsts)])


def asked_first(to: str, cascade: dict[str, Any]) -> str:
    """What a variant is worth that is asked first."""
    if not cascade.get("kept"):
        return f"{to} asked first: the model would be asked each time, since {cascade['why']}"
    found = {name: fixed(cascade.get(name, 0.0)) for name in ("kept", "accuracy", "regret", "small", "large", "threshold")}
    return (
        f"{to} asked first: {found['kept']} kept where it is surer than {found['threshold']}, {found['accuracy']} right "
        f"(alone {found['small']}, the model {found['large']}), {found['regret']} regretted; {cascade['why']}"
    )


def _why(root: Path, lake: Lake, dataset: str, event_id: str) -> tuple[dict[str, Any], str]:
    made = datasets.find(root, dataset)
    if made.manifest.source:
        return _why_document(made, event_id)
    answer = made.why(lake, event_id)
    verdict = "kept" if answer["kept"] else f"dropped: {answer['reason']}"
    row = "\n".join(f"  {key}: {value}" for key, value in answer["event"].items() if value is not None)
    return msgspec.to_builtins(answer), f"{event_id} {verdict}\n{row}"


def _why_document(made: datasets.Dataset, document: str) -> tuple[dict[str, Any], str]:
    answer = documents.why(made, document)
    lines = [f"{answer['document']} {'kept' if answer['kept'] else 'dropped: ' + answer['reason']}"]
    if answer["rule"]:
        lines.append(f"  rule: {answer['rule']} = {answer['threshold']}, and here it is {number(answer['value'])}")
    if answer["twin"]:
        measure = {"images.near_bits": "likeness", "dedup.semantic_min_cosine": "cosine"}.get(answer["rule"], "Jaccard")
        lines.append(f"  kept instead: {answer['twin']}, {measure} {fixed(answer['jaccard'])}")
    lines += [f"  {name}: {number(value)}" for name, value in answer["signals"].items() if value is not None]
    return msgspec.to_builtins(answer), "\n".join(lines)


def _published(folder: Path) -> list[str]:
    names = {path.name.partition("@")[0] for path in folder.glob("[!.]*@*")} if folder.is_dir() else set()
    return [f"{name}@{versions(folder, name)[-1]}" for name in sorted(names) if versions(folder, name)]


def _lineage(root: Path, run: int) -> runs.Lineage | None:
    try:
        return runs.read_lineage(root, run)
    except NotFound:
        return None


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {number(each)}" for key, each in value.items())
    return number(value)
