"""The command line: parse, call, render. Rooms are imported inside the bodies, so `gyral --help` loads none of them.

Data goes to stdout, everything else to stderr. Exit codes: 0 done, 1 failure, 2 usage or configuration, 130 interrupted.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import click

from gyral import __version__
from gyral.console import (
    SETTINGS,
    close_runs,
    common,
    configure,
    export_pages,
    fail,
    fault,
    host_and_port,
    into_option,
    loop_options,
    mesh_options,
    names,
    on_option,
    one_of,
    plain,
    planned,
    print_result,
    refused,
    resume_line,
    screen_meter,
    source_options,
    start_run,
    stop_at_end_of_input,
    tls_options,
    turns_and_pages,
)
from gyral.errors import OPTIONAL, GyralError, Interrupted, MissingExtra, render
from gyral.tools import bench, doctor, evaluate, new
from gyral.tools_keys import keys
from gyral.tools_law import law
from gyral.usage import Commands


def main() -> None:
    """Run the command line and exit."""
    try:
        commands.main(standalone_mode=False)
    except GyralError as error:
        if isinstance(error, Interrupted) and not error.hint:
            error.hint = resume_line()
        fail(render(error), error.exit_code)
    except click.ClickException as error:
        hint = f"\n\nhint: `{error.ctx.command_path} --help`" if isinstance(error, click.UsageError) and error.ctx else ""
        fail(error.format_message() + hint, 2)
    except (KeyboardInterrupt, click.exceptions.Abort):
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Arrow may pass the same interrupt on once more
        close_runs()
        fail(f"interrupted\n\nhint: {resume_line()}", 130)
    except ImportError as error:
        module = (error.name or "").partition(".")[0]
        if module not in OPTIONAL:
            raise
        missing = MissingExtra(module, OPTIONAL[module], "this command")
        fail(render(missing), missing.exit_code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        fail(refused(error), 1)
    except Exception as error:
        fail(fault(error), 1)


@click.group(cls=Commands, commands=[bench, doctor, evaluate, keys, law, new], context_settings=SETTINGS)
@click.version_option(__version__, prog_name="gyral")
def commands() -> None:
    """gyral closes the loop of machine learning: events in, models out, and what people do next comes back.

    Five verbs turn five nouns into each other: ingest, curate, train, compress, serve. `loop` turns them all.
    """


@commands.command()
@source_options
@loop_options
@on_option
@planned(people=True)
@common
def loop(
    root: Path, sets: tuple[str, ...], as_json: bool, mapping: str | None, resume: int | None, live: bool, **flags: Any
) -> None:
    """Turn the whole loop over a source and show what closing it gains."""
    config = configure(root, sets, flags, mapping, need_source=True)
    if live:
        from gyral.live.loop import live as come
        from gyral.live.told import table_of

        with start_run(root, "loop", config, as_json, seed=config.train.seed) as run:
            result = come(root, config, run)
        return print_result(as_json, result, lambda: table_of(result, run.number))
    from gyral.config import given
    from gyral.loop import loop as turn_loop

    with start_run(root, "loop", config, as_json, seed=config.train.seed) as run:
        result = turn_loop(root, config, run, resume, given(root, sets))
    pages = export_pages(root, config, run)
    print_result(as_json, result, lambda: turns_and_pages(result, pages, root))


@commands.command()
@source_options
@click.option("--listen", metavar="HOST:PORT", help="Take events over HTTP until stopped; port 0 takes a free one.")
@click.option("--replay", metavar="WHERE", help="Repair quarantined rows and send them in again: \"reason = 'bad_subject'\".")
@click.option("--schemas", type=click.Path(path_type=Path), metavar="FILE", help="Register schemas: fields become columns.")
@click.option("--from", "from_", metavar="LOG", help="Commit what a topic holds: kafka://HOST:PORT/TOPIC.")
@click.option("--follow", is_flag=True, help="Go on committing what the log gets, until stopped.")
@tls_options
@into_option
@on_option
@planned(people=True)
@common
def ingest(root: Path, sets: tuple[str, ...], as_json: bool, mapping: str | None, **flags: Any) -> None:
    """Read a source into the lake, or take events over HTTP; without either, commit what the log holds."""
    listen, replay, schemas, follow = (flags.pop(name) for name in ("listen", "replay", "schemas", "follow"))
    config = configure(root, sets, flags, mapping)
    one_of(source=flags["source"], listen=listen, replay=replay, schemas=schemas, follow=follow)
    with start_run(root, "ingest", config, as_json) as run:
        if listen is not None:
            from gyral.fronts import listen as run_listen

            host, port = host_and_port(listen)
            return run_listen(root, config, run, host, port, lambda at, line: print_result(as_json, at, lambda: line))
        from gyral.ingest.verb import run_verb

        result = run_verb(root, config, run, replay, schemas, follow)
    print_result(as_json, result)


@commands.command()
@click.argument("subject")
@click.option("--dry-run", is_flag=True, help="Say what is here of SUBJECT; nothing is marked, changed or recorded.")
@into_option
@common
def erase(root: Path, sets: tuple[str, ...], as_json: bool, subject: str, dry_run: bool, **flags: Any) -> None:
    """Erase SUBJECT: from the lake and its log, datasets and models' inputs, and whatever comes of it later."""
    config = configure(root, sets, flags)
    from gyral import erase as erasing

    if dry_run:
        found = erasing.look(root, config, subject)
        return print_result(as_json, plain(found), lambda: erasing.told_found(found))
    with start_run(root, "erase", config, as_json, hide=subject) as run:
        receipt = erasing.erase(root, config, run, subject)
    print_result(as_json, plain(receipt), lambda: erasing.told(receipt))


@commands.command()
@click.argument("name", required=False)
@click.option("--source", "place", metavar="PLACE", help="Documents: a file, a folder, apt:NAME, npm:NAME@VERSION, pip:….")
@click.option("--ablate", is_flag=True, default=None, help="Train small models without each family of rules: what is it worth?")
@on_option
@planned()
@common
def curate(root: Path, sets: tuple[str, ...], as_json: bool, name: str | None, **flags: Any) -> None:
    """Make the dataset NAME from documents, or from events of the lake; all that is dropped has a reason."""
    config = configure(root, sets, {**flags, "name": name})
    from gyral.prepared import curated, told

    with start_run(root, "curate", config, as_json) as run:
        result = told(curated(root, config, run))
    print_result(as_json, result)


@commands.command()
@click.argument("dataset", required=False)
@click.option("--family", metavar="NAME", help="Kind of model: recommender, lm, vision, or one of yours.")
@click.option("--budget", metavar="TIME", help="Training time: 90s, 3m, 1h.")
@click.option("--seed", type=int, help="Same data, configuration and seed: same bytes.")
@click.option("--distill", metavar="MODEL", help="A model that teaches the new one.")
@click.option("--map", "mapping", metavar="FIELD=COLUMN,…", help="Of a file of events: subject, object, time, …")
@click.option("--resume", type=int, metavar="RUN", help="Go on with an interrupted training, on any mesh.")
@mesh_options
@planned()
@common
def train(root: Path, sets: tuple[str, ...], as_json: bool, dataset: str | None, mapping: str | None, **flags: Any) -> None:
    """Train a model on DATASET, or on a file, a folder or a package of it; candidates compete on its last part."""
    from gyral.config import budget_seconds, given
    from gyral.prepared import dataset_of
    from gyral.train.resume import settings_of
    from gyral.train.trainer import train as run_train

    resume = flags.pop("resume")
    config = configure(root, sets, flags, mapping, base=settings_of(root, resume) if resume is not None else None)
    if resume is None:
        dataset = dataset_of(root, dataset, config, lambda verb, of: start_run(root, verb, of, as_json))
    with start_run(root, "train", config, as_json, seed=config.train.seed) as run:
        budget_s = budget_seconds(config.train.budget)
        stands = given(root, sets)
        card = run_train(root, dataset or "", config, run, budget_s=budget_s, resume_from=resume, given=stands)
    print_result(as_json, {"model": card.model, "candidates": card.candidates, **card.training})


@commands.command()
@click.argument("model")
@click.option("--to", help="int8, int4, prune-0.3, 2:4, rank-0.5, rows-int4, …, joined by `+`; or gguf-q8_0, onnx, hf, torch.")
@click.option("--tiers", metavar="TIER,…", callback=names, help="Try many, and choose one each for phone, laptop, server.")
@click.option("--max-loss", type=float, help="Largest relative loss of quality; above it the result is refused.")
@click.option("--out", type=click.Path(path_type=Path), metavar="FOLDER", help="Of an export; default: in the model's folder.")
@planned()
@common
def compress(root: Path, sets: tuple[str, ...], as_json: bool, model: str, out: Path | None, **flags: Any) -> None:
    """Make MODEL smaller, or write it for other programs, and measure what that costs."""
    config = configure(root, sets, flags)
    from gyral.compress.verb import run_verb
    from gyral.show import told_compression

    with start_run(root, "compress", config, as_json) as run:
        result = run_verb(root, model, config, run, out)
    data, text = told_compression(result)
    print_result(as_json, data, text)


@commands.command()
@click.argument("model")
@click.option("--host", help="Address to listen on.")
@click.option("--port", type=int, help="Port; 0 takes a free one.")
@click.option("--workers", type=int, help="Processes that answer; 0, the default: the server itself does.")
@click.option("--draft", metavar="MODEL", help="A small language model that guesses ahead for a large one.")
@tls_options
@on_option
@click.option("--child-of", type=int, hidden=True, help="Run this belongs to; stop when its process goes.")
@planned(people=True)
@common
def serve(root: Path, sets: tuple[str, ...], as_json: bool, model: str, child_of: int | None, **flags: Any) -> None:
    """Serve MODEL over HTTP, with the pages; a newer version is swapped in without dropping a request.

    MODEL: a name, `shop@3`, `pip:NAME==VERSION`, a GGUF file, a folder of transformers, or `openai:http://HOST:PORT#NAME`.
    """
    config = configure(root, sets, flags)
    from gyral.fronts import serve as run_serve

    if child_of is not None:
        threading.Thread(target=stop_at_end_of_input, daemon=True).start()
    with start_run(root, "serve", config, as_json, parent=child_of) as run:
        run_serve(root, model, config, run, child_of is not None, lambda at, line: print_result(as_json, at, lambda: line))


@commands.command()
@click.option("--host", help="Address to listen on.")
@click.option("--port", type=int, help="Port; 0 takes a free one.")
@click.option("--export", type=click.Path(path_type=Path), metavar="DIR", help="Write the pages as files instead.")
@tls_options
@common
def dash(root: Path, sets: tuple[str, ...], as_json: bool, export: Path | None, **flags: Any) -> None:
    """Show the loop, the runs, the models, the lake and the datasets as pages."""
    config = configure(root, sets, flags)
    if export is not None:
        from gyral.dash.export import export as run_export
        from gyral.lake.table import Lake

        index = run_export(root, Lake.of(root, config).overview, export, meter=screen_meter(as_json, "export", "pages"))
        return print_result(as_json, {"index": str(index)}, lambda: f"open file://{index.absolute()}")
    from gyral.fronts import dash as run_dash

    run_dash(root, config, lambda at, line: print_result(as_json, at, lambda: line))


@commands.command()
@click.argument("what", required=False)
@click.option("--why", metavar="ID", help="Why a dataset kept or dropped this event, or document (its path).")
@click.option(
    "--export",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Write: the lake's events as Parquet, a model for transformers, a run's curves to `tensorboard:DIR`, `mlflow:DIR`.",
)
@click.option("--where", metavar="SQL", help="With `--export`: only these events.")
@into_option
@common
def show(root: Path, sets: tuple[str, ...], as_json: bool, what: str | None, why: str | None, **flags: Any) -> None:
    """Show the project, or WHAT: lake, config, config.SECTION, a run's number, a dataset, a model (models/NAME)."""
    export, where = flags.pop("export"), flags.pop("where")
    config = configure(root, sets, flags)
    if export is not None or where is not None:
        from gyral.show import export_noun

        data, text = export_noun(root, what, export, where, config, lambda: screen_meter(as_json, "export", "rows"))
        return print_result(as_json, data, lambda: text)
    from gyral.show import show as look

    data, text = look(root, what, why, config)
    print_result(as_json, data, lambda: text)
