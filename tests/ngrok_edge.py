r"""An ngrok edge on loopback, so that tests can drive the real ngrok SDK without a network.

The SDK (PyPI `ngrok`) is an agent: it dials out to ngrok's cloud, the edge, and the edge sends
public HTTP connections back to it over that one connection. Pointed at this edge it does the same:

    with Edge() as edge:
        ngrok.forward(8000, authtoken="x", server_addr=edge.server_addr, root_cas=edge.root_cas)
        client = http.client.HTTPConnection(*edge.public)
        client.request("GET", "/", headers={"Host": "tests.ngrok.example"})
        ...
        ngrok.disconnect()

The rest of this text is the protocol, from the wire upwards. ngrok publishes no specification: this
is what SDK 1.4.0 and 1.7.0 send and accept.

Frames. The agent makes a TLS connection; both sides send muxado frames over it, each an 8-byte
header, big-endian, and a payload:

    24 bits  length of the payload
     4 bits  type    0 RST     stop this stream; payload: error code, 4 bytes
                     1 DATA    bytes of this stream
                     2 WNDINC  you may send more on this stream; payload: how many bytes, 4 bytes
                     3 GOAWAY  the whole session ends; stream 0
     4 bits  flags   1 FIN     the last frame from me on this stream
                     2 SYN     the first frame on this stream
    32 bits  stream  odd where the agent opened it, even where the edge did

Streams. A session carries many streams at once, each a pair of byte streams like a TCP connection.
No answer is needed to open one, and FIN closes one direction only. Each direction may have 256 KiB
in flight; the reader hands that credit back with WNDINC as it consumes. The agent takes an RST badly:
what reads in it is not told, and what waits for credit is not woken, so that a stream is reset here
by FIN, RST and WNDINC. The first 4 bytes of a stream say what it is for, big-endian:

Requests. The agent opens a stream, writes one JSON object, without FIN, and reads one JSON object
up to FIN. Any request may be answered {"Error": "text\n\nERR_NGROK_105\n"}.

    0 Auth    {"Version": ["3", "2"], "ClientId": "", "Extra": {"AuthToken": ...}}
              {"Version": "3", "ClientId": "c1", "Extra": {}}
    1 Bind    {"Id": "", "Proto": "https", "Opts": {"Hostname": "", "Domain": "", ...}, ...}
              {"Id": "t1", "URL": "https://...", "Proto": "https", "Opts": as asked, "Extra": {"Token": ""}}
    2 Unbind  {"Id": "t1"}
              {}

An agent that lost its session makes a new one by itself, says who it was in ClientId, and binds the
Id it had. It goes on showing the first URL to its program whatever this second Bind answers. It
tries at once and, where it fails, again after 0.05, 2.5, 125 and 6250 seconds.

Heartbeat, 0xFFFFFFFF. The agent opens this stream first, sends 4 bytes every few seconds and wants
the same 4 back.

Proxying, 3. The edge opens a stream for each public connection and writes the length of a JSON
object as a little-endian 64-bit integer, the object, and from there on the bytes of the connection:

    {"Id": "t1", "ClientAddr": "203.0.113.7:5555", "Proto": "https", "EdgeType": "3", "PassthroughTLS": false}

The agent connects to the program's address and copies bytes, changing none. Headers are therefore
the edge's doing: it appends to X-Forwarded-For and X-Forwarded-Proto in every request. That is why
requests are parsed here, as far as their length (RFC 9112, section 6). Answers pass through unread.

What the real edge has and this one has not: TLS and HTTP/2 on the public side, every option that
acts in the cloud (basic_auth, oauth, allow_cidr, request_header_add, traffic_policy ...), tcp, tls
and labeled endpoints, and the commands stop, restart and update.
"""

import asyncio
import itertools
import json
import os
import re
import shutil
import ssl
import struct
import tempfile
import threading

import trustme

RST, DATA, WNDINC, GOAWAY = range(4)  # types of frame
FIN, SYN = 1, 2  # flags of a frame
AUTH, BIND, UNBIND, PROXY, HEARTBEAT = 0, 1, 2, 3, 0xFFFFFFFF  # types of stream
STREAM_RESET = 7  # muxado's error code for a stream that one side gave up
WINDOW = 256 * 1024  # bytes in flight a stream and direction
CHUNK = 64 * 1024  # bytes copied at a time
HEAD_LIMIT = 1024 * 1024  # bytes in a request's head, as the real edge allows
FOREVER = float("inf")  # length of a body that ends with the connection
PATIENCE = 10  # seconds for the edge's own thread to do what it is asked
OFFLINE = (b"HTTP/1.1 404 Not Found\r\nNgrok-Error-Code: ERR_NGROK_3200\r\n"
           b"Connection: close\r\nContent-Length: 0\r\n\r\n")
FIELD = rb"(?im)^%s:[ \t]*(.*?)[ \t]*\r\n"  # a header field of a given name, its value as group 1


def append_field(head, name, value):
    """A request's head with `value` last in the list in the field `name`, as a proxy adds to it."""
    values = re.findall(FIELD % name, head) + [value]
    return re.sub(FIELD % name, b"", head)[:-2] + name + b": " + b", ".join(values) + b"\r\n\r\n"


def body_length(head):
    """How many bytes follow a request's head; None where the body is chunked. The edge hangs up on
    a client that leaves room for two opinions."""
    lengths = re.findall(FIELD % b"Content-Length", head)
    codings = re.findall(FIELD % b"Transfer-Encoding", head)
    if codings:
        if lengths or [coding.lower() for coding in codings] != [b"chunked"]:
            raise ConnectionAbortedError("Transfer-Encoding")
        return None
    if re.search(FIELD % b"Upgrade", head):
        return FOREVER  # a WebSocket, say: no more requests follow
    if len(lengths) > 1 or not all(length.isdigit() for length in lengths):
        raise ConnectionAbortedError("Content-Length")
    return int(lengths[0]) if lengths else 0


class Stream:
    """One stream of a session. What the agent sends waits in `inbox`, at most WINDOW bytes of it."""

    def __init__(self, session, number):
        self.session = session
        self.number = number
        self.inbox = asyncio.StreamReader()
        self.credit = WINDOW  # bytes that the agent has room for
        self.changed = asyncio.Event()  # credit came, or the stream broke
        self.finished = self.ended = self.broken = False  # by our FIN, by the agent's FIN, by RST

    def write(self, kind, flags=0, payload=b""):
        self.session.write(kind, flags, self.number, payload)

    async def read(self):
        """Some bytes, or none at the agent's FIN; gives the agent credit for as many."""
        data = await self.inbox.read(CHUNK)
        if data:
            self.write(WNDINC, 0, struct.pack(">I", len(data)))
        return data

    async def send(self, data, flags=0):
        """Sends all of `data`, waiting for credit where it runs out."""
        while data:
            while not self.credit and not self.broken:
                self.changed.clear()
                await self.changed.wait()
            if self.broken:
                raise ConnectionResetError("the agent reset the stream")
            part, data = data[: self.credit], data[self.credit :]
            self.credit -= len(part)
            self.write(DATA, flags, part)
            flags = 0
            await self.session.drain()

    def finish(self):
        """Sends FIN, once."""
        if not self.finished and not self.broken:
            self.write(DATA, FIN)
        self.finished = True

    def reset(self):
        """Gives the stream up: the agent's reader sees the end of it, the agent's writer an error."""
        self.finish()
        if not self.broken:
            self.write(RST, 0, struct.pack(">I", STREAM_RESET))
            self.write(WNDINC, 0, struct.pack(">I", WINDOW))  # wakes a writer that is out of credit
        self.break_off()

    def break_off(self):
        """Wakes whoever waits on this stream."""
        self.broken = True
        self.changed.set()
        if not self.ended:
            self.inbox.set_exception(ConnectionResetError("the stream is broken"))

    def receive(self, kind, flags, payload):
        """Takes a frame of the agent's."""
        if kind == WNDINC:
            self.credit += struct.unpack(">I", payload)[0]
        elif kind == RST:
            self.broken = True
        elif not self.ended:
            self.inbox.feed_data(payload)
        if kind == RST or flags & FIN:  # an answer sent before the RST is an answer all the same
            self.ended = True
            self.inbox.feed_eof()
        self.changed.set()


class Session:
    """One agent's connection: sorts its frames into streams and answers its requests."""

    def __init__(self, edge, reader, writer):
        self.edge = edge
        self.reader = reader
        self.writer = writer
        self.draining = asyncio.Lock()
        self.streams = {}  # by number
        self.tunnels = []  # ids bound, the newest last
        self.numbers = itertools.count(2, 2)  # of the streams that the edge opens

    async def run(self):
        """Takes frames until the agent goes away."""
        try:
            while True:
                word, number = struct.unpack(">II", await self.reader.readexactly(8))
                length, kind, flags = word >> 8, word >> 4 & 15, word & 15
                payload = await self.reader.readexactly(length)
                if kind == GOAWAY:
                    break
                if flags & SYN:
                    stream = self.streams[number] = Stream(self, number)
                    self.edge.spawn(self.serve(stream))
                if number in self.streams:  # else it crossed our RST on its way
                    self.streams[number].receive(kind, flags, payload)
        except (OSError, asyncio.IncompleteReadError):
            pass  # the connection is gone, which ends a session as GOAWAY does
        finally:
            self.close()

    def close(self):
        """Cuts the connection and every stream on it."""
        self.writer.transport.abort()
        for stream in self.streams.values():
            stream.break_off()

    def write(self, kind, flags, number, payload):
        """Queues a frame."""
        self.writer.write(struct.pack(">II", len(payload) << 8 | kind << 4 | flags, number) + payload)

    async def drain(self):
        """Waits until the queue is short. Under a lock: older asyncio lets only one task wait."""
        async with self.draining:
            await self.writer.drain()

    async def open_proxy(self):
        """A new stream to the newest endpoint, ready for the bytes of a public connection."""
        number = next(self.numbers)
        stream = self.streams[number] = Stream(self, number)
        header = json.dumps({"Id": self.tunnels[-1], "ClientAddr": self.edge.client_addr + ":5555",
                             "Proto": "https", "EdgeType": "3", "PassthroughTLS": False}).encode()
        await stream.send(struct.pack(">I", PROXY) + struct.pack("<q", len(header)) + header, SYN)
        return stream

    async def serve(self, stream):
        """Serves a stream that the agent opened."""
        try:
            purpose = struct.unpack(">I", await stream.inbox.readexactly(4))[0]
            if purpose == HEARTBEAT:
                await self.echo(stream)
            else:
                await self.respond(stream, purpose)
        except (OSError, asyncio.IncompleteReadError):
            pass  # the stream or the session ended
        finally:
            self.streams.pop(stream.number, None)

    async def echo(self, stream):
        data = await stream.read()
        while data:
            await stream.send(data)
            data = await stream.read()

    async def respond(self, stream, purpose):
        """Reads one request, which is complete as soon as it is JSON, and answers it."""
        text, request = b"", None
        while request is None:
            text += await stream.read()
            try:
                request = json.loads(text.decode())
            except ValueError:
                if stream.inbox.at_eof():
                    return
        await asyncio.sleep(self.edge.delay)
        handler = {AUTH: self.auth, BIND: self.bind, UNBIND: self.unbind}.get(purpose, self.refuse)
        await stream.send(json.dumps(handler(request)).encode())
        stream.finish()

    def auth(self, request):
        self.edge.authtokens.append(request["Extra"]["AuthToken"])
        if self.edge.auth_error:
            return {"Error": "%s\n\n%s\n" % self.edge.auth_error}
        return {"Version": "3", "ClientId": request["ClientId"] or self.edge.new_id("c"), "Extra": {}}

    def bind(self, request):
        self.edge.binds.append(request)
        if self.edge.bind_error:
            return {"Error": "%s\n\n%s\n" % self.edge.bind_error}
        if request["Proto"] not in ("http", "https"):
            return self.refuse(request)
        name = request["Opts"]["Hostname"] or request["Opts"].get("Domain")
        self.tunnels.append(request["Id"] or self.edge.new_id("t"))
        return {"Id": self.tunnels[-1], "URL": request["Proto"] + "://" + name if name else self.edge.url,
                "Proto": request["Proto"], "Opts": request["Opts"], "Extra": {"Token": ""}}

    def unbind(self, request):
        if request["Id"] in self.tunnels:  # the SDK unbinds what it closes a second time
            self.tunnels.remove(request["Id"])
        return {}

    def refuse(self, request):
        return {"Error": "this edge serves http and https endpoints only"}


class Relay:
    """One public connection, copied both ways between its client and a stream."""

    def __init__(self, edge, stream, reader, writer):
        self.client_addr = edge.client_addr.encode()
        self.left = FOREVER if edge.cut_after is None else edge.cut_after  # bytes until the cut
        self.stream = stream
        self.reader = reader
        self.writer = writer

    async def run(self):
        halves = [asyncio.ensure_future(half) for half in (self.upward(), self.downward())]
        try:
            await asyncio.gather(*halves)
        except OSError:  # the client hung up or sent nonsense, the agent reset, or the cut is due
            self.stream.reset()
        finally:
            for half in halves:
                half.cancel()
            await asyncio.gather(*halves, return_exceptions=True)
            self.writer.close()

    async def upward(self):
        """Requests: every head with the edge's fields, every body as it is."""
        try:
            while True:
                head = await self.reader.readuntil(b"\r\n\r\n")
                length = body_length(head)
                head = append_field(head, b"X-Forwarded-For", self.client_addr)
                head = append_field(head, b"X-Forwarded-Proto", b"https")
                await self.pass_on(head, self.stream.send)
                await (self.copy_chunks() if length is None else self.copy(length))
        except (asyncio.LimitOverrunError, ValueError):
            raise ConnectionAbortedError("no request, or a head over HEAD_LIMIT") from None
        except asyncio.IncompleteReadError:
            self.stream.finish()  # the client sends no more, be it in the middle of a request
        except OSError:
            if not self.stream.ended:
                raise
            # The program answered without reading the whole request. Were this side closed on a
            # client that still sends, TCP would reset it, and the answer could be lost.
            while await self.reader.read(CHUNK):
                pass

    async def copy(self, length):
        """That many bytes of a request."""
        while length:
            data = await self.reader.read(min(length, CHUNK))
            if not data:
                raise asyncio.IncompleteReadError(b"", length)
            await self.pass_on(data, self.stream.send)
            length -= len(data)

    async def copy_chunks(self):
        """A chunked body: sizes and data until the size is 0, then trailers until an empty line."""
        size = line = None
        while line != b"\r\n":
            line = await self.reader.readuntil(b"\r\n")
            await self.pass_on(line, self.stream.send)
            if size != 0:
                size = int(line.split(b";")[0], 16)
                await self.copy(size + 2 if size else 0)

    async def downward(self):
        """Answers, unread."""
        data = await self.stream.read()
        while data:
            await self.pass_on(data, self.send_down)
            data = await self.stream.read()
        self.writer.write_eof()

    async def send_down(self, data):
        self.writer.write(data)
        await self.writer.drain()

    async def pass_on(self, data, send):
        """Sends `data`, or what of it may pass before the cut."""
        data = data[: min(self.left, len(data))]
        self.left -= len(data)
        await send(data)
        if not self.left:
            raise ConnectionAbortedError("cut_after")


class Edge:
    """An edge on two loopback ports, running in a thread of its own between `with` and its end.

    For the agent: `server_addr` and `root_cas` are the SDK's options of these names.
    For the client: `public` is the (host, port) of the public side, which is plain HTTP here. The
    client sends the public name as Host itself. Without an agent it is answered 404 and
    ERR_NGROK_3200, as ngrok does.

    Seen so far: `authtokens`, one for each Auth; `binds`, each Bind's request as a dict; `online`,
    whether there is an endpoint now.

    To be set at any time:
      url          what a Bind that names no domain is given
      client_addr  the address that clients seem to come from
      auth_error   (text, code) that refuses every Auth, as ("revoked", "ERR_NGROK_107"), or None
      bind_error   (text, code) that refuses every Bind, as ("taken", "ERR_NGROK_334"), or None
      delay        seconds before each request of the agent's is answered
      accepting    False: agents that connect are hung up on
      cut_after    bytes after which a new public connection is cut, both ways counted, or None
    """

    def __init__(self):
        self.url = "https://tests.ngrok.example"
        self.client_addr = "203.0.113.7"
        self.auth_error = self.bind_error = self.cut_after = None
        self.delay = 0
        self.accepting = True
        self.authtokens = []
        self.binds = []
        self.sessions = []  # the newest last
        self.tasks = set()
        self.serial = itertools.count(1)
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, name="ngrok-edge", daemon=True)

    def __enter__(self):
        self.folder = tempfile.mkdtemp(prefix="ngrok-edge-")
        self.root_cas = os.path.join(self.folder, "ca.pem")
        authority = trustme.CA()
        authority.cert_pem.write_to_path(self.root_cas)
        self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("localhost").configure_cert(self.tls)
        self.thread.start()
        self.ask(self.listen())
        return self

    def __exit__(self, *error):
        self.ask(self.shut_down())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(PATIENCE)
        self.loop.close()
        shutil.rmtree(self.folder)

    def drop(self):
        """Cuts every agent off. They reconnect by themselves, sooner or later."""
        self.ask(self.close_sessions())

    @property
    def online(self):
        return any(session.tunnels for session in self.sessions)

    def new_id(self, prefix):
        return prefix + str(next(self.serial))

    def ask(self, coroutine):
        """Has the edge's thread run this, and returns its result."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(PATIENCE)

    def spawn(self, coroutine):
        """Runs this beside the rest, until the edge shuts down at the latest."""
        task = asyncio.ensure_future(coroutine)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def listen(self):
        """Opens both ports. Every connection gets a task."""
        def to_task(serve):
            return lambda reader, writer: self.spawn(serve(reader, writer))
        agents = await asyncio.start_server(to_task(self.serve_agent), "127.0.0.1", 0, ssl=self.tls)
        clients = await asyncio.start_server(to_task(self.serve_client), "127.0.0.1", 0, limit=HEAD_LIMIT)
        self.servers = agents, clients
        self.server_addr = "localhost:%d" % agents.sockets[0].getsockname()[1]
        self.public = clients.sockets[0].getsockname()

    async def shut_down(self):
        for server in self.servers:
            server.close()
        await self.close_sessions()
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    async def close_sessions(self):
        for session in self.sessions:
            session.close()
        self.sessions.clear()

    async def serve_agent(self, reader, writer):
        session = Session(self, reader, writer)
        if not self.accepting:
            session.close()
            return
        self.sessions.append(session)
        await session.run()
        if session in self.sessions:
            self.sessions.remove(session)

    async def serve_client(self, reader, writer):
        bound = [session for session in self.sessions if session.tunnels]
        if not bound:
            writer.write(OFFLINE)
            writer.close()
            return
        stream = await bound[-1].open_proxy()
        try:
            await Relay(self, stream, reader, writer).run()
        finally:
            bound[-1].streams.pop(stream.number, None)
