"""What requests have in common, by which copies are chosen."""

import msgspec
import pytest

from gyral.serve.openai.wire import CHAT, COMPLETIONS, EMBEDDINGS, KEY_CHARS, beginning, decode

LONG = "x" * KEY_CHARS


def key(path, **body):
    return beginning(decode(path, msgspec.json.encode({"model": "m", **body})))


def chat(*said, **more):
    return key(CHAT, messages=[{"role": role, "content": content} for role, content in said], **more)


def test_chats_of_one_system_prompt_are_alike_and_what_comes_later_says_nothing():
    one = chat(("system", LONG), ("user", "Hello"))
    assert one == chat(("system", LONG + "more"), ("user", "Good evening"), ("assistant", "?"), ("user", "Hello"))
    assert one != chat(("system", "y" + LONG), ("user", "Hello")) and one != chat(("user", LONG))
    short = chat(("system", "Be brief."), ("user", "Hello"))
    assert short != chat(("system", "Be brief."), ("user", "Good evening"))
    assert short != chat(("system", "Be brief."), ("user", "Hello"), prompt_cache_key="a")
    parts = [{"type": "text", "text": "He"}, {"type": "text", "text": "llo"}]
    assert short == chat(("system", "Be brief."), ("user", parts))


@pytest.mark.parametrize("prompt", [LONG, [LONG], list(range(KEY_CHARS)), [list(range(KEY_CHARS))]])
def test_prompts_are_alike_by_their_first_letters_or_tokens(prompt):
    one = prompt[0] if isinstance(prompt, list) and not isinstance(prompt[0], int) else prompt
    longer = one + ("more" if isinstance(one, str) else [1, 2])
    other = ("y" if isinstance(one, str) else [9]) + one
    assert key(COMPLETIONS, prompt=prompt) == key(COMPLETIONS, prompt=longer) != key(COMPLETIONS, prompt=other)


def test_what_has_no_beginning_has_no_key():
    assert key(EMBEDDINGS, input="Hello") == b"" == key(COMPLETIONS) == key(COMPLETIONS, prompt="")
