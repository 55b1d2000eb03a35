// SPDX-License-Identifier: Apache-2.0
//! What `cargo xtask dist` ships, looked at with the tools of those who install it. All of it needs root and the shipped
//! files: run it with `cargo xtask test --only dist`. How a package is installed, upgraded and removed on a machine with
//! systemd is in tests/kernels/package/.

#![expect(clippy::unwrap_used, reason = "a failed step fails the test, also in functions that tests share")]

mod archive;
mod authority;
mod binary;
mod deb;
mod image;
mod pages;
mod rpm;
mod sbom;
mod serve;
mod shipped;
