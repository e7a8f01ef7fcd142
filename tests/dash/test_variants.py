"""What was tried of a model, drawn on its page from its card."""

import json
import re

from gyral.dash.pages import app


def test_the_page_of_a_model_shows_what_was_tried(project, overview, ask):
    path = project / "models/online_retail@6/card.json"
    card = json.loads(path.read_text())
    card["variants"] = [
        {"to": "", "quality": 0.5, "size_bytes": 8_000_000, "p50_ms": {"1": 4.0, "8": 20.0},
         "is_front": True, "model": card["model"]},
        {"to": "int8", "quality": 0.49, "relative_loss": 0.02, "size_bytes": 2_000_000, "p50_ms": {"1": 1.5, "8": 9.0},
         "is_front": True, "tiers": ["phone", "laptop"], "model": "online_retail-int8@6"},
        {"to": "prune-0.5", "quality": 0.4, "relative_loss": 0.2, "p50_ms": {"1": 3.0}, "why": "it loses <too much>"},
        {"to": "int4", "why": "cannot be made"},
    ]  # fmt: skip
    path.write_text(json.dumps(card))
    page = ask(app(project, overview), "/models/online_retail@6").text
    drawn = re.findall(r'data-series="variants" data-name="([^"]*)" data-x="([^"]*)" data-y="([^"]*)"', page)
    assert {(name, float(x), float(y)) for name, x, y in drawn} == {
        ("as it is", 4.0, 0.0), ("int8", 1.5, 2.0), ("prune-0.5", 3.0, 20.0),
    }  # fmt: skip
    assert "phone, laptop" in page and "&lt;too much&gt;" in page and "cannot be made" in page
    assert page.count('class="best">front<') == 2 and 'models/online_retail-int8@6">int8</a>' in page
    assert ask(app(project, overview), "/models/online_retail@6.json").json()["variants"] == card["variants"]
