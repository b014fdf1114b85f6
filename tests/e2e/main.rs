//! Black-box tests: the real program, the real broker, the real modules; processes are killed, files are compared.

mod bad;
mod broker;
mod cluster;
mod dump;
mod file;
mod guests;
mod network;
mod process;
mod proxy;
mod scene;
mod stage;
mod stream;
