//! The data planes that the scenarios run on. Which flags choose one is known
//! only here.

/// A way of forwarding.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Plane {
    /// Bytes are copied in user space.
    Userspace,
    /// Packets are rewritten at TC.
    Tc,
}

impl Plane {
    /// The agent's arguments that force this plane.
    pub(crate) fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Userspace => &["--userspace"],
            Self::Tc => &["--datapath", "tc", "--at-stop", "remove"],
        }
    }
}
