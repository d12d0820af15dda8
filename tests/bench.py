"""How fast, and in how much memory, beside the programs that others use for the same; `make bench` says how to run it.

Every measure is taken ROUNDS times (5), in an order shuffled anew each round, each time in a fresh process; the table
has medians, with the least and the greatest. `limit` is a script that does nothing but what the system must do.
ONLY=exec-1,get takes some measures, PROGRAM=PATH another copy of the program; with either, or fewer rounds, the figures
go to .bench/ rather than docs/.

Memory that nobody has used for a while may have gone back to whatever this machine runs on, and its first touch is
slow: `touch` brings it back before each transfer, for every server alike.
"""

import collections
import contextlib
import fcntl
import json
import os
import pathlib
import platform
import random
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROGRAM = os.path.abspath(os.environ.get("PROGRAM") or ROOT / "mycodeinterpreter.py")
PYTHON = sys.executable  # of an environment of its own, where no package slows the start down, and no shim
ROUNDS = int(os.environ.get("ROUNDS") or 5)
ONLY = [name for name in os.environ.get("ONLY", "").split(",") if name]
US, LIMIT = "mycodeinterpreter", "limit"
PATH = os.environ["PATH"] + ":/usr/sbin"
GIB, MIB = 1 << 30, 1 << 20
BOUNDARY = "------------------------d74496d66958873e3b2a1c"  # as curl's; a short one is found at half the speed
OUTPUT = 100_000_000  # bytes of the great output
SECONDS = 1.2  # in which one client asks as often as it can

Measure = collections.namedtuple("Measure", "title unit better")
MEASURES = {
    "exec-1": Measure("execcmd of `true`, 1 connection, p50", "ms", min),
    "exec-8": Measure("execcmd of `true`, 8 connections", "calls/s", max),
    "output": Measure("`head -c 100000000 /dev/zero`, all of it", "ms", min),
    "output-memory": Measure("memory at the peak of 100 MB of output", "MiB", min),
    "get": Measure("get-file of 1 GiB", "MiB/s", max),
    "get-memory": Measure("memory at the peak of get-file of 1 GiB", "MiB", min),
    "send": Measure("send-file of 1 GiB, multipart to disk", "MiB/s", max),
    "send-memory": Measure("memory at the peak of send-file of 1 GiB", "MiB", min),
    "missing-1": Measure("404 for an unknown path, 1 connection", "answers/s", max),
    "missing-64": Measure("404 for an unknown path, 64 connections", "answers/s", max),
    "small-1": Measure("get-file of 1 KiB, 1 connection", "answers/s", max),
    "small-64": Measure("get-file of 1 KiB, 64 connections", "answers/s", max),
    "start": Measure("spawn to first answer", "ms", min),
    "idle": Measure("memory after the first answer", "MiB", min),
}
TARGETS = [  # measure, against whom (None: the figure itself), how, bound
    ("exec-1", "webhook", "<=", 0.95),
    ("exec-8", "webhook", ">=", 1.0),
    ("output", LIMIT, "<=", 1.3),
    ("output-memory", None, "<=", 30),
    ("get", "nginx", ">=", 0.85),
    ("get-memory", None, "<=", 30),
    ("send", LIMIT, ">=", 0.8),
    ("send", "aiohttp", ">=", 2),
    ("send-memory", None, "<=", 30),
    ("missing-1", "aiohttp", ">=", 1.3),
    ("missing-64", "aiohttp", ">=", 1.0),
    ("small-1", "aiohttp", ">=", 1.3),
    ("small-64", "aiohttp", ">=", 1.0),
    ("start", "http.server", "<=", 0.85),
    ("idle", None, "<=", 20),
]

# The servers: how each is started, and the request by which each is asked for the same.

Peer = collections.namedtuple("Peer", "command asks headers")
HEAD_ZERO = urllib.parse.quote("head -c %d /dev/zero" % OUTPUT)
OURS = {
    "exec": "POST /execcmd?cmd=true",
    "output": "POST /execcmd?limit=0&cmd=" + HEAD_ZERO,
    "get": "GET /get-file?filename=big",
    "small": "GET /get-file?filename=small",
    "send": "POST /send-file document",  # and the name of the field
    "missing": "GET /nothing",
}
HOOKS = [{
    "id": "run", "execute-command": "/bin/sh", "include-command-output-in-response": True,
    "pass-arguments-to-command": [{"source": "string", "name": "-c"}, {"source": "url", "name": "cmd"}],
}]
NGINX = """
daemon off; worker_processes 1; pid %(scratch)s/nginx.pid; error_log stderr; %(user)s
events { worker_connections 1024; }
http { access_log off; sendfile on; keepalive_requests 100000000; default_type application/octet-stream;
  client_body_temp_path %(scratch)s/n1; proxy_temp_path %(scratch)s/n2; fastcgi_temp_path %(scratch)s/n3;
  uwsgi_temp_path %(scratch)s/n4; scgi_temp_path %(scratch)s/n5;
  server { listen 127.0.0.1:%(port)d; root %(scratch)s/work; } }
"""


def peers(scratch):
    """{name: Peer}; the PORT in a command is filled in later. None for those that are not here."""
    (scratch / "hooks.json").write_text(json.dumps(HOOKS))
    plain = {"get": "GET /big", "small": "GET /small", "missing": "GET /nothing"}
    terminal = {"exec": 'POST /execute?wait=60 {"command": "true"}'}  # for files it has what FastAPI has
    here = str(pathlib.Path(__file__).resolve())
    found = {
        US: Peer([PYTHON, str(scratch / "mycodeinterpreter.py"), "noauth", "-nosafe", "-port", "PORT"], OURS, []),
        # The same from the bytecode that Python keeps of a module, though not of a script.
        US + " -m": Peer([PYTHON, "-m", "mycodeinterpreter", "noauth", "-nosafe", "-port", "PORT"], {}, []),
        LIMIT: Peer([PYTHON, here, "limit", "PORT"], {name: OURS[name] for name in ("output", "get", "send")}, []),
        "webhook": Peer(["webhook", "-hooks", str(scratch / "hooks.json"), "-ip", "127.0.0.1", "-port", "PORT"],
                        {"exec": "POST /hooks/run?cmd=true", "output": "POST /hooks/run?cmd=" + HEAD_ZERO,
                         "missing": "GET /nothing"}, []),
        "nginx": Peer(["nginx", "-c", str(scratch / "nginx.conf")], plain, []),
        "http.server": Peer([PYTHON, "-m", "http.server", "--bind", "127.0.0.1", "PORT"], plain, []),
        "uploadserver": Peer([sys.executable, "-m", "uploadserver", "--bind", "127.0.0.1", "PORT"],
                             {"get": "GET /big", "send": "POST /upload files"}, []),
        "aiohttp": Peer([sys.executable, here, "aiohttp", "PORT"], OURS, []),
        "FastAPI": Peer([sys.executable, here, "fastapi", "PORT"], OURS, []),
        "open-terminal": Peer([str(pathlib.Path(sys.executable).parent / "open-terminal"), "run", "--host", "127.0.0.1",
                               "--port", "PORT", "--api-key", "key", "--cwd", "."],
                              terminal, ["Authorization: Bearer key"]),
    }
    return {name: peer if shutil.which(peer.command[0], path=PATH) else None for name, peer in found.items()}


def serve_limit(port):
    """What the system must do, one connection at a time: sendfile, recv and write, and for a command's output a pipe,
    a file and sendfile: the exit code is in the head of the answer, so all of it is kept before any of it is sent."""
    server, block = socket.create_server(("127.0.0.1", port)), bytearray(MIB)
    while True:
        sock, _ = server.accept()
        with sock:
            head = sock.recv(65536)
            if head.startswith(b"POST /execcmd"):
                reader, writer = os.pipe()
                fcntl.fcntl(reader, fcntl.F_SETPIPE_SZ, 1 << 18)
                with subprocess.Popen(["sh", "-c", "head -c %d /dev/zero" % OUTPUT], stdout=writer):
                    os.close(writer)
                    with open("output", "w+b", 0) as file:
                        count = os.readv(reader, [block])
                        while count:
                            file.write(memoryview(block)[:count])
                            count = os.readv(reader, [block])
                        os.close(reader)
                        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % OUTPUT)
                        file.seek(0)
                        while os.sendfile(sock.fileno(), file.fileno(), None, GIB):
                            pass
            elif b"filename=big" in head:
                with open("big", "rb") as file:
                    size = os.fstat(file.fileno()).st_size
                    sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
                    while os.sendfile(sock.fileno(), file.fileno(), None, GIB):
                        pass
            elif head.startswith(b"POST /send-file"):
                head, _, begin = head.partition(b"\r\n\r\n")
                left = int(re.search(rb"Content-Length: (\d+)", head).group(1)) - len(begin)
                with open("upload", "wb", 0) as file:
                    while left:  # with the delimiters: nobody looks for them
                        count = sock.recv_into(block)
                        file.write(memoryview(block)[:count])
                        left -= count
                    file.truncate(GIB)
                sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            else:
                sock.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")


def serve_aiohttp(port):
    """The three actions as its documentation would have them, in blocks of 1 MiB rather than its 8 KiB."""
    import asyncio

    from aiohttp import web

    async def execcmd(request):
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        process = await asyncio.create_subprocess_shell(request.query["cmd"], **pipes)
        return web.Response(body=(await process.communicate())[0])

    async def get_file(request):
        return web.FileResponse(request.query["filename"])

    async def send_file(request):
        part = await (await request.multipart()).next()
        with open(part.filename, "wb", 0) as file:
            while True:
                block = await part.read_chunk(MIB)
                if not block:
                    return web.Response(text="stored\n")
                file.write(block)

    app = web.Application()
    app.add_routes([web.post("/execcmd", execcmd), web.get("/get-file", get_file), web.post("/send-file", send_file)])
    web.run_app(app, host="127.0.0.1", port=port, print=None, access_log=None)


def serve_fastapi(port):
    """The same as its documentation would have them, by uvicorn with its faster loop and parser."""
    import fastapi
    import uvicorn

    app = fastapi.FastAPI()

    @app.post("/execcmd")
    def execcmd(cmd: str):
        done = subprocess.run(["sh", "-c", cmd], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        return fastapi.Response(done.stdout)

    @app.get("/get-file")
    def get_file(filename: str):
        return fastapi.responses.FileResponse(filename)

    @app.post("/send-file")
    def send_file(document: fastapi.UploadFile):
        with open(document.filename, "wb") as file:
            shutil.copyfileobj(document.file, file, MIB)

    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning")


def spawn_loop(seconds):
    """Starts `sh -c true` and waits for it, over and over; prints the microseconds of each start and of each wait."""
    began, figures = time.perf_counter(), []
    while time.perf_counter() - began < seconds:
        start = time.perf_counter()
        pid = os.posix_spawn("/bin/sh", ["sh", "-c", "true"], os.environ)
        started = time.perf_counter()
        os.waitpid(pid, 0)
        figures.append((round((started - start) * 1e6), round((time.perf_counter() - started) * 1e6)))
    print(json.dumps(figures))


# A server's process, and the client, which is the same for all.


class Process:
    """A server in a fresh process."""

    def __init__(self, peer, scratch, **options):
        self.peer, self.port, self.log = peer, free_port(), scratch / "log"
        user = "user root;" if os.geteuid() == 0 else ""
        (scratch / "nginx.conf").write_text(NGINX % dict(scratch=scratch, port=self.port, user=user))
        own = ("PYTHON", "NGROK", "AUTH_KEY")
        env = {name: value for name, value in os.environ.items() if not name.startswith(own)}
        env.update(PATH=PATH, HOME=str(scratch), TMPDIR=str(scratch / "tmp"))
        options = dict({"stdin": subprocess.DEVNULL, "stderr": subprocess.STDOUT}, **options)
        with open(self.log, "wb") as log:
            command, start = [word.replace("PORT", str(self.port)) for word in peer.command], time.perf_counter()
            self.process = subprocess.Popen(command, cwd=str(scratch / "work"), env=env, stdout=log, **options)
        while not self.answers():
            if self.process.poll() is not None or time.perf_counter() - start > 30:
                self.__exit__()
                raise ValueError("it did not start: " + self.log.read_text()[-300:])
            time.sleep(0.0005)
        self.seconds = time.perf_counter() - start  # from its spawn to its first answer

    def answers(self):
        """Whether it answers, be it by a 404."""
        try:
            with self.connect() as sock:
                sock.sendall(self.request("GET /nothing"))
                return read_answer(sock)
        except OSError:
            return None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def connect(self):
        """A new connection."""
        sock = socket.create_connection(("127.0.0.1", self.port), timeout=120)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock

    def head(self, method, target, *fields):
        """The bytes of a request's head."""
        lines = ["%s %s HTTP/1.1" % (method, target), "Host: localhost", *self.peer.headers, *fields]
        return "\r\n".join(lines + ["", ""]).encode()

    def request(self, ask, *fields):
        """The bytes of the request that a line such as `POST /path BODY` stands for."""
        method, target, body = parts(ask)
        if method == "POST":
            fields += ("Content-Length: %d" % len(body),) + (("Content-Type: application/json",) if body else ())
        return self.head(method, target, *fields) + body.encode()

    def status(self, name, descend=False):
        """A number of /proc/PID/status; if descend, of the process and its descendants together."""
        total, pids = 0, [self.process.pid]
        for pid in pids:
            with contextlib.suppress(OSError, AttributeError):  # a child that ends meanwhile
                total += int(re.search(name + r":\s*(\d+)", pathlib.Path("/proc/%d/status" % pid).read_text()).group(1))
                children = pathlib.Path("/proc/%d/task/%d/children" % (pid, pid)).read_text()
                pids += map(int, children.split() if descend else ())
        return total

    def processor(self):
        """Seconds of processor time that its threads have used."""
        tasks = pathlib.Path("/proc/%d/task" % self.process.pid).glob("*/schedstat")
        return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9


def free_port():
    """A port that is free, and none that a client may get as its own before the server is there."""
    while True:
        with socket.socket() as sock, contextlib.suppress(OSError):
            port = random.randrange(20000, 32000)
            sock.bind(("127.0.0.1", port))
            return port


def parts(ask):
    """(method, target, rest) of what a server is asked."""
    return (ask.split(" ", 2) + [""])[:3]


def read_answer(sock):
    """The status of the next answer, which is read to its end."""
    data = b""
    while True:
        block = sock.recv(65536)
        data += block
        head, end, body = data.partition(b"\r\n\r\n")
        length = re.search(rb"\r\ncontent-length: *(\d+)", head, re.I)
        if end and (len(body) >= int(length.group(1)) if length else body.endswith(b"0\r\n\r\n") or not block):
            return int(head.split(b" ", 2)[1])
        if not block:
            raise ConnectionError("the answer is cut off")


def p50(server, ask, seconds=SECONDS):
    """The median in milliseconds of requests one after another on one connection."""
    request, times = server.request(ask), []
    with server.connect() as sock:
        until = time.perf_counter() + seconds + 0.2
        while time.perf_counter() < until:
            start = time.perf_counter()
            sock.sendall(request)
            status = read_answer(sock)
            times.append(time.perf_counter() - start)
            if status != (404 if "/nothing" in ask else 200):
                raise ValueError("it answered %d" % status)
    return statistics.median(times[len(times) // 8 :]) * 1000  # without the first, in which it warms up


def rate(server, ask, connections, scratch):
    """Answers a second over some connections, by wrk."""
    method, target, body = parts(ask)
    (scratch / "wrk.lua").write_text('wrk.method, wrk.body = "%s", [[%s]]' % (method, body))
    fields = server.peer.headers + (["Content-Type: application/json"] if body else [])
    command = ["wrk", "-t1", "-d1s", "-c%d" % connections, "--timeout", "30s", "-s", str(scratch / "wrk.lua")]
    command += [word for field in fields for word in ("-H", field)] + ["http://127.0.0.1:%d%s" % (server.port, target)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout.decode()
    refused = re.search(r"Non-2xx or 3xx responses: .*" if "/nothing" not in ask else "Socket errors: .*", done)
    if refused:
        raise ValueError(refused.group())
    return float(re.search(r"Requests/sec: *([0-9.]+)", done).group(1))


def touch(size):
    """Uses memory and gives it back, so that what follows finds it here."""
    b"x" * size


def fetch(server, ask, size):
    """Seconds for an answer of at least size bytes."""
    block, received = bytearray(MIB), 0
    with server.connect() as sock:
        start = time.perf_counter()
        sock.sendall(server.request(ask, "Connection: close"))
        head = sock.recv(65536, socket.MSG_PEEK).partition(b"\r\n\r\n")[0]
        while received < len(head) + 4 + size:
            count = sock.recv_into(block)
            if not count:
                raise ValueError("it sent %d bytes: %r" % (received, head))
            received += count
        return time.perf_counter() - start


def store(server, ask, source):
    """Seconds for an upload of a file, until its answer; the stored copy is removed."""
    method, target, field = parts(ask)
    head = '--%s\r\nContent-Disposition: form-data; name="%s"; filename="upload"\r\n' % (BOUNDARY, field)
    head = (head + "Content-Type: application/octet-stream\r\n\r\n").encode()
    tail = ("\r\n--%s--\r\n" % BOUNDARY).encode()
    with open(source, "rb") as file, server.connect() as sock:
        size = os.fstat(file.fileno()).st_size
        fields = ["Content-Type: multipart/form-data; boundary=" + BOUNDARY, "Connection: close"]
        fields.append("Content-Length: %d" % (len(head) + size + len(tail)))
        start = time.perf_counter()
        sock.sendall(server.head(method, target, *fields) + head)
        sock.sendfile(file)
        sock.sendall(tail)
        status = read_answer(sock)
        seconds = time.perf_counter() - start
    stored = source.with_name("upload")
    if not 200 <= status < 300 or stored.stat().st_size != size:
        raise ValueError("it answered %d" % status)
    stored.unlink()
    return seconds


# One run of one measure.


def take(name, server, scratch):
    """{measure: figure} of one server."""
    kind, _, connections = name.partition("-")
    ask, memory = server.peer.asks.get(kind), name + "-memory"
    if name == "start":
        return {"start": server.seconds * 1000, "idle": server.status("VmRSS", True) / 1024}
    if name == "exec-1":
        return {name: p50(server, ask)}
    if connections:
        return {name: rate(server, ask, int(connections), scratch)}
    touch(3 * GIB if name == "send" else GIB // 2)
    if name == "output":
        figure = fetch(server, ask, OUTPUT) * 1000
    else:
        big = scratch / "work" / "big"
        figure = GIB / MIB / (fetch(server, ask, GIB) if name == "get" else store(server, ask, big))
    return {name: figure, memory: server.status("VmHWM", True) / 1024}


def take_limit(name):
    """{measure: figure} of what needs no server: a start of Python, and one or more loops of `sh -c true`."""
    command = [PYTHON, __file__, "spawn", str(SECONDS)]
    if name == "start":
        start = time.perf_counter()
        subprocess.run([PYTHON, "-c", ""], check=True)
        return {name: (time.perf_counter() - start) * 1000}
    count = 1 if name == "exec-1" else os.cpu_count()
    loops = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(count)]
    figures = [json.loads(loop.communicate()[0]) for loop in loops]
    if name == "exec-1":
        return {name: statistics.median(sum(pair) for pair in figures[0]) / 1000}
    return {name: sum(map(len, figures)) / SECONDS}


def table(found, scratch):
    """{measure: {server: [figure, ...]}} of all rounds."""
    figures, failed = collections.defaultdict(lambda: collections.defaultdict(list)), set()
    tasks = [name for name in MEASURES if not name.endswith("-memory") and name != "idle"]
    if set(ONLY) - set(tasks):
        raise SystemExit("ONLY takes some of: " + ",".join(tasks))
    tasks = ONLY or tasks
    if not shutil.which("wrk"):
        print("left out: all that counts answers a second, as wrk is not installed")
        tasks = [name for name in tasks if "-" not in name or name == "exec-1"]
    for number in range(ROUNDS):
        for name in random.sample(tasks, len(tasks)):
            kind = name.partition("-")[0]
            able = [one for one, peer in found.items() if peer and (kind in peer.asks or kind == "start")]
            able += [LIMIT] if kind == "exec" else []
            for one in random.sample(able, len(able)):
                try:
                    if one == LIMIT and kind in ("exec", "start"):
                        values = take_limit(name)
                    else:
                        with Process(found[one], scratch) as server:
                            values = take(name, server, scratch)
                except (OSError, ValueError, subprocess.SubprocessError) as error:
                    if one == US:
                        raise
                    failed.add("%s, %s: %s" % (one, name, error))
                    continue
                for measure, value in values.items():
                    if one == LIMIT and measure.endswith("-memory"):
                        continue
                    figures[measure][one].append(float("%.4g" % value))
        print("round %d of %d" % (number + 1, ROUNDS), file=sys.stderr, flush=True)
    for line in sorted(failed):
        print("failed: " + line)
    return {name: figures[name] for name in MEASURES if name in figures}


def judge(figures):
    """[(measure, what is wanted, what is, whether it holds)] for each target that has figures."""
    verdicts = []
    for name, against, how, bound in TARGETS:
        medians = {one: statistics.median(values) for one, values in figures.get(name, {}).items()}
        if US in medians and (against is None or against in medians):
            value = medians[US] / (medians[against] if against else 1)
            wanted = "%s %g %s" % (how, bound, "x " + against if against else MEASURES[name].unit)
            verdicts.append((name, wanted, round(value, 3), value <= bound if how == "<=" else value >= bound))
    return verdicts


def shown(value):
    """A figure with three digits or more."""
    return "%.3g" % value if value < 1000 else "{:,.0f}".format(value)


def show(figures, verdicts):
    """Prints the table."""
    for name, servers in figures.items():
        title, unit, better = MEASURES[name]
        medians = {one: statistics.median(values) for one, values in servers.items()}
        others = {one: value for one, value in medians.items() if one not in (US, LIMIT)}
        best = better(others, key=others.get) if others else None
        print("\n%s: %s, in %s, %s is better" % (name, title, unit, "less" if better is min else "more"))
        for one in sorted(medians, key=medians.get, reverse=better is max):
            beside = [other for other in (LIMIT, best) if other in medians]
            ratios = ["%.2f x %s" % (medians[one] / medians[other], other) for other in beside]
            spread = "%s (%s\u2013%s)" % tuple(map(shown, (medians[one], min(servers[one]), max(servers[one]))))
            print("  %-18s %-26s %s" % (one, spread, ", ".join(ratios)))
        for _, wanted, value, holds in (verdict for verdict in verdicts if verdict[0] == name):
            print("  target %s: %.3g, %s" % (wanted, value, "holds" if holds else "MISSED"))


def draw(figures, path):
    """The chart: one field for each measure, one bar for each server."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "bench", "font.size": 8})
    from matplotlib import pyplot

    figure, fields = pyplot.subplots((len(figures) + 1) // 2, 2, figsize=(10, 1.3 * len(figures)), squeeze=False)
    for field in fields.flat[len(figures) :]:
        field.remove()
    for field, (name, servers) in zip(fields.flat, figures.items()):
        medians = {one: statistics.median(values) for one, values in servers.items()}
        order = sorted(medians, key=medians.get, reverse=MEASURES[name].better is min)
        colours = [{US: "tab:blue", LIMIT: "tab:gray"}.get(one.partition(" ")[0], "tab:orange") for one in order]
        bars = field.barh(order, [medians[one] for one in order], color=colours)
        field.bar_label(bars, [shown(medians[one]) for one in order], padding=2)
        better = "less is better" if MEASURES[name].better is min else "more is better"
        field.set_title("%s\n%s, %s" % (MEASURES[name].title, MEASURES[name].unit, better), loc="left", fontsize=8)
        field.margins(x=0.15)
        field.set_xticks([])
        field.spines[["top", "right", "bottom"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def keep(name, value):
    """Adds a part to the figures in docs/, or, where only some were taken, or of another program, in .bench/."""
    directory = ROOT / (".bench" if ONLY or ROUNDS < 5 or os.environ.get("PROGRAM") else "docs")
    directory.mkdir(exist_ok=True)
    path = directory / "bench.json"
    kept = json.loads(path.read_text()) if path.exists() else {}
    kept.update({name: value, "python": platform.python_version(), "cores": os.cpu_count()})
    path.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n")
    return directory


@contextlib.contextmanager
def scratch_directory():
    """A directory for all that is served and stored, and for a copy of the program, which may change meanwhile."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        scratch = pathlib.Path(name)
        for directory in ("work", "tmp"):
            (scratch / directory).mkdir()
        (scratch / "work" / "small").write_bytes(b"x" * 1024)
        for directory in (scratch, scratch / "work"):
            shutil.copy(PROGRAM, str(directory / "mycodeinterpreter.py"))
        shutil.copy(str(ROOT / "openapi_template.json"), name)
        yield scratch


def fill(path, size):
    """Makes a file of some size, of bytes that hold no delimiter."""
    block = os.urandom(MIB)
    with open(path, "wb", 0) as file:
        for start in range(0, size, MIB):
            file.write(block[: size - start])
    os.sync()  # its way to the disk shall not be measured


# Where the time of one execcmd goes.

STAGES = {  # of the functions in which a request spends it; a name that the program no longer has is passed over
    "read and check the request": "Connection.head Handler.read_request Handler.check_origin Handler.authorize"
    " Handler.route Body.read form_pairs command_arguments prefers_json",
    "approval and log": "Handler.approve Gate.approve Server.log",
    "prepare: pipe, path, Job": "Runner.start Job.__init__ end_of",
    "fork and exec": "subprocess.Popen",
    "the shell runs, its output is taken": "Job.tend Job.take",
    "lay down the job": "Runner.leave Job.finish Result.__init__",
    "answer": "Handler.answer",
    "the handler otherwise": "Handler.handle_one_request Handler.execcmd execcmd",
    "": "Connection.fill",  # waits for the request
}


def profiled_daemon(arguments):
    """Runs the program with a clock in its functions; at its end it prints [[stage, seconds, calls], ...]."""
    import importlib.util

    spec = importlib.util.spec_from_file_location("mycodeinterpreter", arguments[0])
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    spent, calls, under = collections.Counter(), collections.Counter(), threading.local()

    def clocked(function, stage):
        def call(*args, **options):
            outer, under.seconds, start = getattr(under, "seconds", 0), 0, time.perf_counter()
            try:
                return function(*args, **options)
            finally:
                seconds = time.perf_counter() - start
                spent[stage] += seconds - under.seconds  # without what is counted within
                calls[stage] += 1
                under.seconds = outer + seconds

        return call

    for stage, names in STAGES.items():
        for name in names.split():
            owner, _, attribute = name.rpartition(".")
            owner = getattr(module, owner, None) if owner else module
            if hasattr(owner, attribute):
                setattr(owner, attribute, clocked(getattr(owner, attribute), stage))
    end = os._exit
    os._exit = lambda status: (print(json.dumps([[s, spent[s], calls[s]] for s in STAGES]), flush=True), end(status))
    sys.argv[1:] = arguments[1:]
    module.main()


def profile(found, scratch):
    """Prints and keeps where the time of one execcmd of `true` goes, and what the system needs at the least."""
    peer = Peer([PYTHON, str(pathlib.Path(__file__).resolve()), "daemon", *found[US].command[1:]], OURS, [])
    with Process(peer, scratch) as server:
        whole, ask, count = 0, server.request(OURS["exec"]), 2000
        with server.connect() as sock:
            for _ in range(count):
                start = time.perf_counter()
                sock.sendall(ask)
                read_answer(sock)
                whole += time.perf_counter() - start
    stages = [(stage, spent) for stage, spent, _ in json.loads(server.log.read_text().splitlines()[-1]) if stage]
    stages.append(("the client, the loopback, waking up", whole - sum(spent for _, spent in stages)))
    loop = subprocess.run([PYTHON, __file__, "spawn", "1"], check=True, stdout=subprocess.PIPE)
    starts, waits = zip(*json.loads(loop.stdout))
    print("\nOne execcmd of `true`, mean of %d: %.0f us with the clock in it" % (count, whole / count * 1e6))
    for stage, spent in stages:
        print("  %-38s %6.0f us %4.0f %%" % (stage, spent / count * 1e6, 100 * spent / whole))
    spawned, waited = statistics.mean(starts), statistics.mean(waits)
    print("  the least: posix_spawn of `sh -c true` %.0f us, wait for it %.0f us" % (spawned, waited))
    keep("profile", {stage: round(spent / count * 1e6) for stage, spent in stages})


def bench(found, scratch):
    """The table, the chart and, unless only some measures are wanted, the profile."""
    for name in (name for name, peer in found.items() if not peer):
        print("left out: %s is not installed" % name)
    fill(scratch / "work" / "big", GIB)
    figures = table(found, scratch)
    verdicts = judge(figures)
    show(figures, verdicts)
    keep("targets", [dict(zip(("measure", "target", "value", "holds"), verdict)) for verdict in verdicts])
    draw(figures, keep("table", figures) / "bench.svg")
    if not ONLY:
        profile(found, scratch)


def main():
    """What `make bench` runs, and, in processes of their own, the parts of it."""
    word, arguments = (sys.argv[1:2] or ["bench"])[0], sys.argv[2:]
    os.environ["PATH"] = PATH
    serve = {"limit": serve_limit, "aiohttp": serve_aiohttp, "fastapi": serve_fastapi}
    if word in serve:
        serve[word](int(arguments[0]))
    elif word == "spawn":
        spawn_loop(float(arguments[0]))
    elif word == "daemon":
        profiled_daemon(arguments)
    else:
        with scratch_directory() as scratch:
            {"bench": bench, "profile": profile}[word](peers(scratch), scratch)


if __name__ == "__main__":
    main()
