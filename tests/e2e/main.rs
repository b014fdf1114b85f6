//! Black-box tests: the real program, the real broker, the real modules; processes are killed, files are compared.

mod bad;
mod broker;
mod dump;
mod file;
mod guests;
mod process;
mod scene;
mod stream;
