//! Real traffic in network namespaces. Everything here needs root; run it with
//! `cargo xtask test`.

mod self_test;
