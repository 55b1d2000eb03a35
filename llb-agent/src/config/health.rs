// SPDX-License-Identifier: Apache-2.0
//! The flags of active health checks, and their bounds.

use std::time::Duration;

use clap::{ArgAction, Args};

use super::duration::parse_duration;

/// Less would load the backends more than it helps; more would notice nothing in time.
const INTERVALS: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(300)];
/// Less than a slow network needs; more than a client waits.
const TIMEOUTS: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(60)];

/// The raw flags.
#[derive(Debug, Args)]
pub(super) struct HealthArgs {
    /// Time between two health checks of a backend; 1s to 5m
    ///
    /// For the annotation llb.dev/health-check, and for healthCheckNodePort. While a check fails, it is repeated every second.
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = parse_interval)]
    health_interval: Duration,

    /// How long a health check may take; 100ms to 1m
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = parse_timeout)]
    health_timeout: Duration,

    /// Ask the healthCheckNodePort of Services with externalTrafficPolicy Local whether a Node serves them
    #[arg(long, value_name = "BOOL", default_value_t = true, action = ArgAction::Set)]
    node_health: bool,
}

/// How health checks are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HealthConfig {
    /// Time between two checks of one backend.
    pub interval: Duration,
    /// How long a check may take.
    pub timeout: Duration,
}

impl HealthArgs {
    pub(super) fn config(&self) -> HealthConfig {
        HealthConfig { interval: self.health_interval, timeout: self.health_timeout }
    }

    pub(super) fn node_health(&self) -> bool {
        self.node_health
    }
}

fn parse_interval(text: &str) -> Result<Duration, String> {
    within(text, INTERVALS, "1s to 5m")
}

fn parse_timeout(text: &str) -> Result<Duration, String> {
    within(text, TIMEOUTS, "100ms to 1m")
}

fn within(text: &str, [least, most]: [Duration; 2], range: &str) -> Result<Duration, String> {
    let duration = parse_duration(text)?;
    if (least..=most).contains(&duration) { Ok(duration) } else { Err(format!("give {range}")) }
}
