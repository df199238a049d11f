"""Weights by name, from a server on this machine that speaks as the hub does."""

import json
import os
import subprocess
import sys

import model_files as files
import pytest
from hub_server import serving

from reprojax.core.trees import fingerprint
from reprojax.models import load

LOAD = """
import sys
from reprojax.core import fingerprint
from reprojax.models import load
for name in sys.argv[1:]:
    try:
        model = load(name)
        print(model.name, model.input.size, model.classes[1], fingerprint(model.frozen))
    except ValueError as error:
        print(error)
"""


@pytest.fixture
def hub(tmp_path):
    folder = files.write_shards(tmp_path / "repository", files.vit())
    labels = {str(i): f"bird {i}" for i in range(5)}
    (folder / "config.json").write_text(json.dumps({"id2label": labels} | files.CONFIG))
    (folder / "pytorch_model.bin").write_bytes(b"a pickle that nobody wants")
    with serving(folder) as server:
        yield server


def loaded(endpoint, home, *names):
    """What another Python prints, as the hub's package reads its address on import."""
    own = dict(HF_ENDPOINT=endpoint, HF_HOME=str(home), HF_HUB_OFFLINE="0")
    own |= dict(NO_PROXY="127.0.0.1", no_proxy="127.0.0.1")
    command = [sys.executable, "-c", LOAD, *names]
    done = subprocess.run(
        command, env=os.environ | own, capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()


def test_a_hub_model_is_fetched_once_and_kept(hub, tmp_path):
    endpoint = f"http://127.0.0.1:{hub.server_port}"
    line, absent = loaded(endpoint, tmp_path / "home", "lab/tiny", "lab/absent")
    frozen = load(hub.folder).frozen
    assert line == f"lab/tiny 16 bird 1 {fingerprint(frozen)}"
    assert absent.startswith("the hub has no model 'lab/absent'")
    got = sorted(name for command, name in hub.sent if command == "GET")
    assert got == sorted({f.name for f in hub.folder.iterdir()} - {"pytorch_model.bin"})

    nowhere = "http://127.0.0.1:9"  # no network: the copy, or what to do
    line, absent = loaded(nowhere, tmp_path / "home", "lab/tiny", "lab/absent")
    assert line.endswith(fingerprint(frozen))
    assert "with no network, give load() a folder" in absent


def test_without_the_hubs_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ValueError, match="pip install huggingface-hub"):
        load("lab/tiny")
