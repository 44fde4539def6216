//! Faults of a device outside of our calls, and error scopes that separate our errors from those of
//! other users of the device.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use super::{Gpu, GpuError};

/// What an error scope caught; in browsers it is known only some time after the scope was closed.
type Caught = Pin<Box<dyn Future<Output = Option<GpuError>> + Send>>;

/// The first fault of a device, and pending results of error scopes.
#[derive(Default)]
pub(super) struct Faults {
    first: Mutex<Option<GpuError>>,
    pending: Mutex<Vec<Caught>>,
}

impl Faults {
    /// Keeps the first fault: later ones tend to follow from it. Only the loss of the device explains what it refused
    /// before anybody knew.
    pub(super) fn record(&self, error: GpuError) {
        let mut first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        match &*first {
            None | Some(GpuError::Refused(_)) if matches!(error, GpuError::Lost(_)) => {
                *first = Some(error);
            }
            None => *first = Some(error),
            Some(_) => {}
        }
    }

    /// The first fault.
    pub(super) fn first(&self) -> Option<GpuError> {
        self.settle();
        self.first.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes in the answers that have arrived.
    fn settle(&self) {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        pending.retain_mut(|caught| !self.has_arrived(caught));
    }

    fn has_arrived(&self, caught: &mut Caught) -> bool {
        // Nobody sleeps on these: they are asked again at the next opportunity.
        let Poll::Ready(error) = caught.as_mut().poll(&mut Context::from_waker(Waker::noop()))
        else {
            return false;
        };
        if let Some(error) = error {
            self.record(error);
        }
        true
    }

    fn expect(&self, mut caught: Caught) {
        if !self.has_arrived(&mut caught) {
            self.pending.lock().unwrap_or_else(PoisonError::into_inner).push(caught);
        }
    }
}

/// Open error scopes for everything that a device can refuse.
struct Scopes([wgpu::ErrorScopeGuard; 3]);

impl Scopes {
    fn open(device: &wgpu::Device) -> Self {
        use wgpu::ErrorFilter::{Internal, OutOfMemory, Validation};
        Self([OutOfMemory, Internal, Validation].map(|filter| device.push_error_scope(filter)))
    }

    /// Closes the scopes now; only the answer takes time.
    fn close(self) -> impl Future<Output = Option<GpuError>> + Send + 'static {
        let [memory, internal, validation] = self.0;
        // The last one that was opened is the first to close.
        let validation = validation.pop();
        let internal = internal.pop();
        let memory = memory.pop();
        async move {
            let errors = [validation.await, internal.await, memory.await];
            errors.into_iter().flatten().next().map(GpuError::from)
        }
    }
}

impl From<wgpu::Error> for GpuError {
    fn from(error: wgpu::Error) -> Self {
        Self::Refused(match error {
            wgpu::Error::OutOfMemory { .. } => "it is out of memory".into(),
            error => error.to_string(),
        })
    }
}

/// Error scopes around the calls that are made while it lives; see [`Gpu::watch`].
#[must_use = "errors are caught only while it lives"]
pub struct Watch {
    scopes: Option<Scopes>,
    faults: Arc<Faults>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(scopes) = self.scopes.take() {
            self.faults.expect(Box::pin(scopes.close()));
        }
    }
}

impl Gpu {
    /// Catches what the device refuses until the result is dropped, for [`Gpu::failure`]. On a device that belongs to
    /// a host, this keeps our errors from the host's handlers; on a device of our own it does nothing, because there
    /// every error is ours. Not to be held across an `await`.
    pub fn watch(&self) -> Watch {
        let scopes = self.is_hosted.then(|| Scopes::open(&self.device));
        Watch { scopes, faults: self.faults.clone() }
    }

    /// Runs something that may exceed the resources of the device. Failures are returned: neither the
    /// device nor its owner's error handlers see them.
    ///
    /// The scopes are open only while `work` runs, not while it waits, so other users of the device may have scopes of
    /// their own in between.
    ///
    /// # Errors
    /// The first refusal. What was made is not to be used then.
    pub async fn error_scope<T>(&self, work: impl Future<Output = T>) -> Result<T, GpuError> {
        let mut work = pin!(work);
        let mut caught = Vec::new();
        let made = poll_fn(|context| {
            let scopes = Scopes::open(&self.device);
            let polled = work.as_mut().poll(context);
            caught.push(scopes.close());
            polled
        })
        .await;
        let mut refusal = None;
        for answer in caught {
            refusal = refusal.or(answer.await);
        }
        refusal.map_or(Ok(made), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_fault_is_kept_unless_the_device_is_lost() {
        let refused = |text: &str| GpuError::Refused(text.into());
        let faults = Faults::default();
        faults.record(refused("one"));
        faults.record(refused("two"));
        assert_eq!(faults.first().map(|e| e.to_string()), Some(refused("one").to_string()));
        // What a lost device refuses is reported before its loss.
        faults.record(GpuError::Lost("gone".into()));
        faults.record(GpuError::Lost("later".into()));
        faults.record(refused("three"));
        let lost = GpuError::Lost("gone".into()).to_string();
        assert_eq!(faults.first().map(|e| e.to_string()), Some(lost));
    }
}
