// SPDX-License-Identifier: Apache-2.0
//! The flags of a box that is one of a group, and what must go together with them.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use clap::Args;

use super::admin::AdminConfig;
use super::duration::parse_duration;
use super::policy::Policy;

/// keepalived sends no faster; more would make a takeover slower than clients wait.
const ADVERTS: [Duration; 2] = [Duration::from_millis(10), Duration::from_secs(1)];

/// Priorities of keepalived have room for so many.
const MOST_MEMBERS: usize = 8;

/// The raw flags.
#[derive(Debug, Args)]
pub(super) struct GroupArgs {
    /// Be one of a group of boxes that share the VIPs: if one dies, the others have its VIPs at once
    ///
    /// keepalived decides which box has which VIP: run it with the file vrrp.conf that llb-agent writes to its state folder.
    /// All boxes have the same group, link devices on the same segments, the same members and the same pools.
    #[arg(long, value_name = "NAME", value_parser = parse_name)]
    group: Option<String>,

    /// The name of this box in its group [default: the name of the machine]
    #[arg(long, value_name = "NAME", value_parser = parse_name)]
    member: Option<String>,

    /// The name of another box of the group; repeatable
    ///
    /// The names only say which box is to have which VIPs, so that each has its share. A box that is not named takes over, too.
    #[arg(long = "peer", value_name = "NAME", value_parser = parse_name)]
    peers: Vec<String>,

    /// Time between two signs of life of a box (VRRP adverts); 10ms to 1s, in steps of 10ms
    ///
    /// A box is dead when five are missing. All boxes of a group have the same.
    #[arg(long, value_name = "TIME", default_value = "50ms", value_parser = parse_advert)]
    vrrp_advert: Duration,

    /// First of the 16 virtual router IDs (VRID) that the group uses on each link device; 1 to 240
    ///
    /// No other VRRP router of the segment may have one of them. All boxes of a group have the same.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u8).range(1..=240))]
    vrrp_id: u8,
}

/// The flags do not go together.
#[derive(Debug, thiserror::Error)]
#[error("--{key}: {text}")]
pub struct GroupError {
    /// The flag.
    pub(super) key: &'static str,
    /// What is wrong, and the way out.
    pub(super) text: String,
}

/// A box of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupConfig {
    /// The name of the group.
    pub group: String,
    /// The name of this box.
    pub member: String,
    /// The names of all boxes, this one too.
    pub members: BTreeSet<String>,
    /// Time between two VRRP adverts.
    pub advert: Duration,
    /// The virtual router ID of share 0.
    pub first_router_id: u8,
}

impl GroupArgs {
    /// `None`: the machine is in no group.
    pub(super) fn config(
        self,
        policy: &Policy,
        tags_in_file: bool,
    ) -> Result<Option<GroupConfig>, GroupError> {
        let wrong = |key: &'static str, text: String| Err(GroupError { key, text });
        let Some(group) = self.group else {
            return match (self.member, self.peers.is_empty()) {
                (Some(_), _) => {
                    wrong("member", "it is for a box of a group; name that with --group".to_owned())
                }
                (None, false) => {
                    wrong("peer", "it is for a box of a group; name that with --group".to_owned())
                }
                (None, true) => Ok(None),
            };
        };
        if policy.has_no_pools() {
            return wrong(
                "group",
                "a group needs a --pool or a --config-map with pools: the own address of a box can't move to another one"
                    .to_owned(),
            );
        }
        if tags_in_file {
            return wrong("group", "a group needs --address-tag auto or kernel".to_owned());
        }
        let member = match self.member {
            Some(member) => member,
            None => own_name()?,
        };
        let mut members = BTreeSet::from([member.clone()]);
        for peer in self.peers {
            if peer == member {
                return wrong(
                    "peer",
                    format!("{peer} is the name of this box (--member); name only the others"),
                );
            }
            if let Some(twice) = members.replace(peer) {
                return wrong("peer", format!("{twice} is given twice"));
            }
        }
        if members.len() > MOST_MEMBERS {
            return wrong("peer", format!("a group has at most {MOST_MEMBERS} boxes, this one included"));
        }
        let (advert, first_router_id) = (self.vrrp_advert, self.vrrp_id);
        Ok(Some(GroupConfig { group, member, members, advert, first_router_id }))
    }
}

/// What a box of a group needs besides its own flags: an admin endpoint, and names that keepalived's configuration can have.
pub(super) fn check_around(
    group: Option<&GroupConfig>,
    links: &[String],
    state_dir: &Path,
    admin: &AdminConfig,
) -> Result<(), GroupError> {
    if group.is_none() {
        return Ok(());
    }
    if admin.address.is_none() && admin.socket.is_none() {
        let text = "a group needs an admin endpoint, by which keepalived finds out whether the agent is alive: give --admin or \
                    --admin-socket";
        return Err(GroupError { key: "group", text: text.to_owned() });
    }
    let state_dir = std::path::absolute(state_dir).unwrap_or_else(|_| state_dir.to_owned());
    let socket = admin.socket.iter().map(|socket| ("admin-socket", socket.path.to_string_lossy()));
    let names = links.iter().map(|link| ("linkdevice", link.into()));
    for (key, name) in names.chain([("state-dir", state_dir.to_string_lossy())]).chain(socket) {
        if let Some(odd) = name.chars().find(|&c| !(c.is_alphanumeric() || "/._-:@+=,%".contains(c))) {
            let text =
                format!("{name:?} has {odd:?}, which the configuration of keepalived can't have (--group)");
            return Err(GroupError { key, text });
        }
    }
    Ok(())
}

fn own_name() -> Result<String, GroupError> {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    parse_name(&name).map_err(|why| {
        let text = format!("the name of this machine, {name:?}, can't be used ({why}); give --member");
        GroupError { key: "member", text }
    })
}

/// The name goes into a file for keepalived.
fn parse_name(text: &str) -> Result<String, String> {
    const LONGEST: usize = 63;
    let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
    if text.is_empty() || text.len() > LONGEST || !text.chars().all(is_plain) {
        return Err(format!("give 1 to {LONGEST} letters, digits, dots and dashes"));
    }
    Ok(text.to_owned())
}

fn parse_advert(text: &str) -> Result<Duration, String> {
    let [least, most] = ADVERTS;
    let advert = parse_duration(text)?;
    // VRRP counts in hundredths of a second.
    let is_whole = advert.as_nanos().is_multiple_of(least.as_nanos());
    if is_whole && (least..=most).contains(&advert) {
        Ok(advert)
    } else {
        Err("give 10ms to 1s, in steps of 10ms".to_owned())
    }
}
