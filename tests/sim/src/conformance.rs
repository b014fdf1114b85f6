//! One suite for the double of the log and for a real server.
