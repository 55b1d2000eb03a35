// SPDX-License-Identifier: Apache-2.0
//! `llb-agent flows`: reads the flows in the pinned maps, asks the running agent for the names of Services, and prints
//! rows.

use std::io::{self, Write as _};

use anyhow::{Context as _, bail};

use super::{admin_client, list};
use crate::config::{AdminTarget, FlowsArgs, FlowsOutput};
use crate::dataplane::packet::{FlowMark, FlowReader, nothing_pinned};
use crate::error_chain::ErrorChain;
use crate::observe::{
    Counts, FlowFilter, FlowRow, Flows, Listing, Names, Services, flows_table, summary_table,
};

/// Prints the flows.
///
/// # Errors
/// The maps can't be read, or the Service is not known.
pub(super) async fn flows(args: FlowsArgs) -> anyhow::Result<()> {
    let names = names(&args).await?;
    let filter = FlowFilter {
        frontends: args.service.as_ref().map(|_| names.frontends().collect()),
        vip: args.vip,
        client: args.client,
        backend: args.backend,
    };
    let text = tokio::task::spawn_blocking(move || {
        let Some(reader) = FlowReader::open(&args.bpf_dir)? else { bail!(nothing_pinned(&args.bpf_dir)) };
        if args.summary {
            summed_up(&reader, &filter, &names, &args)
        } else {
            listed(&reader, &filter, &names, &args)
        }
    });
    match io::stdout().write_all(text.await??.as_bytes()) {
        // A reader such as `head` has closed the pipe.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(error).context("cannot write the list")
        }
        _ => Ok(()),
    }
}

/// The Services by their frontends; of one Service, if it was named.
async fn names(args: &FlowsArgs) -> anyhow::Result<Names> {
    let admin = args.admin.clone().unwrap_or_else(AdminTarget::usual);
    let Some(service) = &args.service else {
        return Ok(match list::ask::<Services>(&admin, "/api/v1/services").await {
            Ok((_, found)) => Names::of(&found.services),
            Err(error) => {
                eprintln!("Services are not named: {}", ErrorChain(error.as_ref()));
                Names::default()
            }
        });
    };
    admin_client::check_name(service)?;
    let answer = list::ask::<Services>(&admin, &format!("/api/v1/services/{service}")).await;
    let (_, found) = answer.map_err(|error| {
        let is_away = error.chain().any(|cause| cause.is::<io::Error>());
        let advice = || {
            format!(
                "without a running agent, nobody knows the VIPs of Service {service}; name one with --vip"
            )
        };
        if is_away { error.context(advice()) } else { error }
    })?;
    Ok(Names::of(&found.services))
}

fn listed(
    reader: &FlowReader,
    filter: &FlowFilter,
    names: &Names,
    args: &FlowsArgs,
) -> anyhow::Result<String> {
    let mut listing: Listing<FlowMark> = Listing::new(args.limit as usize);
    reader.each(&mut |ends, mark| {
        if filter.admits(&ends) {
            listing.add(ends, mark);
        }
    })?;
    let (kept, more) = listing.into_parts();
    let row = |(ends, mark)| FlowRow::new(&ends, reader.life(&ends, mark), names);
    let found = Flows { flows: kept.into_iter().map(row).collect(), more };
    Ok(match args.output {
        FlowsOutput::Table => flows_table(&found),
        FlowsOutput::Json => serde_json::to_string(&found)? + "\n",
    })
}

fn summed_up(
    reader: &FlowReader,
    filter: &FlowFilter,
    names: &Names,
    args: &FlowsArgs,
) -> anyhow::Result<String> {
    let mut counts = Counts::default();
    reader.each(&mut |ends, _| {
        if filter.admits(&ends) {
            counts.add(&ends);
        }
    })?;
    let summary = counts.summary(names, args.limit as usize);
    Ok(match args.output {
        FlowsOutput::Table => summary_table(&summary),
        FlowsOutput::Json => serde_json::to_string(&summary)? + "\n",
    })
}
