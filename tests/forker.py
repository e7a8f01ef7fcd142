"""A process that has loaded torch and gyral, and forks what tests would start: a verb or a rank then begins in .05 s, not in 3.

What it forks is a process of its own, with the words, environment, folder and streams it is given, and nothing that was learned
or opened before. A request comes over a socket, with the streams; it is answered by the number of the process, and by its
exit code when it has ended. The forker ends when its own stdin does.
"""

import contextlib
import importlib
import json
import os
import runpy
import select
import selectors
import signal
import socket
import subprocess
import sys
import traceback
from types import SimpleNamespace

FORKER = "GYRAL_TESTS_FORKER"
"""Names the socket to those who run below it."""
STARTED = "GYRAL_TESTS_START_RANKS"
"""In the environment of a verb: its ranks are started as ever, not forked."""
RANK = ["-m", "gyral.train.rank"]
LOADED = [
    "gyral.cli",
    "gyral.train.rank",
    "gyral.train.tasks",
    "gyral.train.trainer",
    "torch.distributed.tensor",
    "torch._dynamo",
]
"""The last one is loaded by the first step of any optimizer, for 1.2 s."""


class Forked:
    """A process that the forker has made for this one: what `subprocess.Popen` can do."""

    def __init__(self, path, words, environment, streams, folder=None):
        self._link = socket.socket(socket.AF_UNIX)
        self._link.connect(path)
        text = json.dumps({"words": words, "environment": dict(environment), "folder": str(folder or os.getcwd())}).encode()
        socket.send_fds(self._link, [len(text).to_bytes(4, "big")], streams)
        self._link.sendall(text)
        self.args, self.pid, self.returncode = words, int(self._line()), None

    def _line(self):
        text = b""
        while not text.endswith(b"\n") and (more := self._link.recv(1)):
            text += more
        return text

    def wait(self, timeout=None):
        if self.returncode is None:
            if not select.select([self._link], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout)
            self.returncode = int(self._line() or -signal.SIGKILL)  # or the forker has ended, and took it along
            self._link.close()
        return self.returncode

    def poll(self):
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def send_signal(self, number):
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self):
        self.send_signal(signal.SIGTERM)

    def kill(self):
        self.send_signal(signal.SIGKILL)


def started(command, log, environment, sockets=(), before=None):
    """What `ranks.start` does, by the forker."""
    from gyral.engine.ranks import QUIET

    assert not sockets and before is None
    with open(log, "ab") as file, open(os.devnull, "rb") as nothing:
        streams = [nothing.fileno(), file.fileno(), file.fileno()]
        words = [str(word) for word in command]
        return Forked(os.environ[FORKER], words, {**os.environ, **QUIET, **environment}, streams)


def popen(command, **options):
    """In place of `subprocess.Popen` of `engine/ranks.py`: a rank is forked, all else is started."""
    path = os.environ.get(FORKER)
    if not path or command[2:4] != RANK or options.get("pass_fds") or options.get("preexec_fn"):
        return subprocess.Popen(command, **options)
    with open(os.devnull, "rb") as nothing:
        streams = [nothing.fileno(), options["stdout"].fileno(), options["stderr"].fileno()]
        return Forked(path, command[2:], options["env"], streams)


def shim(path):
    """Stand for `gyral` where a shell starts it: its words, folder, environment and streams; signals are handed on."""
    environment = {**os.environ, FORKER: path}
    process = Forked(path, ["-m", "gyral", *sys.argv[1:]], environment, [0, 1, 2])
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: process.send_signal(number))
    code = process.wait()
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


def child(words, environment, folder, streams):
    """What `python -P WORDS` would do, as a process that was started anew."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:0] = [os.path.abspath(each) for each in environment.get("PYTHONPATH", "").split(os.pathsep) if each]
    if "PYTHONUNBUFFERED" in environment:
        sys.stdout.reconfigure(write_through=True)
    from gyral import faults
    from gyral.engine import ranks

    importlib.reload(faults)  # reads the environment when it is imported
    if STARTED not in environment:
        ranks.subprocess = SimpleNamespace(**{**vars(subprocess), "Popen": popen})
    try:
        if words[0] == "-m":
            sys.argv = words[1:]
            sys.modules.pop(words[1], None)
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = words
            runpy.run_path(words[0], run_name="__main__")
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(bool(ended.code))
        if ended.code and not isinstance(ended.code, int):
            print(ended.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def request(link):
    """Words, environment, folder and streams of one."""
    size, streams, _, _ = socket.recv_fds(link, 4, 3)
    size, text = int.from_bytes(size, "big"), b""
    while len(text) < size:
        text += link.recv(size - len(text))
    return json.loads(text), streams


def load():
    """Do once what each of them would."""
    from numba.core.registry import cpu_target

    for name in LOADED:
        importlib.import_module(name)
    for each in (cpu_target.typing_context, cpu_target.target_context):
        each.refresh()  # as the first kernel would


def serve(path):
    load()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(64)
    events = selectors.DefaultSelector()
    events.register(sys.stdin, selectors.EVENT_READ)
    events.register(listener, selectors.EVENT_READ)
    print("ready", flush=True)
    while True:
        for key, _ in events.select():
            if key.fileobj is sys.stdin:  # who started it has ended, and may not have had the time to end the others
                os.killpg(os.getpgid(0), signal.SIGKILL)
            if key.fileobj is listener:
                link, _ = listener.accept()
                asked, streams = request(link)
                pid = os.fork()
                if not pid:
                    for other in [*events.get_map().values()]:
                        if other.data:
                            os.close(other.fileobj)
                            other.data[1].close()
                    for each in (events, listener, link):
                        each.close()
                    child(streams=streams, **asked)
                for each in streams:
                    os.close(each)
                events.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, link))
                link.sendall(f"{pid}\n".encode())
            else:
                pid, link = key.data
                code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                events.unregister(key.fileobj)
                os.close(key.fileobj)
                with link, contextlib.suppress(OSError):  # who asked may have been killed
                    link.sendall(f"{code}\n".encode())


if __name__ == "__main__":
    serve(sys.argv[1])
