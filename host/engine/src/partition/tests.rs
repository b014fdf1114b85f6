//! The protocol without the simulator: the recovery table, row by row.
