//! TLS of the listeners for other servers: a certificate and its key, read again when the configuration is.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use allod_server::config::{SecretError, SecretFile};
use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

/// Why TLS cannot be spoken.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The certificate cannot be read.
    #[error("cannot read {file}: {error}", file = .0.display(), error = .1)]
    Unreadable(PathBuf, io::Error),
    /// The file holds no certificate.
    #[error("{file} holds no certificate in PEM", file = .0.display())]
    NoCertificate(PathBuf),
    /// The key cannot be read.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// The file holds no key.
    #[error("listeners.certificate_key holds no private key in PEM")]
    NoKey,
    /// Certificate and key cannot be used together.
    #[error("the certificate cannot be used with its key: {0}")]
    Unusable(#[from] rustls::Error),
}

/// A certificate in use. Cheap to clone; all clones see a reload.
#[derive(Clone)]
pub struct Tls(Arc<Inner>);

struct Inner {
    certificate: PathBuf,
    key: SecretFile,
    acceptor: RwLock<TlsAcceptor>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_tuple("Tls").field(&self.0.certificate).finish()
    }
}

impl Tls {
    /// Reads a certificate, with the authorities between it and the root, and its key.
    pub fn open(certificate: &Path, key: &SecretFile) -> Result<Self, TlsError> {
        let acceptor = RwLock::new(read(certificate, key)?);
        Ok(Self(Arc::new(Inner { certificate: certificate.to_owned(), key: key.clone(), acceptor })))
    }

    /// Reads them again: certificates are renewed. If they cannot be used, those from before stay.
    pub fn reload(&self) -> Result<(), TlsError> {
        let new = read(&self.0.certificate, &self.0.key)?;
        *self.0.acceptor.write().unwrap_or_else(PoisonError::into_inner) = new;
        Ok(())
    }

    /// Begins TLS on a connection; none if the peer does not within `time_max`.
    pub(crate) async fn accept<S>(&self, stream: S, time_max: Duration) -> Option<TlsStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let acceptor = self.0.acceptor.read().unwrap_or_else(PoisonError::into_inner).clone();
        match timeout(time_max, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => Some(stream),
            Ok(Err(error)) => {
                tracing::debug!(%error, "TLS was not begun");
                None
            }
            Err(_) => None,
        }
    }
}

fn read(certificate: &Path, key: &SecretFile) -> Result<TlsAcceptor, TlsError> {
    let text =
        std::fs::read(certificate).map_err(|error| TlsError::Unreadable(certificate.to_owned(), error))?;
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&text)
        .collect::<Result<_, _>>()
        .map_err(|_| TlsError::NoCertificate(certificate.to_owned()))?;
    if chain.is_empty() {
        return Err(TlsError::NoCertificate(certificate.to_owned()));
    }
    let key = PrivateKeyDer::from_pem_slice(key.read()?.expose().as_bytes()).map_err(|_| TlsError::NoKey)?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}
