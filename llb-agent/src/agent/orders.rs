// SPDX-License-Identifier: Apache-2.0
//! `llb-agent drain`, `undrain` and `move`: they write what is ordered to the state folder, from which the agent reads it
//! within a second. So an order needs no agent that runs, and outlives it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::sync::Notify;

use crate::addresses::{AddressTable, NetlinkAddresses};
use crate::config::{AddressTag, Order};
use crate::ownership::{LOOPBACK, Orders};
use crate::peers::{Identity, read_orders, read_placement, write_orders};

/// How long `drain --wait` waits.
const WAIT_LIMIT: Duration = Duration::from_secs(30);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(100);

/// Gives the order.
pub(super) async fn give(state_dir: PathBuf, order: Order) -> anyhow::Result<()> {
    let Some(identity) = Identity::read(&state_dir)? else {
        bail!(
            "no agent of a group has used the folder {}: name the agent's --state-dir, or make it a member with --group",
            state_dir.display()
        )
    };
    let before = read_orders(&state_dir)?;
    let (orders, text) = apply(&identity, before, &order)?;
    write_orders(&state_dir, &orders)?;
    println!("{text}");
    match order {
        Order::Drain { wait: true } => wait_until_nothing_is_here(&state_dir).await,
        _ => Ok(()),
    }
}

/// The new orders, and what the user is told.
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
            orders.moved.insert(*share, member.clone());
            match member == own {
                true => format!("{own} is to have share {share} from now on, as long as it is ready"),
                false => format!(
                    "{own} gives share {share} to {member}, if that is told so, too: run the same command on {member}"
                ),
            }
        }
    };
    Ok((orders, text))
}

async fn wait_until_nothing_is_here(state_dir: &Path) -> anyhow::Result<()> {
    let links = read_placement(state_dir)?.links;
    let mut addresses =
        NetlinkAddresses::new(links, AddressTag::Kernel, state_dir.to_owned(), Arc::<Notify>::default())?;
    let mut left = 0;
    let all = async {
        loop {
            let links = addresses.observe().await?;
            let vips = links.iter().flat_map(|link| &link.addresses).filter(|known| known.ours).count();
            left = addresses.markers().len();
            if left + vips == 0 {
                return anyhow::Ok(());
            }
            tokio::time::sleep(PAUSE).await;
        }
    };
    let ended = tokio::time::timeout(WAIT_LIMIT, all).await;
    ended.with_context(|| {
        format!(
            "{left} shares are still here after {WAIT_LIMIT:?} (`ip address show dev {LOOPBACK}`). Either no other box is ready \
             to take them (`llb-agent members` there), or no agent or no keepalived runs on this box. The order stays"
        )
    })?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        let members = ["box-a", "box-b"].map(str::to_owned).into();
        Identity { group: "edge".to_owned(), member: "box-a".to_owned(), members }
    }

    #[test]
    fn orders_are_independent_of_each_other() {
        let to = |share, member: &str| Order::Move { share, member: member.to_owned() };
        let all =
            [to(3, "box-b"), Order::Drain { wait: false }, to(4, "box-a"), to(3, "box-a"), Order::Undrain];
        let (mut orders, mut texts) = (Orders::default(), Vec::new());
        for order in all {
            let (next, text) = apply(&identity(), orders, &order).unwrap();
            (orders, _) = (next, texts.push(text));
        }
        let moved = [3, 4].map(|share| (share, "box-a".to_owned())).into();
        assert_eq!(orders, Orders { drained: false, moved });
        assert!(texts[0].ends_with("run the same command on box-b"), "{texts:?}");
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
