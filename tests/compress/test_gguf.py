"""Files for llama.cpp: read by its package `gguf` and by llama.cpp itself, neither of which knows the writer."""

import json
import subprocess
import sys
from importlib.util import find_spec

import gguf as oracle
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gyral.compress.export import gguf_file, gguf_tokens
from gyral.compress.export.gguf_tokens import LINES
from gyral.errors import InputError, QualityError, UsageError
from gyral.model import exported
from gyral.model.hf import tokenizer_of_bytes
from gyral.model.nets.llama import Shape
from gyral.model.tokenizer import Tokenizer

from .exporting import SHAPE, exported_as, language_model, log_softmax, logits_of

KINDS = {each.name: each for each in oracle.GGMLQuantizationType}
LLAMA_CPP = """
import json, sys, urllib.request
import xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.n_ctx, params.n_parallel, params.cpuparams.n_threads = sys.argv[1], 64, 1, 1
params.warmup = params.fit_params = False
asked = json.loads(sys.argv[2])
server = xllamacpp.Server(params)
found = []
for prompt in asked["prompts"]:
    told = None
    while told is None:  # it keeps its numbers to itself where half a letter was drawn
        form = {"prompt": prompt, "n_predict": 1, "n_probs": asked["vocab"], "cache_prompt": False}
        told = server.handle_completions(form)["choices"][0]["logprobs"]
    found.append({str(each["id"]): each["logprob"] for each in told["content"][0]["top_logprobs"]})
tokens = []
for text in asked["texts"]:
    body = json.dumps({"content": text, "add_special": True}).encode()
    request = urllib.request.Request(server.listening_address + "/tokenize", body, {"content-type": "application/json"})
    tokens.append(json.load(urllib.request.urlopen(request, timeout=20))["tokens"])
print(json.dumps({"found": found, "tokens": tokens}))
"""


def asked_of_llama_cpp(path, vocab, prompts=(), texts=()):
    asked = json.dumps({"prompts": list(prompts), "vocab": vocab, "texts": list(texts)})
    done = subprocess.run([sys.executable, "-c", LLAMA_CPP, str(path), asked], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def expected(net, name):
    """A parameter as llama.cpp's converter hands it to `quantize`: `LlamaModel.permute` for queries and keys."""
    array = dict(net.state_dict())[name].numpy()
    part = name.split(".")[-2]
    if part not in ("query", "key"):
        return array
    heads = SHAPE.heads if part == "query" else SHAPE.kv_heads
    return array.reshape(heads, 2, array.shape[0] // heads // 2, *array.shape[1:]).swapaxes(1, 2).reshape(array.shape)


def theirs(name):
    """llama.cpp's name, by its own table, of the name that transformers has."""
    from gyral.model.nets import llama

    table = oracle.get_tensor_name_map(oracle.MODEL_ARCH.LLAMA, SHAPE.depth)
    return table.get_name(llama.ROLES.hf_name(name), (".weight",))


@given(st.integers(0, 2**32 - 1), st.sampled_from([1e-6, 1e-2, 1.0, 300.0]), st.sampled_from(["Q8_0", "Q4_0", "Q4_1", "F16"]))
def test_blocks_have_the_bits_that_llama_cpp_gives_them(seed, scale, kind):
    random = np.random.default_rng(seed)
    array = (random.standard_normal((3, 64)) * scale).astype(np.float32)
    array[0, :32] = 0
    array[1, 5], array[1, 6] = 2.5 * scale, -2.5 * scale  # two that are largest
    packed = getattr(gguf_file, kind).pack(array)
    assert packed == oracle.quants.quantize(array, KINDS[kind]).tobytes()
    assert len(packed) == getattr(gguf_file, kind).size_of(array)


@pytest.mark.parametrize(("to", "vocabulary"), [("f16", "F16"), ("q8_0", "Q8_0"), ("q4_0", "Q8_0"), ("q4_1", "Q8_0")])
def test_a_file_holds_the_model_as_the_package_of_llama_cpp_reads_it(project, to, vocabulary):
    net = language_model(project, twice=True)
    made, folder = exported_as(project, f"gguf-{to}")
    file = oracle.GGUFReader(folder / "model.gguf")
    tensors = {each.name: each for each in file.tensors}
    names = [name for name in net.state_dict() if name != "logits.weight"]
    assert set(tensors) == {theirs(name) for name in names}  # a tied output matrix is not there twice
    for name in names:
        tensor, array = tensors[theirs(name)], expected(net, name)
        wanted = "F32" if array.ndim == 1 else vocabulary if name == "embed.weight" else to.upper()
        assert tensor.tensor_type.name == wanted and tensor.shape.tolist() == list(array.shape[::-1])
        packed = oracle.quants.quantize(array, tensor.tensor_type)
        np.testing.assert_array_equal(np.asarray(tensor.data).view(np.uint8).ravel(), packed.view(np.uint8).ravel())
    said = {key: file.fields[key].contents() for key in file.fields}
    assert said["general.architecture"] == "llama" and said["llama.attention.head_count_kv"] == 2
    assert said["llama.context_length"] == 64 and said["llama.rope.dimension_count"] == 16
    assert said["llama.attention.layer_norm_rms_epsilon"] == pytest.approx(SHAPE.eps)
    assert len(said["tokenizer.ggml.tokens"]) == 257 and said["tokenizer.ggml.eos_token_id"] == 256
    assert made.files[0].size_bytes == (folder / "model.gguf").stat().st_size == made.size_bytes
    values = sum(np.prod(expected(net, name).shape) for name in names if name.startswith("blocks.") and "before" not in name)
    bits = {"f16": 16, "q8_0": 8.5, "q4_0": 4.5, "q4_1": 5}[to]
    rest = (16 if to == "f16" else 8.5) * 257 * 64 / 8 + 5 * 64 * 4
    assert made.size_bytes == pytest.approx(values * bits / 8 + rest, abs=8_000)  # keys and the vocabulary's pieces


@pytest.mark.skipif(find_spec("xllamacpp") is None, reason="llama.cpp is not installed: pip install xllamacpp")
@pytest.mark.parametrize(("to", "largest"), [("f16", 0.02), ("q8_0", 0.25), ("q4_0", 2.5), ("q4_1", 1.5)])
def test_llama_cpp_answers_as_the_model_does(project, to, largest):
    net = language_model(project)
    _, folder = exported_as(project, f"gguf-{to}")
    prompts = [[256], [256, *b"The gyre turns"], [256, *"größe 12".encode()], [256, *range(0, 256, 5)]]
    told = asked_of_llama_cpp(folder / "model.gguf", 257, prompts, [LINES[1], "ab<|endoftext|>"])
    for prompt, found in zip(prompts, told["found"], strict=True):
        wanted = log_softmax(logits_of(net, prompt)[-1])
        assert len(found) == 257
        assert max(abs(value - wanted[int(token)]) for token, value in found.items()) < largest
    assert told["tokens"][0] == [256, *LINES[1].encode()]


def trained_tokenizer(words, text="", size=300):
    from tokenizers import Regex, decoders, models, pre_tokenizers, trainers
    from tokenizers import Tokenizer as Library

    library = Library(models.BPE())
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    library.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(words), "isolated"), level])
    library.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=["<|end|>"], initial_alphabet=alphabet, show_progress=False)
    library.train_from_iterator([*LINES * 3, text], trainer)
    return library.to_str().encode()


def test_a_tokenizer_of_the_project_is_cut_by_the_nearest_name_and_what_differs_is_said(project, repository):
    from gyral.curate.tokens import WORDS

    body = trained_tokenizer(WORDS, (repository / "docs/guides/curate.md").read_text(), 2_000)
    vocab = Tokenizer(body).vocab_size
    language_model(project, Shape(vocab + 4, 64, 2, 4, 2, 96), tokenizer=body, tokens=Tokenizer(body).fingerprint, end=0)
    made, folder = exported_as(project, "gguf-q8_0")
    said = {key: each.contents() for key, each in oracle.GGUFReader(folder / "model.gguf").fields.items()}
    assert said["tokenizer.ggml.pre"] == "llama-bpe" and said["tokenizer.ggml.token_type"][0] == gguf_tokens.CONTROL
    assert said["tokenizer.ggml.tokens"][-1] == f"[PAD{vocab + 3}]" and said["tokenizer.ggml.token_type"][-1] == 5
    assert len(said["tokenizer.ggml.merges"]) == vocab - 257
    texts = ["What the gyre carries comes back another day, 1,024 times.", "a (b) c\n\nd"]
    plain = Tokenizer(body).encode(texts[:1]).tokens.tolist()
    if find_spec("xllamacpp"):
        told = asked_of_llama_cpp(folder / "model.gguf", 10, texts=[*texts, *LINES])["tokens"]
        assert told[0] == [0, *plain]
        same = sum(  # the share that the manifest tells is that of llama.cpp's own tokens
            len(spans(one[1:], body) & spans(Tokenizer(body).encode([text]).tokens.tolist(), body))
            for one, text in zip(told[2:], LINES, strict=True)
        )
        num = sum(len(Tokenizer(body).encode([text]).tokens) for text in LINES)
        assert same < num and f"{100 * same / num:.2f} % of tokens" in made.notes[0]


def spans(tokens, body):
    sizes = np.cumsum([0, *(len(Tokenizer(body).bytes_of(token)) for token in tokens)])
    return set(zip(sizes[:-1].tolist(), sizes[1:].tolist(), strict=True))


def test_a_tokenizer_that_llama_cpp_cannot_have_is_refused():
    told = json.loads(tokenizer_of_bytes())
    told["normalizer"] = {"type": "NFC"}
    with pytest.raises(InputError, match="no place in a GGUF file") as caught:
        gguf_tokens.keys_of(json.dumps(told).encode(), 257, 256, [])
    assert "--to hf" in caught.value.hint
    with pytest.raises(InputError, match="not that of the model"):
        gguf_tokens.keys_of(tokenizer_of_bytes(), 200, 256, [])
    with pytest.raises(InputError, match="no place in a GGUF file") as caught:  # pairs of letters are no words
        gguf_tokens.keys_of(trained_tokenizer(r"\p{L}{1,2}", size=900), 900, 0, [])
    assert "% of tokens are the same" in caught.value.why


def test_rows_that_are_no_whole_blocks_are_wider_and_told(project):
    language_model(project, Shape(257, 48, 1, 4, 4, 96, tied=False))
    made, folder = exported_as(project, "gguf-q8_0")
    kinds = {each.name: each.tensor_type.name for each in oracle.GGUFReader(folder / "model.gguf").tensors}
    assert (
        kinds["blk.0.attn_q.weight"] == "F16" and kinds["blk.0.ffn_down.weight"] == "Q8_0" and kinds["output.weight"] == "F16"
    )
    assert "blocks.0.attention.query.weight" in made.notes[0] and "feed.down" not in made.notes[0]


def test_what_is_no_such_model_is_refused_and_nothing_stays(project):
    language_model(project, Shape(257, 64, 1, 4, 4, 96), layout="gpt2")
    with pytest.raises(UsageError, match="cannot be written as gguf-f16") as caught:
        exported_as(project, "gguf-f16")
    assert "gpt2" in caught.value.why and "--to hf" in caught.value.hint
    language_model(project, Shape(257, 64, 1, 4, 4, 96, experts=2))
    with pytest.raises(InputError, match="cannot be exported") as caught:
        exported_as(project, "gguf-f16")
    assert "experts" in caught.value.why
    language_model(project, spread=float("nan"))
    with pytest.raises(InputError, match="cannot be written") as caught:
        exported_as(project, "gguf-q8_0")
    assert "not finite" in caught.value.why
    language_model(project)
    weights = project.root / "models/pages@4/weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(InputError, match="weights of `pages@4` cannot be read"):
        exported_as(project, "gguf-q8_0")
    assert [*project.root.rglob("model.gguf")] == []


def test_a_writer_that_turns_heads_wrongly_is_found_out(project, monkeypatch):
    from gyral.compress.export import gguf

    language_model(project)
    monkeypatch.setattr(gguf, "_turned", lambda name, array, found: array)
    with pytest.raises(QualityError, match="answers otherwise"):
        exported_as(project, "gguf-f16")
    assert not any((project.root / "models/pages@1").glob("exports/[!.]*"))


def test_too_much_loss_is_refused_and_told(project, monkeypatch):
    from gyral.compress.export import verb

    language_model(project)

    monkeypatch.setattr(verb, "compare", lambda *_: exported.Comparison("x", "y", 1, 0.1, 1.0, 1.0, 1.0, 1.2))
    with pytest.raises(QualityError, match="would lose 20") as caught:
        exported_as(project, "gguf-q4_0", max_loss=0.1)
    assert "--max-loss 0.201" in caught.value.hint
    assert exported_as(project, "gguf-q4_0", max_loss=0.21)[0].compared.relative_loss == pytest.approx(0.2)


def test_what_int4_made_keeps_nearly_all_in_blocks_with_an_offset():
    from gyral.compress.nets import int4_rtn
    from gyral.model.card import Weights
    from gyral.model.quant.packing import divided

    matrix = (np.random.default_rng(0).standard_normal((64, 128)) * 0.05).astype(np.float32)
    name = "blocks.0.attention.query.weight"  # outside of blocks it would be int8
    packed = divided(int4_rtn(Weights({name: matrix}, {}), [name]))[1][name].dense()

    def again(kind):
        blocks = np.frombuffer(getattr(gguf_file, kind).pack(packed), np.uint8).reshape(64, -1)
        return oracle.quants.dequantize(blocks, KINDS[kind])

    lost = float(np.square(packed - matrix).mean())
    assert np.square(again("Q4_1") - packed).mean() < 0.03 * lost < np.square(again("Q4_0") - packed).mean()
