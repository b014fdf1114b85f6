//! Seeded simulator that drives the production protocol.
