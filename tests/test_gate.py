"""The operator's gate, from outside: what is asked, what the screen shows, and what an answer does.

Every test types at a real pseudo-terminal. A question starts at column 0 with `OPERATION asked for by CLIENT`, has its
facts behind two spaces and its subject behind four, and ends with PROMPT at column 0.
"""

import contextlib
import http.client
import json
import os
import re
import select
import shutil
import signal
import socket
import struct
import sys
import threading
import time
import unicodedata
from urllib.parse import quote

import pytest
from conftest import Daemon, wait_for

import mycodeinterpreter

PROMPT = "\ny = yes"
ASKED = re.compile(r"^\S+ asked for by .*$", re.M)
ALWAYS = "a = always"
COUNTING = "Ctrl+C"
WITHDRAWN = "withdrawn"
MAX_WAITING = 16
IN_LINE = 0.25  # seconds for a request to join the line, which nothing tells from outside


class Request(threading.Thread):
    """A request under way on a connection of its own."""

    started = []  # all of a test's

    def __init__(self, daemon, method, target, body=None, headers=None):
        super().__init__(daemon=True)
        self._arguments, self._daemon, self._answer = (method, target, body, headers), daemon, None
        self.started.append(self)
        self.start()

    def run(self):
        try:
            self._answer = self._daemon.request(*self._arguments)
        except (OSError, http.client.HTTPException) as error:
            self._answer = error

    def done(self):
        return self._answer is not None

    def answer(self, seconds=20):
        """The Answer, which has to come within some seconds."""
        self.join(seconds)
        assert self.done(), "no answer within %g s" % seconds
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer


def execcmd(daemon, command, **parameters):
    body = json.dumps(dict(parameters, cmd=command))
    return Request(daemon, "POST", "/execcmd", body, {"Content-Type": "application/json"})


def get_file(daemon, filename):
    return Request(daemon, "GET", "/get-file?filename=" + quote(filename))


def send_file(daemon, name, data=b"sent"):
    head = '--b\r\nContent-Disposition: form-data; name="document"; filename="%s"\r\n\r\n' % name
    body = head.encode() + data + b"\r\n--b--\r\n"
    return Request(daemon, "POST", "/send-file", body, {"Content-Type": "multipart/form-data; boundary=b"})


def asked(daemon):
    """Waits for the next question and returns it from its first line to its last."""
    shown = daemon.expect(PROMPT) + daemon.expect(": ")
    return shown[ASKED.search(shown).start() :]


def reply(daemon, text):
    """Answers the next question and returns it."""
    question = asked(daemon)
    daemon.type(text)
    return question


def type_ahead(daemon, text):
    """Types, and waits for the echo: from then on the keys wait in the terminal."""
    daemon.type(text)
    daemon.expect(text)


def subject(question):
    """A question's subject, or what is counted down, as it is shown, without indents and line breaks."""
    return "".join(line[4:] for line in question.split("\n") if line.startswith("    "))


def facts(question):
    """The facts of a question as they are shown, each in one."""
    return [line for line in re.sub(r"\n  \| ", "", question).split("\n") if re.match(r"  \S", line)]


ESCAPE = re.compile(r"\\(?:([\\nrt])|x([0-9a-f]{2})|u([0-9a-f]{4})|U([0-9a-f]{8}))")


def original(shown):
    """The inverse of what the screen does to a text."""
    assert "\\" not in ESCAPE.sub("", shown), "a backslash that escapes nothing"

    def char(match):
        short, digits = match.group(1), match.group(2) or match.group(3) or match.group(4)
        return chr(int(digits, 16)) if digits else {"\\": "\\", "n": "\n", "r": "\r", "t": "\t"}[short]

    return ESCAPE.sub(char, shown)


def hidden_count(shown):
    return len([escape for escape in ESCAPE.finditer(shown) if escape.group() != "\\\\"])


def names(daemon):
    """What lies in the working directory."""
    return sorted(os.listdir(str(daemon.directory)))


@pytest.fixture(scope="module")
def one_daemon(tmp_path_factory):
    directory = tmp_path_factory.mktemp("asking") / "work"
    directory.mkdir()
    daemon = Daemon(["noauth", "-port", "0"], directory, tty=True).ready()
    yield daemon
    daemon.close()


@pytest.fixture
def asking(one_daemon):
    """A daemon in safe mode, started once. What a failed test left open is denied, the directory emptied."""
    yield one_daemon
    while Request.started:
        request = Request.started.pop()
        while not request.done():
            one_daemon.type("n\n")
            one_daemon.read_screen(0.1)
    one_daemon.screen = ""
    for path in one_daemon.directory.iterdir():
        shutil.rmtree(str(path)) if path.is_dir() and not path.is_symlink() else path.unlink()


# Who is asked, and what an answer does


MODES = [
    # options, whether it asks, whether it counts down
    ([], True, False),
    (["-semisafe"], True, True),
    (["-nosafe"], False, False),
    (["-nosafe", "-semisafe"], False, True),
]


@pytest.mark.parametrize("options, asks, counts", MODES)
def test_a_mode_asks_and_counts_down_as_told(start, options, asks, counts):
    daemon = start("noauth", *options, tty=True)
    request, seen, began = execcmd(daemon, "touch ran; echo done"), "", time.monotonic()
    if asks:
        seen += asked(daemon)
        assert names(daemon) == [] and COUNTING not in seen
        began = time.monotonic()
        daemon.type("y\n")
    if counts:
        seen += daemon.expect(COUNTING)
        assert names(daemon) == []
    answer = request.answer()
    assert (answer.status, answer.body, names(daemon)) == (200, b"done\n", ["ran"])
    assert not counts or time.monotonic() - began >= 1.9
    daemon.stop()
    seen += daemon.errors()
    assert (len(ASKED.findall(seen)), seen.count(COUNTING)) == (asks or counts, counts)


@pytest.mark.parametrize("request_one", [get_file, send_file])
@pytest.mark.parametrize("options", [[], ["-nosafe", "-semisafe"]], ids=["asked", "counted"])
def test_files_pass_the_same_gate(start, request_one, options):
    daemon = start("noauth", *options, tty=True)
    (daemon.directory / "f").write_text("here")
    request = request_one(daemon, "f")
    if options:
        daemon.expect(COUNTING)
        daemon.type("\x03")
    else:
        reply(daemon, "n\n")
    assert request.answer().status == 403
    assert (daemon.directory / "f").read_text() == "here" and names(daemon) == ["f"]


@pytest.mark.parametrize("typed", ["y\n", "Y\n"])
def test_y_runs_it(asking, typed):
    request = execcmd(asking, "echo it ran")
    reply(asking, typed)
    answer = request.answer()
    assert (answer.status, answer.body) == (200, b"it ran\n")


DENIALS = [
    "n\n",
    "N\n",
    "\n",
    "yes\n",
    "Yes\n",
    "yy\n",
    "y y\n",
    "y because it is fine\n",
    "ok\n",
    "1\n",
    "garbage \\ y\n",
    "always\n",
    "a y\n",
    "\u0443\n",  # Cyrillic
    "\uff59\n",  # fullwidth
    "\udcff\n",  # the byte FF, which is no UTF-8
    "\x04",  # Ctrl+D: end of input
    "y\x04",  # and of a line without its end
]


@pytest.mark.parametrize("typed", DENIALS, ids=ascii)
def test_anything_else_denies_it(asking, typed):
    request = execcmd(asking, "touch denied")
    reply(asking, typed)
    answer = request.answer()
    assert (answer.status, answer.body) == (403, b"denied by the operator\n")
    assert names(asking) == []


@pytest.mark.parametrize("typed", ["n use the other disk\n", "N use the other disk\n", "n   use the other disk  \n"])
def test_a_reason_goes_back_to_who_asked(asking, typed):
    request = execcmd(asking, "touch denied")
    reply(asking, typed)
    answer = request.answer()
    assert answer.status == 403 and b"use the other disk" in answer.body and b"disk  " not in answer.body


def test_a_reason_may_be_in_any_language(asking):
    request = execcmd(asking, "touch denied")
    reply(asking, "n lieber sp\u00e4ter, \u5f8c\u3067\n")
    assert "lieber sp\u00e4ter, \u5f8c\u3067" in request.answer().body.decode("utf-8")


def test_without_a_terminal_everything_is_denied(start):
    daemon = start("noauth")
    (daemon.directory / "f").write_text("here")
    for request in (execcmd(daemon, "touch ran"), get_file(daemon, "f"), send_file(daemon, "g")):
        assert request.answer().status == 403
    assert names(daemon) == ["f"]


def test_a_pipe_of_yes_is_no_terminal(start, tmp_path):
    piped = tmp_path / "piped.py"
    piped.write_text(
        "import os, sys\nr, w = os.pipe()\nos.write(w, b'y\\n' * 100)\nos.dup2(r, 0)\n"
        "os.execv(sys.executable, [sys.executable, %r] + sys.argv[1:])\n" % mycodeinterpreter.__file__
    )
    daemon = start("noauth", program=piped)
    assert execcmd(daemon, "touch ran").answer().status == 403
    assert names(daemon) == []


# One at a time


def test_one_answer_is_for_one_action(asking):
    requests = {name: execcmd(asking, "touch " + name) for name in ("one", "two")}
    first = subject(reply(asking, "y\n")).split()[1]
    second = subject(asked(asking)).split()[1]
    assert {first, second} == {"one", "two"}
    assert requests[first].answer().status == 200
    assert names(asking) == [first] and not requests[second].done()
    asking.type("n\n")
    assert requests[second].answer().status == 403
    assert names(asking) == [first]


def test_questions_come_one_at_a_time_in_order_of_arrival(asking):
    requests = []
    for number in range(3):
        requests.append(execcmd(asking, "echo %d" % number))
        time.sleep(IN_LINE)
    for number, request in enumerate(requests):
        question = asked(asking)
        assert subject(question) == "echo %d" % number and len(ASKED.findall(question)) == 1
        asking.read_screen(0)
        assert not ASKED.search(asking.screen), "a second question beside an open one"
        asking.type("y\n")
        assert request.answer().body == b"%d\n" % number


@pytest.mark.parametrize("ahead, then", [("y\n", "n\n"), ("y", "\n"), ("y\ny\n", "\n")], ids=ascii)
def test_a_yes_typed_before_the_request_approves_nothing(asking, ahead, then):
    type_ahead(asking, ahead)
    request = execcmd(asking, "touch ran")
    reply(asking, then)
    assert request.answer().status == 403
    assert names(asking) == []


def test_a_yes_typed_between_two_questions_approves_nothing(asking):
    requests = [execcmd(asking, "touch %d" % number) for number in range(2)]
    first = int(subject(reply(asking, "y\ny\ny\n")).split()[1])
    assert requests[first].answer().status == 200
    reply(asking, "n\n")
    assert requests[1 - first].answer().status == 403
    assert names(asking) == [str(first)]


def test_a_yes_typed_while_the_question_is_still_being_drawn_approves_nothing(start):
    """A question longer than the terminal takes at once is not read before its end has been shown."""
    daemon = start("noauth", tty=True)
    request = execcmd(daemon, "touch ran #" + "x" * 60000)
    wait_for(lambda: select.select([daemon.master], [], [], 0)[0], what="the question's beginning")
    daemon.type("y\n")
    reply(daemon, "n\n")
    assert request.answer().status == 403
    assert names(daemon) == []


# Late, stale, withdrawn


@pytest.mark.parametrize("before, after", [("", "y\n"), ("y", "\n")], ids=["late", "half typed"])
def test_a_late_yes_runs_nothing_and_answers_nothing_else(start, before, after):
    daemon = start("noauth", "-wait", "1", tty=True)
    late = execcmd(daemon, "touch late")
    asked(daemon)
    daemon.type(before)
    answer = late.answer()
    assert answer.status == 408 and names(daemon) == []
    daemon.expect(WITHDRAWN)
    if not before:
        type_ahead(daemon, after)
    following = execcmd(daemon, "touch following", wait=30)
    asked(daemon)
    daemon.type(after if before else "n\n")
    assert following.answer().status == 403
    assert names(daemon) == []


def hang_up(sock, reset):
    if reset:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


HEAD = "POST /execcmd?cmd=touch%%20gone HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
@pytest.mark.parametrize("length, sent", [(0, 0), (1 << 21, (1 << 20) + 5000)], ids=["no body", "unread body"])
def test_a_client_that_hangs_up_withdraws_its_question(asking, length, sent, reset):
    sock = asking.connect()
    sock.sendall((HEAD % length).encode() + b"x" * sent)
    asked(asking)
    hang_up(sock, reset)
    asking.expect(WITHDRAWN)
    type_ahead(asking, "y\n")
    following = execcmd(asking, "touch following")
    reply(asking, "n\n")
    assert following.answer().status == 403
    assert names(asking) == []


def test_an_upload_whose_client_hangs_up_is_withdrawn(asking):
    with asking.connect() as sock:
        sock.sendall(
            b"POST /send-file HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=b\r\n"
            b"Content-Length: 100000\r\n\r\n--b\r\nContent-Disposition: form-data; name=a; filename=f\r\n\r\nbegun"
        )
        asked(asking)
    asking.expect(WITHDRAWN)
    type_ahead(asking, "y\n")
    following = execcmd(asking, "touch following")
    reply(asking, "n\n")
    assert following.answer().status == 403
    assert names(asking) == []


def test_who_hung_up_in_the_line_is_never_asked_for(asking):
    first = execcmd(asking, "echo first")
    asked(asking)
    gone = asking.connect()
    gone.sendall((HEAD % 0).encode())
    time.sleep(IN_LINE)
    last = execcmd(asking, "echo last")
    gone.close()
    time.sleep(IN_LINE)
    asking.type("n\n")
    assert first.answer().status == 403
    assert subject(reply(asking, "y\n")) == "echo last"
    assert last.answer().body == b"last\n"


def test_whose_time_is_up_in_the_line_is_told_while_another_is_on_the_screen(start):
    daemon = start("noauth", "-wait", "1", tty=True)
    first = execcmd(daemon, "echo first", wait=30)
    asked(daemon)
    waiting = execcmd(daemon, "touch waited")
    assert waiting.answer().status == 408
    assert not first.done()
    daemon.type("y\n")
    assert first.answer().body == b"first\n"
    last = execcmd(daemon, "echo last", wait=30)
    assert subject(reply(daemon, "y\n")) == "echo last"
    assert last.answer().status == 200 and names(daemon) == []


def test_more_than_sixteen_waiting_are_sent_away(start):
    daemon = start("noauth", tty=True)
    requests = [execcmd(daemon, "touch %d" % number) for number in range(MAX_WAITING + 3)]
    done = wait_for(lambda: [r for r in requests if r.done()][2:] and [r for r in requests if r.done()])
    assert len(done) == 3
    for request in done:
        answer = request.answer()
        assert answer.status == 429 and int(answer.headers["Retry-After"]) > 0
    reply(daemon, "n\n")  # which makes room for one, and one only
    wait_for(lambda: len([r for r in requests if r.done()]) == 4, what="the denied one's answer")
    asked(daemon)
    requests += [execcmd(daemon, "touch more%d" % number) for number in range(2)]
    wait_for(lambda: len([r for r in requests if r.done()]) == 5, what="one more to be sent away")
    assert sorted(r.answer().status for r in requests if r.done()) == [403, 429, 429, 429, 429]
    assert names(daemon) == []


def test_who_hung_up_in_the_line_makes_room(start):
    daemon = start("noauth", tty=True)
    execcmd(daemon, "echo first")
    asked(daemon)
    waiting = [daemon.connect() for _ in range(MAX_WAITING - 1)]
    for sock in waiting:
        sock.sendall((HEAD % 0).encode())

    def enters():
        request = execcmd(daemon, "echo more")
        request.join(IN_LINE)
        return not request.done()

    wait_for(lambda: not enters(), what="a full line")
    for sock in waiting:
        sock.close()
    wait_for(enters, what="room in the line")


# Always


def test_always_allows_identical_repeats_only(start):
    daemon = start("noauth", tty=True)
    request = execcmd(daemon, "cat; echo one", stdin="in ")
    assert ALWAYS in reply(daemon, "a\n")
    assert request.answer().body == b"in one\n"
    for _ in range(3):  # nobody types
        assert execcmd(daemon, "cat; echo one", stdin="in ").answer().body == b"in one\n"
    others = [("cat; echo one ", "in "), ("cat; echo onE", "in "), ("cat; echo one\n", "in "), ("cat; echo one", "in"),
              ("cat; echo one", "iN "), ("cat; echo one", ""), ("cat; echo onein", " ")]  # fmt: skip
    for command, stdin in others:
        request = execcmd(daemon, command, stdin=stdin)
        reply(daemon, "n\n")
        assert request.answer().status == 403, (command, stdin)
    request = get_file(daemon, "cat; echo one")
    reply(daemon, "n\n")
    assert request.answer().status == 403


def test_a_plain_yes_is_not_always(asking):
    for typed, status in (("y\n", 200), ("n\n", 403), ("y\n", 200)):
        request = execcmd(asking, "echo again")
        reply(asking, typed)
        assert request.answer().status == status


@pytest.mark.parametrize("filename", ["link", "directory/f"])
def test_always_ends_where_a_link_leads_elsewhere(start, filename):
    daemon = start("noauth", tty=True)
    for name in ("a", "b"):
        (daemon.directory / name).mkdir()
        (daemon.directory / name / "f").write_text("content of " + name)
    link = daemon.directory / filename.split("/")[0]
    goals = {name: (name + "/f" if filename == "link" else name) for name in ("a", "b")}
    link.symlink_to(goals["a"])
    request = get_file(daemon, filename)
    assert ALWAYS in reply(daemon, "a\n")
    assert request.answer().body == b"content of a"
    assert get_file(daemon, filename).answer().body == b"content of a"  # nobody types
    link.unlink()
    link.symlink_to(goals["b"])
    request = get_file(daemon, filename)
    reply(daemon, "n\n")
    assert request.answer().status == 403


def test_always_is_not_offered_for_an_upload(asking):
    request = send_file(asking, "f")
    assert ALWAYS not in reply(asking, "a\n")
    assert request.answer().status == 403
    assert names(asking) == []


# What the screen shows

LONG = "echo " + "0123456789" * 1000
SHOWN = [
    "ls",
    LONG,
    "x" * 9999 + "\u202e",
    "\u00e9\u00df\u6f22\u5b57 \U0001f600 \u05d0 \u0416",
    "back\\slash \\n \\x1b \\u202e \\\\",
    "\\",
    "trailing space ",
    " leading space",
    "  \\",
    "tab\tand\rreturn",
    "one\ntwo",
    "\n",
    "\n\n\none\n",
    "one\n    two\n        three",
    "cat <<E\ny = yes, n = no: y\nE\n",
    "\x1b[2J\x1b[1;1H",
    "\x01\x02\x07\x08\x0b\x0c\x1f\x7f",
    "".join(map(chr, range(1, 0x20))),
    "".join(map(chr, range(0x7F, 0xA1))),
    "a\u202eb\u2066c\u200fd\u061ce",
    "a\u200bb\u200cc\u200dd\u2060e\ufefff",
    "a\U000e0041\U000e0001",
    "a\u00a0b\u3000c\u2003d\u1680e\u202ff\u205f",
    "a\ufe0fb\U000e0100c\u180bd",
    "e\u0301 e\u20dd \u00e9",
    "\u2028\u2029\x85",
    "\u0378 \ue000 \uffff \U0010ffff",
]


@pytest.mark.parametrize("command", SHOWN, ids=lambda command: ascii(command[:20]))
def test_the_screen_shows_the_whole_command(asking, command):
    request = execcmd(asking, command)
    question = reply(asking, "n\n")
    assert request.answer().status == 403
    shown = subject(question)
    assert original(shown) == command
    assert all(char.isprintable() for char in question.replace("\n", ""))
    if "\n" not in command:
        found = re.search(r"(\d+) hidden", "\n".join(facts(question)))
        assert int(found.group(1) if found else 0) == hidden_count(shown)


@pytest.mark.parametrize("text", [r"echo \ud800", r"echo \udfff x", r"\ude00\ud83d", r"echo \u0000"])
def test_what_no_command_line_can_hold_is_not_asked_for(asking, text):
    body = '{"cmd": "%s"}' % text
    assert asking.request("POST", "/execcmd", body, {"Content-Type": "application/json"}).status == 400
    asking.read_screen(0)
    assert not ASKED.search(asking.screen)


# By code point, as they are invisible here: C0, C1, soft hyphen, spaces, bidirectional, zero-width, joiners, invisible
# operators, fillers that are blank, variation selectors, combining marks, Hangul vowels and finals (which have no width
# of their own), interlinear and musical format characters, tags, unassigned, private, noncharacters, surrogates.
HIDDEN = [  # fmt: skip
    0x0, 0x1, 0x7, 0x8, 0x9, 0xA, 0xB, 0xC, 0xD, 0xE, 0x1B, 0x1F, 0x7F, 0x80, 0x85, 0x90, 0x9B, 0x9F, 0xAD, 0xA0,
    0x1680, 0x2000, 0x2003, 0x200A, 0x202F, 0x205F, 0x3000, 0x202A, 0x202B, 0x202C, 0x202D, 0x202E, 0x2066, 0x2067,
    0x2068, 0x2069, 0x200E, 0x200F, 0x61C, 0x200B, 0x200C, 0x200D, 0x2060, 0xFEFF, 0x180E, 0x2061, 0x2062, 0x2063,
    0x2064, 0x2065, 0x206A, 0x206F, 0x115F, 0x1160, 0x2800, 0x3164, 0xFFA0, 0x1D159, 0xFE00, 0xFE0E, 0xFE0F, 0xE0100,
    0xE01EF, 0x180B, 0x300, 0x301, 0x34F, 0x20DD, 0x20E3, 0x17B4, 0x17B5, 0x16FE4, 0x1161, 0x11A8, 0xD7B0, 0xFFF9,
    0xFFFB, 0x1D173, 0xE0001, 0xE0020, 0xE0041, 0xE007F, 0x378, 0xE000, 0xF0000, 0x10FFFD, 0xFDD0, 0xFFFF, 0x10FFFF,
    0x2028, 0x2029, 0xD800, 0xDFFF,
]


@pytest.mark.parametrize("code", HIDDEN, ids="{:04X}".format)
def test_what_does_not_show_as_itself_is_escaped_and_counted(code):
    char = chr(code)
    shown, hidden = mycodeinterpreter.visible("a%sb%s" % (char, char))
    assert char not in shown and hidden == 2
    assert original(shown) == "a%sb%s" % (char, char)


def test_what_shows_as_itself_stays():
    for text in ("ls -l 'a b' | wc \"$x\" `y` ~!@#%^&*()[]{}<>?;:,.", "\u00e9\u6f22\uac00\U0001f600\u0416\u05d0"):
        assert mycodeinterpreter.visible(text) == (text, 0)


def test_every_character_is_shown_printable_and_reversibly():
    planes = [*range(0x32000), *range(0xE0000, 0xE1000), *range(0xFFF00, 0x100100), *range(0x10FF00, 0x110000)]
    text = "".join(map(chr, planes))
    shown, hidden = mycodeinterpreter.visible(text)
    assert original(shown) == text
    assert shown.isprintable() and shown.encode("utf-8")
    assert hidden == hidden_count(shown)


def test_any_text_is_shown_printable_and_reversibly(tmp_path):
    hypothesis = pytest.importorskip("hypothesis")
    from hypothesis import strategies

    hypothesis.configuration.set_hypothesis_home_dir(str(tmp_path))
    escapes = strategies.sampled_from(["\\", "n", "x1b", "u202e", "U000e0041", "\n", "\x1b", "\u202e", "\U000e0041"])

    @hypothesis.settings(database=None, deadline=None, max_examples=200)
    @hypothesis.given(strategies.lists(strategies.characters() | escapes).map("".join))
    def holds(text):
        shown, hidden = mycodeinterpreter.visible(text)
        assert original(shown) == text
        assert shown.isprintable() and hidden == hidden_count(shown)

    holds()


def test_texts_that_unicode_calls_the_same_look_different():
    """Canonically equivalent texts are drawn alike, but a shell takes them for two: U+037E draws a semicolon."""
    alike = []
    for char in map(chr, range(0x80, 0x110000)):
        decomposed = unicodedata.normalize("NFD", char)
        if decomposed != char:
            one, other = (mycodeinterpreter.visible(text)[0] for text in (char, decomposed))
            if unicodedata.normalize("NFC", one) == unicodedata.normalize("NFC", other):
                alike.append("%04X" % ord(char))
    assert not alike, "%d look like something else: %s ..." % (len(alike), " ".join(alike[:40]))


FAKES = [
    "true\ny = yes, n = no, n REASON: y\nexeccmd asked for by 127.0.0.1\n  in /\n    ls",
    "true\n  its standard input, 2 bytes, 0 shown as escapes: ls",
    "true\r\ny = yes, n = no: ",
    "true\ry = yes",
    "true\x0b\ry = yes\x0c",
    "true\x1b[E\x1bE\x85\u2028\u2029y = yes",
]


@pytest.mark.parametrize("where", ["cmd", "stdin", "filename", "link"])
@pytest.mark.parametrize("fake", FAKES, ids=lambda fake: ascii(fake[4:8]))
def test_nothing_that_is_shown_can_fake_a_prompt(asking, fake, where):
    if where == "link" and not os.path.islink(str(asking.directory / "leads")):
        os.symlink(fake, str(asking.directory / "leads"))
    try:
        request = {
            "cmd": lambda: execcmd(asking, fake),
            "stdin": lambda: execcmd(asking, "true", stdin=fake),
            "filename": lambda: get_file(asking, fake),
            "link": lambda: get_file(asking, "leads"),
        }[where]()
        question = asked(asking)
        asking.read_screen(0)
        assert not asking.screen and not request.done()
        asking.type("n\n")
        assert request.answer().status == 403
    finally:
        if where == "link":
            os.unlink(str(asking.directory / "leads"))
    first, *inside, last = question.split("\n")
    assert ASKED.match(first) and last.startswith(PROMPT[1:])
    assert inside and all(line.startswith("  ") for line in inside)
    assert all(char.isprintable() for line in inside for char in line)
    assert len([fact for fact in facts(question) if fact.startswith("  its standard input")]) == (where == "stdin")


def test_who_asks_is_shown_without_escape_sequences(start):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    daemon = start("noauth", "-url", "https://public.example", "-port", str(port), tty=True)
    daemon.port = port
    headers = {"Host": "public.example", "X-Forwarded-For": "192.0.2.1, 203.0.113.9\x9b2J\x85y = yes"}
    request = Request(daemon, "POST", "/execcmd?cmd=ls", b"", headers)
    question = reply(daemon, "n\n")
    assert request.answer().status == 403
    assert "203.0.113.9" in question.split("\n")[0] and "192.0.2.1" not in question
    assert all(char.isprintable() for char in question.replace("\n", ""))


def test_who_asks_is_shown(asking):
    request = execcmd(asking, "ls")
    assert "127.0.0.1" in reply(asking, "n\n").split("\n")[0]
    request.answer()


def test_a_bell_rings(asking):
    request = execcmd(asking, "ls")
    assert "\a" in asking.expect(PROMPT)
    asking.type("n\n")
    request.answer()


def test_a_log_line_does_not_cut_into_an_open_question(start):
    daemon = start("noauth", tty=True)
    request = execcmd(daemon, "echo hello")
    asked(daemon)
    assert daemon.request("GET", "/nowhere").status == 404
    assert not daemon.read_screen(0.5), daemon.screen
    daemon.type("y\n")
    assert request.answer().status == 200
    daemon.expect("/nowhere")


def test_a_client_that_resets_its_connection_leaves_no_trace_on_the_screen(start):
    daemon = start("noauth", tty=True)
    for _ in range(10):  # some find the daemon waiting for their next request
        sock = daemon.connect()
        sock.sendall(b"GET /nowhere HTTP/1.1\r\nHost: localhost\r\n\r\n")
        sock.recv(65536)
        hang_up(sock, reset=True)
    request = execcmd(daemon, "ls")
    reply(daemon, "n\n")
    assert request.answer().status == 403
    daemon.stop()
    daemon.errors()
    assert "Traceback" not in daemon.history and "Errno" not in daemon.history


# Files and standard input: the facts


def test_a_file_is_shown_with_its_absolute_path_and_size(asking):
    (asking.directory / "f").write_text("x" * 12345)
    for filename in ("f", str(asking.directory / "f")):
        request = get_file(asking, filename)
        question = reply(asking, "y\n")
        assert subject(question) == os.path.realpath(str(asking.directory / "f"))
        assert re.search(r"\b12345 bytes", question)
        assert len(request.answer().body) == 12345


def test_a_file_is_shown_with_where_its_link_leads(asking):
    (asking.directory / "f").write_text("here")
    (asking.directory / "link").symlink_to("f")
    (asking.directory / "directory").symlink_to(".")
    goal = os.path.realpath(str(asking.directory / "f"))
    for filename in ("link", "directory/f", "directory/link"):
        request = get_file(asking, filename)
        question = reply(asking, "y\n")
        assert subject(question).endswith("/work/" + filename)
        assert any("link" in fact and fact.endswith(goal) for fact in facts(question))
        assert request.answer().body == b"here"


@pytest.mark.parametrize("typed, status", [("n\n", 403), ("y\n", 404)])
def test_whether_a_file_exists_is_told_after_the_approval(asking, typed, status):
    request = get_file(asking, "missing")
    reply(asking, typed)
    assert request.answer().status == status


def prepare(target, kind):
    """Puts something in the way of an upload."""
    if kind == "file":
        target.write_text("x" * 321)
    elif kind == "link":
        (target.parent / "goal").write_text("the goal")
        target.symlink_to("goal")


@pytest.mark.parametrize(
    "kind, fact", [("nothing", r"\bnew\b"), ("file", r"(?i)overwr.*\b321 bytes"), ("link", r"link\b.*\bgoal")]
)
@pytest.mark.parametrize("typed, status", [("y\n", 200), ("n\n", 403)])
def test_an_upload_is_shown_with_what_is_in_its_way(asking, kind, fact, typed, status):
    target = asking.directory / "f"
    prepare(target, kind)
    before = names(asking)
    request = send_file(asking, "f", b"sent" * 1000)
    question = asked(asking)
    assert subject(question) == os.path.realpath(str(asking.directory)) + "/f"
    assert re.search(fact, "\n".join(facts(question))) and ("new" in question) == (kind == "nothing")
    assert re.search(r"\b4\d\d\d bytes at most", question)
    assert names(asking) == before
    asking.type(typed)
    assert request.answer().status == status
    if status == 200:
        assert not target.is_symlink() and target.read_bytes() == b"sent" * 1000
        assert set(names(asking)) == set(before) | {"f"}
    else:
        assert names(asking) == before and target.is_symlink() == (kind == "link")
        assert kind == "nothing" or target.read_text() == {"file": "x" * 321, "link": "the goal"}[kind]
    assert kind != "link" or (asking.directory / "goal").read_text() == "the goal"


def test_standard_input_is_shown(asking):
    stdin = "rm -r /\n\x1b[2J\u202e" + "x" * 50000 + "\\ its end"
    request = execcmd(asking, "wc -c", stdin=stdin)
    question = reply(asking, "y\n")
    assert request.answer().body.split() == [b"%d" % len(stdin.encode())]
    fact = next(fact for fact in facts(question) if "standard input" in fact)
    assert original(fact).endswith(stdin) and re.search(r"\b%d bytes" % len(stdin.encode()), fact)


def test_standard_input_that_is_no_text_is_shown(asking):
    data = b"\x00\xff\x80a\xc3"
    request = Request(asking, "POST", "/execcmd?cmd=cat", data, {"Content-Type": "application/octet-stream"})
    question = reply(asking, "y\n")
    assert request.answer().body == data
    fact = next(fact for fact in facts(question) if "standard input" in fact)
    assert original(fact).encode("utf-8", "surrogateescape").endswith(data)


@pytest.mark.parametrize("typed, status", [("y\n", 200), ("a\n", 403)])
def test_standard_input_too_long_to_show_is_announced(asking, typed, status):
    data = b"x" * 3000000
    request = Request(asking, "POST", "/execcmd?cmd=wc%20-c", data, {"Content-Type": "application/octet-stream"})
    question = reply(asking, typed)
    assert "NOT SHOWN" in question and ALWAYS not in question
    answer = request.answer()
    assert answer.status == status
    assert status != 200 or answer.body.split() == [b"3000000"]


# What is shown is what runs


def replace(target, text):
    """Puts another file in a file's place."""
    other = target.parent / "other"
    other.write_text(text)
    os.replace(str(other), str(target))


def relink(target):
    target.unlink()
    target.symlink_to("elsewhere")


@pytest.mark.parametrize("kind", ["file", "link"])
@pytest.mark.parametrize("meanwhile", ["replaced", "relinked", "removed"])
def test_the_file_that_was_shown_is_sent(asking, kind, meanwhile):
    shown, target = asking.directory / "shown", asking.directory / "f"
    (asking.directory / "elsewhere").write_text("a secret elsewhere")
    if kind == "link":
        shown.write_text("what was shown")
        target.symlink_to("shown")
    else:
        target.write_text("what was shown")
    request = get_file(asking, "f")
    asked(asking)
    if meanwhile == "replaced":
        replace(target, "a secret put there")
    elif meanwhile == "relinked":
        relink(target)
    else:
        target.unlink()
    asking.type("y\n")
    answer = request.answer()
    assert (answer.status, answer.body) == (200, b"what was shown")


@pytest.mark.parametrize("kind", ["link", "file"])
def test_what_flickers_is_sent_as_it_is_shown(asking, kind):
    """The facts on the screen and the file that was opened are one, also where it changes between two looks at it."""
    path, other, stop = str(asking.directory / "f"), str(asking.directory / "other"), threading.Event()
    for name in ("good", "evil"):
        (asking.directory / name).write_text(name)
    good = str(asking.directory / "good")
    put_good = os.symlink if kind == "link" else os.link
    put_good(good, path)

    def flicker():
        while not stop.is_set():
            for put, goal in ((os.symlink, "evil"), (put_good, good)):
                put(goal, other)
                os.replace(other, path)

    thread = threading.Thread(target=flicker, daemon=True)
    thread.start()
    try:
        for _ in range(60):
            request = get_file(asking, "f")
            question = reply(asking, "y\n")
            answer = request.answer()
            if answer.status == 200:
                leads_to_evil = any(fact.endswith("/evil") for fact in facts(question))
                assert answer.body == (b"evil" if leads_to_evil else b"good")
    finally:
        stop.set()
        thread.join()


def rewrite_in_its_size(target):
    size = target.stat().st_size
    time.sleep(0.02)  # a tick of the clock of the file system
    target.write_text("z" * size)


def replace_by_its_like(target):
    before, other = target.stat(), target.with_name("like")
    other.write_text("z" * before.st_size)
    os.utime(str(other), ns=(before.st_atime_ns, before.st_mtime_ns))
    os.replace(str(other), str(target))


CHANGES = {
    "nothing to a file": ("nothing", lambda target: target.write_text("meanwhile")),
    "nothing to a link": ("nothing", lambda target: target.symlink_to("goal")),
    "a file rewritten": ("file", lambda target: target.write_text("meanwhile")),
    "a file replaced by one of its size": ("file", lambda target: replace(target, "y" * 321)),
    "a file rewritten in its size": ("file", rewrite_in_its_size),
    "a file replaced by one of its size and time": ("file", replace_by_its_like),
    "a file removed": ("file", lambda target: target.unlink()),
    "a file to a link": ("file", relink),
    "a link pointed elsewhere": ("link", relink),
    "a link removed": ("link", lambda target: target.unlink()),
}


def state(target):
    return os.readlink(str(target)) if target.is_symlink() else target.read_text() if target.exists() else None


@pytest.mark.parametrize("change", sorted(CHANGES))
def test_an_upload_whose_target_changed_meanwhile_is_refused(asking, change):
    target = asking.directory / "f"
    kind, act = CHANGES[change]
    prepare(target, kind)
    request = send_file(asking, "f")
    asked(asking)
    act(target)
    changed, there = state(target), names(asking)
    asking.type("y\n")
    assert request.answer().status == 403
    assert (state(target), names(asking)) == (changed, there)


def test_an_upload_whose_target_changed_after_the_yes_is_refused(asking):
    target, tail = asking.directory / "f", b"its rest\r\n--b--\r\n"
    with asking.connect() as sock:
        head = b"--b\r\nContent-Disposition: form-data; name=a; filename=f\r\n\r\nbegun"
        sock.sendall(
            b"POST /send-file HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=b\r\n"
            b"Content-Length: %d\r\n\r\n%s" % (len(head + tail), head)
        )
        reply(asking, "y\n")
        wait_for(lambda: names(asking), what="the upload's temporary file")
        target.write_text("meanwhile")
        sock.sendall(tail)
        assert sock.recv(65536).startswith(b"HTTP/1.1 403 ")
    assert target.read_text() == "meanwhile"
    wait_for(lambda: names(asking) == ["f"], what="the temporary file's end")


SWAPS = {
    "another file": lambda path: replace(path, "another"),
    "a link": lambda path: (path.unlink(), path.symlink_to("elsewhere")),
    "a pipe": lambda path: (path.unlink(), os.mkfifo(str(path))),
}


@pytest.mark.parametrize("swap", sorted(SWAPS))
def test_what_is_put_in_a_files_place_while_it_is_looked_at_is_not_opened(tmp_path, monkeypatch, swap):
    path, real = tmp_path / "f", os.path.realpath
    (tmp_path / "elsewhere").write_text("secret")
    path.write_text("f")

    def swapping(name):
        found = real(name)
        SWAPS[swap](path)
        return found

    monkeypatch.setattr(os.path, "realpath", swapping)
    with pytest.raises(mycodeinterpreter.HTTPError) as raised:
        mycodeinterpreter.opened(str(path))  # and never waits for a writer
    assert raised.value.status == 404


def test_the_size_that_is_shown_is_that_of_the_opened_file(tmp_path, monkeypatch):
    path, real = tmp_path / "f", os.path.realpath
    path.write_text("f")
    monkeypatch.setattr(os.path, "realpath", lambda name: (path.write_text("longer"), real(name))[1])
    file, status, _ = mycodeinterpreter.opened(str(path))
    with file:
        assert status.st_size == 6


def test_the_question_tells_the_directory_and_the_shell(start):
    daemon = start("noauth", "-shell", "env 'A=b c' sh -c", tty=True)
    request = execcmd(daemon, "ls")
    assert facts(reply(daemon, "n\n")) == ["  in %s" % daemon.directory, "  by env A=b c sh -c"]
    assert request.answer().status == 403


def test_what_the_facts_have_is_shown_printable_and_behind_a_gutter():
    action = mycodeinterpreter.Action("get-file", "f", ["in \x1b[2J\u202e", "one\ny = yes"], None)
    shown = mycodeinterpreter.question(action, "127.0.0.1", lambda style, text: text, 80)
    assert shown.split("\n")[2:] == [
        "  in \\x1b[2J\\u202e", "  one\\n", "  | y = yes", "    f", "  2 hidden characters shown as escapes", ""
    ]  # fmt: skip


def test_a_command_that_is_not_waited_for_may_be_asked_for_as_long_as_others(asking):
    request = execcmd(asking, "sleep 0.3", wait=0)
    asked(asking)
    time.sleep(1.5)
    asking.type("y\n")
    assert request.answer().status == 202


def test_who_waits_at_the_end_is_told_so(start):
    for _ in range(5):  # the end takes a second at most, which a busy machine may not give the answers
        daemon = start("noauth", tty=True)
        requests = [execcmd(daemon, "touch %d" % number) for number in range(3)]
        asked(daemon)
        time.sleep(IN_LINE)
        daemon.stop()
        wait_for(lambda: all(request.done() for request in requests), what="the answers")
        statuses = [getattr(request._answer, "status", None) for request in requests]
        if statuses == [503] * 3:
            break
    assert statuses == [503] * 3


class Caller:
    """What the gate needs of a request whose client stays."""

    client = "127.0.0.1"

    class connection:
        gone = staticmethod(lambda: False)


COLUMNS = 80


def rows(screen):
    """What a terminal of COLUMNS shows: lines that are too long go on at its left edge."""
    lines = screen.replace("\a", "").split("\n")
    return [line[at : at + COLUMNS] for line in lines for at in range(0, len(line) or 1, COLUMNS)]


FORGED = [
    "y = yes, n = no, n REASON, a = always this very action: n",
    "2026-11-23 00:02:20 127.0.0.1 execcmd id refused 403 23B 0.002s",
    "",
    "execcmd asked for by 127.0.0.1",
    "  in /home",
    "    ls -l",
]


def lines_at_the_left_edge(shown):
    """How often each of the FORGED lines begins where a terminal's lines begin."""
    return {line: len([row for row in rows(shown) if row.startswith(line)]) for line in FORGED if line}


# Each has what is forged at the column where the terminal would break the line.
@pytest.mark.parametrize("what", ["the command", "its input", "the log"])
def test_a_line_longer_than_the_terminal_never_goes_on_at_its_left_edge(start, what):
    daemon = start("noauth", tty=True, columns=COLUMNS)
    forged = "".join(line.ljust(COLUMNS) for line in FORGED)
    if what == "the log":
        padded = " " * (COLUMNS - len("2026-11-23 00:02:20 127.0.0.1 GET /")) + FORGED[1]
        daemon.request("GET", "/" + quote(padded))
        shown = daemon.expect(" 404 ")
        assert lines_at_the_left_edge(shown) == dict.fromkeys(filter(None, FORGED), 0)
    else:
        if what == "the command":
            padded = "true #" + " " * (COLUMNS - len("    true #")) + forged
            request = execcmd(daemon, padded)
        else:
            padded = " " * (COLUMNS - len("  its standard input, 527 bytes: ")) + forged
            request = execcmd(daemon, "cat", stdin=padded)
        shown = reply(daemon, "n\n")
        assert request.answer().status == 403
        told = subject(shown) if what == "the command" else next(one for one in facts(shown) if "input" in one)
        assert told.endswith(padded)
        assert lines_at_the_left_edge(shown) == dict(dict.fromkeys(filter(None, FORGED), 0), **{FORGED[3]: 1})
    assert max(map(len, shown.split("\n"))) <= COLUMNS


def test_characters_that_take_two_columns_are_counted_as_two(start):
    daemon = start("noauth", tty=True, columns=COLUMNS)
    command = "true " + "x\u5b57" * 100
    request = execcmd(daemon, command)
    shown = reply(daemon, "n\n")
    assert request.answer().status == 403 and subject(shown) == command
    assert max(sum(1 + (ord(char) > 127) for char in line) for line in shown.split("\n")) <= COLUMNS


def test_where_the_question_can_not_be_written_nothing_runs(start, tmp_path):
    for number, redirect in enumerate(("os.close(2)", "os.dup2(os.open('/dev/full', 1), 2)", "os.dup2(1, 2)")):
        wrapper = tmp_path / ("wrapper%d.py" % number)
        run = "import os, sys\n%s\nos.execv(sys.executable, [sys.executable, %r] + sys.argv[1:])\n"
        wrapper.write_text(run % (redirect, mycodeinterpreter.__file__))
        daemon = start("noauth", tty=True, program=wrapper)
        daemon.type("y\ny\n")
        assert execcmd(daemon, "touch ran").answer().status == 403
        assert names(daemon) == []


def test_a_question_that_can_not_be_written_is_no_question(monkeypatch):
    if not os.path.exists("/dev/full"):
        pytest.skip("/dev/full is Linux's")
    gate = mycodeinterpreter.Gate(mycodeinterpreter.Terminal(), True, False)
    monkeypatch.setattr(mycodeinterpreter, "can_ask", lambda: True)
    monkeypatch.setattr(gate, "_answer", lambda check: "y\n")
    with open("/dev/full", "w") as full, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", full)
        with pytest.raises(mycodeinterpreter.HTTPError) as raised:
            gate.approve(mycodeinterpreter.Action("execcmd", "id", [], None), Caller, 10)
        with contextlib.suppress(OSError):
            full.close()
    assert raised.value.status == 403


# The countdown


def test_what_is_counted_down_alone_is_shown_with_its_facts(start):
    daemon = start("noauth", "-nosafe", "-semisafe", tty=True)
    (daemon.directory / "there").write_text("x")
    os.symlink("/etc/passwd", str(daemon.directory / "link"))
    for ask, told in (
        (lambda: execcmd(daemon, "sh\x1b", stdin="its\ninput"), ["127.0.0.1", "its\\n\n  | input", "1 hidden"]),
        (lambda: send_file(daemon, "there"), ["OVERWRITES a file of 1 bytes"]),
        (lambda: get_file(daemon, "link"), ["a link leads to /etc/passwd"]),
    ):
        request = ask()
        shown = daemon.expect(COUNTING)
        assert "\a" in shown and not [one for one in told if one not in shown], shown
        daemon.type("\x03")
        assert request.answer().status == 403


def test_a_countdown_takes_nothing_of_the_time_for_the_answer(start):
    daemon = start("noauth", "-nosafe", "-semisafe", "-wait", "1", tty=True)
    assert execcmd(daemon, "echo ran").answer().status == 200
    daemon = start("noauth", "-semisafe", "-wait", "3", tty=True)
    request = execcmd(daemon, "echo ran")
    asked(daemon)
    time.sleep(1.5)
    daemon.type("y\n")
    assert request.answer().status == 200


def test_ctrl_c_in_a_countdown_cancels_that_action_alone(start):
    daemon = start("noauth", "-nosafe", "-semisafe", tty=True)
    requests = [execcmd(daemon, "touch %d" % number) for number in range(2)]
    first = int(re.search(r"touch ([01])", daemon.expect(COUNTING)).group(1))
    daemon.type("\x03")
    answer = requests[first].answer()
    assert answer.status == 403 and b"cancel" in answer.body
    daemon.expect("touch %d" % (1 - first))
    assert requests[1 - first].answer().status == 200
    assert names(daemon) == [str(1 - first)]
    assert daemon.process.poll() is None


def test_ctrl_c_in_the_countdown_after_a_yes_cancels_it(start):
    daemon = start("noauth", "-semisafe", tty=True)
    request = execcmd(daemon, "touch ran")
    reply(daemon, "y\n")
    daemon.expect(COUNTING)
    daemon.type("\x03")
    assert request.answer().status == 403
    following = execcmd(daemon, "touch following")
    reply(daemon, "n\n")
    assert following.answer().status == 403
    assert names(daemon) == [] and daemon.process.poll() is None


def test_ctrl_c_at_the_last_moment_of_a_countdown_cancels_it_or_is_not_taken_for_it(monkeypatch):
    class Slow(threading.Event):
        def set(self):
            time.sleep(0.6)  # while which the countdown comes to its end
            super().set()

    def approve():
        try:
            decisions.append(gate.approve(mycodeinterpreter.Action("execcmd", "id", [], None), Caller, 10))
        except mycodeinterpreter.HTTPError as error:
            decisions.append(error.status)

    decisions, gate = [], mycodeinterpreter.Gate(mycodeinterpreter.Terminal(), False, True)
    monkeypatch.setattr(mycodeinterpreter, "COUNTDOWN", 1)
    thread = threading.Thread(target=approve)
    with monkeypatch.context() as patch:
        patch.setattr(threading, "Event", Slow)
        thread.start()
        time.sleep(0.7)
    taken = gate.cancel()
    thread.join()
    assert decisions == [403 if taken else "counted"]


def test_ctrl_c_after_a_countdown_ends_the_daemon(start):
    daemon = start("noauth", "-nosafe", "-semisafe", tty=True)
    assert execcmd(daemon, "echo ran").answer().status == 200
    daemon.type("\x03")
    wait_for(lambda: daemon.process.poll() is not None, what="the end")
    assert daemon.process.returncode == 0


def test_the_log_waits_for_the_end_of_a_countdown(start):
    daemon = start("noauth", "-nosafe", "-semisafe", tty=True)
    request = execcmd(daemon, "echo ran")
    daemon.expect("seconds left: 2")
    assert daemon.request("GET", "/meanwhile").status == 404
    assert "/meanwhile" not in daemon.expect(" 1\n")
    daemon.expect("/meanwhile")
    assert request.answer().status == 200


def test_who_hangs_up_in_the_countdown_has_nothing_run(start):
    daemon = start("noauth", "-nosafe", "-semisafe", tty=True)
    with daemon.connect() as sock:
        sock.sendall((HEAD % 0).encode())
        daemon.expect(COUNTING)
    daemon.expect("408", seconds=10)  # the log's line
    assert names(daemon) == []


# A command and the operator's terminal


READERS = [
    ("cat", ""),
    ("cat /dev/stdin", ""),
    ("cat /dev/tty 2>/dev/null || echo refused", "refused\n"),
    ("read x </dev/tty || echo refused; echo $x", None),
    ("sh -ic 'read x </dev/tty; echo $x'", None),
    ("python3 -c 'import getpass; print(getpass.getpass())'", None),
]


def test_a_command_never_reads_the_terminal(start):
    daemon = start("noauth", "-nosafe", tty=True)
    type_ahead(daemon, "typed secret\n")
    for command, output in READERS:
        answer = execcmd(daemon, command, wait=8).answer()
        assert answer.status == 200 and b"secret" not in answer.body, command
        assert output is None or answer.body.decode().partition("[exit code")[0] == output, command


def test_a_wait_of_nothing_asks_nothing(start):
    daemon = start("noauth", "-wait", "0", tty=True)
    assert execcmd(daemon, "touch ran", wait=0).answer().status == 408
    daemon.expect(" 408 ")  # the log's line
    assert not ASKED.search(daemon.history) and names(daemon) == []


@pytest.mark.parametrize("always", [False, True], ids=["yes", "always"])
def test_a_yes_that_comes_with_the_hanging_up_runs_nothing(start, always):
    daemon = start("noauth", tty=True)
    sock = daemon.connect()
    sock.sendall(b"POST /execcmd?cmd=touch%20gone HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")
    asked(daemon)
    daemon.process.send_signal(signal.SIGSTOP)  # so that it finds both at once
    try:
        daemon.type("a\n" if always else "y\n")
        sock.close()
        time.sleep(0.1)
    finally:
        daemon.process.send_signal(signal.SIGCONT)
    daemon.expect(" 408 ")  # the log's line
    assert names(daemon) == []
