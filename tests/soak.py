"""A soak: SOAK_SECONDS (600) of mixed good and hostile load on the real program, then a look at what is left of it.

Fails where an answer is wrong, an upload is lost or mixed up, a descriptor, thread, process or temporary file is left
behind, the memory has grown, or the daemon does not end soon. The last line has the figures. SOAK_SEED repeats a run.
"""

import base64
import collections
import contextlib
import hashlib
import http.client
import json
import os
import pathlib
import random
import re
import shutil
import signal
import socket
import struct
import sys
import tempfile
import threading
import time
import traceback

from conftest import Daemon, wait_for

SECONDS = float(os.environ.get("SOAK_SECONDS", "600"))
SEED = int(os.environ.get("SOAK_SEED", "0")) or int(time.time())
THREADS = 8
GROWTH = 6 << 20  # bytes of memory more than after the warm-up
KEY = {"Authorization": "Basic " + base64.b64encode(b"me:secret").decode()}
HEAD = "Host: localhost\r\nAuthorization: %s\r\n" % KEY["Authorization"]
BOUNDARY = "soak"
MULTIPART = "multipart/form-data; boundary=" + BOUNDARY
MALFORMED = [
    b"GET / HTTP/1.1\r\n\r\n",
    b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET / HTTP/1.1\nHost: a\n\n",
    b"POST /execcmd HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST /execcmd HTTP/1.1\r\nHost: localhost\r\nContent-Length: +5\r\n\r\nhello",
    b"POST /execcmd HTTP/1.1\r\nHost: localhost\r\nContent-Length : 5\r\n\r\nhello",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\n folded: x\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 200 + b"\r\n",
    b"GET /" + b"a" * 600000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
]


def upload_body(name, data):
    """The body of an upload of one file."""
    head = '--%s\r\nContent-Disposition: form-data; name="document"; filename="%s"\r\n\r\n' % (BOUNDARY, name)
    return head.encode() + data + b"\r\n--%s--\r\n" % BOUNDARY.encode()


class Client:
    """One thread's load. Every action asserts that its answer is right."""

    def __init__(self, daemon, number, counts):
        self.daemon, self.number, self.counts = daemon, number, counts
        self.random = random.Random(SEED * 1000 + number)
        self.connection, self.uploads, self.told = None, {}, 0

    def run(self, until, problems):
        """Does one thing after another until a time."""
        actions = [getattr(self, name) for name in sorted(dir(self)) if name.startswith(("good_", "bad_"))]
        while time.monotonic() < until and len(problems) < 20:
            action = self.random.choice(actions)
            try:
                action()
                self.counts[action.__name__] += 1
            except Exception:
                problems.append("%s: %s" % (action.__name__, traceback.format_exc()))
                self.close()
        self.close()

    def close(self):
        if self.connection:
            self.connection.close()
            self.connection = None

    def request(self, method, target, body=None, headers=None, **options):
        """One request, most often on a connection that is kept alive; (status, headers, body)."""
        if not self.connection or self.random.random() < 0.2:
            self.close()
            self.connection = http.client.HTTPConnection("127.0.0.1", self.daemon.port, timeout=60)
        self.connection.request(method, target, body, dict(KEY, **(headers or {})), **options)
        response = self.connection.getresponse()
        answer = response.status, response.headers, response.read()
        if response.will_close:
            self.close()
        return answer

    def data(self, most):
        """Random bytes, of a random length."""
        size = int(most ** self.random.random())
        return self.random.getrandbits(8 * size + 8).to_bytes(size + 1, "big")

    @contextlib.contextmanager
    def socket(self):
        """A connection for what http.client does not do; it is closed, or reset."""
        with self.daemon.connect() as sock:
            yield sock
            if self.random.random() < 0.5:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    # What is to work

    def good_command(self):
        token = "%x" % self.random.getrandbits(64)
        status, _, body = self.request("POST", "/execcmd?cmd=echo%20" + token)
        assert (status, body) == (200, token.encode() + b"\n"), (status, body)

    def good_failing_command(self):
        status, headers, body = self.request("POST", "/execcmd?cmd=echo%20x;exit%203")
        assert (status, body, headers["X-Exit-Code"]) == (200, b"x\n[exit code 3]\n", "3"), (status, body)

    def good_standard_input(self):
        data = self.data(1500000)
        status, _, body = self.request("POST", "/execcmd?cmd=cat&limit=0", data, {"Content-Type": "text/plain"})
        assert status == 200 and body == data, (status, len(body), len(data))

    def good_large_output(self):
        status, _, body = self.request("POST", "/execcmd?cmd=yes%20|%20head%20-c%20300000&limit=1000")
        assert status == 200 and b"left out" in body and len(body) < 2000, (status, body)
        self.told += 1

    def good_background_job(self):
        target = "/execcmd?cmd=(sleep%200.5;echo%20late)%26%20sleep%200.5%20%3E/dev/null%202%3E%261%26%20echo%20soon"
        status, _, body = self.request("POST", target)
        assert (status, body) == (200, b"soon\n"), (status, body)

    def good_long_command(self):
        accept = {"Accept": "application/json"}
        status, _, body = self.request("POST", "/execcmd?cmd=echo%20a;sleep%200.4;echo%20b&wait=0.1", b"", accept)
        answer = json.loads(body.decode())
        assert status == 202 and answer["running"] and answer["output"].startswith("a\n"), (status, body)
        self.told += 1
        wait_for(lambda: self.request("GET", "/get-file?filename=" + answer["log"])[2] == b"a\nb\n", 20, "the log")

    def good_timeout(self):
        if self.random.random() < 0.1:
            status, _, body = self.request("POST", "/execcmd?cmd=sleep%2099%26%20sleep%2099")
            assert status == 408 and b"timed out" in body, (status, body)

    def good_upload(self):
        name, data = "up-%d-%d" % (self.number, self.random.randrange(5)), self.data(3000000)
        body = upload_body(name, data)
        blocks = [body[at : at + 70001] for at in range(0, len(body), 70001)]
        chunked = {"encode_chunked": True} if self.random.random() < 0.5 else {}
        headers = dict({"Content-Type": MULTIPART}, **({"Transfer-Encoding": "chunked"} if chunked else {}))
        status, _, answer = self.request("POST", "/send-file", iter(blocks) if chunked else body, headers, **chunked)
        assert status == 200 and str(len(data)).encode() in answer, (status, answer)
        self.uploads[name] = hashlib.sha256(data).digest()

    def good_shared_upload(self):
        """All clients write this one; its content tells whether it is whole."""
        data = self.data(300000)
        body = upload_body("shared", hashlib.sha256(data).digest() + data)
        status, _, answer = self.request("POST", "/send-file", body, {"Content-Type": MULTIPART})
        assert status in (200, 403), (status, answer)  # 403: another one came first

    def good_download(self):
        for name, digest in self.uploads.items():
            status, headers, body = self.request("GET", "/get-file?filename=" + name)
            assert status == 200 and hashlib.sha256(body).digest() == digest, (status, name)
            start = self.random.randrange(len(body))
            stop = self.random.randrange(start, len(body)) + 1
            ranged = {"Range": "bytes=%d-%d" % (start, stop - 1), "If-Range": headers["ETag"]}
            status, _, part = self.request("GET", "/get-file?filename=" + name, headers=ranged)
            assert status == 206 and part == body[start:stop], (status, start, stop)
            same = {"If-None-Match": headers["ETag"]}
            assert self.request("GET", "/get-file?filename=" + name, headers=same)[0] == 304
            assert self.request("HEAD", "/get-file?filename=" + name)[0] == 200
            break

    def good_tool(self):
        def call(method, **params):
            message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
            status, _, body = self.request("POST", "/mcp", json.dumps(message), {"Content-Type": "application/json"})
            assert status == 200, (status, body)
            return json.loads(body.decode())["result"]

        call("initialize", protocolVersion="2025-06-18", capabilities={}, clientInfo={"name": "soak", "version": "0"})
        assert len(call("tools/list")["tools"]) == 3
        token, name = "%x" % self.random.getrandbits(64), "tool-%d" % self.number
        result = call("tools/call", name="execcmd", arguments={"cmd": "echo " + token})
        assert result["structuredContent"]["output"] == token + "\n", result
        result = call("tools/call", name="send-file", arguments={"filename": name, "content": token})
        assert not result["isError"], result
        self.uploads[name] = hashlib.sha256(token.encode()).digest()
        result = call("tools/call", name="get-file", arguments={"filename": name})
        assert result["content"][0]["text"] == token, result

    def good_refusals(self):
        for status, method, target in (
            (404, "GET", "/nowhere"),
            (405, "GET", "/execcmd"),
            (400, "POST", "/execcmd?cmd=true&more=x"),
            (404, "GET", "/get-file?filename=none"),
            (400, "GET", "/get-file?filename=."),
            (411, "POST", "/send-file"),
        ):
            if status == 411:
                with self.socket() as sock:
                    sock.sendall(("POST /send-file HTTP/1.1\r\nConnection: close\r\n%s\r\n" % HEAD).encode())
                    assert sock.recv(1000).startswith(b"HTTP/1.1 411 ")
            else:
                answer = self.request(method, target)
                assert answer[0] == status, (status, answer)

    # What is hostile

    def bad_credentials(self):
        smuggled = ("POST /execcmd?cmd=touch%%20smuggled HTTP/1.1\r\n%sContent-Length: 0\r\n\r\n" % HEAD).encode()
        lines = "POST /execcmd?cmd=id HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer x\r\nContent-Length: %d"
        with self.socket() as sock:
            sock.sendall((lines % len(smuggled) + "\r\n\r\n").encode() + smuggled)
            received = b""
            with contextlib.suppress(ConnectionError):
                block = sock.recv(65536)
                while block:
                    received, block = received + block, sock.recv(65536)
        assert received.startswith(b"HTTP/1.1 401 ") and received.count(b"HTTP/1.1 ") == 1, received

    def bad_head(self):
        with self.socket() as sock, contextlib.suppress(ConnectionError):
            sock.sendall(self.random.choice(MALFORMED))
            answer = sock.recv(1000)
            assert re.match(rb"HTTP/1.1 4[0-9][0-9] ", answer), answer

    def bad_bytes(self):
        with self.socket() as sock, contextlib.suppress(ConnectionError):
            sock.sendall(self.data(100000))
            if self.random.random() < 0.5:
                sock.shutdown(socket.SHUT_WR)
                sock.recv(1000)

    def bad_half_upload(self):
        """It must leave what is there."""
        name = self.random.choice(sorted(self.uploads) or ["half"])
        body = upload_body(name, self.data(2000000))
        head = "POST /send-file HTTP/1.1\r\n%sContent-Type: %s\r\nContent-Length: %d\r\n\r\n"
        with self.socket() as sock:
            sock.sendall((head % (HEAD, MULTIPART, len(body))).encode() + body[: self.random.randrange(len(body))])

    def bad_half_chunks(self):
        head = "POST /execcmd?cmd=touch%%20half-run HTTP/1.1\r\n%sTransfer-Encoding: chunked\r\n\r\n"
        ends = [b"5\r\nhel", b"5\r\nhello", b"5\r\nhellooo\r\n", b"x\r\n", b"5\r\nhello\r\n0\r\n", b"f" * 300]
        with self.socket() as sock:
            sock.sendall((head % HEAD).encode() + self.random.choice(ends))

    def bad_half_download(self):
        with self.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.sendall(("GET /get-file?filename=large HTTP/1.1\r\n%s\r\n" % HEAD).encode())
            assert sock.recv(1000).startswith(b"HTTP/1.1 200 ")
            time.sleep(self.random.random() / 2)

    def bad_hang_up(self):
        with self.socket() as sock:
            sock.sendall(("POST /execcmd?cmd=sleep%%200.3 HTTP/1.1\r\n%sContent-Length: 0\r\n\r\n" % HEAD).encode())
            time.sleep(self.random.random() / 5)

    def bad_slow_head(self):
        data = ("POST /execcmd?cmd=echo%%20slow HTTP/1.1\r\n%sContent-Length: 0\r\n\r\n" % HEAD).encode()
        with self.socket() as sock:
            for at in range(0, len(data), 9):
                sock.sendall(data[at : at + 9])
                time.sleep(0.03)
                if self.random.random() < 0.02:
                    return
            assert sock.recv(1000).startswith(b"HTTP/1.1 200 ")

    def bad_idle(self):
        with contextlib.ExitStack() as stack:
            for _ in range(self.random.randrange(1, 10)):
                stack.enter_context(self.socket())
            time.sleep(self.random.random())


def resident(pid):
    """Bytes of memory that a process holds."""
    with open("/proc/%d/status" % pid) as file:
        return int(re.search(r"VmRSS:\s+(\d+) kB", file.read()).group(1)) * 1024


def processes(daemon):
    """What the daemon has started that still is there: all that inherited its TMPDIR, and zombies."""
    found, mark = [], ("TMPDIR=%s\0" % daemon.temporary).encode()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            with open("/proc/%s/environ" % pid, "rb") as file:
                ours = mark in file.read()
            with open("/proc/%s/stat" % pid) as file:
                ours = ours or int(file.read().rpartition(")")[2].split()[1]) == daemon.process.pid
            if ours and int(pid) != daemon.process.pid:
                found.append(int(pid))
    return found


def figures(daemon):
    """(descriptors, threads) of the daemon at rest, when nothing that it started is left."""
    pid = daemon.process.pid
    wait_for(lambda: not processes(daemon), 30, "the end of what was started: %s" % processes(daemon))

    def count():
        return len(os.listdir("/proc/%d/fd" % pid)), len(os.listdir("/proc/%d/task" % pid))

    last, since, until = count(), time.monotonic(), time.monotonic() + 70  # idle connections go after 60 s
    while time.monotonic() - since < 2 and time.monotonic() < until:
        time.sleep(0.1)
        if count() != last:
            last, since = count(), time.monotonic()
    return last


def load(clients, seconds, problems):
    """Runs all clients for some seconds."""
    until = time.monotonic() + seconds
    threads = [threading.Thread(target=client.run, args=(until, problems)) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def check(condition, problem, problems):
    if not condition:
        problems.append(problem)


def main():
    base = pathlib.Path(tempfile.mkdtemp(prefix="soak-"))
    (base / "work").mkdir()
    counts, problems = collections.Counter(), []
    arguments = ["me:secret", "-nosafe", "-port", "0", "-timeout", "3", "-log", base / "log"]
    daemon = Daemon(arguments, base / "work").ready()
    try:
        with open(str(daemon.directory / "large"), "wb") as file:
            file.truncate(1 << 28)
        clients = [Client(daemon, number, counts) for number in range(THREADS)]
        load(clients, min(60, SECONDS / 4), problems)
        before, memory_before = figures(daemon), resident(daemon.process.pid)
        load(clients, SECONDS, problems)
        after, memory = figures(daemon), resident(daemon.process.pid)
        check(after == before, "descriptors and threads: %s, then %s" % (before, after), problems)
        grown = memory - memory_before
        check(grown < GROWTH, "the memory has grown by %d KiB" % (grown >> 10), problems)
        uploads = {name: digest for client in clients for name, digest in client.uploads.items()}
        for name, digest in uploads.items():
            found = hashlib.sha256((daemon.directory / name).read_bytes()).digest()
            check(found == digest, "%s is lost or mixed up" % name, problems)
        shared = (daemon.directory / "shared").read_bytes()
        check(hashlib.sha256(shared[32:]).digest() == shared[:32], "the shared upload is mixed up", problems)
        strange = set(os.listdir(str(daemon.directory))) - set(uploads) - {"large", "shared"}
        check(not strange, "left behind: %s" % strange, problems)
        logs = sum(len(os.listdir(str(directory))) for directory in daemon.run_directories())
        told = sum(client.told for client in clients)
        check(logs <= told, "%d logs, but only %d were told of" % (logs, told), problems)
        for line in (base / "log").read_bytes().splitlines():
            json.loads(line.decode())
        client = Client(daemon, THREADS, counts)
        client.good_command()
        client.close()
        began = time.monotonic()
        check(daemon.stop(signal.SIGTERM, 10) == 0, "it ended with status %s" % daemon.process.returncode, problems)
        seconds = time.monotonic() - began
        check(seconds < 2, "it took %.1f s to end" % seconds, problems)
        until = time.monotonic() + 10  # thousands of logs are removed by a process that outlives it a moment
        while processes(daemon) and time.monotonic() < until:
            time.sleep(0.1)
        check(not daemon.run_directories(), "its directory is left behind", problems)
        check(not processes(daemon), "processes are left behind", problems)
        check("Traceback" not in daemon.errors(), "a traceback: " + daemon.errors()[-3000:], problems)
    finally:
        if daemon.process.poll() is None:
            daemon.process.kill()
            daemon.process.wait()
        shutil.rmtree(str(base), ignore_errors=True)
    for problem in problems:
        print(problem)
    print(", ".join("%s %d" % (name.replace("_", " "), counts[name]) for name in sorted(counts)))
    mebi = 1 << 20
    print(
        "soak: %g s, seed %d, %d actions, %d errors, descriptors %d then %d, threads %d then %d, "
        "RSS %.1f then %.1f MiB, %d uploads whole, ended in %.2f s"
        % (
            *(SECONDS, SEED, sum(counts.values()), len(problems), before[0], after[0], before[1], after[1]),
            *(memory_before / mebi, memory / mebi, len(uploads) + 1, seconds)
        )
    )
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
