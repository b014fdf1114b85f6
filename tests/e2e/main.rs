//! Black-box tests: the real program, the real broker, the real modules; processes are killed, files are compared.

mod availability;
mod bad;
mod broker;
mod cluster;
mod doctor;
mod dump;
mod edges;
mod file;
mod gaps;
mod guests;
mod inputs;
mod kit;
mod network;
mod outputs;
mod poison;
mod private;
mod process;
mod proxy;
mod recount;
mod scene;
mod secrets;
mod several;
mod stage;
mod stream;
mod terminal;
mod tree;
