//! The built program, started as a process of its own, and ended in every way that a process can end.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
};

/// The program, with nothing said to it yet.
pub(crate) fn allod() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_allod"));
    // What the surroundings set is no part of a test.
    for name in ["SERVER_NAME", "ALLOD_CONFIG", "ALLOD_SOCKET", "ALLOD_LOG"] {
        command.env_remove(name);
    }
    command.stdin(Stdio::null());
    command
}

/// A server on the loopback address, ended when it is dropped.
pub(crate) struct Running {
    process: Child,
    /// `HOST:PORT`, where it answers.
    pub(crate) address: String,
}

impl Running {
    /// Starts it and waits until it answers.
    pub(crate) fn start(folder: &Path) -> Self {
        Self::answering(Self::spawn(folder), "localhost")
    }

    /// Starts the server of a configuration, which has this name, and waits until it answers.
    pub(crate) fn configured(file: &Path, name: &str) -> Self {
        let mut command = allod();
        command.args(["serve", "--config"]).arg(file);
        Self::answering(command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap(), name)
    }

    fn answering(mut process: Child, name: &str) -> Self {
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim_end().strip_prefix(&format!("allod serves {name} at http://"));
        let address = address.unwrap_or_else(|| panic!("the server does not start: {line:?}")).to_owned();
        assert!(address.starts_with("127.0.0.1:"), "{address}");
        Self { process, address }
    }

    /// Starts it and waits for nothing.
    pub(crate) fn spawn(folder: &Path) -> Child {
        let mut command = allod();
        command.args(["serve", "--dev", "--port", "0", "--data-dir"]).arg(folder);
        command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
    }

    /// The most memory that it has held so far, in KiB.
    pub(crate) fn memory_kib_peak(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// Tells it to stop, and waits.
    pub(crate) fn stop(mut self) {
        let id = self.process.id().to_string();
        assert!(Command::new("kill").arg(id).status().unwrap().success());
        assert!(self.process.wait().unwrap().success());
    }

    /// SIGKILL.
    pub(crate) fn kill(mut self) {
        assert_eq!(self.process.try_wait().unwrap(), None, "the server ended by itself");
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It has ended already where the test went well.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
