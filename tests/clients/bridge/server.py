"""The built server as a process, with an application service in its configuration."""

import asyncio
import os
import signal
import socket
import time

import aiohttp


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Server:
    """`allod serve` on a port of the loopback address, with a registration file."""

    def __init__(self, program, folder, registration):
        self.program = program
        self.file = f"{folder}/allod.toml"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.process = None
        with open(self.file, "w") as file:
            file.write(
                f"""
[server]
name = "localhost"
data_dir = "{folder}/data"
[listeners]
client = ["127.0.0.1:{self.port}"]
[accounts]
registration = "open"
password_memory = "8 KiB"
password_iterations = 1
[limits]
rates = false
[appservices]
registrations = ["{registration}"]
"""
            )

    async def start(self):
        surroundings = ("SERVER_NAME", "ALLOD_CONFIG", "ALLOD_SOCKET", "ALLOD_LOG")
        self.process = await asyncio.create_subprocess_exec(
            *(self.program, "serve", "--config", self.file),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            env={name: value for name, value in os.environ.items() if name not in surroundings},
        )
        until = time.monotonic() + 60
        async with aiohttp.ClientSession() as session:
            while time.monotonic() < until:
                try:
                    async with session.get(f"{self.url}/_matrix/client/versions"):
                        return
                except aiohttp.ClientError:
                    await asyncio.sleep(0.05)
        raise RuntimeError("the server does not start")

    async def end(self, number):
        """Tells it to stop (SIGTERM), or lets it finish nothing (SIGKILL)."""
        if self.process is not None and self.process.returncode is None:
            self.process.send_signal(number)
            status = await asyncio.wait_for(self.process.wait(), 60)
            if number == signal.SIGTERM and status != 0:
                raise RuntimeError(f"the server ended with {status}")
