#!/usr/bin/env python3
# /// script
# requires-python = ">=3.7"
# dependencies = ["ngrok"]
# ///
"""Turn this machine into the place where ChatGPT, or any assistant, works.

An HTTP daemon with three actions: run a shell command (POST /execcmd), fetch a file (GET /get-file), store a file
(POST /send-file). A person at its terminal sees every action and, unless told otherwise, approves each one.

    python3 mycodeinterpreter.py noauth                          # for this machine only
    NGROK_AUTHTOKEN=... python3 mycodeinterpreter.py USER:KEY    # with a public https URL

Danger: whoever gets in and is approved owns the account that this runs under. Read it before you run it.

Map, top to bottom, each part leaning only on what is above it: constants and HTTPError; pure helpers; a request's
bytes (Connection, Body, multipart); the operator (Terminal, Gate); commands (Job, Runner); files; the three actions;
their description (TEMPLATE); HTTP (Handler, Server); the tunnel; the command line. To add an action, write it beside
the three, describe it in TEMPLATE, and give it a line in Handler.routes and a method there.
"""

import argparse
import base64
import collections
import errno
import hmac
import itertools
import json
import os
import re
import select
import signal
import socket
import socketserver
import stat
import subprocess
import sys
import threading
import time
from http import HTTPStatus

try:
    import fcntl
    import termios
except ImportError:  # Windows
    fcntl = termios = None  # type: ignore[assignment]

__version__ = "0.1.0"

HOLD = 40  # seconds a request is held, approval and run together; ChatGPT gives up at 45
COMMAND_TIMEOUT = 300  # seconds; then its process group is killed
OUTPUT_LIMIT = 65536  # bytes of output in an answer; ChatGPT refuses answers over 100,000 characters
JSON_LIMIT = 1 << 20  # the same for JSON, which is built in memory, where all is asked for
LOG_LIMIT = 1 << 28  # bytes of one command's output kept on disk, so that `yes` does not fill it
COUNTDOWN = 2  # seconds in which Ctrl+C cancels an action
MAX_WAITING = 16  # actions that wait for the operator, the one on the screen among them
MAX_CONNECTIONS = 512  # each costs a thread; one more, and the one that has idled longest is closed
MAX_HEADERS = 100
HEAD_LIMIT = 1 << 19  # bytes of a request head; Linux takes commands of 128 KiB, three times that when encoded
FORM_LIMIT = 1 << 20  # bytes of a JSON or form body, and of standard input that is shown before it runs
BLOCK = 1 << 20  # bytes asked of a socket or a pipe at once where many come; 64 KiB halves the rate
IDLE_TIMEOUT = 60  # seconds without a byte, between requests or within one
HEAD_TIMEOUT = 10  # seconds for a whole request head
SLOWEST = 1000  # bytes a second that a request has to come with
LINGER = 2  # seconds for an answer to arrive before a connection with unread bytes is closed


class HTTPError(Exception):
    """An answer other than success: a status and one sentence that says what to do."""

    def __init__(self, status, message, headers=()):
        super().__init__(message)
        self.status, self.message, self.headers = status, message, tuple(headers)


# Pure helpers

_PLAIN = re.compile(r"[ -\[\]-~]*\Z")  # printable ASCII without the backslash
_BLANK = frozenset("\u115f\u1160\u2800\u3164\uffa0")  # letters and symbols by category, blank on the screen
_SHORT = {"\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def visible(text):
    """(shown, hidden): the text with what does not print as itself written as escapes, and how many there are.

    Control, bidirectional, zero-width, combining, tag, unassigned and non-ASCII space characters and lone surrogates
    are hidden; the backslash is doubled and not counted. No two texts look the same.

    >>> visible("a\u202eb")
    ('a\\u202eb', 1)
    """
    if _PLAIN.match(text):
        return text, 0
    import unicodedata

    shown, hidden = [], 0
    for char in text:
        combining = unicodedata.category(char) in ("Mn", "Me")
        if char.isprintable() and char != "\\" and not combining and char not in _BLANK:
            shown.append(char)
        else:
            shown.append(_SHORT.get(char) or char.encode("unicode_escape").decode())
            hidden += char != "\\"
    return "".join(shown), hidden


def http_date(seconds):
    """An IMF-fixdate (RFC 9110 5.6.7) of seconds since the epoch."""
    t = time.gmtime(seconds)
    day, month = "MonTueWedThuFriSatSun"[t.tm_wday * 3 :][:3], "JanFebMarAprMayJunJulAugSepOctNovDec"[t.tm_mon * 3 - 3 :][:3]
    return "%s, %02d %s %d %02d:%02d:%02d GMT" % (day, t.tm_mday, month, t.tm_year, t.tm_hour, t.tm_min, t.tm_sec)


def text_of(value, name):
    """The str in a parameter's bytes; raises HTTPError 400 where they are not UTF-8 or hold a NUL."""
    try:
        text = value.decode("utf-8")
    except UnicodeDecodeError:
        raise HTTPError(400, "%s is not UTF-8; percent-encode the bytes of its UTF-8 form" % name) from None
    if "\0" in text:
        raise HTTPError(400, "%s holds a NUL character, which no system call takes; remove it" % name)
    return text


def number_of(value, name):
    """The number, zero or more, in a parameter's bytes; raises HTTPError 400."""
    if not re.match(rb"[0-9]{1,15}(\.[0-9]{1,9})?\Z", value):
        raise HTTPError(400, "%s must be a number, zero or more" % name)
    return float(value)


def unquote(value):
    """Bytes with their percent-encoding undone (RFC 3986 2.1)."""
    return re.sub(rb"%([0-9A-Fa-f]{2})", lambda match: bytes([int(match.group(1), 16)]), value)


def quote(name):
    """A str percent-encoded as the value of a header's filename* (RFC 8187 3.2.1)."""
    return re.sub(rb"[^A-Za-z0-9._~-]", lambda match: b"%%%02X" % ord(match.group()), os.fsencode(name)).decode()


def form_of(query):
    """[(name, bytes)] of a query string or a form body (WHATWG URL 5.1)."""
    pairs = [pair.replace(b"+", b" ").partition(b"=") for pair in query.split(b"&") if pair]
    return [(unquote(name).decode("utf-8", "replace"), unquote(value)) for name, _, value in pairs]


def credentials(header):
    """(user, password) as bytes out of a Basic header (RFC 7617 2), or None where it is not one."""
    scheme, _, value = header.partition(" ")
    try:
        user, colon, password = base64.b64decode(value.strip(), validate=True).partition(b":")
    except ValueError:
        return None
    return (user, password) if colon and scheme.lower() == "basic" else None


def prefers_json(accept):
    """Whether an Accept header (RFC 9110 12.5.1) puts JSON first, by weight and then by order."""
    weights = {}
    for item in accept.lower().replace(" ", "").split(","):
        kind, _, rest = item.partition(";")
        match = re.search(r"(?:^|;)q=([01](?:\.[0-9]{0,3})?)(?:;|\Z)", rest)
        weights.setdefault(kind, float(match.group(1)) if match else 1.0)
    best = max(weights, key=lambda kind: weights[kind])
    return best == "application/json" and weights[best] > 0


def host_of(authority):
    """The host in an authority (RFC 3986 3.2), lower case, without brackets, port and last dot; None where it is none."""
    match = re.match(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._~-]+))(?::[0-9]{0,5})?\Z", authority)
    return (match.group(1) or match.group(2)).lower().rstrip(".") if match else None


def is_ip(host):
    """Whether a host is an IP address, not a name that somebody's DNS could point here."""
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            return bool(socket.inet_pton(family, host))
        except OSError:
            pass
    return False


def byte_range(header, size):
    """(start, stop) of the one range that a Range header asks for, None for all of it (RFC 9110 14.2).

    Raises HTTPError 416 where nothing of it is there. Several ranges, or nonsense, may be answered with all, and are.
    """
    match = re.match(r"bytes=([0-9]{0,18})-([0-9]{0,18})\Z", header.replace(" ", ""))
    first, last = match.groups() if match else ("", "")
    if not first and not last or first and last and int(last) < int(first):
        return None
    start = int(first) if first else max(0, size - int(last))
    stop = min(size, int(last) + 1) if first and last else size
    if start >= stop:
        message = "the file has %d bytes; ask for a range within them" % size
        raise HTTPError(416, message, [("Content-Range", "bytes */%d" % size)])
    return start, stop


def base_name(name):
    """The last component of an uploaded file's name, / and \\ both taken as separators; raises HTTPError 400."""
    name = re.split(r"[/\\:]" if os.name == "nt" else r"[/\\]", name)[-1]
    if name in ("", ".", "..") or re.search(r"[\0-\x1f\x7f]", name) or len(name.encode()) > 255:
        raise HTTPError(400, "the file name is empty, over 255 bytes, or has control characters; send another filename")
    return name


def part_names(head):
    """(name, file name) in the head of a part (RFC 7578 4.2); either is None where it is missing.

    Of `filename` and `filename*` the plain one counts, whatever their order: the RFC forbids the other in forms, so
    whoever inspected the request on its way has looked at the plain one. Of two of a kind the first counts.
    """
    found = {}
    for line in text_of(head, "the head of a part").split("\r\n"):
        if line.lower().startswith("content-disposition:"):
            for name, quoted, token in re.findall(r';[ \t]*([^\s=;"]+)=(?:"((?:[^"\\]|\\.)*)"|([^\s;"]*))', line):
                # Only the quote is unescaped: browsers send a backslash as it is.
                found.setdefault(name.lower(), quoted.replace('\\"', '"') or token)
    extended = re.match(r"(?i)utf-8'[^']*'(.*)", found.get("filename*", ""))
    if extended and "filename" not in found:
        found["filename"] = text_of(unquote(extended.group(1).encode()), "the file name")
    return found.get("name"), found.get("filename")


# A request's bytes

_BARE = re.compile(rb"(?<!\r)\n|\r[^\n]")
_REQUEST_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]{1,32}) ([!-~\x80-\xff]+) HTTP/(1\.[01])\Z")
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\t -~\x80-\xff]*)\Z")
_ONCE = ("host", "content-length", "transfer-encoding", "content-type", "expect")


def parse_head(head):
    """(method, target, version, {lower-case name: value}) of a request head (RFC 9112 3, 5); raises HTTPError 400, 431.

    Strict, for what two programs read in two ways is how requests are smuggled.
    """
    first, *lines = head.split(b"\r\n")
    match = _REQUEST_LINE.match(first)
    if not match:
        raise HTTPError(400, "the request line is malformed; it reads METHOD TARGET HTTP/1.1")
    if len(lines) > MAX_HEADERS:
        raise HTTPError(431, "the request has over %d headers; send fewer" % MAX_HEADERS)
    headers = {}
    for line in lines:
        field = _FIELD.match(line)
        if not field:
            raise HTTPError(400, "a header is malformed; it reads NAME: VALUE, on one line")
        name, value = field.group(1).decode().lower(), field.group(2).decode("latin-1").rstrip(" \t")
        if name in headers and name in _ONCE:
            raise HTTPError(400, "the request has two %s headers; send one" % name)
        headers[name] = headers[name] + ", " + value if name in headers else value
    method, target, version = (group.decode("latin-1") for group in match.groups())
    if version == "1.1" and "host" not in headers:
        raise HTTPError(400, "the request has no Host header; send one (RFC 9112 3.2)")
    return method, target, version, headers


class Connection:
    """The bytes that arrive on a TCP connection, and the time they may take.

    What was received beyond the request at hand waits in `pending` for the next one.
    """

    def __init__(self, sock):
        self.sock, self.pending = sock, bytearray()
        self.idle_since = time.monotonic()  # None while a request is served
        self.allow(IDLE_TIMEOUT)

    def allow(self, seconds):
        """From now on what arrives may take so long, and longer while it comes faster than SLOWEST."""
        self._until, self._received = time.monotonic() + seconds, 0

    def readinto(self, view):
        """How many bytes were put into view, 0 where the client has closed; raises HTTPError 408 where it is slow."""
        if self.pending:
            count = min(len(view), len(self.pending))
            view[:count] = self.pending[:count]
            del self.pending[:count]
            return count
        left = self._until + self._received / SLOWEST - time.monotonic()
        try:
            self.sock.settimeout(max(0.001, min(left, IDLE_TIMEOUT)))
            count = self.sock.recv_into(view)
        except socket.timeout:
            raise HTTPError(408, "the request came too slowly; send it again") from None
        self._received += count
        return count

    def fill(self):
        """Adds what arrives to pending; False where the client has closed."""
        before, self.pending, block = self.pending, bytearray(), bytearray(65536)
        count = self.readinto(block)
        self.pending = before + block[:count]
        return count > 0

    def head(self):
        """The next request head, without the empty line that ends it; None where no request comes."""
        if not self.pending:
            self.allow(IDLE_TIMEOUT)
            self.idle_since = time.monotonic()
            try:
                if not self.fill():
                    return None
            except HTTPError:
                return None
        self.idle_since = None
        self.allow(HEAD_TIMEOUT)
        seen = 0
        while True:
            if self.pending.startswith(b"\r\n"):  # an empty line before a request is nothing (RFC 9112 2.2)
                del self.pending[:2]
            end = self.pending.find(b"\r\n\r\n", max(0, seen - 3))
            if end >= 0:
                head = bytes(self.pending[:end])
                del self.pending[: end + 4]
                return head
            seen = len(self.pending)
            if seen > HEAD_LIMIT:
                raise HTTPError(431, "the request head is over %d bytes; put what is long in the body" % HEAD_LIMIT)
            if _BARE.search(self.pending):
                raise HTTPError(400, "the request head has a bare CR or LF; end its lines with CR LF")
            if not self.fill():
                return None

    def line(self, limit):
        """The next line of a chunked body, at most limit bytes, without its end; raises HTTPError 400."""
        while b"\n" not in self.pending[: limit + 2]:
            if len(self.pending) > limit + 1 or not self.fill():
                raise HTTPError(400, "the chunked body is malformed or cut off; nothing was done")
        line, _, self.pending = self.pending.partition(b"\n")
        if not line.endswith(b"\r") or b"\r" in line[:-1]:
            raise HTTPError(400, "a line of the chunked body does not end with CR LF")
        return bytes(line[:-1])

    def gone(self):
        """Whether the client has hung up."""
        if hasattr(select, "POLLRDHUP"):  # Linux: seen also behind bytes that are not read yet
            poll = select.poll()
            poll.register(self.sock, select.POLLRDHUP)
            return bool(poll.poll(0))
        try:
            self.sock.settimeout(0)
            return self.sock.recv(1, socket.MSG_PEEK) == b""
        except OSError as error:
            return not isinstance(error, BlockingIOError)


class Body:
    """A request's body, to be read once, by Content-Length or chunked (RFC 9112 6, 7); raises HTTPError 400.

    Who expects 100 Continue gets it when the body is first read: behind every check that needs none of it.
    """

    def __init__(self, connection, version, headers):
        length, coding = headers.get("content-length"), headers.get("transfer-encoding")
        if coding is not None and (length is not None or version == "1.0" or coding.lower() != "chunked"):
            raise HTTPError(400, "the length of the body is ambiguous; send one Content-Length, or chunks")
        if length is not None and not re.match(r"[0-9]{1,18}\Z", length):
            raise HTTPError(400, "Content-Length is not a number; send the body's length in bytes")
        self._connection, self._chunked = connection, coding is not None
        self._expect = version == "1.1" and headers.get("expect", "").lower() == "100-continue"
        self.length = None if self._chunked else int(length or 0)  # bytes, None where nobody knows yet
        self.framed = self._chunked or length is not None
        self.done = self.length == 0
        self._left = self.length or 0  # bytes of the body, or of the chunk at hand
        connection.allow(IDLE_TIMEOUT)

    def readinto(self, view):
        """How many bytes were put into view; 0 at the end of the body."""
        if self._expect and not self.done:
            self._connection.sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._expect = False
        if self._chunked and not self._left and not self.done:
            self._next_chunk()
        if self.done:
            return 0
        count = self._connection.readinto(view[: self._left])
        if not count:
            raise HTTPError(400, "the body is cut off; nothing was done")
        self._left -= count
        if not self._left and self._chunked and self._connection.line(0):
            raise HTTPError(400, "a chunk is longer than its size")
        self.done = not self._left and not self._chunked
        return count

    def _next_chunk(self):
        size = self._connection.line(256).partition(b";")[0].rstrip(b" \t")
        if not re.match(rb"[0-9A-Fa-f]{1,15}\Z", size):
            raise HTTPError(400, "the size of a chunk is not a hexadecimal number")
        self._left = int(size, 16)
        if not self._left:  # the last chunk; trailers are read and dropped
            for _ in range(MAX_HEADERS):
                if not self._connection.line(8192):
                    self.done = True
                    return
            raise HTTPError(400, "the chunked body has over %d trailers" % MAX_HEADERS)

    def read(self, limit):
        """The first bytes of the body: limit of them, fewer only where it ends."""
        block, read, count = bytearray(limit if self.length is None else min(limit, self.length)), 0, 1
        while count and read < len(block):
            count = self.readinto(memoryview(block)[read:])
            read += count
        return bytes(block[:read])

    def form(self):
        """All of a body that is to be parsed; raises HTTPError 413 where it is over FORM_LIMIT."""
        data = self.read(FORM_LIMIT + 1)
        if len(data) > FORM_LIMIT:
            raise HTTPError(413, "a JSON or form body may have %d bytes; send what is larger as a file" % FORM_LIMIT)
        return data


def multipart(content_type, readinto):
    """The parts of a multipart body (RFC 2046 5.1) as they arrive, in flat memory; raises HTTPError 400.

    Yields (name, file name) where a part begins, then memoryviews of its data, each good until the next is asked for.
    `readinto` puts bytes into a view and returns how many, 0 at the end of the body.

    One buffer is filled and searched. The last bytes, which may begin a delimiter, stay for the next round. A delimiter
    is followed by CR LF, or by -- if it is the last; anything else makes it data that only looks like one.
    """
    match = re.search(r';[ \t]*boundary=(?:"([^"]{1,70})"|([^\s;"]{1,70}))', content_type, re.I)
    if not match:
        raise HTTPError(400, "the multipart Content-Type has no boundary of 1 to 70 characters")
    delimiter = b"\r\n--" + (match.group(1) or match.group(2)).encode("latin-1")
    buffer = bytearray(BLOCK + 16384)
    view = memoryview(buffer)
    buffer[:2] = b"\r\n"  # the first delimiter need not follow a line
    start, end, in_part = 0, 2, False

    def more():
        """Moves what is left to the front of the buffer and reads behind it."""
        nonlocal start, end
        buffer[: end - start] = buffer[start:end]
        start, end = 0, end - start
        count = readinto(view[end:])
        if not count:
            raise HTTPError(400, "the multipart body ends before its closing delimiter; nothing was stored")
        end += count

    while True:
        at = buffer.find(delimiter, start, end)
        stop = at if at >= 0 else max(start, end - len(delimiter) + 1)
        if in_part and stop > start:
            yield view[start:stop]
        start = stop
        if at < 0:
            more()
            continue
        while end - start < len(delimiter) + 2:
            more()
        follows = bytes(view[start + len(delimiter) :][:2])
        if follows not in (b"--", b"\r\n"):
            stop = start + len(delimiter)
            if in_part:
                yield view[start:stop]
            start = stop
            continue
        if follows == b"--":
            while readinto(view):  # the epilogue is ignored
                pass
            return
        start += len(delimiter)  # at the line end, so that an empty head is found, too
        while buffer.find(b"\r\n\r\n", start, end) < 0 and end - start < 8192:
            more()
        close = buffer.find(b"\r\n\r\n", start, end)
        if close < 0 or close - start > 8192:
            raise HTTPError(400, "the head of a part is over 8192 bytes")
        yield part_names(bytes(view[start:close]))
        start, in_part = close + 4, True


# The operator

Action = collections.namedtuple("Action", "operation subject facts key")
Action.__doc__ = """What is to be approved: an operation, its subject (str), facts (list of str), and a key that only
byte-identical actions share, None where they can't be told."""


class Terminal:
    """Standard error, shared by the log and the questions: the log waits while a question is open."""

    def __init__(self):
        self._lock = threading.Lock()  # guards _lines, _asking and what is written
        self._lines, self._asking = [], False
        self._wake = threading.Event()

    def log(self, line):
        """Adds a line to the log, which is written a moment later: a write for each would halve the answers a second."""
        with self._lock:
            self._lines.append(line + "\n")
        if not self._wake.is_set():
            self._wake.set()

    def run(self):
        """Writes the log, for ever."""
        while self._wake.wait():
            self._wake.clear()
            self.flush()
            time.sleep(0.05)

    def flush(self, text="", asking=None):
        """Writes the lines that wait, unless a question is open, then text, which opens or ends a question."""
        with self._lock:
            if not self._asking or asking is False:
                text = "".join(self._lines) + text if asking else text + "".join(self._lines)
                self._lines = []
            if asking is not None:
                self._asking = asking
            if asking and termios and sys.stdin and sys.stdin.isatty():
                termios.tcflush(sys.stdin, termios.TCIFLUSH)  # keys pressed before the question don't answer it
            try:
                sys.stderr.write(text)
                sys.stderr.flush()
            except (OSError, ValueError):
                pass  # the daemon outlives its terminal


class Gate:
    """Asks the operator, one question at a time, first come first served; every action passes `approve`.

    Callers wait in line; the first owns the terminal. One leaves the line when it is answered, when its time is up, or
    when its client has hung up; what is typed then finds no question, and is dropped before the next.
    """

    def __init__(self, terminal, asks, counts):
        self._terminal, self._asks, self._counts = terminal, asks, counts
        self._turn = threading.Condition()  # guards _line and _allowed
        self._line, self._allowed = [], set()
        self._closing = self._counting = False
        self._cancelled = threading.Event()

    def approve(self, action, caller, seconds):
        """In a word for the log, how the action was approved; raises HTTPError 403, 408, 429 or 503 where it was not."""
        if not self._asks and not self._counts:
            return "nosafe"
        until, decision = time.monotonic() + seconds, "counted"

        def check():
            if self._closing:
                raise HTTPError(503, "the daemon is ending; nothing was done")
            if caller.gone():
                raise HTTPError(408, "the client hung up; nothing was done")
            if time.monotonic() >= until:
                raise HTTPError(408, "nobody answered within %g s; nothing was done, ask again" % seconds)

        ticket = object()
        with self._turn:
            if len(self._line) >= MAX_WAITING:
                message = "%d actions wait for the operator; try again later" % MAX_WAITING
                raise HTTPError(429, message, [("Retry-After", "10")])
            self._line.append(ticket)
            try:
                self._turn.wait_for(lambda: self._closing or self._line[0] is ticket, seconds)
                self._turn.release()
                try:
                    check()
                    if self._asks:
                        decision = "always" if action.key in self._allowed else self._ask(action, caller, check)
                    if self._counts:
                        self._count_down(action)
                    check()
                finally:
                    self._turn.acquire()
                return decision
            finally:
                self._line.remove(ticket)
                self._turn.notify_all()

    def _ask(self, action, caller, check):
        if not sys.stdin or not sys.stdin.isatty() or not _in_foreground():
            raise HTTPError(403, "denied: the daemon has no terminal to ask at; start it at one, or with -nosafe")
        self._terminal.flush(question(action, caller.client), asking=True)
        try:
            answer = self._answer(check)
        except HTTPError as error:
            self._terminal.flush("\nwithdrawn: %s\n" % error.message, asking=False)
            raise
        self._terminal.flush("" if answer.endswith("\n") else "\n", asking=False)
        word, _, reason = answer.strip().partition(" ")
        if word in ("y", "Y") and not reason:
            return "yes"
        if word in ("a", "A") and not reason and action.key is not None:
            with self._turn:
                self._allowed.add(action.key)
            return "always"
        reason = reason.strip() if word in ("n", "N") else ""
        raise HTTPError(403, "denied by the operator" + (": " + reason if reason else ""))

    def _answer(self, check):
        """The line that is typed, "" at the end of input; raises what check raises while nobody types."""
        try:
            if not termios:  # Windows can't wait for the keyboard and look after the client at once
                return input() + "\n"
            while not select.select([sys.stdin], [], [], 0.2)[0]:
                check()
            return os.read(sys.stdin.fileno(), 4096).decode("utf-8", "replace")
        except (OSError, EOFError):
            return ""

    def _count_down(self, action):
        self._cancelled.clear()
        self._counting = True
        text = "%s in %d s, Ctrl+C cancels it: %s\n"
        self._terminal.flush(text % (action.operation, COUNTDOWN, visible(action.subject)[0]), asking=True)
        try:
            if self._cancelled.wait(COUNTDOWN):
                raise HTTPError(403, "cancelled by the operator")
        finally:
            self._counting = False
            self._terminal.flush("cancelled\n" if self._cancelled.is_set() else "", asking=False)

    def cancel(self):
        """Cancels the countdown; False where there is none. Takes no lock: signal handlers call it."""
        counting, self._counting = self._counting, False
        if counting:
            self._cancelled.set()
        return counting

    def close(self):
        """Sends everybody in line away."""
        self._closing = True
        self._cancelled.set()
        with self._turn:
            self._turn.notify_all()


def question(action, client):
    """What the operator is asked: who, the facts, and the subject to its last character."""
    shown = [visible(line) for line in action.subject.split("\n")]
    hidden = sum(count for _, count in shown)
    text = "\a\n%s asked for by %s\n" % (action.operation, client) + "".join("  %s\n" % fact for fact in action.facts)
    text += "    %s\n" % "\\n\n    ".join(line for line, _ in shown)
    text += "  %d hidden characters are shown as escapes\n" % hidden if hidden else ""
    return text + "y = yes, n = no, n REASON%s: " % (", a = always this very action" if action.key else "")


def _in_foreground():
    """Whether the daemon may read its terminal: a job in the background would be stopped."""
    try:
        return not termios or os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()
    except OSError:
        return False


# Commands


def kill_group(process):
    """Kills the process group that a child leads. Where the child is gone the group may have ended and its number may
    be another's; but while the group lives the system gives its number to no new process."""
    try:
        if process.returncode is not None:
            try:
                os.kill(process.pid, 0)
                return
            except ProcessLookupError:
                pass
        os.killpg(process.pid, signal.SIGKILL)
    except AttributeError:  # Windows
        process.kill()
    except OSError:
        pass


def _end_of(process):
    """A descriptor that is readable once the process has ended: a pidfd, or a pipe that a thread closes."""
    try:
        return os.pidfd_open(process.pid)
    except (AttributeError, OSError):
        ended, signal_end = os.pipe()

        def wait():
            process.wait()
            os.close(signal_end)

        threading.Thread(target=wait, daemon=True).start()
        return ended


class Job:
    """A command that runs, or has run, and what it has written.

    Output comes through one pipe: in the order written, and a script that opens /dev/stderr by name does not truncate
    what is there. The first OUTPUT_LIMIT bytes are in memory; when there are more, or somebody is to be told where to
    find them, all are in a log. One thread at a time tends a job.
    """

    def __init__(self, process, pipe, path, timeout):
        self.process, self.pipe, self.path, self.timeout = process, pipe, path, timeout  # pipe: None at its end
        self.ended = _end_of(process)  # None when the shell has ended and has been waited for
        self.started = time.monotonic()
        self.deadline = self.started + timeout if timeout else float("inf")
        self.timed_out = False
        self.size = self.kept = 0  # bytes written, and how many of them are in memory or in the log
        self.memory, self.log = bytearray(), None
        self.discard = False  # nobody will ask for what comes from now on
        self._bound = LOG_LIMIT

    def tend(self, seconds, whole=False):
        """Takes output for some seconds at most, until the shell has ended, or, if whole, until nobody can write more."""
        until = time.monotonic() + seconds
        poll = select.poll()
        for descriptor in filter(None, (self.pipe, self.ended)):
            poll.register(descriptor, select.POLLIN)
        while self.ended or whole and self.pipe:
            now = time.monotonic()
            if now >= until:
                return
            if now >= self.deadline and self.ended and not self.timed_out:
                self.timed_out = True
                kill_group(self.process)
            left = min(until, self.deadline if self.ended and not self.timed_out else until) - now
            for descriptor, _ in poll.poll(min(left, 3600) * 1000 + 1):
                if descriptor == self.ended:
                    poll.unregister(descriptor)
                    os.close(descriptor)
                    self.process.wait()
                    self.ended = None
                    if not self.pipe:
                        break
                    descriptor = self.pipe  # for what the shell wrote before its end
                if descriptor == self.pipe and not self._take():
                    poll.unregister(descriptor)
            if self.discard or self.kept == self._bound:
                time.sleep(0.002)  # who writes without end shall wait for us

    def _take(self):
        """Takes a block from the pipe, as much as it can hold; False at its end."""
        try:
            data = os.read(self.pipe, BLOCK if self.log else OUTPUT_LIMIT)
        except BlockingIOError:
            return True
        if not data:
            os.close(self.pipe)
            self.pipe = None
            return False
        self.size += len(data)
        if not self.discard:
            if self.size > OUTPUT_LIMIT:
                self.keep()
            if self.log:
                self._append(data)
            else:
                self.memory += data
                self.kept = self.size
        return True

    def keep(self):
        """Sees to it that the output is in the log, and goes on there; raises OSError."""
        if not self.log:
            self.log = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
            self.kept = 0
            self._append(self.memory)
            try:
                fcntl.fcntl(self.pipe, 1031, BLOCK)  # F_SETPIPE_SZ on Linux: fewer, larger reads
            except (AttributeError, OSError, TypeError):
                pass

    def _append(self, data):
        while data and self.kept < self._bound:
            try:
                written = os.write(self.log, data[: self._bound - self.kept])
            except OSError:  # the disk is full
                self._bound, written = self.kept, 0
            self.kept, data = self.kept + written, data[written:]
            if self.kept == self._bound:
                self.note("the log ends here: it keeps %d bytes" % self.kept)

    def note(self, sentence):
        """Adds a last line to the log, where there is room for it."""
        try:
            os.write(self.log, b"\n[%s]\n" % sentence.encode())
        except OSError:
            pass

    def ending(self):
        """How the shell ended, in a few words; "" where it simply succeeded."""
        code = self.process.returncode
        if self.timed_out:
            return "timed out after %g s; killed" % self.timeout
        if code < 0:
            return "killed by %s" % next((s.name for s in signal.Signals if s == -code), "signal %d" % -code)
        return "exit code %d" % code if code else ""


class Runner:
    """Starts every command, and ends it with the daemon.

    A request tends its own job. What is not finished when the request is answered (the command runs on, or a job that
    it left behind holds the pipe) gets a thread, so that it never blocks on a full pipe or outlives its time.
    """

    def __init__(self, shell, timeout):
        self._shell, self._timeout = shell, timeout
        self._lock = threading.Lock()  # guards _directory, _processes and _closed
        self._directory = None
        self._processes = set()  # those whose group may be alive
        self._closed = False
        self._numbers = itertools.count(1)

    @property
    def directory(self):
        """This run's own directory, mode 0700, made when it is first needed."""
        with self._lock:
            if not self._directory:
                import tempfile

                self._directory = tempfile.TemporaryDirectory(prefix="mycodeinterpreter-")
            return self._directory.name

    def start(self, command, stdin=None):
        """A Job that runs a command line (str) with a file, or nothing, as its input; raises HTTPError 400, 500."""
        path = os.path.join(self.directory, "%d.log" % next(self._numbers))
        descriptors, process = [], None
        try:
            descriptors += os.pipe()
            os.set_blocking(descriptors[0], False)
            process = subprocess.Popen(
                self._shell + [os.fsencode(command) if os.name == "posix" else command],
                stdin=stdin or subprocess.DEVNULL,
                stdout=descriptors[1],
                stderr=descriptors[1],
                start_new_session=True,  # with no terminal that it could open as /dev/tty
            )
            job = Job(process, descriptors.pop(0), path, self._timeout)
        except OSError as error:
            if process:  # no descriptor is left to tend it with
                kill_group(process)
                process.wait()
            if error.errno == errno.E2BIG:
                raise HTTPError(400, "the command is longer than the system takes; send it as stdin of `sh`") from None
            raise HTTPError(500, "%s would not start: %s" % (self._shell[0], error.strerror)) from None
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        with self._lock:
            self._processes.add(process)
            if self._closed:
                kill_group(process)
        return job

    def leave(self, job):
        """Lets go of a job whose request is about to be answered."""
        if job.pipe or job.ended:
            threading.Thread(target=self._finish, args=(job,), daemon=True).start()
        else:
            self._finish(job)

    def _finish(self, job):
        job.tend(float("inf"), whole=True)
        if job.log:
            if not job.discard and job.ending():
                job.note(job.ending())
            os.close(job.log)
        try:
            os.killpg(job.process.pid, 0)  # jobs that it left behind, their output elsewhere
        except (AttributeError, OSError):
            with self._lock:
                self._processes.discard(job.process)

    def close(self):
        """Kills what still runs and removes this run's directory."""
        with self._lock:
            self._closed = True
            for process in self._processes:
                kill_group(process)
        if self._directory:
            self._directory.cleanup()


# Files


def opened(filename):
    """(file, status) of a regular file, unbuffered; raises HTTPError 400, 403 or 404."""
    shown = visible(filename)[0]
    try:
        if not stat.S_ISREG(os.stat(filename).st_mode):  # opening a device may do things
            raise HTTPError(400, "%s is not a regular file; list or pack it with a command" % shown)
        file = open(filename, "rb", buffering=0, opener=lambda name, flags: os.open(name, flags | _NONBLOCK))
    except PermissionError:
        raise HTTPError(403, "the daemon's account may not read %s" % shown) from None
    except (OSError, ValueError) as error:
        raise HTTPError(404, "%s: %s; give another filename" % (shown, getattr(error, "strerror", error))) from None
    return file, os.fstat(file.fileno())


_NONBLOCK = getattr(os, "O_NONBLOCK", 0)  # a FIFO that took the file's place must not hold us


class Upload:
    """A file on its way in: written beside its target, then renamed over it."""

    def __init__(self, directory, name):
        self.target, self.size = os.path.join(directory, base_name(name)), 0
        self._before, self._file = self._identity(), None
        self._temporary = os.path.join(directory, ".%s.part" % os.urandom(8).hex())

    def _identity(self):
        """What is at the target, links not followed, in a form to compare; None where nothing is."""
        try:
            status = os.lstat(self.target)
        except FileNotFoundError:
            return None
        return status.st_mode, status.st_size, status.st_ino, status.st_dev, status.st_mtime_ns

    def action(self, fact):
        """The Action that asks for it."""
        state = "a new file"
        if self._before:
            mode, size = self._before[:2]
            state = "OVERWRITES a file of %d bytes" % size
            if stat.S_ISLNK(mode):
                state = "REPLACES a link to %s" % visible(os.readlink(self.target))[0]
        return Action("send-file", self.target, [state, fact], None)

    def write(self, view):
        """Appends bytes; raises OSError."""
        if not self._file:
            self._file = open(self._temporary, "xb", buffering=0)
        while len(view):
            written = self._file.write(view)
            self.size, view = self.size + written, view[written:]

    def commit(self):
        """Puts it in place; raises HTTPError where the place is not what the operator was shown, OSError."""
        self.write(b"")
        if self._identity() != self._before:
            message = "%s has changed since the operator was asked; nothing was stored, send it again"
            raise HTTPError(403, message % visible(self.target)[0])
        if self._before and stat.S_ISREG(self._before[0]) and hasattr(os, "fchmod"):
            os.fchmod(self._file.fileno(), stat.S_IMODE(self._before[0]))  # a script stays executable
        self._file.close()
        os.replace(self._temporary, self.target)
        self._file = None

    def discard(self):
        """Removes what was not committed."""
        if self._file:
            self._file.close()
            self._file = None
            os.unlink(self._temporary)


# The three actions, the same for every protocol. A caller has `server`, `client`, `gone()` and `approve(action, seconds)`.


class Result:
    """What has come of a command when its request is answered.

    exit_code (negative: a signal; None while it runs), running, timed_out, truncated, pid, log (a path or None),
    seconds, and `parts`, its output and a last line in brackets: bytes, or (file, start, count) of the log.
    """

    def __init__(self, job, limit, held):
        self.pid, self.running, self.exit_code = job.process.pid, job.ended is not None, job.process.returncode
        self.timed_out = job.timed_out and not self.running
        self.seconds = time.monotonic() - job.started
        head, tail = (limit - limit // 2, limit // 2) if limit and job.kept > limit else (job.kept, 0)
        left_out = job.size - head - tail
        self.truncated = left_out > 0
        job.discard = not (self.running or self.truncated)
        self.log = None if job.discard else job.path
        if self.log:
            job.keep()
        self._file = open(job.path, "rb", buffering=0) if job.log else None
        if job.log and job.discard:
            os.unlink(job.path)
        said = [job.ending()] if not self.running else []
        if self.running:
            said.append("still running after %.3g s, pid %d; its output goes on in %s" % (held, self.pid, self.log))
        if self.truncated:
            said.append("\u2026 %d bytes left out \u2026" % left_out)
            if job.kept < job.size:
                said.append("its first %d bytes are in %s" % (job.kept, self.log))
            elif not self.running:
                said.append("the whole output is in %s" % self.log)
        self.parts = [self._part(job, 0, head)]
        if tail:
            self.parts += [b"\n[\xe2\x80\xa6]\n", self._part(job, job.kept - tail, tail)]
        if any(said):
            end = self._bytes(self._part(job, job.kept - 1, 1)) if job.kept else b"\n"
            self.parts.append(("\n[%s]\n" % "; ".join(filter(None, said))).encode()[end == b"\n" :])

    def _part(self, job, start, count):
        return (self._file, start, count) if self._file else bytes(job.memory[start : start + count])

    @staticmethod
    def _bytes(part):
        return part if isinstance(part, bytes) else os.pread(part[0].fileno(), part[2], part[1])

    def output(self):
        """All parts as one str."""
        return b"".join(map(self._bytes, self.parts)).decode("utf-8", "replace")

    def close(self):
        """Lets go of the log."""
        if self._file:
            self._file.close()


def execcmd(caller, command, stdin=b"", rest=None, wait=None, limit=None):
    """Runs a command line (str) and returns its Result; stdin as bytes, the rest of it from a Body, wait in seconds."""
    server, asked = caller.server, time.monotonic()
    hold = server.hold if wait is None else min(wait, 86400)
    facts = ["in %s%s" % (visible(server.directory)[0], " by " + " ".join(server.shell) if server.shell_given else "")]
    if rest and not rest.done:
        facts.append("its standard input is over %d bytes and NOT SHOWN" % len(stdin))
    elif stdin:
        text, hidden = visible(stdin.decode("utf-8", "surrogateescape"))
        facts.append("its standard input, %d bytes, %d shown as escapes: %s" % (len(stdin), hidden, text))
    key = None if rest and not rest.done else ("execcmd", command, stdin)
    caller.approve(Action("execcmd", command, facts, key), max(hold, server.hold))
    source = None
    try:
        if stdin:
            import tempfile

            source = tempfile.TemporaryFile(dir=server.runner.directory)
            source.write(stdin)
            block = memoryview(bytearray(BLOCK if rest and not rest.done else 0))
            while rest and not rest.done:
                source.write(block[: rest.readinto(block)])
            source.seek(0)
        job = server.runner.start(command, source)
    finally:
        if source:
            source.close()
    try:
        job.discard = True  # until somebody is told
        job.discard = False
        job.tend(max(hold - (time.monotonic() - asked), min(hold, 1)))
        return Result(job, server.limit if limit is None else int(limit), hold)
    finally:
        server.runner.leave(job)


def get_file(caller, filename):
    """(file, status) of a file that the operator lets go; what is shown is opened before and is what is sent."""
    server = caller.server
    path, facts, file, failure = os.path.join(server.directory, filename), [], None, None
    try:
        try:
            file, status = opened(path)
            facts.append("%d bytes" % status.st_size)
        except HTTPError as error:  # told after the approval: whether a file exists is an answer, too
            failure = error
            facts.append("can't be sent: %s" % error.message)
        real = os.path.realpath(path)
        if real != os.path.normpath(path):
            facts.append("a link leads to %s" % visible(real)[0])
        caller.approve(Action("get-file", path, facts, ("get-file", path, real)), server.hold)
        if failure:
            raise failure
        file, kept = None, file
        return kept, status
    finally:
        if file:
            file.close()


def send_file(caller, events, fact=""):
    """Stores uploads in the working directory; returns [(name, bytes)], or raises and has stored nothing.

    events: (field, file name) or (field, file name, fact) at the start of each, then its data in blocks.
    """
    uploads, upload = [], None
    try:
        for event in events:
            if isinstance(event, tuple):
                upload = None
                if event[1]:
                    upload = Upload(caller.server.directory, event[1])
                    caller.approve(upload.action((event + (fact,))[2]), caller.server.hold)
                    uploads.append(upload)
                    upload.write(b"")
            elif upload:
                upload.write(event)
        if not uploads:
            raise HTTPError(400, "no file was sent; send it as a multipart part with a filename, `curl -F document=@FILE`")
        for upload in uploads:
            upload.commit()
        return [(os.path.basename(upload.target), upload.size) for upload in uploads]
    finally:
        for upload in uploads:
            upload.discard()


# Their description

_MEANING = {
    "200": "Done.",
    "202": "Still running; the answer names the process and the log in which its output goes on.",
    "206": "The part of the file that was asked for.",
    "304": "Not changed since.",
    "400": "Bad Request: a parameter is missing or malformed; the answer says which.",
    "401": "Unauthorized: credentials not provided or incorrect.",
    "403": "Forbidden: denied or cancelled by the operator, whose reason is in the answer; nothing was done.",
    "404": "Not Found: no such file.",
    "408": "Timed out: nobody approved it in time and nothing was done, or the command ran too long and was killed.",
    "411": "Length Required: send Content-Length or chunks.",
    "413": "Content Too Large.",
    "416": "Range Not Satisfiable.",
    "429": "Too Many Requests: too many actions wait for the operator; try again later.",
    "500": "Internal Server Error: the shell would not start, or the file could not be written.",
    "507": "Insufficient Storage: the disk is full.",
}


def _operation(name, summary, description, statuses, produces="text/plain", **more):
    answers = {status: {"description": _MEANING[status]} for status in statuses.split()}
    for status in answers:
        if status in ("200", "202", "206"):
            answers[status]["content"] = {produces: {"schema": {"type": "string"}}}
    about = {"operationId": name, "summary": summary, "description": description}
    return dict(about, **more, responses=answers)


def _parameter(name, kind, description, required=False):
    schema = {"type": kind}
    return {"name": name, "in": "query", "description": description, "required": required, "schema": schema}


_STDIN = {"type": "string", "description": "Standard input for the command."}
_DOCUMENT = {"type": "string", "format": "binary", "description": "The file, sent with its file name."}

TEMPLATE = {
    "openapi": "3.1.0",
    "info": {
        "title": "MyCodeInterpreter",
        "description": "Runs commands and moves files on the operator's own machine, where a person approves each action.",
        "version": __version__,
    },
    "servers": [{"url": "https://example.com"}],
    "security": [{"key": []}],
    "paths": {
        "/execcmd": {
            "post": _operation(
                "execcmd",
                "Execute a shell command on the server.",
                "Returns stdout and stderr in the order written. A last line in brackets tells of a failure, of output "
                "left out, or of a command that is still running, and where its log is.",
                "200 202 400 401 403 408 429 500",
                parameters=[
                    _parameter("cmd", "string", "The command line, as a shell takes it.", True),
                    _parameter("wait", "number", "Seconds to wait for its end before the answer; 40 unless given."),
                    _parameter("limit", "integer", "Bytes of output in the answer; 0 for all, 65536 unless given."),
                ],
                requestBody={
                    "required": False,
                    "content": {"application/json": {"schema": {"type": "object", "properties": {"stdin": _STDIN}}}},
                },
                **{"x-openai-isConsequential": False}
            )
        },
        "/get-file": {
            "get": _operation(
                "get-file",
                "Retrieve a file from the server.",
                "Returns the file's bytes.",
                "200 206 304 400 401 403 404 408 416 429",
                "application/octet-stream",
                parameters=[_parameter("filename", "string", "Path of the file to retrieve.", True)],
            )
        },
        "/send-file": {
            "post": _operation(
                "send-file",
                "Store a file on the server.",
                "Stores a file under its own name in the working directory.",
                "200 400 401 403 408 411 413 429 500 507",
                requestBody={
                    "required": True,
                    "content": {
                        "multipart/form-data": {
                            "schema": {"type": "object", "properties": {"document": _DOCUMENT}, "required": ["document"]}
                        }
                    },
                },
                **{"x-openai-isConsequential": False}
            )
        },
    },
    "components": {"schemas": {}, "securitySchemes": {"key": {"type": "http", "scheme": "basic"}}},
}


def load_template(directory):
    """openapi_template.json in a directory, or the copy carried here where there is none; raises ValueError."""
    try:
        with open(os.path.join(directory, "openapi_template.json"), encoding="utf-8") as file:
            return json.load(file)
    except FileNotFoundError:
        return TEMPLATE


def schema(template, url, secured):
    """The schema served at a URL, with the security scheme or, where none is in force, without."""
    filled = dict(template, servers=[{"url": url}])
    if not secured:
        filled.pop("security", None)
        filled["components"] = {k: v for k, v in template["components"].items() if k != "securitySchemes"}
    return filled


# HTTP


class Handler(socketserver.BaseRequestHandler):
    """One connection. A request passes, in this order, and stops at the first that fails: framing (`read_request`),
    Host and Origin (`check_origin`), credentials (`authorize`), path and method (`route`), and in the method of its
    route parameters, approval and action. Every refusal is an HTTPError, answered in `answer_one`."""

    routes = {
        "/execcmd": {"POST": "execcmd"},
        "/get-file": {"GET": "get_file", "HEAD": "get_file"},
        "/send-file": {"POST": "send_file"},
        "/openapi.json": {"GET": "openapi", "HEAD": "openapi"},
    }

    def handle(self):
        """Answers requests until the connection ends."""
        self.connection = self.server.connections[self.request]
        try:
            while self.answer_one():
                pass
            if self.body is None or not self.body.done:
                self.linger()
        except OSError:
            pass  # the client is gone, or does not take its answer

    def answer_one(self):
        """Reads and answers one request; whether another may follow."""
        self.method = self.path = self.version = self.body = self.action = None
        self.headers, self.admitted, self.sent, self.status, self.decision = {}, False, 0, None, ""
        self.client, self.closing, self.started = "%s" % self.client_address[0], False, time.monotonic()
        try:
            try:
                if not self.read_request():
                    self.body = Body(self.connection, "1.0", {})
                    return False
                self.check_origin()
                self.authorize()
                getattr(self, self.route())()
            except ConnectionError:
                raise
            except OSError as error:
                raise HTTPError(507 if error.errno in (errno.ENOSPC, errno.EDQUOT) else 500, _sentence(error)) from None
        except HTTPError as error:
            self.answer_error(error)
        except ConnectionError:
            self.closing = True
        except Exception:
            self.server.terminal.log(_traceback())
            self.answer_error(HTTPError(500, "the daemon has a bug, its terminal shows which; please report it"))
        self.log()
        return not self.closing

    def read_request(self):
        """Framing: the head and the body's length; False where there is no request. Raises HTTPError 400, 408, 431."""
        head = self.connection.head()
        if head is None:
            return False
        self.started = time.monotonic()
        self.method, self.target, self.version, self.headers = parse_head(head)
        self.body = Body(self.connection, self.version, self.headers)
        self.closing = self.version == "1.0" or "close" in self.headers.get("connection", "").lower()
        absolute = re.match(r"https?://([^/?]*)(.*)", self.target, re.I)
        if absolute:  # its authority counts, not the Host header's (RFC 9112 3.2.2)
            self.headers["host"], self.target = absolute.group(1), absolute.group(2) or "/"
        if not self.target.startswith("/"):
            raise HTTPError(400, "the request target is malformed; it is a path")
        return True

    def check_origin(self):
        """Host and Origin: no web page elsewhere reaches the daemon, its DNS rebound or not; raises HTTPError 403, 421."""
        authority = self.headers.get("host", "127.0.0.1")
        host = host_of(authority)
        if host is None or not (is_ip(host) or host in self.server.names):
            raise HTTPError(421, "this daemon does not answer to that Host; if it should, start it with -url")
        if host in self.server.public_names and "x-forwarded-for" in self.headers:
            self.client = visible(self.headers["x-forwarded-for"].rpartition(",")[2].strip())[0]
        origin = self.headers.get("origin")
        if origin is not None and origin.lower() not in ("http://" + authority.lower(), "https://" + authority.lower()):
            raise HTTPError(403, "a web page elsewhere may not use this daemon; call it without an Origin header")
        if self.headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            raise HTTPError(403, "a web page elsewhere may not use this daemon; open its address yourself")

    def authorize(self):
        """Credentials: Basic, Bearer, or the token before the path, which is taken off; raises HTTPError 401."""
        path, _, self.query = self.target.partition("?")
        path = unquote(path.encode("latin-1"))
        first, slash, rest = path[1:].partition(b"/")
        self.secret_url = self.server.is_token(first) and bool(slash)
        self.path = (b"/" + rest if self.secret_url else path).decode("utf-8", "replace")
        self.admitted = self.secret_url or self.server.is_admitted(self.headers.get("authorization", ""))
        if not self.admitted and self.path != "/openapi.json":
            challenge = [("WWW-Authenticate", 'Basic realm="MyCodeInterpreter", charset="UTF-8"')]
            raise HTTPError(401, "the credentials are missing or wrong; send USER:KEY as Basic or KEY as Bearer", challenge)

    def route(self):
        """Path and method: the name of the method that serves them; raises HTTPError 404, 405."""
        methods = self.routes.get(self.path)
        if not methods:
            raise HTTPError(404, "there is nothing here; the paths are %s" % " ".join(self.routes))
        if self.method not in methods:
            allow = ", ".join(methods)
            raise HTTPError(405, "%s takes %s" % (self.path, allow), [("Allow", allow)])
        return methods[self.method]

    def approve(self, action, seconds):
        """Approval, by the one gate; raises HTTPError."""
        self.action, self.decision = action, "refused"
        self.decision = self.server.gate.approve(action, self, seconds)

    def gone(self):
        """Whether the client has hung up."""
        return self.connection.gone()

    def parameters(self, names, body=()):
        """{name: bytes} of the query and of pairs from the body; raises HTTPError 400.

        A name that is not known is most often the rest of a value whose & was not encoded; half a command must not run.
        """
        found = {}
        for name, value in form_of(self.query.encode("latin-1")) + list(body):
            if name not in names:
                message = "there is no parameter %s, only %s; write & as %%26 in a value"
                raise HTTPError(400, message % (visible(name)[0], ", ".join(names)))
            if name in found:
                raise HTTPError(400, "%s is given twice; give it once" % name)
            found[name] = value
        return found

    def body_form(self, names):
        """([(name, bytes)], standard input) of execcmd's body, which is JSON, a form, or itself the standard input."""
        kind = self.headers.get("content-type", "").partition(";")[0].strip().lower()
        if self.body.done:
            return [], b""
        if kind == "application/json":
            return json_pairs(self.body.form()), b""
        if kind == "application/x-www-form-urlencoded":
            data = self.body.form()
            pairs = form_of(data)
            # curl --data-binary says that it sends a form, whatever it sends
            return (pairs, b"") if any(name in names for name, _ in pairs) else ([], data)
        if kind == "multipart/form-data":
            data, pairs = self.body.form(), []
            source = _Reader(data)
            for event in multipart(self.headers["content-type"], source.readinto):
                if isinstance(event, tuple):
                    pairs.append((event[0] or "", b""))
                else:
                    pairs[-1] = (pairs[-1][0], pairs[-1][1] + bytes(event))
            return pairs, b""
        return [], self.body.read(FORM_LIMIT)

    def execcmd(self):
        """POST /execcmd"""
        names = ("cmd", "stdin", "wait", "limit")
        pairs, stdin = self.body_form(names)
        given = self.parameters(names, pairs)
        command = text_of(given.get("cmd", b""), "cmd")
        if not command:
            raise HTTPError(400, "cmd is missing: POST /execcmd?cmd=COMMAND")
        stdin = given.get("stdin", stdin)
        wait, limit = (number_of(given[name], name) if name in given else None for name in ("wait", "limit"))
        as_json = prefers_json(self.headers.get("accept", ""))
        if as_json:
            limit = min((self.server.limit if limit is None else limit) or JSON_LIMIT, JSON_LIMIT)
        result = execcmd(self, command, stdin, self.body, wait, limit)
        try:
            self.answer_result(result, as_json)
        finally:
            result.close()

    def answer_result(self, result, as_json):
        """Answers with a command's result."""
        status = 202 if result.running else 408 if result.timed_out else 200
        seconds = round(result.seconds, 3)
        if as_json:
            names = "exit_code running truncated pid log".split()
            answer = dict({name: getattr(result, name) for name in names}, output=result.output(), seconds=seconds)
            self.answer(status, [json.dumps(answer).encode()], kind="application/json")
            return
        headers = [("X-Pid", result.pid), ("X-Seconds", seconds)]
        headers += [("X-Exit-Code", result.exit_code)] if not result.running else [("X-Running", "true")]
        headers += [("X-Truncated", "true")] if result.truncated else []
        headers += [("X-Log", result.log)] if result.log else []
        self.answer(status, result.parts, headers)

    def get_file(self):
        """GET /get-file"""
        filename = text_of(self.parameters(("filename",)).get("filename", b""), "filename")
        if not filename:
            raise HTTPError(400, "filename is missing: GET /get-file?filename=PATH")
        file, status = get_file(self, filename)
        with file:
            size, tag = status.st_size, '"%x-%x-%x"' % (status.st_mtime_ns, status.st_size, status.st_ino)
            modified = http_date(status.st_mtime)
            headers = [("ETag", tag), ("Last-Modified", modified), ("Accept-Ranges", "bytes")]
            # Never a page of this origin, even where a browser is told to show it.
            headers.append(("Content-Disposition", "attachment; filename*=UTF-8''" + quote(os.path.basename(filename))))
            headers.append(("Content-Security-Policy", "sandbox; default-src 'none'"))
            match = self.headers.get("if-none-match", "")
            if match.strip() == "*" or tag in re.findall(r'(?:W/)?("[^"]*")', match):
                self.answer(304, [], headers)
                return
            start, stop, code = 0, size, 200
            if "range" in self.headers and self.headers.get("if-range", tag) in (tag, modified):
                found = byte_range(self.headers["range"], size)
                if found:
                    (start, stop), code = found, 206
                    headers.append(("Content-Range", "bytes %d-%d/%d" % (start, stop - 1, size)))
            import mimetypes

            kind = mimetypes.guess_type(filename)[0] or "application/octet-stream"
            self.answer(code, [(file, start, stop - start)], headers, kind)

    def send_file(self):
        """POST /send-file"""
        if not self.body.framed:
            raise HTTPError(411, "the length of the body is missing; send Content-Length or Transfer-Encoding: chunked")
        self.parameters(())
        kind = self.headers.get("content-type", "")
        if not kind.lower().startswith("multipart/form-data"):
            raise HTTPError(400, "send the file as multipart/form-data, as `curl -F document=@FILE` does")
        fact = "%d bytes at most" % self.body.length if self.body.length is not None else "of a length still unknown"
        stored = send_file(self, multipart(kind, self.body.readinto), fact)
        self.answer(200, ["".join("stored %s, %d bytes\n" % one for one in stored).encode("utf-8", "surrogateescape")])

    def openapi(self):
        """GET /openapi.json; fetched through the secret URL it names that URL, and needs no other credentials."""
        url = self.server.url or "http://%s" % self.headers.get("host", "")
        url += "/" + self.server.token if self.secret_url else ""
        filled = schema(self.server.template, url, self.server.key is not None and not self.secret_url)
        self.answer(200, [json.dumps(filled, indent=2).encode()], kind="application/json")

    def answer_error(self, error):
        """Answers with an error: one plain sentence, JSON where that is preferred."""
        if self.status is not None:  # an answer is under way: cutting it off is all that can be said
            self.closing = True
            return
        as_json = prefers_json(self.headers.get("accept", ""))
        text = json.dumps({"error": error.message}) if as_json else error.message
        kind = "application/json" if as_json else "text/plain; charset=utf-8"
        try:
            self.answer(error.status, [text.encode("utf-8", "backslashreplace") + b"\n"], error.headers, kind)
        except OSError:
            self.closing = True

    def answer(self, status, parts, headers=(), kind="text/plain; charset=utf-8"):
        """Sends an answer, whose parts are bytes or (file, start, count); the head and what is small in one send."""
        self.closing = self.closing or self.body is None or not self.body.done
        length = sum(len(part) if isinstance(part, bytes) else part[2] for part in parts)
        head = ["HTTP/1.1 %d %s" % (status, HTTPStatus(status).phrase), "Date: " + http_date(time.time())]
        if status != 304:
            head += ["Content-Type: " + kind, "Content-Length: %d" % length]
        head += ["X-Content-Type-Options: nosniff", "Cache-Control: no-cache"]
        head += ["%s: %s" % (name, re.sub(r"[^\t -~\x80-\xff]", "?", str(value))) for name, value in headers]
        head += ["Connection: close"] if self.closing else []
        data = ("\r\n".join(head) + "\r\n\r\n").encode("latin-1")
        self.status, self.request_sent = status, 0
        self.request.settimeout(IDLE_TIMEOUT)
        for part in parts if self.method != "HEAD" and status != 304 else ():
            if isinstance(part, bytes):
                data += part
                continue
            if part[2]:
                self.request.sendall(data)
                data = b""
                if self.request.sendfile(*part) != part[2]:
                    raise ConnectionAbortedError("the file has shrunk: the answer can't be completed")
        self.request.sendall(data)
        self.sent = length

    def linger(self):
        """Reads on a little: a connection closed with bytes unread is reset, and the answer lost (RFC 9112 9.6)."""
        self.request.shutdown(socket.SHUT_WR)
        self.request.settimeout(LINGER)
        until = time.monotonic() + LINGER
        while time.monotonic() < until and self.request.recv(BLOCK):
            pass

    def log(self):
        """Writes the request to the log, and to the audit trail, once the credentials were right."""
        if not self.admitted:
            return
        self.server.log(self)


def json_pairs(data):
    """[(name, bytes)] of a JSON object whose values are strings and numbers; raises HTTPError 400."""
    try:
        found = json.loads(data.decode("utf-8"))
        pairs = [(name, (value if isinstance(value, str) else json.dumps(value)).encode()) for name, value in found.items()]
    except (ValueError, AttributeError, RecursionError):
        raise HTTPError(400, "the body is not a JSON object in UTF-8, or holds a lone surrogate") from None
    return pairs


class Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """http.server's ThreadingHTTPServer, without importing that: it takes longer than all the rest of the start.

    Holds what the threads share: the options, the terminal, the gate, the runner and the connections.
    """

    daemon_threads = True
    allow_reuse_address = os.name == "posix"
    request_queue_size = 128

    def __init__(self, options):
        self.address_family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
        self.hold, self.limit, self.shell_given = options.wait, options.limit, options.shell is not None
        self.shell = split_shell(options.shell)
        self.directory = os.getcwd()
        self.template = load_template(os.path.dirname(os.path.abspath(__file__)))
        self.user, self.key = options.auth
        self.token = self.key and hmac.new(self.key, b"secret URL", "sha256").hexdigest()[:32]
        self.audit = open(options.log, "ab", buffering=0, opener=_private) if options.log else None
        self.terminal = Terminal()
        self.gate = Gate(self.terminal, not options.nosafe, options.semisafe)
        self.runner = Runner(self.shell, options.timeout)
        self.url = None
        self.public_names = set()
        self.names = {"localhost", options.host.lower()}
        self.lock = threading.Lock()  # guards connections
        self.connections = {}
        super().__init__((options.host, options.port), Handler)

    def publish(self, url):
        """Takes a public URL as its own: answers to its name, and names it in the schema."""
        self.url = url.rstrip("/")
        self.public_names = {host_of(self.url.partition("://")[2].partition("/")[0])}
        self.names = self.names | self.public_names

    def local_url(self):
        """The URL under which this machine reaches it."""
        host, port = self.server_address[:2]
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
        return "http://%s:%d" % ("[%s]" % host if ":" in host else host, port)

    def is_token(self, segment):
        """Whether a path's first segment (bytes) is the secret URL's token, in constant time."""
        return self.token is not None and hmac.compare_digest(segment, self.token.encode())

    def is_admitted(self, header):
        """Whether an Authorization header lets its sender in; compares in constant time."""
        if self.key is None:
            return True
        scheme, _, value = header.partition(" ")
        if scheme.lower() == "bearer":
            return hmac.compare_digest(value.strip().encode("latin-1"), self.key)
        user, password = credentials(header) or (b"", b"")
        right_user = hmac.compare_digest(user, self.user if self.user is not None else user)
        return hmac.compare_digest(password, self.key) and right_user

    def redacted(self, text):
        """A text without the secrets."""
        for secret in filter(None, (self.token, self.key and self.key.decode("utf-8", "replace"))):
            text = text.replace(secret, "***")
        return text

    def log(self, request):
        """One line for a request, on the terminal and in the audit trail."""
        operation, subject = (request.action or (request.method or "?", request.path or ""))[:2]
        seconds = time.monotonic() - request.started
        now = time.strftime("%Y-%m-%d %H:%M:%S")
        decision, status = request.decision or "-", request.status or 0
        what = self.redacted(visible(subject)[0])
        what = what if len(what) <= 200 else what[:200] + "\u2026"
        line = (now, request.client, operation, what, decision, status, request.sent, seconds)
        self.terminal.log("%s %s %s %s %s %d %d B %.3f s" % line)
        if self.audit:
            names = "time client operation subject decision status bytes seconds".split()
            entry = dict(zip(names, line), subject=self.redacted(subject), seconds=round(seconds, 3))
            try:
                self.audit.write(json.dumps(entry).encode() + b"\n")
            except OSError as error:
                self.terminal.log("the audit trail can't be written: %s" % error.strerror)

    def get_request(self):
        """Accepts a connection; without descriptors left it waits a little rather than spin."""
        try:
            return super().get_request()
        except OSError:
            time.sleep(0.1)
            raise

    def process_request(self, request, client_address):
        """Gives a connection its thread. Over MAX_CONNECTIONS the one that has idled longest makes room."""
        request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self.lock:
            if len(self.connections) >= MAX_CONNECTIONS:
                idle = [c for c in self.connections.values() if c.idle_since is not None]
                if not idle:
                    return self.shutdown_request(request)
                oldest = min(idle, key=lambda connection: connection.idle_since)
                oldest.idle_since = None
                oldest.sock.shutdown(socket.SHUT_RDWR)
            self.connections[request] = Connection(request)
        return super().process_request(request, client_address)

    def shutdown_request(self, request):
        """Closes a connection."""
        self.connections.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request, client_address):
        """Logs what went wrong outside a request."""
        self.terminal.log("a connection of %s failed: %s" % (client_address[0], _traceback()))

    def close(self):
        """Ends everything: nobody is asked any more, commands are killed, their directory is removed."""
        self.gate.close()
        self.runner.close()
        until = time.monotonic() + 0.5
        while any(c.idle_since is None for c in list(self.connections.values())) and time.monotonic() < until:
            time.sleep(0.01)  # the last answers and log lines
        self.terminal.flush("", asking=False)


def _private(path, flags):
    return os.open(path, flags, 0o600)


def _sentence(error):
    return "the system refused: %s; see to it and try again" % (error.strerror or error)


def _traceback():
    import traceback

    return traceback.format_exc().rstrip()


def split_shell(command):
    """The words before a command line; without a -shell, the system's own shell."""
    if command is None:
        return ["cmd", "/c"] if os.name == "nt" else ["sh", "-c"]
    import shlex

    return shlex.split(command)


# The tunnel

NGROK_OPTIONS = frozenset("domain".split())


def open_tunnel(port, authtoken, options):
    """The URL of an ngrok tunnel to a local port; raises SystemExit with one line where there is none."""
    try:
        import ngrok
    except ImportError:
        raise SystemExit("error: NGROK_AUTHTOKEN is set, but the ngrok package is missing: python3 -m pip install ngrok") from None
    try:
        return ngrok.forward("127.0.0.1:%d" % port, authtoken=authtoken, **options).url()
    except ValueError as error:
        raise SystemExit("error: ngrok: %s" % " ".join(" ".join(map(str, error.args)).split())) from None


# The command line

EPILOG = """Each option is taken with one dash or two. Safe mode is the default: every action is asked for at this terminal.
AUTH_KEY in the environment stands in for AUTH, NGROK_AUTHTOKEN opens a tunnel. For example:
  mycodeinterpreter.py noauth                    this machine only, ask before each action
  mycodeinterpreter.py noauth -semisafe -nosafe  don't ask, count down
  mycodeinterpreter.py me:secret -shell 'docker exec -i box sh -c'
"""


def parse_arguments(argv, environ):
    """The options; exits with usage or one line, status 2, where they are wrong."""
    parser = argparse.ArgumentParser(
        prog="mycodeinterpreter.py",
        usage="%(prog)s AUTH [-nosafe] [-semisafe] [options]",
        description="Run commands and move files on this machine for ChatGPT or any assistant; a person approves each.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.error = lambda message: parser.exit(2, "error: %s; see --help\n" % message)  # type: ignore[assignment]
    add = parser.add_argument
    add("auth", metavar="AUTH", nargs="?", help="noauth, KEY or USER:KEY (default: the environment's AUTH_KEY)")
    add("--nosafe", action="store_true", help="no confirmation")
    add("--semisafe", action="store_true", help="count down %d s before each action; Ctrl+C cancels it" % COUNTDOWN)
    add("--host", metavar="ADDR", default="127.0.0.1", help="address to listen on (%(default)s)")
    add("--port", metavar="N", type=_number(int, 65535), default=8000, help="port to listen on, 0 for a free one (%(default)s)")
    add("--url", metavar="URL", help="public address, where something else than ngrok tunnels")
    add("--ngrok", metavar="KEY=VALUE", action="append", default=[], help="an option of ngrok.forward; repeatable")
    add("--wait", metavar="S", type=_number(float, 86400), default=HOLD, help="seconds a request is held (%(default)s)")
    add("--timeout", metavar="S", type=_number(float, 1e9), default=COMMAND_TIMEOUT, help="seconds until a command is killed, 0 for never (%(default)s)")
    add("--limit", metavar="BYTES", type=_number(int, 1 << 60), default=OUTPUT_LIMIT, help="output in one answer, 0 for all (%(default)s)")
    add("--shell", metavar="CMD", help="what runs a command line (sh -c; cmd /c on Windows)")
    add("--log", metavar="FILE", help="audit trail, a JSON object a line")
    add("--version", action="version", version="%(prog)s " + __version__)
    options = parser.parse_args([re.sub(r"\A-(?=[a-z][a-z])", "--", argument) for argument in argv])
    auth = options.auth if options.auth is not None else environ.get("AUTH_KEY") or None
    if auth is None:
        parser.print_usage(sys.stderr)
        parser.exit(2, "error: AUTH is missing: noauth, KEY or USER:KEY, here or in AUTH_KEY; see --help\n")
    user, colon, key = os.fsencode(auth).partition(b":")
    options.auth = (None, None) if auth == "noauth" else (user, key) if colon else (None, user)
    if options.auth[1] == b"":
        parser.error("the KEY in AUTH is empty")
    if options.url is not None and not re.match(r"https?://[^/?#\s]+/?\Z", options.url):
        parser.error("-url is not like https://name.example")
    return options


def _number(kind, most):
    def number(text):
        value = kind(text)
        if not 0 <= value <= most:
            raise ValueError(text)
        return value

    number.__name__ = "number from 0 to %d:" % most
    return number


def announce(server, options, tunneled):
    """Prints what a person, or a script, needs to go on; warns where strangers may get in."""
    url = server.url or server.local_url()
    lines = ["tunnel created: %s" % url] if tunneled else []
    lines += ["OpenAPI schema at %s/openapi.json" % url]
    if server.key is not None:
        basic = base64.b64encode((server.user or b"user") + b":" + server.key).decode()
        lines += ["API key for a custom GPT (Basic): %s" % basic, "secret URL: %s/%s" % (url, server.token)]
    if not server.url:
        lines += ["no public URL: set NGROK_AUTHTOKEN, or -url to what else tunnels here"]
    lines += ["Starting server at %s" % url]
    print("\n".join(lines), flush=True)
    public = server.url or not (options.host == "localhost" or options.host == "::1" or options.host.startswith("127."))
    if public and (server.key is None or options.nosafe):
        who = "ANYBODY WHO FINDS %s" % url if server.key is None else "WHOEVER HAS THE KEY"
        what = "RUNS ANY COMMAND HERE, AND NOBODY IS ASKED" if options.nosafe else "CAN ASK YOU TO RUN COMMANDS HERE"
        bold, plain = ("\033[1;37;41m", "\033[0m") if sys.stderr.isatty() else ("", "")
        server.terminal.flush("\a\n%s WARNING: %s %s. %s\n\n" % (bold, who, what, plain))
    elif not options.nosafe and not (sys.stdin and sys.stdin.isatty()):
        server.terminal.flush("warning: this is no terminal to ask at, so every action will be denied; see -nosafe\n")


def main(argv=None):
    """Serves until Ctrl+C or SIGTERM."""
    options = parse_arguments(sys.argv[1:] if argv is None else argv, os.environ)
    authtoken = os.environ.pop("NGROK_AUTHTOKEN", None)  # not for the commands' eyes
    os.environ.pop("AUTH_KEY", None)
    threading.stack_size(1 << 18)
    try:
        server = Server(options)
    except (OSError, ValueError) as error:
        raise SystemExit("error: %s" % error) from None

    def interrupt(_number, _frame):
        if not (_number == signal.SIGINT and server.gate.cancel()):
            raise KeyboardInterrupt

    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name) and signal.getsignal(getattr(signal, name)) is not signal.SIG_IGN:
            signal.signal(getattr(signal, name), interrupt)
    try:
        if options.url or authtoken:
            server.publish(options.url or open_tunnel(server.server_address[1], authtoken, {}))
        announce(server, options, bool(authtoken))
        threading.Thread(target=server.terminal.run, daemon=True).start()
        server.serve_forever()
    except KeyboardInterrupt:
        pass
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        server.close()
    os._exit(0)  # threads that still read or write must not delay the end


if __name__ == "__main__":
    main()
