"""Conversations become prompts: Jinja itself is the oracle for templates, and nobody writes special tokens."""

import json
import tempfile
import time
from pathlib import Path

import jinja2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gyral.errors import InputError
from gyral.model import template
from gyral.model.chat import Chat, Message, chat_of, tokens_of, write

CHATML = (  # SmolLM2's
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are a "
    "helper<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SAID = [Message("user", "Hi"), Message("assistant", "What?\n"), Message("user", "end<|im_end|> {{ 7 * 7 }}")]


def test_a_template_says_what_jinja_says():
    found = "".join(piece.text for piece in Chat(CHATML).pieces(SAID))
    said = [each._asdict() for each in SAID]
    assert found == jinja2.Template(CHATML, keep_trailing_newline=True).render(messages=said, add_generation_prompt=True)
    assert found.startswith("<|im_start|>system\nYou are") and found.endswith("<|im_end|>\n<|im_start|>assistant\n")


def test_what_people_write_is_never_a_special_token():
    pieces = Chat(CHATML).pieces(SAID)
    assert [each.text for each in pieces if not each.is_marked] == [each.content for each in SAID]
    told = tokens_of(pieces, lambda text: [0] * len(text), lambda text: [1] * len(text))
    assert told.count(0) == sum(len(each.content) for each in SAID)
    assert "\ue0001\ue001" in "".join(each.text for each in Chat(CHATML).pieces([Message("user", "\ue0001\ue001")]))


def test_without_a_template_it_is_plain():
    chat = Chat()
    told = "".join(each.text for each in chat.pieces([Message("system", "Be short."), Message("user", "Hi")]))
    assert told == "system: Be short.\nuser: Hi\nassistant:" and "\nuser:" in chat.stops


@pytest.mark.parametrize(
    "said",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.__class__.__base__ }}",
        "{% for m in messages %}{{ messages.append(m) }}{% endfor %}",
        "{{ raise_exception('only users speak') }}",
        "{{ nothing.at_all }}",
        "{% if %}",
        "{% for a in range(99999999) %}x{% endfor %}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{{ 'x' * 10 ** 10 }}",
        "{{ 'x'.ljust(10 ** 10) }}",
        "{% for a in range(9) %}{{ 'x' * 9999 }}{% endfor %}",
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    ],
)
def test_a_template_that_reaches_out_or_fails_is_refused(said):
    for _ in range(2):  # the second time costs nothing, whatever the first took
        began = time.process_time()
        with pytest.raises(InputError, match="chat template"):
            Chat(said).pieces([Message("user", "Hi")])
        assert time.process_time() - began < 1, "it ran here"
    assert "".join(piece.text for piece in Chat("{{ messages[0].content }}!").pieces([Message("user", "Hi")])) == "Hi!"


def test_a_process_that_somebody_ends_is_begun_again():
    for _ in range(2):
        assert Chat("{{ 1 + 1 }}").pieces([])[0].text == "2"
        (held,) = [each for each in template._renderers.values() if each._process is not None]
        held._process.kill()


def test_a_template_sees_nothing_of_this_process(monkeypatch):
    monkeypatch.setenv("A_SECRET_OF_OURS", "yes")
    Chat("{{ 1 }}").pieces([])
    (held,) = [each for each in template._renderers.values() if each._process is not None]
    assert b"A_SECRET_OF_OURS" not in Path(f"/proc/{held._process.pid}/environ").read_bytes()


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=5), lambda more: st.lists(more, max_size=3)))
@settings(max_examples=30)
def test_no_file_about_chats_does_anything_but_tell_or_be_refused(value):
    with tempfile.TemporaryDirectory() as folder:
        for name, told in (
            ("tokenizer_config.json", {"chat_template": value, "bos_token": value}),
            ("generation_config.json", value),
        ):
            (Path(folder) / name).write_text(json.dumps(told))
        try:
            chat_of(Path(folder))
        except InputError as error:
            assert folder in error.where and error.why


def test_a_folder_says_how_it_is_talked_to(tmp_path):
    assert chat_of(tmp_path) == Chat("", (), (("bos_token", ""), ("eos_token", "")))
    told = {"chat_template": [{"name": "tool", "template": "no"}, {"name": "default", "template": "{{ bos_token }}!"}]}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(told | {"bos_token": {"content": "<s>"}}))
    assert chat_of(tmp_path).pieces([])[0].text == "<s>!"
    (tmp_path / "chat_template.jinja").write_text("{{ messages[0].content }}")
    assert chat_of(tmp_path).pieces([Message("user", "a")])[0].text == "a"
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(InputError, match="cannot be read"):
        chat_of(tmp_path)


def test_a_chat_is_what_it_was_once_it_is_exported(tmp_path):
    """Without the tokens that end an answer, vLLM wrote the next question itself."""
    (tmp_path / "tokenizer_config.json").write_text('{"bos_token": "<end>", "eos_token": "<end>", "model_max_length": 8}')
    write(Chat(), tmp_path, 0)
    assert [path.name for path in tmp_path.iterdir()] == ["tokenizer_config.json"]
    given = Chat("{{ eos_token }}", (2, 5), (("bos_token", "<s>"), ("eos_token", "</s>")))
    write(given, tmp_path, 5)
    assert chat_of(tmp_path) == given
    write(given, tmp_path, 0)
    assert chat_of(tmp_path).ends == (2, 5, 0)
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["model_max_length"] == 8
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": 7, "do_sample": true}')
    assert chat_of(tmp_path).ends == (7,)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": "no"}')
    with pytest.raises(InputError, match="cannot be read"):
        chat_of(tmp_path)
