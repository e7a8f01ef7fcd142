"""The page **My plugin** of `gyral dash`: the models of this family, the newest first.

What `gather` returns is the page's JSON twin, and all that the template can draw. Texts are escaped; no script runs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gyral.dash.plugged import Page
from gyral.errors import GyralError
from gyral.model import card as cards

TEMPLATE = """
<p class="lead">Models that know what is met most at an hour of the day.</p>
{% if page.models %}
<section class="card"><div class="scroll" tabindex="0" role="region" aria-label="Models">
<table>
<thead><tr><th scope="col">Model</th><th scope="col">Dataset</th><th scope="col" class="n">Hit rate, first 3</th>
<th scope="col" class="n">Size</th></tr></thead>
<tbody>
{% for one in page.models %}
<tr><th scope="row"><a href="{{ link('models/' ~ one.model) }}">{{ one.model }}</a></th><td>{{ one.dataset }}</td>
<td class="n">{{ one.quality | metric }}</td><td class="n">{{ one.size_bytes | size }}</td></tr>
{% endfor %}
</tbody>
</table>
</div></section>
{% else %}
<p>There is none yet. This makes the first:</p>
{{ parts.command("gyral train my_plugin --family my_plugin") }}
{% endif %}
"""


def gather(root: Path) -> dict[str, Any]:
    """Read the cards of a project's models; a damaged one is left out."""
    models = []
    for folder in sorted((root / cards.FOLDER).glob("[!.]*@*")):
        try:
            card = cards.read_card(folder)
        except GyralError:
            continue
        if card.family == "my_plugin":
            told = {"model": card.model, "dataset": card.dataset, "quality": card.quality, "size_bytes": card.size_bytes}
            models.append({**told, "created": card.created})
    models.sort(key=lambda each: str(each["created"]), reverse=True)
    return {"models": models}


PAGE = Page("My plugin", gather, TEMPLATE)
