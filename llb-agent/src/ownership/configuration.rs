// SPDX-License-Identifier: Apache-2.0
//! The configuration of keepalived, as text: one virtual router for each share of each link.
//!
//! - **Priority** is 240 less ten for each rank. Bands of 80 are taken off it by the file `ready/S`, which the
//!   agent writes, and by the check `alive`, for an agent that is dead. If all are dead, all sink alike and nothing moves.
//! - **It changes only with members and links**: VIPs are not in it, so they come and go without keepalived.
//! - **`vrrp_higher_prio_send_advert`**: without it, the winner of a healed split may not learn of its rival, and
//!   does not announce its VIPs.
//! - **Multicast**: everybody hears everybody, whatever the lists of members say.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use super::marker::{LOOPBACK, marker};
use super::priority::{HIGHEST_PRIORITY, READY_NOT, STEP};
use super::ranks::Ranks;
use crate::model::SHARES;

/// How many adverts are missing when a box counts as dead.
const MISSING_ADVERTS: u8 = 5;
/// For how many seconds, about, an agent is dead before its shares move. What it forwards goes on meanwhile.
const DEAD_AFTER_SECS: u32 = 60;

/// What the configuration is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupSetup {
    /// The name of the group.
    pub group: String,
    /// The name of this box.
    pub member: String,
    /// The names of all boxes, this one too.
    pub ranks: Ranks,
    /// The links in the order of the command line.
    pub links: Vec<String>,
    /// Time between two adverts.
    pub advert: Duration,
    /// The virtual router ID of share 0.
    pub first_router_id: u8,
    /// The agent's program.
    pub program: PathBuf,
    /// Where it keeps its files.
    pub state_dir: PathBuf,
    /// The agent's admin endpoint.
    pub admin: String,
}

/// The whole file.
pub fn configuration(setup: &GroupSetup) -> String {
    let mut text = global(setup);
    for share in 0..SHARES {
        let file = setup.state_dir.join("ready").join(share.to_string());
        let _ = write!(text, "track_file r{share} {{\n  file {}\n  weight 1\n}}\n", file.display());
    }
    text.push_str(&alive(setup));
    for (link, name) in (0..).zip(&setup.links) {
        for share in 0..SHARES {
            text.push_str(&instance(setup, (link, name.as_str()), share));
        }
    }
    text
}

fn global(setup: &GroupSetup) -> String {
    format!(
        "# Written by llb-agent; it is replaced when members or links change.
global_defs {{
  router_id {}_{}
  vrrp_version 3
  enable_script_security
  script_user root
  vrrp_startup_delay 1
  vrrp_garp_master_delay 1
  vrrp_garp_master_repeat 2
  vrrp_garp_lower_prio_repeat 1
  vrrp_garp_lower_prio_delay 0
  vrrp_higher_prio_send_advert true
}}
",
        setup.group, setup.member
    )
}

fn alive(setup: &GroupSetup) -> String {
    format!(
        "vrrp_script alive {{
  script \"{} alive --admin {}\"
  interval 1
  timeout 2
  fall {DEAD_AFTER_SECS}
  rise 1
  weight {READY_NOT}
}}
",
        setup.program.display(),
        setup.admin
    )
}

fn instance(setup: &GroupSetup, (link, name): (u8, &str), share: u8) -> String {
    let rank = setup.ranks.rank(&setup.member, share).unwrap_or(0);
    let command = format!("{} share --state-dir {}", setup.program.display(), setup.state_dir.display());
    let interval = setup.advert.as_millis();
    format!(
        "vrrp_instance link{link}_share{share} {{
  state BACKUP
  interface {name}
  virtual_router_id {}
  priority {}
  advert_int {}.{:03}
  down_timer_adverts {MISSING_ADVERTS}
  notify \"{command}\"
  notify_master_rx_lower_pri \"{command} --announce {share}\"
  track_file {{
    r{share} weight 1
  }}
  track_script {{
    alive
  }}
  virtual_ipaddress {{
    {}/32 dev {LOOPBACK}
  }}
}}
",
        setup.first_router_id + share,
        HIGHEST_PRIORITY.saturating_sub(STEP * rank),
        interval / 1000,
        interval % 1000,
        marker(link, share),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setup() -> GroupSetup {
        let members = ["box-a", "box-b"].map(str::to_owned).into();
        GroupSetup {
            group: "edge".to_owned(),
            member: "box-a".to_owned(),
            ranks: Ranks::new("edge", &members),
            links: vec!["eth0".to_owned()],
            advert: Duration::from_millis(50),
            first_router_id: 100,
            program: PathBuf::from("/usr/bin/llb-agent"),
            state_dir: PathBuf::from("/var/lib/llb"),
            admin: "127.0.0.1:9660".to_owned(),
        }
    }

    #[test]
    fn one_virtual_router_is_as_it_was_tested() {
        let mut setup = setup();
        setup.ranks = Ranks::new("edge", &["box-a".to_owned()].into());
        let text = configuration(&setup);
        let start = text.find("vrrp_instance link0_share4 ").unwrap();
        let end = text.find("vrrp_instance link0_share5 ").unwrap();
        let expected = "vrrp_instance link0_share4 {
  state BACKUP
  interface eth0
  virtual_router_id 104
  priority 240
  advert_int 0.050
  down_timer_adverts 5
  notify \"/usr/bin/llb-agent share --state-dir /var/lib/llb\"
  notify_master_rx_lower_pri \"/usr/bin/llb-agent share --state-dir /var/lib/llb --announce 4\"
  track_file {
    r4 weight 1
  }
  track_script {
    alive
  }
  virtual_ipaddress {
    127.86.0.4/32 dev lo
  }
}
";
        assert_eq!(&text[start..end], expected);
        assert_eq!(text.matches("vrrp_instance ").count(), usize::from(SHARES));
        assert_eq!(text.matches("track_file r").count(), usize::from(SHARES));
        assert!(text.contains("  file /var/lib/llb/ready/15\n"), "{text}");
        assert!(text.contains("script \"/usr/bin/llb-agent alive --admin 127.0.0.1:9660\""), "{text}");
    }

    #[test]
    fn each_link_has_all_shares_with_markers_of_its_own() {
        let mut setup = setup();
        setup.links.push("eth1".to_owned());
        let text = configuration(&setup);
        assert_eq!(text.matches("vrrp_instance ").count(), 2 * usize::from(SHARES));
        assert!(text.contains("127.86.1.15/32 dev lo") && text.contains("interface eth1"));
        assert_eq!(
            text.matches("track_file r").count(),
            usize::from(SHARES),
            "a share is ready on all links"
        );
    }

    #[test]
    fn two_boxes_complement_each_other() {
        let of = |member: &str| {
            let text = configuration(&GroupSetup { member: member.to_owned(), ..setup() });
            let lines = text.lines().filter_map(|line| line.strip_prefix("  priority "));
            lines.map(|number| number.parse::<u32>().unwrap()).collect::<Vec<_>>()
        };
        let both: Vec<(u32, u32)> = of("box-a").into_iter().zip(of("box-b")).collect();
        assert!(both.iter().all(|pair| matches!(pair, (240, 230) | (230, 240))), "{both:?}");
        assert_eq!(both.iter().filter(|(a, _)| *a == 240).count(), 8);
    }
}
