//! One panel a file; each shows a part of the app's state and changes it.

pub(super) mod controls;
pub(super) mod gallery;
pub(super) mod header;
pub(super) mod help;
pub(super) mod history;
pub(super) mod init;
pub(super) mod model;
pub(super) mod notes;
pub(super) mod recorded;
pub(super) mod routing;
pub(super) mod stage;
pub(super) mod sweep;
pub(super) mod timings;
pub(super) mod transport;
