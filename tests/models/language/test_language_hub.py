"""A language model by its name on the hub."""

import os
import subprocess
import sys

import language_files as files
from hub_server import environment, serving

from reprojax.core.trees import fingerprint
from reprojax.models import language

LOAD = """
from reprojax.core import fingerprint
from reprojax.models import language
model = language.load("lab/tiny")
print(model.name, model.input.tokenizer.encode("hello"), model.input.special.eos)
print(fingerprint(model.frozen))
try:
    language.load("lab/absent")
except ValueError as error:
    print(error)
"""


def test_weights_and_tokeniser_are_fetched_and_nothing_else(tmp_path):
    folder = files.write(tmp_path / "repository", "bert")
    (folder / "vocab.txt").write_text(
        "[PAD] [UNK] [CLS] [SEP] hello".replace(" ", "\n")
    )
    (folder / "generation_config.json").write_text('{"eos_token_id": 3}')
    for name in ("pytorch_model.bin", "model.gguf", "preprocessor_config.json"):
        (folder / name).write_bytes(b"nobody wants it")
    with serving(folder) as hub:
        own = os.environ | environment(hub, tmp_path / "home")
        command = [sys.executable, "-c", LOAD]
        done = subprocess.run(
            command, env=own, capture_output=True, text=True, check=True
        )
    first, print_, absent = done.stdout.splitlines()
    assert first == "lab/tiny [2, 4, 3] (3,)"
    assert print_ == fingerprint(language.load(folder).frozen)
    assert absent.startswith("the hub has no model 'lab/absent'")
    got = sorted(name for command, name in hub.sent if command == "GET")
    wanted = ["config.json", "generation_config.json", "model.safetensors", "vocab.txt"]
    assert got == wanted
