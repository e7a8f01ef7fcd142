"""The measured peak against a product that is timed here."""

import time

import torch

from gyral.train import hardware


def test_the_peak_is_what_a_large_product_reaches_and_is_measured_quickly():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        begun = time.process_time()
        peak = hardware.measure()
        assert time.process_time() - begun < 0.6
        left = torch.rand(768, 768)
        best = min(_seconds(lambda: left @ left) for _ in range(15))
        assert 0.5 < 2 * 768**3 / best / peak.f32 < 1.6
        assert peak.threads == 1 and peak.bf16 > 0 and peak.of("bf16") == peak.bf16 and peak.of("auto") == peak.f32
    finally:
        torch.set_num_threads(threads)


def test_measuring_leaves_the_generator_as_it_was():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    hardware.measure()
    assert torch.equal(torch.rand(1), expected)


def _seconds(work):
    begun = time.thread_time()
    work()
    return time.thread_time() - begun
