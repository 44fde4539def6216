//! The GPU engine: its numbers against the official PyTorch modules, and its promises.

#![allow(clippy::unwrap_used, reason = "tests panic when something is wrong")]

mod case;
mod detail_head;
#[path = "../device/mod.rs"]
mod device;
mod joining;
mod parity;
mod promises;
mod published;
