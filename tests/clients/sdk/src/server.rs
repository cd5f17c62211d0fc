//! The built server as a process: started, stopped, killed, started again on the same data.

use std::{
    io::{BufRead, BufReader},
    net::TcpListener,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result, ensure};

/// `allod serve --dev` on one free port of the loopback address, so that clients find it again.
pub(crate) struct Server {
    program: PathBuf,
    folder: PathBuf,
    port: u16,
    process: Child,
}

impl Server {
    /// Starts it and waits until it answers.
    pub(crate) fn start(program: PathBuf, folder: PathBuf) -> Result<Self> {
        let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        let process = spawn(&program, &folder, port)?;
        Ok(Self { program, folder, port, process })
    }

    /// Where it answers.
    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Tells it to stop, waits, and starts it again.
    pub(crate) fn restart(&mut self) -> Result<()> {
        let id = self.process.id().to_string();
        ensure!(Command::new("kill").arg(id).status()?.success());
        let status = self.process.wait()?;
        ensure!(status.success(), "the server ended with {status}");
        self.process = spawn(&self.program, &self.folder, self.port)?;
        Ok(())
    }

    /// Lets it finish nothing, and starts it again.
    pub(crate) fn kill_and_restart(&mut self) -> Result<()> {
        self.process.kill()?;
        self.process.wait()?;
        self.process = spawn(&self.program, &self.folder, self.port)?;
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn spawn(program: &PathBuf, folder: &PathBuf, port: u16) -> Result<Child> {
    let mut command = Command::new(program);
    for name in ["SERVER_NAME", "ALLOD_CONFIG", "ALLOD_SOCKET", "ALLOD_LOG"] {
        command.env_remove(name);
    }
    command.args(["serve", "--dev", "--port", &port.to_string(), "--data-dir"]).arg(folder);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut process = command.spawn().with_context(|| format!("cannot run {}", program.display()))?;
    let mut line = String::new();
    // Says on standard output where it answers, once it does.
    BufReader::new(process.stdout.take().context("no output")?).read_line(&mut line)?;
    ensure!(line.starts_with("allod serves localhost at "), "the server does not start: {line:?}");
    Ok(process)
}
