"""A process that has loaded torch and gyral, and forks what tests would start: a verb or a rank then begins in .05 s, not in 3.

What it forks is a process of its own, with the words, environment, folder and streams it is given, and nothing that was learned
or opened before. A request comes over a socket, with the streams and what else is inherited; it is answered by the number of
the process, and by its exit code when it has ended. It ends when its own stdin does, and all it has forked with it.
"""

import contextlib
import fcntl
import gc
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
import types

FORKER = "GYRAL_TESTS_FORKER"
"""Names the socket to those who run below it."""
STARTED = "GYRAL_TESTS_START_RANKS"
"""In the environment of a verb: what it starts is started as ever, not forked."""
STARTERS = ["gyral.engine.ranks", "gyral.live.watched", "gyral.params.channels.proc", "gyral.served"]
"""Modules that start processes of gyral."""
LOADED = [
    *STARTERS,
    "gyral.cli",
    "gyral.fronts",
    "gyral.serve.http1.server",
    "gyral.serve.worker",
    "gyral.params.serve",
    "gyral.live.learner",
    "gyral.train.rank",
    "gyral.train.tasks",
    "gyral.train.trainer",
    "torch.distributed.tensor",
    "torch._dynamo",
]
"""The last one is loaded by the first step of any optimizer, for 1.2 s."""
HIGH = 200
"""From here on a child keeps what it inherits, until each is at its own number."""


class Forked(subprocess.Popen):
    """A process that the forker has made for this one; its words are those after the interpreter."""

    def __init__(self, words, forker=None, **options):
        self._forker = forker or os.environ[FORKER]
        super().__init__([os.fspath(word) if isinstance(word, os.PathLike) else str(word) for word in words], **options)

    def _execute_child(self, words, _1, before, _2, inherits, folder, environment, _3, _4, _5, *more):
        stdin, stdin_of_ours, stdout_of_ours, stdout, stderr_of_ours, stderr, *_, has_session, group = more
        assert before is None
        asked = {
            "words": words, "environment": dict(os.environ if environment is None else environment),
            "folder": os.fspath(folder or os.getcwd()), "inherits": [*inherits], "parent": os.getpid(),
            "has_session": has_session, "group": group,
        }  # fmt: skip
        text = json.dumps(asked).encode()
        streams = [number if given < 0 else given for number, given in enumerate((stdin, stdout, stderr))]
        self._link = socket.socket(socket.AF_UNIX)
        try:
            self._link.connect(self._forker)
            socket.send_fds(self._link, [len(text).to_bytes(4, "big")], [*streams, *inherits])
            self._link.sendall(text)
            self.pid = int(self._line())
        finally:
            self._close_pipe_fds(stdin, stdin_of_ours, stdout_of_ours, stdout, stderr_of_ours, stderr)
        self._child_created = True

    def _line(self):
        text = b""
        while not text.endswith(b"\n") and (more := self._link.recv(1)):
            text += more
        return text

    def _wait(self, timeout):
        while self.returncode is None:
            with contextlib.suppress(ValueError):  # somebody else was told, and has closed it
                if not select.select([self._link], [], [], timeout)[0]:
                    raise subprocess.TimeoutExpired(self.args, timeout)
            if self._waitpid_lock.acquire(timeout=1):
                try:
                    if self.returncode is None:
                        self.returncode = int(self._line() or -signal.SIGKILL)  # or the forker has ended, and took it along
                        self._link.close()
                finally:
                    self._waitpid_lock.release()
        return self.returncode

    def _internal_poll(self, *_, **__):
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._wait(0)
        return self.returncode


def started(command, log, environment, sockets=(), before=None):
    """What `ranks.start` does, by the forker."""
    from gyral.engine.ranks import QUIET

    assert before is None
    with open(log, "ab") as file:
        streams = {"stdin": subprocess.DEVNULL, "stdout": file, "stderr": file}
        return Forked(command, env={**os.environ, **QUIET, **environment}, pass_fds=sockets, **streams)


def popen(command, **options):
    """In place of `subprocess.Popen`: a module, code or a script that this Python is to run is forked, all else is started."""
    words = [str(word) for word in command[1:]]
    words = words[1:] if words[:1] == ["-P"] else words
    is_known = words and (words[0] in ("-m", "-c") or not words[0].startswith("-"))
    if not os.environ.get(FORKER) or command[0] != sys.executable or not is_known or options.get("preexec_fn"):
        return subprocess.Popen(command, **options)
    return Forked(words, **options)


def instead(begin):
    """The module `subprocess` with another `Popen`."""
    return types.SimpleNamespace(**{**vars(subprocess), "Popen": begin})


def shim(path):
    """Stand for `gyral` where a shell starts it: its words, folder, environment and streams; signals are handed on."""
    environment = {**os.environ, FORKER: path}
    process = Forked(["-m", "gyral", *sys.argv[1:]], path, env=environment)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: process.send_signal(number))
    code = process.wait()
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


def child(words, environment, folder, streams, inherits, parent, has_session, group):
    """What `python -P WORDS` would do, as a process that was started anew."""
    high = [fcntl.fcntl(stream, fcntl.F_DUPFD, HIGH) for stream in streams]
    for stream in streams:
        os.close(stream)
    for number, stream in zip([0, 1, 2, *inherits], high, strict=True):
        os.dup2(stream, number)
        os.close(stream)
    if has_session:
        os.setsid()
    elif group >= 0:
        os.setpgid(0, group)
    alive = os.pidfd_open(parent)
    os.getppid = lambda: 1 if select.select([alive], [], [], 0)[0] else parent
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:0] = [os.path.abspath(each) for each in environment.get("PYTHONPATH", "").split(os.pathsep) if each]
    if "PYTHONUNBUFFERED" in environment:
        sys.stdout.reconfigure(write_through=True)
    from gyral import faults

    importlib.reload(faults)  # reads the environment when it is imported
    if STARTED not in environment:
        for name in STARTERS:
            sys.modules[name].subprocess = instead(popen)
    try:
        if words[0] == "-c":
            sys.argv = ["-c", *words[2:]]
            sys.modules["__main__"] = types.ModuleType("__main__")
            exec(compile(words[1], "<string>", "exec"), vars(sys.modules["__main__"]))
        elif words[0] == "-m":
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
    size, streams, _, _ = socket.recv_fds(link, 4, 16)
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
    gc.freeze()  # a collection in a child would copy every page it looks at


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
                for other in [*events.get_map().values()]:
                    if other.data:
                        signal.pidfd_send_signal(other.fileobj, signal.SIGKILL)
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
