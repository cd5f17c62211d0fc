"""The built server as a process: started, stopped, killed, started again on the same data."""

import os
import signal
import subprocess


class Server:
    """`allod serve --dev` on a free port of the loopback address."""

    def __init__(self, program, folder):
        self.program = program
        self.folder = folder
        self.process = None
        self.url = None

    def start(self):
        surroundings = ("SERVER_NAME", "ALLOD_CONFIG", "ALLOD_SOCKET", "ALLOD_LOG")
        self.process = subprocess.Popen(
            [self.program, "serve", "--dev", "--port", "0", "--data-dir", self.folder],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={name: value for name, value in os.environ.items() if name not in surroundings},
        )
        # Says on standard output where it answers, once it does.
        line = self.process.stdout.readline().split()
        if not line:
            raise RuntimeError("the server does not start")
        self.url = line[-1]

    def stop(self):
        """Tells it to stop, and waits."""
        self._end(signal.SIGTERM)
        if self.process.returncode != 0:
            raise RuntimeError(f"the server ended with {self.process.returncode}")

    def kill(self):
        """Lets it finish nothing."""
        self._end(signal.SIGKILL)

    def _end(self, number):
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(timeout=60)
            self.process.stdout.close()
