//! Requests to an object store, which its library makes: each passes the gate like any other.

use std::{future::Future, pin::Pin};

use http::header;
use object_store::{
    ClientOptions,
    client::{HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService},
};

use super::{Egress, EgressError, Outbound, Purpose, Url, literal, trust};

/// What the library is given to send its requests with: to the host that the configuration names, and to no other.
#[derive(Clone, Debug)]
pub(crate) struct Objects {
    outbound: Outbound,
    host: String,
}

impl Egress {
    /// A client for the object store that the configuration names.
    pub(crate) fn objects(&self, endpoint: &str) -> Result<Objects, EgressError> {
        let malformed = || EgressError::Malformed(format!("{endpoint} is no address of an object store"));
        let endpoint = Url::parse(endpoint).map_err(|_| malformed())?;
        let host = endpoint.host_str().ok_or_else(malformed)?.to_owned();
        let tls = trust::load(&self.config.get().federation.certificate_authorities)?;
        // Without TLS only where the configuration says so: the library asks nothing else of the store.
        Ok(Objects { outbound: Outbound::new(self.clone(), Purpose::Objects, tls, false)?, host })
    }
}

impl Objects {
    async fn pass(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let Self { outbound, host: configured } = self;
        let failed = |error: EgressError| HttpError::new(HttpErrorKind::Connect, error);
        let malformed = || failed(EgressError::Malformed("no address of an object store".to_owned()));
        let host = request.uri().host().ok_or_else(malformed)?.to_owned();
        if host != *configured {
            outbound.gate.refused(Purpose::Objects, &host);
            return Err(failed(EgressError::Address(host)));
        }
        let secure = request.uri().scheme() != Some(&http::uri::Scheme::HTTP);
        let port = request.uri().port_u16().unwrap_or(if secure { 443 } else { 80 });
        let addresses = outbound.gate.addresses(Purpose::Objects, &host, port).await.map_err(failed)?;
        if literal(&host).is_none() {
            outbound.pins.put(&host, &addresses);
        }
        let sent = u64::try_from(request.body().content_length()).unwrap_or_default();
        let response = HttpService::call(&outbound.client, request).await;
        let received = response.as_ref().ok().and_then(|response| {
            response.headers().get(header::CONTENT_LENGTH)?.to_str().ok()?.parse::<u64>().ok()
        });
        outbound.gate.note(Purpose::Objects, &host, |contact| {
            contact.requests = contact.requests.saturating_add(1);
            contact.bytes_sent = contact.bytes_sent.saturating_add(sent);
            contact.bytes_received = contact.bytes_received.saturating_add(received.unwrap_or_default());
        });
        if response.is_err() {
            outbound.gate.names.forget(&host);
        }
        response
    }
}

impl HttpConnector for Objects {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

impl HttpService for Objects {
    fn call<'service, 'future>(
        &'service self,
        request: HttpRequest,
    ) -> Pin<Box<dyn Future<Output = Result<HttpResponse, HttpError>> + Send + 'future>>
    where
        'service: 'future,
        Self: 'future,
    {
        Box::pin(self.pass(request))
    }
}
