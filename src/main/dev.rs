//! `allod serve --dev`: a server on the loopback address for people who build and test clients.

use std::{fs, io::Write, net::SocketAddr, os::unix::fs::OpenOptionsExt, path::Path};

use allod_server::config::{
    ByteSize, Config, ListenAddress, Overrides, Problem, Problems, Registration, SecretFile, Who,
};
use anyhow::Context;
use ruma::server_name;

use crate::arguments::Serve;

/// The port that Matrix clients try.
const PORT: u16 = 8008;

/// The configuration for development: what a file says, if there is one, made lenient.
///
/// Without a data folder in arguments or file, `forgotten` is used, and the database is kept in memory.
pub(crate) fn config(options: &Serve, forgotten: &Path) -> anyhow::Result<Config> {
    let overrides = Overrides { server_name: options.server_name.clone() };
    let mut config = match &options.config {
        Some(file) => allod_server::config::load(file, &overrides)?,
        None => Config::default(),
    };
    if options.config.is_none() {
        config.server.name = overrides.server_name.unwrap_or_else(|| server_name!("localhost").to_owned());
        forgotten.clone_into(&mut config.server.data_dir);
    }
    if let Some(folder) = &options.data_dir {
        config.server.data_dir.clone_from(folder);
    }
    if options.port.is_some() || options.config.is_none() {
        let address = SocketAddr::from(([127, 0, 0, 1], options.port.unwrap_or(PORT)));
        config.listeners.client = vec![ListenAddress::Tcp(address)];
    }
    refuse_other_addresses(&config, options)?;
    make_lenient(&mut config);
    if let Some(secret) = &options.registration_shared_secret {
        config.accounts.registration_secret = Some(keep_secret(&config.server.data_dir, secret)?);
    }
    Ok(config)
}

/// Open registration is for this machine alone.
fn refuse_other_addresses(config: &Config, options: &Serve) -> Result<(), Problems> {
    let others = config.listeners.client.iter().filter_map(|address| match address {
        ListenAddress::Tcp(address) if !address.ip().is_loopback() => Some(Problem {
            file: options.config.clone().unwrap_or_default(),
            line: None,
            message: format!(
                "--dev lets anyone register, so it listens on loopback addresses only, not on {address}"
            ),
        }),
        ListenAddress::Tcp(_) | ListenAddress::Unix(_) => None,
    });
    let problems: Vec<Problem> = others.collect();
    if problems.is_empty() { Ok(()) } else { Err(Problems(problems)) }
}

fn make_lenient(config: &mut Config) {
    config.accounts.registration = Registration::Open;
    config.accounts.guests = true;
    config.accounts = config.accounts.clone().with_cheap_passwords();
    config.limits.rates = false;
    config.limits.connections_per_address = 100_000;
    config.limits.body = config.limits.body.max(ByteSize::mib(13));
    config.rooms.create = Who::Everyone;
    config.rooms.publish = Who::Everyone;
    config.rooms.directory_without_account = true;
    if config.server.public_url.is_none()
        && let Some(ListenAddress::Tcp(address)) = config.listeners.client.first()
        && address.port() != 0
    {
        config.server.public_url = Some(format!("http://{address}"));
    }
}

/// Puts a secret from the command line where secrets are read from.
fn keep_secret(folder: &Path, secret: &str) -> anyhow::Result<SecretFile> {
    let path = folder.join("registration.secret");
    let write = || {
        fs::create_dir_all(folder)?;
        let mut file =
            fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path)?;
        file.write_all(secret.as_bytes())
    };
    write().with_context(|| format!("cannot write {}", path.display()))?;
    Ok(SecretFile::new(path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    fn serve(arguments: &[&str]) -> Serve {
        let arguments = ["allod", "serve", "--dev"].iter().chain(arguments);
        match crate::Arguments::parse_from(arguments).command {
            crate::Command::Serve(options) => options,
            _ => panic!("not serve"),
        }
    }

    #[test]
    fn it_is_open_and_on_loopback() {
        let folder = tempfile::tempdir().unwrap();
        let options =
            serve(&["--port", "8123", "--server-name", "dev.example", "--registration-shared-secret", "s"]);
        let config = config(&options, folder.path()).unwrap();
        assert_eq!(config.server.name, "dev.example");
        assert_eq!(config.accounts.registration, Registration::Open);
        assert_eq!(config.listeners.client, ["127.0.0.1:8123".parse().unwrap()]);
        assert_eq!(config.accounts.registration_secret.unwrap().read().unwrap().expose(), "s");
    }

    #[test]
    fn other_addresses_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("allod.toml");
        fs::write(&file, "[server]\nname = \"a.example\"\n[listeners]\nclient = [\"0.0.0.0:8008\"]").unwrap();
        let file = file.to_str().unwrap();
        assert!(config(&serve(&["--config", file]), folder.path()).unwrap_err().is::<Problems>());
        assert!(config(&serve(&["--config", file, "--port", "8009"]), folder.path()).is_ok());
    }
}
