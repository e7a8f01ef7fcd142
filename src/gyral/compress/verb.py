"""`gyral compress`: a smaller model, or one written for other programs, by what `--to` names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from gyral import plugins
from gyral.config import Config
from gyral.errors import UsageError
from gyral.run import Run


def run_verb(root: Path, model: str, config: Config, run: Run, out: Path | None) -> dict[str, Any]:
    """Compress or export a model, or try many variants for tiers of devices; the card of what was made, or the export.

    Raises
    ------
    UsageError : `--out` with what makes a model, which has its place.
    """
    to = config.compress.to
    if to in plugins.names("format"):
        from gyral.compress.export.verb import export

        made, folder = export(root, model, config, run, out)
        return {"export": str(folder), **msgspec.to_builtins(made)}
    if out is not None:
        hint = f"formats that are written somewhere: {', '.join(f'`{name}`' for name in plugins.names('format'))}"
        raise UsageError(f"`--out` goes with an export, and `{to}` makes a model in `models/`", hint=hint)
    if config.compress.tiers:
        from gyral.compress.tiers import compress_for_tiers as make
    else:
        from gyral.compress.quantize import compress as make
    told: dict[str, Any] = msgspec.to_builtins(make(root, model, config, run))
    return told
