// SPDX-License-Identifier: Apache-2.0
//! The name of an agent in a Lease: that of its machine, and a number that is kept in the state
//! folder. So two agents of one machine differ, and an agent that starts again is the same one.

use std::path::Path;

use crate::statefile;

const FILE_NAME: &str = "identity";

/// The kernel gives another random id each time.
const RANDOM: &str = "/proc/sys/kernel/random/uuid";

/// The name of the agent with this state folder.
pub(in crate::status) fn identity(state_dir: &Path) -> String {
    let path = state_dir.join(FILE_NAME);
    let known: Option<String> = statefile::read_or_set_aside(&path);
    if let Some(known) = known.filter(|known| is_name(known)) {
        return known;
    }
    let made = new();
    if let Err(error) = statefile::write(&path, &made) {
        tracing::warn!(path = %path.display(), %error, "cannot keep this agent's name; after a restart it is another one for its group");
    }
    made
}

fn new() -> String {
    let machine = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let random = std::fs::read_to_string(RANDOM).unwrap_or_default();
    let number = random.split('-').next().unwrap_or_default().trim();
    let number = if number.is_empty() { std::process::id().to_string() } else { number.to_owned() };
    format!("{machine}_{number}")
}

fn is_name(text: &str) -> bool {
    const MOST_BYTES: usize = 253;
    !text.is_empty() && text.len() <= MOST_BYTES && !text.contains(char::is_whitespace)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_kept_and_unique() {
        let [one, other] = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let name = identity(one.path());
        assert!(is_name(&name), "{name}");
        assert_eq!(identity(one.path()), name);
        assert_ne!(identity(other.path()), name);
    }
}
