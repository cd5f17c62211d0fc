//! Another server with one large room: over TLS it answers what a joining server asks, and it signs what its users say.
//!
//! It knows no rules and keeps no state but the room as it made it: what it is asked is what the measured server needs.

use std::{
    collections::HashMap,
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use allod_matrix::event::build::{Draft, Place, Signed, build};
use allod_server::{clock::Clock, federation::own_keys::OwnKeys, identity::Identity, random::Random};
use anyhow::Context;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{
    Method, Request, Response, StatusCode, body::Incoming, client::conn::http1::SendRequest, server,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use ruma::{
    MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedRoomId, OwnedServerName, OwnedUserId, RoomId,
    RoomVersionId, UInt, UserId,
    api::federation::authentication::{XMatrix, XMatrixSigningInput},
    room_version_rules::RoomVersionRules,
};
use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use serde_json::{Value, json, value::to_raw_value};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// The room's version.
const VERSION: RoomVersionId = RoomVersionId::V11;
/// When the room was made; every event is a millisecond later than the one before.
const BEGIN_MS: u64 = 1_700_000_000_000;

/// A connection to a measured server, once there is one.
pub(crate) type Connection = Option<SendRequest<Full<Bytes>>>;

/// The server. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Elsewhere(Arc<Inner>);

struct Inner {
    identity: Identity,
    clock: Clock,
    rules: RoomVersionRules,
    room: Mutex<Room>,
}

/// The room as it is.
struct Room {
    id: OwnedRoomId,
    /// The newest event, and its depth.
    tip: (OwnedEventId, u64),
    now_ms: u64,
    /// State before the tip: type and state key of each piece, its id and JSON.
    state: Vec<(String, String, OwnedEventId, Bytes)>,
    /// Every event by its id.
    events: HashMap<OwnedEventId, Bytes>,
}

impl Elsewhere {
    /// One whose room has so many members.
    pub(crate) async fn start(authority: &Authority, members: usize) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let name = format!("127.0.0.1:{}", listener.local_addr()?.port());
        let acceptor = authority.acceptor()?;
        let identity = Identity::ephemeral(OwnedServerName::try_from(name)?, &Random::secure()?);
        let identity = identity.context("no key")?;
        let rules = VERSION.rules().context("no rules")?;
        let room = Room::empty(&identity)?;
        let server =
            Self(Arc::new(Inner { identity, clock: Clock::system(), rules, room: Mutex::new(room) }));
        server.fill(members)?;
        let serving = server.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serving.clone().serve(acceptor.clone(), stream));
            }
        });
        Ok(server)
    }

    /// The server's name.
    pub(crate) fn name(&self) -> String {
        self.0.identity.server_name().to_string()
    }

    /// The room's id.
    pub(crate) fn room_id(&self) -> OwnedRoomId {
        self.room().id.clone()
    }

    /// The room's newest event.
    pub(crate) fn tip(&self) -> OwnedEventId {
        self.room().tip.0.clone()
    }

    /// Messages of its users that follow one another at the end of the room, as JSON.
    pub(crate) fn messages(&self, count: usize) -> anyhow::Result<Vec<Bytes>> {
        let content =
            json!({ "msgtype": "m.text", "body": "This says about as much as people's messages do." });
        (0..count).map(|_| Ok(self.say("m.room.message", None, &self.user(0)?, &content)?.1)).collect()
    }

    /// Sends a transaction with these events to a server of this name at this address, over the connection if it is
    /// there still; the status of the answer.
    pub(crate) async fn send(
        &self,
        connection: &mut Connection,
        (destination, address): (&str, SocketAddr),
        transaction: &str,
        events: &[Bytes],
    ) -> anyhow::Result<StatusCode> {
        let head =
            format!("{{\"edus\":[],\"origin\":{},\"origin_server_ts\":1,\"pdus\":[", json!(self.name()));
        let body = [head.as_bytes(), &events.join(&b","[..]), b"]}"].concat();
        let path = format!("/_matrix/federation/v1/send/{transaction}");
        let request = Request::builder().method(Method::PUT).uri(&path).body(&body[..])?;
        let name = self.0.identity.server_name().to_owned();
        let input = XMatrixSigningInput::new(name, destination.try_into()?, self.0.identity.key());
        let header = XMatrix::sign_http_request(&request, input)?.to_string();
        let request = Request::builder().method(Method::PUT).uri(&path).header("host", destination);
        let request = request.header("content-type", "application/json").header("authorization", header);
        let request = request.body(Full::new(Bytes::from(body)))?;
        if connection.as_ref().is_none_or(SendRequest::is_closed) {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            let (new, driver) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
            tokio::spawn(driver);
            *connection = Some(new);
        }
        let connection = connection.as_mut().context("no connection")?;
        connection.ready().await?;
        let response = connection.send_request(request).await?;
        let status = response.status();
        response.into_body().collect().await?;
        Ok(status)
    }

    /// Makes the room, with so many members and one message.
    fn fill(&self, members: usize) -> anyhow::Result<()> {
        let creator = self.user(0)?;
        let joined = json!({ "membership": "join" });
        self.say("m.room.create", Some(""), &creator, &json!({ "room_version": VERSION.as_str() }))?;
        self.say("m.room.member", Some(creator.as_str()), &creator, &joined)?;
        let levels = json!({ "users": { creator.as_str(): 100 } });
        self.say("m.room.power_levels", Some(""), &creator, &levels)?;
        self.say("m.room.join_rules", Some(""), &creator, &json!({ "join_rule": "public" }))?;
        let visible = json!({ "history_visibility": "shared" });
        self.say("m.room.history_visibility", Some(""), &creator, &visible)?;
        self.say("m.room.name", Some(""), &creator, &json!({ "name": "A large room" }))?;
        for number in 1..members {
            let user = self.user(number)?;
            self.say("m.room.member", Some(user.as_str()), &user, &joined)?;
        }
        self.messages(1)?;
        Ok(())
    }

    fn user(&self, number: usize) -> anyhow::Result<OwnedUserId> {
        Ok(UserId::parse(format!("@member{number}:{}", self.0.identity.server_name()))?)
    }

    /// Puts an event at the end of the room.
    fn say(
        &self,
        kind: &str,
        state_key: Option<&str>,
        sender: &UserId,
        content: &Value,
    ) -> anyhow::Result<(OwnedEventId, Bytes)> {
        let mut room = self.room();
        room.now_ms += 1;
        let draft = Draft {
            kind: kind.to_owned(),
            state_key: state_key.map(str::to_owned),
            content: to_raw_value(content)?,
            sender: sender.to_owned(),
            redacts: None,
            unsigned: None,
            origin_server_ts: MilliSecondsSinceUnixEpoch(UInt::new_saturating(room.now_ms)),
        };
        let is_first = kind == "m.room.create";
        let place = Place {
            room_id: Some(room.id.clone()),
            prev_events: if is_first { Vec::new() } else { vec![room.tip.0.clone()] },
            auth_events: room.auth_events(sender, kind),
            depth: room.tip.1 + 1,
        };
        let Signed { pdu, json } = build(draft, place, &self.0.rules, self.0.identity.key())?;
        let json = Bytes::from(json);
        if let Some(state_key) = state_key {
            room.state.push((kind.to_owned(), state_key.to_owned(), pdu.event_id.clone(), json.clone()));
        }
        room.tip = (pdu.event_id.clone(), pdu.depth);
        room.events.insert(pdu.event_id.clone(), json.clone());
        Ok((pdu.event_id, json))
    }

    fn room(&self) -> std::sync::MutexGuard<'_, Room> {
        self.0.room.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn serve(self, acceptor: TlsAcceptor, stream: TcpStream) {
        let Ok(stream) = acceptor.accept(stream).await else { return };
        let service = service_fn(|request| {
            let server = self.clone();
            async move { server.answer(request).await }
        });
        // A server that hangs up is no failure.
        let _ = server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
    }

    async fn answer(&self, request: Request<Incoming>) -> anyhow::Result<Response<Full<Bytes>>> {
        let path = request.uri().path().trim_end_matches('/').to_owned();
        let query = request.uri().query().unwrap_or_default().to_owned();
        let body = request.into_body().collect().await?.to_bytes();
        let parts: Vec<&str> = path.split('/').skip(2).collect();
        let answer = match parts[..] {
            ["key", "v2", "server", ..] => {
                let keys = OwnKeys::new(self.0.identity.clone(), self.0.clock.clone()).document();
                Some(Bytes::from(keys.context("the keys are not signed")?.get().to_owned()))
            }
            ["federation", "v1", "make_join", _, user] => Some(self.make_join(&unescape(user))?),
            ["federation", "v2", "send_join", _, event] => {
                Some(self.send_join(&unescape(event), &body, query.contains("omit_members=true"))?)
            }
            ["federation", "v1", "state_ids", _] => Some(self.state(true)),
            ["federation", "v1", "state", _] => Some(self.state(false)),
            ["federation", "v1", "event", event] => self.event(&unescape(event)),
            ["federation", "v1", "send", _] => Some(Bytes::from_static(b"{\"pdus\":{}}")),
            ["federation", "v1", "get_missing_events", _] => Some(Bytes::from_static(b"{\"events\":[]}")),
            ["federation", "v1", "user", "keys", "query"] => {
                Some(Bytes::from_static(b"{\"device_keys\":{}}"))
            }
            ["federation", "v1", "version"] => Some(Bytes::from_static(b"{\"server\":{}}")),
            _ => None,
        };
        let (status, body) = match answer {
            Some(body) => (StatusCode::OK, body),
            None => {
                (StatusCode::NOT_FOUND, Bytes::from_static(b"{\"errcode\":\"M_NOT_FOUND\",\"error\":\"\"}"))
            }
        };
        Ok(Response::builder()
            .status(status)
            .header("content-type", "application/json")
            .body(Full::new(body))?)
    }

    fn make_join(&self, user: &str) -> anyhow::Result<Bytes> {
        let mut room = self.room();
        room.now_ms += 1;
        let user = UserId::parse(user)?;
        let event = json!({
            "type": "m.room.member", "room_id": room.id, "sender": user, "state_key": user,
            "content": { "membership": "join" }, "prev_events": [room.tip.0],
            "auth_events": room.auth_events(&user, "m.room.member"), "depth": room.tip.1 + 1,
            "origin": self.name(), "origin_server_ts": room.now_ms,
        });
        Ok(Bytes::from(json!({ "room_version": VERSION.as_str(), "event": event }).to_string()))
    }

    /// Takes a join; what comes later follows it.
    fn send_join(&self, event_id: &str, event: &Bytes, omit_members: bool) -> anyhow::Result<Bytes> {
        let mut room = self.room();
        let state = room.json(|kind, _| !omit_members || kind != "m.room.member");
        let chain = room.json(|kind, key| kind != "m.room.member" || key.starts_with("@member0:"));
        let answer = format!(
            "{{\"origin\":{0},\"state\":[{state}],\"auth_chain\":[{chain}],\"event\":{1},\"members_omitted\":{omit_members},\
             \"servers_in_room\":[{0}]}}",
            json!(self.name()),
            std::str::from_utf8(event)?,
        );
        let (event_id, depth) = (OwnedEventId::try_from(event_id)?, room.tip.1 + 1);
        room.events.insert(event_id.clone(), event.clone());
        room.tip = (event_id, depth);
        Ok(Bytes::from(answer))
    }

    /// The state before the join: that of the room as it was made.
    fn state(&self, ids_only: bool) -> Bytes {
        let room = self.room();
        if ids_only {
            let ids: Vec<_> = room.state.iter().map(|(_, _, event_id, _)| event_id).collect();
            return Bytes::from(json!({ "pdu_ids": ids, "auth_chain_ids": [] }).to_string());
        }
        Bytes::from(format!("{{\"pdus\":[{}],\"auth_chain\":[]}}", room.json(|_, _| true)))
    }

    fn event(&self, event_id: &str) -> Option<Bytes> {
        let room = self.room();
        let event = std::str::from_utf8(room.events.get(<&ruma::EventId>::try_from(event_id).ok()?)?).ok()?;
        let origin = json!(self.name());
        Some(Bytes::from(format!("{{\"origin\":{origin},\"origin_server_ts\":1,\"pdus\":[{event}]}}")))
    }
}

impl Room {
    fn empty(identity: &Identity) -> anyhow::Result<Self> {
        Ok(Self {
            id: RoomId::parse(format!("!large:{}", identity.server_name()))?,
            tip: (OwnedEventId::try_from("$nothing")?, 0),
            now_ms: BEGIN_MS,
            state: Vec::new(),
            events: HashMap::new(),
        })
    }

    fn auth_events(&self, sender: &UserId, kind: &str) -> Vec<OwnedEventId> {
        let wanted = |(of, key, ..): &&(String, String, OwnedEventId, Bytes)| match of.as_str() {
            "m.room.create" | "m.room.power_levels" => true,
            "m.room.join_rules" => kind == "m.room.member",
            "m.room.member" => key == sender.as_str(),
            _ => false,
        };
        // What allows events comes first, but for the members themselves, who are the creator here.
        self.state.iter().take(8).filter(wanted).map(|(_, _, event_id, _)| event_id.clone()).collect()
    }

    /// Pieces of the state, with commas between.
    fn json(&self, wanted: impl Fn(&str, &str) -> bool) -> String {
        let pieces = self.state.iter().filter(|(kind, key, ..)| wanted(kind, key));
        let pieces: Vec<&str> =
            pieces.map(|(.., json)| std::str::from_utf8(json).unwrap_or_default()).collect();
        pieces.join(",")
    }
}

/// A part of a path, its escapes undone.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, more)) = rest.split_first() {
        rest = more;
        let hex = || u8::from_str_radix(std::str::from_utf8(more.get(..2)?).ok()?, 16).ok();
        match (*first, hex()) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = more.get(2..).unwrap_or_default();
            }
            (byte, _) => bytes.push(byte),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Signs the certificates of such servers.
pub(crate) struct Authority(Issuer<'static, KeyPair>);

impl Authority {
    /// The one that a folder keeps, or a new one that it keeps from now on: its certificate is `authority.pem`.
    pub(crate) fn open(folder: &Path) -> anyhow::Result<Self> {
        let kept = folder.join("authority.key");
        let mut parameters = CertificateParams::new(Vec::new())?;
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        if let Ok(key) = std::fs::read_to_string(&kept) {
            return Ok(Self(Issuer::new(parameters, KeyPair::from_pem(&key)?)));
        }
        let key = KeyPair::generate()?;
        std::fs::write(kept, key.serialize_pem())?;
        std::fs::write(folder.join("authority.pem"), parameters.self_signed(&key)?.pem())?;
        Ok(Self(Issuer::new(parameters, key)))
    }

    fn acceptor(&self) -> anyhow::Result<TlsAcceptor> {
        let key = KeyPair::generate()?;
        let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
        let certificate = CertificateParams::new(names)?.signed_by(&key, &self.0)?.pem();
        let certificate = CertificateDer::from_pem_slice(certificate.as_bytes())?;
        let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes())?;
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)?;
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}
