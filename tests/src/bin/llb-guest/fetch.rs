// SPDX-License-Identifier: Apache-2.0
//! A stand-in for curl in machines that are emulated, where the real one takes a second to start. It knows what the
//! demo and the lab's driver of the agent use: GET of a literal address, a time limit, a status as failure.
//!
//! A green run with it does not prove that curl gets on with llb: the tests outside of machines do.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// The name under which this program is curl.
pub(crate) const NAME: &str = "curl";

/// Without `--max-time`.
const USUAL_LIMIT: Duration = Duration::from_secs(60);

/// curl's status for an answer that is not 2xx.
const BAD_STATUS: u8 = 22;

/// curl's status for a connection that failed.
const NO_CONNECTION: u8 = 7;

/// Fetches the URL among the arguments, and prints the body.
pub(crate) fn run(arguments: &[String]) -> ExitCode {
    match fetch(arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(BAD_STATUS),
        Err(error) => {
            eprintln!("curl: {error:#}");
            ExitCode::from(NO_CONNECTION)
        }
    }
}

/// Whether the status is 2xx, or does not matter.
fn fetch(arguments: &[String]) -> Result<bool> {
    let after = arguments.iter().skip_while(|argument| *argument != "--max-time").nth(1);
    let limit = after.map_or(Ok(USUAL_LIMIT), |secs| secs.parse().map(Duration::from_secs))?;
    let url = arguments.iter().find_map(|argument| argument.strip_prefix("http://")).context("no URL")?;
    let (host, path) = url.split_once('/').unwrap_or((url, ""));
    let address: SocketAddr = host.parse().or_else(|_| format!("{host}:80").parse())?;
    let mut stream = TcpStream::connect_timeout(&address, limit).context("cannot connect")?;
    stream.set_read_timeout(Some(limit))?;
    write!(stream, "GET /{path} HTTP/1.0\r\nHost: {host}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).context("no whole answer")?;
    let Some((head, body)) = answer.split_once("\r\n\r\n") else { bail!("not HTTP: {answer:?}") };
    print!("{body}");
    let status = head.split(' ').nth(1).unwrap_or_default();
    let must_be_good = arguments.iter().any(|argument| argument.starts_with("--fail"));
    Ok(status.starts_with('2') || !must_be_good)
}
