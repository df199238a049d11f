"""The same in PyTorch: PEFT's steps and transformers' generate, in forms that may be
fastest. The caller takes the fastest.

- eager: weights that want no gradient, the head at the last word alone;
- compiled: that under torch.compile (inductor), which needs a C++ compiler on a CPU.

Generation has a growing cache where it is eager, and a static one where it is compiled,
as torch.compile wants it.
"""

import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Call = Callable[[], Any]
SMOLLM2 = dict(
    vocab_size=49152,
    hidden_size=576,
    intermediate_size=1536,
    num_attention_heads=9,
    num_key_value_heads=3,
    max_position_embeddings=8192,
    rms_norm_eps=1e-5,
    rope_parameters={"rope_type": "default", "rope_theta": 1e5},
    tie_word_embeddings=True,
    hidden_act="silu",
)


def check() -> None:
    """Raise without a compiler, without which PyTorch is not at its best."""
    if not (shutil.which("g++") or shutil.which("c++")):
        raise ValueError("no C++ compiler (g++) found, expected one for torch.compile")


def save(folder: Path, depth: int) -> None:
    """A model of SmolLM2's shapes with random weights, as transformers writes it."""
    import torch
    import transformers

    torch.manual_seed(0)
    config: Any = transformers.LlamaConfig
    model = transformers.LlamaForCausalLM(config(**SMOLLM2, num_hidden_layers=depth))
    model.save_pretrained(folder)


def load(folder: Path, dtype: str) -> Any:
    """That model, frozen."""
    import torch
    import transformers

    model: Any = transformers.LlamaForCausalLM.from_pretrained(
        folder, dtype=getattr(torch, dtype)
    )
    return model.eval().requires_grad_(False)


def steps(
    model: Any,
    kind: str,
    soft: np.ndarray,
    ids: np.ndarray,
    labels: np.ndarray,
    words: tuple[int, ...],
    forms: tuple[str, ...],
) -> dict[str, Call]:
    """{form: a call that makes one step of SGD, and gives its loss}.

    Args:
        kind: "prompt" or "prefix".
        soft: where the prompt starts, as the library has it.
        words: one word for each class.
    """
    import peft
    import torch

    length = soft.shape[0] if kind == "prompt" else soft.shape[1]
    of: Any = peft.PromptTuningConfig if kind == "prompt" else peft.PrefixTuningConfig
    its: Any = peft.get_peft_model(
        model, of(task_type="CAUSAL_LM", num_virtual_tokens=length)
    )
    table = its.prompt_encoder["default"].embedding.weight
    flat = soft if kind == "prompt" else soft.swapaxes(0, 1).reshape(length, -1)
    with torch.no_grad():
        table.copy_(torch.tensor(flat))
    optimizer = torch.optim.SGD([table], lr=0.01)
    x, y = torch.tensor(ids).long(), torch.tensor(labels).long()
    mask, chosen = torch.ones_like(x), torch.tensor(words)

    def loss() -> Any:
        logits = its(input_ids=x, attention_mask=mask, logits_to_keep=1).logits
        return torch.nn.functional.cross_entropy(logits[:, -1, chosen].float(), y)

    def step(loss: Call) -> Call:
        def call() -> float:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # PEFT's names for transformers' own
                optimizer.zero_grad()
                value = loss()
                value.backward()
                optimizer.step()
            return float(value.detach())

        return call

    made = {"eager": loss, "compiled": torch.compile(loss, dynamic=False)}
    return {form: step(made[form]) for form in forms}


def writers(
    model: Any, ids: np.ndarray, new: int, forms: tuple[str, ...]
) -> dict[str, Call]:
    """{form: a call that writes `new` greedy words behind each row, ids [B new]}."""
    import torch

    x = torch.tensor(ids).long()
    kinds = {"eager": {}, "compiled": {"cache_implementation": "static"}}
    plain = model.forward
    compiled = torch.compile(plain, dynamic=False)

    def writer(form: str) -> Call:
        def call() -> np.ndarray:
            model.forward = compiled if form == "compiled" else plain
            with torch.no_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = model.generate(
                    x,
                    attention_mask=torch.ones_like(x),
                    max_new_tokens=new,
                    do_sample=False,
                    eos_token_id=None,
                    pad_token_id=0,
                    **kinds[form],
                )
            return found[:, x.shape[1] :].numpy()

        return call

    return {form: writer(form) for form in forms}
