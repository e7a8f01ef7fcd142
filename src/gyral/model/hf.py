"""To and from folders of the library transformers: `config.json`, `model.safetensors`, `tokenizer.json`.

Names come from the roles; what differs in form is said here: GPT-2 keeps query, key and value as one matrix, and all of them
turned over. Logits are those of transformers: the largest difference is 0.0 for Llama (grouped heads, tied and not, float32)
and 1e-6 for GPT-2 (`tests/model/test_hf.py`). A model over bytes gets a `tokenizer.json` of 256 bytes and the end, so other
tools read text with it as they do with any.

Only safetensors are read, in one file or several; nothing is unpickled and nothing downloaded.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor

from gyral.errors import InputError, MissingExtra, UsageError
from gyral.files import make_folder, write_atomic
from gyral.model import decoder
from gyral.model.decoder import Decoder, check
from gyral.model.nets import gpt2, llama
from gyral.model.nets.llama import Shape
from gyral.model.quant.linear import fill
from gyral.model.stream import Text
from gyral.model.tasks.next_token import Layout, build_net
from gyral.model.tokenizer import FILE, Tokenizer

CONFIG, INDEX, WEIGHTS = "config.json", "model.safetensors.index.json", "model.safetensors"
ARCHITECTURES = {"llama": "LlamaForCausalLM", "gpt2": "GPT2LMHeadModel"}
END_TOKEN = "<|endoftext|>"


def write(model: Decoder, folder: Path) -> None:
    """Write a folder that `AutoModelForCausalLM.from_pretrained` and `AutoTokenizer.from_pretrained` read.

    Raises
    ------
    UsageError : the folder holds another model.
    """
    try:
        from safetensors.torch import save
    except ImportError:
        raise MissingExtra("safetensors", "train", "exporting a model") from None
    if (folder / CONFIG).exists():
        raise UsageError(f"`{folder}` holds a model already", hint="name an empty folder")
    make_folder(folder)
    state = {name: tensor.contiguous() for name, tensor in _to_hf(model).items()}
    body = tokenizer_of_bytes() if not model.tokenizer else model.tokenizer
    end = Tokenizer(body).token_of(model.end)
    told = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": model.length,
        "clean_up_tokenization_spaces": False,
    }
    told |= {"bos_token": end, "eos_token": end}
    write_atomic(folder / FILE, body)
    write_atomic(folder / "tokenizer_config.json", json.dumps(told, indent=1).encode())
    write_atomic(folder / WEIGHTS, save(state, metadata={"format": "pt"}))
    write_atomic(folder / CONFIG, json.dumps(_config_of(model), indent=1).encode())


def read(folder: Path) -> Decoder:
    """Read a folder of transformers, or a model folder of this project.

    Raises
    ------
    InputError : it is neither, or of an architecture that is not known.
    """
    if (folder / "card.json").exists():
        return decoder.read(folder).dense()
    try:
        config = msgspec.json.decode((folder / CONFIG).read_bytes(), type=dict[str, Any])
    except (OSError, ValueError, RecursionError) as error:
        hint = "name a model of this project, or a folder with `config.json` and `model.safetensors`"
        raise InputError(f"`{folder}` is no model", why=str(error), hint=hint) from None
    layout, shape, length = _shape_of(config, folder)
    tensors = _tensors(folder)
    check(layout, shape, length, [each.numel() for each in tensors.values()], str(folder))
    state = _from_hf(tensors, layout, shape)
    fill(build_net(layout, shape, length), state)
    body = (folder / FILE).read_bytes() if (folder / FILE).exists() else b""
    end = config.get("eos_token_id")
    end = end[0] if isinstance(end, list) and end else end
    if not isinstance(end, int | None):
        raise InputError("the model cannot be used", why="`eos_token_id` is no token", where=str(folder / CONFIG))
    if not body or body == tokenizer_of_bytes():
        return Decoder(shape, length, layout, state, "bytes", b"", Text.END)
    tokenizer = Tokenizer(body, str(folder / FILE))
    return Decoder(shape, length, layout, state, tokenizer.fingerprint, body, int(end or 0))


def tokenizer_of_bytes() -> bytes:
    """The `tokenizer.json` of a model over bytes: token b is byte b, 256 is the end."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in kept]
    letters = {**{byte: chr(byte) for byte in kept}, **{byte: chr(256 + place) for place, byte in enumerate(others)}}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    end = {"id": Text.END, "content": END_TOKEN, "special": True}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    whole: dict[str, Any] = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [end | flags], "normalizer": None,
        "pre_tokenizer": level, "post_processor": None, "decoder": level,
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
            "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
            "vocab": {**{letters[byte]: byte for byte in range(256)}, END_TOKEN: Text.END}, "merges": [],
        },
    }  # fmt: skip
    return json.dumps(whole, ensure_ascii=False).encode()


def _config_of(model: Decoder) -> dict[str, Any]:
    shape = model.shape
    told: dict[str, Any] = {
        "architectures": [ARCHITECTURES[model.layout]], "model_type": model.layout, "vocab_size": shape.vocab,
        "tie_word_embeddings": shape.tied, "bos_token_id": model.end, "eos_token_id": model.end, "torch_dtype": "float32",
    }  # fmt: skip
    if model.layout == "gpt2":
        if shape.head and shape.head * shape.heads != shape.width:
            why, hint = "transformers' GPT-2 has heads of the width by their number", "export the model that was pruned"
            raise InputError("a GPT-2 whose heads were pruned cannot be exported", why=why, hint=hint)
        return told | {
            "n_positions": model.length, "n_ctx": model.length, "n_embd": shape.width, "n_layer": shape.depth,
            "n_head": shape.heads, "n_inner": shape.hidden, "activation_function": "gelu_new",
            "layer_norm_epsilon": shape.eps, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "resid_pdrop": 0.0,
        }  # fmt: skip
    return told | {
        "hidden_size": shape.width, "intermediate_size": shape.hidden, "num_hidden_layers": shape.depth,
        "num_attention_heads": shape.heads, "num_key_value_heads": shape.kv_heads, "head_dim": shape.head_width,
        "hidden_act": "silu", "rms_norm_eps": shape.eps, "rope_theta": shape.theta, "rope_scaling": None,
        "max_position_embeddings": model.length, "attention_bias": False, "mlp_bias": False, "attention_dropout": 0.0,
    }  # fmt: skip


def _shape_of(config: Mapping[str, Any], folder: Path) -> tuple[Layout, Shape, int]:
    """Sizes that a `config.json` tells, with the defaults of transformers."""
    kind = config.get("model_type")

    def refuse(why: str) -> InputError:
        return InputError("the model cannot be used", why=why, where=str(folder / CONFIG))

    try:
        if kind == "gpt2":
            if config.get("activation_function", "gelu_new") not in ("gelu_new", "gelu_pytorch_tanh"):
                raise refuse(f"its activation is {config['activation_function']}")
            width, heads = config["n_embd"], config["n_head"]
            hidden, eps = config.get("n_inner") or 4 * width, config.get("layer_norm_epsilon", 1e-5)
            tied = config.get("tie_word_embeddings", True)
            shape = Shape(config["vocab_size"], width, config["n_layer"], heads, heads, hidden, tied, eps=eps)
            return "gpt2", shape, int(config.get("n_positions", 1024))
        if kind != "llama":
            raise refuse(f"its kind is `{kind}`, and `llama` and `gpt2` are known")
        rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
        if rope.get("rope_type", rope.get("type", "default")) != "default":
            raise refuse(f"its rotary embedding is scaled: {rope}")
        width, heads = config["hidden_size"], config["num_attention_heads"]
        if config.get("attention_bias") or config.get("mlp_bias"):
            raise refuse("biases are not known")
        head = config.get("head_dim") or width // heads
        shape = Shape(
            config["vocab_size"], width, config["num_hidden_layers"], heads, config.get("num_key_value_heads") or heads,
            config["intermediate_size"], config.get("tie_word_embeddings", False),
            config.get("rope_theta") or rope.get("rope_theta", 10_000.0), config.get("rms_norm_eps", 1e-6),
            head=0 if head == width // heads else head,
        )  # fmt: skip
        return "llama", shape, int(config.get("max_position_embeddings", 2048))
    except KeyError as error:
        raise refuse(f"{error} is missing") from None
    except (TypeError, ValueError, AttributeError, ArithmeticError) as error:  # whatever stands where a number belongs
        raise refuse(str(error)) from None


def _tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder, float32."""
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError:
        raise MissingExtra("safetensors", "train", "reading a model") from None
    try:
        names = [WEIGHTS]
        if (folder / INDEX).exists():
            names = sorted(set(msgspec.json.decode((folder / INDEX).read_bytes())["weight_map"].values()))
        if any(Path(name).name != name for name in names):
            raise InputError("the index names files outside its folder", where=str(folder / INDEX))
        found: dict[str, Tensor] = {}
        for name in names:
            found |= load_file(folder / name)
    except (OSError, SafetensorError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        hint = "weights must be safetensors; save them so: `model.save_pretrained(DIR, safe_serialization=True)`"
        raise InputError("the weights cannot be read", why=str(error), where=str(folder), hint=hint) from None
    return {name: tensor.float() for name, tensor in found.items()}


def _to_hf(model: Decoder) -> dict[str, Tensor]:
    """Tensors under the names, and in the form, of transformers."""
    state = {name: tensor for name, tensor in model.dense().state.items() if not (model.shape.tied and name == "logits.weight")}
    if model.layout == "llama":
        return {llama.ROLES.hf_name(name): tensor for name, tensor in state.items()}
    found = {}
    for name, tensor in state.items():
        if name.rpartition(".")[0].endswith((".query", ".key", ".value")):
            continue
        found[gpt2.ROLES.hf_name(name)] = tensor.T if _is_turned(name, tensor) else tensor
    for block in range(model.shape.depth):
        for kind in ("weight", "bias"):
            parts = [state[f"blocks.{block}.attention.{part}.{kind}"] for part in ("query", "key", "value")]
            joined = torch.cat(parts)
            found[f"transformer.h.{block}.attn.c_attn.{kind}"] = joined.T if kind == "weight" else joined
    return found


def _from_hf(tensors: Mapping[str, Tensor], layout: Layout, shape: Shape) -> dict[str, Tensor]:
    """The way back; what transformers stores beside parameters is left out."""
    roles = gpt2.ROLES if layout == "gpt2" else llama.ROLES
    with torch.device("meta"):
        names = [name for name in build_net(layout, shape, 1).state_dict() if not (shape.tied and name == "logits.weight")]
    found: dict[str, Tensor] = {}
    for name in names:
        owner, _, kind = name.rpartition(".")
        part = owner.rpartition(".")[2]
        if layout == "gpt2" and part in ("query", "key", "value"):
            block = name.split(".")[1]
            joined = _named(tensors, f"transformer.h.{block}.attn.c_attn.{kind}")
            joined = joined.T if kind == "weight" else joined
            found[name] = joined.chunk(3)[("query", "key", "value").index(part)].contiguous()
        else:
            tensor = _named(tensors, roles.hf_name(name))
            found[name] = tensor.T.contiguous() if layout == "gpt2" and _is_turned(name, tensor) else tensor
    return found


def _named(tensors: Mapping[str, Tensor], name: str) -> Tensor:
    for each in (name, name.removeprefix("transformer."), name.removeprefix("model.")):
        if each in tensors:
            return tensors[each]
    raise InputError("the weights are not those of this model", why=f"`{name}` is missing")


def _is_turned(name: str, tensor: Tensor) -> bool:
    """GPT-2 in transformers stores the matrices of a block as [in, out]."""
    return name.startswith("blocks.") and tensor.dim() == 2
