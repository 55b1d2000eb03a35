// SPDX-License-Identifier: Apache-2.0
//! Tags of addresses in a file, for kernels that cannot store them.

use std::fs;
use std::path::Path;

use llb_agent::addresses::{AddressTable, NetlinkAddresses};
use llb_agent::config::AddressTag;

use super::segment::{LINK, Segment, VIPS, add_foreign, ip, key, shown, tag};
use super::table::{add, observed, table};

fn file_table(state_dir: &Path) -> NetlinkAddresses {
    table(AddressTag::File, state_dir)
}

/// Writes the file that an agent would leave that has recorded all VIPs, in the boot `boot_id`.
fn write_records(state_dir: &Path, boot_id: &str) {
    let links: serde_json::Value = serde_json::from_str(&ip(&format!("-j link show dev {LINK}"))).unwrap();
    let index = &links[0]["ifindex"];
    let addresses = VIPS
        .map(|(vip, length)| format!(r#"{{"link":"{LINK}","index":{index},"net":"{vip}/{length}"}}"#))
        .join(",");
    let text = format!(r#"{{"boot_id":"{boot_id}","addresses":[{addresses}]}}"#);
    fs::write(state_dir.join("addresses.json"), text).unwrap();
}

fn this_boot() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap().trim().to_owned()
}

async fn add_foreign_ones() {
    for (vip, length) in VIPS {
        add_foreign(vip, length, None).await;
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn the_file_records_which_addresses_are_ours() {
    Segment::run(async |_| {
        let directory = tempfile::tempdir().unwrap();
        let recorded = || fs::read_to_string(directory.path().join("addresses.json")).unwrap();
        for (vip, length) in VIPS {
            add(&mut file_table(directory.path()), &key(vip), length).await.unwrap();
            assert_eq!(tag(vip).await, None, "the kernel has no tag");
            assert!(recorded().contains(&format!("{vip}/{length}")));

            let mut restarted = file_table(directory.path());
            assert!(observed(&mut restarted, vip).await.unwrap().ours);
            restarted.remove(&key(vip), length).await.unwrap();
            assert_eq!(shown(vip), None);
            assert!(!recorded().contains(vip));
        }
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn addresses_stay_ours_when_their_link_is_renamed_and_back() {
    Segment::run(async |_| {
        let directory = tempfile::tempdir().unwrap();
        let (vip, length) = VIPS[0];
        let mut table = file_table(directory.path());
        add(&mut table, &key(vip), length).await.unwrap();
        ip(&format!("link set {LINK} down"));
        ip(&format!("link set {LINK} name away0"));
        assert_eq!(observed(&mut table, vip).await, None);
        // Another link with that name, and the same address added by somebody else.
        ip(&format!("link add {LINK} type veth peer name other0"));
        add_foreign(vip, length, None).await;
        assert!(!observed(&mut table, vip).await.unwrap().ours);
        ip(&format!("link del {LINK}"));
        ip(&format!("link set away0 name {LINK}"));
        ip(&format!("link set {LINK} up"));
        for table in [&mut table, &mut file_table(directory.path())] {
            assert!(observed(table, vip).await.unwrap().ours);
        }
        table.remove(&key(vip), length).await.unwrap();
        assert_eq!(shown(vip), None);
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn addresses_stay_ours_after_a_change_of_the_tag() {
    Segment::run(async |_| {
        let directory = tempfile::tempdir().unwrap();
        let both = [AddressTag::Kernel, AddressTag::File];
        for (before, after) in [(both[0], both[1]), (both[1], both[0])] {
            for (vip, length) in VIPS {
                add(&mut table(before, directory.path()), &key(vip), length).await.unwrap();
                let mut table = table(after, directory.path());
                assert!(observed(&mut table, vip).await.unwrap().ours);
                table.remove(&key(vip), length).await.unwrap();
                assert_eq!(shown(vip), None);
            }
        }
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn an_address_that_was_only_recorded_before_a_crash_is_added() {
    Segment::run(async |_| {
        let directory = tempfile::tempdir().unwrap();
        write_records(directory.path(), &this_boot());
        for (vip, length) in VIPS {
            let mut table = file_table(directory.path());
            add(&mut table, &key(vip), length).await.unwrap();
            assert!(observed(&mut table, vip).await.unwrap().ours);
        }
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_record_without_an_address_claims_no_later_address() {
    Segment::run(async |_| {
        let directory = tempfile::tempdir().unwrap();
        write_records(directory.path(), &this_boot());
        file_table(directory.path()).observe().await.unwrap();
        add_foreign_ones().await;
        assert_foreign(directory.path()).await;
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn records_of_another_boot_claim_nothing() {
    Segment::run(async |_| {
        let directory = tempfile::tempdir().unwrap();
        write_records(directory.path(), "00000000-0000-0000-0000-000000000000");
        add_foreign_ones().await;
        assert_foreign(directory.path()).await;
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_corrupt_file_claims_nothing() {
    Segment::run(async |_| {
        let directory = tempfile::tempdir().unwrap();
        write_records(directory.path(), &this_boot());
        let path = directory.path().join("addresses.json");
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, &text[..text.len() - 1]).unwrap();
        add_foreign_ones().await;
        assert_foreign(directory.path()).await;
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn an_address_that_cannot_be_recorded_is_not_added() {
    Segment::run(async |_| {
        let (vip, length) = VIPS[0];
        let error = add(&mut file_table(Path::new("/proc/llb")), &key(vip), length).await.unwrap_err();
        assert!(error.to_string().contains("/proc/llb/addresses.json"), "{error}");
        assert_eq!(shown(vip), None);
    });
}

/// Checks that llb takes the VIPs that are there for foreign ones and leaves them alone.
async fn assert_foreign(state_dir: &Path) {
    let mut table = file_table(state_dir);
    for (vip, length) in VIPS {
        assert!(!observed(&mut table, vip).await.unwrap().ours);
        add(&mut table, &key(vip), length).await.unwrap();
        table.remove(&key(vip), length).await.unwrap();
        assert!(shown(vip).is_some());
        assert!(!observed(&mut table, vip).await.unwrap().ours);
    }
}
