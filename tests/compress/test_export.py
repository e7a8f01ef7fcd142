"""Graphs and folders for other programs: asked what the served model is asked, in sizes that no trace has seen."""

import json
import shutil
import subprocess
import sys
import zipfile
from dataclasses import asdict
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from gyral import plugins
from gyral.compress.verb import run_verb
from gyral.errors import InputError, QualityError, UsageError
from gyral.model import card as cards
from gyral.model import exported
from gyral.model.card import Card, Weights
from gyral.model.embedder import Embedder, model_of
from gyral.model.nets import captions, history, sequence, two_tower, vit
from gyral.model.nets.llama import Shape
from gyral.model.neural_recommender import NeuralRecommender, arrays_of, meta_of
from gyral.model.recommender import DAY_US, Interactions, Spec, fit_with
from gyral.model.tasks.pictures import PICTURES
from gyral.run import Run
from gyral.show import show

from .exporting import exported_as, language_model, log_softmax, logits_of

needs_onnx = pytest.mark.skipif(find_spec("onnxruntime") is None, reason="not installed: pip install 'gyral[export]'")
SUBJECTS, OBJECTS = 12, 15


def onnx_of(folder):
    import onnxruntime

    return onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])


def alone(folder, *given):
    """What a `.pt2` answers in a process that cannot import this project."""
    code = (
        "import sys, torch, numpy\nsys.modules['gyral'] = None\n"
        "program = torch.export.load(sys.argv[1]).module()\ngiven = numpy.load(sys.argv[2])\n"
        "numpy.save(sys.argv[3], program(*(torch.from_numpy(given[name]) for name in given.files)).detach().numpy())"
    )
    np.savez(folder.parent / "given.npz", *given)
    words = [str(folder / "program.pt2"), str(folder.parent / "given.npz"), str(folder.parent / "found.npy")]
    done = subprocess.run(
        [sys.executable, "-I", "-W", "ignore", "-c", code, *words], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return np.load(folder.parent / "found.npy")


def recommender(project, kind):
    """A net over drawn purchases, published; returns it as it answers."""
    rng = np.random.default_rng(0)
    data = Interactions(
        subject=rng.integers(0, SUBJECTS, 150).astype(np.int32),
        object=rng.integers(0, OBJECTS, 150).astype(np.int32),
        time=np.sort(rng.integers(0, 90 * DAY_US, 150)),
        country=rng.integers(-1, 2, 150).astype(np.int32),
        num_subjects=SUBJECTS + 1,
        num_objects=OBJECTS,
        num_countries=2,
    )
    torch.manual_seed(0)
    if kind == "two_tower":
        shape = two_tower.Shape(SUBJECTS + 1, 2, OBJECTS, 8, 5, 16)
        net = two_tower.TwoTower(shape, torch.randint(0, 99, (OBJECTS, 4)))
    elif kind == "history":
        shape = history.Shape(OBJECTS, 8, 6)
        net = history.History(shape)
    else:
        shape = sequence.Shape(OBJECTS, 8, 1, 2, 5, 16, net=kind)
        net = sequence.Sequence(shape)
    with torch.no_grad():
        for param in net.parameters():
            param.add_(0.3 * torch.randn_like(param))
    closed = fit_with(data, Spec("product", lam=10.0, popular_power=0.3, background=0.01, repeat=1.0, repeats=True))
    state = {name: tensor.detach().numpy() for name, tensor in net.state_dict().items()}
    meta = meta_of("sequence" if kind in ("sasrec", "hstu") else kind, asdict(shape), closed, 0.0)
    weights = Weights({**arrays_of(data, closed, shape.length), **state}, meta)
    cards.publish(project.root, "shop", weights, None, Card(family="recommender", dataset="gone@1"))
    return NeuralRecommender(*weights)


def pictures(project):
    """Two towers with drawn weights, published; returns what answers."""
    shape = vit.Shape(16, 8, 32, 1, 2, 64)
    settings = {"task": "contrastive", "picture": asdict(shape), "width": 16}
    settings["caption"] = asdict(captions.Shape(64, 16, 1, 2, 32))
    torch.manual_seed(1)
    model = model_of(settings)
    arrays = {name: tensor.detach().numpy() for name, tensor in model.state_dict().items()}
    arrays["gallery"] = np.zeros((1, 16), np.float32)
    card = Card(family="vision", dataset="gone@1", metric="r_at_1")
    cards.publish(project.root, "pages", Weights(arrays, settings), None, card, {PICTURES: b'{"ids": ["a"]}'})
    return Embedder(model)


@needs_onnx
@pytest.mark.slow
@pytest.mark.parametrize("layout", ["llama", "gpt2"])
def test_onnx_foretells_as_a_language_model_does(project, layout):
    net = language_model(project, Shape(257, 32, 1, 4, 4 if layout == "gpt2" else 2, 48), layout=layout)
    made, folder = exported_as(project, "onnx")
    session = onnx_of(folder)
    rows = np.random.default_rng(5).integers(257, size=(5, 64))
    for part in (rows, rows[:1, :1], rows[:2, :33]):
        found = session.run(["logits"], {"tokens": part})[0]
        wanted = np.stack([logits_of(net, each.tolist()) for each in part])
        np.testing.assert_allclose(found, wanted, atol=2e-4)
    assert [each.name for each in session.get_inputs()] == [each.name for each in made.inputs] == ["tokens"]
    assert made.compared.by.startswith("onnxruntime") and made.compared.max_abs_diff < 2e-4
    body = (folder / "model.onnx").read_bytes()
    assert b"/src/gyral" not in body and b"stack_trace" not in body  # no folders of the machine that made it


@needs_onnx
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sasrec", "hstu", "two_tower", "history"])
def test_onnx_ranks_as_the_served_recommender_does(project, kind):
    model = recommender(project, kind)
    made, folder = exported_as(project, "onnx", "shop")
    session = onnx_of(folder)
    for subject in (0, 3, 7):
        objects, times = model.sequences.last(subject, model.shape.length)
        given = {"objects": objects[None].astype(np.int64), "times": times[None], "sizes": np.array([len(objects)])}
        given |= {"subjects": np.array([subject]), "countries": np.array([-1])}
        scores = session.run(None, {each.name: given[each.name] for each in made.inputs})[0]
        served = model.scores(subject)
        np.testing.assert_allclose(log_softmax(scores[0]), served, atol=1e-4)
        assert scores[0].argmax() == served.argmax() and served.max() - served.min() > 0.1
    assert made.compared.on == "histories that the model knows" and made.compared.same_best == 1


@needs_onnx
@pytest.mark.slow
def test_onnx_sees_as_the_served_encoder_does(project):
    embedder = pictures(project)
    made, folder = exported_as(project, "onnx")
    pixels = np.random.default_rng(2).integers(256, size=(6, 16, 16, 3)).astype(np.uint8)
    found = onnx_of(folder).run(["vector"], {"pixels": pixels})[0]
    np.testing.assert_allclose(found, embedder.pictures(pixels), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    assert made.inputs[0].dtype == "uint8" and made.inputs[0].dims == ["B", 16, 16, 3]


@pytest.mark.slow
def test_a_program_runs_where_this_project_is_not(project):
    net = language_model(project, Shape(257, 32, 1, 4, 2, 48))
    made, folder = exported_as(project, "torch")
    rows = np.random.default_rng(5).integers(257, size=(2, 41))
    wanted = np.stack([logits_of(net, each.tolist()) for each in rows])
    np.testing.assert_allclose(alone(folder, rows), wanted, atol=1e-5)
    assert made.compared.by.endswith("in a process of its own") and made.compared.max_abs_diff < 1e-5
    with zipfile.ZipFile(folder / "program.pt2") as file:
        inside = b"".join(file.read(name) for name in file.namelist())
        samples = file.read("program/data/sample_inputs/model.pt")
    assert b"/src/gyral" not in inside
    assert len(samples) == 0  # nor what it was traced with, which is somebody's text
    (folder / "program.pt2").write_bytes((folder / "program.pt2").read_bytes()[:-1000])
    from gyral.compress.export.traced import TORCH
    from gyral.model.programs import program_of

    with pytest.raises(InputError, match="does not run alone"):
        TORCH.read(program_of(project.root, cards.find(project.root, "pages")), folder)


@pytest.mark.slow
def test_a_recommender_runs_where_this_project_is_not(project):
    model = recommender(project, "two_tower")
    _, folder = exported_as(project, "torch", "shop")
    objects, _ = model.sequences.last(4, model.shape.length)
    scores = alone(folder, np.array([4]), np.array([-1]), objects[None].astype(np.int64), np.array([len(objects)]))
    np.testing.assert_allclose(log_softmax(scores[0]), model.scores(4), atol=1e-5)


def test_a_folder_of_transformers_is_an_export_with_its_manifest(project):
    language_model(project)
    made, folder = exported_as(project, "hf")
    assert folder == project.root / "models/pages@1/exports/hf" and made.compared.max_abs_diff == 0
    assert {each.path for each in made.files} == {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert json.loads((folder / "config.json").read_text())["architectures"] == ["LlamaForCausalLM"]
    assert made.compared.on.startswith("tokens drawn by its seed") and made.compared.loss_before == made.compared.loss_after
    assert exported.check(folder) == exported.read(folder) == made
    data, text = show(project.root, "pages", None, project.config())
    assert data["exports"][0]["format"] == "hf" and f"{made.size_bytes:,} bytes" in text
    weights = folder / "model.safetensors"
    body = bytearray(weights.read_bytes())
    body[-5] ^= 1
    weights.write_bytes(body)
    with pytest.raises(InputError, match="of the export is damaged"):
        exported.check(folder)
    weights.unlink()
    with pytest.raises(InputError) as caught:
        exported.check(folder)
    assert caught.value.why == "it is missing" and "gyral compress pages@1 --to hf" in caught.value.hint
    (folder / exported.MANIFEST).write_text("{}")
    with pytest.raises(InputError, match="export cannot be read"):
        exported.read(folder)


def test_an_export_goes_where_it_is_asked_for_and_replaces_nothing(project, tmp_path):
    language_model(project)
    place = tmp_path / "there" / "hf"
    made, folder = exported_as(project, "hf", out=place)
    assert folder == place and exported.check(place) == made and not (project.root / "models/pages@1/exports").exists()
    with pytest.raises(UsageError, match="is not empty") as caught:
        exported_as(project, "hf", out=place)
    assert caught.value.why == "it holds an export already" and "--out" in caught.value.hint
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter").write_text("dear")
    with pytest.raises(UsageError, match="is not empty"):
        exported_as(project, "hf", out=tmp_path / "mine")
    assert (tmp_path / "mine" / "letter").read_text() == "dear"
    exported_as(project, "hf")
    shutil.rmtree(project.root / "models/pages@1/exports/hf")
    exported_as(project, "hf")


def test_a_model_with_exports_is_served_and_compressed_as_before(project):
    from gyral.model.lm import LM

    language_model(project)
    before = LM.load(cards.find(project.root, "pages")).complete("a", 5, temperature=0).tokens
    exported_as(project, "hf")
    assert LM.load(cards.find(project.root, "pages")).complete("a", 5, temperature=0).tokens == before


def test_a_compressed_model_is_written_as_the_numbers_it_stands_for(project):
    from gyral.compress.quantize import int8
    from gyral.model import decoder
    from gyral.model.card import Compression
    from gyral.model.lm import LM
    from gyral.model.quant.packing import chosen

    language_model(project)
    weights = cards.read_weights(cards.find(project.root, "pages"))
    made = Compression("int8", "pages@1", 1.0, 1.0, 0.0, 0.01, 2, 1)
    small = int8(weights, chosen(weights, LM.matrices))
    cards.publish(project.root, "pages-int8", small, None, Card(family="lm", dataset="gone@1", compression=made))
    told, folder = exported_as(project, "hf", "pages-int8")
    state = decoder.read(project.root / "models/pages-int8@1").dense().state
    from safetensors.numpy import load_file

    found = load_file(folder / "model.safetensors")["model.layers.0.mlp.up_proj.weight"]
    scale = small.arrays["blocks.0.feed.up.weight_scale"]
    np.testing.assert_allclose(found, small.arrays["blocks.0.feed.up.weight"] * scale[:, None], rtol=1e-6)
    assert found.dtype == state["embed.weight"].numpy().dtype and "int8" in told.notes[0]


def test_outputs_that_differ_publish_nothing(project, monkeypatch):
    from gyral.model import hf

    write = hf._to_hf
    monkeypatch.setattr(hf, "_to_hf", lambda model: {name: tensor * 1.001 for name, tensor in write(model).items()})
    language_model(project)
    with pytest.raises(QualityError, match="hf answers otherwise than the model"):
        exported_as(project, "hf")
    assert [*project.root.rglob("config.json")] == []


def test_what_cannot_be_exported_is_said(shop, project):
    with pytest.raises(InputError, match="`shop@1` cannot be exported") as caught:
        exported_as(shop, "onnx", "shop")
    assert "closed form" in caught.value.why and "train.task=sequence" in caught.value.hint
    pictures(project)
    with pytest.raises(UsageError, match="`hf` is for language models") as caught:
        exported_as(project, "hf")
    assert "--to onnx" in caught.value.hint


def test_formats_are_listed_and_out_is_theirs_alone(project, tmp_path):
    with pytest.raises(UsageError, match="unknown compressor `gguf-q9`") as caught:
        plugins.check("compressor", "gguf-q9", "format")
    assert all(f"`{name}`" in caught.value.hint for name in ("gguf-f16", "hf", "onnx", "torch", "int8"))
    language_model(project)
    config = project.config(compress__to="int8")
    with (
        pytest.raises(UsageError, match="`--out` goes with an export") as caught,
        Run.start(project.root, "compress", config) as run,
    ):
        run_verb(project.root, "pages", config, run, tmp_path / "x")
    assert "`gguf-q8_0`" in caught.value.hint
    config = project.config(compress__to="hf")
    with Run.start(project.root, "compress", config) as run:
        told = run_verb(project.root, "pages", config, run, None)
    assert told["export"].endswith("exports/hf") and json.dumps(told) and told["compared"]["same_best"] == 1
