// SPDX-License-Identifier: Apache-2.0
//! `llb-agent drain`, `undrain` and `move`. They write the order to the state folder, and a running agent reads it within a
//! second. So an order outlives the agent.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::sync::Notify;

use crate::addresses::{AddressTable, NetlinkAddresses};
use crate::config::{AddressTag, Order};
use crate::ownership::{LOOPBACK, Orders, Ranks};
use crate::peers::{Identity, change_orders, read_placement};
use crate::statefile;

/// How long `drain --wait` waits.
const WAIT_LIMIT: Duration = Duration::from_secs(30);
/// How often `drain --wait` looks whether it is done.
const PAUSE: Duration = Duration::from_millis(100);

/// Gives the order.
pub(super) async fn give(state_dir: PathBuf, order: Order) -> anyhow::Result<()> {
    let Some(identity) = Identity::read(&state_dir)? else {
        bail!(
            "no agent of a group has used the folder {}: name the agent's --state-dir, or make it a member with --group",
            state_dir.display()
        )
    };
    let text = change_orders(&state_dir, |before| apply(&identity, before, &order))?;
    println!("{text}");
    match order {
        Order::Drain { wait: true } => wait_until_nothing_is_here(&state_dir).await,
        _ => Ok(()),
    }
}

/// The new orders, and the text for the user.
fn apply(identity: &Identity, mut orders: Orders, order: &Order) -> anyhow::Result<(Orders, String)> {
    let Identity { group, member: own, members } = identity;
    let text = match order {
        Order::Drain { .. } => {
            orders.drained = true;
            format!(
                "{own} is drained: the other boxes of group {group} get its shares; `llb-agent undrain` ends it"
            )
        }
        Order::Undrain => {
            orders.drained = false;
            format!("{own} gets its shares of group {group} again, one after the other")
        }
        Order::Move { share, member } => {
            if !members.contains(member) {
                let known = members.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
                bail!("this box knows no member {member} of group {group}; it knows {known}")
            }
            if Ranks::new(group, members).order(*share).first() == Some(member) {
                orders.moved.remove(share);
                format!(
                    "share {share} is to be at {member} again, the first in line: run the same command on the box that it was moved to"
                )
            } else {
                orders.moved.insert(*share, member.clone());
                match member == own {
                    true => format!("{own} is to have share {share} from now on, as long as it is ready"),
                    false => format!("share {share} is to be at {member}: run the same command there"),
                }
            }
        }
    };
    Ok((orders, text))
}

async fn wait_until_nothing_is_here(state_dir: &Path) -> anyhow::Result<()> {
    let links = read_placement(state_dir)?.links;
    let mut addresses =
        NetlinkAddresses::new(links, AddressTag::Kernel, state_dir.to_owned(), Arc::<Notify>::default())?;
    let (mut shares, mut vips) = (0, 0);
    let all = async {
        loop {
            let links = addresses.observe().await?;
            vips = links.iter().flat_map(|link| &link.addresses).filter(|known| known.ours).count();
            shares = addresses.markers().len();
            if shares + vips == 0 {
                return anyhow::Ok(());
            }
            // No agent runs if its lock can be taken.
            if statefile::try_lock(state_dir)?.is_some() {
                bail!(
                    "no agent with the state folder {} runs, so {} are still here. The order is kept; an agent follows it when it runs",
                    state_dir.display(),
                    left(shares, vips)
                )
            }
            tokio::time::sleep(PAUSE).await;
        }
    };
    let ended = tokio::time::timeout(WAIT_LIMIT, all).await;
    ended.with_context(|| {
        format!(
            "{} are still here after {WAIT_LIMIT:?} (`ip address show`; the shares are on {LOOPBACK}). Either no other box is ready \
             to take them (`llb-agent members` there), or no keepalived runs on this box. The order stays",
            left(shares, vips)
        )
    })?
}

fn left(shares: usize, vips: usize) -> String {
    format!("{shares} shares and {vips} VIPs")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::SHARES;

    fn identity() -> Identity {
        let members = ["box-a", "box-b"].map(str::to_owned).into();
        Identity { group: "edge".to_owned(), member: "box-a".to_owned(), members }
    }

    #[test]
    fn orders_are_independent_of_each_other() {
        let first = |share| Ranks::new("edge", &identity().members).order(share)[0].clone();
        let with_first = |name: &str| (0..SHARES).filter(|share| first(*share) == name).collect::<Vec<_>>();
        let [at_a, at_b] = ["box-a", "box-b"].map(with_first);
        let to = |share, member: &str| Order::Move { share, member: member.to_owned() };
        let all = [
            to(at_a[0], "box-b"),
            to(at_a[1], "box-b"),
            Order::Drain { wait: false },
            to(at_b[0], "box-a"),
            to(at_a[0], "box-a"),
            Order::Undrain,
        ];
        let (mut orders, mut texts) = (Orders::default(), Vec::new());
        for order in all {
            let (next, text) = apply(&identity(), orders, &order).unwrap();
            (orders, _) = (next, texts.push(text));
        }
        let moved = [(at_a[1], "box-b".to_owned()), (at_b[0], "box-a".to_owned())].into();
        assert_eq!(orders, Orders { drained: false, moved }, "the first in line needs no order");
        assert!(texts[0].ends_with("is to be at box-b: run the same command there"), "{texts:?}");
        let error = apply(&identity(), Orders::default(), &to(3, "box-x")).unwrap_err();
        assert_eq!(error.to_string(), "this box knows no member box-x of group edge; it knows box-a, box-b");
    }

    #[tokio::test]
    async fn a_folder_of_no_group_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let error = give(folder.path().to_owned(), Order::Undrain).await.unwrap_err();
        assert!(error.to_string().contains("--state-dir"), "{error}");
    }
}
