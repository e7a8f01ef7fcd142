"""Published runs as descriptions: Megatron's four models (Korthikanti et al. 2022, table 3) and llm-foundry's nine."""

import csv
from pathlib import Path

from gyral.plan.axes import SHARDED_ADAM, Layout
from gyral.plan.counters import Transformer
from gyral.plan.hardware import DEVICES
from gyral.plan.machine import Machine
from gyral.plan.steptime import step_time

DATA = Path(__file__).resolve().parents[2] / "data" / "laws"
MEGATRON = {  # width, heads, depth, pipeline, interleave, micro-batch, batch; eight tensor-parallel ranks
    "megatron-22B": (6144, 64, 48, 1, 1, 4, 4),
    "gpt3-175B": (12288, 96, 96, 8, 3, 1, 64),
    "turing-530B": (20480, 128, 105, 35, 3, 1, 280),
    "megatron-1T": (25600, 160, 128, 64, 1, 1, 512),
}
FOUNDRY = {  # depth, width, heads
    "125m": (12, 768, 12),
    "350m": (24, 1024, 16),
    "760m": (24, 1536, 12),
    "1b": (24, 2048, 16),
    "3b": (32, 2560, 20),
    "7b": (32, 4096, 32),
    "13b": (40, 5120, 40),
    "30b": (48, 7168, 56),
    "70b": (80, 8192, 64),
}


def rows(name):
    with (DATA / name).open(newline="") as file:
        return list(csv.DictReader(file))


def megatron(name, mode):
    """Model and layout of a row; `mode` names what is computed again, and sequence parallelism."""
    width, heads, depth, pipeline, interleave, microbatch, batch = MEGATRON[name]
    model = Transformer(
        depth=depth, width=width, heads=heads, hidden=4 * width, length=2048, vocab=51200, positions=2048, biases=True
    )
    recompute = "full" if "full" in mode else "selective" if "sel" in mode else "none"
    layout = Layout(
        batch=batch, microbatch=microbatch, tensor=8, pipeline=pipeline, interleave=interleave, flash=False,
        sequence="seq" in mode, recompute=recompute,
    )  # fmt: skip
    return model, layout


def megatron_s(steps, rates):
    """Predicted seconds of rows of `megatron_steptime_8.csv`."""
    machine = Machine(DEVICES["a100-80"], rates)
    return [step_time(*megatron(each["model"], each["mode"]), machine, dropout=True).total for each in steps]


def foundry(row):
    """Model and layout of a row of `llmfoundry_a100.csv`."""
    depth, width, heads = FOUNDRY[row["Model"]]
    length = int(row["SeqLen (T)"])
    model = Transformer(
        depth=depth, width=width, heads=heads, hidden=4 * width, length=length, vocab=50368, positions=length, biases=True
    )
    ranks, microbatch = int(row["# GPUs"]), int(row["MicroBatchSize"])
    recompute = "full" if row["Activation Checkpointing"] == "True" else "none"
    batch = ranks * microbatch * int(row["GradAccum"])
    return model, Layout(batch=batch, microbatch=microbatch, shard=ranks, zero=3, recompute=recompute)


def foundry_s(steps, rates, device="a100-40"):
    """Predicted seconds."""
    return [step_time(*foundry(each), Machine(DEVICES[device], rates), SHARDED_ADAM).total for each in steps]


def foundry_truth(row):
    """Measured seconds."""
    model, layout = foundry(row)
    return layout.batch * model.length / (float(row["Throughput (T/s/GPU)"]) * layout.ranks)


def off(predicted, measured):
    """|predicted / measured − 1| of each."""
    return [abs(each / truth - 1) for each, truth in zip(predicted, measured, strict=True)]
