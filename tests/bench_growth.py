"""How the costs of the program grow with connections, files, background jobs and prompts; `make bench-growth`.

Nothing may grow faster than linearly, and memory by threads alone. ONLY=jobs,prompts takes some parts.
"""

import contextlib
import fcntl
import os
import pty
import resource
import termios
import threading
import time
import urllib.parse

import bench


def grown(part, peer, scratch):
    """Prints the table of a part: rows that begin with a count; says whether a cost grows faster than the count does.

    Of a cost the least of three takes counts, and a third more is taken for noise.
    """
    title, rows, costs = part(peer, scratch)
    for _ in range(2):
        for row, other in zip(rows, part(peer, scratch)[1]):
            row.update({cost: min(row[cost], other[cost]) for cost in costs})
    print("\n" + title)
    first, *names = rows[0]
    for row in [dict(zip(rows[0], rows[0]))] + rows:
        print("  " + " ".join("%16s" % (cell if isinstance(cell, str) else bench.shown(cell)) for cell in row.values()))
    steps = list(zip(rows, rows[1:]))
    steep = [name for name in costs for a, b in steps if b[name] / a[name] > 4 / 3 * b[first] / a[first]]
    verdict = "MISSED by " + ", ".join(steep) if steep else "holds"
    print("  none of these grows faster than linearly: %s: %s" % (", ".join(costs), verdict))
    for row in rows:
        if "threads" in row and row is not rows[0] and row["threads"] > rows[0]["threads"]:
            each = (row["MiB"] - rows[0]["MiB"]) * 1024 / (row["threads"] - rows[0]["threads"])
            print("  memory for each thread more, at %s: %.0f KiB" % (bench.shown(row[first]), each))
    return rows


def growth_of_connections(peer, scratch):
    rows = []
    for count in (1, 8, 64, 256):
        with bench.Process(peer, scratch) as server:
            asks = (bench.OURS["missing"], bench.OURS["exec"])
            small, commands = (max(bench.rate(server, ask, count, scratch) for _ in range(3)) for ask in asks)
            socks = [server.connect() for _ in range(count)]
            for sock in socks:
                sock.sendall(server.request(bench.OURS["missing"]))
                bench.read_answer(sock)
            rows.append({"connections": count, "404s/s": small, "ms for one each": count / small * 1000,
                         "execcmd/s": commands, "ms for one each ": count / commands * 1000,
                         "threads": server.status("Threads"), "MiB": server.status("VmRSS") / 1024})
            for sock in socks:
                sock.close()
    return "connections", rows, ["ms for one each", "ms for one each "]


def growth_of_files(peer, scratch):
    rows, big = [], scratch / "work" / "big"
    for size in (1024, bench.MIB, 64 * bench.MIB, bench.GIB, 4 * bench.GIB):
        bench.fill(big, size)
        with bench.Process(peer, scratch) as server:
            got = bench.fetch(server, bench.OURS["get"], size)
            bench.touch(2 * size + bench.GIB)
            sent = bench.store(server, bench.OURS["send"], big)
            rows.append({"KiB": size / 1024, "get-file, ms": got * 1000, "send-file, ms": sent * 1000,
                         "peak MiB": server.status("VmHWM") / 1024})
    big.unlink()
    return "files", rows, ["get-file, ms", "send-file, ms", "peak MiB"]


def used(server, seconds=2):
    """Milliseconds of processor time that a server takes in a second when nobody asks for anything."""
    start = server.processor()
    time.sleep(seconds)
    return (server.processor() - start) / seconds * 1000


def growth_of_jobs(peer, scratch):
    line = "exec perl -e '$| = 1; print \"x\\n\" while sleep 1'"  # a process that starts no others
    rows, job = [], "POST /execcmd?wait=0&cmd=" + urllib.parse.quote(line)
    for count in (1, 10, 100, 1000):
        with bench.Process(peer, scratch) as server, server.connect() as sock:
            start = server.processor()  # not by the clock, as those that run already take their time, too
            for _ in range(count):
                sock.sendall(server.request(job))
                if bench.read_answer(sock) != 202:
                    raise ValueError("a job did not start: " + server.log.read_text()[-300:])
            seconds = server.processor() - start
            rows.append({"jobs": count, "start them, CPU ms": seconds * 1000, "CPU, ms/s": used(server),
                         "execcmd, p50 ms": bench.p50(server, bench.OURS["exec"]), "threads": server.status("Threads"),
                         "MiB": server.status("VmRSS") / 1024})
    return "background jobs whose output goes on", rows, ["start them, CPU ms", "CPU, ms/s", "execcmd, p50 ms"]


def read_screen(master, screen):
    """Adds what a pseudo-terminal shows to a bytearray, lest it block who writes; until its other end is closed."""
    with contextlib.suppress(OSError), open(master, "rb", 0) as terminal:
        while True:
            screen += terminal.read(65536)


def growth_of_prompts(peer, scratch):
    rows, asking = [], peer._replace(command=[word for word in peer.command if word != "-nosafe"])
    for count in (1, 4, 16):
        master, slave = pty.openpty()
        terminal = {"stdin": slave, "stderr": slave, "start_new_session": True}
        terminal["preexec_fn"] = lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        with bench.Process(asking, scratch, **terminal) as server:
            os.close(slave)
            screen = bytearray()
            threading.Thread(target=read_screen, args=(master, screen), daemon=True).start()
            socks = [server.connect() for _ in range(count)]
            for sock in socks:
                sock.sendall(server.request(bench.OURS["exec"]))
            row = {"prompts": count, "CPU, ms/s": used(server), "404, p50 ms": bench.p50(server, bench.OURS["missing"]),
                   "threads": server.status("Threads"), "MiB": server.status("VmRSS") / 1024}
            start = time.perf_counter()
            for number in range(count):
                while screen.count(b"y = yes") <= number and time.perf_counter() < start + 30:
                    time.sleep(0.001)
                os.write(master, b"y\n")
            if {bench.read_answer(sock) for sock in socks} != {200}:
                raise ValueError("not every yes ran what was asked for")
            rows.append(dict(row, **{"y to each, ms": (time.perf_counter() - start) * 1000}))
    return "prompts that wait", rows, ["CPU, ms/s", "404, p50 ms", "y to each, ms"]


def growth(found, scratch):
    """The tables of growth, each printed as it is made, and kept."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)  # for 1000 jobs
    parts = (growth_of_connections, growth_of_files, growth_of_jobs, growth_of_prompts)
    parts = [part for part in parts if not bench.ONLY or part.__name__.rpartition("_")[2] in bench.ONLY]
    bench.keep("growth", {part.__name__: grown(part, found[bench.US], scratch) for part in parts})


if __name__ == "__main__":
    with bench.scratch_directory() as directory:
        growth(bench.peers(directory), directory)
