//! A program that looks at a file: at its path, or as its standard input.
//!
//! Exit code 0 says that the file is clean, 1 that it is not, and why on the first line of standard output; any other, a
//! signal, or no end in time say nothing of the file. Nothing passes through pipes, so a program that reads nothing, or
//! leaves others behind, holds nothing up.

use std::{
    fs::{self, File},
    io::{self, Read},
    os::unix::{
        fs::{DirBuilderExt, OpenOptionsExt},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use tokio::{io::AsyncWriteExt, time::sleep};

use super::{ScanError, Verdict, shown};
use crate::{config::SCAN_FILE, media::Reader};

/// How often is looked whether the program has ended.
const POLL: Duration = Duration::from_millis(20);
/// Most that is read of what the program says, in bytes.
const SAID_BYTES_MAX: u64 = 4096;
/// The variables that the program is given.
const ENVIRONMENT: [(&str, &str); 2] = [("PATH", "/usr/local/bin:/usr/bin:/bin"), ("LANG", "C.UTF-8")];

/// A file that is removed when it is dropped.
#[derive(Debug)]
pub(super) struct Temporary(PathBuf);

impl Temporary {
    /// A name in a folder that is made if it is not there; nothing stands there yet.
    pub(super) fn new(folder: &Path, name: &str) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        Ok(Self(folder.join(name)))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    fn create(&self) -> io::Result<File> {
        File::options().write(true).create_new(true).mode(0o600).open(&self.0)
    }

    /// Copies into it all that a reader gives.
    pub(super) async fn fill(&self, mut reader: Reader) -> io::Result<()> {
        let mut file = tokio::fs::File::from_std(self.create()?);
        while let Some(piece) = reader.chunk().await? {
            file.write_all(&piece).await?;
        }
        file.flush().await
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // What cannot be removed goes with the folder, at the next start.
        let _ = fs::remove_file(&self.0);
    }
}

/// A program that is killed when it is dropped.
struct Running(Child);

impl Running {
    async fn end(&mut self) -> io::Result<ExitStatus> {
        loop {
            if let Some(status) = self.0.try_wait()? {
                return Ok(status);
            }
            sleep(POLL).await;
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It has ended already, or does now.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Asks a program about the file at a path. What it says goes through the empty place `said`.
pub(super) async fn judge(
    (program, arguments): (&str, &[String]),
    file: &Path,
    said: &Temporary,
) -> Result<Verdict, ScanError> {
    let by_path = arguments.iter().any(|argument| argument.contains(SCAN_FILE));
    let shown_path = file.to_string_lossy();
    let mut command = Command::new(program);
    command
        .args(arguments.iter().map(|argument| argument.replace(SCAN_FILE, &shown_path)))
        .env_clear()
        .envs(ENVIRONMENT)
        .current_dir("/")
        .stdin(if by_path { Stdio::null() } else { File::open(file)?.into() })
        .stdout(said.create()?)
        .stderr(Stdio::null())
        .process_group(0);
    let status = Running(command.spawn()?).end().await?;
    match status.code() {
        Some(0) => Ok(Verdict::Clean),
        Some(1) => Ok(Verdict::Infected(first_line(said.path())?)),
        Some(code) => Err(ScanError::Failed(format!("it ended with exit code {code}"))),
        None => Err(ScanError::Failed(format!("it was ended by {status}"))),
    }
}

fn first_line(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    File::open(path)?.take(SAID_BYTES_MAX).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    Ok(shown(text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default()))
}
