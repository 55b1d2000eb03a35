// SPDX-License-Identifier: Apache-2.0
//! `--announce`, and what must go together with it.

use clap::ValueEnum;

use super::policy::Policy;
use crate::model::{Announce, VIP_LINK};

/// [`Announce`] as a flag, since the model does not know clap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum AnnounceArg {
    /// By ARP and NDP: VIPs are on the link devices
    #[default]
    L2,
    /// By BIRD or FRR, which you run: VIPs are on the link llb0, which llb makes
    Routed,
}

/// The flags do not go together.
#[derive(Debug, thiserror::Error)]
#[error("--{key}: {text}")]
pub struct AnnounceError {
    /// The flag.
    pub(super) key: &'static str,
    /// What is wrong, and the way out.
    pub(super) text: String,
}

impl From<AnnounceArg> for Announce {
    fn from(flag: AnnounceArg) -> Self {
        match flag {
            AnnounceArg::L2 => Self::L2,
            AnnounceArg::Routed => Self::Routed,
        }
    }
}

/// What routed VIPs need besides their flag.
pub(super) fn check_around(policy: &Policy, links: &[String]) -> Result<(), AnnounceError> {
    let wrong = |key, text: String| Err(AnnounceError { key, text });
    if links.iter().any(|link| link == VIP_LINK) {
        let text = format!(
            "{VIP_LINK} is the link of routed VIPs; name the link to the backends and routers, or rename this one"
        );
        return wrong("linkdevice", text);
    }
    if policy.announce == Announce::Routed && policy.has_no_pools() {
        let text =
            "routed needs a --pool or a --config-map with pools, outside of the subnets of the link devices";
        return wrong("announce", text.to_owned());
    }
    Ok(())
}
