// SPDX-License-Identifier: Apache-2.0
//! `llb-agent list` and `llb-agent changes`: ask the running agent, and print what it answers.

use std::time::Duration;

use anyhow::{Context as _, bail};
use jiff::Timestamp;
use serde::de::DeserializeOwned;

use super::admin_client;
use crate::clock;
use crate::config::{AdminTarget, ChangesArgs, ListArgs, ListOutput};
use crate::observe::{Changes, ServiceRow, Services, changes_table, details_table, services_table};

/// Between two looks of `--watch`.
const PACE: Duration = Duration::from_secs(1);

/// Prints the Services.
///
/// # Errors
/// Nobody answers, or the agent does not serve that Service.
pub(super) async fn list(args: &ListArgs) -> anyhow::Result<()> {
    let path = match &args.service {
        Some(service) => {
            admin_client::check_name(service)?;
            format!("/api/v1/services/{service}")
        }
        None => "/api/v1/services".to_owned(),
    };
    let admin = args.admin.clone().unwrap_or_else(AdminTarget::usual);
    let mut shown = String::new();
    loop {
        let (text, found): (String, Services) = ask(&admin, &path).await?;
        let text =
            if args.output == ListOutput::Json && !args.problems { text } else { listed(args, found)? };
        if text != shown {
            print!("{text}");
            if args.output == ListOutput::Json && !text.ends_with('\n') {
                println!();
            }
            shown = text;
        }
        if !args.watch {
            return Ok(());
        }
        tokio::time::sleep(PACE).await;
    }
}

/// The rows in the form that was asked for.
fn listed(args: &ListArgs, mut found: Services) -> anyhow::Result<String> {
    if found.stale {
        eprintln!(
            "the agent can't read its links now, or has no complete list of Services yet: this may be old"
        );
    }
    if args.problems {
        found.services.retain(has_problem);
    }
    Ok(match (args.output, &args.service) {
        (ListOutput::Json, _) => serde_json::to_string(&found)?,
        (ListOutput::Name, _) => {
            found.services.iter().map(|row| format!("{}/{}\n", row.namespace, row.name)).collect()
        }
        (ListOutput::Wide, _) | (ListOutput::Table, None) => {
            services_table(&found.services, args.output == ListOutput::Wide)
        }
        (ListOutput::Table, Some(_)) => {
            let now = Timestamp::try_from(clock::time_of_day())?;
            found.services.iter().map(|row| details_table(row, now)).collect()
        }
    })
}

/// Whether an operator should look at it.
fn has_problem(service: &ServiceRow) -> bool {
    let mut backends = service.frontends.iter().flat_map(|frontend| &frontend.backends);
    !service.problems.is_empty()
        || backends.any(|backend| matches!(backend.state.as_str(), "dead" | "unhealthy"))
}

/// Prints what has changed.
///
/// # Errors
/// Nobody answers.
pub(super) async fn changes(args: &ChangesArgs) -> anyhow::Result<()> {
    let admin = args.admin.clone().unwrap_or_else(AdminTarget::usual);
    let (mut after, mut is_first) = (args.after, true);
    let mut started = None;
    loop {
        let (text, found): (String, Changes) =
            match ask(&admin, &format!("/api/v1/changes?after={after}")).await {
                Ok(answer) => answer,
                // While an agent starts again, nobody answers.
                Err(_) if args.watch && !is_first => {
                    tokio::time::sleep(PACE).await;
                    continue;
                }
                Err(error) => return Err(error),
            };
        if started.replace(found.started).is_some_and(|before| before != found.started) && after > 0 {
            eprintln!("another agent answers now, whose changes begin at 1");
            after = 0;
            continue;
        }
        if found.lost && (args.after > 0 || !is_first) {
            eprintln!("some changes are missing: the agent keeps a limited number");
        }
        match args.json {
            true if is_first || !found.changes.is_empty() => println!("{text}"),
            true => {}
            false => print!("{}", changes_table(&found.changes, is_first)),
        }
        (after, is_first) = (found.sequence, false);
        if !args.watch {
            return Ok(());
        }
        tokio::time::sleep(PACE).await;
    }
}

/// The answer as it came, and as rows.
///
/// # Errors
/// Nobody answers, or the agent refuses.
pub(super) async fn ask<T: DeserializeOwned>(admin: &AdminTarget, path: &str) -> anyhow::Result<(String, T)> {
    let (status, text) = admin_client::get(admin, path).await?;
    if !status.is_success() {
        let error = serde_json::from_str::<serde_json::Value>(&text).ok();
        let error = error.as_ref().and_then(|error| error["error"].as_str());
        // An older agent has no such page.
        bail!("{}", error.map_or_else(|| format!("the agent answers with status {status}"), str::to_owned));
    }
    let rows = serde_json::from_str(&text).context("the agent does not answer as this version expects")?;
    Ok((text, rows))
}
