"""Small language models as files, their tensors named as others name them."""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

VOCABULARY, WIDTH, HIDDEN, DEPTH, HEADS, KV_HEADS = 40, 16, 24, 2, 4, 2
LLAMA = dict(
    architectures=["LlamaForCausalLM"],
    model_type="llama",
    vocab_size=VOCABULARY,
    hidden_size=WIDTH,
    intermediate_size=HIDDEN,
    num_hidden_layers=DEPTH,
    num_attention_heads=HEADS,
    num_key_value_heads=KV_HEADS,
    max_position_embeddings=32,
    rms_norm_eps=1e-6,
    hidden_act="silu",
    tie_word_embeddings=True,
    rope_theta=100.0,
    bos_token_id=1,
    eos_token_id=2,
)
GPT2 = dict(
    architectures=["GPT2LMHeadModel"],
    model_type="gpt2",
    vocab_size=VOCABULARY,
    n_embd=WIDTH,
    n_layer=DEPTH,
    n_head=HEADS,
    n_positions=32,
    activation_function="gelu_new",
    layer_norm_epsilon=1e-5,
)
BERT = dict(
    architectures=["BertForMaskedLM"],
    model_type="bert",
    vocab_size=VOCABULARY,
    hidden_size=WIDTH,
    intermediate_size=HIDDEN,
    num_hidden_layers=DEPTH,
    num_attention_heads=HEADS,
    max_position_embeddings=32,
    type_vocab_size=2,
    layer_norm_eps=1e-12,
    hidden_act="gelu",
    pad_token_id=0,
)


def llama() -> dict[str, np.ndarray]:
    """transformers' names, tied."""
    kv = KV_HEADS * WIDTH // HEADS
    shapes = {
        "model.embed_tokens.weight": (VOCABULARY, WIDTH),
        "model.norm.weight": (WIDTH,),
    }
    for i in range(DEPTH):
        at = f"model.layers.{i}."
        shapes |= {
            at + "input_layernorm.weight": (WIDTH,),
            at + "post_attention_layernorm.weight": (WIDTH,),
            at + "self_attn.q_proj.weight": (WIDTH, WIDTH),
            at + "self_attn.k_proj.weight": (kv, WIDTH),
            at + "self_attn.v_proj.weight": (kv, WIDTH),
            at + "self_attn.o_proj.weight": (WIDTH, WIDTH),
            at + "mlp.gate_proj.weight": (HIDDEN, WIDTH),
            at + "mlp.up_proj.weight": (HIDDEN, WIDTH),
            at + "mlp.down_proj.weight": (WIDTH, HIDDEN),
        }
    return drawn(shapes)


def gpt2() -> dict[str, np.ndarray]:
    """The names of the checkpoint on the hub, which has its masks in it."""
    shapes = {
        "wte.weight": (VOCABULARY, WIDTH),
        "wpe.weight": (32, WIDTH),
        **_pair("ln_f", (WIDTH,)),
    }
    for i in range(DEPTH):
        at = f"h.{i}."
        shapes |= _pair(at + "ln_1", (WIDTH,)) | _pair(at + "ln_2", (WIDTH,))
        shapes |= _pair(at + "attn.c_attn", (WIDTH, 3 * WIDTH))  # [in, out]
        shapes |= _pair(at + "attn.c_proj", (WIDTH, WIDTH))
        shapes |= _pair(at + "mlp.c_fc", (WIDTH, 4 * WIDTH))
        shapes |= _pair(at + "mlp.c_proj", (4 * WIDTH, WIDTH))
        shapes |= {at + "attn.bias": (1, 1, 32, 32)}
    return drawn(shapes)


def bert() -> dict[str, np.ndarray]:
    """The names of bert-base-uncased, of TensorFlow's time."""
    shapes = {
        "bert.embeddings.word_embeddings.weight": (VOCABULARY, WIDTH),
        "bert.embeddings.position_embeddings.weight": (32, WIDTH),
        "bert.embeddings.token_type_embeddings.weight": (2, WIDTH),
        **_old("bert.embeddings.LayerNorm"),
        **_dense("bert.pooler.dense", WIDTH, WIDTH),
        **_dense("cls.predictions.transform.dense", WIDTH, WIDTH),
        **_old("cls.predictions.transform.LayerNorm"),
        "cls.predictions.bias": (VOCABULARY,),
        "cls.predictions.decoder.weight": (VOCABULARY, WIDTH),
        **_dense("cls.seq_relationship", 2, WIDTH),
    }
    for i in range(DEPTH):
        at = f"bert.encoder.layer.{i}."
        for name in ("query", "key", "value"):
            shapes |= _dense(f"{at}attention.self.{name}", WIDTH, WIDTH)
        shapes |= _dense(at + "attention.output.dense", WIDTH, WIDTH)
        shapes |= _old(at + "attention.output.LayerNorm") | _old(
            at + "output.LayerNorm"
        )
        shapes |= _dense(at + "intermediate.dense", HIDDEN, WIDTH)
        shapes |= _dense(at + "output.dense", WIDTH, HIDDEN)
    tensors = drawn(shapes)
    words = tensors["bert.embeddings.word_embeddings.weight"]
    return tensors | {"cls.predictions.decoder.weight": words.copy()}


MODELS = {"llama": (LLAMA, llama), "gpt2": (GPT2, gpt2), "bert": (BERT, bert)}


def write(folder: Path, name: str, **changes) -> Path:
    """One of MODELS as a folder, its config with changes."""
    config, tensors = MODELS[name]
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    save_file(tensors(), folder / "model.safetensors")
    return folder


def write_gguf(path: Path, kind: str = "F32", **more) -> Path:
    """`llama()` as llama.cpp's converter writes it: pairs of neighbours are rotated."""
    import gguf

    its = gguf.GGUFWriter(path, "llama")
    its.add_block_count(DEPTH)
    its.add_context_length(32)
    its.add_embedding_length(WIDTH)
    its.add_feed_forward_length(HIDDEN)
    its.add_head_count(HEADS)
    its.add_head_count_kv(KV_HEADS)
    its.add_layer_norm_rms_eps(1e-6)
    its.add_rope_freq_base(100.0)
    its.add_bos_token_id(1)
    its.add_eos_token_id(2)
    for name, value in more.items():
        getattr(its, name)(*value if isinstance(value, tuple) else (value,))
    names = {"model.embed_tokens": "token_embd", "model.norm": "output_norm"}
    inner = {
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
    }
    for i in range(DEPTH):
        names |= {f"model.layers.{i}.{a}": f"blk.{i}.{b}" for a, b in inner.items()}
    for name, value in llama().items():
        name = names[name.removesuffix(".weight")]
        if name.endswith(("attn_q", "attn_k")):  # halves [2, d / 2] -> pairs
            halves = value.reshape(-1, 2, WIDTH // HEADS // 2, WIDTH)
            value = np.ascontiguousarray(halves.swapaxes(1, 2).reshape(value.shape))
        stored = gguf.GGMLQuantizationType[kind if value.ndim == 2 else "F32"]
        if kind == "I32":
            value = value.astype(np.int32)
        else:
            value = gguf.quants.quantize(value, stored)
        its.add_tensor(f"{name}.weight", value, raw_dtype=stored)
    its.write_header_to_file()
    its.write_kv_data_to_file()
    its.write_tensors_to_file()
    its.close()
    return path


def _pair(name: str, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": shape, f"{name}.bias": shape[-1:]}


def _dense(name: str, out: int, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (out, width), f"{name}.bias": (out,)}


def _old(name: str) -> dict[str, tuple[int, ...]]:
    return {f"{name}.gamma": (WIDTH,), f"{name}.beta": (WIDTH,)}


def drawn(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Random values, scales around 1."""
    draw, out = np.random.default_rng(0), {}
    for name, shape in shapes.items():
        value = 0.4 * draw.standard_normal(shape)
        one = len(shape) == 1 and name.endswith(("norm.weight", ".gamma"))
        out[name] = np.asarray(value + one, np.float32)
    return out
