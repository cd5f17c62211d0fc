//! Which versions of the spec are served (§API Versions).

use std::collections::BTreeMap;

use ruma::api::client::discovery::get_supported_versions::{Request, Response};

use crate::{app::App, auth::Anyone, endpoint::Routes, error::Result};

/// All versions whose endpoints are served, deprecated ones included.
///
/// `r0.6.1` is for old bots that know nothing else; it is a list of paths which are all served. `v1.0` never existed as a
/// version, and clients that see it choose wrong paths.
const VERSIONS: [&str; 20] = [
    "r0.6.1", "v1.1", "v1.2", "v1.3", "v1.4", "v1.5", "v1.6", "v1.7", "v1.8", "v1.9", "v1.10", "v1.11",
    "v1.12", "v1.13", "v1.14", "v1.15", "v1.16", "v1.17", "v1.18", "v1.19",
];

/// Features outside the advertised versions. A feature is named here by the commit that serves it.
const UNSTABLE_FEATURES: [&str; 9] = [
    "org.matrix.msc3391",
    "org.matrix.msc3874",
    "org.matrix.msc3890",
    "org.matrix.msc3911",
    "org.matrix.msc4140",
    "org.matrix.msc4155",
    "org.matrix.msc4306",
    "org.matrix.msc4308",
    "org.matrix.simplified_msc3575",
];

pub(crate) fn routes(routes: Routes) -> Routes {
    routes.endpoint(get_supported_versions)
}

/// `GET /_matrix/client/versions`
///
/// The same for everyone, so that a client whose token has just expired can still read it.
async fn get_supported_versions(_: App, _: Anyone, _: Request) -> Result<Response> {
    let mut response = Response::new(VERSIONS.map(str::to_owned).to_vec());
    response.unstable_features = UNSTABLE_FEATURES
        .map(|feature: &str| (feature.to_owned(), true))
        .into_iter()
        .collect::<BTreeMap<_, _>>();
    Ok(response)
}

#[cfg(test)]
mod tests {
    use http::Method;
    use ruma::api::MatrixVersion;

    use super::VERSIONS;
    use crate::testing::TestApp;

    #[tokio::test]
    async fn versions_are_told_to_everyone_even_with_a_stale_token() {
        let server = TestApp::new().await;
        for answer in [
            server.call(Method::GET, "/_matrix/client/versions", "").await,
            server.call_as("stale", Method::GET, "/_matrix/client/versions", "").await,
        ] {
            assert_eq!(answer.status, 200);
            assert_eq!(answer.json()["versions"], serde_json::json!(VERSIONS));
        }
    }

    #[test]
    fn the_list_is_whole_and_leaves_out_the_version_that_never_was() {
        let latest = MatrixVersion::try_from(VERSIONS[VERSIONS.len() - 1]).unwrap();
        assert_eq!(latest, MatrixVersion::V1_19);
        for minor in 1..=19 {
            assert!(VERSIONS.contains(&format!("v1.{minor}").as_str()));
        }
        assert!(!VERSIONS.contains(&"v1.0"));
    }
}
