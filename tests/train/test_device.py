"""The device and the precision come from the machine and the environment."""

import pytest
import torch

from gyral.errors import ConfigError
from gyral.train import device

ZEN4 = "processor : 0\nflags\t\t: fpu sse2 avx512f avx512_bf16 amx_tile\n"


def test_bf16_is_chosen_where_the_processor_multiplies_it(tmp_path):
    (tmp_path / "with").write_text(ZEN4)
    (tmp_path / "without").write_text(ZEN4.replace("avx512_bf16", "avx512_vnni"))
    assert device.has_fast_bf16(str(tmp_path / "with"))
    assert not device.has_fast_bf16(str(tmp_path / "without"))
    assert not device.has_fast_bf16(str(tmp_path / "missing"))


def test_precision_is_what_was_asked(monkeypatch):
    monkeypatch.setattr(device, "has_fast_bf16", lambda: True)
    linear, x = torch.nn.Linear(4, 4), torch.ones(2, 4)
    for precision, dtype in (("auto", torch.bfloat16), ("bf16", torch.bfloat16), ("f32", torch.float32)):
        with device.autocast(precision):
            assert linear(x).dtype == dtype
    monkeypatch.setattr(device, "has_fast_bf16", lambda: False)
    assert not device.is_bf16("auto") and device.is_bf16("bf16")


def test_a_device_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setenv("GYRAL_DEVICE", "tpu")
    with pytest.raises(ConfigError, match="`tpu` is no device"):
        device.kind()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("GYRAL_DEVICE", "cuda")
    with pytest.raises(ConfigError, match="no card"):
        device.kind()
    monkeypatch.setenv("GYRAL_DEVICE", "cpu")
    assert device.backend() == "gloo" and device.device() == torch.device("cpu")
