//! The `Authorization` header of requests from other servers: read leniently where the specification asks for it,
//! believed only with a valid signature.
//!
//! <https://spec.matrix.org/v1.19/server-server-api/#request-authentication>

use ruma::{
    OwnedServerName, OwnedServerSigningKeyId, ServerName, api::federation::authentication::XMatrix,
    serde::Base64, signatures::PublicKeyMap,
};

/// Longest value of one header that is read.
const HEADER_BYTES_MAX: usize = 4096;

/// Why a header is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// It does not say what it must, or not in the way it must.
    #[error("the Authorization header is malformed")]
    Malformed,
    /// Several headers speak for several servers.
    #[error("the Authorization headers name several servers")]
    SeveralOrigins,
    /// It is meant for another server.
    #[error("the request was signed for another server")]
    Destination,
    /// The body is no JSON that can be signed.
    #[error("the body cannot be signed")]
    Body,
    /// The signature is not that of the key.
    #[error("the signature is invalid")]
    Signature,
}

/// Reads the headers of a request: one for each key that signed it, all of one server. The scheme's name must have been
/// found before.
pub fn parse_all<'a>(
    values: impl Iterator<Item = &'a str>,
    own_name: &ServerName,
) -> Result<Vec<XMatrix>, HeaderError> {
    let mut all: Vec<XMatrix> = Vec::new();
    for value in values {
        let header = parse(value).ok_or(HeaderError::Malformed)?;
        if all.first().is_some_and(|first| first.origin != header.origin) {
            return Err(HeaderError::SeveralOrigins);
        }
        // Names are compared as they are signed; an old server sends none.
        if header.destination.as_deref().is_some_and(|destination| destination != own_name) {
            return Err(HeaderError::Destination);
        }
        all.push(header);
    }
    if all.is_empty() { Err(HeaderError::Malformed) } else { Ok(all) }
}

/// Verifies a header against the key that it names.
pub fn verify(
    header: &XMatrix,
    key: Base64,
    method: &http::Method,
    path_and_query: &str,
    body: &[u8],
    own_name: &ServerName,
) -> Result<(), HeaderError> {
    let request = http::Request::builder().method(method.clone()).uri(path_and_query);
    let request = request.body(body).map_err(|_| HeaderError::Malformed)?;
    XMatrix::request_object(&request, &header.origin, own_name).map_err(|_| HeaderError::Body)?;
    let keys = [(header.key.to_string(), key)].into_iter().collect();
    let keys = PublicKeyMap::from([(header.origin.to_string(), keys)]);
    header.verify_http_request(&request, own_name, &keys).map_err(|_| HeaderError::Signature)
}

/// Reads one header: `X-Matrix name=value,…`, its values quoted or not.
fn parse(value: &str) -> Option<XMatrix> {
    if value.len() > HEADER_BYTES_MAX {
        return None;
    }
    let (scheme, mut rest) = value.trim().split_once(|letter: char| letter.is_ascii_whitespace())?;
    if !scheme.eq_ignore_ascii_case(XMatrix::AUTH_SCHEME) {
        return None;
    }
    let (mut origin, mut destination, mut key, mut signature) = (None, None, None, None);
    loop {
        rest = rest.trim_start_matches(|letter: char| letter.is_ascii_whitespace() || letter == ',');
        if rest.is_empty() {
            break;
        }
        let (name, after) = rest.split_once('=')?;
        let (value, after) = parameter_value(after.trim_start())?;
        rest = after;
        let place = match name.trim().to_ascii_lowercase().as_str() {
            "origin" => &mut origin,
            "destination" => &mut destination,
            "key" => &mut key,
            "sig" => &mut signature,
            // Those that are not known are passed over.
            _ => continue,
        };
        if place.replace(value).is_some() {
            return None;
        }
    }
    let origin = OwnedServerName::try_from(origin?).ok()?;
    let key = OwnedServerSigningKeyId::try_from(key?).ok()?;
    let signature = Base64::parse(signature?).ok()?;
    let named = destination.map(OwnedServerName::try_from).transpose().ok()?;
    let mut header = XMatrix::new(origin.clone(), origin, key, signature);
    header.destination = named;
    Some(header)
}

/// A value and what follows it. Unquoted values end at a comma; they may hold colons, as old servers send them.
fn parameter_value(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ' ', '\t']).unwrap_or(text.len());
        let (value, rest) = text.split_at_checked(end)?;
        return (!value.contains('"')).then(|| (value.to_owned(), rest));
    };
    let (mut value, mut escaped) = (String::new(), false);
    for (index, letter) in quoted.char_indices() {
        match letter {
            _ if escaped => {
                value.push(letter);
                escaped = false;
            }
            '\\' => escaped = true,
            '"' => return Some((value, quoted.get(index.saturating_add(1)..)?)),
            _ => value.push(letter),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use http::Method;
    use ruma::{
        api::federation::authentication::XMatrixSigningInput, server_name, signatures::Ed25519KeyPair,
    };

    use super::*;
    use crate::{identity::Identity, random::Random};

    #[test]
    fn headers_are_read_as_servers_send_them() {
        let expected = Some(("a.example:1".to_owned(), Some("b.example".to_owned()), "ed25519:k".to_owned()));
        for value in [
            r#"X-Matrix origin="a.example:1",destination="b.example",key="ed25519:k",sig="dGVzdA""#,
            r"X-Matrix origin=a.example:1,destination=b.example,key=ed25519:k,sig=dGVzdA",
            r#"x-matrix  ORIGIN="a.example:1" , Destination=b.example,key="ed25519:k", sig="dGVzdA==", more="x,y\"""#,
            r#"X-Matrix sig=dGVzdA==,key="ed25519:\k",origin="a.example:1",destination="b.example","#,
        ] {
            let header = parse(value).map(|header| {
                (
                    header.origin.to_string(),
                    header.destination.map(|name| name.to_string()),
                    header.key.to_string(),
                )
            });
            assert_eq!(header, expected, "{value}");
        }
        assert!(parse(r"X-Matrix origin=a.example,key=ed25519:k,sig=dGVzdA").unwrap().destination.is_none());
    }

    #[test]
    fn malformed_headers_are_refused() {
        for value in [
            "",
            "X-Matrix",
            "X-Matrix ",
            "Bearer origin=a.example,key=ed25519:k,sig=dGVzdA",
            "X-Matrix key=ed25519:k,sig=dGVzdA",
            "X-Matrix origin=a.example,sig=dGVzdA",
            "X-Matrix origin=a.example,key=ed25519:k",
            "X-Matrix origin=a.example,key=k,sig=dGVzdA",
            "X-Matrix origin=a.example,key=ed25519:k,sig=***",
            "X-Matrix origin=a_b/c,key=ed25519:k,sig=dGVzdA",
            "X-Matrix origin=a.example,origin=b.example,key=ed25519:k,sig=dGVzdA",
            r#"X-Matrix origin="a.example,key=ed25519:k,sig=dGVzdA"#,
            r#"X-Matrix origin=a".example,key=ed25519:k,sig=dGVzdA"#,
            "X-Matrix origin",
        ] {
            assert!(parse(value).is_none(), "{value}");
        }
        assert!(
            parse(&format!("X-Matrix origin=a.example,key=ed25519:k,sig={}", "A".repeat(5000))).is_none()
        );
    }

    fn signed(identity: &Identity, destination: &ServerName, body: &str) -> XMatrix {
        let request = http::Request::builder().method("PUT").uri("/a?b=c").body(body.as_bytes()).unwrap();
        let key: &Ed25519KeyPair = identity.key();
        let input = XMatrixSigningInput::new(identity.server_name().to_owned(), destination.to_owned(), key);
        XMatrix::sign_http_request(&request, input).unwrap()
    }

    #[test]
    fn a_signature_holds_for_one_request_to_one_server() {
        let own_name = server_name!("own.example");
        let identity =
            Identity::ephemeral(server_name!("peer.example").to_owned(), &Random::seeded(1)).unwrap();
        let key = || Base64::new(identity.key().public_key().to_vec());
        let header = signed(&identity, own_name, r#"{"a":1}"#);
        let check = |method: Method, path: &str, body: &str| {
            verify(&header, key(), &method, path, body.as_bytes(), own_name)
        };
        assert_eq!(check(Method::PUT, "/a?b=c", r#"{ "a": 1 }"#), Ok(()));
        for (method, path, body) in [
            (Method::POST, "/a?b=c", r#"{"a":1}"#),
            (Method::PUT, "/a?b=d", r#"{"a":1}"#),
            (Method::PUT, "/a?b=c", r#"{"a":2}"#),
            (Method::PUT, "/a?b=c", ""),
        ] {
            assert_eq!(check(method, path, body), Err(HeaderError::Signature));
        }
        assert_eq!(check(Method::PUT, "/a?b=c", r#"{"a":1.5}"#), Err(HeaderError::Body));
        let elsewhere = signed(&identity, server_name!("else.example"), r#"{"a":1}"#);
        // Without the destination in the header the signature tells.
        let mut silent = elsewhere.clone();
        silent.destination = None;
        let verified = verify(&silent, key(), &Method::PUT, "/a?b=c", br#"{"a":1}"#, own_name);
        assert_eq!(verified, Err(HeaderError::Signature));
        let parsed = parse_all([elsewhere.to_string().as_str()].into_iter(), own_name);
        assert_eq!(parsed.err(), Some(HeaderError::Destination));
    }

    #[test]
    fn several_headers_speak_for_one_server() {
        let own_name = server_name!("own.example");
        let one = "X-Matrix origin=a.example,key=ed25519:1,sig=dGVzdA";
        let two = "X-Matrix origin=a.example,key=ed25519:2,sig=dGVzdA";
        let other = "X-Matrix origin=b.example,key=ed25519:2,sig=dGVzdA";
        assert_eq!(parse_all([one, two].into_iter(), own_name).unwrap().len(), 2);
        let mixed = parse_all([one, other].into_iter(), own_name);
        assert_eq!(mixed.err(), Some(HeaderError::SeveralOrigins));
        assert_eq!(parse_all([].into_iter(), own_name).err(), Some(HeaderError::Malformed));
    }
}
