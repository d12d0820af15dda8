"""What the operator sees besides the questions: colour, the countdown, the progress of transfers, the summary."""

import re
import socket
import threading

import pytest
from conftest import wait_for

PROMPT = "y = yes"


def approve(daemon, command, answer="y\n"):
    """Runs a command that the operator is asked for; returns what was shown."""
    thread = threading.Thread(target=daemon.request, args=("POST", "/execcmd?cmd=" + command.replace(" ", "%20"), b""))
    thread.start()
    shown = daemon.expect(PROMPT)
    daemon.type(answer)
    thread.join(20)
    return shown


@pytest.mark.parametrize(
    "env, coloured",
    [
        ({"NO_COLOR": ""}, True),  # an empty one counts as none
        ({"NO_COLOR": "1"}, False),
        ({"NO_COLOR": "", "TERM": "dumb"}, False),
    ],
)
def test_questions_stand_out_in_colour_unless_it_is_unwanted(start, env, coloured):
    daemon = start("noauth", tty=True, env=env)
    shown = approve(daemon, "echo hello", "n\n")
    assert ("\x1b[" in shown) == coloured
    bold = re.findall("\x1b\\[1m(.*?)\x1b\\[m", shown + daemon.expect(": ") + "\x1b[m")
    assert ("echo hello" in bold) == coloured


def test_colour_does_not_change_what_is_shown(start):
    shown = {}
    for plain in ("", "1"):
        daemon = start("noauth", tty=True, env={"NO_COLOR": plain})
        question = approve(daemon, "echo%20\\%1b[31m%0ax", "n\n").replace("  in %s\n" % daemon.directory, "")
        shown[plain] = re.sub("\x1b\\[[0-9;]*m", "", question)
    assert shown[""] == shown["1"] and "echo \\\\\\x1b[31m\\n" in shown["1"]


def test_a_log_that_is_no_terminal_has_no_escape_sequences(start):
    daemon = start("noauth", "-nosafe", "-semisafe", env={"NO_COLOR": ""})
    (daemon.directory / "large").write_bytes(bytes(60 << 20))
    slow_download(daemon, lambda: None)
    assert daemon.stop() == 0
    assert "get-file" in daemon.errors() and "\x1b" not in daemon.errors()


def test_the_countdown_counts(start):
    daemon = start("noauth", "-nosafe", "-semisafe", tty=True)
    threading.Thread(target=daemon.request, args=("POST", "/execcmd?cmd=touch%20ran", b"")).start()
    daemon.expect("    touch ran\n")
    daemon.expect("Ctrl+C cancels it; seconds left: 2")
    assert not (daemon.directory / "ran").exists()
    daemon.expect(" 1\n")
    wait_for((daemon.directory / "ran").exists, what="the command")


def slow_download(daemon, during):
    """Takes over two seconds for a file of 60 MiB, and calls during() while it is under way."""
    with daemon.connect() as sock:
        sock.sendall(b"GET /get-file?filename=large HTTP/1.1\r\nHost: localhost\r\n\r\n")
        received, ticks = 0, 0
        sock.settimeout(20)
        while received < 60 << 20:
            received += len(sock.recv(1 << 20))
            if received >> 20 > 6 * ticks and ticks < 9:
                ticks += 1
                threading.Event().wait(0.25)
                during()


def test_a_download_over_a_second_shows_its_progress(start):
    daemon = start("noauth", "-nosafe", tty=True)
    (daemon.directory / "large").write_bytes(bytes(60 << 20))
    slow_download(daemon, lambda: daemon.read_screen(0))
    daemon.expect("%dB " % (60 << 20))  # the log's line
    shown = re.findall(r"get-file ([0-9.]+) MB so far: ", daemon.history)
    assert shown and all(0 < float(one) < 63 for one in shown)
    assert "\r\x1b[K" in daemon.history, "the line is not taken away before the log goes on"


def test_no_progress_is_shown_behind_the_line_of_the_log_that_tells_the_end(start):
    daemon = start("noauth", "-nosafe", tty=True)
    (daemon.directory / "large").write_bytes(bytes(4 << 20))
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)  # with the sender's, less than the file
        sock.connect(("127.0.0.1", daemon.port))
        sock.sendall(b"GET /get-file?filename=large HTTP/1.1\r\nHost: localhost\r\n\r\n")
        threading.Event().wait(1.3)  # now the block that ends the transfer is over the second, too
        received = 0
        while received < 4 << 20:
            received += len(sock.recv(1 << 20))
    daemon.expect("%dB " % (4 << 20))
    daemon.read_screen(0.5)
    assert "so far" not in daemon.history.partition(" nosafe 200 ")[2]


def test_an_upload_over_a_second_shows_its_progress_but_not_into_a_question(start):
    daemon = start("noauth", tty=True)
    head = b"--b\r\nContent-Disposition: form-data; name=file; filename=f\r\n\r\n"
    tail = b"\r\n--b--\r\n"
    total = len(head) + (8 << 20) + len(tail)
    with daemon.connect() as sock, daemon.connect() as other:
        sock.sendall(
            b"POST /send-file HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=b\r\n"
            b"Content-Length: %d\r\n\r\n" % total + head
        )
        daemon.expect(PROMPT)
        daemon.type("y\n")
        for tick in range(8):
            if tick == 6:
                seen = daemon.expect("MB so far: ")
                other.sendall(b"POST /execcmd?cmd=true HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")
                daemon.expect(PROMPT)
            sock.sendall(bytes(1 << 20))
            threading.Event().wait(0.3)
        sock.sendall(tail)
        assert sock.recv(1000).startswith(b"HTTP/1.1 200 ")
        assert re.search(r"send-file [0-9.]+ MB so far: ", seen + "MB so far: ")
        daemon.read_screen(0.2)
        assert "so far" not in daemon.screen, "the progress writes into an open question"
        daemon.type("n\n")
        assert other.recv(1000).startswith(b"HTTP/1.1 403 ")


def test_a_short_transfer_shows_no_progress(start):
    daemon = start("noauth", "-nosafe", tty=True)
    (daemon.directory / "small").write_bytes(bytes(1 << 20))
    assert len(daemon.request("GET", "/get-file?filename=small").body) == 1 << 20
    daemon.expect("%dB " % (1 << 20))
    assert "so far" not in daemon.history


def test_the_end_sums_up(start):
    daemon = start("noauth", tty=True)
    approve(daemon, "printf 12345")
    approve(daemon, "false", "n because\n")
    daemon.expect(" 403 ")
    assert daemon.stop() == 0
    daemon.expect("actions run: 1, denied: 1; ")
    assert re.match(r"sent [0-9]+ bytes, received 0 bytes\n", daemon.screen)


def test_the_log_and_the_sum_count_what_was_sent(start):
    daemon = start("noauth", "-nosafe")
    (daemon.directory / "large").write_bytes(bytes(100 << 20))
    assert daemon.request("HEAD", "/get-file?filename=large").headers["Content-Length"] == str(100 << 20)
    with daemon.connect() as sock:  # goes away behind the first bytes
        sock.sendall(b"GET /get-file?filename=large HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert sock.recv(1000)
    wait_for(lambda: daemon.errors().count(" get-file ") == 2, what="the second line of the log")
    assert [int(count) < 50 << 20 for count in re.findall(" nosafe 200 ([0-9]+)B ", daemon.errors())] == [True, True]
    assert " nosafe 200 0B " in daemon.errors()
    assert daemon.stop() == 0
    assert re.search("; sent [0-9.]+ (bytes|kB|MB), received 0 bytes\n", daemon.errors())
    assert "sent 209.7 MB" not in daemon.errors()


def test_an_end_without_an_action_is_silent(start):
    daemon = start("noauth", "-nosafe")
    assert daemon.request("GET", "/openapi.json").status == 200
    assert daemon.stop() == 0
    assert "actions run" not in daemon.errors()
