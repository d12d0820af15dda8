"""What becomes of a command: its input, its output byte for byte, its end, and what it may cost the daemon."""

import base64
import http.client
import json
import os
import re
import select
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
import types
import urllib.parse

import pytest
from conftest import wait_for

import mycodeinterpreter

needs_proc = pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="looks into /proc, which Linux has")
needs_curl = pytest.mark.skipif(not shutil.which("curl"), reason="curl is missing: apt-get install curl")

FORM = {"Content-Type": "application/x-www-form-urlencoded"}
JSON = {"Content-Type": "application/json"}
AS_JSON = {"Accept": "application/json"}
NUMBERS = b"".join(b"%d\n" % n for n in range(1, 100001))  # what `seq 1 100000` writes


def target(command, **parameters):
    """The request target that runs a command."""
    return "/execcmd?" + urllib.parse.urlencode(dict(parameters, cmd=command))


def run(daemon, command, body=None, headers=None, **parameters):
    """The Answer to a command."""
    return daemon.request("POST", target(command, **parameters), body, headers)


def ran(daemon):
    """Whether `touch ran` has run since this was last asked."""
    path = daemon.directory / "ran"
    if path.exists():
        path.unlink()
        return True
    return False


def fetch(daemon, path):
    """A file's bytes, by get-file."""
    answer = daemon.request("GET", "/get-file?" + urllib.parse.urlencode({"filename": path}))
    assert answer.status == 200, answer
    return answer.body


def alive(pid):
    """Whether a process runs; one that has ended and waits for its parent does not."""
    try:
        with open("/proc/%d/stat" % pid) as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def number_in(path):
    """The number that a command writes into a file, once it is there."""
    return int(wait_for(lambda: path.exists() and path.read_text().endswith("\n") and path.read_text(), 10, str(path)))


def memory(daemon, field="VmHWM"):
    """MiB of the daemon's memory: at its highest, or as VmRSS now."""
    with open("/proc/%d/status" % daemon.process.pid) as file:
        return int(re.search(field + r":\s+(\d+) kB", file.read()).group(1)) / 1024


def logs(daemon):
    """The logs that the daemon keeps."""
    return [path for directory in daemon.run_directories() for path in directory.iterdir()]


def log_in(answer):
    """The path of the log that an answer names in its last line."""
    last = answer.body.decode().splitlines()[-1]
    return re.search(r" in (/.*?)(?:;.*)?\]\Z", last).group(1)


# Output


@pytest.mark.parametrize(
    "command, output",
    [
        ("echo hi", b"hi\n"),
        ("printf hi", b"hi"),
        ("true", b""),
        ("printf '\\n\\n'", b"\n\n"),
        ("printf 'a\\r\\nb\\tc\\0d\\033[1m'", b"a\r\nb\tc\0d\x1b[1m"),
        ("printf '\\303\\251 \\377\\376'", b"\xc3\xa9 \xff\xfe"),
        ("echo '[exit code 2]'", b"[exit code 2]\n"),
        ("echo caf\u00e9 \U0001f600", "caf\u00e9 \U0001f600\n".encode()),
        ("echo 1; echo 2 >&2; echo 3; echo 4 >&2", b"1\n2\n3\n4\n"),
        ("echo 1; echo 2 > /dev/stderr; echo 3; echo 4 > /dev/stdout; echo 5", b"1\n2\n3\n4\n5\n"),
        ("echo 1; echo 2 | tee /dev/stderr; echo 3", b"1\n2\n2\n3\n"),
        ("for i in 1 2; do\n  echo $i\ndone # the end", b"1\n2\n"),
        ("echo a%20b+c '&' \"%s\"", b"a%20b+c & %s\n"),
    ],
)
def test_output_comes_back_byte_for_byte(nosafe, command, output):
    answer = run(nosafe, command)
    assert (answer.status, answer.body) == (200, output)
    assert answer.headers["X-Exit-Code"] == "0"
    assert answer.headers["Content-Length"] == str(len(output))


def test_stdout_and_stderr_keep_their_order(nosafe):
    answer = run(nosafe, "i=0; while [ $i -lt 500 ]; do echo o$i; echo e$i >&2; i=$((i+1)); done")
    assert answer.body == b"".join(b"o%d\ne%d\n" % (i, i) for i in range(500))


def test_binary_output_is_not_touched(nosafe):
    data = bytes(range(256)) * 100 + os.urandom(20000) + b"\r"
    (nosafe.directory / "binary").write_bytes(data)
    assert run(nosafe, "cat binary").body == data
    assert run(nosafe, "cat binary >&2").body == data


@pytest.mark.parametrize(
    "command, body, code",
    [
        ("echo oops; exit 2", b"oops\n[exit code 2]\n", "2"),
        ("printf oops; exit 255", b"oops\n[exit code 255]\n", "255"),
        ("exit 1", b"[exit code 1]\n", "1"),
        ("kill -KILL $$", b"[killed by SIGKILL]\n", "-9"),
        ("printf bye; kill -TERM $$", b"bye\n[killed by SIGTERM]\n", "-15"),
    ],
)
def test_a_failure_is_told_in_a_last_line_and_a_header(nosafe, command, body, code):
    answer = run(nosafe, command)
    assert (answer.status, answer.body, answer.headers["X-Exit-Code"]) == (200, body, code)


def test_the_headers_carry_the_facts(nosafe):
    answer = run(nosafe, "echo $$; sleep 0.2")
    assert answer.headers["Content-Type"].startswith("text/plain")
    assert answer.headers["X-Pid"].encode() + b"\n" == answer.body
    assert 0.19 < float(answer.headers["X-Seconds"]) < 30
    assert not {"X-Running", "X-Truncated", "X-Log"} & set(answer.headers)


def test_the_json_answer_has_exactly_its_fields(nosafe):
    answer = run(nosafe, "echo $$; printf '\\303\\251\\n'; sleep 0.2", headers=AS_JSON)
    assert answer.status == 200 and answer.headers["Content-Type"].startswith("application/json")
    found = json.loads(answer.body.decode())
    assert set(found) == {"exit_code", "output", "truncated", "running", "pid", "log", "seconds"}
    assert 0.19 < found.pop("seconds") < 30
    assert found.pop("output") == "%d\n\u00e9\n" % found.pop("pid")
    assert found == {"exit_code": 0, "truncated": False, "running": False, "log": None}


def test_the_json_answer_tells_of_failure_and_truncation(nosafe):
    found = json.loads(run(nosafe, "seq 1 100000; exit 3", headers=AS_JSON, limit=10).body.decode())
    assert (found["exit_code"], found["truncated"], found["running"]) == (3, True, False)
    assert found["output"].startswith("1\n2\n3")
    assert fetch(nosafe, found["log"]).startswith(NUMBERS)
    found = json.loads(run(nosafe, "printf '\\377'", headers=AS_JSON).body.decode())
    assert found["output"] == "\ufffd"


# Standard input


def test_without_a_body_standard_input_is_at_its_end(nosafe):
    assert run(nosafe, "cat; echo done").body == b"done\n"
    request = b"POST /execcmd?cmd=cat;echo+done HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    assert nosafe.raw(request).endswith(b"\r\n\r\ndone\n")


@pytest.mark.parametrize(
    "query, headers, body, output",
    [
        ("cmd=cat", JSON, b'{"stdin": "a\\u00e9\\n"}', b"a\xc3\xa9\n"),
        ("", JSON, b'{"cmd": "cat", "stdin": "no newline"}', b"no newline"),
        ("", {"Content-Type": "Application/JSON; charset=utf-8"}, b'{"cmd": "cat; echo end"}', b"end\n"),
        ("", JSON, b'{"cmd": "seq 3", "limit": 0, "wait": 5}', b"1\n2\n3\n"),
        ("", FORM, b"cmd=cat&stdin=a+%26%00%FF", b"a &\0\xff"),
        ("cmd=cat", FORM, b"stdin=", b""),
        ("limit=0", FORM, b"cmd=echo+1%2B1", b"1+1\n"),
        ("cmd=cat", {}, b"plain\0\xff", b"plain\0\xff"),
        ("cmd=cat", {"Content-Type": "text/x-python"}, b"print(1)\n", b"print(1)\n"),
        ("cmd=sh", FORM, b"a=1 && echo $a%20b; echo 'x=y&z'\n", b"1%20b\nx=y&z\n"),
        ("cmd=wc+-c", {"Content-Type": "application/octet-stream"}, b"cmd=echo&stdin=1", b"16\n"),
    ],
)
def test_a_body_carries_parameters_or_is_standard_input(nosafe, query, headers, body, output):
    answer = nosafe.request("POST", "/execcmd?" + query, body, headers)
    assert (answer.status, answer.body) == (200, output)


@needs_curl
def test_curl_sends_a_script_as_it_is(nosafe, tmp_path):
    script = tmp_path / "script"
    script.write_bytes(b"x=1&&echo $x+1 %41\nprintf 'y=%s\\n' 2 & wait\n")
    url = "http://127.0.0.1:%d/execcmd?cmd=sh" % nosafe.port
    output = subprocess.check_output(["curl", "-sS", "--data-binary", "@%s" % script, url])
    assert output == b"1+1 %41\ny=2\n"


@pytest.mark.parametrize("chunked", [False, True])
def test_five_mebibytes_reach_standard_input(nosafe, chunked):
    data = os.urandom(5 << 20)
    expected = subprocess.run(["cksum"], input=data, stdout=subprocess.PIPE).stdout
    body = (data[at : at + 70000] for at in range(0, len(data), 70000)) if chunked else data
    before = logs(nosafe)
    assert run(nosafe, "cksum", body, {"Content-Type": "application/octet-stream"}).body == expected
    assert logs(nosafe) == before  # nor does it stay on the disk


def test_standard_input_that_is_not_read_does_no_harm(nosafe):
    assert run(nosafe, "echo hi", b"x" * (3 << 20), {"Content-Type": "text/plain"}).body == b"hi\n"
    assert run(nosafe, "cat & wait; cat", b"all of it").body == b"all of it"


@pytest.mark.parametrize("headers", [FORM, JSON])
def test_a_form_over_a_mebibyte_is_refused(nosafe, headers):
    body = b'{"cmd": "touch ran", "stdin": "%s"}' if headers == JSON else b"cmd=touch+ran&stdin=%s"
    answer = nosafe.request("POST", "/execcmd", body % (b"x" * (1 << 20)), headers)
    assert not ran(nosafe) and answer.status == 413


def test_a_command_never_reads_the_operators_terminal(start):
    daemon = start("noauth", "-nosafe", "-wait", "8", tty=True)
    daemon.type("typed\n")
    answer = run(daemon, "cat; cat < /dev/tty; tty; echo end")
    assert answer.status == 200 and b"typed" not in answer.body and answer.body.endswith(b"not a tty\nend\n")


# Parameters


@pytest.mark.parametrize(
    "query, headers, body",
    [
        ("", {}, b""),
        ("cmd=", {}, b""),
        ("cmd", {}, b""),
        ("command=touch+ran", {}, b""),
        ("cmd=touch+ran&cmd=touch+ran", {}, b""),
        ("cmd=touch+ran&&+exit", {}, b""),
        ("cmd=touch+ran&exit", {}, b""),
        ("cmd=touch+ran&wait=1&wait=1", {}, b""),
        ("cmd=touch+ran&Limit=1", {}, b""),
        ("cmd=touch+ran%FF", {}, b""),
        ("cmd=touch+ran;+echo+%C3", {}, b""),
        ("cmd=touch+ran;+echo+%ED%A0%80", {}, b""),
        ("cmd=touch+ran%00", {}, b""),
        ("cmd=touch+ran", FORM, b"cmd=touch+ran"),
        ("stdin=1&cmd=touch+ran", FORM, b"stdin=2"),
        ("", FORM, b"cmd=touch+ran&other=1"),
        ("", FORM, b"cmd=touch+ran%00"),
        ("", FORM, b"stdin=touch+ran"),
        ("cmd=touch+ran", JSON, b'{"cmd": "touch ran"}'),
        ("", JSON, b'{"cmd": "touch ran", "cmd": "touch ran"}'),
        ("", JSON, b'{"cmd": "touch ran", "more": 1}'),
        ("", JSON, b'{"cmd": "touch ran\\u0000"}'),
        ("", JSON, b'{"cmd": "touch ran; echo \\ud800"}'),
        ("", JSON, b'{"cmd": "touch ran; echo \xff"}'),
        ("", JSON, b'{"cmd": ["touch ran"]}'),
        ("", JSON, b'{"cmd": {"touch ran": 1}}'),
        ("", JSON, b'{"cmd": null}'),
        ("", JSON, b'{"cmd": true}'),
        ("", JSON, b'{"cmd": "touch ran", "wait": true}'),
        ("", JSON, b'{"cmd": "touch ran", "stdin": ["x"]}'),
        ("", JSON, b'["touch ran"]'),
        ("", JSON, b'"touch ran"'),
        ("", JSON, b"null"),
        ("cmd=touch+ran", JSON, b"{"),
        ("cmd=touch+ran", JSON, b"[" * 5000),
        ("cmd=touch+ran", JSON, b'{"wait": 1e999}'),
        ("cmd=touch+ran", JSON, b'{"wait": NaN}'),
    ],
)
def test_malformed_parameters_run_nothing(nosafe, query, headers, body):
    answer = nosafe.request("POST", "/execcmd?" + query, body, headers)
    assert not ran(nosafe) and answer.status == 400, answer
    text = answer.body.decode()
    assert text.endswith("\n") and text.count("\n") == 1 and len(text) > 15


@pytest.mark.parametrize("name", ["wait", "limit"])
@pytest.mark.parametrize(
    "value", ["", "x", "-1", "nan", "inf", "1e9", "0x10", "1,5", "+1+", "%EF%BC%91", "9" * 30, "1%00"]
)
def test_a_bad_number_runs_nothing(nosafe, name, value):
    answer = nosafe.request("POST", "/execcmd?cmd=touch+ran&%s=%s" % (name, value))
    assert not ran(nosafe) and answer.status == 400 and name.encode() in answer.body


def test_an_error_is_json_where_json_is_preferred(nosafe):
    answer = nosafe.request("POST", "/execcmd", headers=AS_JSON)
    found = json.loads(answer.body.decode())
    assert answer.status == 400 and list(found) == ["error"] and "cmd" in found["error"]


def test_another_method_is_refused(nosafe):
    answer = nosafe.request("GET", "/execcmd?cmd=touch+ran")
    assert (answer.status, answer.headers["Allow"]) == (405, "POST")
    assert not ran(nosafe)


def test_who_is_not_let_in_runs_nothing(start):
    daemon = start("user:key", "-nosafe")
    answer = run(daemon, "touch ran")
    assert answer.status == 401 and "WWW-Authenticate" in answer.headers
    wrong = {"Authorization": "Basic " + base64.b64encode(b"user:kez").decode()}
    assert run(daemon, "touch ran", headers=wrong).status == 401 and not ran(daemon)
    right = {"Authorization": "Basic " + base64.b64encode(b"user:key").decode()}
    assert run(daemon, "echo in", headers=right).body == b"in\n"


def test_with_nobody_to_ask_nothing_runs(start):
    daemon = start("noauth")
    assert run(daemon, "touch ran").status == 403 and not ran(daemon)


def test_an_overlong_command_is_the_clients_fault(nosafe):
    """One argument of a program may have 128 KiB on Linux."""
    body = json.dumps({"cmd": "touch ran; echo " + "x" * 200000})
    answer = nosafe.request("POST", "/execcmd", body, JSON)
    assert not ran(nosafe) and answer.status == 400
    assert run(nosafe, "touch ran; echo " + "x" * 200000).status == 400 and not ran(nosafe)
    assert run(nosafe, "echo %s | wc -c" % ("x" * 100000)).body.strip() == b"100001"


# How long a request is held


def test_a_command_longer_than_wait_goes_on_in_its_log(start):
    daemon = start("noauth", "-nosafe", "-wait", "0.5")
    answer = run(daemon, "echo one; echo $$; sleep 1.5; echo two; exit 7")
    found = re.match(
        rb"one\n(\d+)\n\[still running after 0\.5 s, pid (\d+); its output goes on in (/.+)\]\n\Z", answer.body
    )
    assert answer.status == 202 and found and found.group(1) == found.group(2)
    path = found.group(3).decode()
    assert answer.headers["X-Log"] == path and answer.headers["X-Pid"] == found.group(2).decode()
    assert "X-Exit-Code" not in answer.headers
    assert stat.S_IMODE(os.stat(os.path.dirname(path)).st_mode) == 0o700
    assert [os.path.dirname(path)] == [str(path) for path in daemon.run_directories()]
    told = b"one\n%s\n" % found.group(1)
    assert fetch(daemon, path) == told
    # The log ends as an answer would: with the exit code.
    wait_for(lambda: b"two" in fetch(daemon, path), 15, "the rest of the output")
    wait_for(lambda: fetch(daemon, path).endswith(b"[exit code 7]\n"), 15, "the end of the log")
    assert fetch(daemon, path).startswith(told + b"two\n")


def test_a_running_command_in_json(nosafe):
    answer = run(nosafe, "echo one; sleep 60", headers=AS_JSON, wait=0.5)
    found = json.loads(answer.body.decode())
    assert answer.status == 202
    assert (found["exit_code"], found["running"], found["truncated"]) == (None, True, False)
    assert found["output"].startswith("one\n") and fetch(nosafe, found["log"]) == b"one\n"
    os.killpg(found["pid"], signal.SIGKILL)
    wait_for(lambda: b"SIGKILL" in fetch(nosafe, found["log"]), 10, "the end of the log")


def test_a_request_may_set_its_own_wait(start):
    daemon = start("noauth", "-nosafe", "-wait", "0.3")
    assert run(daemon, "sleep 0.8; echo done", wait=30).body == b"done\n"
    assert run(daemon, "sleep 20").status == 202
    begun = time.monotonic()
    answer = daemon.request("POST", "/execcmd", json.dumps({"cmd": "sleep 20", "wait": 0}), JSON)
    assert answer.status == 202 and time.monotonic() - begun < 10


def test_truncated_and_still_running_stand_in_one_line(nosafe):
    answer = run(nosafe, "seq 1 100000; sleep 60", wait=1, limit=100)
    last = answer.body.decode().splitlines()[-1]
    assert answer.status == 202 and last.startswith("[still running after 1 s, pid ") and last.endswith("]")
    assert "\u2026 %d bytes left out \u2026" % (len(NUMBERS) - 100) in last
    assert fetch(nosafe, answer.headers["X-Log"]) == NUMBERS
    os.killpg(int(answer.headers["X-Pid"]), signal.SIGKILL)


@needs_proc
@pytest.mark.parametrize("setsid", ["", "setsid "])
def test_a_background_job_does_not_hold_the_answer(start, setsid):
    daemon = start("noauth", "-nosafe")
    begun = time.monotonic()
    answer = run(daemon, "%ssleep 300 & echo $! > pid; echo started" % setsid)
    pid = number_in(daemon.directory / "pid")
    try:
        assert (answer.status, answer.body) == (200, b"started\n") and time.monotonic() - begun < 20
        assert alive(pid) and logs(daemon) == []
        if not setsid:  # it is still in the group that ends with the daemon
            assert daemon.stop() == 0
            wait_for(lambda: not alive(pid), 5, "the end of the background job")
    finally:
        if alive(pid):
            os.kill(pid, signal.SIGKILL)


def test_what_a_background_job_writes_later_does_not_block_it(nosafe):
    answer = run(nosafe, "(sleep 0.3; seq 1 100000; touch written) & echo started")
    assert answer.body == b"started\n"
    wait_for((nosafe.directory / "written").exists, 15, "the background job to write all")


# How long a command may run


@needs_proc
def test_a_timeout_kills_the_process_group_and_nothing_else(start):
    daemon = start("noauth", "-nosafe", "-timeout", "1")
    run(daemon, "sleep 300 & echo $! > bystander")
    command = (
        "echo begun; echo $$ > shell; sleep 300 & echo $! > child; sh -c 'echo $$ > grandchild; sleep 300; :'; echo no"
    )
    answer = run(daemon, command)
    assert (answer.status, answer.body) == (408, b"begun\n[timed out after 1 s; killed]\n")
    assert answer.headers["X-Exit-Code"] == "-9"
    for name in ("shell", "child", "grandchild"):
        pid = number_in(daemon.directory / name)
        wait_for(lambda: not alive(pid), 5, "the end of the " + name)
    assert alive(number_in(daemon.directory / "bystander"))
    assert run(daemon, "echo on").body == b"on\n"


def test_a_timeout_in_json(start):
    daemon = start("noauth", "-nosafe", "-timeout", "0.5")
    answer = run(daemon, "trap '' TERM INT HUP; echo begun; sleep 300", headers=AS_JSON)
    found = json.loads(answer.body.decode())
    assert answer.status == 408 and (found["exit_code"], found["running"]) == (-9, False)
    assert found["output"].startswith("begun\n") and found["seconds"] >= 0.49


@needs_proc
def test_a_command_answered_already_is_killed_at_its_timeout(start):
    daemon = start("noauth", "-nosafe", "-wait", "0.3", "-timeout", "1.2")
    answer = run(daemon, "echo begun; sleep 300 & sleep 300")
    pid, path = int(answer.headers["X-Pid"]), log_in(answer)
    assert answer.status == 202 and alive(pid)
    wait_for(lambda: not alive(pid), 15, "the end of the command")
    wait_for(lambda: fetch(daemon, path) == b"begun\n\n[timed out after 1.2 s; killed]\n", 10, "the end of the log")


def test_without_a_timeout_nothing_is_killed(start):
    daemon = start("noauth", "-nosafe", "-timeout", "0")
    assert run(daemon, "sleep 0.4; echo done").body == b"done\n"


# How much output an answer carries


def split(body):
    """(head, tail with the line end that follows it, last line) of a truncated answer."""
    last = body[:-1].rpartition(b"\n")[2]
    head, _, tail = body[: -len(last) - 1].partition(b"\n[\xe2\x80\xa6]\n")
    return head, tail, last.decode()


@pytest.mark.parametrize("limit", [2, 3, 1000, 1001, 65536, 70000, len(NUMBERS) - 1])
def test_head_and_tail_are_kept_and_the_rest_is_counted(nosafe, limit):
    answer = run(nosafe, "seq 1 100000", limit=limit)
    head, tail, last = split(answer.body)
    assert answer.status == 200 and answer.headers["X-Truncated"].lower() == "true"
    assert NUMBERS.startswith(head) and NUMBERS.endswith(tail) and len(head) + len(tail) == limit
    assert abs(len(head) - len(tail)) <= 1
    left_out = len(NUMBERS) - limit
    found = re.match(r"\[\u2026 %d bytes left out \u2026; the whole output is in (/.+)\]\Z" % left_out, last)
    assert found and found.group(1) == answer.headers["X-Log"]
    assert fetch(nosafe, found.group(1)) == NUMBERS


def test_an_answer_carries_65536_bytes_unless_told(nosafe):
    assert b"[" not in run(nosafe, "head -c 65536 /dev/zero").body
    assert len(run(nosafe, "head -c 65536 /dev/zero").body) == 65536
    head, tail, last = split(run(nosafe, "head -c 65537 /dev/zero; exit 3").body)
    assert (head, tail) == (b"\0" * 32768, b"\0" * 32768 + b"\n")
    assert last.startswith("[exit code 3; \u2026 1 bytes left out \u2026; the whole output is in /")


def test_a_limit_of_one_byte(nosafe):
    answer = run(nosafe, "printf abc", limit=1)
    assert (
        answer.body.startswith(b"a\n[") and "\u2026 2 bytes left out \u2026; the whole output" in answer.body.decode()
    )
    assert fetch(nosafe, log_in(answer)) == b"abc"
    assert run(nosafe, "printf a", limit=1).body == b"a"


def test_a_limit_of_zero_gives_all_and_leaves_no_log(start):
    daemon = start("noauth", "-nosafe", "-limit", "10")
    answer = run(daemon, "seq 1 100000", limit=0)
    assert (answer.status, answer.body) == (200, NUMBERS) and "X-Log" not in answer.headers
    assert logs(daemon) == []
    assert "left out" in run(daemon, "seq 1 100000").body.decode()
    assert len(logs(daemon)) == 1


def test_a_log_that_nobody_was_told_of_is_removed_at_once(start):
    daemon = start("noauth", "-nosafe", "-limit", "0")
    for command in ("echo small", "head -c 300000 /dev/zero", "head -c 300000 /dev/zero; exit 1", "cat"):
        assert run(daemon, command, b"input").status == 200
        assert logs(daemon) == [], command


# What commands may cost the daemon


@needs_proc
def test_memory_stays_flat_while_all_of_a_big_output_is_sent(start):
    daemon, size = start("noauth", "-nosafe", "-limit", "0"), 100000000
    connection = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=60)
    connection.request("POST", target("head -c %d /dev/zero" % size))
    response, received = connection.getresponse(), 0
    while True:
        block = response.read(1 << 20)
        if not block:
            break
        assert block.count(0) == len(block)
        received += len(block)
    connection.close()
    assert received == size == int(response.headers["Content-Length"])
    assert memory(daemon) < 40
    wait_for(lambda: logs(daemon) == [], 5, "the log to be removed")


@needs_proc
def test_output_without_end_fills_neither_memory_nor_disk(start):
    daemon = start("noauth", "-nosafe", "-timeout", "2")
    answer = run(daemon, "yes")
    assert answer.status == 408 and answer.body.startswith(b"y\ny\n") and len(answer.body) < 100000
    last = answer.body.decode().splitlines()[-1]
    assert last.startswith("[timed out after 2 s; killed; \u2026 ") and " bytes left out \u2026; " in last
    path = answer.headers["X-Log"]
    size = os.stat(path).st_size
    assert size < (1 << 28) + 1000 and memory(daemon) < 40
    with open(path, "rb") as file:
        file.seek(max(0, size - 1000))
        end = file.read()
    assert re.search(rb"\n\[[^\n]+\]\n\Z", end)
    if size > 1 << 28:
        assert re.search(rb"y\n\n\[[^\n]*ends here[^\n]*\]\n", end)
        assert "whole output" not in last


@needs_proc
def test_a_background_job_without_end_fills_neither_memory_nor_disk(start):
    daemon = start("noauth", "-nosafe")
    answer = run(daemon, "(sleep 0.2; touch floods; exec yes) & echo started")
    assert answer.body == b"started\n"
    wait_for((daemon.directory / "floods").exists)
    time.sleep(0.7)  # in which it would write hundreds of MiB
    assert memory(daemon) < 40 and logs(daemon) == []
    assert run(daemon, "echo on").body == b"on\n"


def test_fifty_commands_at_once_are_all_answered_right(nosafe):
    answers = {}

    def one(number):
        answers[number] = run(nosafe, "sleep 0.3; echo %d; cat; exit %d" % (number, number), b"in%d" % number)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(50):
        code = b"\n[exit code %d]\n" % number if number else b""
        assert answers[number].body == b"%d\nin%d" % (number, number) + code


@needs_proc
def test_two_hundred_commands_leave_nothing_behind(start):
    daemon = start("noauth", "-nosafe", "-limit", "1000")
    own = "/proc/%d" % daemon.process.pid
    commands = [
        ("true", b""),
        ("cat; exit 3", b"x" * 100),
        ("seq 1 20000", b""),
        ("kill -9 $$", b""),
        ("sleep 0.1 &", b""),
    ]

    def rounds(count):
        connection = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=60)
        for _ in range(count):
            for command, body in commands:
                connection.request("POST", target(command), body)
                response = connection.getresponse()
                response.read()
                assert response.status == 200
        connection.request("POST", target("sleep 0.3; echo late", wait=0.1))
        assert connection.getresponse().status == 202
        connection.close()
        with daemon.connect() as sock:  # and one that does not wait for its answer
            sock.sendall(b"POST /execcmd?cmd=sleep+0.2;seq+9999 HTTP/1.1\r\nHost: localhost\r\n\r\n")

    def held():
        return len(os.listdir(own + "/fd")), len(os.listdir(own + "/task"))

    def children():
        with open(own + "/task/%d/children" % daemon.process.pid) as file:
            return file.read().split()

    before = held()
    rounds(40)
    wait_for(lambda: held() <= before and held()[1] <= before[1], 15, "%r to come down to %r" % (held(), before))
    assert alive(daemon.process.pid)
    if os.path.exists(own + "/task/%d/children" % daemon.process.pid):
        wait_for(lambda: not children(), 10, "the last child to be reaped")


# Where and how it runs


def test_a_command_runs_in_the_working_directory(nosafe):
    assert run(nosafe, "pwd -P").body.decode() == os.path.realpath(str(nosafe.directory)) + "\n"
    run(nosafe, "cd /; MARK=1; export MARK")
    assert run(nosafe, "pwd -P; echo [$MARK]").body.decode() == os.path.realpath(str(nosafe.directory)) + "\n[]\n"


def test_a_command_has_the_environment_but_not_the_key(start):
    daemon = start("-nosafe", env={"AUTH_KEY": "opensesame", "MARK": "a  b\u00e9"})
    bearer = {"Authorization": "Bearer opensesame"}
    assert run(daemon, 'echo "$MARK"', headers=bearer).body == "a  b\u00e9\n".encode()
    answer = run(daemon, "env; tr '\\0' '\\n' < /proc/$PPID/environ 2> /dev/null; true", headers=bearer)
    assert b"MARK=a" in answer.body
    environment = run(daemon, "env", headers=bearer).body
    assert b"PATH=" in environment and b"AUTH_KEY" not in environment and b"opensesame" not in environment


def test_a_command_has_none_of_the_daemons_descriptors(nosafe):
    if not os.path.exists("/proc/self/fd"):
        pytest.skip("looks into /proc, which Linux has")
    found = run(nosafe, "ls -l /proc/$$/fd; true").body
    assert b"socket:" not in found and len(re.findall(rb" [0-9]+ -> ", found)) <= 4


def test_an_interactive_bash_works(nosafe):
    if not shutil.which("bash"):
        pytest.skip("bash is missing: apt-get install bash")
    assert b"hi\n" in run(nosafe, "bash -ic 'echo hi'").body


@pytest.mark.parametrize(
    "shell, command, output",
    [
        ("sh -c", "echo $0-$((1+1))", b"sh-2\n"),
        ("env 'MARK=a b' sh -c", 'echo "$MARK"', b"a b\n"),
        ("printf '<%s>'", "not split 'at all'", b"<not split 'at all'>"),
    ],
)
def test_shell_is_split_as_a_shell_would(start, shell, command, output):
    answer = run(start("noauth", "-nosafe", "-shell", shell), command)
    assert (answer.status, answer.body) == (200, output)


@pytest.mark.parametrize("shell", ["/no/such/shell -c", "{directory}", "{directory}/plain"])
def test_a_shell_that_does_not_start_is_told(start, tmp_path, shell):
    (tmp_path / "plain").write_text("not a program")
    daemon = start("noauth", "-nosafe", "-shell", shell.format(directory=tmp_path))
    for _ in range(2):
        answer = run(daemon, "echo hi")
        assert answer.status == 500 and len(answer.body.split()) > 3 and answer.body.count(b"\n") == 1
    assert json.loads(run(daemon, "echo hi", headers=AS_JSON).body.decode())["error"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="F_SETPIPE_SZ is Linux's")
def test_what_a_pipe_holds_when_the_shell_ends_is_all_in_the_answer(nosafe):
    """It holds a MiB where the command wants it, and everywhere where memory comes in pages of 64 KiB."""
    code = "import fcntl,os; fcntl.fcntl(1, 1031, 1 << 20); os.write(1, b'x' * 900000); os.kill(os.getpid(), 9)"
    quoted = urllib.parse.quote("exec python3 -c " + shlex.quote(code))
    for _ in range(8):
        answer = nosafe.request("POST", "/execcmd?limit=0&cmd=" + quoted, b"")
        assert answer.body == b"x" * 900000 + b"\n[killed by SIGKILL]\n"


@pytest.fixture
def runner():
    """A Runner whose commands time out after 0.3 s."""
    if not hasattr(select, "poll"):
        pytest.skip("commands do not run without poll(2)")
    runner = mycodeinterpreter.Runner(["sh", "-c"], 0.3)
    yield runner
    runner.kill()
    runner.clean()
    os.close(runner._nothing)


def test_a_job_is_tended_no_longer_than_it_should_be_when_its_time_is_up(runner):
    job = runner.start("setsid sleep 3 & exit")  # who leaves its group is not killed with it
    job.tend(0.4)
    time.sleep(0.3)
    began = time.monotonic()
    job.tend(0.5, whole=True)
    assert time.monotonic() - began < 1.5
    job.finish(0)


def test_the_seconds_of_a_command_count_from_its_start(runner, monkeypatch):
    popen = subprocess.Popen

    def slow(*args, **options):
        process = popen(*args, **options)
        time.sleep(0.5)
        return process

    monkeypatch.setattr(subprocess, "Popen", slow)
    job = runner.start("exec sleep 0.1")
    assert time.monotonic() - job.started >= 0.5
    job.finish()


def output_of(job, limit):
    """All that an answer with a job's output says."""
    with mycodeinterpreter.Result(job, limit, 40, 0) as result:
        return result.output()


@pytest.mark.parametrize("limit", [0, 1000, 500000])
def test_the_end_of_an_output_is_kept_where_the_log_is_full(runner, monkeypatch, limit):
    monkeypatch.setattr(mycodeinterpreter, "LOG_LIMIT", 300000)
    job = runner.start("seq 100001 200000; echo THE END; exit 3")
    job.tend(10)
    output = output_of(job, limit)
    assert output.startswith("100001\n100002\n") and output.count("[\u2026]") == 1
    shown, _, said = output.rpartition("[exit code 3; ")
    assert shown.endswith("\n200000\nTHE END\n")
    left_out = int(re.search("([0-9]+) bytes left out", said).group(1))
    assert len(shown) - len("\n[\u2026]\n") + left_out == 700008
    assert limit == 0 or len(shown) <= limit + 10
    job.finish(1)


def test_the_end_of_an_output_just_over_a_full_log_is_in_one_piece_with_it(runner, monkeypatch):
    monkeypatch.setattr(mycodeinterpreter, "LOG_LIMIT", 700000)
    job = runner.start("seq 100001 200000; echo THE END")
    job.tend(10)
    output = output_of(job, 0)
    assert output == "".join("%d\n" % n for n in range(100001, 200001)) + "THE END\n"
    job.finish(1)


@pytest.mark.parametrize("limit", range(1, 6))
def test_the_last_line_in_brackets_is_a_line_of_its_own(nosafe, limit):
    answer = run(nosafe, "printf 'one\\ntwo\\n'; exit 3", limit=limit)
    assert answer.body.split(b"\n")[-2].startswith(b"[exit code 3; ")


def test_a_run_directory_that_was_swept_away_is_made_again(start):
    daemon = start("noauth", "-nosafe")
    assert run(daemon, "cat", b"input").body == b"input"
    shutil.rmtree(str(daemon.run_directories()[0]))
    assert run(daemon, "cat", b"input").body == b"input"
    answer = run(daemon, "seq 100000")
    assert fetch(daemon, re.search(rb"output is in ([^\]]+)\]", answer.body).group(1).decode()) == NUMBERS


@needs_curl
def test_a_form_of_curl_may_be_multipart(nosafe, tmp_path):
    (tmp_path / "script").write_bytes(b"echo $0 and \xff\r\nmore\n")
    url = "http://127.0.0.1:%d/execcmd" % nosafe.port
    curl = ["curl", "-sS", "--form-string", "cmd=cat; exit 3", "-F", "stdin=@script", "-F", "limit=0", url]
    output = subprocess.run(curl, cwd=str(tmp_path), stdout=subprocess.PIPE, check=True, timeout=30).stdout
    assert output == b"echo $0 and \xff\r\nmore\n[exit code 3]\n"
    curl = ["curl", "-sS", "-F", "nonsense=x", "-F", "cmd=touch ran", url]
    output = subprocess.run(curl, stdout=subprocess.PIPE, check=True, timeout=30).stdout
    assert b"no parameter nonsense" in output and not ran(nosafe)


def ended(pid):
    wait_for(lambda: not alive(pid), what="the end of %d" % pid)


def test_what_is_in_the_pipe_when_the_shell_has_ended_is_taken(runner):
    if not sys.platform.startswith("linux"):
        pytest.skip("F_SETPIPE_SZ is Linux's")
    code = "import fcntl,os; fcntl.fcntl(1, 1031, 1 << 20); os.write(1, b'x' * 900000)"
    job = runner.start("exec %s -c %s" % (sys.executable, shlex.quote(code)))
    ended(job.process.pid)
    job.tend(5)
    assert job.size == 900000
    job.finish(1)


def test_a_log_is_for_this_account_alone(runner):
    before = os.umask(0)
    try:
        job = runner.start("seq 100000")
        job.finish()
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.stat(job.path).st_mode) == 0o600
    assert stat.S_IMODE(os.stat(runner.directory).st_mode) == 0o700


def test_what_is_started_while_it_ends_is_killed(runner):
    runner.kill()
    job = runner.start("exec sleep 60")
    job.finish(5)
    assert job.process.returncode == -signal.SIGKILL and not job.timed_out


def test_jobs_left_behind_are_killed_at_the_end_and_commands_long_over_are_forgotten(runner):
    job = runner.start("sleep 60 >&- 2>&- & echo $!")
    job.finish(5)
    left_behind = int(job.memory)
    for _ in range(50):
        runner.start("true").finish(5)
    assert alive(left_behind) and len(runner._processes) < 30
    runner.kill()
    ended(left_behind)


def test_a_command_without_a_descriptor_to_tend_it_with_is_killed(runner, monkeypatch):
    started, popen = [], subprocess.Popen

    def no_descriptor(process):
        started.append(process)
        raise OSError(24, "Too many open files")

    assert popen is subprocess.Popen
    monkeypatch.setattr(mycodeinterpreter, "end_of", no_descriptor)
    with pytest.raises(mycodeinterpreter.HTTPError) as raised:
        runner.start("exec sleep 60")
    assert raised.value.status == 500 and "Too many open files" in raised.value.message
    assert started[0].returncode == -signal.SIGKILL


def test_where_no_log_can_be_made_the_answer_has_both_ends(runner):
    job = runner.start("seq 100001 200000")
    job.path = "/nonexistent/log"
    job.tend(10)
    output = output_of(job, 2000)
    assert output.startswith("100001\n") and "\n200000\n[\u2026 698000 bytes left out \u2026]\n" in output
    job.finish(1)


def test_a_command_answered_already_is_killed_at_its_time_and_not_later(start):
    daemon = start("noauth", "-nosafe", "-wait", "1.5", "-timeout", "2")
    began = time.monotonic()
    answer = run(daemon, "exec sleep 300")
    assert answer.status == 202
    wait_for(lambda: not alive(int(answer.headers["X-Pid"])), 15, "the end of the command")
    assert 1.9 < time.monotonic() - began < 3


def test_a_group_whose_number_is_another_process_s_now_is_left_alone():
    with subprocess.Popen(["sleep", "300"], start_new_session=True) as process:
        waited_for = types.SimpleNamespace(pid=process.pid, returncode=0)
        try:
            assert not mycodeinterpreter.signal_group(waited_for, signal.SIGKILL)
            assert process.poll() is None
        finally:
            process.kill()


def test_a_removal_that_takes_long_does_not_delay_its_end(start, tmp_path):
    slow = tmp_path / "bin" / "rm"
    slow.parent.mkdir()
    slow.write_text("#!/bin/sh\nsleep 9\nexec /bin/rm \"$@\"\n")
    slow.chmod(0o755)
    daemon = start("noauth", "-nosafe", env={"PATH": "%s:%s" % (slow.parent, os.environ["PATH"])})
    assert run(daemon, "true").status == 200
    began = time.monotonic()
    assert daemon.stop() == 0
    assert time.monotonic() - began < 6  # 2 on an idle machine
    wait_for(lambda: not daemon.run_directories(), 30, "the directory to go")
