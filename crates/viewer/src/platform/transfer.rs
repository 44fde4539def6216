//! Progress and errors of a download.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Progress of a download; copies share it.
#[derive(Clone, Debug, Default)]
pub struct Transfer(Arc<Counters>);

#[derive(Debug, Default)]
struct Counters {
    done: AtomicU64,
    /// 0 while it is unknown.
    total: AtomicU64,
    resumed_from: AtomicU64,
}

impl Transfer {
    /// Bytes that are here.
    pub fn done(&self) -> u64 {
        self.0.done.load(Relaxed)
    }

    /// Total bytes, if the server reports them.
    pub fn total(&self) -> Option<u64> {
        Some(self.0.total.load(Relaxed)).filter(|&total| total > 0)
    }

    /// Bytes that were here already when the transfer began, kept from one that was interrupted.
    pub fn resumed_from(&self) -> u64 {
        self.0.resumed_from.load(Relaxed)
    }

    /// Notes that more bytes have arrived.
    pub fn add(&self, bytes: u64) {
        self.0.done.fetch_add(bytes, Relaxed);
    }

    /// Notes how many bytes there will be.
    pub fn set_total(&self, bytes: u64) {
        self.0.total.store(bytes, Relaxed);
    }

    /// Starts the count at what is here already.
    pub fn resume_from(&self, bytes: u64) {
        self.0.resumed_from.store(bytes, Relaxed);
        self.0.done.store(bytes, Relaxed);
    }
}

/// Errors of a transfer. Messages say what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    /// The operating system could not read the file.
    #[error("cannot read {location}: {reason}")]
    Unreadable {
        /// The path.
        location: String,
        /// The system's reason.
        reason: String,
    },
    /// A program without a browser around it loads files only.
    #[error("{0} is a URL. Download the file first, then open it from disk")]
    Address(String),
    /// There was no response.
    #[error(
        "{location} did not answer ({reason}). Check the address and the connection; other \
         sites must also allow this page to read the file (CORS)"
    )]
    Unreachable {
        /// The address.
        location: String,
        /// The browser's reason.
        reason: String,
    },
    /// The server answered with something else than the file.
    #[error("{location} answered with status {status}. Check the address")]
    Refused {
        /// The address.
        location: String,
        /// HTTP status.
        status: u16,
    },
    /// There is no memory for it.
    #[error("{location} has {bytes} bytes, more than this page has memory for")]
    TooLarge {
        /// The address.
        location: String,
        /// Bytes of the file, as the server says.
        bytes: u64,
    },
    /// The transfer broke off, more than once in a row.
    #[error(
        "the download of {location} stopped after {done} bytes ({reason}). Load it again to \
            resume"
    )]
    Interrupted {
        /// The address.
        location: String,
        /// Bytes that are here.
        done: u64,
        /// The browser's reason.
        reason: String,
    },
    /// The bytes are not those that were promised.
    #[error("{location} is corrupt: its checksum is wrong. Load it again")]
    Damaged {
        /// The address.
        location: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_count_together() {
        let transfer = Transfer::default();
        let copy = transfer.clone();
        assert_eq!(transfer.total(), None);
        copy.resume_from(10);
        copy.add(5);
        copy.set_total(20);
        assert_eq!(
            (transfer.done(), transfer.resumed_from(), transfer.total()),
            (15, 10, Some(20))
        );
    }
}
