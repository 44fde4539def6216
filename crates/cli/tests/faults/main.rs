//! Real inputs that once failed, each for its kind: other people's checkpoints, damaged and hostile files, pipes that
//! close, and several processes with one target.

mod checkpoints;
#[path = "../command/mod.rs"]
mod command;
mod device;
mod limits;
mod model;
mod output;
mod sets;
mod torch;
