//! A client over TCP: one connection, made again where it broke.

use axum::http::{Method, Request, header};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{net::TcpStream, task::JoinSet};

use crate::server::{Answer, Person};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// The server broke off, and whether it did what was asked is unknown.
#[derive(Debug)]
pub(crate) struct BrokenOff;

/// A connection to a running server.
pub(crate) struct Http {
    address: String,
    sender: Option<SendRequest<Full<Bytes>>>,
    /// Drives the connection; ends with it.
    connections: JoinSet<()>,
}

impl Http {
    /// A client of the server at `HOST:PORT`.
    pub(crate) fn new(address: &str) -> Self {
        Self { address: address.to_owned(), sender: None, connections: JoinSet::new() }
    }

    /// Makes the next request use a new connection: a server ends one on which nothing happens.
    pub(crate) fn hang_up(&mut self) {
        self.sender = None;
    }

    /// Sends a request; `body` is not sent if it is `null`.
    pub(crate) async fn try_send(
        &mut self,
        token: Option<&str>,
        method: Method,
        path: &str,
        body: &Value,
    ) -> Result<Answer, BrokenOff> {
        let answer = self.exchange(token, method, path, body).await;
        if answer.is_err() {
            self.sender = None;
        }
        answer.map_err(|_| BrokenOff)
    }

    async fn exchange(
        &mut self,
        token: Option<&str>,
        method: Method,
        path: &str,
        body: &Value,
    ) -> Result<Answer, Failure> {
        let mut sender = match self.sender.take() {
            Some(sender) if !sender.is_closed() => sender,
            _ => self.connect().await?,
        };
        sender.ready().await?;
        let mut request = Request::builder().method(method).uri(path).header(header::HOST, &self.address);
        if let Some(token) = token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let body = if body.is_null() { Bytes::new() } else { body.to_string().into() };
        let response = sender.send_request(request.body(Full::new(body))?).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        self.sender = Some(sender);
        Ok(Answer { status, body: serde_json::from_slice(&body).unwrap_or_default() })
    }

    async fn connect(&mut self) -> Result<SendRequest<Full<Bytes>>, Failure> {
        let stream = TcpStream::connect(&self.address).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        self.connections.spawn(async {
            // Whoever waits for an answer hears of a break.
            let _ = connection.await;
        });
        Ok(sender)
    }

    /// Sends a request in someone's name to a server that answers.
    pub(crate) async fn send(&mut self, person: &Person, method: Method, path: &str, body: Value) -> Answer {
        self.try_send(Some(&person.token), method, path, &body).await.unwrap()
    }

    /// A `GET`.
    pub(crate) async fn get(&mut self, person: &Person, path: &str) -> Answer {
        self.send(person, Method::GET, path, Value::Null).await
    }

    /// Sends a text message.
    pub(crate) async fn say(
        &mut self,
        person: &Person,
        room: &str,
        transaction: &str,
        text: &str,
    ) -> Result<Answer, BrokenOff> {
        let path = format!("/_matrix/client/v3/rooms/{room}/send/m.room.message/{transaction}");
        let body = json!({ "msgtype": "m.text", "body": text });
        self.try_send(Some(&person.token), Method::PUT, &path, &body).await
    }

    /// Makes an account and signs in.
    pub(crate) async fn register(&mut self, name: &str) -> Person {
        let path = "/_matrix/client/v3/register";
        let body = crate::server::registration(name);
        crate::server::person(self.try_send(None, Method::POST, path, &body).await.unwrap())
    }

    /// All events of a room, the oldest first.
    pub(crate) async fn history(&mut self, person: &Person, room: &str) -> Vec<Value> {
        let mut events = Vec::new();
        let mut from = String::new();
        loop {
            let path = format!("/_matrix/client/v3/rooms/{room}/messages?dir=b&limit=500{from}");
            let page = self.get(person, &path).await.ok();
            events.extend_from_slice(page["chunk"].as_array().unwrap());
            match page["end"].as_str() {
                Some(end) => from = format!("&from={end}"),
                None => break,
            }
        }
        events.reverse();
        events
    }
}
