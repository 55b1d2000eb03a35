// SPDX-License-Identifier: Apache-2.0
//! The API that commands read: `/api/v1/...`, JSON. Docs: docs/reference/api.md.

use axum::Router;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::{Deserialize, Serialize};

use super::body;
use super::shown::Admin;
use crate::clock;
use crate::model::ServiceName;
use crate::observe::{WINDOW, links, past, services};

const JSON: &str = "application/json";

/// The routes of version 1.
pub(super) fn routes() -> Router<Admin> {
    Router::new()
        .route("/api/v1/services", get(all))
        .route("/api/v1/services/{namespace}/{name}", get(one))
        .route("/api/v1/changes", get(changes))
        .route("/api/v1/links", get(link_rows))
        .route("/api/v1/history", get(history))
}

/// Over how many seconds rates are averages.
#[derive(Deserialize)]
struct Over {
    #[serde(default)]
    over: Option<usize>,
}

impl Over {
    fn samples(self) -> Result<usize, (StatusCode, String)> {
        match self.over.unwrap_or(WINDOW) {
            over @ 1..=WINDOW => Ok(over),
            _ => Err((StatusCode::BAD_REQUEST, format!("over= takes 1 to {WINDOW} seconds"))),
        }
    }
}

async fn all(State(admin): State<Admin>, Query(over): Query<Over>) -> Response {
    answer(admin, |admin| Ok(admin.look(over.samples()?, |look| services(look, None)))).await
}

async fn one(
    State(admin): State<Admin>,
    Query(over): Query<Over>,
    Path((namespace, name)): Path<(String, String)>,
) -> Response {
    answer(admin, |admin| {
        let name = ServiceName::new(namespace, name);
        let found = admin.look(over.samples()?, |look| services(look, Some(&name)));
        match (found.services.is_empty(), found.stale) {
            (false, _) => Ok(found),
            (true, false) => {
                Err((StatusCode::NOT_FOUND, format!("this agent does not serve Service {name}")))
            }
            (true, true) => Err((
                StatusCode::SERVICE_UNAVAILABLE,
                format!(
                    "this agent can't tell yet whether it serves Service {name}: it has no complete list"
                ),
            )),
        }
    })
    .await
}

#[derive(Deserialize)]
struct After {
    /// Only changes with a higher number.
    #[serde(default)]
    after: u64,
}

async fn changes(State(admin): State<Admin>, Query(After { after }): Query<After>) -> Response {
    answer(admin, move |admin| Ok(admin.history.after(after))).await
}

async fn link_rows(State(admin): State<Admin>, Query(over): Query<Over>) -> Response {
    answer(admin, |admin| Ok(links(&admin.report(), &admin.meter.read(), over.samples()?))).await
}

#[derive(Deserialize)]
struct Which {
    /// `192.0.2.100:80/TCP`; none: all together.
    frontend: Option<String>,
}

async fn history(State(admin): State<Admin>, Query(Which { frontend }): Query<Which>) -> Response {
    answer(admin, |admin| {
        past(&admin.meter.read(), frontend.as_deref(), clock::time_of_day()).ok_or_else(|| {
            let frontend = frontend.unwrap_or_default();
            let error = format!(
                "this agent has counted nothing for frontend {frontend}; /api/v1/services lists them"
            );
            (StatusCode::NOT_FOUND, error)
        })
    })
    .await
}

/// Makes the answer on a thread of its own: thousands of frontends take a while.
async fn answer<T: Serialize>(
    admin: Admin,
    content: impl FnOnce(&Admin) -> Result<T, (StatusCode, String)> + Send + 'static,
) -> Response {
    let place = admin.place().await;
    let made = tokio::task::spawn_blocking(move || {
        let content = content(&admin)?;
        serde_json::to_string(&content)
            .map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))
    });
    match made.await {
        Ok(Ok(text)) => ([(header::CONTENT_TYPE, JSON)], body::held(text, place)).into_response(),
        Ok(Err((status, error))) => refuse(status, error),
        Err(error) => refuse(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

fn refuse(status: StatusCode, error: String) -> Response {
    let body = serde_json::json!({ "error": error }).to_string();
    (status, [(header::CONTENT_TYPE, JSON)], body).into_response()
}
