"""Homeservers as processes that talk to each other over TLS: allod, and Synapse, under names on the loopback address."""

import os
import re
import signal
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request

# The longest that a server takes to answer after its start.
START_SECONDS_MAX = 120


def free_ports(count):
    """Ports that nobody has at present."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [listener.getsockname()[1] for listener in sockets]
    for listener in sockets:
        listener.close()
    return ports


class Authority:
    """A private certificate authority, and the one certificate that all servers on `localhost` show."""

    def __init__(self, folder):
        self.certificate = os.path.join(folder, "authority.pem")
        self.server_certificate = os.path.join(folder, "server.pem")
        self.server_key = os.path.join(folder, "server.key")
        key = os.path.join(folder, "authority.key")
        request = os.path.join(folder, "server.csr")
        names = os.path.join(folder, "names.ext")
        with open(names, "w") as file:
            file.write("subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth\n")
        curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        extensions = ["-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=keyCertSign"]
        self._openssl(
            "req", "-x509", *curve, "-days", "2", "-subj", "/CN=Tests", *extensions, "-keyout", key,
            "-out", self.certificate,
        )
        self._openssl("req", *curve, "-subj", "/CN=localhost", "-keyout", self.server_key, "-out", request)
        self._openssl(
            "x509", "-req", "-days", "2", "-in", request, "-CA", self.certificate, "-CAkey", key,
            "-CAcreateserial", "-extfile", names, "-out", self.server_certificate,
        )

    @staticmethod
    def _openssl(*arguments):
        subprocess.run(["openssl", *arguments], check=True, capture_output=True)


class Server:
    """A process with a folder; it can be stopped and started again on the same data."""

    kind = None
    # Different for each, so that rules about servers can tell them apart.
    host = "localhost"

    def __init__(self, folder, authority):
        os.makedirs(folder)
        self.folder = folder
        self.client_port, self.federation_port = free_ports(2)
        self.name = f"{self.host}:{self.federation_port}"
        self.url = f"http://127.0.0.1:{self.client_port}"
        self.authority = authority
        self.process = None
        self.output = os.path.join(folder, "output.txt")
        self.configure()

    def configure(self):
        """Writes the configuration."""
        raise NotImplementedError

    def command(self):
        """What starts it."""
        raise NotImplementedError

    def start(self):
        """Starts it, and waits until it answers clients and other servers."""
        kept = {name: value for name, value in os.environ.items() if not re.match("ALLOD_|SERVER_NAME", name)}
        with open(self.output, "ab") as output:
            self.process = subprocess.Popen(
                self.command(), stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=kept, cwd=self.folder
            )
        trusted = ssl.create_default_context(cafile=self.authority.certificate)
        self._await(f"{self.url}/_matrix/client/versions", None)
        self._await(f"https://{self.name}/_matrix/key/v2/server", trusted)

    def _await(self, url, context):
        until = time.monotonic() + START_SECONDS_MAX
        while True:
            try:
                with urllib.request.urlopen(url, timeout=10, context=context):
                    return
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                if self.process.poll() is not None or time.monotonic() > until:
                    raise RuntimeError(f"{self.kind} does not answer:\n{self.tail()}") from None
                time.sleep(0.1)

    def tail(self):
        """The last lines that it printed."""
        with open(self.output, errors="replace") as file:
            return "".join(file.readlines()[-30:])

    def stop(self, number=signal.SIGTERM):
        """Ends it, and waits until it has."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)
            self.process.wait(timeout=60)


class Allod(Server):
    """The server under test."""

    kind = "allod"

    def __init__(self, program, folder, authority):
        self.program = program
        super().__init__(folder, authority)

    def configure(self):
        self.config = os.path.join(self.folder, "allod.toml")
        data = os.path.join(self.folder, "data")
        os.makedirs(data)
        with open(self.config, "w") as file:
            file.write(f"""
[server]
name = "{self.name}"
data_dir = "{data}"
[listeners]
client = ["127.0.0.1:{self.client_port}"]
federation = ["127.0.0.1:{self.federation_port}"]
certificate = "{self.authority.server_certificate}"
certificate_key = "{self.authority.server_key}"
[accounts]
registration = "open"
password_memory = "8 KiB"
password_iterations = 1
[rooms]
publish = "everyone"
directory_without_account = true
[limits]
rates = false
[federation]
mode = "open"
certificate_authorities = ["{self.authority.certificate}"]
[egress]
allowed_networks = ["127.0.0.0/8", "::1"]
""")

    def command(self):
        return [self.program, "serve", "--config", self.config]


class Synapse(Server):
    """An unmodified Synapse on SQLite."""

    kind = "synapse"
    host = "127.0.0.1"

    def __init__(self, python, folder, authority):
        self.python = python
        super().__init__(folder, authority)

    def configure(self):
        self.config = os.path.join(self.folder, "homeserver.yaml")
        limits = "{per_second: 100000, burst_count: 100000}"
        with open(os.path.join(self.folder, "log.yaml"), "w") as file:
            file.write(
                "version: 1\nhandlers: {out: {class: logging.StreamHandler}}\n"
                "root: {level: WARNING, handlers: [out]}\ndisable_existing_loggers: false\n"
            )
        with open(self.config, "w") as file:
            file.write(f"""
server_name: "{self.name}"
public_baseurl: "{self.url}/"
pid_file: {self.folder}/homeserver.pid
log_config: {self.folder}/log.yaml
media_store_path: {self.folder}/media
signing_key_path: {self.folder}/signing.key
report_stats: false
trusted_key_servers: []
suppress_key_server_warning: true
tls_certificate_path: {self.authority.server_certificate}
tls_private_key_path: {self.authority.server_key}
federation_custom_ca_list: [{self.authority.certificate}]
ip_range_blacklist: []
listeners:
  - {{port: {self.client_port}, bind_addresses: ["127.0.0.1"], type: http, resources: [{{names: [client]}}]}}
  - {{port: {self.federation_port}, bind_addresses: ["127.0.0.1"], type: http, tls: true,
      resources: [{{names: [federation]}}]}}
database: {{name: sqlite3, args: {{database: {self.folder}/homeserver.db}}}}
enable_registration: true
enable_registration_without_verification: true
bcrypt_rounds: 4
room_list_publication_rules: [{{action: allow}}]
allow_public_rooms_without_auth: true
allow_public_rooms_over_federation: true
federation: {{destination_max_retry_interval: 2s, destination_min_retry_interval: 1s,
  destination_retry_multiplier: 1}}
rc_message: {limits}
rc_registration: {limits}
rc_login: {{address: {limits}, account: {limits}, failed_attempts: {limits}}}
rc_joins: {{local: {limits}, remote: {limits}}}
rc_joins_per_room: {limits}
rc_invites: {{per_room: {limits}, per_user: {limits}, per_issuer: {limits}}}
rc_room_creation: {limits}
rc_federation: {{window_size: 1000, sleep_limit: 100000, sleep_delay: 1, reject_limit: 100000, concurrent: 100}}
""")
        arguments = ["-m", "synapse.app.homeserver", "-c", self.config, "--generate-keys"]
        subprocess.run([self.python, *arguments], check=True, capture_output=True, cwd=self.folder)

    def command(self):
        return [self.python, "-m", "synapse.app.homeserver", "-c", self.config]
