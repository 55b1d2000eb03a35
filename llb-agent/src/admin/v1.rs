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
use crate::model::ServiceName;
use crate::observe::services;

const JSON: &str = "application/json";

/// The routes of version 1.
pub(super) fn routes() -> Router<Admin> {
    Router::new()
        .route("/api/v1/services", get(all))
        .route("/api/v1/services/{namespace}/{name}", get(one))
        .route("/api/v1/changes", get(changes))
}

async fn all(State(admin): State<Admin>) -> Response {
    answer(admin, |admin| Ok(admin.look(|look| services(look, None)))).await
}

async fn one(State(admin): State<Admin>, Path((namespace, name)): Path<(String, String)>) -> Response {
    answer(admin, |admin| {
        let name = ServiceName::new(namespace, name);
        let found = admin.look(|look| services(look, Some(&name)));
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
