// SPDX-License-Identifier: Apache-2.0
//! docs/operations.md names all keys of the configuration file that need a restart.

use crate::documents::read;

#[test]
fn keys_that_need_a_restart_are_those_of_the_code() {
    let code = read("llb-agent/src/config/file/changes.rs");
    let list =
        code.split("AT_START: ").nth(1).unwrap().split("= [").nth(1).unwrap().split("];").next().unwrap();
    let operations = read("docs/operations.md");
    let told = operations.split("These keys count only after a restart").nth(1).unwrap();
    let told = told.split(". If one of them").next().unwrap();
    let keys: Vec<&str> = quoted(list, '"');
    assert!(keys.contains(&"linkdevice"), "{keys:?}");
    assert_eq!(quoted(told, '`'), keys);
}

/// What stands between two of these marks, in order.
fn quoted(text: &str, mark: char) -> Vec<&str> {
    text.split(mark).skip(1).step_by(2).collect()
}
