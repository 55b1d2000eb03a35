// SPDX-License-Identifier: Apache-2.0
//! An error as one line: its own text, then the text of each cause. The one
//! place that puts such a line together.

use std::error::Error;
use std::fmt;

/// Shows an error with all of its causes: `cannot read a.yaml: permission denied`.
#[derive(Debug)]
pub struct ErrorChain<'a>(pub &'a dyn Error);

impl fmt::Display for ErrorChain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = self.0.to_string();
        f.write_str(&shown)?;
        let mut next = self.0.source();
        while let Some(cause) = next {
            let text = cause.to_string();
            // An error that already prints its cause would print it twice.
            if !shown.contains(&text) {
                write!(f, ": {text}")?;
                shown = text;
            }
            next = cause.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot read {0}")]
    struct Quiet(&'static str, #[source] io::Error);

    #[derive(Debug, thiserror::Error)]
    #[error("cannot read {0}: {1}")]
    struct Loud(&'static str, #[source] io::Error);

    #[test]
    fn each_cause_is_shown_once() {
        let cause = || io::Error::other("no such disk");
        assert_eq!(ErrorChain(&Quiet("a", cause())).to_string(), "cannot read a: no such disk");
        assert_eq!(ErrorChain(&Loud("a", cause())).to_string(), "cannot read a: no such disk");
        assert_eq!(ErrorChain(&cause()).to_string(), "no such disk");
        let twice = Quiet("a", io::Error::other(Loud("b", cause())));
        assert_eq!(ErrorChain(&twice).to_string(), "cannot read a: cannot read b: no such disk");
    }
}
