"""A project whose models go to devices, a real server process, and a wire that can be cut, slowed and damaged."""

import json
import shutil
import socket
import subprocess
import sys
import threading
from contextlib import suppress

import numpy as np
import pytest

from gyral.files import new_version
from gyral.model import card as cards
from gyral.model.card import Weights

from ... import verbs


@pytest.fixture
def copy(made, tmp_path):
    """A copy of the project `made`, to work in."""
    shutil.copytree(made.root, tmp_path / "copy", ignore=shutil.ignore_patterns("runs", "datasets", "lake"))
    return tmp_path / "copy"


@pytest.fixture
def learn():
    """Publish the next version of a model: some rows of its item–item table, drawn by a seed, were learned on."""

    def next_version(root, name, rows=20, seed=0):
        source = cards.find(root, name)
        weights = cards.read_weights(source)
        table = weights.arrays["item_item"].copy()
        rng = np.random.default_rng(seed)
        chosen = rng.choice(len(table), min(rows, len(table)), replace=False)
        table[chosen] = rng.permutation(table[chosen], axis=1)
        with new_version(root / "models", name) as (folder, number):
            for path in source.iterdir():
                shutil.copy(path, folder / path.name)
            cards.write_weights(folder, Weights({**weights.arrays, "item_item": table}, weights.settings))
            card = json.loads((folder / "card.json").read_text())
            (folder / "card.json").write_text(json.dumps({**card, "model": f"{name}@{number}"}))
        return f"{name}@{number}"

    return next_version


@pytest.fixture
def start(tmp_path):
    """Start `gyral serve`; its address."""
    children = []

    def run(root, model, *args):
        command = [sys.executable, "-P", "-m", "gyral", "serve", model, "--root", str(root), "--port", "0", "--json"]
        command += ["--set", "serve.impressions=false", *args]
        with open(tmp_path / "serve.log", "ab") as log:
            child = verbs.popen(command, stdout=subprocess.PIPE, stderr=log)
        children.append(child)
        line = child.stdout.readline()
        assert line, (tmp_path / "serve.log").read_text()
        return json.loads(line)["url"]

    yield run
    for child in children:
        child.kill()
        child.wait()
        child.stdout.close()


class Wire:
    """Between a device and a server: everything the server says goes through `through(data, total)`.

    It returns what goes on, or None to cut the connection.
    """

    def __init__(self, url):
        self._to = ("127.0.0.1", int(url.rpartition(":")[2]))
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self.total = 0
        self.asked = []
        self.through = lambda data, total: data
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            server = socket.create_connection(self._to)
            threading.Thread(target=self._up, args=(client, server), daemon=True).start()
            threading.Thread(target=self._down, args=(server, client), daemon=True).start()

    def _up(self, client, server):
        with suppress(OSError):
            while data := client.recv(65_536):
                self.asked.append(data)
                server.sendall(data)
        with suppress(OSError):
            server.shutdown(socket.SHUT_WR)

    def _down(self, server, client):
        with suppress(OSError):
            while (data := server.recv(65_536)) and (data := self.through(data, self.total)) is not None:
                self.total += len(data)
                client.sendall(data)
        for each in (server, client):  # closing alone would leave a thread that reads, and the other side in the dark
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def close(self):
        self._listening.close()


@pytest.fixture
def wire():
    """Make a wire to a server."""
    wires = []

    def lay(url):
        wires.append(Wire(url))
        return wires[-1]

    yield lay
    for each in wires:
        each.close()
