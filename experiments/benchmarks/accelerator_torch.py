"""PyTorch's side of `accelerator`: the step of one program, in a process of its own.

The model is transformers' class with random weights that want no gradient. Padding: the
image within a learned border, a fixed map from the model's classes to the task's (a
product with a matrix, as an estimated one is). Prompt tuning: learned vectors in front
of the words', two label words at the last word. Both by SGD, the loss under
torch.compile; float32 in TF32, as XLA has it.
"""

import importlib.util
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from experiments.benchmarks import pytorch
from experiments.benchmarks.workloads import FULL, PROMPT, TARGETS, TINY, WORDS, Sizes


def ask(model: str, dtype: str, tiny: bool, limit: float) -> dict[str, Any]:
    """What `measure` finds, or {"absent": why there is nothing}."""
    import jax

    platform = jax.default_backend()
    if platform not in ("cpu", "gpu"):
        return {"absent": f"absent: PyTorch does not run on a {platform} here"}
    for name in ("torch", "transformers"):
        if importlib.util.find_spec(name) is None:
            return {"absent": f"absent: {name} is not installed"}
    device = "cuda" if platform == "gpu" else "cpu"
    size = "tiny" if tiny else "full"
    code = f"from {__name__} import answer; answer()"
    command = [sys.executable, "-c", code, model, dtype, size, device]
    try:
        out = subprocess.run(command, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return {"absent": f"cut off after {limit:.0f} s"}
    if out.returncode:
        last = (out.stderr.strip().splitlines() or ["no message"])[-1]
        raise RuntimeError(f"PyTorch: {last}")
    return json.loads(out.stdout.splitlines()[-1])


def answer() -> None:
    """What the process of `ask` does: prints what `measure` finds."""
    model, dtype, size, device = sys.argv[1:]
    compiler = device == "cuda" or shutil.which("g++") or shutil.which("c++")
    full = size == "full"
    given = FULL if full else TINY, device, bool(full and compiler)
    print(json.dumps(measure(model, dtype, *given)))


def measure(
    model: str, dtype: str, sizes: Sizes, device: str, compiled: bool
) -> dict[str, Any]:
    """Seconds a step, its highest memory, and seconds to compile."""
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        return {"absent": f"absent: torch {torch.__version__} sees no GPU"}
    torch.set_float32_matmul_precision("high")
    torch.manual_seed(0)
    make = image_loss if model == "ViT-B/16" else word_loss
    prompt, loss = make(sizes, getattr(torch, dtype), torch.device(device))
    step = stepper(prompt, torch.compile(loss, dynamic=False) if compiled else loss)
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None

    def call(times: int) -> float:
        wait()
        start = time.perf_counter()
        for _ in range(times):
            step()
        wait()
        return (time.perf_counter() - start) / times

    compiling, once = call(1), call(1)
    queued = 5 if device == "cuda" else 1
    rounds = max(3, min(10, int(3.0 / (queued * once))))
    seconds = [call(queued) for _ in range(rounds)]
    highest = torch.cuda.max_memory_allocated() if device == "cuda" else None
    return {
        "seconds": float(np.median(seconds)),
        "peak": highest,
        "compiling": compiling,
        "form": "compiled" if compiled else "eager",
    }


def stepper(prompt: Any, loss: Callable[[], Any]) -> Callable[[], Any]:
    """One step of SGD; gives the loss before it."""
    import torch

    optimizer = torch.optim.SGD([prompt], lr=0.01)

    def step() -> Any:
        optimizer.zero_grad()
        value = loss()
        value.backward()
        optimizer.step()
        return value.detach()

    return step


def image_loss(sizes: Sizes, kind: Any, device: Any) -> tuple[Any, Callable[[], Any]]:
    """Padding's prompt, and its loss."""
    import torch
    from torch.nn import functional as F

    vit = pytorch.built(sizes.vit, sizes.pixels).eval().requires_grad_(False)
    vit = vit.to(device, kind)
    x = torch.randint(0, 256, (sizes.images, 3, 32, 32), device=device)
    y = torch.arange(sizes.images, device=device) % TARGETS
    chosen = torch.rand(sizes.vit.classes, TARGETS, device=device)
    side, inner = sizes.pixels, sizes.inner
    prompt = torch.zeros(3, side, side, device=device, requires_grad=True)
    before = (side - inner) // 2
    edges = [before, side - inner - before] * 2
    frame = F.pad(torch.zeros(inner, inner, device=device), edges, value=1.0)

    def loss() -> Any:
        size, how = (inner, inner), "bilinear"
        small = F.interpolate(x.float() / 255, size, mode=how, align_corners=False)
        whole = F.pad(small, edges) + frame * torch.sigmoid(prompt)
        logits = vit(pixel_values=((whole - 0.5) / 0.5).to(kind)).logits
        return F.cross_entropy(logits.float() @ chosen, y)

    return prompt, loss


def word_loss(sizes: Sizes, kind: Any, device: Any) -> tuple[Any, Callable[[], Any]]:
    """Prompt tuning's prompt, and its loss."""
    import torch
    import transformers
    from torch.nn import functional as F

    config: Any = transformers.LlamaConfig
    llama: Any = transformers.LlamaForCausalLM(config(**sizes.llama))
    llama = llama.eval().requires_grad_(False).to(device, kind)
    shape = sizes.texts, sizes.length
    ids = torch.randint(0, sizes.llama["vocab_size"], shape, device=device)
    words, width = llama.get_input_embeddings()(ids), sizes.llama["hidden_size"]
    prompt = (0.02 * torch.randn(PROMPT, width, device=device)).requires_grad_()
    y = torch.arange(sizes.texts, device=device) % len(WORDS)

    def loss() -> Any:
        front = prompt.to(kind).expand(sizes.texts, PROMPT, width)
        found = llama(
            inputs_embeds=torch.cat([front, words], 1),
            logits_to_keep=1,
            use_cache=False,
        )
        return F.cross_entropy(found.logits[:, -1, list(WORDS)].float(), y)

    return prompt, loss
