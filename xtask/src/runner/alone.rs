// SPDX-License-Identifier: Apache-2.0
//! The tests that run after all others, one at a time, and why. A test belongs here if it reads or fills something of which
//! the whole machine has only one; a test that is slow, or busy for a moment, does not.

/// Parts of names, with the reason.
const ALONE: [(&str, &str); 1] = [(
    "a_soak_loses_no_byte_and_leaves_no_descriptor",
    "it compares the memory of all TCP sockets of the machine before and after",
)];

/// Why this test runs alone; `None` if it need not.
pub(super) fn reason(name: &str) -> Option<&'static str> {
    ALONE.into_iter().find(|(part, _)| name.contains(part)).map(|(_, reason)| reason)
}

#[cfg(test)]
mod tests {
    use super::{ALONE, reason};

    #[test]
    fn each_name_is_one_of_a_test() {
        let scenarios = include_str!("../../../tests/lab/planes.rs");
        for (name, _) in ALONE {
            assert!(scenarios.contains(name), "no test is called {name}");
        }
        assert!(reason("planes::tc::a_soak_loses_no_byte_and_leaves_no_descriptor").is_some());
        assert!(reason("planes::tc::a_flushed_vip_is_put_back").is_none());
    }
}
