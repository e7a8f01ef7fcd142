"""Servers against the document that they hand out: schemathesis asks what it describes, and looks at what comes back."""

import json
import re
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import jsonschema
import msgspec
import numpy as np
import pytest

from gyral.http.operations import HEALTH, Answer, Documented, Operation, Parameter, Parts, document
from gyral.http.page import page
from gyral.model.vision_routes import routes_of
from gyral.serve import models
from gyral.serve.about import About
from gyral.serve.described import asked, beside

from .. import verbs
from ..model.test_vision_routes import Encoder
from .openai.conftest import publish_lm

SCHEMATHESIS = Path(sys.executable).parent / "schemathesis"


@pytest.fixture
def start():
    """Start a verb that listens; its address. In the end it has to stop in peace, and must have told of no failure."""
    children = []

    def run(*words):
        command = [sys.executable, "-P", "-m", "gyral", *map(str, words), "--json"]
        child = verbs.popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        children.append(child)
        line = child.stdout.readline()
        assert line, child.stderr.read().decode()
        return json.loads(line)["url"]

    yield run
    for child in children:
        child.terminate()
        told = child.communicate(timeout=60)[1].decode()
        assert not [line for line in told.splitlines() if "Traceback" in line or "failed" in line or "could not" in line]


def fetched(url, **headers):
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=20) as answer:
        return answer.headers, answer.read()


def fits(url, examples, folder):
    """Let schemathesis ask; the number of requests it made."""
    if not SCHEMATHESIS.exists():
        pytest.skip("schemathesis is not installed: pip install 'gyral[dev]'")
    command = [SCHEMATHESIS, "--config-file", Path(__file__).with_name("schemathesis.toml"), "run", f"{url}/openapi.json"]
    command += ["--max-examples", str(examples), "--phases", "coverage,fuzzing", "--no-color"]
    command += ["--generation-deterministic", "--no-shrink", "--continue-on-failure", "--request-timeout", "60"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=540, cwd=folder)
    assert done.returncode == 0, done.stdout[-6_000:] + done.stderr[-2_000:]
    return int(re.search(r"([\d,]+) generated", done.stdout)[1].replace(",", ""))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_server_of_a_language_model_is_as_it_says(tmp_path, start):
    publish_lm(tmp_path)
    assert fits(start("serve", "tiny", "--root", tmp_path, "--port", "0"), 3, tmp_path) > 300


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("workers", [0, 2])
def test_a_server_of_a_recommender_is_as_it_says(shop, start, tmp_path, workers):
    assert fits(start("serve", "shop-int8", "--root", shop.root, "--port", "0", "--workers", workers), 10, tmp_path) > 200


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_collector_is_as_it_says(tmp_path, start):
    assert fits(start("ingest", "--listen", "127.0.0.1:0", "--root", tmp_path), 20, tmp_path) > 50


PATHS = {"/healthz", "/openapi.json", "/docs", "/v1/events", "/v1/feedback", "/v1/model", "/v1/bundles/{model}"}
PATHS |= {"/v1/bundles/{model}/files/{digest}", "/metrics"}


@pytest.mark.parametrize("workers", [0, 1])
def test_the_document_has_what_the_family_has_and_nothing_else(shop, start, workers):
    url = start("serve", "shop-int8", "--root", shop.root, "--port", "0", "--workers", workers)
    headers, body = fetched(f"{url}/openapi.json")
    told = json.loads(body)
    assert headers["content-type"] == "application/json" and told["openapi"] == "3.1.0"
    assert set(told["paths"]) == PATHS | {"/v1/recommend"}
    schema = told["paths"]["/v1/recommend"]["post"]["requestBody"]["content"]["application/json"]
    whole = {**told["components"], **schema["schema"], "components": told["components"]}
    jsonschema.Draft202012Validator(whole).validate(schema["example"])
    answer = told["paths"]["/v1/recommend"]["post"]["responses"]["200"]["content"]["application/json"]["schema"]
    request = urllib.request.Request(f"{url}/v1/recommend", json.dumps(schema["example"]).encode())
    with urllib.request.urlopen(request) as asked:
        jsonschema.Draft202012Validator({**answer, "components": told["components"]}).validate(json.load(asked))
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(urllib.request.Request(f"{url}/v1/recommend", b"{"))
    error = told["paths"]["/v1/recommend"]["post"]["responses"]["400"]["content"]["application/json"]["schema"]
    with refused.value as body:
        jsonschema.Draft202012Validator({**error, "components": told["components"]}).validate(json.load(body))
    headers, body = fetched(f"{url}/docs")
    html = body.decode()
    assert headers["content-type"].startswith("text/html") and "default-src 'none'" in headers["content-security-policy"]
    assert "POST /v1/recommend" in html and "<script" not in html and "src=" not in html and "//" not in html.replace("://", "")


def test_a_server_with_workers_has_what_one_without_has_and_says_it_in_the_same_words(shop, start):
    words = ("serve", "shop-int8", "--root", shop.root, "--port", "0")
    here, there = start(*words), start(*words, "--workers", 1, "--set", "serve.canary=shop@1")
    one, other = (json.loads(fetched(f"{url}/openapi.json")[1]) for url in (here, there))
    asked = other["paths"]["/v1/recommend"]["post"]
    assert [each["name"] for each in asked.pop("parameters")] == ["x-deadline-ms", "x-min-quality"]
    assert asked["responses"].pop("502") and asked["responses"].pop("504") and one == other
    told = [json.loads(fetched(f"{url}/v1/model")[1]) for url in (here, there)]
    schema = {"$ref": "#/components/schemas/Model", "components": one["components"]}
    for each in told:
        jsonschema.Draft202012Validator(schema).validate(each)
    assert told[1]["slots"].pop("canary") == "shop@1" and {"variants", "workers", "chosen", "trial"} <= set(told[1])
    assert {**told[1], "loaded_at": "", "impressions": 0} == {**told[1], **told[0], "loaded_at": "", "impressions": 0}
    manifests = [json.loads(fetched(f"{url}/v1/bundles/shop-int8")[1]) for url in (here, there)]
    assert manifests[0] == manifests[1]
    digest = manifests[0]["files"][-1]["digest"]
    assert len({fetched(f"{url}/v1/bundles/shop-int8/files/{digest}")[1] for url in (here, there)}) == 1
    with pytest.raises(urllib.error.HTTPError) as refused:
        fetched(f"{there}/v1/bundles/canary")  # a model on trial goes to nobody for good
    with refused.value as answer:
        assert answer.code == 404


def test_a_collector_has_its_own(tmp_path, start):
    url = start("ingest", "--listen", "127.0.0.1:0", "--root", tmp_path)
    assert set(json.loads(fetched(f"{url}/openapi.json")[1])["paths"]) == {"/v1/events", "/healthz", "/openapi.json", "/docs"}


def test_schemas_stand_where_they_belong():
    """Types of parameters, bodies and answers are collected in one order and handed out in the same."""
    operations = [
        Operation(
            "post", "/a/{n}", "A", {200: Answer(int), 202: (Answer(bool), Answer(float, "text/plain"))}, list[str], ["x"],
            (Parameter("n", "path", int, "N"), Parameter("q", "query", bytes, "Q")), (404,), dict[str, int],
        ),
        Operation("get", "/b", "B", {204: Answer(None)}, error=list[int]),
        HEALTH,
    ]  # fmt: skip
    told = document("T", operations)["paths"]
    a, b = told["/a/{n}"]["post"], told["/b"]["get"]
    assert [(each["name"], each["required"], each["schema"]["type"]) for each in a["parameters"]] == [
        ("n", True, "integer"), ("q", False, "string"),
    ]  # fmt: skip
    assert a["requestBody"]["content"]["application/json"]["schema"] == {"type": "array", "items": {"type": "string"}}
    assert a["responses"]["200"]["content"] == {"application/json": {"schema": {"type": "integer"}}}
    assert a["responses"]["202"]["content"]["text/plain"] == {"schema": {"type": "number"}}
    assert a["responses"]["404"]["content"]["application/json"]["schema"]["additionalProperties"] == {"type": "integer"}
    assert {"408", "413"} <= set(a["responses"]) and not {"408", "413"} & set(b["responses"])
    assert b["responses"]["204"] == {"description": "No Content"}
    assert b["responses"]["400"]["content"]["application/json"]["schema"] == {"type": "array", "items": {"type": "integer"}}
    assert told["/healthz"]["get"]["responses"]["200"]["content"]["application/json"]["schema"] == {
        "$ref": "#/components/schemas/Health"
    }


def test_schemas_of_another_process_that_have_a_name_of_ours_get_one_of_their_own():
    class Model(msgspec.Struct):
        ours: int

    ours, same = Model, Parts

    class Model(msgspec.Struct):
        theirs: dict[str, Parts]

    other = document("", [Operation("post", "/asked", "A", {200: Answer(Model)}, Model)])
    told = document("T", [Operation("get", "/model", "M", {200: Answer(ours)}, error=same)], other)
    schemas = told["components"]["schemas"]

    def answered(path, method):
        return told["paths"][path][method]["responses"]["200"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[
            2
        ]

    assert set(schemas[answered("/model", "get")]["properties"]) == {"ours"}
    assert set(schemas[answered("/asked", "post")]["properties"]) == {"theirs"}
    assert told["paths"]["/asked"]["post"]["requestBody"]["content"]["application/json"]["schema"]["$ref"] in json.dumps(
        told["paths"]["/asked"]["post"]["responses"]
    )
    assert sorted(schemas) == ["Model", "Model_", "Parts", "Refusal"]


def test_routes_of_pictures_are_told_by_workers_as_by_the_servers_process():
    routes = routes_of(Encoder(), lambda scores, k: np.argsort(-scores)[:k].tolist())
    model = SimpleNamespace(name="m@1", card={"family": "vision"}, routes=routes)
    told = models.about(model, routes).answer(None).body
    about = msgspec.json.decode(msgspec.json.encode(told), type=About)
    assert about.routes["/v1/embed"][1] and not about.recommends
    here, there = document("T", [*asked(model), *beside(True)]), document("T", beside(True), about.document)
    for path in routes:
        del there["paths"][path]["post"]["parameters"]
        for status in ("502", "504"):
            del there["paths"][path]["post"]["responses"][status]
    assert msgspec.json.decode(msgspec.json.encode(here)) == msgspec.json.decode(msgspec.json.encode(there))
    assert set(routes) < set(here["paths"])


def test_no_text_of_a_document_becomes_markup():
    told = document("<b>", [Operation("get", "/<i>", "<script>x</script>", {200: Answer(int)})])
    html = page(told)
    assert 'name="viewport"' in html and ":root { color-scheme: light dark }" in html
    assert "<script>" not in html and "<b>" not in html and "<i>" not in html and "&lt;script&gt;" in html


def test_the_page_says_what_a_type_is_and_leaves_its_fields_to_the_schema():
    class Thing(msgspec.Struct):
        """A thing.

        Attributes
        ----------
        n : how many.
        """

        n: int

    html = page(document("T", [Operation("get", "/", "X", {200: Answer(Thing)})]))
    summary = html.partition('<details id="Thing">')[2].partition("</summary>")[0]
    assert "A thing." in summary and "Attributes" not in summary


def test_beside_an_application_only_two_paths_are_taken():
    seen = []

    async def app(scope, receive, send):
        seen.append(scope["path"])

    import asyncio

    both = Documented("T", lambda: []).before(app)
    sent = []

    async def send(message):
        sent.append(message)

    for path in ("/openapi.json", "/docs", "/v1/events", "/docs/x"):
        asyncio.run(both({"type": "http", "method": "GET", "path": path, "headers": []}, None, send))
    assert seen == ["/v1/events", "/docs/x"] and [each["status"] for each in sent if "status" in each] == [200, 200]
