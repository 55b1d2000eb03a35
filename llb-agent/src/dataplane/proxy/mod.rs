//! The proxy plane: accepted connections and UDP sessions, relayed in user space.
