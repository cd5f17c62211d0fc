//! The built server as processes that talk to each other over TLS on the loopback address.

use std::{
    fs,
    io::{BufRead, BufReader},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

/// The longest that Synapse takes to answer after its start.
const START_TIME_MAX: Duration = Duration::from_secs(60);

/// Servers with certificates of an authority of their own.
pub(crate) struct Servers {
    /// In the order of their start.
    pub(crate) all: Vec<Server>,
    _folder: TempDir,
}

/// What a server is.
#[derive(Clone, Debug)]
enum Kind {
    /// The server under test.
    Allod(PathBuf),
    /// An unmodified Synapse, run by this Python.
    Synapse(PathBuf),
}

/// A server that can be killed and started again on the same data, ports included.
pub(crate) struct Server {
    /// Its name.
    pub(crate) name: String,
    kind: Kind,
    config: PathBuf,
    client_port: u16,
    process: Option<Child>,
}

impl Servers {
    /// Starts some.
    pub(crate) fn start(program: &Path, count: usize) -> Result<Self> {
        Self::start_all(vec![Kind::Allod(program.to_owned()); count])
    }

    /// Starts one, and a Synapse.
    pub(crate) fn start_with_synapse(program: &Path, python: &Path) -> Result<Self> {
        Self::start_all(vec![Kind::Allod(program.to_owned()), Kind::Synapse(python.to_owned())])
    }

    fn start_all(kinds: Vec<Kind>) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        certify(folder.path())?;
        let mut all = Vec::new();
        for (number, kind) in kinds.into_iter().enumerate() {
            let mut server = Server::configure(kind, folder.path(), number)?;
            server.start()?;
            all.push(server);
        }
        Ok(Self { all, _folder: folder })
    }

    /// The one for the person of this number.
    pub(crate) fn of(&self, person: usize) -> &Server {
        &self.all[person % self.all.len()]
    }
}

impl Server {
    fn configure(kind: Kind, folder: &Path, number: usize) -> Result<Self> {
        let (client_port, federation_port) = (free_port()?, free_port()?);
        let name = format!("localhost:{federation_port}");
        let config = folder.join(format!("{number}.conf"));
        let data = folder.join(format!("data-{number}"));
        fs::create_dir(&data)?;
        let text = match &kind {
            Kind::Allod(_) => allod(folder, &data, &name, (client_port, federation_port)),
            Kind::Synapse(_) => synapse(folder, &data, &name, (client_port, federation_port)),
        };
        fs::write(&config, text)?;
        if let Kind::Synapse(python) = &kind {
            let mut command = Command::new(python);
            command.args(["-m", "synapse.app.homeserver", "--generate-keys", "-c"]).arg(&config);
            let output = command.output()?;
            ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(Self { name, kind, config, client_port, process: None })
    }

    /// Where clients reach it.
    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.client_port)
    }

    /// Starts it and waits until it answers.
    pub(crate) fn start(&mut self) -> Result<()> {
        let mut command = match &self.kind {
            Kind::Allod(program) => Command::new(program),
            Kind::Synapse(python) => Command::new(python),
        };
        for name in ["SERVER_NAME", "ALLOD_CONFIG", "ALLOD_SOCKET", "ALLOD_LOG"] {
            command.env_remove(name);
        }
        match &self.kind {
            Kind::Allod(_) => command.args(["serve", "--config"]).arg(&self.config),
            Kind::Synapse(_) => command.args(["-m", "synapse.app.homeserver", "-c"]).arg(&self.config),
        };
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut process = command.spawn().with_context(|| format!("cannot run {:?}", self.kind))?;
        let output = process.stdout.take().context("no output")?;
        self.process = Some(process);
        match &self.kind {
            Kind::Allod(_) => {
                let mut line = String::new();
                BufReader::new(output).read_line(&mut line)?;
                ensure!(line.starts_with("allod serves "), "the server does not start: {line:?}");
            }
            Kind::Synapse(_) => {
                let began = Instant::now();
                while TcpStream::connect(("127.0.0.1", self.client_port)).is_err() {
                    ensure!(began.elapsed() < START_TIME_MAX, "Synapse does not start");
                    std::thread::sleep(Duration::from_millis(100));
                }
            }
        }
        Ok(())
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) -> Result<()> {
        if let Some(mut process) = self.process.take() {
            process.kill()?;
            process.wait()?;
        }
        Ok(())
    }

    /// Stops the process without ending it, or lets it go on: to others it is as if the network were cut.
    pub(crate) fn cut_off(&self, yes: bool) -> Result<()> {
        let process = self.process.as_ref().context("it does not run")?;
        let signal = if yes { "-STOP" } else { "-CONT" };
        ensure!(Command::new("kill").args([signal, &process.id().to_string()]).status()?.success());
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.kill();
    }
}

/// The configuration of the server under test, with its ports for clients and other servers.
fn allod(folder: &Path, data: &Path, name: &str, (client, federation): (u16, u16)) -> String {
    let (path, data) = (folder.display(), data.display());
    format!(
        r#"
[server]
name = "{name}"
data_dir = "{data}"
[listeners]
client = ["127.0.0.1:{client}"]
federation = ["127.0.0.1:{federation}"]
certificate = "{path}/server.pem"
certificate_key = "{path}/server.key"
[accounts]
registration = "open"
password_memory = "8 KiB"
password_iterations = 1
[limits]
rates = false
[egress]
allowed_networks = ["127.0.0.0/8", "::1"]
[federation]
mode = "open"
certificate_authorities = ["{path}/authority.pem"]
"#
    )
}

/// The same for Synapse.
fn synapse(folder: &Path, data: &Path, name: &str, (client, federation): (u16, u16)) -> String {
    let (path, data) = (folder.display(), data.display());
    let limits = "{per_second: 100000, burst_count: 100000}";
    format!(
        r#"
server_name: "{name}"
public_baseurl: "http://127.0.0.1:{client}/"
pid_file: {data}/homeserver.pid
media_store_path: {data}/media
signing_key_path: {data}/signing.key
report_stats: false
trusted_key_servers: []
suppress_key_server_warning: true
tls_certificate_path: {path}/server.pem
tls_private_key_path: {path}/server.key
federation_custom_ca_list: [{path}/authority.pem]
ip_range_blacklist: []
listeners:
  - {{port: {client}, bind_addresses: ["127.0.0.1"], type: http, resources: [{{names: [client]}}]}}
  - {{port: {federation}, bind_addresses: ["127.0.0.1"], type: http, tls: true, resources: [{{names: [federation]}}]}}
database: {{name: sqlite3, args: {{database: {data}/homeserver.db}}}}
enable_registration: true
enable_registration_without_verification: true
bcrypt_rounds: 4
experimental_features: {{msc3967_enabled: true}}
federation: {{destination_max_retry_interval: 2s, destination_min_retry_interval: 1s, destination_retry_multiplier: 1}}
rc_message: {limits}
rc_registration: {limits}
rc_login: {{address: {limits}, account: {limits}, failed_attempts: {limits}}}
rc_joins: {{local: {limits}, remote: {limits}}}
rc_joins_per_room: {limits}
rc_invites: {{per_room: {limits}, per_user: {limits}, per_issuer: {limits}}}
rc_key_requests: {limits}
macaroon_secret_key: a test
form_secret: a test
"#
    )
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// A certificate authority, and the one certificate that all servers on `localhost` show.
fn certify(folder: &Path) -> Result<()> {
    let openssl = |line: &str| -> Result<()> {
        let arguments = line.split(' ').map(|argument| argument.replace('+', " "));
        let output = Command::new("openssl").args(arguments).current_dir(folder).output()?;
        ensure!(output.status.success(), "openssl: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    };
    fs::write(
        folder.join("names.ext"),
        "subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth\n",
    )?;
    let curve = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    openssl(&format!(
        "req -x509 {curve} -days 2 -subj /CN=Tests -addext basicConstraints=critical,CA:TRUE -addext \
         keyUsage=keyCertSign -keyout authority.key -out authority.pem"
    ))?;
    openssl(&format!("req {curve} -subj /CN=localhost -keyout server.key -out server.csr"))?;
    openssl(
        "x509 -req -days 2 -in server.csr -CA authority.pem -CAkey authority.key -CAcreateserial -extfile \
         names.ext -out server.pem",
    )
}
