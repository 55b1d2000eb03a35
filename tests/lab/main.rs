//! Real traffic in network namespaces. Everything here needs root; run it with
//! `cargo xtask test`.

#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise, and so do its helper functions")]

mod self_test;
mod server_test;
