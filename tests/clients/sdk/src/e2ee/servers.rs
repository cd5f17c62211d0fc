//! The built server as processes that talk to each other over TLS on the loopback address.

use std::{
    fs,
    io::{BufRead, BufReader},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

/// Servers with certificates of an authority of their own.
pub(crate) struct Servers {
    /// In the order of their start.
    pub(crate) all: Vec<Server>,
    _folder: TempDir,
}

/// A server that can be killed and started again on the same data, ports included.
pub(crate) struct Server {
    /// Its name.
    pub(crate) name: String,
    program: PathBuf,
    config: PathBuf,
    client_port: u16,
    process: Option<Child>,
}

impl Servers {
    /// Starts some.
    pub(crate) fn start(program: &Path, count: usize) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        certify(folder.path())?;
        let mut all = Vec::new();
        for number in 0..count {
            let mut server = Server::configure(program, folder.path(), number)?;
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
    fn configure(program: &Path, folder: &Path, number: usize) -> Result<Self> {
        let (client_port, federation_port) = (free_port()?, free_port()?);
        let name = format!("localhost:{federation_port}");
        let config = folder.join(format!("{number}.toml"));
        let (path, data) = (folder.display(), folder.join(format!("data-{number}")));
        fs::create_dir(&data)?;
        let text = format!(
            r#"
[server]
name = "{name}"
data_dir = "{}"
[listeners]
client = ["127.0.0.1:{client_port}"]
federation = ["127.0.0.1:{federation_port}"]
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
"#,
            data.display()
        );
        fs::write(&config, text)?;
        Ok(Self { name, program: program.to_owned(), config, client_port, process: None })
    }

    /// Where clients reach it.
    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.client_port)
    }

    /// Starts it and waits until it answers.
    pub(crate) fn start(&mut self) -> Result<()> {
        let mut command = Command::new(&self.program);
        for name in ["SERVER_NAME", "ALLOD_CONFIG", "ALLOD_SOCKET", "ALLOD_LOG"] {
            command.env_remove(name);
        }
        command.args(["serve", "--config"]).arg(&self.config);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut process =
            command.spawn().with_context(|| format!("cannot run {}", self.program.display()))?;
        let mut line = String::new();
        BufReader::new(process.stdout.take().context("no output")?).read_line(&mut line)?;
        self.process = Some(process);
        ensure!(line.starts_with("allod serves "), "the server does not start: {line:?}");
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
