"""The page of plans: what a form asks, what is refused, and that a look changes nothing."""

import hashlib
import threading

import pytest

from gyral.dash import planning, rationed
from gyral.dash.pages import app
from gyral.plan.verbs import Asked, ingest, serve


def digest(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for path in folder.rglob("*")
    }


def test_the_page_tells_what_the_command_would(project, overview, ask):
    before = digest(project)
    dash = app(project, overview)
    told = ask(dash, "/plan.json?verb=serve&model=online_retail&users=1e9&per_user=10").json()
    from gyral.config import load

    plan, bill = serve.plan(project, load(project), Asked("online_retail", 1e9, 10, 100))
    assert told["plan"] == {name: each.as_json() for name, each in plan.items()} and told["bill"] == bill.as_json()
    told = ask(dash, "/plan.json?users=3e6").json()
    plan, _ = ingest.plan(project, load(project), Asked("", 3e6))
    assert told["plan"]["events"] == plan["events"].as_json() and told["command"] == "gyral ingest --users 3e6 --plan"
    assert digest(project) == before


def test_forms_go_to_pages_of_the_same_site_and_nowhere_else(project, overview, ask, parse):
    dash = app(project, overview)
    page = ask(dash, "/plan?users=5e7")
    assert "form-action 'self'" in page.headers["content-security-policy"]
    assert "form-action 'self'" in ask(dash, "/runs").headers["content-security-policy"]
    parsed = parse(page.text)
    assert "plan.json?users=5e7" in parsed.hrefs and {"form", "select"} <= parsed.tags and "script" not in parsed.tags
    assert {series for series, _, _ in parsed.marks} >= {"swing", "part"}


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("verb=train", "no plan of that"),
        ("verb=../..", "no plan of that"),
        ("verb=serve&model=../../etc", "no such model"),
        ("users=many", "`users` is no number"),
        ("users=1e99", "`users` is no number"),
        ("users=nan", "`users` is no number"),
        ("users=-1", "`users` is no number"),
        ("verb=compress&model=online_retail", "cannot be read"),
        ("verb=curate", "no table `events`"),
        ("verb=loop", "no file"),
    ],
)
def test_what_cannot_be_planned_is_said(project, overview, ask, query, says):
    answer = ask(app(project, overview), f"/plan?{query}")
    assert answer.status_code == 200
    told = ask(app(project, overview), f"/plan.json?{query}").json()
    assert says in told["error"]["what"] and told["plan"] == {}


def test_an_answer_of_the_form_is_text_and_never_markup(project, overview, ask):
    page = ask(app(project, overview), "/plan?verb=%3Cscript%3E&model=%22%3E%3Cb%3E&users=%3Ci%3E").text
    assert "<script" not in page and "<b>" not in page and "<i>" not in page


def test_values_are_written_with_their_units():
    assert planning.told(1.5e15, "bytes/day") == "1.5 PB a day"
    assert planning.told(0.004, "", "int8 loses") == "0.4 %"
    assert planning.told(0.04, "CPU-s") == "40 ms of CPU"
    assert planning.told(2e10, "1/day") == "20G a day" and planning.told(828.4, "usd/day") == "828 usd a day"


def test_a_plan_is_kept_until_something_changes_and_new_ones_are_rationed(project, overview, ask, monkeypatch):
    made = []

    def planned(root, asked):
        made.append(asked["users"])
        if asked["users"] < 900:
            until = rationed.time.thread_time() + 0.03
            while rationed.time.thread_time() < until:
                pass
        return {"plan": {}, "bill": None, "command": str(asked["users"])}

    monkeypatch.setattr(planning, "_planned", planned)
    monkeypatch.setattr(rationed, "AT_ONCE_S", 0.1)
    monkeypatch.setattr(rationed, "SHARE", 0.001)
    dash = app(project, overview)
    assert [ask(dash, "/plan.json?users=5").json()["command"] for _ in range(3)] == ["5.0"] * 3 and made == [5.0]
    answers = [ask(dash, f"/plan.json?users={users}") for users in range(10, 18)]
    good = [answer for answer in answers if answer.status_code == 200]
    assert 2 <= len(good) <= 4 and answers[-1].status_code == 429, "then it is used up"
    told = answers[-1].json()
    assert 1 <= int(answers[-1].headers["retry-after"]) == told["retry_s"] and "too many plans" in told["error"]["what"]
    page = ask(dash, "/plan?users=99")
    assert page.status_code == 429 and "too many plans are asked for" in page.text and "<form" in page.text
    assert ask(dash, "/plan.json?users=5").status_code == 200, "what is kept costs nothing"
    assert ask(app(project, overview), "/plan.json?users=900").status_code == 200
    (project / "gyral.toml").write_text("[loop]\nturns = 2\n")
    assert ask(dash, "/plan.json?users=5").status_code == 429, "another plan, which nobody made yet"


def test_one_that_is_being_made_is_waited_for_and_not_for_ever(monkeypatch):
    monkeypatch.setattr(rationed, "WAIT_S", 0.05)
    plans, begun, ends = rationed.Rationed(), threading.Event(), threading.Event()

    def slow():
        begun.set()
        assert ends.wait(10)
        return "slow"

    thread = threading.Thread(target=plans.answer, args=("a", slow))
    thread.start()
    assert begun.wait(10)
    with pytest.raises(rationed.Busy):
        plans.answer("b", lambda: "b")
    ends.set()
    thread.join(10)
    assert plans.answer("a", lambda: "another") == "slow" and plans.answer("b", lambda: "b") == "b"
    with pytest.raises(ZeroDivisionError):
        plans.answer("c", lambda: 1 / 0)
    assert plans.answer("c", lambda: "c") == "c", "an error is not kept, and holds nobody up"
