//! The servers that are measured: those that run already, and allod, which is started here.

use std::{
    ffi::OsString,
    net::{SocketAddr, TcpListener, ToSocketAddrs},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    str::FromStr,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use hyper::Uri;
use serde_json::Value;

use crate::client::Client;

/// A server that does not answer within this time has not started.
const START_TIME_MAX: Duration = Duration::from_secs(120);
/// How long one is given to stop.
const STOP_TIME_MAX: Duration = Duration::from_secs(30);
/// How often it is asked meanwhile.
const POLL: Duration = Duration::from_millis(1);

/// A server as it is named on the command line.
#[derive(Clone, Debug)]
pub(crate) struct Spec {
    name: String,
    address: SocketAddr,
    process: Option<u32>,
    secret: Option<String>,
    fan_out_max: usize,
}

impl FromStr for Spec {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let (name, rest) = text.split_once('=').context("a server is NAME=URL")?;
        let mut parts = rest.split(',');
        let address = address_of(parts.next().unwrap_or_default())?;
        let mut spec =
            Self { name: name.to_owned(), address, process: None, secret: None, fan_out_max: usize::MAX };
        for part in parts {
            match part.split_once('=') {
                Some(("pid", process)) => spec.process = Some(process.parse().context("pid")?),
                Some(("secret", secret)) => spec.secret = Some(secret.to_owned()),
                Some(("fan-out", people)) => spec.fan_out_max = people.parse().context("fan-out")?,
                _ => bail!("{part:?}: there are pid=, secret= and fan-out="),
            }
        }
        Ok(spec)
    }
}

/// Where a URL leads; only servers on this machine are put under load.
fn address_of(url: &str) -> anyhow::Result<SocketAddr> {
    let url: Uri = url.parse().with_context(|| format!("{url:?} is no URL"))?;
    if url.scheme_str() != Some("http") {
        bail!("{url}: only http:// is measured");
    }
    let host = url.host().context("the URL names no host")?;
    let mut addresses = (host, url.port_u16().unwrap_or(80)).to_socket_addrs()?;
    addresses.find(|address| address.ip().is_loopback()).with_context(|| {
        format!("{url} is not on this machine's loopback address; others are not put under load")
    })
}

/// A server under measurement.
#[derive(Debug)]
pub(crate) struct Server {
    /// What it is called in the report.
    pub(crate) name: String,
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// Its process, if that is known.
    pub(crate) process: Option<u32>,
    /// With which people are registered; without one, anybody may.
    pub(crate) secret: Option<String>,
    /// To most how many people one sends.
    pub(crate) fan_out_max: usize,
    program: Option<Program>,
}

/// A server that is started and stopped from here.
#[derive(Debug)]
struct Program {
    binary: PathBuf,
    arguments: Vec<OsString>,
    child: Child,
}

impl From<Spec> for Server {
    fn from(spec: Spec) -> Self {
        let Spec { name, address, process, secret, fan_out_max } = spec;
        Self { name, address, process, secret, fan_out_max, program: None }
    }
}

impl Server {
    /// Starts allod over a folder and says how long it took until it answered.
    pub(crate) async fn start(binary: &Path, data_dir: &Path) -> anyhow::Result<(Self, Duration)> {
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let port = address.port().to_string();
        let arguments = ["serve", "--dev", "--port", &port, "--data-dir"].map(OsString::from);
        let arguments = arguments.into_iter().chain([data_dir.as_os_str().to_owned()]).collect();
        Self::start_as(binary, address, arguments).await
    }

    /// Starts allod as one of servers that trust an authority.
    pub(crate) async fn among_servers(
        binary: &Path,
        data_dir: &Path,
        authority: &Path,
    ) -> anyhow::Result<Self> {
        let options = format!(
            "[egress]\nallowed_networks = [\"127.0.0.0/8\"]\n\
             [federation]\nmode = \"open\"\ncertificate_authorities = [\"{}\"]\n",
            authority.display(),
        );
        Self::with_options(binary, data_dir, &options).await
    }

    /// Starts allod with further sections of its configuration.
    pub(crate) async fn with_options(binary: &Path, data_dir: &Path, options: &str) -> anyhow::Result<Self> {
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let config = format!(
            "[server]\nname = \"{address}\"\ndata_dir = \"{}\"\n[listeners]\nclient = [\"{address}\"]\n\
             [accounts]\nregistration = \"open\"\npassword_memory = \"8 KiB\"\npassword_iterations = 1\n\
             [limits]\nrates = false\n{options}",
            data_dir.join("data").display(),
        );
        let file = data_dir.join("allod.toml");
        std::fs::write(&file, config)?;
        let arguments = vec!["serve".into(), "--config".into(), file.into_os_string()];
        Ok(Self::start_as(binary, address, arguments).await?.0)
    }

    async fn start_as(
        binary: &Path,
        address: SocketAddr,
        arguments: Vec<OsString>,
    ) -> anyhow::Result<(Self, Duration)> {
        let started = Instant::now();
        let child = spawn(binary, &arguments)?;
        let mut server = Self {
            name: "allod".to_owned(),
            address,
            process: Some(child.id()),
            secret: None,
            fan_out_max: usize::MAX,
            program: Some(Program { binary: binary.to_owned(), arguments, child }),
        };
        server.wait_until_up().await?;
        Ok((server, started.elapsed()))
    }

    /// Stops the server and starts it again, where it was started here; says how long the start took.
    pub(crate) async fn restart(&mut self) -> anyhow::Result<Option<Duration>> {
        let Some(program) = &mut self.program else { return Ok(None) };
        stop(&mut program.child).await?;
        let started = Instant::now();
        program.child = spawn(&program.binary, &program.arguments)?;
        self.process = Some(program.child.id());
        self.wait_until_up().await?;
        Ok(Some(started.elapsed()))
    }

    /// Stops it, if it was started here.
    pub(crate) async fn stop(mut self) -> anyhow::Result<()> {
        match &mut self.program {
            Some(program) => stop(&mut program.child).await,
            None => Ok(()),
        }
    }

    async fn wait_until_up(&mut self) -> anyhow::Result<()> {
        let started = Instant::now();
        loop {
            if let Ok(versions) = Client::new(self.address).get::<Value>("/_matrix/client/versions").await
                && versions.get("versions").is_some()
            {
                return Ok(());
            }
            if let Some(program) = &mut self.program
                && let Some(status) = program.child.try_wait()?
            {
                bail!("{} ended at its start: {status}", self.name);
            }
            if started.elapsed() > START_TIME_MAX {
                bail!("{} does not answer at {}", self.name, self.address);
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Only after an error is it still there.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(binary: &Path, arguments: &[OsString]) -> anyhow::Result<Child> {
    Command::new(binary)
        .args(arguments)
        .env("ALLOD_LOG", "warn")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .with_context(|| format!("cannot start {}", binary.display()))
}

async fn stop(child: &mut Child) -> anyhow::Result<()> {
    let asked = Command::new("kill").arg(child.id().to_string()).status()?;
    if !asked.success() {
        bail!("cannot stop process {}", child.id());
    }
    let since = Instant::now();
    while child.try_wait()?.is_none() {
        if since.elapsed() > STOP_TIME_MAX {
            bail!("process {} does not stop", child.id());
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}
