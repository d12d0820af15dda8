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
their description (TEMPLATE); MCP; the page (PAGE); HTTP (Handler, Server); the tunnel; the command line. To add an
action, write it beside the three, describe it in TEMPLATE, and give it a line in Handler.routes and a method there.
"""

import base64
import collections
import contextlib
import errno
import functools
import io
import itertools
import json
import os
import re
import select
import signal
import socket
import socketserver
import stat
import struct
import subprocess
import sys
import threading
import time
import types
import unicodedata
from http import HTTPStatus

try:
    import fcntl
    import termios
except ImportError:  # Windows
    fcntl = termios = None  # type: ignore[assignment]

__version__ = "0.1.0"

HOST, PORT = "127.0.0.1", 8000
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
BLOCK = 1 << 20  # bytes asked of a socket at once where many come; 64 KiB halves the rate
PIPE = 1 << 18  # bytes that the pipe of much output is made to hold; with 64 KiB a command waits half the time
IDLE_TIMEOUT = 60  # seconds without a byte, between requests or within one
HEAD_TIMEOUT = 10  # seconds for a whole request head
SLOWEST = 1000  # bytes a second that a request has to come with
INLINE_LIMIT = 1 << 22  # bytes of a file that is sent within JSON, which is built in memory
DOWNLOAD_LIMIT = 1 << 29  # bytes of a file that ChatGPT hands over by a link; it takes no larger ones itself
LINGER = 2  # seconds for an answer to arrive before a connection with unread bytes is closed


class HTTPError(Exception):
    """An answer other than success: a status and one sentence that says what to do."""

    def __init__(self, status, message, *headers):
        super().__init__(message)
        self.status, self.message, self.headers = status, message, headers


# Pure helpers

_PLAIN = re.compile(r"[ -\[\]-~]*\Z")  # printable ASCII without the backslash
# By category letters and symbols; on the screen blank, or drawn into the letter before.
_BLANK = re.compile("[\u115f-\u11ff\u2800\u3164\ud7b0-\ud7ff\uffa0\U0001d159]")


@functools.lru_cache(maxsize=4096)
def _shown(char):
    mark = unicodedata.category(char)[0] == "M" or _BLANK.match(char)
    if char.isprintable() and char != "\\" and not mark and unicodedata.normalize("NFC", char) == char:
        return char
    return char.encode("unicode_escape").decode()


def visible(text):
    """(shown, hidden): the text with what does not print as itself written as escapes, and how many there are.

    Control, bidirectional, zero-width, combining, tag, unassigned and non-ASCII space characters and lone surrogates
    are hidden, and what Unicode calls the same as another text; the backslash is doubled and not counted.
    """
    if _PLAIN.match(text):
        return text, 0
    shown = [_shown(char) for char in text]
    return "".join(shown), sum(len(one) > 1 for one in shown) - text.count("\\")


def wrapped(line, columns):
    """A line in pieces that a terminal of so many columns need not break, behind a space where there is one."""
    if len(line) <= columns and not re.search("[^ -~]", line):
        return [line]
    padded = re.sub("[^ -~]", "\0\\g<0>", line)  # may take two columns; a pad at an end is one too many in the next
    pieces = re.findall(r".{1,%d}(?:(?<= )|\Z)|.{1,%d}" % (columns - 1, columns - 1), padded)
    return [piece.replace("\0", "") for piece in pieces]


def laid_out(text, columns, paint, first, gutter):
    """(lines, hidden): a text to its last character, the first line behind an indent, the others behind a gutter.

    So no line of it begins where the lines of others do, if the terminal tells its width.
    """
    shown = [visible(line) for line in text.split("\n")]
    lines = "\\n\n".join(line for line, _ in shown).split("\n")
    pieces = [paint(piece) for line in lines for piece in wrapped(line, columns - len(gutter))]
    return first + ("\n" + gutter).join(pieces) + "\n", sum(count for _, count in shown)


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


@functools.lru_cache(maxsize=16)
def http_date(seconds):
    """An IMF-fixdate (RFC 9110 5.6.7) of whole seconds since the epoch."""
    return time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(seconds))


@functools.lru_cache(maxsize=16)
def local_time(seconds):
    """The local time of whole seconds since the epoch, for the log."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def unquote(value):
    """Bytes with their percent-encoding undone (RFC 3986 2.1)."""
    if b"%" not in value:
        return value
    return re.sub(rb"%([0-9A-Fa-f]{2})", lambda match: bytes([int(match.group(1), 16)]), value)


def form_pairs(query):
    """[(name, bytes)] of a query string or a form body (WHATWG URL 5.1)."""
    pairs = [pair.replace(b"+", b" ").partition(b"=") for pair in query.split(b"&") if pair]
    return [(unquote(name).decode("utf-8", "replace"), unquote(value)) for name, _, value in pairs]


def _members(pairs):
    if len(dict(pairs)) < len(pairs):
        raise ValueError("one of two members of a name would get lost")
    return dict(pairs)


def parse_json(data):
    """The value in JSON bytes; raises RecursionError or ValueError, also where a name comes twice."""
    # Nor are NaN, Infinity and -Infinity JSON: int takes none of them.
    return json.loads(data.decode("utf-8"), object_pairs_hook=_members, parse_constant=int)


def to_json(value):
    """A value as JSON bytes; raises ValueError for NaN, infinity and lone surrogates, which are none."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False).encode("utf-8")


def json_object(data):
    """The dict in JSON bytes, without what is null; raises HTTPError 400."""
    try:
        value = parse_json(data)
        to_json(value)
        return {name: member for name, member in value.items() if member is not None}
    except (AttributeError, RecursionError, ValueError):
        raise HTTPError(400, "the body is not a JSON object in UTF-8 with each name once; mend it") from None


def json_pairs(data):
    """[(name, bytes)] of a JSON object with strings and, for wait and limit, numbers; raises HTTPError 400."""
    try:
        members = json_object(data).items()
        return [(name, str(v).encode() if name in ("wait", "limit") else v.encode()) for name, v in members]
    except AttributeError:
        raise HTTPError(400, "cmd, stdin and filename are strings in JSON; wait and limit are numbers") from None


def parameters(names, pairs):
    """{name: bytes} of pairs; raises HTTPError 400 where a name is none of names or comes twice.

    A name unknown is most often the rest of a value whose & was not encoded, and half a command must not run.
    """
    found = {}
    for name, value in pairs:
        if name not in names:
            shown = visible(name)[0], " and ".join(names) or "none"
            raise HTTPError(400, "there is no parameter %s here, but %s; write & in a value as %%26" % shown)
        if name in found:
            raise HTTPError(400, "%s is given twice; give it once" % name)
        found[name] = value
    return found


def needed(given, name, usage):
    """The str of a parameter that must be there; raises HTTPError 400."""
    text = text_of(given.get(name, b""), name)
    if not text:
        raise HTTPError(400, "%s is missing: %s" % (name, usage))
    return text


_EXECCMD_NAMES = ("cmd", "stdin", "wait", "limit")


def command_arguments(pairs):
    """(command, stdin, wait, limit) for `execcmd` from pairs; raises HTTPError 400."""
    given = parameters(_EXECCMD_NAMES, pairs)
    command = needed(given, "cmd", "POST /execcmd?cmd=COMMAND")
    wait, limit = (number_of(given[name], name) if name in given else None for name in ("wait", "limit"))
    return command, given.get("stdin", b""), wait, limit


def percent(name):
    """A file name percent-encoded, for a URL or a header (RFC 3986 2.1, RFC 8187 3.2.1)."""
    return re.sub(rb"[^A-Za-z0-9._~/-]", lambda match: b"%%%02X" % ord(match.group()), os.fsencode(name)).decode()


def refusal(error):
    """The HTTPError for an OSError: 507 where the disk is full, else 500."""
    status = 507 if error.errno in (errno.ENOSPC, errno.EDQUOT) else 500
    return HTTPError(status, "the system refused: %s; see to it and try again" % (error.strerror or error))


def human(count):
    """A number of bytes in the largest unit that it fills."""
    units = ((10**9, "GB"), (10**6, "MB"), (10**3, "kB"))
    size, unit = next((one for one in units if count >= one[0]), (1, "bytes"))
    return "%.4g %s" % (count / size, unit)


def credentials(header):
    """(user, password) as bytes out of a Basic header (RFC 7617 2), or None where it is not one."""
    scheme, _, value = header.partition(" ")
    try:
        user, colon, password = base64.b64decode(value.strip(" \t"), validate=True).partition(b":")
    except ValueError:
        return None
    return (user, password) if colon and scheme.lower() == "basic" else None


def prefers_json(accept):
    """Whether an Accept header (RFC 9110 12.5.1) puts JSON first, by weight and then by order."""
    if "/json" not in accept.lower():
        return False
    kinds = [item.partition(";") for item in accept.lower().replace(" ", "").split(",")]
    weights = [float((re.search(r"\bq=([01]\.?[0-9]{0,3})\Z", rest) or [0, 1])[1]) for _, _, rest in kinds]
    return kinds[weights.index(max(weights))][0] == "application/json" and max(weights) > 0


_AUTHORITY = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._~-]+))(?::[0-9]{0,5})?\Z")


def host_of(authority):
    """The host in an authority (RFC 3986 3.2), lower case, without brackets, port, last dot; None where it is none."""
    match = _AUTHORITY.match(authority)
    return (match.group(1) or match.group(2)).lower().rstrip(".") if match else None


def byte_range(header, size):
    """(start, stop) of the one range that a Range header asks for, None for all of it (RFC 9110 14.2).

    Raises HTTPError 416 where nothing of it is there. Several ranges, or nonsense, may be answered with all, and are.
    """
    match = re.match(r"bytes=([0-9]{0,18})-([0-9]{0,18})\Z", header.replace(" ", ""))
    first, last = match.groups() if match else ("", "")
    if not first and not last or first and last and int(last) < int(first) or not first and not size:
        return None
    start = int(first) if first else max(0, size - int(last))
    stop = min(size, int(last) + 1) if first and last else size
    if start >= stop:
        message = "the file has %d bytes; ask for a range within them" % size
        raise HTTPError(416, message, ("Content-Range", "bytes */%d" % size))
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
_HEAD = re.compile(  # a method, a target, a version, and the lines of fields
    r"([!#$%&'*+.^_`|~0-9A-Za-z-]{1,32}) ([!-~\x80-\xff]+) HTTP/(1\.[01])"
    r"((?:\r\n[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t -~\x80-\xff]*)*)\Z"
)
_LENGTH = re.compile(r"[0-9]{1,18}\Z")
_ONCE = ("host", "content-length", "transfer-encoding", "content-type", "expect")


def parse_head(head):
    """(method, target, version, {lower-case name: value}) of a request head (RFC 9112 3, 5); raises HTTPError 400, 431.

    Strict, for what two programs read in two ways is how requests are smuggled.
    """
    match = _HEAD.match(head.decode("latin-1"))
    if not match:
        raise HTTPError(400, "the request head is malformed; it reads METHOD TARGET HTTP/1.1, then lines NAME: VALUE")
    method, target, version, fields = match.groups()
    lines, headers = fields.split("\r\n")[1:], {}
    if len(lines) > MAX_HEADERS:
        raise HTTPError(431, "the request has over %d headers; send fewer" % MAX_HEADERS)
    for line in lines:
        name, _, value = line.partition(":")
        name, value = name.lower(), value.strip(" \t")
        if name in headers:
            if name in _ONCE:
                raise HTTPError(400, "the request has two %s headers; send one" % name)
            value = headers[name] + ", " + value
        headers[name] = value
    if version == "1.1" and "host" not in headers:
        raise HTTPError(400, "the request has no Host header; send one (RFC 9112 3.2)")
    return method, target, version, headers


def set_timeout(sock, option, seconds):
    """Bounds what a socket's calls may take, by SO_RCVTIMEO or SO_SNDTIMEO, after which they raise BlockingIOError.

    Python's own timeouts cost a poll at each call, and twice the answers a second where many threads are busy.
    """
    if os.name == "posix":
        timeval = struct.pack("ll", int(seconds), int(seconds % 1 * 1e6))
        sock.setsockopt(socket.SOL_SOCKET, getattr(socket, option), timeval)
    else:
        sock.settimeout(seconds)


class Connection:
    """The bytes that arrive on a TCP connection, and the time they may take.

    What was received beyond the request at hand waits in `pending` for the next one.
    """

    def __init__(self, sock):
        self.sock, self.pending = sock, bytearray()
        self.timeout = None  # seconds, as the socket has been told; None where that is to be done
        self.patience = 0  # seconds left for what arrives, which grow up to IDLE_TIMEOUT while it beats SLOWEST
        self.idle_since = time.monotonic()  # None while a request is served
        set_timeout(sock, "SO_SNDTIMEO", IDLE_TIMEOUT)

    def _receive(self, receive, where):
        """What a socket's receive(where) returns, in time; raises HTTPError 408."""
        began, timeout = time.monotonic(), self.patience
        try:
            if timeout <= 0:  # or else one byte each 10 ms would do
                raise socket.timeout
            if timeout != self.timeout:
                set_timeout(self.sock, "SO_RCVTIMEO", max(0.01, timeout))
                self.timeout = timeout
            received = receive(where)
        except (BlockingIOError, socket.timeout):
            raise HTTPError(408, "the request came too slowly; send it again") from None
        count = received if isinstance(received, int) else len(received)
        self.patience = min(IDLE_TIMEOUT, self.patience + count / SLOWEST - time.monotonic() + began)
        return received

    def readinto(self, view):
        """How many bytes were put into view, 0 where the client has closed; raises HTTPError 408 where it is slow."""
        if not self.pending:
            return self._receive(self.sock.recv_into, view)
        count = min(len(view), len(self.pending))
        view[:count] = self.pending[:count]
        del self.pending[:count]
        return count

    def fill(self):
        """Adds what arrives to pending; False where the client has closed."""
        block = self._receive(self.sock.recv, 65536)  # no buffer of ours is touched while nothing comes
        self.pending += block
        return bool(block)

    def head(self):
        """The next request head, without the empty line that ends it; None where no request comes."""
        if not self.pending:
            self.idle_since, self.patience = time.monotonic(), IDLE_TIMEOUT
            try:
                self.fill()
            except HTTPError:
                pass
            if not self.pending:
                return None
        self.idle_since, self.patience, seen = None, HEAD_TIMEOUT, 0
        while True:
            if self.pending.startswith(b"\r\n"):  # an empty line before a request is nothing (RFC 9112 2.2)
                del self.pending[:2]
            end = self.pending.find(b"\r\n\r\n", seen)
            if end >= 0:
                head = bytes(self.pending[:end])
                del self.pending[: end + 4]
                return head
            if len(self.pending) > HEAD_LIMIT:
                raise HTTPError(431, "the request head is over %d bytes; put what is long in the body" % HEAD_LIMIT)
            if _BARE.search(self.pending, seen):
                raise HTTPError(400, "the request head has a bare CR or LF; end its lines with CR LF")
            seen = max(0, len(self.pending) - 3)  # what comes in many pieces is not searched anew for each
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

    def hang_up(self):
        """Ends it from another thread; who reads or writes it finds it closed."""
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)

    def gone(self):
        """Whether the client has hung up."""
        try:
            if hasattr(select, "poll"):
                poll = select.poll()
                poll.register(self.sock, getattr(select, "POLLRDHUP", select.POLLIN))
                ready = bool(poll.poll(0))
            else:
                ready = bool(select.select([self.sock], [], [], 0)[0])
            # POLLRDHUP, which Linux has, is seen also behind bytes that are not read yet, and tells it by itself.
            return ready and (hasattr(select, "POLLRDHUP") or self.sock.recv(1, socket.MSG_PEEK) == b"")
        except (OSError, ValueError):
            return True


class Body:
    """A request's body, to be read once, by Content-Length or chunked (RFC 9112 6, 7); raises HTTPError 400.

    Who expects 100 Continue gets it when the body is first read: behind every check that needs none of it.
    """

    def __init__(self, connection, version, headers):
        length, coding = headers.get("content-length"), headers.get("transfer-encoding")
        if coding is not None and (length is not None or version == "1.0" or coding.lower() != "chunked"):
            raise HTTPError(400, "the length of the body is ambiguous; send one Content-Length, or chunks")
        if length is not None and not _LENGTH.match(length):
            raise HTTPError(400, "Content-Length is not a number; send the body's length in bytes")
        self._connection, self._chunked = connection, coding is not None
        self._expect = version == "1.1" and headers.get("expect", "").lower() == "100-continue"
        self.length = None if self._chunked else int(length or 0)  # bytes, None where nobody knows yet
        self.done, self._left = self.length == 0, self.length or 0  # _left: of the body, or of the chunk at hand
        connection.patience = IDLE_TIMEOUT

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
            self.done = any(not self._connection.line(8192) for _ in range(MAX_HEADERS + 1))
            if not self.done:
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


def delimiter_of(content_type):
    """What is between the parts of a multipart body (RFC 2046 5.1.1); raises HTTPError 400."""
    match = re.search(r';[ \t]*boundary=(?:"([^"]{1,70})"|([^\s;"]{1,70}))', content_type, re.I)
    if not match:
        raise HTTPError(400, "the multipart Content-Type has no boundary of 1 to 70 characters")
    return b"\r\n--" + (match.group(1) or match.group(2)).encode("latin-1")


def multipart(content_type, readinto):
    """The parts of a multipart body (RFC 2046 5.1) as they arrive, in flat memory; raises HTTPError 400.

    Yields (name, file name) where a part begins, then its data in blocks, each good until the next is asked for.
    The last bytes of the buffer, which may begin a delimiter, stay for the next round. A delimiter is followed by
    CR LF, or by -- if it is the last; anything else makes it data that only looks like one.
    """
    delimiter, in_part, short = delimiter_of(content_type), False, True
    buffer, start, end = bytearray(BLOCK + 16384), 0, 2  # what is between start and end is to be passed
    buffer[:end], view = b"\r\n", memoryview(buffer)  # the first delimiter need not follow a line
    while True:
        if short:  # what is left goes to the front
            view[: end - start] = view[start:end]
            start, end = 0, end - start
            count = readinto(view[end:])
            if not count:
                raise HTTPError(400, "the multipart body ends before its closing delimiter; nothing was stored")
            end += count
        at = buffer.find(delimiter, start, end)
        stop = at if at >= 0 else max(start, end - len(delimiter) + 1)
        if in_part and stop > start:
            yield view[start:stop]
        start, behind = stop, stop + len(delimiter)
        follows, short = buffer[behind : behind + 2], behind + 2 > end
        if short:
            continue
        if follows == b"--":
            while readinto(view):  # the epilogue is ignored
                pass
            return
        if follows == b"\r\n":  # which stays, so that an empty head is found, too
            at = buffer.find(b"\r\n\r\n", behind, end)
            short = at < 0 and end - behind < 8192
            if short:
                continue
            if not 0 <= at - behind <= 8192:
                raise HTTPError(400, "the head of a part is over 8192 bytes")
            yield part_names(bytes(view[behind:at]))
            start, in_part = at + 4, True
        else:
            start = behind
            if in_part:
                yield delimiter


def multipart_pairs(content_type, data):
    """[(name, bytes)] of a multipart form body that is there in one; raises HTTPError 400."""
    pairs = []
    for event in multipart(content_type, io.BytesIO(data).readinto):
        if isinstance(event, tuple):
            pairs.append((event[0] or "", bytearray()))
        else:
            pairs[-1][1].extend(event)
    return [(name, bytes(value)) for name, value in pairs]


# The operator

Action = collections.namedtuple("Action", "operation subject facts key")
Action.__doc__ = """What is to be approved: an operation, its subject (str), facts (list of str), and a key that only
byte-identical actions share, None where they can't be told."""


class Terminal:
    """Standard error, shared by the log, the questions and the progress of transfers: all wait while one is open."""

    def __init__(self):
        self._writing = threading.Lock()  # held while it is written, which may take as long as it likes
        self._lines, self._asking, self._wake = collections.deque(maxlen=10000), False, threading.Event()
        self._progress, self._erase = "", ""  # the line to show, and what takes the one that is shown away
        self.lively = bool(termios and sys.stderr and sys.stderr.isatty() and os.environ.get("TERM") != "dumb")
        self._coloured = self.lively and not os.environ.get("NO_COLOR")  # https://no-color.org

    def paint(self, style, text):
        """A text in a style (a parameter of SGR, ECMA-48 8.3.117) if the terminal has colours and they are wanted."""
        return "\x1b[%sm%s\x1b[m" % (style, text) if self._coloured else text

    def log(self, line):
        """Adds a line to the log, written a moment later: a write for each would halve the answers a second."""
        self._progress = ""  # first, or else it would be shown behind the line that tells the transfer's end
        self._lines.append(line)
        if not self._wake.is_set():
            self._wake.set()

    def progress(self, text):
        """Shows a line, a moment later, until the next one or something else is written."""
        if self.lively:
            self._progress = text
            self._wake.set()

    @staticmethod
    def columns():
        """How wide it is; what does not tell has no end."""
        try:
            return max(os.get_terminal_size(2).columns or 1 << 30, 20)
        except OSError:
            return 1 << 30

    def run(self):
        """Writes the log, for ever."""
        while self._wake.wait():
            self._wake.clear()
            self.write()
            time.sleep(0.05)

    def write(self, text="", asking=None, prompt=""):
        """Writes the lines that wait, unless a question is open, and a text that opens (asking) or ends a question.

        A prompt comes last, when all before it is on the screen and the keys pressed until then are dropped. Returns
        whether it could be written.
        """
        with self._writing:
            self._asking = self._asking if asking is None else asking
            waiting = len(self._lines) if asking or not self._asking else 0
            lines, columns = [self._lines.popleft() for _ in range(waiting)], self.columns()
            lines = "".join("\n    ".join(wrapped(line, columns - 4)) + "\n" for line in lines)
            progress, self._progress = "" if self._asking else self._progress, ""
            lines = self.paint("2", lines) if lines else ""
            text = lines + text if asking else text + lines
            try:
                if text or progress:
                    erase, self._erase = self._erase, "\r\x1b[K" if progress else ""
                    sys.stderr.write(erase + text + progress[: columns - 1])
                    sys.stderr.flush()
                if prompt and termios:
                    termios.tcdrain(sys.stderr)
                    termios.tcflush(sys.stdin, termios.TCIFLUSH)
                sys.stderr.write(prompt)
                sys.stderr.flush()
                return True
            except Exception:  # termios has one of its own; the daemon outlives its terminal
                return False


class Gate:
    """Asks the operator, one question at a time, first come first served; every action passes `approve`.

    Callers wait in line; the first owns the terminal. One leaves the line when it is answered, when its time is up, or
    when its client has hung up; what is typed then finds no question, and is dropped before the next.
    """

    def __init__(self, terminal, asks, counts):
        self._terminal, self._asks, self._counts = terminal, asks, counts
        self._turn = threading.Condition()  # guards _line
        self._line, self._allowed = [], set()
        self._closing, self._countdown = False, {}  # the Event that cancels the one under way; who takes it out decides

    def approve(self, action, caller, seconds):
        """How the action was approved, in a word for the log; raises HTTPError 403, 408, 429, 503 where it was not."""
        if not self._asks and not self._counts:
            return "nosafe"
        until, decision = time.monotonic() + seconds, "counted"

        def check():
            if self._closing:
                raise HTTPError(503, "the daemon is ending; nothing was done")
            if caller.connection.gone():
                raise HTTPError(408, "the client hung up; nothing was done")
            if time.monotonic() >= until:
                raise HTTPError(408, "nobody answered within %g s; nothing was done, ask again" % seconds)

        with self._turn:
            if len(self._line) >= MAX_WAITING:
                raise HTTPError(429, "%d actions wait already; try again later" % MAX_WAITING, ("Retry-After", "10"))
            self._line.append(caller)
        try:
            with self._turn:
                while self._line[0] is not caller:
                    check()
                    self._turn.wait(0.2)
            check()
            if self._asks:
                decision = "always" if action.key in self._allowed else self._ask(action, caller, check)
                check()
            if self._counts:
                until = float("inf")  # it was approved in time
                self._count_down(action, caller, decision != "yes")
                check()
            return decision
        finally:
            with self._turn:
                self._line.remove(caller)
                self._turn.notify_all()

    def _ask(self, action, caller, check):
        if not can_ask():
            raise HTTPError(403, "denied: the daemon has no terminal to ask at; start it at one, or with -nosafe")
        always = ", a = always this very action" if action.key else ""
        prompt = self._terminal.paint("1", "y = yes, n = no, n REASON%s: " % always)
        try:
            if not self._terminal.write(self._question(action, caller), asking=True, prompt=prompt):
                raise HTTPError(403, "denied: the question can't be written to the daemon's terminal; mend that")
            answer = self._answer(check)
        except HTTPError as error:
            self._terminal.write("\nwithdrawn: %s\n" % error.message, asking=False)
            raise
        self._terminal.write("" if answer.endswith("\n") else "\n", asking=False)
        word, _, reason = answer.strip().partition(" ")
        if word in ("y", "Y") and not reason:
            return "yes"
        if word in ("a", "A") and not reason and action.key:
            self._allowed.add(action.key)
            return "always"
        reason = ": " + reason.strip() if reason and word in ("n", "N") else ""
        raise HTTPError(403, "denied by the operator" + reason)

    def _question(self, action, caller):
        return question(action, caller.client, self._terminal.paint, self._terminal.columns())

    @staticmethod
    def _answer(check):
        """The line that is typed, "" at the end of input; raises what check raises while nobody types."""
        try:
            if not termios:  # Windows can't wait for the keyboard and look after the client at once
                return input() + "\n"
            while not select.select([sys.stdin], [], [], 0.2)[0]:
                check()
            line = os.read(sys.stdin.fileno(), 4096).decode("utf-8", "replace")
            return line if line.endswith("\n") else ""  # which Ctrl+D has ended
        except (OSError, EOFError):
            return ""

    def _count_down(self, action, caller, show):
        cancelled = self._countdown["event"] = threading.Event()
        shown = self._question(action, caller) if show else ""
        self._terminal.write(shown + "Ctrl+C cancels it; seconds left:", asking=True)
        for left in range(COUNTDOWN, 0, -1):
            self._terminal.write(" %d" % left)
            if cancelled.wait(1):
                break
        over = self._countdown.pop("event", None)
        self._terminal.write("\n" if over else " cancelled\n", asking=False)
        if not over:
            raise HTTPError(403, "cancelled by the operator; nothing was done")

    def cancel(self):
        """Cancels the countdown; False where there is none. Takes no lock: a signal handler calls it."""
        cancelled = self._countdown.pop("event", None)
        if cancelled:
            cancelled.set()
        return cancelled is not None

    def close(self):
        """Sends everybody in line away, who look up five times a second."""
        self._closing = True
        self.cancel()


def question(action, client, paint, columns):
    """What the operator is asked, or told: who, the facts, and the subject to its last character."""
    texts = [laid_out(fact, columns, str, "  ", "  | ") for fact in action.facts]
    texts.append(laid_out(action.subject, columns, functools.partial(paint, "1"), "    ", "    "))
    hidden = sum(count for _, count in texts)
    text = "\a\n%s asked for by %s\n" % (paint("1;33", action.operation), client)
    text += "".join(lines for lines, _ in texts)
    warning = "%d hidden character%s shown as escapes" % (hidden, "s"[hidden == 1 :])
    return text + ("  %s\n" % paint("1;31", warning) if hidden else "")


def can_ask():
    """Whether there is a terminal that shows questions and that we may read: a background job would be stopped."""
    try:
        if not sys.stdin.isatty() or not sys.stderr.isatty():
            return False
        return not termios or os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()
    except (AttributeError, OSError, ValueError):
        return False


# Commands


def signal_group(process, number):
    """Sends a signal, or 0 for none, to the process group that a child leads; whether the group has members."""
    try:
        if process.returncode is not None:
            # The child has been waited for. While its group lives the system gives its number to no new process; so
            # where a process has that number the group is somebody else's.
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, 0)
                return False
        os.killpg(process.pid, number)
        return True
    except OSError:
        return False


def end_of(process):
    """A descriptor that is readable once a process has ended: a pidfd, or a pipe a thread closes; raises OSError."""
    try:
        return os.pidfd_open(process.pid)
    except (AttributeError, OSError):
        ended, alive = os.pipe()
        try:
            threading.Thread(target=lambda: (process.wait(), os.close(alive)), daemon=True).start()
        except RuntimeError as error:
            os.close(ended)
            os.close(alive)
            raise OSError(errno.EAGAIN, str(error)) from None
        return ended


class Job:
    """A command that runs, or has run, and the log that takes its output.

    Output comes through one pipe: in the order written, and a script that opens /dev/stderr by name does not truncate
    what is there. One thread at a time tends a job.
    """

    def __init__(self, process, started, pipe, path, timeout):
        self.process, self.started, self.path, self.timeout = process, started, path, timeout
        self.pipe, self.ended = pipe, end_of(process)  # None at its end; when the shell has ended and is waited for
        self.deadline = started + timeout if timeout else float("inf")  # infinite also when nothing is left to kill
        self.timed_out = False
        self.memory, self.log = bytearray(), None  # the output: its beginning, or, in a file, all
        self.size = self.kept = 0  # bytes written, and how many of them are in the memory or the log
        self.tail = b""  # the last bytes of those that are not
        self.bound = LOG_LIMIT  # bytes to keep; less where the disk is full, 0 where nobody will ask for more

    def tend(self, seconds, whole=False):
        """Takes output, some seconds at most, until the shell has ended or, if whole, until nobody can write more."""
        until = time.monotonic() + seconds
        while self.ended is not None or whole and self.pipe is not None:
            now = time.monotonic()
            if now >= until:
                return
            if now >= self.deadline:
                self.timed_out, self.deadline = True, float("inf")
                signal_group(self.process, signal.SIGKILL)
            poll = select.poll()
            for descriptor in {self.pipe, self.ended} - {None}:
                poll.register(descriptor, select.POLLIN)
            ready = dict(poll.poll(min(until - now, self.deadline - now, 3600) * 1000 + 1))
            if self.ended in ready:
                os.close(self.ended)
                self.process.poll()  # which is done with less than wait()
                self.ended, self.deadline = None, float("inf")
                for _ in range(BLOCK // OUTPUT_LIMIT):  # what the shell wrote before its end: a pipe may hold a MiB
                    if not self.take():
                        break
            self.take()
            if self.kept >= self.bound:
                time.sleep(0.002)  # who writes without end shall wait for us

    def take(self):
        """Takes a block, as much as a pipe holds, or sees its end; whether there was one. Raises OSError."""
        if self.pipe is None:
            return False
        try:
            data = os.read(self.pipe, OUTPUT_LIMIT if self.log is None else PIPE)
        except BlockingIOError:
            return False
        if not data:
            os.close(self.pipe)
            self.pipe = None
        self.size += len(data)
        if self.log is None and self.size <= OUTPUT_LIMIT:
            self.memory += data
            self.kept = self.size
            return bool(data)
        lost = self._append(data) if self.open_log() else data
        self.tail = (self.tail + lost)[-OUTPUT_LIMIT:]
        return bool(data)

    def open_log(self):
        """Sees to it that the output is in the log, and goes on there; False where the disk has no room for one."""
        if self.log is None and self.bound:
            try:
                self.log = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
            except OSError:
                self.bound = 0
                return False
            if fcntl and self.pipe:
                with contextlib.suppress(OSError):  # Linux alone has F_SETPIPE_SZ, and each user 64 MiB for it
                    fcntl.fcntl(self.pipe, 1031, PIPE)
            self.kept = 0
            self._append(self.memory)
            if self.kept < len(self.memory):  # no room for what the memory has; that goes on without a log
                os.close(self.log)
                os.unlink(self.path)
                self.log, self.bound, self.kept = None, 0, len(self.memory)
        return self.log is not None

    def _append(self, data):
        while data and self.kept < self.bound:
            try:
                written = os.write(self.log, data[: self.bound - self.kept])
            except OSError:  # the disk is full
                self.bound, written = self.kept, 0
            self.kept, data = self.kept + written, data[written:]
            if self.kept == self.bound:
                self.note("the log ends here: it keeps %d bytes" % self.kept)
        return data  # what is not kept

    def note(self, sentence):
        """Adds a last line to the log, where there is room for it."""
        with contextlib.suppress(OSError):
            os.write(self.log, b"\n[%s]\n" % sentence.encode())

    def finish(self, seconds=float("inf")):
        """Tends it until nobody can write more, or some seconds, and lets go of what is open; the log's file stays."""
        self.tend(seconds, whole=True)
        if self.log is not None and self.ended is None and self.ending():
            self.note(self.ending())
        for descriptor in {self.pipe, self.ended, self.log} - {None}:
            os.close(descriptor)

    def ending(self):
        """How the shell ended, in a few words; "" where it simply succeeded."""
        code = self.process.returncode
        if self.timed_out:
            return "timed out after %g s; killed" % self.timeout
        if code < 0:
            return "killed by %s" % next((s.name for s in signal.Signals if s == -code), "signal %d" % -code)
        return "exit code %d" % code if code else ""


def make_directory(prefix):
    """The path of a fresh directory, mode 0700, where temporary files go; raises OSError. tempfile costs 5 MB."""
    places = [os.environ.get(name) for name in ("TMPDIR", "TEMP", "TMP")] + ["/tmp", "/var/tmp"]  # noqa: S108
    for place in filter(None, places):
        path = os.path.join(os.path.abspath(place), prefix + os.urandom(8).hex())
        with contextlib.suppress(OSError, UnicodeEncodeError):
            path.encode()  # answers name it
            os.mkdir(path, 0o700)
            return path
    os.mkdir(os.path.basename(path), 0o700)  # where we are; or else this tells why not
    return os.path.abspath(os.path.basename(path))


class Runner:
    """Starts every command, and ends it with the daemon.

    A request tends its own job. What is not finished when the request is answered (the command runs on, or a job that
    it left behind holds the pipe) gets a thread, so that it never blocks on a full pipe or outlives its time.
    """

    def __init__(self, shell, timeout):
        self._shell, self._timeout, self._numbers = shell, timeout, itertools.count(1)
        # Looked up once: Popen would try each directory of the PATH each time, a tenth of a short command.
        found = (os.path.join(directory, shell[0]) for directory in os.get_exec_path())
        programs = (path for path in found if os.path.isfile(path) and os.access(path, os.X_OK))
        self._program = shell[0] if os.path.dirname(shell[0]) else next(programs, None)
        self._lock = threading.Lock()  # guards _directory, _processes, _many and _closed
        self._directory, self._closed = None, False
        self._nothing = os.open(os.devnull, os.O_RDONLY)  # DEVNULL would open it each time
        self._processes, self._many = set(), 8  # those whose group may be alive, and when they are to be looked at

    @property
    def directory(self):
        """This run's own directory, mode 0700, made when it is first needed."""
        with self._lock:
            if not self._directory or not os.path.isdir(self._directory):  # /tmp is swept in places
                self._directory = make_directory("mycodeinterpreter-")
            return self._directory

    def file(self):
        """A file without a name, for a command's standard input; raises OSError."""
        path = os.path.join(self.directory, "%d.stdin" % next(self._numbers))
        file = open(path, "x+b")
        os.unlink(path)
        return file

    def start(self, command, stdin=None):
        """A Job that runs a command line (str) with a file, or nothing, as its input; raises HTTPError 400, 500."""
        path, process, pipe = "%s%s%d.log" % (self.directory, os.sep, next(self._numbers)), None, []
        try:
            pipe += os.pipe()
            started = time.monotonic()
            process = subprocess.Popen(
                self._shell + [os.fsencode(command)],
                executable=self._program,
                stdin=stdin or self._nothing,
                stdout=pipe[1],
                stderr=pipe[1],
                start_new_session=True,  # with no terminal that it could open as /dev/tty
            )
            os.set_blocking(pipe[0], False)
            job = Job(process, started, pipe[0], path, self._timeout)
            del pipe[0]
        except OSError as error:
            if process:  # no descriptor is left to tend it with
                signal_group(process, signal.SIGKILL)
                process.wait()
            if error.errno == errno.E2BIG:
                raise HTTPError(400, "the command is longer than the system takes; send it as stdin of `sh`") from None
            raise HTTPError(500, "%s would not start: %s" % (self._shell[0], error.strerror)) from None
        finally:
            for descriptor in pipe:
                os.close(descriptor)
        with self._lock:
            if len(self._processes) >= self._many:
                # Stays who runs, or has left jobs behind, their output elsewhere; to look each time would be quadratic.
                self._processes = {one for one in self._processes if one.returncode is None or signal_group(one, 0)}
                self._many = 2 * len(self._processes) + 8
            self._processes.add(process)
            if self._closed:
                signal_group(process, signal.SIGKILL)
        return job

    def leave(self, job):
        """Lets go of a job whose request is about to be answered; returns the threads, one or none, that tend it on."""
        if job.pipe is None and job.ended is None:
            job.finish()
            return []
        thread = threading.Thread(target=job.finish, daemon=True)
        try:
            thread.start()
        except RuntimeError:
            signal_group(job.process, signal.SIGKILL)
            job.finish(1)
            raise HTTPError(500, "no thread is left to tend a command that goes on; it was killed") from None
        return [thread]

    def kill(self):
        """Kills what still runs."""
        with self._lock:
            self._closed = True
            for process in self._processes:
                signal_group(process, signal.SIGKILL)

    def clean(self):
        """Removes this run's directory, by a process that outlives us where there is much in it; raises OSError."""
        with self._lock:
            if self._directory:
                quiet = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
                try:
                    failed = subprocess.Popen(["rm", "-rf", self._directory], start_new_session=True, **quiet).wait(0.5)
                except subprocess.TimeoutExpired:
                    failed = 0
                except OSError:
                    failed = 1
                if failed:
                    import shutil

                    shutil.rmtree(self._directory)  # TemporaryDirectory.cleanup recurses for ever where it may not


# Files

_FLAGS = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0)  # a FIFO or link put in a file's place is no file


def opened(path):
    """(file, status, real path) of a regular file, unbuffered; raises HTTPError 400, 403, 404."""
    shown = visible(path)[0]
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):  # to open a device may do things
            raise HTTPError(400, "%s is not a regular file; list or pack it with a command" % shown)
        real = os.path.realpath(path)
        file = open(real, "rb", buffering=0, opener=lambda name, flags: os.open(name, flags | _FLAGS))
    except PermissionError:
        raise HTTPError(403, "the daemon's account may not read %s" % shown) from None
    except (OSError, ValueError) as error:
        if getattr(error, "errno", None) in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
            raise
        raise HTTPError(404, "%s: %s; give another filename" % (shown, getattr(error, "strerror", error))) from None
    now = os.fstat(file.fileno())
    if os.path.samestat(status, now) and stat.S_ISREG(now.st_mode):  # the numbers of what is gone are used again
        return file, now, real
    file.close()
    raise HTTPError(404, "%s changes while it is looked at; try again" % shown)


def mime_type(filename):
    """What kind of file it is by the ending of its name."""
    import mimetypes

    # Of the whole name it would take the type in `data:TYPE,x`, which is the client's to choose.
    return mimetypes.guess_type("x" + os.path.splitext(filename)[1])[0] or "application/octet-stream"


def whole(caller, file, status, filename):
    """All bytes of a file that goes into JSON; raises HTTPError 413 that names the URL where it is too large."""
    if status.st_size > INLINE_LIMIT:
        url = "%s/get-file?filename=%s" % (caller.base_url(), percent(filename))
        raise HTTPError(413, "the file has %d bytes, too many for this way; fetch it from %s" % (status.st_size, url))
    return read_part((file, 0, status.st_size))


class Upload:
    """A file on its way in: written beside its target, then renamed over it."""

    temporaries: set = set()  # the paths of those under way, for the end, which may not wait for a slow link or disk

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
        mode, size = self._before[:2] if self._before else (stat.S_IFREG, None)
        state = "a new file" if size is None else "OVERWRITES a file of %d bytes" % size
        if stat.S_ISLNK(mode):
            state = "REPLACES a link to " + os.readlink(self.target)
        elif not stat.S_ISREG(mode):
            state = "a directory is in the way" if stat.S_ISDIR(mode) else "REPLACES what is no file"
        return Action("send-file", self.target, [state, fact], None)

    def write(self, view):
        """Appends bytes; raises OSError."""
        if not self._file:
            if self._before and stat.S_ISDIR(self._before[0]):
                raise HTTPError(400, "%s is a directory; choose another file name" % visible(self.target)[0])
            self.temporaries.add(self._temporary)
            self._file = open(self._temporary, "xb", buffering=0)
        while len(view):
            written = self._file.write(view)
            self.size, view = self.size + written, view[written:]

    def check(self):
        """Raises HTTPError where the target is not what the operator was shown."""
        if self._identity() != self._before:
            raise HTTPError(403, "%s has changed since it was approved; send it again" % visible(self.target)[0])

    def commit(self):
        """Puts it in place; raises OSError."""
        if self._before and stat.S_ISREG(self._before[0]) and hasattr(os, "fchmod"):
            os.fchmod(self._file.fileno(), self._before[0] & 0o777)  # a script stays executable
        self._file.close()
        os.replace(self._temporary, self.target)
        self._file = None

    def discard(self):
        """Removes what was not committed."""
        self.temporaries.discard(self._temporary)
        if self._file:
            self._file.close()
            with contextlib.suppress(OSError):  # the next one is to go, too
                os.unlink(self._temporary)


def download(link, hosts, seconds):
    """The bytes behind a link, in blocks; raises ValueError, OSError.

    Only https, hosts that are listed or below one that is, and, unless listed themselves, public addresses; the one
    that was looked at is the one that is asked. A redirect is an error: it could lead anywhere.
    """
    import http.client
    import ipaddress
    import ssl

    match = re.match(r"https://([A-Za-z0-9.-]+)(?::([0-9]{1,5}))?(/[!-~]*)?\Z", link)
    host, port = match.group(1).lower() if match else "", int(match.group(2) or 443) if match else 0
    if not any(host == one or host.endswith("." + one) for one in hosts):
        raise ValueError("the link is not https, or not on %s; see -filehost" % " or ".join(hosts))
    until = time.monotonic() + seconds
    address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][4]
    if host not in hosts[1:] and not ipaddress.ip_address(address[0]).is_global:
        raise ValueError("the host of the link has a private address")
    connection = http.client.HTTPSConnection(host, port, timeout=seconds)
    with contextlib.closing(connection), socket.create_connection(address[:2], seconds) as sock:
        secured = connection.sock = ssl.create_default_context().wrap_socket(sock, server_hostname=host)
        connection.request("GET", match.group(3) or "/")
        try:
            response, block, size = connection.getresponse(), b"-", 0
            if response.status != 200:
                raise ValueError("the answer was %d" % response.status)
            while block and not response.isclosed():
                secured.settimeout(max(0.001, until - time.monotonic()))
                block = response.read1(BLOCK)
                size += len(block)
                if size > DOWNLOAD_LIMIT:
                    raise ValueError("it is over %d bytes" % DOWNLOAD_LIMIT)
                yield block
            if response.length:
                raise ValueError("it was cut off")
        except http.client.HTTPException as error:
            raise ValueError("the answer is no HTTP, or was cut off: %r" % error) from None


# The three actions, the same for every protocol; a caller is the Handler of a request


class Result:
    """What has come of a command when its request is answered.

    `facts`, as JSON has them: exit_code (negative: a signal; None while it runs), truncated, running, pid, log (a path
    or None), seconds; and `parts`, its output and a last line in brackets: bytes, or (file, start, count) of the log,
    which a `with` closes.
    """

    def __init__(self, job, limit, held, copies):
        seconds, pid, running = time.monotonic() - job.started, job.process.pid, job.ended is not None
        code, self.timed_out = (None, False) if running else (job.process.returncode, job.timed_out)
        self.file = open(job.path, "rb", buffering=0) if job.log is not None else None
        bound = 1.5 * max(limit, OUTPUT_LIMIT)  # in JSON a byte may take six characters
        left_out = self._cut(job, limit)
        while copies and copies * len(json.dumps(self.output(), ensure_ascii=False)) > bound:
            limit //= 2
            left_out = self._cut(job, limit)
        log = job.path if (running or left_out) and job.open_log() else None
        if not running and not left_out:
            job.bound = 0
            if self.file:
                os.unlink(job.path)
        goes = "its output goes on in %s" % log if log else "the disk is full, its output is lost"
        said = ["still running after %g s, pid %d" % (held, pid), goes] if running else [job.ending()]
        said += ["\u2026 %d bytes left out \u2026" % left_out] if left_out else []
        if left_out and log and not running:
            which = "the whole output is" if job.kept == job.size else "its first %d bytes are" % job.kept
            said += ["%s in %s" % (which, log)]
        said = "; ".join(filter(None, said))
        if said:
            last = self.parts[-1]
            if not isinstance(last, bytes):
                last = read_part((self.file, max(0, last[1] + last[2] - 1), min(1, last[2])))
            self.parts.append(("\n[%s]\n" % said).encode()[last[-1:] in (b"", b"\n") :])
        self.facts = dict(exit_code=code, truncated=left_out > 0, running=running, pid=pid, log=log)
        self.facts["seconds"] = round(seconds, 3)

    def _cut(self, job, limit):
        """Makes the parts: all of the output or, over limit bytes, its two ends; returns how much is left out."""
        head, tail = (limit - limit // 2, limit // 2) if limit and job.size > limit else (job.kept, len(job.tail))
        head, last = min(head, job.kept), job.tail[max(0, len(job.tail) - tail) :]
        more = tail - len(last) if job.size == job.kept + len(job.tail) else 0  # of the tail, from what is kept
        left_out = job.size - head - more - len(last)
        self.parts = [self._part(job, 0, head)] + ([b"\n[\xe2\x80\xa6]\n"] if left_out and tail else [])
        self.parts += ([self._part(job, job.kept - more, more)] if more else []) + ([last] if last else [])
        return left_out

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.file:
            self.file.close()

    def _part(self, job, start, count):
        return (self.file, start, count) if self.file else bytes(job.memory[start : start + count])

    def output(self):
        """All parts as one str."""
        return b"".join(map(read_part, self.parts)).decode("utf-8", "replace")


def read_part(part):
    """The bytes of an answer's part; raises OSError where a file does not have them any more."""
    if isinstance(part, bytes):
        return part
    file, start, count = part
    file.seek(start)
    data = file.read(count)
    if len(data) < count:
        raise OSError("the file has shrunk")
    return data


def execcmd(caller, command, stdin, wait, limit, copies):
    """The Result of a command line (str); what is left of the request's body is the rest of its input.

    copies: how often the answer has the output in JSON, which then is bounded even where limit is 0.
    """
    if not hasattr(select, "poll"):
        raise HTTPError(500, "commands do not run on this system yet, only files; it has no poll(2)")
    server, asked, longer = caller.server, time.monotonic(), not caller.body.done
    hold = server.hold if wait is None else min(wait, 86400)
    facts = ["in " + server.directory] + (["by " + " ".join(server.shell)] if server.shell else [])
    if longer:
        facts.append("its standard input is over %d bytes and NOT SHOWN" % len(stdin))
    elif stdin:
        # The audit trail has less of it: cut here it could keep a part of the key, which nothing would take out.
        shown = stdin if server.asks or server.counts else stdin[: 2 * OUTPUT_LIMIT]
        facts.append("its standard input, %d bytes: %s" % (len(stdin), shown.decode("utf-8", "surrogateescape")))
    key = None if longer else ("execcmd", command, stdin)
    caller.approve(Action("execcmd", command, facts, key), max(hold, server.hold))
    with server.runner.file() if stdin else contextlib.nullcontext() as source:
        if source:
            source.write(stdin)
            block = memoryview(bytearray(BLOCK if longer else 0))
            while not caller.body.done:
                source.write(block[: caller.body.readinto(block)])
            source.seek(0)
        job = server.runner.start(command, source)
    try:
        job.tend(max(hold - (time.monotonic() - asked), min(hold, 1)))
        limit = server.limit if limit is None else int(limit)
        result = Result(job, min(limit, JSON_LIMIT) or JSON_LIMIT if copies else limit, hold, copies)
        caller.result = result.facts
        return result
    finally:
        caller.tenders += server.runner.leave(job)


@contextlib.contextmanager
def get_file(caller, given):
    """Yields (file, status, filename) of a parameter, opened before the question: what is shown is what is sent."""
    filename, failure = needed(given, "filename", "GET /get-file?filename=PATH"), None
    path = real = os.path.join(caller.server.directory, filename)
    try:
        file, status, real = opened(path)
        facts = ["%d bytes" % status.st_size]
        facts += ["a link leads to " + real] if real != os.path.normpath(path) else []
    except HTTPError as error:  # answered behind the approval: whether a file exists is an answer, too
        file, failure, facts = contextlib.nullcontext(), error, ["can't be sent: " + error.message]
    with file:
        caller.approve(Action("get-file", path, facts, ("get-file", path, real)), caller.server.hold)
        if failure:
            raise failure
        if not status.st_size and file.read(1):
            raise HTTPError(400, "%s does not tell its size; read it with a command" % visible(path)[0])
        yield file, status, filename


def file_events(caller, given):
    """The events for `send_file` in a JSON object: filename with content or content_base64, or links of ChatGPT's."""
    try:
        links = [(ref["name"], ref["download_link"]) for ref in given.get("openaiFileIdRefs", ())]
        if "file" in given:
            name = given.get("filename") or given["file"].get("file_name") or given["file"]["file_id"]
            links.append((name, given["file"]["download_url"]))
        elif "filename" in given:
            text = "content" in given
            data = given["content"].encode() if text else base64.b64decode(given["content_base64"], validate=True)
            yield "document", given["filename"] + "", "%d bytes" % len(data)
            yield memoryview(data)
        links = [(name + "", link + "") for name, link in links]
    except (AttributeError, KeyError, TypeError, ValueError):
        raise HTTPError(400, "send filename and content, or content_base64, or files as ChatGPT hands over") from None
    if len(links) > 10:
        raise HTTPError(400, "ChatGPT hands over 10 files at the most; send the others in another request")
    for name, link in links:
        yield "file", name, "from " + link.partition("?")[0]
        try:
            yield from download(link, caller.server.file_hosts, caller.server.hold)
        except (OSError, ValueError) as error:
            raise HTTPError(400, "the link of %s failed: %s" % (visible(name)[0], error)) from None


def send_file(caller, events, fact=""):
    """Stores uploads in the working directory and says so; or raises HTTPError, OSError.

    Then nothing is stored, unless a rename has failed after another.
    events: (field, file name) or (field, file name, fact) at the start of each, then its data in blocks.
    """
    uploads, upload = [], None
    try:
        for event in events:
            if isinstance(event, tuple):
                upload = Upload(caller.server.directory, event[1]) if event[1] else None
                if upload:
                    caller.approve(upload.action((event + (fact,))[2]), caller.server.hold)
                    uploads.append(upload)
                    upload.write(b"")
            elif upload:
                upload.write(event)
                caller.progress(len(event))
        if not uploads:
            raise HTTPError(400, "no file was sent; send a part with a filename, as `curl -F document=@FILE` does")
        if len({upload.target for upload in uploads}) < len(uploads):
            raise HTTPError(400, "two of the files have one name; send them under two")
        for upload in uploads:
            upload.check()
        for upload in uploads:
            upload.commit()
        return "".join("stored %s, %d bytes\n" % (os.path.basename(one.target), one.size) for one in uploads)
    finally:
        for upload in uploads:
            upload.discard()


# Their description

_PHRASES = {status.value: status.phrase for status in HTTPStatus}
_ANSWERS = {  # where the phrase does not say it all, or is another in later Pythons
    202: "Still running; the answer names the log in which the output goes on.",
    206: "The part of the file that was asked for.",
    304: "The file has not changed.",
    403: "Denied or cancelled by the operator, for the reason given; nothing was done.",
    408: "Nobody approved it in time and nothing was done, or the command ran too long and was killed.",
    413: "The body, or the file, is too large for this way.",
    416: "The file has no such range.",
}


def _operation(name, summary, description, statuses, kind="text/plain", **more):
    answers = {str(one): {"description": _ANSWERS.get(one, _PHRASES[one])} for one in statuses}
    answers["200"] = {"description": "Done.", "content": {kind: {"schema": {"type": "string"}}}}
    about = {"operationId": name, "summary": summary, "description": description, "x-openai-isConsequential": False}
    return dict(about, responses=answers, **more)


def _parameter(name, description, required=False, **schema):
    return {"name": name, "in": "query", "description": description, "required": required, "schema": schema}


def _object(required=(), **properties):
    """An object's schema; a property is a description of a string, or a schema."""
    schemas = {k: {"type": "string", "description": v} if isinstance(v, str) else v for k, v in properties.items()}
    return {"type": "object", "properties": schemas, "required": list(required)}


_EXECCMD = _operation(
    "execcmd",
    "Execute a shell command on the server.",
    "The answer is stdout and stderr in the order written. A last line in brackets tells of a failure, of output left "
    "out, or of a command that still runs, and where its log is.",
    (200, 202, 400, 401, 403, 408, 413, 429, 500, 507),
    parameters=[
        _parameter("cmd", "The command line, as the shell takes it.", True, type="string", minLength=1),
        _parameter("wait", "Seconds to wait before it is answered as still running.", type="number", minimum=0),
        _parameter("limit", "Bytes of output, 0 for all; head and tail are kept.", type="integer", minimum=0),
    ],
    requestBody={"content": {"application/json": {"schema": _object(stdin="Standard input for the command.")}}},
)
_GET_FILE = _operation(
    "get-file",
    "Retrieve a file from the server.",
    "The answer is the file's bytes.",
    (200, 206, 304, 400, 401, 403, 404, 408, 413, 416, 429),
    "application/octet-stream",
    parameters=[
        _parameter("filename", "The path of the file to retrieve.", True, type="string", minLength=1),
        _parameter("openaiFileResponse", "true for a file that is not text: you get it as a file.", type="boolean"),
    ],
)
_REFS = {"type": "array", "items": {"type": "string"}, "description": "Files of the conversation, at most 10."}
_FORM = _object(["document"], document={"type": "string", "format": "binary", "description": "The file and its name."})
_JSON = _object(
    filename="Name to store it under, in the working directory.",
    content="The file's content, if it is text.",
    content_base64="The file's content in base64.",
    openaiFileIdRefs=_REFS,
)
_HANDED = _object(("download_url", "file_id"), download_url="Where it is.", file_id="Its id.", file_name="Its name.")
_HANDED["description"] = "A file of the conversation, handed over by ChatGPT."
_SEND_FILE = _operation(
    "send-file",
    "Store a file on the server.",
    "Stores files under their own names in the working directory: give filename with content or content_base64, or a "
    "file of the conversation.",
    (200, 400, 401, 403, 408, 411, 413, 429, 500, 507),
    requestBody={
        "required": True,
        "content": {"application/json": {"schema": _JSON}, "multipart/form-data": {"schema": _FORM}},
    },
    **{"x-mcp-files": {"file": _HANDED}}
)
TEMPLATE = {
    "openapi": "3.1.0",
    "info": {
        "title": "MyCodeInterpreter",
        "description": "Runs commands and moves files on the machine of its operator, who approves each action.",
        "version": __version__,
    },
    "servers": [{"url": "https://example.com"}],
    "security": [{"key": []}],
    "paths": {"/execcmd": {"post": _EXECCMD}, "/get-file": {"get": _GET_FILE}, "/send-file": {"post": _SEND_FILE}},
    "components": {"schemas": {}, "securitySchemes": {"key": {"type": "http", "scheme": "basic"}}},
}


def load_template(directory):
    """openapi_template.json of a directory, or the copy carried here; raises OSError, ValueError."""
    try:
        with open(os.path.join(directory, "openapi_template.json"), encoding="utf-8") as file:
            return json.load(file)
    except FileNotFoundError:
        return TEMPLATE
    except ValueError as error:
        raise ValueError("openapi_template.json: %s" % error) from None


# MCP: the Model Context Protocol (https://modelcontextprotocol.io/specification), by Streamable HTTP

MCP_HANDSHAKE = ("2025-11-25", "2025-06-18", "2025-03-26")  # versions that `initialize` chooses
MCP_STATELESS = "2026-07-28"  # the version that each request names in its _meta
_META = "io.modelcontextprotocol/"
_SERVER = {"name": "MyCodeInterpreter", "version": __version__}
INSTRUCTIONS = "These tools work on %s (%s), the machine of your user, in %s."
CONFIRMED = (
    " A person at its terminal is asked before each action and may deny it: when one is denied, read the reason, and "
    "do not ask for the same again."
)


class MCPError(Exception):
    """A JSON-RPC error: its code, a sentence, and the HTTP status that goes with it."""

    def __init__(self, code, message, status=400, **data):
        super().__init__(message)
        self.status, self.error = status, dict({"code": code, "message": message}, **({"data": data} if data else {}))


def answer_post(caller, data, headers):
    """(answer, HTTP status) to the bytes of a POST: a JSON-RPC message or, at 2025-03-26, a batch of them."""
    try:
        message = parse_json(data)
    except (RecursionError, ValueError):
        return {"jsonrpc": "2.0", "id": None, "error": MCPError(-32700, "the body is not JSON in UTF-8").error}, 400
    if isinstance(message, list) and message and headers.get("mcp-protocol-version", "2025-03-26") == "2025-03-26":
        answers = [answer for answer, _ in (answer_message(caller, one, headers) for one in message) if answer]
        return answers or None, 200 if answers else 202
    return answer_message(caller, message, headers)


def answer_message(caller, message, headers):
    """(answer, HTTP status) to one message; the answer is None to notifications and responses."""
    identity = None
    try:
        if not isinstance(message, dict) or message.get("jsonrpc") != "2.0":
            raise MCPError(-32600, "the body is not one JSON-RPC 2.0 message")
        try:
            to_json(message.get("id"))
            identity = message.get("id")
        except ValueError:
            raise MCPError(-32600, "the id can't be sent back") from None
        method, params = message.get("method"), message.get("params", {})
        if method is None and ("result" in message or "error" in message):
            return None, 202
        if not isinstance(method, str) or "id" in message and isinstance(identity, (bool, dict, list, type(None))):
            raise MCPError(-32600, "method is a string, and id a string or a number")
        if not isinstance(params, dict):
            raise MCPError(-32602, "params is an object")
        stateless = is_stateless(method, params, headers)
        if "id" not in message:
            return None, 202
        return {"jsonrpc": "2.0", "id": identity, "result": call_method(caller, method, params, stateless)}, 200
    except MCPError as error:
        return {"jsonrpc": "2.0", "id": identity, "error": error.error}, error.status


def is_stateless(method, params, headers):
    """Which era a request is of, by its _meta and headers; raises MCPError where they disagree or are unknown."""
    meta, header = params.get("_meta"), headers.get("mcp-protocol-version")
    version = meta.get(_META + "protocolVersion") if isinstance(meta, dict) else None
    stateless = version is not None or header == MCP_STATELESS
    if stateless:
        if version is None or not isinstance(meta.get(_META + "clientCapabilities"), dict):
            raise MCPError(-32602, "params._meta must name protocolVersion and clientCapabilities")
        name = headers.get("mcp-name", "")
        named = params.get("name") if method == "tools/call" else name
        encoded = "=?base64?%s?=" % base64.b64encode(str(named).encode("utf-8", "replace")).decode()
        if (header, headers.get("mcp-method")) != (version, method) or name not in (named, encoded):
            raise MCPError(-32020, "MCP-Protocol-Version, Mcp-Method and Mcp-Name must say what the body says")
    supported = [MCP_STATELESS] if stateless else [*MCP_HANDSHAKE, None]
    if header not in supported and method != "initialize":
        data = {"supported": [MCP_STATELESS, *MCP_HANDSHAKE], "requested": header}
        raise MCPError(-32022, "the protocol version is not supported", **data)
    return stateless


def call_method(caller, method, params, stateless):
    """The result of a method; raises MCPError."""
    if method == "tools/call":
        result = call_tool(caller, params)
    elif method == "tools/list":
        result = {"tools": tools(caller.server.template), "ttlMs": 0, "cacheScope": "private"}
    elif method == "ping" and not stateless:
        result = {}
    elif method == ("server/discover" if stateless else "initialize"):
        instructions = INSTRUCTIONS % (socket.gethostname(), sys.platform, visible(caller.server.directory)[0])
        instructions += CONFIRMED if caller.server.asks else ""
        result = {"capabilities": {"tools": {}}, "instructions": instructions}
        if stateless:
            result.update(supportedVersions=[MCP_STATELESS, *MCP_HANDSHAKE], _meta={_META + "serverInfo": _SERVER})
            result.update(ttlMs=0, cacheScope="private")
        else:
            asked = params.get("protocolVersion")
            version = asked if asked in MCP_HANDSHAKE else MCP_HANDSHAKE[0]
            result.update(protocolVersion=version, serverInfo=_SERVER)
    else:
        raise MCPError(-32601, "there is no method %s" % visible(method)[0], 404 if stateless else 200)
    return dict(result, resultType="complete") if stateless else result


def tools(template):
    """The MCP tools: the template's operations, their parameters and JSON members as one input."""
    found = []
    for method, operation in (item for methods in template["paths"].values() for item in methods.items()):
        content = operation.get("requestBody", {}).get("content", {}).get("application/json", {"schema": _object()})
        members, required = dict(content["schema"]["properties"]), list(content["schema"].get("required", ()))
        for parameter in operation.get("parameters", ()):
            members[parameter["name"]] = dict(parameter["schema"], description=parameter["description"])
            required += [parameter["name"]] if parameter["required"] else []
        files = operation.get("x-mcp-files", {})
        members = {name: member for name, member in dict(members, **files).items() if not name.startswith("openai")}
        schema = {"type": "object", "properties": members, "required": required}
        tool = {"name": operation["operationId"], "title": operation["summary"], "inputSchema": schema}
        tool.update(description=operation["description"], annotations={"readOnlyHint": method == "get"})
        found.append(dict(tool, _meta={"openai/fileParams": list(files)}) if files else tool)
    return found


def call_tool(caller, params):
    """The result of a tool: what fails, or is denied, is a result with isError; raises MCPError for an unknown tool."""
    name, given = params.get("name"), params.get("arguments", {})
    tool = next((tool for tool in tools(caller.server.template) if tool["name"] == name), None)
    if not tool or not isinstance(given, dict):
        raise MCPError(-32602, "there is no such tool, or its arguments are not an object; see tools/list", 200)
    data, more, failed = json.dumps(given).encode(), {}, False
    try:
        if name == "execcmd":
            with execcmd(caller, *command_arguments(json_pairs(data)), copies=2) as result:
                block, failed = result.output(), bool(result.facts["exit_code"]) or result.timed_out
                more = {"structuredContent": dict(result.facts, output=block)}
        elif name == "get-file":
            block = file_block(caller, parameters(("filename",), json_pairs(data)))
        else:
            unknown = set(given) - set(tool["inputSchema"]["properties"])
            if unknown:
                raise HTTPError(400, "there is no argument %s" % visible(", ".join(unknown))[0])
            block = send_file(caller, file_events(caller, json_object(data)))
    except (HTTPError, OSError) as error:
        block, failed = (error if isinstance(error, HTTPError) else refusal(error)).message, True
        caller.result = {"error": caller.server.redacted(block)}
    content = {"type": "text", "text": block} if isinstance(block, str) else block
    return dict({"content": [content]}, **more, isError=failed)


def file_block(caller, given):
    """A file as a str where it is UTF-8, else as a content block: an image where it is one, or an embedded resource."""
    with get_file(caller, given) as (file, status, filename):
        data, kind = whole(caller, file, status, filename), mime_type(filename)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        data = base64.b64encode(data).decode()
    if kind.startswith("image/"):
        return {"type": "image", "data": data, "mimeType": kind}
    uri = "file://" + percent(os.path.join(caller.server.directory, filename))
    return {"type": "resource", "resource": {"uri": uri, "mimeType": kind, "blob": data}}


# The page

_ASKED = "The operator is being asked at the terminal."
MODES = {  # (asks, counts down): what the page says of the mode, and while it waits
    (True, False): ("Safe: each action is asked for at its terminal.", _ASKED),
    (True, True): ("Safe and semisafe: each action is asked for at its terminal, then counted down.", _ASKED),
    (False, True): ("Semisafe: each action is counted down at its terminal.", "Counting down at the terminal."),
    (False, False): ("Nosafe: each action runs at once and nobody is asked.", "Under way."),
}
ACCESS = {  # by what the page was reached
    "noauth": "Noauth: whoever reaches this address gets in.",
    "key": "By the key, which is in some of the lines below: keep them to yourself.",
    "secret": "By the secret URL: whoever has it gets in, so keep it to yourself.",
}
PROMPT = (
    "You work at the command line of your user's machine, through your tools. Give a line that is a command to execcmd "
    "as it stands, and show what comes back. Turn a wish in plain words into commands, one after another, look at each "
    "result, and explain what was done. A person approves each action: when one is denied, read the reason and do not "
    "ask for the same again. When a command is still running, look into the log that the answer names."
)
_PASTE = (
    '<div><dt>%s</dt><dd><code>%s</code><button type="button">Copy<span class="unseen"> %s</span></button></dd></div>'
)
PAGE = r"""<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>MyCodeInterpreter on {{host}}</title>
<link rel="icon" href="data:,">
<style>
:root { color-scheme: light dark; --page: #f6f7f7; --card: #fff; --ink: #1b2327; --soft: #54606a; --line: #d5dade;
  --edge: #75818a; --act: #0a5688; --on-act: #fff; --bad: #a3231a }
@media (prefers-color-scheme: dark) { :root { --page: #13181b; --card: #1c2327; --ink: #e4e9ec; --soft: #a6b1b9;
  --line: #36414a; --edge: #7d8a94; --act: #82c7f2; --on-act: #0b1a24; --bad: #ffa197 } }
* { box-sizing: border-box; margin: 0 } h1 { font-size: 1.6rem } h2 { font-size: 1.3rem }
body { max-width: 60rem; margin: auto; padding: 2rem 1rem; color: var(--ink); background: var(--page);
  font: 1.0625rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere }
header, section, form { display: grid; gap: .75rem; grid-template-columns: minmax(0, 1fr) }
section { margin-top: 1.5rem; padding: 1.5rem; background: var(--card); border: 1px solid var(--line) }
section, pre, textarea, input, button, ::file-selector-button { border-radius: 8px }
form + form { padding-top: 1.25rem; border-top: 1px solid var(--line) }
header div { display: grid; grid-template-columns: 6rem minmax(0, 1fr) }
form div { display: flex; flex-wrap: wrap; gap: .5rem; align-items: center }
.pastes div { position: relative; padding: .75rem 0; border-top: 1px solid var(--line) }
.pastes dt { min-height: 44px; margin-bottom: .4rem; padding: .55rem 7rem 0 0 }
.pastes dt::first-letter { text-transform: uppercase } .pastes button { position: absolute; top: .75rem; right: 0 }
code, pre, #cmd, #path { font: .9375rem/1.5 ui-monospace, monospace }
pre { padding: .75rem; min-height: 7.5rem; max-height: 60vh; overflow: auto; white-space: pre-wrap;
  background: var(--page); border: 1px solid var(--line) }
textarea, input { width: 100%; min-height: 44px; padding: .6rem .75rem; font: inherit; color: inherit;
  background: var(--card); border: 1px solid var(--edge); field-sizing: content; max-height: 40vh; resize: vertical }
#files { border-style: dashed; padding: 1.5rem .75rem } ::file-selector-button { margin-right: .75rem }
button, ::file-selector-button { min-height: 44px; min-width: 6rem; padding: 0 1rem;
  font: inherit; color: var(--act); background: var(--card); border: 1px solid var(--act); cursor: pointer }
[type=submit] { color: var(--on-act); background: var(--act) } .soft, header dt { color: var(--soft) }
button:disabled { color: var(--soft); border-color: var(--line); cursor: default }
:focus-visible { outline: 3px solid var(--act); outline-offset: 2px }
progress { width: 100%; accent-color: var(--act) } output { flex: 1 1 16rem; min-height: 1.5em }
label, .wait, .pastes dt { font-weight: 600 } .bad { color: var(--bad) } .wait { color: var(--act) }
.unseen { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap }
</style>
<body data-waiting="{{waiting}}">
<header>
<h1>MyCodeInterpreter {{version}}</h1>
<p>An assistant, or you, can run commands on this machine, fetch files and store files.</p>
<dl>
<div><dt>Machine</dt><dd>{{host}}</dd></div>
<div><dt>Directory</dt><dd><code>{{directory}}</code></dd></div>
<div><dt>Mode</dt><dd><strong>{{mode}}</strong></dd></div>
<div><dt>Access</dt><dd>{{access}}</dd></div>
</dl>
<noscript><p class="bad">To try it here, and for the buttons, switch JavaScript on.</p></noscript>
</header>
<main>
<section aria-labelledby="try"><h2 id="try">Run a command</h2>
<form id="run">
<label for="cmd">Command</label>
<textarea id="cmd" rows="1" required autocapitalize="off" spellcheck="false" aria-describedby="keys"></textarea>
<p id="keys" class="soft">Enter runs it, Shift+Enter begins another line, arrow up brings earlier ones back.</p>
<div><button type="submit">Run</button><button type="button" class="cancel" disabled>Cancel</button>
<button type="button" id="log" hidden>End of its log</button><output></output></div>
<pre id="shown" role="region" aria-label="Output" tabindex="0"></pre>
</form></section>
<section aria-labelledby="move"><h2 id="move">Move files</h2>
<form id="store">
<label for="files">Files to store in the directory: choose them, or drop them here</label>
<input id="files" type="file" multiple required>
<progress id="sent" aria-label="Sent" value="0"></progress>
<div><button type="submit">Store</button><button type="button" class="cancel" disabled>Cancel</button>
<output></output></div>
</form>
<form id="fetch">
<label for="path">Path of a file to fetch</label>
<input id="path" required autocapitalize="off" autocomplete="off" spellcheck="false">
<div><button type="submit">Fetch</button><button type="button" class="cancel" disabled>Cancel</button>
<output></output></div>
</form></section>
<section aria-labelledby="connect"><h2 id="connect">Connect an assistant</h2>
<p>ChatGPT and Claude.ai take a public https URL, as a connector without authentication; a custom GPT takes the schema
for its action.</p>
<dl class="pastes">{{pastes}}</dl>
<p id="copied" role="status" class="unseen"></p>
</section>
</main>
<script>
const $ = id => document.getElementById(id), past = [], accept = {Accept: "application/json"}
const base = location.origin + location.pathname.replace(/\/*$/, "/")  // below the secret URL's token, too
let at = 0, log = ""

async function act(form, work) {  // one action of a form at a time; what work(signal) returns is said at its end
  const cancel = form.querySelector(".cancel"), abort = new AbortController()
  const say = (text, kind) => Object.assign(form.querySelector("output"), {textContent: text, className: kind})
  if (!cancel.disabled) return
  cancel.disabled = false
  cancel.onclick = () => abort.abort("Cancelled. An open question is withdrawn; a command that runs already goes on.")
  say(document.body.dataset.waiting, "wait")
  try { say(await work(abort.signal), "") }
  catch (error) { say(abort.signal.reason || error.message, "bad") }
  if (document.activeElement == cancel) form.elements[0].focus()
  cancel.disabled = true
}
const submit = (form, work) => form.onsubmit = event => { event.preventDefault(); act(form, work) }

async function checked(response) {  // the response, or an error with the reason that it gives
  const unknown = {error: `The answer was ${response.status}.`}
  const answer = response.ok ? {} : await response.clone().json().catch(() => unknown)
  if (answer.error) throw Error(answer.error)
  return response
}
const lost = () => { throw Error("The daemon does not answer; it may have been stopped.") }
const ask = (path, options) => fetch(base + path, options).catch(lost).then(checked)
const file = (path, options) => ask("get-file?filename=" + encodeURIComponent(path), options)

submit($("run"), async signal => {
  const cmd = $("cmd").value, headers = {...accept, "Content-Type": "application/json"}
  at = past.push(cmd) - 1
  $("log").hidden = true
  $("shown").textContent = ""
  const answer = await (await ask("execcmd", {method: "POST", body: JSON.stringify({cmd}), headers, signal})).json()
  $("shown").textContent = answer.output
  $("log").hidden = !(log = answer.log)
  return `${answer.running ? "Still running" : "Exit code " + answer.exit_code}, ${answer.seconds} s.`
})
$("log").onclick = () => act($("run"), async signal => {
  $("shown").textContent = await (await file(log, {headers: {...accept, Range: "bytes=-65536"}, signal})).text()
  return `The end of ${log}.`
})
$("cmd").onkeydown = event => {
  const step = {ArrowUp: -1, ArrowDown: 1}[event.key], text = $("cmd").value
  const next = text == past[at] ? at + step : past.length - 1
  if (event.key == "Enter" && !event.shiftKey && !event.isComposing) $("run").requestSubmit()
  else if (step && next in past && !text.includes("\n")) $("cmd").value = past[at = next]
  else return
  event.preventDefault()
}

submit($("store"), signal => new Promise((resolve, reject) => {
  const request = new XMLHttpRequest(), data = new FormData()  // fetch tells no progress
  for (const one of $("files").files) data.append("document", one)
  $("sent").value = 0
  request.upload.onprogress = event => $("sent").value = event.loaded / event.total
  request.onload = () => resolve(new Response(request.responseText, {status: request.status}))
  request.onerror = request.onabort = reject
  signal.onabort = () => request.abort()
  request.open("POST", base + "send-file")
  request.setRequestHeader("Accept", accept.Accept)
  request.send(data)
}).catch(lost).then(checked).then(response => response.text()))
$("files").onchange = () => $("store").requestSubmit()
document.ondragover = document.ondrop = event => {  // a file dropped beside the field does not replace the page
  if (event.dataTransfer.types.includes("Files") && event.target != $("files")) event.preventDefault()
}

submit($("fetch"), async signal => {
  const path = $("path").value, link = document.createElement("a")
  const blob = await (await file(path, {headers: accept, signal})).blob()
  link.href = URL.createObjectURL(blob)
  link.download = path.split(/[\\/]/).pop()
  link.click()
  setTimeout(() => URL.revokeObjectURL(link.href), 60000)
  return `Fetched ${link.download}, ${blob.size} bytes.`
})

for (const button of document.querySelectorAll(".pastes button")) button.onclick = async () => {
  const text = button.previousElementSibling
  try { await navigator.clipboard.writeText(text.textContent) }
  catch { getSelection().selectAllChildren(text); document.execCommand("copy") }  // without https
  button.firstChild.data = "Copied"
  $("copied").textContent = button.textContent
  setTimeout(() => { button.firstChild.data = "Copy"; $("copied").textContent = "" }, 2000)
}
</script>
"""


def clients(url, bare_url, basic):
    """[(client, what to paste there)] for those that can send the header basic, or None, and those that take a URL."""
    entry, add = {"type": "http", "url": url + "/mcp"}, "claude mcp add --transport http mycomputer %s/mcp" % url
    if basic:
        entry["headers"] = {"Authorization": basic}
        add += ' --header "Authorization: %s"' % basic
    pastes = [("ChatGPT, Claude.ai", bare_url + "/mcp"), ("Claude Code", add)]
    pastes += [("Codex", "codex mcp add mycomputer --url %s/mcp" % bare_url), ("Cursor, VS Code", json.dumps(entry))]
    return pastes + ([("custom GPT, API key, Basic", basic[6:])] if basic else [])


def fill_page(facts, pastes):
    """(PAGE with facts, {name: text}, and pastes, [(client, text)], escaped, as bytes; the policy it works under)."""
    import hashlib
    from html import escape

    filled = {name: escape(text) for name, text in facts.items()}
    filled["pastes"] = "".join(_PASTE % (escape(name), escape(text), escape(name)) for name, text in pastes)
    page = re.sub(r"\{\{(\w+)\}\}", lambda match: filled[match.group(1)], PAGE)
    policy = "default-src 'none'; connect-src 'self'; img-src data:"
    policy += "; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    for kind, block in re.findall(r"<(style|script)>(.*?)</", PAGE, re.S):
        policy += "; %s-src 'sha256-%s'" % (kind, base64.b64encode(hashlib.sha256(block.encode()).digest()).decode())
    return page.encode(), policy


# HTTP

_FORMS = {  # bodies that are parsed, other than JSON
    "application/x-www-form-urlencoded": lambda content_type, data: form_pairs(data),
    "multipart/form-data": multipart_pairs,
}


class Handler(socketserver.BaseRequestHandler):
    """One connection. A request passes, in this order, and stops at the first that fails: framing (`read_request`),
    Host and Origin (`check_origin`), credentials (`authorize`), path and method (`route`), then, in the method of its
    route, parameters, approval and action. Each refusal is an HTTPError, and `answer_error` answers them all."""

    routes = {
        "/": {"GET": "page", "HEAD": "page"},
        "/execcmd": {"POST": "execcmd"},
        "/get-file": {"GET": "get_file", "HEAD": "get_file"},
        "/send-file": {"POST": "send_file"},
        "/openapi.json": {"GET": "openapi", "HEAD": "openapi"},
        "/mcp": {"POST": "mcp"},
    }

    def handle(self):
        """Answers requests until the connection ends."""
        self.connection, self.tenders = self.server.connections[self.request], []
        try:
            while self.handle_one_request():
                pass
            self.linger()
        except OSError:
            pass  # the client is gone, or does not take its answer
        # What a thread has started may be made to die with it (PR_SET_PDEATHSIG, as `bwrap --die-with-parent` does).
        self.server.shutdown_request(self.request)
        for thread in self.tenders:
            thread.join()

    def handle_one_request(self):
        """Reads and answers one request; whether another may follow."""
        self.method = self.path = self.body = self.action = self.result = self.status = None
        self.headers, self.client, self.decision, self.sent = {}, self.client_address[0], "-", 0
        self.admitted, self.secret_url, self.closing = False, False, True
        self.moved = self.tell_at = 0  # bytes of a transfer, and when to tell of it again
        try:
            head = self.connection.head()
            if head is None:
                return False
            self.read_request(head)
            self.check_origin()
            self.authorize()
            getattr(self, self.route())()
        except HTTPError as error:
            self.answer_error(error)
        except (BlockingIOError, ConnectionError, socket.timeout):
            self.closing = True
        except OSError as error:
            self.answer_error(refusal(error))
        except Exception:
            sys.excepthook(*sys.exc_info())  # on the terminal, with its traceback
            self.answer_error(HTTPError(500, "the daemon has a bug, which its terminal shows; please report it"))
        if self.admitted:  # before the credentials are right nothing is printed
            self.server.log(self)
        return not self.closing

    def read_request(self, head):
        """Framing: the head and the length of the body; raises HTTPError 400, 431."""
        self.started = time.monotonic()
        self.method, self.target, version, self.headers = parse_head(head)
        self.body = Body(self.connection, version, self.headers)
        self.closing = version == "1.0" or "close" in self.headers.get("connection", "").lower()
        if not self.target.startswith("/"):
            absolute = re.match(r"https?://([^/?]*)/?(.*)", self.target, re.I)
            if not absolute:
                raise HTTPError(400, "the request target is malformed; it is a path")
            # Its authority counts, not the Host header's (RFC 9112 3.2.2).
            self.headers["host"], self.target = absolute.group(1), "/" + absolute.group(2)

    def check_origin(self):
        """No web page elsewhere gets in, whatever name it gives this address; raises HTTPError 403, 421."""
        authority = self.headers.get("host", "127.0.0.1").lower()
        host = host_of(authority) or ""
        # An address is no name that somebody's DNS server could point here.
        if not (host in self.server.names or host == self.server.public_name or re.match(r"[0-9.]+\Z|.*:", host)):
            raise HTTPError(421, "this daemon does not answer to that Host; if it should, start it with -url")
        if host == self.server.public_name:
            forwarded = self.headers.get("x-forwarded-for", "").rpartition(",")[2].strip()
            self.client = visible(forwarded)[0][:60] or self.client  # an address is shorter
        origin = self.headers.get("origin", "").lower()
        own = not origin or origin in ("http://" + authority, "https://" + authority, self.server.url)
        if not own or self.headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            raise HTTPError(403, "a web page elsewhere may not use this daemon; open its own address")

    def authorize(self):
        """Credentials: Basic, Bearer, or the token before the path, which is taken off; raises HTTPError 401."""
        path, _, self.query = self.target.encode("latin-1").partition(b"?")
        path = unquote(path)
        if self.server.token is not None:
            first, _, rest = path[1:].partition(b"/")
            self.secret_url = self.server.equal(first, self.server.token.encode())  # in constant time
            path = b"/" + rest if self.secret_url else path
        self.path = path.decode("utf-8", "replace")
        self.admitted = self.secret_url or self.server.is_admitted(self.headers.get("authorization", ""))
        if not self.admitted and self.path != "/openapi.json":
            challenge = ("WWW-Authenticate", 'Basic realm="MyCodeInterpreter", charset="UTF-8"')
            message = "the credentials are missing or wrong; send USER:KEY as Basic or KEY as Bearer"
            raise HTTPError(401, message, challenge)

    def route(self):
        """Path and method: the name of the method that serves them; raises HTTPError 404, 405."""
        methods = self.routes.get(self.path)
        if not methods:
            raise HTTPError(404, "there is nothing here; the paths are %s" % ", ".join(self.routes))
        if self.method not in methods:
            allow = ", ".join(methods)
            raise HTTPError(405, "%s takes %s" % (self.path, allow), ("Allow", allow))
        return methods[self.method]

    def approve(self, action, seconds):
        """Approval, by the one gate; raises HTTPError."""
        if self.action:  # a batch or an upload may have several, and each gets its line
            self.server.log(self)
            self.result, self.moved = None, 0
        self.action, self.decision = action, "refused"
        self.decision = self.server.gate.approve(action, self, seconds)

    def base_url(self):
        """The URL under which the client reaches this server."""
        url = self.server.url or "http://" + self.headers.get("host", "")
        return url + ("/" + self.server.token if self.secret_url else "")

    def page(self):
        """GET /: who came by the secret URL is shown that, but neither the key nor the header that it is in."""
        server, url = self.server, self.base_url()
        basic = None if self.secret_url else server.basic
        mode, waiting = MODES[server.asks, server.counts]
        facts = {"version": __version__, "mode": mode, "waiting": waiting}
        facts.update(host=visible(socket.gethostname())[0], directory=visible(server.directory)[0])
        facts["access"] = ACCESS["noauth" if server.key is None else "secret" if self.secret_url else "key"]
        pastes = clients(url, "%s/%s" % (url, server.token) if basic else url, basic)
        pastes += [("custom GPT, schema", url + "/openapi.json"), ("custom GPT, instructions", PROMPT)]
        pastes += [("any other client, header", "Authorization: " + basic)] if basic else []
        page, policy = fill_page(facts, pastes)
        headers = [("Content-Security-Policy", policy), ("Cache-Control", "no-store")]
        self.answer(200, [page], headers + [("Referrer-Policy", "no-referrer")], "text/html; charset=utf-8")

    def execcmd(self):
        """POST /execcmd: the body is JSON, a form, or itself the standard input."""
        content_type, pairs = self.headers.get("content-type", ""), form_pairs(self.query)
        kind = content_type.partition(";")[0].strip().lower()
        form, is_json = _FORMS.get(kind), kind == "application/json"
        data = self.body.form() if form or is_json else self.body.read(FORM_LIMIT)
        given = form(content_type, data) if form and data else []
        if is_json and data:
            pairs += json_pairs(data)
        # `curl --data-binary` calls everything a form; what names no parameter is none.
        elif any(name in _EXECCMD_NAMES for name, _ in given):
            pairs += given
        elif data:
            pairs.append(("stdin", data))
        as_json = prefers_json(self.headers.get("accept", ""))
        with execcmd(self, *command_arguments(pairs), copies=as_json) as result:
            status = 202 if result.facts["running"] else 408 if result.timed_out else 200
            if as_json:
                return self.answer_json(dict(result.facts, output=result.output()), status)
            told = [(name, "true" if value is True else value) for name, value in result.facts.items()]
            headers = [("X-" + n.title().replace("_", "-"), v) for n, v in told if v is not None and v is not False]
            return self.answer(status, result.parts, headers)

    def get_file(self):
        """GET /get-file: conditions and one range (RFC 9110 13, 14)."""
        given = parameters(("filename", "openaiFileResponse"), form_pairs(self.query))
        with get_file(self, given) as (file, status, filename):
            if given.get("openaiFileResponse", b"false").lower() == b"true":
                data = base64.b64encode(whole(self, file, status, filename)).decode()
                member = {"name": os.path.basename(filename), "mime_type": mime_type(filename), "content": data}
                return self.answer_json({"openaiFileResponse": [member]})
            size, tag = status.st_size, '"%x-%x-%x"' % (status.st_mtime_ns, status.st_size, status.st_ino)
            modified, name = http_date(int(status.st_mtime)), percent(os.path.basename(filename))
            headers = [("ETag", tag), ("Last-Modified", modified), ("Accept-Ranges", "bytes")]
            # Whatever is in the file, it is no page of this origin.
            plain = re.sub('[^ -~]|["\\\\%]', "_", os.path.basename(filename))  # for curl -OJ
            headers += [("Content-Disposition", 'attachment; filename="%s"; filename*=UTF-8\'\'%s' % (plain, name))]
            headers += [("Content-Security-Policy", "sandbox; default-src 'none'")]
            if {tag, "*"} & set(re.findall(r'"[^"]*"|\*', self.headers.get("if-none-match", ""))):
                return self.answer(304, [], headers)
            current = self.method == "GET" and self.headers.get("if-range", tag) in (tag, modified)
            part = byte_range(self.headers.get("range", ""), size) if current else None
            start, stop = part or (0, size)
            headers += [("Content-Range", "bytes %d-%d/%d" % (start, stop - 1, size))] if part else []
            return self.answer(206 if part else 200, [(file, start, stop - start)], headers, mime_type(filename))

    def send_file(self):
        """POST /send-file"""
        if not {"content-length", "transfer-encoding"} & set(self.headers):
            raise HTTPError(411, "the length of the body is missing; send Content-Length or Transfer-Encoding: chunked")
        parameters((), form_pairs(self.query))
        kind = self.headers.get("content-type", "")
        if kind.lower().startswith("application/json"):
            events = file_events(self, json_object(self.body.form()))
        elif kind.lower().startswith("multipart/form-data"):
            events = multipart(kind, self.body.readinto)
        else:
            raise HTTPError(400, "send the file as multipart/form-data, as `curl -F document=@FILE` does")
        fact = "of a length not known yet" if self.body.length is None else "%d bytes at most" % self.body.length
        self.answer(200, [send_file(self, events, fact).encode()])

    def openapi(self):
        """GET /openapi.json: fetched through the secret URL it names that, and no other credentials."""
        filled = dict(self.server.template, servers=[{"url": self.base_url()}])
        if self.server.key is None or self.secret_url:
            filled.pop("security", None)
            filled["components"] = dict(filled.get("components", {}))
            filled["components"].pop("securitySchemes", None)
        self.answer_json(filled)

    def mcp(self):
        """POST /mcp"""
        answer, status = answer_post(self, self.body.form(), self.headers)
        self.answer_json(answer, status) if answer is not None else self.answer(status, [])

    def answer_json(self, value, status=200):
        """Answers with a value as JSON."""
        self.answer(status, [to_json(value)], kind="application/json")

    def answer_error(self, error):
        """Answers with one plain sentence, in JSON where that is preferred; cuts off an answer that is under way."""
        self.result = self.result or {"error": self.server.redacted(error.message)}
        if self.status is None:
            as_json = prefers_json(self.headers.get("accept", ""))
            data = json.dumps({"error": error.message}) if as_json else error.message + "\n"
            kind = "application/json" if as_json else "text/plain; charset=utf-8"
            with contextlib.suppress(OSError):  # the client may be gone, of which the log still tells
                self.answer(error.status, [data.encode("utf-8", "backslashreplace")], error.headers, kind)
                return
        self.closing = True

    def answer(self, status, parts, headers=(), kind="text/plain; charset=utf-8"):
        """Sends an answer of parts, bytes or (file, start, count): the head and what is small in one send."""
        self.closing = self.closing or not self.body.done  # without a body it is True
        length = 0
        for part in parts:
            length += len(part) if isinstance(part, bytes) else part[2]
        head = "HTTP/1.1 %d %s\r\nDate: %s\r\n" % (status, _PHRASES[status], http_date(int(time.time())))
        head += "X-Content-Type-Options: nosniff\r\nCache-Control: no-cache\r\n"
        if status != 304:
            head += "Content-Type: %s\r\nContent-Length: %d\r\n" % (kind, length)
        if self.closing:
            head += "Connection: close\r\n"
        for name, value in headers:
            head += "%s: %s\r\n" % (name, visible(str(value))[0])
        data = (head + "\r\n").encode("latin-1", "replace")
        self.status = status
        for part in parts if self.method != "HEAD" else []:
            if isinstance(part, bytes) or part[2] <= OUTPUT_LIMIT:
                data += read_part(part)
            else:
                self.request.sendall(data)
                self.send_part(*part)
                data = b""
        self.request.sendall(data)
        self.sent = length if self.method != "HEAD" else 0

    def send_part(self, file, start, count):
        """Sends a part of a file, in blocks that the progress tells of."""
        self.progress(0)
        while count:
            if hasattr(os, "sendfile"):
                sent = os.sendfile(self.request.fileno(), file.fileno(), start, min(count, 4 * BLOCK))
                if not sent:
                    raise OSError("the file has shrunk")
            else:
                data = read_part((file, start, min(count, BLOCK)))
                self.request.sendall(data)
                sent = len(data)
            start, count = start + sent, count - sent
            self.progress(sent)
            self.sent = self.moved

    def progress(self, count):
        """Tells the operator, twice a second, of a transfer that takes more than one."""
        now = time.monotonic()
        self.moved, self.tell_at = self.moved + count, self.tell_at or now + 1
        if now > self.tell_at:
            self.tell_at = now + 0.5
            subject = visible(self.action.subject)[0].encode("ascii", "replace").decode()  # a column for each character
            self.server.terminal.progress("%s %s so far: %s" % (self.action.operation, human(self.moved), subject))

    def linger(self):
        """Reads on for a moment: a connection closed with bytes unread is reset, and the answer lost (RFC 9112 9.6)."""
        self.request.shutdown(socket.SHUT_WR)
        self.request.settimeout(LINGER)
        until = time.monotonic() + LINGER
        unread = self.body is None or not self.body.done
        while unread and time.monotonic() < until and self.request.recv(BLOCK):
            pass


class Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """What http.server calls ThreadingHTTPServer, without the import of that, which is most of a start's time.

    Holds what the threads share: the options, the terminal, the gate, the runner and the connections.
    """

    daemon_threads = True
    allow_reuse_address = os.name == "posix"
    request_queue_size = 128

    def __init__(self, options):
        self.address_family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
        self.hold, self.limit, self.directory = options.wait, options.limit, os.getcwd()
        self.shell, self.file_hosts = options.shell, ["oaiusercontent.com"] + list(map(str.lower, options.filehost))
        self.template = load_template(os.path.dirname(os.path.abspath(__file__)))
        (self.user, self.key), self.token, self.basic, self.secrets = options.auth, None, None, ()
        if self.key is not None:  # else a tenth of the start and of the memory are saved
            import hmac

            self.equal = hmac.compare_digest
            self.token = hmac.new(self.key, b"secret URL", "sha256").hexdigest()[:32]
            user = b"user" if self.user is None else self.user
            self.basic = "Basic " + base64.b64encode(user + b":" + self.key).decode()
            self.secrets = self.token, self.key.decode("utf-8", "replace"), self.basic[6:]
        self.audit = open(options.log, "ab", 0, opener=lambda *a: os.open(*a, mode=0o600)) if options.log else None
        self.terminal = Terminal()
        self.asks, self.counts = not options.nosafe, options.semisafe
        self.gate = Gate(self.terminal, self.asks, self.counts)
        self.runner = Runner(self.shell or (["cmd", "/c"] if os.name == "nt" else ["sh", "-c"]), options.timeout)
        self.url = self.public_name = None
        self.ending = False
        self.names = {"localhost", options.host.lower()}
        self._lock = threading.Lock()  # guards tally
        self._auditing = threading.Lock()  # guards audit, to which a write may take as long as it likes
        self.tally = dict(run=0, denied=0, sent=0, received=0)
        self.connections = {}  # socket: Connection; what threads do with it, each a single step, needs no lock
        super().__init__((options.host, options.port), Handler)

    def publish(self, url):
        """Takes a public URL as its own: answers to its name, and names it in the schema."""
        self.url = url.rstrip("/").lower()
        self.public_name = host_of(self.url.partition("://")[2])

    def local_url(self):
        """The URL under which this machine reaches it."""
        host, port = self.server_address[:2]
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
        return "http://%s:%d" % ("[%s]" % host if ":" in host else host, port)

    def is_admitted(self, header):
        """Whether an Authorization header lets its sender in, in constant time."""
        if self.key is None:
            return True
        scheme, _, value = header.partition(" ")
        if scheme.lower() == "bearer":
            return self.equal(value.strip(" \t").encode("latin-1"), self.key)
        user, password = credentials(header) or (b"", b"")
        right_user = self.user is None or self.equal(user, self.user)
        return self.equal(password, self.key) and right_user

    def redacted(self, text):
        """A text without the secrets in it, for the log."""
        for secret in self.secrets:
            text = text.replace(secret, "***")
        return text

    def log(self, request):
        """One line for an action, or for a request that had none, on the terminal and in the audit trail."""
        operation, subject, facts = (request.action or (request.method, request.path, ()))[:3]
        subject = self.redacted(subject)
        entry = (local_time(int(time.time())), request.client, operation, visible(subject)[0], request.decision)
        entry += (request.status or "-", request.sent, time.monotonic() - request.started)
        self.terminal.log("%s %s %s %.200s %s %s %dB %.3fs" % entry)
        if request.action:
            with self._lock:
                self.tally["denied" if request.decision == "refused" else "run"] += 1
                if operation == "send-file":
                    self.tally["received"] += request.moved
                else:
                    self.tally["sent"] += request.sent
        if self.audit:
            names = ("time", "client", "operation", "subject", "decision", "status", "bytes", "seconds")
            line = dict(zip(names, entry), subject=subject, status=request.status, result=request.result)
            line = json.dumps(dict(line, facts=[self.redacted(fact)[:OUTPUT_LIMIT] for fact in facts])).encode() + b"\n"
            with self._auditing:
                try:
                    size = os.fstat(self.audit.fileno()).st_size
                    if self.audit.write(line) < len(line):
                        os.ftruncate(self.audit.fileno(), size)  # whole lines only
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                except OSError as error:
                    self.terminal.log("the audit trail can't be written: %s" % error.strerror)

    def get_request(self):
        """Accepts a connection; where no descriptor is left for it, waits a little rather than spin."""
        try:
            return super().get_request()
        except OSError:
            time.sleep(0.1)
            raise

    def process_request(self, request, client_address):
        """Gives a connection its thread. Over MAX_CONNECTIONS the longest idle one makes room, or else it is closed."""
        request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if len(self.connections) >= MAX_CONNECTIONS:
            idle = [(one.idle_since or float("inf"), one) for one in list(self.connections.values())]
            since, longest = min(idle, key=lambda item: item[0])
            if since == float("inf"):
                return self.shutdown_request(request)
            longest.hang_up()
        self.connections[request] = Connection(request)
        return super().process_request(request, client_address)

    def shutdown_request(self, request):
        """Closes a connection."""
        self.connections.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request, client_address):
        """Logs what went wrong outside of a request."""
        self.terminal.log("the connection of %s failed: %s" % (client_address[0], sys.exc_info()[1]))

    def close(self):
        """Ends it: nobody gets in or is asked any more, commands are killed, answers and log lines under way go out."""
        self.server_close()
        self.gate.close()
        self.runner.kill()
        still = self.connections.values()
        for hang_up in (False, True):
            until = time.monotonic() + 0.4
            while any(hang_up or not one.idle_since for one in list(still)) and time.monotonic() < until:
                time.sleep(0.01)
                for connection in list(still) if hang_up else ():
                    connection.hang_up()
        for path in list(Upload.temporaries):
            with contextlib.suppress(OSError):
                os.unlink(path)
        try:
            self.runner.clean()
        except OSError as error:
            self.terminal.log("%s can't be removed: %s" % (error.filename, error.strerror))
        if self.tally["run"] + self.tally["denied"]:
            shown = dict(self.tally, sent=human(self.tally["sent"]), received=human(self.tally["received"]))
            self.terminal.log("actions run: %(run)d, denied: %(denied)d; sent %(sent)s, received %(received)s" % shown)
        last = threading.Thread(target=self.terminal.write, args=("", False), daemon=True)
        try:
            last.start()
            last.join(0.3)  # it may hang
        except RuntimeError:
            pass  # there are no more threads to be had, and without one it might hang for ever


# The tunnel

# What ngrok.forward takes in words; it ignores silently what it does not know.
_NGROK_LISTS = """
    allow_cidr allow_user_agent basic_auth deny_cidr deny_user_agent oauth_allow_domains oauth_allow_emails oauth_scopes
    oidc_allow_domains oidc_allow_emails oidc_scopes request_header_add request_header_remove response_header_add
    response_header_remove schemes""".split()  # may be given more than once
_NGROK_SWITCHES = ["compression", "force_new_session", "verify_upstream_tls", "websocket_tcp_converter"]
_NGROK_KEYS = _NGROK_LISTS + _NGROK_SWITCHES + """
    app_protocol domain forwards_to hostname metadata oauth_client_id oauth_client_secret oauth_provider oidc_client_id
    oidc_client_secret oidc_issuer_url policy proxy_proto root_cas server_addr session_metadata traffic_policy
    verify_webhook_provider verify_webhook_secret""".split()
_NGROK_HINTS = {  # https://ngrok.com/docs/errors
    "105": "the authtoken is malformed; copy it anew from the dashboard",
    "107": "the authtoken was revoked; make another on the dashboard",
    "108": "the account has too many agents online; stop another one",
    "314": "the account may not use this domain; leave -ngrok domain out",
    "334": "the domain is in use; stop the other agent, or choose another domain",
}


def ngrok_options(settings):
    """Keyword arguments of ngrok.forward out of KEY=VALUE settings; raises ValueError."""
    found = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or key not in _NGROK_KEYS:
            known = ", ".join(sorted(_NGROK_KEYS))
            raise ValueError("-ngrok %s is not KEY=VALUE with a KEY that ngrok.forward takes: %s" % (setting, known))
        if key in _NGROK_SWITCHES and value not in ("true", "false"):
            raise ValueError("-ngrok %s must be true or false" % key)
        if key == "server_addr" and not re.match(r"[A-Za-z0-9.-]+:[0-9]{1,5}\Z", value):
            raise ValueError("-ngrok server_addr must be HOST:PORT")
        found.setdefault(key, []).append(value == "true" if key in _NGROK_SWITCHES else value)
        if len(found[key]) > 1 and key not in _NGROK_LISTS:
            raise ValueError("-ngrok %s is given twice; give it once" % key)
    return {key: values if len(values) > 1 else values[0] for key, values in found.items()}


def watch_tunnel(ngrok, server):
    """Logs the SDK's warnings and, as only its DEBUG lines tell, that the session is lost, or is back and where."""
    import logging

    def emit(record):
        line = record.getMessage()
        if "attempting reconnect" in line:
            server.terminal.log("the tunnel is lost; ngrok reconnects")
        elif line.startswith("rebound tunnel"):
            server.publish(re.search('url: "([^"]+)"', line).group(1))
            server.terminal.log("the tunnel is back at " + server.url)
        elif record.levelno >= logging.WARNING:
            server.terminal.log("ngrok: " + visible(line)[0])

    handler, logger = logging.Handler(), logging.getLogger("ngrok")
    handler.emit, logger.propagate = emit, False  # type: ignore[method-assign]
    logger.addHandler(handler)
    logging.getLogger("ngrok.session").setLevel(logging.DEBUG)
    ngrok.log_level("DEBUG")


def open_tunnel(server, authtoken, options):
    """The URL of an ngrok tunnel to a server; raises ValueError, one line, where there is none.

    It is never closed: os._exit ends it, and ngrok.kill fails or hangs while the session is lost.
    """
    try:
        import ngrok
    except ImportError:
        raise ValueError("NGROK_AUTHTOKEN is set but ngrok is missing; python3 -m pip install ngrok") from None
    import tempfile

    # Unless told otherwise ngrok is sent this machine's name and our path as what is forwarded to.
    options = dict({"forwards_to": "mycodeinterpreter"}, **options)
    address = server.local_url().replace("http", "tcp", 1)  # without tcp:// no IPv6 address works
    watch_tunnel(ngrok, server)
    with tempfile.TemporaryFile() as said, contextlib.ExitStack() as stack:
        if sys.stderr:  # else 2 may be any file
            stderr = os.dup(2)
            stack.callback(lambda: (os.dup2(stderr, 2), os.close(stderr)))
            os.dup2(said.fileno(), 2)  # where a panic of the SDK writes itself and its stack
        try:
            return ngrok.forward(address, authtoken=authtoken, **options).url()
        except Exception as error:  # the SDK's panics among them
            said.seek(0)
            panic = re.search(rb"panicked at .*\n(.*)", said.read(4096))
            words = panic.group(1).decode("utf-8", "replace") if panic else " ".join(map(str, error.args))
            words = " ".join(words.replace(authtoken, "***").split())
            code = re.search(r"ERR_NGROK_([0-9]+)", words)
            hint = "is the network there?" if "connect" in words else "see https://ngrok.com/docs/errors"
            hint = "an -ngrok option is wrong" if panic else _NGROK_HINTS.get(code.group(1) if code else "", hint)
            raise ValueError("ngrok: %s; %s" % (words, hint)) from None


# The command line

HELP = """usage: mycodeinterpreter.py AUTH [-nosafe] [-semisafe] [options]

Runs commands and moves files on this machine for ChatGPT, or any assistant, while a person approves each action.

  AUTH              noauth, KEY or USER:KEY; left out, the environment's AUTH_KEY, which keeps it out of `ps`
  -nosafe           no confirmation
  -semisafe         a countdown of {COUNTDOWN} s before each action; Ctrl+C in it cancels that action alone
  -host ADDR        where to listen ({HOST})
  -port N           the same; 0 takes a free one ({PORT})
  -url URL          the public address, where something else tunnels (cloudflared, tailscale, a reverse proxy)
  -ngrok KEY=VALUE  an option of ngrok.forward, such as domain=NAME or allow_cidr=NET; repeatable
  -wait S           seconds a request is held, approval and run together ({HOLD})
  -timeout S        seconds until a command is killed; 0: never ({COMMAND_TIMEOUT})
  -limit BYTES      output that one answer carries; 0: all ({OUTPUT_LIMIT})
  -shell CMD        what runs a command line (sh -c; on Windows cmd /c)
  -log FILE         an audit trail, one JSON object a line
  -filehost HOST    one more host from which ChatGPT's files are downloaded (oaiusercontent.com); repeatable
  -version, -help

Each option is taken with one dash or two. NGROK_AUTHTOKEN in the environment opens a tunnel.

  mycodeinterpreter.py noauth                             for this machine only, asking before each action
  mycodeinterpreter.py me:secret -semisafe -nosafe        not asking, counting down
  mycodeinterpreter.py noauth -shell "bwrap --ro-bind / / --dev /dev --tmpfs /tmp sh -c"
""".format(**globals())


_DEFAULTS = dict(nosafe=False, semisafe=False, host=HOST, port=PORT, url=None, ngrok=[], wait=HOLD)
_DEFAULTS.update(timeout=COMMAND_TIMEOUT, limit=OUTPUT_LIMIT, shell=None, log=None, filehost=[])
_NUMBERS = {"port": (int, 65535), "wait": (float, 10**9), "timeout": (float, 10**9), "limit": (int, 10**18)}


def parse_options(argv):
    """(options, what else was given) of a command line; raises as parse_arguments. By hand, as argparse costs 9 ms."""
    options, words, given = dict(_DEFAULTS), [], iter(argv)
    for word in given:
        name, equals, value = word.lstrip("-").partition("=")
        if word == "--":  # what follows is no option, whatever it looks like
            words += given
        elif not word.startswith("-"):
            words.append(word)
        elif name in ("h", "help", "version") and not equals:
            sys.stdout.write(__version__ + "\n" if name == "version" else HELP)
            raise SystemExit
        elif name not in _DEFAULTS or equals and _DEFAULTS[name] is False:
            raise ValueError("there is no option %s" % word)
        elif _DEFAULTS[name] is False:
            options[name] = True
        else:
            value = value if equals else next(given, "")
            if not value or not equals and re.match("--?[a-z]", value):
                raise ValueError("-%s needs a value; one that begins with a dash follows an equals sign" % name)
            options[name] = options[name] + [value] if isinstance(options[name], list) else value
    for name, (kind, most) in _NUMBERS.items():
        try:
            options[name] = kind(options[name])
        except ValueError:
            options[name] = -1
        if not 0 <= options[name] <= most:
            raise ValueError("-%s must be a number from 0 to %d" % (name, most))
    return types.SimpleNamespace(**options), words


def parse_arguments(argv):
    """The options; raises ValueError where they are wrong, and SystemExit where they ask for a text alone."""
    options, words = parse_options(argv)
    words = words or list(filter(None, [os.environ.get("AUTH_KEY")]))
    if len(words) != 1:
        raise ValueError("give one AUTH, noauth, KEY or USER:KEY; " + HELP.partition("\n")[0])
    user, colon, key = os.fsencode(words[0]).partition(b":")
    options.auth = (None, None) if words[0] == "noauth" else (user, key) if colon else (None, user)
    if options.auth[1] == b"":
        raise ValueError("the KEY in AUTH is empty")
    options.ngrok = ngrok_options(options.ngrok)
    if options.shell is not None:
        import shlex

        options.shell = shlex.split(options.shell)
    if options.shell == []:
        raise ValueError("-shell is empty")
    if options.url is not None and not re.match(r"https?://[A-Za-z0-9.:\[\]-]+/?\Z", options.url):
        raise ValueError("-url must be like https://name.example")
    return options


def announce(server, options):
    """Prints what a person, or a script, needs to go on; warns where strangers may get in."""
    url = server.url or server.local_url()
    lines = ["tunnel created: " + url] if server.url and not options.url else []
    lines += ["OpenAPI schema at %s/openapi.json" % url, "MCP endpoint at %s/mcp" % url]
    if server.key is not None:
        secret_url = "%s/%s" % (url, server.token)
        lines += ["secret URL: " + secret_url]
        lines += ["  %s: %s" % paste for paste in clients(url, secret_url, server.basic)]
    lines += [] if server.url else ["for a public URL set NGROK_AUTHTOKEN, or give -url"]
    lines += ["listening at " + server.local_url()] if options.url else []
    lines += ["to try it open %s/ in a browser; to end it press Ctrl+C" % url]
    try:
        print("\n".join(lines + ["Starting server at " + url]), flush=True)
    except OSError:
        pass  # nobody reads it
    here = not server.url and (options.host in ("localhost", "::1") or options.host.startswith("127."))
    if not here and (server.key is None or options.nosafe):
        who = "ANYBODY WHO FINDS %s" % url if server.key is None else "WHOEVER HAS THE KEY"
        what = "RUNS ANY COMMAND HERE AND NOBODY IS ASKED" if options.nosafe else "CAN ASK YOU TO RUN COMMANDS HERE"
        server.terminal.write("\a\n*** WARNING: %s %s ***\n\n" % (who, what))
    if not options.nosafe and not can_ask():
        server.terminal.write("warning: there is no terminal to ask at, so every action will be denied; see -nosafe\n")


def end_on_signals(server):
    """Lets Ctrl+C cancel a countdown or else end the daemon, as SIGTERM and SIGHUP do; who was to ignore them does."""

    def interrupt(number, _):
        if not server.ending and (number != signal.SIGINT or not server.gate.cancel()):
            server.ending = True
            raise KeyboardInterrupt

    for number in filter(None, (getattr(signal, name, None) for name in ("SIGINT", "SIGTERM", "SIGHUP"))):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, interrupt)


def main():
    """Serves until Ctrl+C or SIGTERM."""
    try:
        options = parse_arguments(sys.argv[1:])
    except ValueError as error:
        sys.stderr.write("error: %s; see -help\n" % error)
        raise SystemExit(2) from None
    authtoken = os.environ.pop("NGROK_AUTHTOKEN", None)  # neither is for the commands' eyes
    os.environ.pop("AUTH_KEY", None)
    try:
        server = Server(options)
    except (OSError, ValueError) as error:
        if isinstance(error, OSError):
            error = "%s: %s" % (error.filename or "%s:%d" % (options.host, options.port), error.strerror or error)
        raise SystemExit("error: %s" % error) from None
    end_on_signals(server)
    status = 1
    try:
        if options.url or authtoken:
            server.publish(options.url or open_tunnel(server, authtoken, options.ngrok))
        threading.Thread(target=str).start()  # before Python 3.9.6 glibc needs a descriptor when the first thread ends
        threading.Thread(target=server.terminal.run, daemon=True).start()
        serving = threading.Thread(target=server.serve_forever, daemon=True)  # here a signal could tear a connection
        serving.start()
        announce(server, options)
        while serving.is_alive():
            time.sleep(1)
    except KeyboardInterrupt:
        status = 0
    except (OSError, RuntimeError, ValueError) as error:
        server.terminal.write("error: %s\n" % error)
    server.ending = True
    server.close()
    os._exit(status)  # threads that still read or write must not delay the end


if __name__ == "__main__":
    main()
