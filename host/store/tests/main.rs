//! Tests of the store, in one binary: behaviour of both stores, damage, kills, the codec.

mod codec;
mod damage;
mod fixture;
mod folder;
mod kill;
mod power;
mod shim;
mod suite;
mod vanish;
