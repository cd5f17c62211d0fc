//! User-interactive authentication: the step before eight endpoints, and its fallback pages (§User-Interactive
//! Authentication API).

use allod_server::uiaa::{Operation, Shown, UiaaError};
use http::Method;
use ruma::api::client::uiaa::{
    AuthData, AuthType, Dummy, RegistrationToken, UserIdentifier, get_uiaa_fallback_page::v3::Request,
};

use crate::{
    app::App,
    client::login::limited_account,
    endpoint::{PlainRequest, Routes},
    error::{Error, Result},
    response::{Response, html},
};

pub(crate) fn routes(routes: Routes) -> Routes {
    let mut routes = routes.raw_endpoint(get_uiaa_fallback_page);
    for version in ["v3", "r0"] {
        let path = format!("/_matrix/client/{version}/auth/{{auth_type}}/fallback/web");
        routes = routes.route(&Method::POST, &path, submit_uiaa_fallback_page);
    }
    routes
}

/// Lets an operation through, or says what the client must still show. Wrong passwords count as failed logins.
pub(crate) async fn allow(app: &App, operation: Operation, auth: Option<&AuthData>) -> Result<Shown> {
    let account = match auth {
        Some(AuthData::Password(given)) => match &given.identifier {
            UserIdentifier::Matrix(identifier) => Some(limited_account(app, &identifier.user)),
            _ => None,
        },
        _ => None,
    };
    if let Some(account) = &account {
        app.limits.check_failed_logins(account)?;
    }
    let outcome = app.uiaa.allow(operation, auth).await;
    if let (Some(account), Err(error)) = (&account, &outcome)
        && error.is_refusal()
    {
        app.limits.count_failed_login(account);
    }
    Ok(outcome?)
}

impl From<UiaaError> for Error {
    fn from(error: UiaaError) -> Self {
        match error {
            UiaaError::Incomplete(info) => Self::uia(*info),
            UiaaError::OtherUser => Self::forbidden("This is another user's password"),
            UiaaError::Account(error) => error.into(),
            UiaaError::Storage(error) => error.into(),
        }
    }
}

/// `GET /_matrix/client/v3/auth/{authType}/fallback/web`
async fn get_uiaa_fallback_page(app: App, (): (), request: Request) -> Result<Response> {
    if !app.uiaa.is_known(&request.session) {
        return Err(Error::not_found("The session is unknown or expired"));
    }
    page(&request.auth_type, &request.session, "")
}

/// `POST /_matrix/client/v3/auth/{authType}/fallback/web`
async fn submit_uiaa_fallback_page(app: App, (): (), request: PlainRequest) -> Result<Response> {
    let auth_type = AuthType::from(request.args.first().map(String::as_str).unwrap_or_default());
    let field = |name: &str| {
        let mut fields = form_urlencoded::parse(&request.body);
        fields.find(|(key, _)| key == name).map(|(_, value)| value.into_owned()).unwrap_or_default()
    };
    let session = field("session");
    let auth = match auth_type {
        AuthType::Dummy => AuthData::Dummy(Dummy::new()),
        AuthType::RegistrationToken => AuthData::RegistrationToken(RegistrationToken::new(field("token"))),
        _ => return Err(no_page()),
    };
    match app.uiaa.complete_from_page(&session, &auth).await? {
        Some(true) => Ok(html(DONE_PAGE)),
        Some(false) => page(&auth_type, &session, "<p>That was not right. Please try again.</p>"),
        None => Err(Error::not_found("The session is unknown or expired")),
    }
}

fn no_page() -> Error {
    Error::not_found("There is no page for this type of authentication")
}

/// The page that asks for what a stage needs. It completes nothing by being looked at.
fn page(auth_type: &AuthType, session: &str, notice: &str) -> Result<Response> {
    let field = match auth_type {
        AuthType::Dummy => "",
        AuthType::RegistrationToken => {
            "<p><label>Registration token <input name=\"token\" required autofocus></label></p>"
        }
        _ => return Err(no_page()),
    };
    let session = escape(session);
    Ok(html(format!(
        "<!DOCTYPE html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>Authentication</title></head><body>\
         {notice}<form method=\"post\"><input type=\"hidden\" name=\"session\" value=\"{session}\">{field}\
         <p><button>Continue</button></p></form></body></html>"
    )))
}

/// The page that tells the client, in either of the spec's ways, that the stage is completed.
///
/// <https://spec.matrix.org/v1.19/client-server-api/#fallback>
const DONE_PAGE: &str = "<!DOCTYPE html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>Success</title></head><body>\
     <p>Thank you. You may close this window now.</p><script>\
     if (window.onAuthDone) { window.onAuthDone(); }\
     else if (window.opener && window.opener.postMessage) { window.opener.postMessage(\"authDone\", \"*\"); }\
     </script></body></html>";

/// Text as it may stand in an attribute.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            _ => escaped.push(letter),
        }
    }
    escaped
}
