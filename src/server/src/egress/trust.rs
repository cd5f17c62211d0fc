//! Which certificates are believed: those of the system's authorities and of those that the configuration names.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, pem, pem::PemObject},
};

/// Why the certificates to trust cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// A file cannot be read.
    #[error("federation.certificate_authorities: {file}: {error}", file = .0.display(), error = .1)]
    Unreadable(PathBuf, io::Error),
    /// A file holds no certificates.
    #[error("federation.certificate_authorities: {file} holds no certificate in PEM", file = .0.display())]
    NoCertificates(PathBuf),
    /// A certificate cannot be used.
    #[error("federation.certificate_authorities: {file}: {error}", file = .0.display(), error = .1)]
    Unusable(PathBuf, rustls::Error),
    /// TLS cannot be set up.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
}

/// How TLS connections to others are made. Certificates are always verified.
pub(super) fn load(files: &[PathBuf]) -> Result<ClientConfig, TrustError> {
    let mut roots = RootCertStore::empty();
    // A system without any, as a small container, trusts what the configuration names.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    for file in files {
        for certificate in read_certificates(file)? {
            roots.add(certificate).map_err(|error| TrustError::Unusable(file.clone(), error))?;
        }
    }
    if roots.is_empty() {
        tracing::warn!(
            "neither the system nor federation.certificate_authorities has an authority to trust: no other server can be reached"
        );
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let mut config =
        builder.with_safe_default_protocol_versions()?.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn read_certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TrustError> {
    let text = std::fs::read(file).map_err(|error| TrustError::Unreadable(file.to_owned(), error))?;
    let certificates: Result<Vec<_>, pem::Error> = CertificateDer::pem_slice_iter(&text).collect();
    match certificates {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        Ok(_) | Err(_) => Err(TrustError::NoCertificates(file.to_owned())),
    }
}
