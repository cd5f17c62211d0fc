//! The built program, started as a process of its own, and ended in every way that a process can end.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
};

/// What the surroundings set is no part of a test.
const SURROUNDINGS: [&str; 5] = ["SERVER_NAME", "ALLOD_CONFIG", "ALLOD_SOCKET", "ALLOD_LOG", "NOTIFY_SOCKET"];

/// System calls by which a process speaks to others, or could do so unseen.
const CALLS: &str = "trace=socket,connect,sendto,sendmsg,sendmmsg,io_uring_setup";

/// A tracer of a program that is still to be named, which writes into this file.
fn strace(trace: &Path) -> Command {
    let mut command = Command::new("strace");
    command.args(["-D", "-f", "-q", "-s", "0", "--seccomp-bpf", "-e", CALLS, "-e", "signal=none", "-o"]);
    command.arg(trace);
    command
}

/// Why processes cannot be traced here, if they cannot.
pub(crate) fn untraceable() -> Option<String> {
    let trace = tempfile::NamedTempFile::new().unwrap();
    match strace(trace.path()).arg("true").output() {
        Ok(output) if output.status.success() && trace_ended(trace.path()) => None,
        other => Some(format!("{other:?}")),
    }
}

/// Waits until the tracer has seen the end of the process.
pub(crate) fn trace_ended(trace: &Path) -> bool {
    (0..500).any(|_| {
        let ended = fs::read_to_string(trace).is_ok_and(|text| text.contains("+++ exited with 0 +++"));
        if !ended {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        ended
    })
}

/// The program, with nothing said to it yet.
pub(crate) fn allod() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_allod"));
    for name in SURROUNDINGS {
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

    /// The same under `strace`, which writes down every socket that the process and its threads open, and wherever they
    /// connect or send something to.
    pub(crate) fn traced(file: &Path, name: &str, trace: &Path) -> Self {
        // The tracer is no parent, so that the process is this one's own child as ever.
        let mut command = strace(trace);
        command.arg(env!("CARGO_BIN_EXE_allod")).args(["serve", "--config"]).arg(file);
        for name in SURROUNDINGS {
            command.env_remove(name);
        }
        command.stdin(Stdio::null());
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
