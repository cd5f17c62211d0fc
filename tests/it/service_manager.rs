//! The program as a service manager sees it: what it tells, the sockets that it takes, and what watches it.

use std::{
    collections::VecDeque,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::net::UnixDatagram,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use crate::running::{Running, allod};

/// The manager's side of sd_notify.
struct Manager {
    socket: UnixDatagram,
    heard: VecDeque<String>,
}

impl Manager {
    fn new(path: &Path) -> Self {
        let socket = UnixDatagram::bind(path).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        Self { socket, heard: VecDeque::new() }
    }

    /// What the server says next, signs of life apart.
    fn next(&mut self) -> String {
        loop {
            if let Some(message) = self.heard.pop_front() {
                return message;
            }
            let message = self.any();
            self.heard.extend(Some(message).filter(|message| message != "WATCHDOG=1\n"));
        }
    }

    fn any(&self) -> String {
        let mut bytes = [0; 4096];
        let length = self.socket.recv(&mut bytes).expect("the server says nothing");
        String::from_utf8(bytes[..length].to_vec()).unwrap()
    }
}

fn signal(process: &Child, name: &str) {
    let status = Command::new("kill").arg(format!("-{name}")).arg(process.id().to_string()).status();
    assert!(status.unwrap().success());
}

#[test]
fn it_is_told_of_start_reload_life_and_end() {
    let folder = tempfile::tempdir().unwrap();
    let mut manager = Manager::new(&folder.path().join("notify"));
    let mut process = allod()
        .args(["serve", "--dev", "--port", "0", "--data-dir"])
        .arg(folder.path().join("data"))
        .env("NOTIFY_SOCKET", folder.path().join("notify"))
        .env("WATCHDOG_USEC", "30000")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let started = manager.next();
    assert!(started.starts_with("READY=1\nSTATUS=allod serves localhost at http://127.0.0.1:"), "{started}");
    for _ in 0..3 {
        assert_eq!(manager.any(), "WATCHDOG=1\n");
    }
    signal(&process, "HUP");
    let reloading = manager.next();
    let time =
        reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap_or_else(|| panic!("{reloading}"));
    assert!(time.trim().parse::<u64>().unwrap() > 0);
    assert_eq!(manager.next(), "READY=1\n");
    signal(&process, "TERM");
    assert_eq!(manager.next(), "STOPPING=1\n");
    assert!(process.wait().unwrap().success());
}

/// A server of this configuration, to which a socket is handed over as its third descriptor.
fn handed_over(socket: TcpListener, file: &Path) -> Command {
    // Standard input is a descriptor that a test can hand over; the shell makes it the one that systemd would.
    let mut command = Command::new("sh");
    command
        .args(["-c", "exec 3<&0 </dev/null; LISTEN_FDS=1 LISTEN_PID=$$ exec \"$0\" serve --config \"$1\""]);
    command.arg(env!("CARGO_BIN_EXE_allod")).arg(file).stdin(Stdio::from(std::os::fd::OwnedFd::from(socket)));
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

#[test]
fn its_socket_is_used_or_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("allod.toml");
    let configure = |address: &str| {
        let data = folder.path().join("data");
        let text = format!(
            "[server]\nname = \"a.example\"\ndata_dir = {data:?}\n[listeners]\nclient = [\"{address}\"]\n"
        );
        std::fs::write(&file, text).unwrap();
    };
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap().to_string();
    configure(&address);
    let mut process = handed_over(socket, &file).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, format!("allod serves a.example at http://{address}\n"));
    assert!(get(&address, "/_matrix/client/versions").starts_with("HTTP/1.1 200"));
    signal(&process, "TERM");
    assert!(process.wait().unwrap().success());

    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let unwanted = socket.local_addr().unwrap().to_string();
    configure("127.0.0.1:0");
    let output = handed_over(socket, &file).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(2) && said.contains(&unwanted), "{:?} {said}", output.status);
}

fn get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn what_watches_it_sees_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("allod.toml");
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let text = format!(
        "[server]\nname = \"a.example\"\ndata_dir = {data:?}\n[listeners]\nclient = [\"127.0.0.1:0\"]\nmetrics = [\"{free}\"]\n",
        data = folder.path().join("data")
    );
    std::fs::write(&file, text).unwrap();
    let say = |arguments: &[&str]| {
        let output = allod().args(arguments).arg("--config").arg(&file).output().unwrap();
        (output.status.success(), String::from_utf8(output.stdout).unwrap())
    };
    assert!(!say(&["status"]).0);
    let server = Running::configured(&file, "a.example");
    get(&server.address, "/_matrix/client/versions");
    let page = get(&free, "/metrics");
    let counted =
        "allod_http_requests_total{method=\"GET\",endpoint=\"/_matrix/client/versions\",status=\"200\"} 1";
    assert!(page.contains(counted) && page.contains("allod_store_writable 1"), "{page}");
    assert!(get(&free, "/ready").starts_with("HTTP/1.1 200"));
    let (ok, status) = say(&["status"]);
    assert!(
        ok && status.contains("server         a.example\n") && status.contains("database       writes"),
        "{status}"
    );
    let (_, status) = say(&["status", "--json"]);
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    assert_eq!(status["database"]["writable"], true);
    let (_, tasks) = say(&["task", "list"]);
    assert!(tasks.starts_with("TASK") && tasks.contains("\nlistener "), "{tasks}");
    let (_, token) = say(&["registration-token", "create", "--uses", "2", "--valid", "7 d"]);
    let (_, listed) = say(&["registration-token", "list"]);
    assert!(listed.contains(token.trim()) && listed.starts_with("TOKEN"), "{listed}");
    assert!(say(&["registration-token", "delete", token.trim()]).0);
    assert_eq!(say(&["registration-token", "list"]).1, "");
    server.stop();
}
