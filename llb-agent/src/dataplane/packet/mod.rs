//! The packet plane (XDP and TC).
