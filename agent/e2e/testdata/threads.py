"""Counts for clients of traffic: each request passes through a thread of its connection, a queue, one of four worker
threads, a child process behind a pipe, and memory that is shared with it; the number that comes out must be right in
all of them. An interval timer ticks in the main thread meanwhile."""

import multiprocessing
import queue
import signal
import socketserver
import subprocess
import sys
import threading
import time

ADDRESS = ("", int(sys.argv[1]))


def child(pipe, shared):
    """Counts what comes through the pipe."""
    n = 0
    while True:
        pipe.recv()
        n += 1
        with shared.get_lock():
            shared.value += 1
        pipe.send(n)


class Counter:
    def __init__(self):
        self.jobs = queue.Queue()
        self.lock = threading.Lock()
        self.n = 0
        self.shared = multiprocessing.Value("q", 0)
        self.pipe, theirs = multiprocessing.Pipe()
        multiprocessing.Process(target=child, args=(theirs, self.shared), daemon=True).start()
        self.cat = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        for _ in range(4):
            threading.Thread(target=self.work, daemon=True).start()

    def work(self):
        while True:
            answer = self.jobs.get()
            with self.lock:
                answer.put(self.count())

    def count(self):
        self.n += 1
        self.pipe.send("next")
        self.cat.stdin.write(f"{self.n}\n")
        told = [self.pipe.recv(), int(self.cat.stdout.readline()), self.shared.value]
        return f":{self.n}" if told == [self.n] * 3 else f"-{self.n} here, {told} elsewhere"


class Handler(socketserver.StreamRequestHandler):
    def handle(self):
        for _ in self.rfile:
            answer = queue.Queue()
            COUNTER.jobs.put(answer)
            self.wfile.write(f"{answer.get()}\r\n".encode())


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


COUNTER = Counter()
TICKS = []
signal.signal(signal.SIGALRM, lambda *_: TICKS.append(time.monotonic()))
signal.setitimer(signal.ITIMER_REAL, 0.1, 0.1)
server = Server(ADDRESS, Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
while True:
    signal.pause()
    with open("/run/threads.ticks", "w", encoding="ascii") as f:
        f.write(f"{len(TICKS)}\n")
