"""Settings in the files beside weights: each is used, known to be harmless, or refused.

Two models may have equal tensors and differ in a setting (an activation, an epsilon,
the rotation of positions), so no setting is ignored in silence.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, TypedDict, get_type_hints

from msgspec import Meta

from reprojax.saving.files import checked

Config = Mapping[str, Any]
Count = Annotated[int, Meta(ge=1, lt=2**31)]
Positive = Annotated[float, Meta(gt=0)]

HARMLESS = (
    # names and records
    r"_.*|transformers_version|transformers\.js_config|torch_dtype|dtype|auto_map"
    r"|label2id|label_descriptions|num_(classes|features)|problem_type|finetuning_task|task_specific_params|name_or_path"
    r"|tokenizer_class|processor_class|model_max_length|unsloth_\w+|is_llama_config"
    # training
    r"|\w*dropout\w*|\w+_pdrop|drop_path_rate|initializer_(range|factor)|init_std"
    r"|gradient_checkpointing|layerscale_value"
    # how it is run: the same numbers up to rounding
    r"|use_cache|pretraining_tp|chunk_size_feed_forward|output_(attentions|hidden_states|scores|past)|return_dict\w*"
    r"|torchscript|use_bfloat16|reorder_and_upcast_attn"
    # generation, which the caller controls
    r"|do_sample|temperature|top_[kp]|typical_p|num_(beams|beam_groups|return_sequences)"
    r"|(max|min)_(length|new_tokens)|early_stopping|length_penalty|repetition_penalty"
    r"|diversity_penalty|(encoder_)?no_repeat_ngram_size|prefix|remove_invalid_values"
    r"|(decoder_start|sep|cls)_token_id"
)


class Common(TypedDict, total=False):
    """Settings that the config of any model may have."""

    model_type: str
    architectures: list[str]
    is_encoder_decoder: bool
    bos_token_id: int
    eos_token_id: int | list[int]
    pad_token_id: int
    mask_token_id: int


class Vision(Common, total=False):
    """Settings of an image model's config, by transformers or timm."""

    id2label: dict[str, str | int]
    architecture: str
    global_pool: str
    model_args: dict[str, Any]
    pretrained_cfg: dict[str, Any]
    label_names: list[str] | dict[str, str]


def settings(
    config: Config,
    kind: Any,
    name: str,
    harmless: str = "",
    ignore: Iterable[str] = (),
) -> dict[str, Any]:
    """The settings of a config that the reader of a model uses, with checked types.

    Args:
        kind: a TypedDict of the settings that are read; null means not set.
        harmless: a pattern of further keys that do not affect the forward pass.
        ignore: keys to ignore at the caller's request.

    Raises:
        ValueError: other keys, values of other types, or an encoder-decoder,
            which is built nowhere here.
    """
    known = get_type_hints(kind, include_extras=True)
    passed = re.compile(f"{HARMLESS}|{harmless}" if harmless else HARMLESS)
    other = {
        key: value
        for key, value in config.items()
        if not (key in known or key in ignore or passed.fullmatch(key))
        and value is not None
        and value != {}
        and value != []
    }
    if other:
        raise ValueError(
            f"{name} has settings that are not known here: {other}, expected none, "
            "because they may define another model; if they do not change what it "
            f"computes, call load(..., ignore={[*other]})"
        )
    here = {key: value for key, value in config.items() if key in known}
    checked({k: v for k, v in here.items() if v is not None}, kind, name)
    refuse(here, name, is_encoder_decoder=False)
    return here


def refuse(config: Config, name: str, **wanted: Any) -> None:
    """Raise at settings that differ from what is built here; absent ones are fine."""
    for key, value in wanted.items():
        given = config.get(key)
        if given is not None and given != value:
            raise ValueError(
                f"got {name} with {key} = {given!r}, expected {value!r}, the only "
                "kind that is built here; write a module for it, and call "
                "models.images(module, size, mean, std) or language.texts(module)"
            )


def refuse_heads(config: Config, fitting: str, name: str) -> None:
    """Raise at a config of a class with final layers that are not read here."""
    for kind in config.get("architectures") or ():
        if not re.fullmatch(fitting, kind):
            raise ValueError(
                f"{name} was saved as {kind}, expected a name like {fitting!r}: its "
                "last layers are not read here; save what is before them, "
                "AutoModel.from_pretrained(folder).save_pretrained(another), and give "
                "that"
            )


def bounded(depth: int, tensors: Iterable[str]) -> int:
    """The number of layers; raise if there are more layers than tensors."""
    if depth > (most := len(list(tensors))):
        raise ValueError(
            f"got a model of {depth} layers with {most} tensors, expected some for "
            "each layer; fetch the files again"
        )
    return depth
