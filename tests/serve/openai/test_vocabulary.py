"""What bytes may come next, read from the last few of them; `Utf8`, which reads all, is the oracle."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from gyral.model.generate import Utf8
from gyral.serve.openai.vocabulary import allowed_after


@settings(max_examples=60)
@given(st.text("aß日\U0001f30a\u0800\uffff", max_size=8))
def test_the_last_bytes_say_what_may_come(text):
    raw, letters = text.encode(), Utf8()
    for at in range(len(raw) + 1):
        np.testing.assert_array_equal(allowed_after(raw[:at], 260), letters.allowed(260))
        if at < len(raw):
            letters.push(raw[at])
