//! The checksum by which saved settings and links name a model's file.

use diffmoe::checkpoint::Checkpoint;
use diffmoe::pipeline::Recipe;
use sha2::{Digest, Sha256};

/// First digits of the SHA-256 of a model's file, or of the sums of its files one after the other.
pub(super) fn short_hash(checkpoint: &Checkpoint) -> String {
    let sums: Vec<[u8; 32]> = checkpoint.files().map(|file| Sha256::digest(file).into()).collect();
    Recipe::short_hash(match sums.as_slice() {
        [sum] => *sum,
        sums => Sha256::digest(sums.as_flattened()).into(),
    })
}
