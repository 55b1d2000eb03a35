//! The data planes that the scenarios run on. Which flags choose one is known
//! only here.

/// A way of forwarding.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Plane {
    /// Bytes are copied in user space.
    Userspace,
    /// The kernel moves bytes from socket to socket, from the first one on.
    Sockmap,
}

impl Plane {
    /// The agent's arguments that force this plane.
    pub(crate) fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Userspace => &["--userspace"],
            Self::Sockmap => &["--datapath=sockmap", "--sockmap-after-reads=0"],
        }
    }
}
